/* cuda_check_lut.c - checks of the table-lookup products (kern/cuda/lut_matmul.h) against float64
   sums over the exact operands: widths, groups, zero points, types, token counts around every tile,
   odd shapes, one-hot inputs bit for bit, repeats bit for bit, planted faults. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "kern/cuda/lut_matmul.h"

typedef struct {
    int64_t n, k, group; /* group 0: the whole row */
    int bits, zeros, bf16;
    int64_t m, pad_x, pad_y; /* elements between rows beyond k and n */
    int one_hot;             /* scales and table exact, a one per row of x: results must be too */
    int64_t rows;            /* compare about so many rows of w; 0: all */
    int even;                /* the table has steps of one size: what arithmetic needs */
    int way;                 /* 1 + lu_cuda_way; 0: as packing chose */
} lut_case;

/* Host and device operands of a case. */
typedef struct {
    lut_case c;
    int64_t groups, row_bytes, ldx, ldy;
    uint8_t *codes, *zeros;
    uint16_t *scales, *x, *bias;
    float table[256];
    lu_cuda_lut lut;
    void *block, *y;
    size_t block_bytes;
    const void *d_x, *d_bias;
    void *scratch;
} operands;

static lu_cuda_device device_of(cc *t)
{
    lu_cuda_device d = {0};
    cc_status(t, lu_cuda_device_get(0, &d));
    return d;
}

/* One for all cases: products must leave it as the next one needs it. */
static void *scratch_of(cc *t)
{
    static void *scratch;
    const lu_cuda_device dev = device_of(t);
    const size_t bytes = lu_cuda_lut_scratch(&dev);
    if (!scratch && bytes) {
        cc_status(t, cudaMalloc(&scratch, bytes));
        cc_status(t, cudaMemset(scratch, 0, bytes));
    }
    return scratch;
}

static int code_at(const operands *o, int64_t row, int64_t col)
{
    const int64_t bit = col * o->c.bits;
    const uint8_t *codes = o->codes + row * o->row_bytes;
    unsigned v = codes[bit >> 3];
    if ((bit & 7) + o->c.bits > 8)
        v |= (unsigned)codes[(bit >> 3) + 1] << 8;
    return (int)(v >> (bit & 7) & ((1u << o->c.bits) - 1));
}

static void fill_x(cc *t, operands *o)
{
    const lut_case *c = &o->c;
    const uint16_t nan = 0x7fff, one = cc_to_act(1, c->bf16);
    o->x = cc_host((size_t)(c->m * o->ldx) * 2 + 2);
    uint16_t *values = cc_random_act(t, c->m * c->k, 1, c->bf16);
    for (int64_t i = 0; i < c->m * o->ldx; i++)
        o->x[i] = i % o->ldx >= c->k ? nan
                  : c->one_hot       ? 0
                                     : values[i / o->ldx * c->k + i % o->ldx];
    for (int64_t i = 0; i < c->m && c->one_hot; i++)
        o->x[i * o->ldx + cc_pick(t, 0, c->k - 1)] = one;
    free(values);
}

/* Names the case and packs its matrix. */
static void open_case(cc *t, operands *o, const lut_case *c)
{
    memset(o, 0, sizeof *o);
    o->c = *c;
    if (!o->c.group)
        o->c.group = c->k;
    cc_case(
        t,
        "n %lld k %lld bits %d group %lld zeros %d bf16 %d m %lld pads %lld %lld one-hot %d way %d",
        (long long)c->n, (long long)c->k, c->bits, (long long)o->c.group, c->zeros, c->bf16,
        (long long)c->m, (long long)c->pad_x, (long long)c->pad_y, c->one_hot, c->way);
    o->groups = c->k / o->c.group;
    o->row_bytes = (c->k * c->bits + 7) / 8;
    o->ldx = c->k + c->pad_x;
    o->ldy = c->n + c->pad_y;
    const int64_t code_bytes = c->n * o->row_bytes, n_scales = c->n * o->groups;
    o->codes = cc_host((size_t)code_bytes + 8);
    for (int64_t i = 0; i < code_bytes; i += 8) {
        const uint64_t v = lu_random_next(&t->random);
        memcpy(o->codes + i, &v, 8);
    }
    if (c->k * c->bits % 8) /* padding bits are zero */
        for (int64_t r = 0; r < c->n; r++)
            o->codes[(r + 1) * o->row_bytes - 1] &= (uint8_t)((1 << (c->k * c->bits % 8)) - 1);
    o->scales = cc_host((size_t)n_scales * 2);
    for (int64_t i = 0; i < n_scales; i++)
        o->scales[i] = cc_to_act(
            c->one_hot ? ldexpf(1, (int)cc_pick(t, -2, 2)) : (float)cc_uniform(t, 0.02, 0.07), 0);
    if (c->zeros) {
        o->zeros = cc_host((size_t)n_scales);
        for (int64_t i = 0; i < n_scales; i++)
            o->zeros[i] = (uint8_t)cc_pick(t, 0, (1 << c->bits) - 1);
    }
    const int half = 1 << (c->bits - 1);
    for (int i = 0; i < 2 * half; i++) /* in no order, as a user's may be */
        o->table[i] = c->even      ? (float)(i - half)
                      : c->one_hot ? (float)((i ^ 1) - half) / 64
                                   : (float)cc_uniform(t, -1, 1);
    fill_x(t, o);
    o->bias = c->one_hot ? NULL : cc_random_act(t, c->n, 1, c->bf16);
    const void *codes = cc_input(t, o->codes, (size_t)code_bytes),
               *scales = cc_input(t, o->scales, (size_t)n_scales * 2);
    const void *zeros = cc_input(t, o->zeros, (size_t)n_scales);
    o->d_x = cc_input(t, o->x, (size_t)(c->m * o->ldx) * 2);
    o->d_bias = cc_input(t, o->bias, (size_t)c->n * 2);
    o->y = cc_output(t, (size_t)(c->m * o->ldy) * 2);
    o->block_bytes = lu_cuda_lut_bytes(c->n, c->k, c->bits, o->c.group, c->zeros);
    o->block = cc_output(t, o->block_bytes);
    cc_status(t, lu_cuda_lut_pack(c->n, c->k, c->bits, o->c.group, codes, scales, zeros, o->table,
                                  c->bf16, o->block, &o->lut, NULL));
    if (c->way)
        cc_status(t, lu_cuda_lut_set_way(&o->lut, (lu_cuda_way)(c->way - 1)));
}

static void close_case(cc *t, operands *o)
{
    cc_end(t);
    free(o->codes);
    free(o->zeros);
    free(o->scales);
    free(o->x);
    free(o->bias);
}

static void multiply(cc *t, const operands *o, void *y, int overlap, cudaStream_t stream)
{
    const lu_cuda_device dev = device_of(t);
    const lu_cuda_lut_call call = {.m = o->c.m,
                                   .x = o->d_x,
                                   .ldx = o->ldx,
                                   .y = y,
                                   .ldy = o->ldy,
                                   .bias = o->d_bias,
                                   .overlap = overlap,
                                   .stream = stream,
                                   .scratch = o->scratch};
    cc_status(t, lu_cuda_lut_matmul(&dev, &o->lut, &call));
}

/* y against float64, and its gaps between rows still untouched. */
static void compare(cc *t, const operands *o)
{
    const lut_case *c = &o->c;
    const int64_t step = c->rows && c->rows < c->n ? c->n / c->rows : 1, tail = c->n - 20;
    uint16_t *y = cc_host((size_t)(c->m * o->ldy) * 2 + 2);
    float *x = cc_host((size_t)(c->m * c->k) * 4 + 4),
          *out = cc_host((size_t)(c->m * c->n) * 4 + 4);
    double *ref = cc_host((size_t)(c->m * c->n) * 8 + 8), *row = cc_host((size_t)c->k * 8);
    int64_t count = 0;
    cc_fetch(t, o->y, y, (size_t)(c->m * o->ldy) * 2);
    for (int64_t i = 0; i < c->m * c->k; i++)
        x[i] = cc_act_value(o->x[i / c->k * o->ldx + i % c->k], c->bf16);
    for (int64_t r = 0; r < c->n; r += r < tail && step > 1 ? step : 1) {
        for (int64_t k = 0; k < c->k; k++) {
            const int64_t g = r * o->groups + k / c->group;
            const double zero = c->zeros ? cc_act_value(cc_to_act(o->table[o->zeros[g]], 0), 0) : 0;
            row[k] =
                (double)cc_act_value(o->scales[g], 0) *
                ((double)cc_act_value(cc_to_act(o->table[code_at(o, r, k)], c->bf16), c->bf16) -
                 zero);
        }
        for (int64_t m = 0; m < c->m; m++, count++) {
            double sum = o->bias ? (double)cc_act_value(o->bias[r], c->bf16) : 0;
            for (int64_t k = 0; k < c->k; k++)
                sum += row[k] * (double)x[m * c->k + k];
            ref[count] = sum;
            out[count] = cc_act_value(y[m * o->ldy + r], c->bf16);
            if (c->one_hot && (double)out[count] != sum)
                cc_fail(t, "one-hot: token %lld row %lld is %.9g, expected %.9g", (long long)m,
                        (long long)r, (double)out[count], sum);
        }
    }
    if (count)
        cc_compare(t, "y", out, ref, count, c->bf16 ? 3e-3 : 5e-4, c->bf16 ? 2e-2 : 4e-3);
    for (int64_t i = 0; i < c->m * o->ldy; i++)
        if (i % o->ldy >= c->n && y[i] != 0xffff) {
            cc_fail(t, "wrote between rows of y, at %lld", (long long)i);
            break;
        }
    free(y);
    free(x);
    free(out);
    free(ref);
    free(row);
}

static void check_case(cc *t, lut_case c)
{
    operands o;
    open_case(t, &o, &c);
    for (int with = 0; with < (c.m > 16 ? 2 : 1); with++) {
        o.scratch = with ? scratch_of(t) : NULL;
        multiply(t, &o, o.y, 0, NULL);
        compare(t, &o);
        void *again = cc_output(t, (size_t)(c.m * o.ldy) * 2);
        for (int i = 0; i < 3; i++)
            multiply(t, &o, again, 1, NULL);
        cc_same_bits(t, "repeat", o.y, again, (size_t)(c.m * o.ldy) * 2);
    }
    close_case(t, &o);
}

/* The dense copy of all rows, made in two pieces: bit for bit. */
static void check_copy(cc *t, lut_case c, int fault)
{
    operands o;
    open_case(t, &o, &c);
    const size_t bytes = (size_t)(c.n * c.k) * 2;
    const int64_t cut = c.n / 32 * 16;
    uint16_t *out = cc_output(t, bytes), *host = cc_host(bytes);
    if (fault) {
        cc_status(t, cudaMemset(o.lut.scales, 0x31, 2));
        cc_plant(t);
    }
    cc_status(t, lu_cuda_lut_unpack(&o.lut, 0, cut, out, NULL));
    cc_status(t, lu_cuda_lut_unpack(&o.lut, cut, c.n - cut, out + cut * c.k, NULL));
    cc_fetch(t, out, host, bytes);
    for (int64_t i = 0, bad = 0; i < c.n * c.k && !bad; i++) {
        const int64_t g = i / c.k * o.groups + i % c.k / o.c.group;
        const float zero = c.zeros ? cc_act_value(cc_to_act(o.table[o.zeros[g]], 0), 0) : 0;
        const float value =
            cc_act_value(cc_to_act(o.table[code_at(&o, i / c.k, i % c.k)], c.bf16), c.bf16);
        const uint16_t expected = cc_to_act(cc_act_value(o.scales[g], 0) * (value - zero), c.bf16);
        bad = host[i] != expected;
        if (bad)
            cc_fail(t, "unpacked: row %lld column %lld is %04x, expected %04x",
                    (long long)(i / c.k), (long long)(i % c.k), host[i], expected);
    }
    if (fault)
        cc_planted(t, "a scale");
    free(host);
    close_case(t, &o);
}

static void check_copies(cc *t)
{
    static const int64_t shapes[][2] = {{1, 32},   {37, 64},    {64, 336},  {65, 128},
                                        {130, 96}, {257, 1024}, {33, 4128}, {300, 512}};
    static const int64_t groups[] = {32, 64, 128, 256, 0, 48, 7};
    for (int bits = 2; bits <= 8; bits++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
                for (int kind = 0; kind < 4; kind++)
                    if (!groups[g] || shapes[s][1] % groups[g] == 0)
                        check_copy(t,
                                   (lut_case){.n = shapes[s][0],
                                              .k = shapes[s][1],
                                              .group = groups[g],
                                              .bits = bits,
                                              .zeros = kind & 1,
                                              .bf16 = kind >> 1},
                                   0);
    check_copy(t, (lut_case){.n = 257, .k = 1024, .group = 128, .bits = 4}, 1);
}

static const int64_t token_counts[] = {1,  2,  3,  4,   5,   6,   7,   8,   9,   10,
                                       11, 12, 13, 14,  15,  16,  17,  31,  32,  33,
                                       63, 64, 65, 127, 128, 129, 255, 256, 257, 1000};
enum { COUNTS = sizeof token_counts / sizeof *token_counts };

static void check_formats(cc *t)
{
    static const int64_t shapes[][2] = {{1, 32},   {7, 64},     {64, 64},   {65, 128}, {127, 256},
                                        {130, 96}, {257, 1024}, {33, 4128}, {300, 512}};
    static const int64_t groups[] = {32, 64, 128, 256, 0, 48, 7};
    for (int bits = 2; bits <= 8; bits++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
                for (int kind = 0; kind < 4; kind++) {
                    if (groups[g] && shapes[s][1] % groups[g])
                        continue;
                    check_case(t, (lut_case){shapes[s][0], shapes[s][1], groups[g], bits, kind & 1,
                                             kind >> 1, token_counts[cc_pick(t, 0, 22)],
                                             cc_pick(t, 0, 1) * 8, cc_pick(t, 0, 1) * 3, 0, 0});
                }
}

static void check_tokens(cc *t)
{
    for (int i = 0; i < COUNTS; i++)
        for (int bits = 2; bits <= 8; bits += bits < 4 ? 1 : 4)
            for (int bf16 = 0; bf16 < 2; bf16++)
                check_case(t, (lut_case){77, 640, i & 1 ? 64 : 128, bits, (i + bits) % 4 == 0, bf16,
                                         token_counts[i], 0, 0, 0, 0});
    for (int bits = 2; bits <= 4; bits++) /* no rows at all: nothing is launched or written */
        check_case(t, (lut_case){64, 128, 64, bits, 0, 0, 0, 0, 0, 0, 0});
}

static void check_one_hot(cc *t)
{
    for (int i = 0; i < COUNTS; i++)
        for (int bits = 2; bits <= 8; bits++)
            check_case(t, (lut_case){129, 384,
                                     i % 3 == 0   ? 0
                                     : i % 3 == 1 ? 128
                                                  : 64,
                                     bits, i & 1, i >> 1 & 1, token_counts[i], 0, 0, 1, 0});
}

/* k off a multiple of 8, rows of x off 16 bytes, groups that the packed layout cannot hold */
static void check_awkward(cc *t)
{
    static const int64_t ms[] = {1, 5, 16, 33, 65};
    for (int bits = 2; bits <= 8; bits++)
        for (int i = 0; i < 5; i++) {
            check_case(t, (lut_case){48, 100, 0, bits, 0, i & 1, ms[i], 0, 0, 0, 0});
            check_case(t, (lut_case){49, 331, 0, bits, 1, 0, ms[i], 1, 1, 0, 0});
            check_case(t, (lut_case){129, 384, 128, bits, 1, 1, ms[i], 3, 5, 1, 0});
            check_case(t, (lut_case){50, 336, 48, bits, 0, 0, ms[i], 0, 0, 0, 0});
            check_case(t, (lut_case){50, 336, 7, bits, 1, 1, ms[i], 0, 0, 0, 0});
        }
}

static void check_layers(cc *t)
{
    static const int64_t shapes[][2] = {
        {4096, 4096}, {3072, 3072}, {5000, 4992}, {512, 14336}, {28672, 4096}};
    static const int64_t ms[] = {1, 8, 16, 33, 130};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int bits = 2; bits <= 4; bits++)
            for (int i = 0; i < 5; i++)
                check_case(t, (lut_case){shapes[s][0], shapes[s][1], i & 1 ? 64 : 128, bits, 0,
                                         i & 1, ms[i], 0, 0, 0, 60});
}

static int knows(int way, int bits, int bf16)
{
    return way == LU_CUDA_TABLE || !(bf16 && bits == 8);
}

/* Every way from codes to weights: one-hot inputs show each weight, random ones the sums. Groups of
   32 and zero points go through the general kernel, many strips through several passes. */
static void check_ways(cc *t)
{
    static const int64_t groups[] = {0, 128, 64, 32}, ms[] = {1, 2, 3, 5, 8, 9, 16, 17, 32, 33};
    for (int way = 0; way < LU_CUDA_WAYS; way++)
        for (int bits = 2; bits <= 8; bits++) {
            lut_case c = {.bits = bits, .even = way == LU_CUDA_ARITHMETIC, .way = 1 + way};
            for (int i = 0; i < 80 && knows(way, bits, 0); i++) {
                const int tall = (int)cc_pick(t, 0, 1);
                c.n = tall ? 2131 : 129;
                c.k = tall ? 640 : 2304;
                c.group = groups[i / 10 % 4];
                c.m = ms[i % 10];
                c.zeros = cc_pick(t, 0, 5) == 0;
                c.bf16 = (int)cc_pick(t, 0, knows(way, bits, 1));
                c.one_hot = (int)cc_pick(t, 0, 1);
                c.rows = 40;
                check_case(t, c);
            }
            for (int i = 0; i < 2 && bits <= 4 && way != LU_CUDA_TABLE && knows(way, bits, 0); i++)
                check_case(t, (lut_case){.n = 57344,
                                         .k = 1024,
                                         .group = 128,
                                         .bits = bits,
                                         .m = i ? 32 : 1,
                                         .rows = 60,
                                         .even = c.even,
                                         .way = c.way});
        }
}

/* A way that does not know a table says so and changes nothing. */
static void check_ways_refused(cc *t)
{
    for (int bits = 4; bits <= 8; bits += 4) {
        operands o;
        open_case(t, &o, &(lut_case){64, 256, 128, bits, 0, 0, 1, 0, 0, 0, 0, 0, 0});
        for (int way = LU_CUDA_ARITHMETIC; way <= LU_CUDA_WAYS; way++)
            if (lu_cuda_lut_set_way(&o.lut, (lu_cuda_way)way) != LU_CUDA_E_SHAPE)
                cc_fail(t, "way %d took a table of %d bits that it does not know", way, bits);
        multiply(t, &o, o.y, 0, NULL);
        compare(t, &o);
        close_case(t, &o);
    }
}

/* 1000 launches, some overlapping, some in a graph: the same bits. */
static void check_repeats(cc *t)
{
    static const int64_t ms[] = {1, 8, 16, 33, 64, 130};
    for (int bits = 2; bits <= 4; bits++)
        for (int i = 0; i < 6; i++) {
            operands o;
            cudaStream_t stream;
            cudaGraph_t graph;
            cudaGraphExec_t exec;
            open_case(t, &o,
                      &(lut_case){2500, 3328, i & 1 ? 0 : 128, bits, 0, i & 1, ms[i], 0, 0, 0, 40});
            o.scratch = scratch_of(t);
            multiply(t, &o, o.y, 0, NULL);
            compare(t, &o);
            void *again = cc_output(t, (size_t)(o.c.m * o.ldy) * 2);
            cc_status(t, cudaStreamCreate(&stream));
            for (int k = 0; k < 500; k++)
                multiply(t, &o, again, 1, stream);
            cc_status(t, cudaStreamSynchronize(stream));
            cc_same_bits(t, "500 launches", o.y, again, (size_t)(o.c.m * o.ldy) * 2);
            cc_status(t, cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
            for (int k = 0; k < 50; k++)
                multiply(t, &o, again, 1, stream);
            cc_status(t, cudaStreamEndCapture(stream, &graph));
            cc_status(t, cudaGraphInstantiate(&exec, graph, 0));
            for (int k = 0; k < 10; k++)
                cc_status(t, cudaGraphLaunch(exec, stream));
            cc_status(t, cudaStreamSynchronize(stream));
            cc_same_bits(t, "500 launches in a graph", o.y, again, (size_t)(o.c.m * o.ldy) * 2);
            cudaGraphExecDestroy(exec);
            cudaGraphDestroy(graph);
            cudaStreamDestroy(stream);
            close_case(t, &o);
        }
}

/* Of the table, in size: a small one may be spoiled unseen. */
static int largest_value(const operands *o)
{
    int at = 0;
    for (int i = 1; i < 1 << o->c.bits; i++)
        if (fabsf(o->table[i]) > fabsf(o->table[at]))
            at = i;
    return at;
}

/* A spoiled code word, scale, table value or bias must be noticed. */
static void check_faults(cc *t)
{
    static const char *const names[] = {"a code", "a scale", "a table value", "no bias"};
    static const int64_t ms[] = {1, 16, 33, 130};
    for (int fault = 0; fault < 4; fault++)
        for (int i = 0; i < 4; i++) {
            operands o;
            open_case(t, &o, &(lut_case){257, 1024, 128, 4, 0, 0, ms[i], 0, 0, 0, 0});
            if (fault == 0)
                cc_status(t, cudaMemset((char *)o.lut.words + 1000, 0x5a, 16));
            else if (fault == 1)
                cc_status(t, cudaMemset(o.lut.scales + 100, 0x31, 2));
            else if (fault == 2)
                o.lut.table[largest_value(&o)] ^= 0x40;
            else
                o.d_bias = NULL;
            cc_plant(t);
            multiply(t, &o, o.y, 0, NULL);
            compare(t, &o);
            cc_planted(t, names[fault]);
            close_case(t, &o);
        }
}

const cc_op cc_lut_ops[] = {
    {"lut formats", check_formats},
    {"lut tokens", check_tokens},
    {"lut one-hot", check_one_hot},
    {"lut awkward", check_awkward},
    {"lut layers", check_layers},
    {"lut repeats", check_repeats},
    {"lut faults", check_faults},
    {"lut unpack", check_copies},
    {"lut ways", check_ways},
    {"lut ways refused", check_ways_refused},
    {NULL, NULL},
};

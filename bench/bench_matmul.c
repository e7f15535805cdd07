/* bench_matmul.c - the matrix products of a Llama-3.2-1B-shaped model by themselves: 16 layers of
   distinct packed weights (0.5 GB at 4 bits: one row of x reads them cold), in the four loops a
   layer of the engine has (q|k|v, o, gate|up, down), against the read and multiply-add roofs
   measured in the same run. Markdown, or one JSON object a line.
   usage: bench_matmul [--format 8|4|3|2|bf16] [--m N] [--threads N] [--act bf16|f32|int8] [--cpu
   LEVEL]
                       [--group N] [--layers N] [--seconds S] [--roof-gb N] [--json]
   --act int8: rows of 8-bit codes and integer weights (4 and 8 bits; bf16 is left out); --group 0:
   a scale per row of weights. --format, --m and --threads narrow the run to one value; --seconds
   (default 0.6) is spent on each figure. Above --m 8 fewer layers are run, and times scaled to 16:
   caches play no part there. */
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "kern/linear.h"
#include "measure.h"
#include "tensor/convert.h"

enum { MODEL_LAYERS = 16, PRODUCTS = 7, LOOPS = 4, MAX_M = 4096, CHUNKS = 8 };

typedef struct {
    const char *name;
    int64_t n, k;
    int loop; /* products of one loop share their input and are cut together */
} product;

static const product products[PRODUCTS] = {
    {"q", 2048, 2048, 0},    {"k", 512, 2048, 0},   {"v", 512, 2048, 0},     {"o", 2048, 2048, 1},
    {"gate", 8192, 2048, 2}, {"up", 8192, 2048, 2}, {"down", 2048, 8192, 3},
};

typedef struct {
    int bits, threads;        /* -1: all of them; bits 0: dense bf16 */
    int64_t m, layers, group; /* group 0: the whole row */
    lutra_dtype act;
    lu_level level;
    double seconds, roof_gb;
    bool json;
} options;

typedef struct {
    lu_linear linears[MODEL_LAYERS][PRODUCTS];
    int64_t layers;
    double bytes, weights; /* of one layer */
} model;

static lutra_err err;

static void fail(const char *text)
{
    fprintf(stderr, "error: %s\n", text);
    exit(1);
}

static void *need(void *p)
{
    if (!p)
        fail("out of memory");
    return p;
}

/* --- weights ---------------------------------------------------------------------------------- */

static void fill_random(void *out, size_t bytes)
{
    uint64_t x = 88172645463325252u;
    uint8_t *p = out;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
}

/* Random codes, or random bf16 of size 0.5..2; scales 2^-7. */
static lu_weight make_weight(const product *p, int bits, const options *o)
{
    const size_t count = (size_t)(p->n * p->k), bytes = count * (size_t)(bits ? bits : 16) / 8;
    lu_weight w = {
        .n = p->n, .k = p->k, .dtype = bits ? LUTRA_DTYPE_NONE : LUTRA_BF16, .bits = bits};
    uint16_t *data = need(lu_alloc(bytes));
    fill_random(data, bytes);
    w.data = data;
    if (!bits) {
        for (size_t i = 0; i < count; i++)
            data[i] = (uint16_t)((data[i] & 0x80ff) | 0x3f00);
        return w;
    }
    const size_t n_scales = count / (size_t)(o->group ? o->group : p->k);
    uint16_t *scales = need(lu_array(n_scales, sizeof *scales));
    for (size_t i = 0; i < n_scales; i++)
        scales[i] = 0x2000;
    w.group_size = o->group;
    w.scales = scales;
    w.scale_dtype = LUTRA_F16;
    for (int i = 0; i < 1 << bits; i++)
        w.table[i] = o->act == LUTRA_U8
                         ? (float)(i - (1 << bits) / 2)
                         : ((float)i - (float)(1 << bits) / 2 + 0.4f) / (float)(1 << bits);
    return w;
}

static void free_model(model *m)
{
    for (int64_t i = 0; i < m->layers; i++)
        for (int p = 0; p < PRODUCTS; p++)
            lu_free_aligned(m->linears[i][p].packed);
    lu_free(m);
}

/* The layers hold equal numbers in different memory. */
static model *make_model(int bits, const options *o)
{
    model *m = need(lu_calloc(1, sizeof *m));
    m->layers = o->layers;
    for (int p = 0; p < PRODUCTS; p++) {
        const lu_weight w = make_weight(&products[p], bits, o);
        lu_linear l;
        if (lu_linear_plan(&w, o->act, o->level, &l, &err) != LUTRA_OK)
            fail(err.msg);
        for (int64_t i = 0; i < m->layers; i++) {
            m->linears[i][p] = l;
            m->linears[i][p].packed = need(lu_alloc_aligned(l.packed_bytes));
            if (i == 0)
                lu_linear_pack(&m->linears[0][p], &w, 0, l.n_units);
            else
                memcpy(m->linears[i][p].packed, m->linears[0][p].packed, l.packed_bytes);
        }
        m->bytes += (double)l.packed_bytes;
        m->weights += (double)(w.n * w.k);
        lu_free((void *)w.data);
        lu_free((void *)w.scales);
    }
    return m;
}

/* --- running ---------------------------------------------------------------------------------- */

typedef struct {
    const lu_linear *linears; /* of one layer */
    int first, last;          /* products of the loop */
    int64_t m;
    const void *x;
    float *y;
    uint8_t *scratch;
    size_t scratch_step;
} loop_job;

static void run_units(void *arg, int64_t begin, int64_t end, int worker)
{
    const loop_job *job = arg;
    int64_t first = 0;
    float *y = job->y;
    for (int p = job->first; p < job->last; p++) {
        const lu_linear *l = &job->linears[p];
        const int64_t u0 = begin > first ? begin - first : 0;
        const int64_t u1 = end - first < l->n_units ? end - first : l->n_units;
        if (u0 < u1)
            lu_linear_run(l, &(lu_linear_args){
                                 .x = job->x,
                                 .ldx = lu_linear_x_stride(l),
                                 .M = job->m,
                                 .y = y,
                                 .ldy = l->n,
                                 .unit0 = u0,
                                 .unit1 = u1,
                                 .scratch = job->scratch + (size_t)worker * job->scratch_step,
                             });
        first += l->n_units;
        y += job->m * l->n;
    }
}

static void run_loop(lu_pool *pool, loop_job *job, int loop)
{
    int64_t units = 0;
    for (job->first = 0; products[job->first].loop < loop;)
        job->first++;
    for (job->last = job->first; job->last < PRODUCTS && products[job->last].loop == loop;)
        units += job->linears[job->last++].n_units;
    const int64_t chunks = (int64_t)lu_pool_size(pool) * CHUNKS;
    lu_pool_for(pool, units, (units + chunks - 1) / chunks, run_units, job);
}

typedef struct {
    double seconds; /* of all 16 layers: the sum of the minima of their loops */
    double loop[LOOPS];
    int repeats;
} result;

static result time_model(lu_pool *pool, const model *m, int64_t rows, const options *o)
{
    const int64_t layers = rows <= 8 ? m->layers : rows <= 64 && m->layers > 1 ? 2 : 1;
    const int threads = lu_pool_size(pool);
    static bm_least least[MODEL_LAYERS][LOOPS];
    loop_job job = {.m = rows};
    memset(least, 0, sizeof least);
    for (int p = 0; p < PRODUCTS; p++) {
        const size_t step = (lu_linear_scratch(&m->linears[0][p], rows) + 63) / 64 * 64;
        job.scratch_step = step > job.scratch_step ? step : job.scratch_step;
    }
    const size_t x_count = (size_t)rows * 8192;
    uint8_t *x = need(lu_alloc_aligned(x_count * sizeof(float)));
    const float value = 0.37f;
    if (o->act == LUTRA_U8)
        memset(x, 0x3f, x_count * sizeof(float)); /* scale 0.75, zero point 63 */
    for (size_t i = 0; i < x_count && o->act != LUTRA_U8; i++)
        lu_from_f32(o->act, &value, 1, x + i * lutra_dtype_bytes(o->act));
    job.x = x;
    job.y = need(lu_alloc_aligned((size_t)rows * 16384 * sizeof(float)));
    job.scratch = need(lu_alloc_aligned(job.scratch_step * (size_t)lu_pool_size(pool)));
    result r = {0};
    const double start = lu_seconds();
    while (r.repeats < 2 || lu_seconds() - start < o->seconds) {
        for (int64_t i = 0; i < layers; i++)
            for (int loop = 0; loop < LOOPS; loop++) {
                job.linears = m->linears[i];
                const double t = bm_now(threads);
                run_loop(pool, &job, loop);
                bm_take(&least[i][loop], bm_now(threads) - t);
            }
        r.repeats++;
    }
    for (int64_t i = 0; i < layers; i++)
        for (int loop = 0; loop < LOOPS; loop++)
            r.loop[loop] += least[i][loop].seconds * MODEL_LAYERS / (double)layers;
    for (int loop = 0; loop < LOOPS; loop++)
        r.seconds += r.loop[loop];
    lu_free_aligned(x);
    lu_free_aligned(job.y);
    lu_free_aligned(job.scratch);
    return r;
}

/* --- report ----------------------------------------------------------------------------------- */

typedef struct {
    lu_pool *pool;
    double read, fma; /* roofs: bytes/s, flop/s */
} team;

static void report(const model *m, const team *t, int64_t rows, const result *r, const options *o)
{
    const double gb = m->bytes * MODEL_LAYERS / r->seconds / 1e9;
    const double gflop = 2 * m->weights * MODEL_LAYERS * (double)rows / r->seconds / 1e9;
    const char *name = lu_linear_variant_name(&m->linears[0][0]);
    const int threads = lu_pool_size(t->pool);
    if (o->json)
        printf("{\"bench\":\"matmul\",\"variant\":\"%s\",\"threads\":%d,\"m\":%lld,\"us\":%.1f,"
               "\"gb_s\":%.3f,\"read_share\":%.3f,\"gflop_s\":%.2f,\"fma_share\":%.3f,"
               "\"loops_us\":[%.1f,%.1f,%.1f,%.1f],\"repeats\":%d}\n",
               name, threads, (long long)rows, r->seconds * 1e6, gb, gb * 1e9 / t->read, gflop,
               gflop * 1e9 / t->fma, r->loop[0] * 1e6, r->loop[1] * 1e6, r->loop[2] * 1e6,
               r->loop[3] * 1e6, r->repeats);
    else
        printf("| %s | %d | %lld | %.0f | %.2f | %.0f %% | %.1f | %.0f %% | %.0f + %.0f + %.0f + "
               "%.0f |\n",
               name, threads, (long long)rows, r->seconds * 1e6, gb, 100e9 * gb / t->read, gflop,
               100e9 * gflop / t->fma, r->loop[0] * 1e6, r->loop[1] * 1e6, r->loop[2] * 1e6,
               r->loop[3] * 1e6);
    fflush(stdout);
}

static void run_format(int bits, const team *teams, int n_teams, const options *o)
{
    static const int64_t sizes[] = {1, 8, 64, 512};
    model *m = make_model(bits, o);
    for (int t = 0; t < n_teams; t++)
        for (int i = 0; i < 4; i++) {
            const int64_t rows = o->m > 0 ? o->m : sizes[i];
            const result r = time_model(teams[t].pool, m, rows, o);
            report(m, &teams[t], rows, &r, o);
            if (o->m > 0)
                break;
        }
    free_model(m);
}

static int open_teams(team *teams, const options *o)
{
    const int all = lu_cpu_count(), n = o->threads > 0 || all == 1 ? 1 : 2;
    bm_memory memory;
    if (!bm_memory_open(&memory, (size_t)(o->roof_gb * 1e9) / 4096 * 4096))
        fail("no memory to measure the read roof");
    if (!o->json)
        printf("| threads | read roof, GB/s | multiply-add roof, GFLOP/s |\n|---|---|---|\n");
    for (int i = 0; i < n; i++) {
        const int threads = o->threads > 0 ? o->threads : i ? all : 1;
        if (lu_pool_open(threads, &teams[i].pool, &err) != LUTRA_OK)
            fail(err.msg);
        teams[i].read = bm_read_roof(teams[i].pool, &memory, 2);
        teams[i].fma = bm_fma_roof(teams[i].pool);
        if (o->json)
            printf("{\"bench\":\"roof\",\"threads\":%d,\"gb_s\":%.3f,\"gflop_s\":%.2f}\n", threads,
                   teams[i].read / 1e9, teams[i].fma / 1e9);
        else
            printf("| %d | %.2f | %.1f |\n", threads, teams[i].read / 1e9, teams[i].fma / 1e9);
    }
    bm_memory_close(&memory);
    return n;
}

static bool parse_option(options *o, const char *key, const char *value)
{
    if (strcmp(key, "--format") == 0)
        o->bits = strcmp(value, "bf16") == 0 ? 0 : atoi(value);
    else if (strcmp(key, "--m") == 0)
        o->m = atoi(value);
    else if (strcmp(key, "--threads") == 0)
        o->threads = atoi(value);
    else if (strcmp(key, "--act") == 0)
        o->act = strcmp(value, "int8") == 0 ? LUTRA_U8 : lutra_dtype_parse(value);
    else if (strcmp(key, "--cpu") == 0)
        return lu_level_parse(value, &o->level, &err) == LUTRA_OK;
    else if (strcmp(key, "--group") == 0)
        o->group = atoi(value);
    else if (strcmp(key, "--layers") == 0)
        o->layers = atoi(value);
    else if (strcmp(key, "--seconds") == 0)
        o->seconds = atof(value);
    else if (strcmp(key, "--roof-gb") == 0)
        o->roof_gb = atof(value);
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv, options *o)
{
    *o = (options){.bits = -1,
                   .threads = -1,
                   .m = -1,
                   .layers = MODEL_LAYERS,
                   .group = 64,
                   .act = LUTRA_BF16,
                   .level = lu_level_best(),
                   .seconds = 0.6,
                   .roof_gb = 2};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (i + 1 < argc && parse_option(o, argv[i], argv[i + 1]))
            i++;
        else
            return false;
    }
    return (o->bits <= 0 || (o->bits >= 2 && o->bits <= 8)) && o->m <= MAX_M && o->m != 0 &&
           o->layers >= 1 && o->layers <= MODEL_LAYERS && o->threads <= BM_MAX_THREADS &&
           (o->act == LUTRA_BF16 || o->act == LUTRA_F32 || (o->act == LUTRA_U8 && o->bits != 0)) &&
           o->group >= 0 && o->group % 8 == 0 && 2048 % (o->group ? o->group : 1) == 0 &&
           o->roof_gb >= 0.01;
}

int main(int argc, char **argv)
{
    static const int formats[] = {4, 3, 2, 0}, int8_formats[] = {8, 4};
    options o;
    team teams[2];
    if (!parse(argc, argv, &o)) {
        fprintf(
            stderr,
            "usage: bench_matmul [--format 8|4|3|2|bf16] [--m N] [--threads N] "
            "[--act bf16|f32|int8] [--cpu LEVEL]\n"
            "                    [--group N] [--layers N] [--seconds S] [--roof-gb N] [--json]\n");
        return 2;
    }
    bm_print_machine(stdout, o.json);
    const int n_teams = open_teams(teams, &o);
    if (!o.json)
        printf(
            "\n| variant | threads | rows | us / 16 layers | weights, GB/s | of reading | GFLOP/s "
            "| of multiply-adds | q,k,v + o + gate,up + down, us |\n|---|---|---|---|---|---|---|"
            "---|---|\n");
    for (int i = 0; i < (o.act == LUTRA_U8 ? 2 : 4); i++) {
        const int bits = o.act == LUTRA_U8 ? int8_formats[i] : formats[i];
        run_format(o.bits >= 0 ? o.bits : bits, teams, n_teams, &o);
        if (o.bits >= 0)
            break;
    }
    for (int i = 0; i < n_teams; i++)
        lu_pool_close(teams[i].pool);
    return 0;
}

/* cuda_check_encode.c - the encoder against the CPU's, byte for byte: every codebook and tables of
   one's own, both range rules, every type, odd shapes, and weights that are hard. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "kern/cuda/cuda_encode.h"
#include "tensor/convert.h"

typedef enum {
    GAUSS,
    ZEROS,
    EQUAL,    /* one value in all of a row */
    TINY,     /* scales that underflow */
    OUTLIERS, /* few are far larger */
    POSITIVE,
    HUGE_ONES, /* some rows overflow fp16 scales */
    POISONED,  /* NaN and infinity in some rows */
    N_KINDS,
} kind;

typedef struct {
    lutra_format format;
    lutra_range range;
    lutra_dtype dtype;
    int64_t n, k;
    kind of;
    bool fault; /* the GPU gets another range: scales differ in the last bits */
} encode_case;

/* Near N(0, 1), from one number. */
static float normal(cc *t)
{
    const uint64_t u = lu_random_next(&t->random);
    const float sum = (float)((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48));
    return (sum / 65536.0f - 2.0f) * 1.7320508f;
}

static float weight(cc *t, kind of, int64_t row)
{
    const float v = normal(t);
    switch (of) {
    case ZEROS: return row % 3 ? 0.0f : -0.0f;
    case EQUAL: return row % 2 ? 0.7f : -0.7f;
    case TINY: return v * (row % 2 ? 1e-7f : 1e-42f);
    case OUTLIERS: return v * (cc_pick(t, 0, 39) ? 0.02f : 50.0f);
    case POSITIVE: return fabsf(v);
    case HUGE_ONES: return row % 4 ? v : v * 1e37f;
    case POISONED: return row % 2 || cc_pick(t, 0, 99) ? v : cc_pick(t, 0, 1) ? NAN : -INFINITY;
    default: return v;
    }
}

static void *weights(cc *t, const encode_case *c)
{
    const size_t size = lutra_dtype_bytes(c->dtype);
    uint8_t *w = cc_host((size_t)(c->n * c->k) * size);
    float *row = cc_host((size_t)c->k * sizeof *row);
    for (int64_t r = 0; r < c->n; r++) {
        for (int64_t i = 0; i < c->k; i++)
            row[i] = weight(t, c->of, r);
        lu_from_f32(c->dtype, row, c->k, w + (size_t)(r * c->k) * size);
    }
    free(row);
    return w;
}

typedef struct {
    uint8_t *codes, *scales, *zeros;
    double *energies;
} outputs;

static void same(cc *t, const char *what, int64_t row, const void *got, const void *want,
                 size_t bytes)
{
    size_t i = 0;
    while (i < bytes && ((const uint8_t *)got)[i] == ((const uint8_t *)want)[i])
        i++;
    if (i < bytes)
        cc_fail(t, "row %lld: %s differ from byte %zu of %zu on", (long long)row, what, i, bytes);
}

static void compare_row(cc *t, const encode_case *c, const lu_encoder *e, const uint8_t *w,
                        const outputs *got, int64_t r, outputs *want)
{
    const size_t groups = (size_t)lutra_format_groups(&c->format, c->k), i = (size_t)r;
    const size_t codes = lutra_format_row_bytes(&c->format, c->k),
                 scales = groups * lutra_dtype_bytes(c->format.scale_dtype);
    lu_encode_row_args a = {.w = w + i * (size_t)c->k * lutra_dtype_bytes(c->dtype),
                            .dtype = c->dtype,
                            .k = c->k,
                            .codes = want->codes,
                            .scales = want->scales,
                            .zeros = want->zeros};
    if (lu_encoder_row(e, &a) >= 0) {
        if (!isnan(got->energies[2 * i]) || !isnan(got->energies[2 * i + 1]))
            cc_fail(t, "row %lld was not refused", (long long)r);
        return;
    }
    same(t, "scales", r, got->scales + i * scales, want->scales, scales);
    if (want->zeros)
        same(t, "zero points", r, got->zeros + i * groups, want->zeros, groups);
    same(t, "codes", r, got->codes + i * codes, want->codes, codes);
    const double energies[2] = {a.signal, a.noise};
    same(t, "energies", r, got->energies + 2 * i, energies, sizeof energies);
}

static void check_case(cc *t, const encode_case *c)
{
    char spec[96];
    const lutra_format *f = &c->format;
    const size_t rows = (size_t)c->n, groups = rows * (size_t)lutra_format_groups(f, c->k);
    const size_t codes = rows * lutra_format_row_bytes(f, c->k),
                 scales = groups * lutra_dtype_bytes(f->scale_dtype);
    const size_t size = rows * (size_t)c->k * lutra_dtype_bytes(c->dtype);
    cc_case(t, "%s %s, %s [%lld][%lld], kind %d", lutra_format_spec(f, spec, sizeof spec),
            c->range == LUTRA_RANGE_MSE ? "mse" : "minmax", lutra_dtype_name(c->dtype),
            (long long)c->n, (long long)c->k, (int)c->of);
    lu_encoder encoder, given;
    lu_encoder_init(&encoder, f, lu_level_best());
    encoder.range = c->range;
    given = encoder;
    if (c->fault)
        given.format.absmax_ref *= 1.000001f;
    uint8_t *w = weights(t, c);
    outputs got = {cc_host(codes), cc_host(scales), f->zero_point ? cc_host(groups) : NULL,
                   cc_host(rows * 16)};
    outputs want = {cc_host(codes), cc_host(scales), f->zero_point ? cc_host(groups) : NULL, NULL};
    const lu_cuda_encode_args a = {.encoder = &given,
                                   .n = c->n,
                                   .k = c->k,
                                   .w = cc_input(t, w, size),
                                   .dtype = c->dtype,
                                   .codes = cc_output(t, codes),
                                   .scales = cc_output(t, scales),
                                   .zeros = f->zero_point ? cc_output(t, groups) : NULL,
                                   .energies = cc_output(t, rows * 16)};
    cc_status(t, lu_cuda_encode(&a));
    cc_fetch(t, a.codes, got.codes, codes);
    cc_fetch(t, a.scales, got.scales, scales);
    cc_fetch(t, a.energies, got.energies, rows * 16);
    if (got.zeros)
        cc_fetch(t, a.zeros, got.zeros, groups);
    for (int64_t r = 0; r < c->n; r++)
        compare_row(t, c, &encoder, w, &got, r, &want);
    cc_end(t);
    free(w), free(got.codes), free(got.scales), free(got.zeros), free(got.energies);
    free(want.codes), free(want.scales), free(want.zeros);
}

/* Group sizes that are held in registers, that are not, and rows as one group. */
static const int64_t group_sizes[] = {8, 24, 32, 64, 96, 128, 256, 0};
enum { N_GROUPS = sizeof group_sizes / sizeof *group_sizes };

static void check_format(cc *t, const lutra_format *format, int *turn)
{
    static const lutra_dtype types[] = {LUTRA_F32, LUTRA_F16, LUTRA_BF16};
    static const lutra_dtype scales[] = {LUTRA_F16, LUTRA_BF16, LUTRA_F32};
    static const int64_t channels[] = {1, 15, 33, 131, 320, 1000};
    for (int of = 0; of < N_KINDS; of++, ++*turn) {
        encode_case c = {.format = *format, .of = (kind)of, .dtype = types[*turn % 3]};
        c.format.scale_dtype = scales[*turn / 3 % 3];
        c.range = *turn / 2 % 2 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
        c.k = c.format.group_size ? c.format.group_size * (1 + *turn % 5) : channels[*turn % 6];
        c.n = 1 + *turn % 35;
        check_case(t, &c);
    }
}

static void check_codebooks(cc *t)
{
    int turn = 0;
    for (int i = 0; i < lutra_codebook_count(); i++)
        for (int g = 0; g < N_GROUPS; g++)
            for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
                char spec[64];
                lutra_format f;
                snprintf(spec, sizeof spec, "%s%s", lutra_codebook_name(i),
                         asymmetric ? ":asym" : "");
                if (lutra_format_parse(spec, &f, NULL) != LUTRA_OK)
                    continue; /* some codebooks are symmetric only */
                f.group_size = group_sizes[g];
                check_format(t, &f, &turn);
            }
}

/* Unsorted, with values that repeat. */
static void check_tables(cc *t)
{
    int turn = 1;
    for (int bits = 2; bits <= LUTRA_MAX_BITS; bits++)
        for (int g = 0; g < N_GROUPS; g++) {
            float values[1 << LUTRA_MAX_BITS];
            lutra_format f;
            for (int i = 0; i < 1 << bits; i++)
                values[i] = i % 7 == 3 ? values[i / 2] : normal(t);
            if (lutra_format_from_table(values, 1 << bits, group_sizes[g], LUTRA_F16, &f, NULL) ==
                LUTRA_OK)
                check_format(t, &f, &turn);
        }
}

/* Shapes of models, where every multiprocessor has many rows. */
static void check_matrices(cc *t)
{
    static const struct {
        const char *spec;
        lutra_range range;
        lutra_dtype dtype;
        int64_t n, k;
    } cases[] = {
        {"nf4:g64", LUTRA_RANGE_MINMAX, LUTRA_BF16, 4096, 4096},
        {"nf4:g128", LUTRA_RANGE_MINMAX, LUTRA_F16, 4100, 1408},
        {"int3:g128:asym", LUTRA_RANGE_MSE, LUTRA_BF16, 1024, 4096},
        {"lm2:g32", LUTRA_RANGE_MSE, LUTRA_F16, 2048, 1024},
        {"int8:channel", LUTRA_RANGE_MINMAX, LUTRA_BF16, 1000, 5120},
        {"nf3:g256", LUTRA_RANGE_MSE, LUTRA_F32, 512, 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        encode_case c = {.range = cases[i].range, .dtype = cases[i].dtype, .of = GAUSS};
        c.n = cases[i].n;
        c.k = cases[i].k;
        if (lutra_format_parse(cases[i].spec, &c.format, NULL) == LUTRA_OK)
            check_case(t, &c);
    }
}

static void check_refusals(cc *t)
{
    lutra_format f;
    lu_encoder e;
    cc_case(t, "shapes that are none");
    if (lutra_format_parse("nf4:g64", &f, NULL) != LUTRA_OK)
        cc_fail(t, "no nf4");
    lu_encoder_init(&e, &f, LU_LEVEL_REF);
    const lu_cuda_encode_args bad[] = {
        {.encoder = &e, .n = 1, .k = 65, .dtype = LUTRA_F16},
        {.encoder = &e, .n = -1, .k = 64, .dtype = LUTRA_F16},
        {.encoder = &e, .n = 1, .k = 64, .dtype = LUTRA_F64},
        {.encoder = &e, .n = 1, .k = 0, .dtype = LUTRA_F16},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (lu_cuda_encode(&bad[i]) != LU_CUDA_E_SHAPE)
            cc_fail(t, "shape %zu was not refused", i);
    const lu_cuda_encode_args none = {.encoder = &e, .n = 0, .k = 64, .dtype = LUTRA_F16};
    cc_status(t, lu_cuda_encode(&none));
    cc_end(t);
}

static void check_encode(cc *t)
{
    check_refusals(t);
    check_codebooks(t);
    check_tables(t);
    check_matrices(t);
    encode_case c = {.range = LUTRA_RANGE_MINMAX, .dtype = LUTRA_BF16, .n = 5, .k = 256};
    for (int mse = 0; mse < 2; mse++) {
        if (lutra_format_parse("nf4:g64:f32", &c.format, NULL) != LUTRA_OK)
            cc_fail(t, "no nf4");
        c.range = mse ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
        c.fault = true;
        cc_plant(t);
        check_case(t, &c);
        cc_planted(t, "another reach of the table");
    }
}

const cc_op cc_encode_ops[] = {{"encode", check_encode}, {NULL, NULL}};

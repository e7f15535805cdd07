/* bench_cuda_lut.c - times table-lookup products on a GPU: the layers of an 8B and a 70B block,
   shapes that no model has, groups, types, packing, and cuBLAS beside them. See cuda_measure.h for
   the method.

   usage: bench_cuda_lut [--list] [--variant NAME] [--alone] [--json FILE] [--svg FILE] [PART]...
   A table is printed; without PART all parts run. Figures of other kernels: `peers`. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_measure.h"
#include "cuda_roofline.h"

typedef struct {
    const char *name;
    int64_t n, k;
} layer;

typedef struct {
    const char *name;
    int n_layers;
    layer layers[CF_LAYERS];
} block;

static const block blocks[] = {
    {"8B",
     4,
     {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}}},
    {"70B",
     4,
     {{"qkv", 10240, 8192}, {"o", 8192, 8192}, {"gate_up", 57344, 8192}, {"down", 8192, 28672}}},
    {"3072x3072", 1, {{"", 3072, 3072}}},
    {"5000x4992", 1, {{"", 5000, 4992}}},
    {"2048x2048", 1, {{"", 2048, 2048}}},
    {"2304x9216", 1, {{"", 2304, 9216}}},
    {"14336x4096", 1, {{"", 14336, 4096}}},
};

/* Ways to multiply, by name: where several kernels stand for one product they are compared here. */
typedef struct {
    const char *name;
    cb_product *product;
} variant;
static const variant variants[] = {
    {"auto", lu_cuda_lut_matmul},
};

enum { MOST_ROWS = 512 };
static cf_row rows[MOST_ROWS];
static int n_rows;
static lu_cuda_device dev;
static const variant *chosen = variants;
static int overlap = 1;

static void keep(const cf_row *r)
{
    if (n_rows < MOST_ROWS)
        rows[n_rows++] = *r;
    cf_markdown_row(stdout, r);
    fflush(stdout);
}

/* A row for each of the token counts (ends with 0), few tokens first: many make the chip hot and
 * slow. */
static void time_block(const char *part, const block *b, int bits, int64_t group, int bf16,
                       const int *tokens, int read)
{
    enum { MOST = 16 };
    cf_row r[MOST] = {0};
    cb_weights w[CF_LAYERS];
    double read_us = 0;
    for (int i = 0; i < b->n_layers; i++) {
        cb_weights_open(&w[i], b->layers[i].n, b->layers[i].k, bits, group, bf16, 0);
        read_us += read ? cb_time_read(&dev, &w[i]) : 0;
    }
    for (int t = 0; t < MOST && tokens[t]; t++)
        for (int i = 0; i < b->n_layers; i++) {
            const layer *l = &b->layers[i];
            const double m = tokens[t];
            r[t].us[i] = cb_time_product(chosen->product, &dev, &w[i], tokens[t], overlap);
            r[t].sum += r[t].us[i];
            r[t].bytes += (double)w[i].bytes + 2 * m * (double)(l->n + l->k);
            r[t].flops += 2 * m * (double)l->n * (double)l->k;
        }
    for (int i = 0; i < b->n_layers; i++)
        cb_weights_close(&w[i]);
    for (int t = 0; t < MOST && tokens[t]; t++) {
        r[t].read = read_us;
        r[t].part = part;
        r[t].name = b->name;
        r[t].kernel = "lutra";
        r[t].bits = bits;
        r[t].bf16 = bf16;
        r[t].group = group;
        r[t].m = tokens[t];
        r[t].n_layers = b->n_layers;
        keep(&r[t]);
    }
}

static const int few[] = {1, 4, 8, 16, 0}, many[] = {32, 64, 128, 256, 512, 1024, 4096, 0},
                 ends[] = {1, 16, 64, 0}, one[] = {1, 0};

static void part_small(const char *part)
{
    for (int b = 0; b < 2; b++)
        for (int bits = 4; bits >= 2; bits--)
            time_block(part, &blocks[b], bits, 128, 0, few, 1);
}

static void part_large(const char *part)
{
    for (int b = 0; b < 2; b++)
        for (int bits = 4; bits >= 2; bits--)
            time_block(part, &blocks[b], bits, 128, 0, many, 0);
}

static void part_groups(const char *part)
{
    static const int64_t groups[] = {32, 64, 128, 256};
    for (int i = 0; i < 4; i++)
        time_block(part, &blocks[0], 4, groups[i], 0, ends, 1);
}

static void part_types(const char *part)
{
    for (int bits = 4; bits >= 2; bits--)
        for (int bf16 = 0; bf16 < 2; bf16++)
            time_block(part, &blocks[0], bits, 128, bf16, ends, 0);
    time_block(part, &blocks[0], 8, 128, 0, ends, 1);
}

static void part_shapes(const char *part)
{
    for (size_t b = 2; b < sizeof blocks / sizeof *blocks; b++)
        for (int bits = 4; bits >= 2; bits--)
            time_block(part, &blocks[b], bits, b == 3 ? 64 : 128, 0, ends, 1);
}

static void part_dense(const char *part)
{
    for (int b = 0; b < 2; b++)
        for (int set = 0; set < 2; set++)
            for (const int *m = set ? many : few; *m; m++) {
                cf_row r = {.part = part,
                            .name = blocks[b].name,
                            .kernel = "cuBLAS fp16",
                            .bits = 16,
                            .group = 0,
                            .m = *m,
                            .n_layers = 4};
                for (int i = 0; i < 4; i++) {
                    const layer *l = &blocks[b].layers[i];
                    r.sum += r.us[i] = cb_time_cublas(l->n, l->k, *m, 0);
                    r.bytes += 2.0 * (double)(l->n * l->k) + 2.0 * *m * (double)(l->n + l->k);
                    r.flops += 2.0 * *m * (double)(l->n * l->k);
                }
                keep(&r);
            }
}

static void part_pack(const char *part)
{
    for (int bits = 2; bits <= 4; bits++) {
        cb_weights w;
        cb_weights_open(&w, 28672, 4096, bits, 128, 0, 0);
        printf("%s: gate_up of 8B, %d bits: %.0f GB/s of codes\n", part, bits, w.pack_gb_s);
        cb_weights_close(&w);
    }
}

static void part_unpack(const char *part)
{
    static const int64_t groups[] = {64, 128};
    for (int bits = 2; bits <= 4; bits++)
        for (int g = 0; g < 2; g++) {
            double us = 0, bytes = 0;
            for (int i = 0; i < 4; i++) {
                const layer *l = &blocks[0].layers[i];
                cb_weights w;
                cb_weights_open(&w, l->n, l->k, bits, groups[g], 0, 0);
                us += cb_time_unpack(&w);
                bytes += (double)w.bytes + 2 * (double)(l->n * l->k);
                cb_weights_close(&w);
            }
            printf("%s: 8B, %d bits, groups of %d: %.1f us, %.0f GB/s read and written\n", part,
                   bits, (int)groups[g], us, bytes / us * 1e-3);
        }
}

static void time_ways(const block *b, int bits)
{
    static const char *const names[LU_CUDA_WAYS] = {"table", "arithmetic"};
    static const int tokens[] = {1, 4, 8, 16, 32};
    enum { COUNTS = sizeof tokens / sizeof *tokens };
    double sum[LU_CUDA_WAYS][COUNTS] = {0};
    for (int i = 0; i < b->n_layers; i++) {
        cb_weights w;
        cb_weights_open(&w, b->layers[i].n, b->layers[i].k, bits, 128, 0, 1);
        for (int way = 0; way < LU_CUDA_WAYS; way++) {
            bool known = true;
            for (int c = 0; c < w.copies; c++)
                known = lu_cuda_lut_set_way(&w.luts[c], (lu_cuda_way)way) == 0 && known;
            for (int t = 0; t < COUNTS && known; t++)
                sum[way][t] += cb_time_product(chosen->product, &dev, &w, tokens[t], overlap);
        }
        cb_weights_close(&w);
    }
    for (int way = 0; way < LU_CUDA_WAYS; way++) {
        if (sum[way][0] == 0)
            continue;
        printf("| %s | %d | %s |", b->name, bits, names[way]);
        for (int t = 0; t < COUNTS; t++)
            printf(" %.1f |", sum[way][t]);
        printf("\n");
    }
    fflush(stdout);
}

/* Ways from codes to weights side by side. */
static void part_ways(const char *part)
{
    printf("\n%s: sums of the layers, us, group 128, fp16\n\n"
           "| model | bits | way | M=1 | 4 | 8 | 16 | 32 |\n|---|---|---|---|---|---|---|---|\n",
           part);
    for (int b = 0; b < 2; b++)
        for (int bits = 4; bits >= 2; bits--)
            time_ways(&blocks[b], bits);
    time_ways(&blocks[0], 8);
}

static void part_quick(const char *part)
{
    for (int bits = 4; bits >= 2; bits--)
        time_block(part, &blocks[0], bits, 128, 0, few, 1);
    time_block(part, &blocks[1], 4, 128, 0, one, 1);
}

static const struct {
    const char *name, *help;
    void (*run)(const char *part);
    int in_all, seconds; /* of an H200 */
} parts[] = {
    {"quick", "the 8B block, M = 1 to 16; 70B at M = 1", part_quick, 0, 3},
    {"ways", "ways from codes to weights, both blocks, M = 1 to 32", part_ways, 0, 20},
    {"small", "both blocks, M = 1 to 16", part_small, 1, 6},
    {"large", "both blocks, M = 32 to 4096", part_large, 1, 30},
    {"groups", "groups of 32, 64, 128, 256", part_groups, 1, 3},
    {"types", "fp16 and bf16, 8 bits", part_types, 1, 5},
    {"shapes", "matrices that no model has", part_shapes, 1, 5},
    {"dense", "cuBLAS fp16", part_dense, 1, 12},
    {"pack", "from the checkpoint's layout to the kernels'", part_pack, 1, 1},
    {"unpack", "from the kernels' layout to dense rows", part_unpack, 1, 2},
};
enum { PARTS = sizeof parts / sizeof *parts };

static int usage(FILE *f)
{
    fprintf(f, "usage: bench_cuda_lut [--list] [--variant NAME] [--alone] [--json FILE] [--svg "
               "FILE] [PART]...\n"
               "  --alone    launches may not overlap (no programmatic dependent launch)\n"
               "  --json     all figures and those of other kernels\n"
               "  --svg      a roofline plot of the 8B block\nparts, seconds on an H200:\n");
    for (int i = 0; i < PARTS; i++)
        fprintf(f, "  %-8s %3d  %s%s\n", parts[i].name, parts[i].seconds, parts[i].help,
                parts[i].in_all ? "" : " (only if named)");
    fprintf(f, "variants:");
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        fprintf(f, " %s", variants[i].name);
    fprintf(f, "\n");
    return f == stderr ? 2 : 0;
}

static int write_file(const char *path, const char *device, double gb_s, double tflops, int svg)
{
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        return 1;
    }
    if (svg)
        cf_svg(f, device, "8B", gb_s, tflops, rows, n_rows);
    else
        cf_json(f, device, gb_s, tflops, rows, n_rows);
    return fclose(f) != 0;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    const char *json = NULL, *svg = NULL;
    bool wanted[PARTS] = {0}, any = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = false;
        if (strcmp(word, "--list") == 0 || strcmp(word, "--help") == 0)
            return usage(stdout);
        if (strcmp(word, "--alone") == 0) {
            overlap = 0;
            continue;
        }
        if (value && strcmp(word, "--json") == 0) {
            json = argv[++i];
            continue;
        }
        if (value && strcmp(word, "--svg") == 0) {
            svg = argv[++i];
            continue;
        }
        if (value && strcmp(word, "--variant") == 0) {
            for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
                if (strcmp(variants[v].name, value) == 0) {
                    chosen = &variants[v];
                    known = true;
                }
            i++;
        }
        for (int p = 0; p < PARTS; p++)
            if (strcmp(parts[p].name, word) == 0)
                known = any = wanted[p] = true;
        if (!known) {
            fprintf(stderr, "bench_cuda_lut: \"%s\" is not known\n", argv[i]);
            return usage(stderr);
        }
    }
    struct cudaDeviceProp p;
    CB_TRY(cudaGetDeviceProperties(&p, 0));
    CB_TRY(lu_cuda_device_get(0, &dev));
    printf("%s, %d SMs, L2 %d MB; kernel: %s, overlap %d\n", p.name, p.multiProcessorCount,
           p.l2CacheSize >> 20, chosen->name, overlap);
    cf_markdown_head(stdout);
    const double start = seconds_now();
    for (int i = 0; i < PARTS; i++)
        if (any ? wanted[i] : parts[i].in_all) {
            parts[i].run(parts[i].name);
            fprintf(stderr, "%s: done after %.1f s\n", parts[i].name, seconds_now() - start);
        }
    if (!json && !svg)
        return 0;
    cb_weights w;
    cb_weights_open(&w, 57344, 16384, 4, 128, 0, 0);
    const double gb_s = (double)w.bytes / cb_time_read(&dev, &w) * 1e-3;
    cb_weights_close(&w);
    const double tflops = cb_matmul_tflops();
    printf("roofs: reading %.0f GB/s, cuBLAS fp16 %.0f TFLOP/s\n", gb_s, tflops);
    return (json ? write_file(json, p.name, gb_s, tflops, 0) : 0) |
           (svg ? write_file(svg, p.name, gb_s, tflops, 1) : 0);
}

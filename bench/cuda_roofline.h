/* cuda_roofline.h - figures of products on a GPU: a row each, as Markdown, JSON or a roofline plot.
 */
#ifndef BENCH_CUDA_ROOFLINE_H
#define BENCH_CUDA_ROOFLINE_H

#include <stdint.h>
#include <stdio.h>

enum { CF_LAYERS = 4 };

/* One configuration: the layers of a block, or one matrix. */
typedef struct cf_row {
    const char *part, *name; /* name: of the block or matrix */
    const char *kernel;      /* "lutra", "cuBLAS" or a peer */
    int bits, bf16, n_layers;
    int64_t group, m;
    double us[CF_LAYERS], sum;
    double read; /* a kernel that only reads the same bytes, launched the same way without overlap;
                    0: not taken */
    double bytes, flops; /* least traffic and arithmetic of the sum */
} cf_row;

void cf_markdown_head(FILE *f);
void cf_markdown_row(FILE *f, const cf_row *r);

/* device: text; gb_s, tflops: the measured roofs. */
void cf_json(FILE *f, const char *device, double gb_s, double tflops, const cf_row *rows, int n);

/* Arithmetic per byte against TFLOP/s, both logarithmic; a line per kernel and width of block
 * `name`. */
void cf_svg(FILE *f, const char *device, const char *name, double gb_s, double tflops,
            const cf_row *rows, int n);

/* What other kernels reached on one H200: fp16, group 128, the sum of the four layers, cold in L2.
 */
int cf_peers(const cf_row **rows);

#endif

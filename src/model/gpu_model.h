/* gpu_model.h - a model's weights on a GPU, and the pages of its KV cache. Everything that the
   kernels read lies in one block of GPU memory (the arena), taken when the model is loaded.

   Linears that share their input are one product where they can be: q|k|v and gate|up, stacked by
   rows, when their formats agree. Where one of them is compressed in another way, or left alone,
   they are several products that write into the columns of one output.

   Where inputs are rounded to integers (slots.h, `input`) and a linear's weights are integers of
   more than 4 bits with one scale a row, integers are multiplied. In all other cases rounded inputs
   are turned back to the activation type and multiplied as that. */
#ifndef LU_MODEL_GPU_MODEL_H
#define LU_MODEL_GPU_MODEL_H

#include "kern/gpu.h"
#include "model/slots.h"

#define LU_GPU_PAGE_TOKENS 64
#define LU_GPU_STRIP 16 /* rows that lut_unpack does not divide */

typedef enum lu_gpu_kind {
    LU_GPU_DENSE,    /* in the activation type */
    LU_GPU_CODED,    /* codes into a table */
    LU_GPU_INTEGERS, /* 8-bit integers, for inputs of such */
} lu_gpu_kind;

/* Rows [row, row + n) of a stack of linears. */
typedef struct lu_gpu_part {
    int64_t row, n;
    lu_gpu_kind kind;
    lu_cuda_lut lut;
    uint16_t *dense;  /* [n][k] */
    int8_t *integers; /* as lu_gpu_int8 has them, with their scales and sums: */
    float *scales;
    int32_t *sums;
    uint16_t *bias;     /* [n] or NULL */
    lu_act_quant input; /* how x is rounded first; format.bits 0: not */
} lu_gpu_part;

#define LU_GPU_MAX_PARTS 3

/* y[rows][n] = x[rows][k] W^T + b. */
typedef struct lu_gpu_linear {
    int64_t n, k;
    int n_parts;
    lu_gpu_part parts[LU_GPU_MAX_PARTS];
} lu_gpu_linear;

typedef struct lu_gpu_expert {
    lu_gpu_linear gate_up, down;
} lu_gpu_expert;

typedef struct lu_gpu_layer {
    float *norm[LU_N_NORMS];
    lu_gpu_linear qkv, o, router; /* router: n = 0 in dense blocks */
    lu_gpu_expert *experts;       /* [n_experts] */
} lu_gpu_layer;

/* The embedding: dense, or canonical codes. */
typedef struct lu_gpu_embedding {
    uint16_t *dense;
    uint8_t *codes, *zeros;
    uint16_t *scales;
} lu_gpu_embedding;

/* The KV cache of all sequences. Sequences are promised pages when they open (`promised`); the
   block is taken, or grows, before the pass that follows. */
typedef struct lu_gpu_pool {
    uint16_t *data; /* as lu_cuda_kv */
    int64_t n_pages, promised;
    int64_t room;  /* of used */
    uint8_t *used; /* [room]: 1 = some sequence owns the page */
} lu_gpu_pool;

typedef struct lu_gpu_model {
    lu_gpu *gpu;
    bool bf16; /* activations; else fp16 */
    uint8_t *arena;
    int64_t arena_bytes;
    lu_gpu_embedding embedding;
    float *final_norm;
    lu_gpu_linear lm_head;
    lu_gpu_layer *layers;
    uint16_t *unpacked;    /* room for coded weights made dense, for products of many tokens */
    int64_t unpacked_room; /* values */
    void *scratch;         /* of coded products (lut_matmul.h) */
    lu_gpu_pool pool;
    int64_t round_columns; /* most columns of rounded inputs, padded; 0: none are */
    int64_t integer_rows;  /* most rows of a part of integers, padded as its sums are; 0: none */
    int64_t generation; /* grows when memory that recorded passes know moves: they are then void */
} lu_gpu_model;

/* gpu_load.c: opens GPU `ordinal` and moves the bound weights there, a tensor at a
   time; their mapped pages are given back. E_NOMEM says what is needed, what is free and what would
   fit. Sets m->gpu also on failure, so that lutra_model_close frees what there is. */
lutra_status lu_gpu_model_load(lutra_model *m, int ordinal, lutra_err *err);
void lu_gpu_model_close(lutra_model *m);

/* gpu_kv.c: pages for `capacity` tokens of one sequence. */
typedef struct lu_gpu_pages {
    int64_t n;
    int32_t *page; /* [n] */
} lu_gpu_pages;
lutra_status lu_gpu_pages_take(const lutra_model *m, int64_t capacity, lu_gpu_pages **out,
                               lutra_err *err);
void lu_gpu_pages_give(lu_gpu_model *g, lu_gpu_pages *pages);
/* Makes the promised pages real. */
lutra_status lu_gpu_pool_grow(const lutra_model *m, lutra_err *err);
int64_t lu_gpu_page_bytes(const lutra_model *m); /* of all layers */
void lu_gpu_pool_close(lu_gpu_model *g);

/* Where the rounded inputs of one product lie, on the GPU; unused where a model rounds none. */
typedef struct lu_gpu_rounded {
    uint16_t *x;   /* [rows][columns] of the act type, or codes of one byte, padded */
    float *scale;  /* [rows] */
    int32_t *zero; /* [rows] */
    int32_t *sums; /* of integer products, as many rows at a time as there is room for */
    int64_t n_sums;
} lu_gpu_rounded;

/* gpu_product.c: y = x W^T + b of all parts. x: act rows of linear->k; y: act rows of linear->n. */
lutra_status lu_gpu_product(const lu_gpu_model *g, const lu_gpu_rounded *room,
                            const lu_gpu_linear *l, const uint16_t *x, int64_t rows, uint16_t *y,
                            lutra_err *err);

#endif

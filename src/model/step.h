/* step.h - the inside of a forward pass, shared by the files that compute its parts: forward.c the
   walk, self_attention.c and mlp.c the two branches of a block, product.c the matrix products.

   x is the residual stream, float32. Inputs of linears are rounded to the model's activation type
   ("act": bf16 or float32) in the act buffers; outputs of linears are float32.

       x ─ norm ─▶ in ─ q k v ─▶ q, k, v ─ rope ─▶ kv cache ─ attend ─▶ in ─ o ─▶ branch ─▶ + x
       x ─ norm ─▶ in ─ gate up ─▶ gate, up ─ act ─▶ mid ─ down ─▶ branch ─▶ + x                 */
#ifndef LU_MODEL_STEP_H
#define LU_MODEL_STEP_H

#include "base/pool.h"
#include "model/forward.h"

/* One y = x W^T of a batch of products that run in a single loop over all their units. */
typedef struct lu_product {
    const lu_linear *linear;
    const void *x; /* dense rows of linear->k, of the model's act whatever the linear multiplies */
    int64_t rows;
    float *y;           /* dense rows of linear->n */
    int64_t first_unit; /* set by lu_run_products, as from */
    const void *from;   /* x as it was given; x is the rounded one */
} lu_product;

/* Where a row of the pass belongs. */
typedef struct lu_row {
    int64_t segment, pos;
} lu_row;

struct lu_forward {
    struct lu_gpu_forward *gpu; /* gpu_forward.h: then nothing below is set but the first three */
    lutra_model *model;
    int64_t max_rows, max_context;
    int64_t max_expert_rows; /* max_rows * experts per token */
    const lu_segment *segments;
    int64_t n_segments, n_rows;
    void *arena; /* holds every buffer below */
    lu_row *rows;
    float *x; /* [rows][hidden] */
    void *in; /* act [rows][max(hidden, heads * head_dim)] */
    float *q, *k, *v, *attended;
    void *mid; /* act [expert rows][intermediate] */
    float *gate, *up;
    float *branch;                                            /* [rows][hidden] */
    int n_ropes;                                              /* 1: the kinds share their angles */
    float *inv_freq[LU_N_ATTN_KINDS];                         /* [head_dim / 2] */
    float *cosines[LU_N_ATTN_KINDS], *sines[LU_N_ATTN_KINDS]; /* [rows][head_dim / 2] */
    lu_product *products;
    float *router;      /* [rows][experts] */
    int64_t *chosen;    /* [rows][active]: experts of a row, ascending */
    int64_t *place;     /* [rows][active]: its row among the gathered ones */
    float *share;       /* [rows][active]: weight in the sum */
    int64_t *first_row; /* [experts + 1]: gathered rows of expert e are first_row[e].. */
    void *gathered;     /* act [expert rows][hidden] */
    float *expert_out;  /* [expert rows][hidden] */
    uint8_t *rounded;   /* inputs of one batch of products, where a model rounds them to integers */
    int64_t max_columns;  /* of any linear of the blocks */
    float *round_rows;    /* [threads][max_columns] */
    uint8_t *round_codes; /* [threads][max_columns] */
    uint8_t *scratch;     /* [threads][scratch_bytes] for kernels */
    size_t scratch_bytes;
    float *row_scratch; /* [threads][hidden] */
    lu_tap tap;
    void *tap_user;
    lu_row_edit edit;
    void *edit_user;
    float *tap_rows; /* [max rows of any site][its columns] while a tap is set */
};

/* A loop over rows: cheap work per row, cols floats each. Runs inline when short. */
void lu_for_rows(lu_forward *f, int64_t rows, int64_t cols, lu_task task, void *arg);

/* Runs all products, their units shared by all threads in one loop. */
void lu_run_products(lu_forward *f, lu_product *products, int64_t n);

/* Points the x of products whose linear wants rounded inputs to rounded copies in f->rounded. */
void lu_round_inputs(lu_forward *f, lu_product *products, int64_t n);

/* dst (act) = src rounded to the activation type, n elements from element `at` of dst. */
void lu_store_act(const lu_forward *f, void *dst, int64_t at, const float *src, int64_t n);
void *lu_act_at(const lu_forward *f, void *base, int64_t element);

/* Hands rows of the activation type to the edit and then to the tap, where they are set. */
void lu_tap_act(lu_forward *f, int64_t layer, const char *site, void *act, int64_t rows,
                int64_t cols);

/* Where the rows of the pass and their rotations are set up. */
void lu_place_rows(lu_forward *f, const lu_segment *segments, int64_t n);
void lu_turn_row(lu_forward *f, int64_t row);

/* What happens to a row between two branches. */
typedef struct lu_joint {
    bool add;              /* x += branch first, through out_norm if not NULL */
    const float *out_norm;
    const float *in_norm;  /* then in = norm of x, if not NULL */
    int64_t first;         /* row of x that in's row 0 is made from */
} lu_joint;
void lu_join_rows(lu_forward *f, lu_joint joint, int64_t rows);

/* From f->in (normed) to f->branch; or only until the inputs of stage `to` were tapped. */
void lu_attention_branch(lu_forward *f, int64_t layer, lu_stage to);
void lu_mlp_branch(lu_forward *f, int64_t layer, lu_stage to);

#endif

/* gpu_trial.c - see gpu_trial.h. The encoder is that of lutra quantize on a GPU, whose codes are
   the CPU's, so that a trial gives the weights that the CPU would upload. Rows pass in pieces. */
#include "calib/gpu_trial.h"

#include "base/mem.h"

#define PIECE_BYTES ((int64_t)64 << 20) /* of float32 rows at a time */
#define LEFT_BYTES ((int64_t)64 << 20)  /* that stay free for the products of losses */

typedef struct {
    const lu_view_linear *linear;
    lu_encoder *encoder;
    float *w;     /* on the GPU [n][k] */
    uint16_t *to; /* act [n][k] */
} part;

struct lu_gpu_trial {
    lu_gpu *gpu;
    lu_view *view;
    const lu_site *alone;
    bool bf16;
    int n;
    part *parts;
    int64_t k, rows; /* columns; rows of a piece */
    float *scale;    /* on the GPU, as all below: [k] */
    float *scaled;   /* [rows][k]; then the difference */
    uint8_t *codes, *scales, *zeros;
    double *energies;
    double *sums; /* [rows] */
};

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void lu_gpu_trial_close(lu_gpu_trial *t)
{
    if (!t)
        return;
    for (int i = 0; t->parts && i < t->n; i++) {
        t->gpu->api->give(t->gpu, t->parts[i].w);
        lu_free(t->parts[i].encoder);
    }
    void *const all[] = {t->scale, t->scaled, t->codes, t->scales, t->zeros, t->energies};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        t->gpu->api->give(t->gpu, all[i]);
    lu_free(t->parts);
    lu_free(t->sums);
    lu_free(t);
}

static lutra_status take(lu_gpu_trial *t, size_t bytes, void **out, lutra_err *err)
{
    LU_GPU_TRY(t->gpu, t->gpu->api->take(t->gpu, bytes, out), "memory for trial weights", err);
    return LUTRA_OK;
}

/* Whether one encoder serves all rows of each linear, and how many rows make a piece. */
static lutra_status open_parts(lu_gpu_trial *t, lu_gpu_bare *bare, const lu_scaled *s,
                               bool *possible, lutra_err *err)
{
    *possible = true;
    t->parts = lu_calloc((size_t)s->n, sizeof *t->parts);
    if (!t->parts)
        return lu_fail_nomem(err, (size_t)s->n * sizeof *t->parts);
    for (int i = 0; i < s->n; i++) {
        part *p = &t->parts[i];
        int64_t end;
        p->linear = (const lu_view_linear *)s->linears[i]; /* face is its first member */
        p->to = lu_gpu_bare_weights(bare, t->view->block.index, p->linear->module);
        p->encoder = lu_alloc(sizeof *p->encoder);
        if (!p->encoder)
            return lu_fail_nomem(err, sizeof *p->encoder);
        if (lutra_format_groups(&p->linear->face.format, p->linear->face.k) == 0) {
            *possible = false; /* rounding says why */
            continue;
        }
        lu_linear_encoder(&t->view->block, &p->linear->face, 0, p->encoder, &end);
        *possible = *possible && end >= p->linear->face.n;
    }
    return LUTRA_OK;
}

static lutra_status take_room(lu_gpu_trial *t, const lu_scaled *s, lutra_err *err)
{
    size_t codes = 0, scales = 0, groups = 0;
    for (int i = 0; i < t->n; i++) {
        const lutra_format *f = &t->parts[i].encoder->format;
        const size_t g = (size_t)lutra_format_groups(f, t->k),
                     row = lutra_format_row_bytes(f, t->k);
        const size_t bytes = g * lutra_dtype_bytes(f->scale_dtype);
        codes = row > codes ? row : codes;
        scales = bytes > scales ? bytes : scales;
        groups = g > groups ? g : groups;
    }
    const size_t rows = (size_t)t->rows, k = (size_t)t->k;
    LU_TRY(take(t, k * sizeof(float), (void **)&t->scale, err));
    LU_TRY(take(t, rows * k * sizeof(float), (void **)&t->scaled, err));
    LU_TRY(take(t, rows * codes, (void **)&t->codes, err));
    LU_TRY(take(t, rows * scales, (void **)&t->scales, err));
    LU_TRY(take(t, rows * groups, (void **)&t->zeros, err));
    LU_TRY(take(t, rows * 2 * sizeof(double), (void **)&t->energies, err));
    for (int i = 0; i < t->n; i++) {
        const size_t bytes = (size_t)(s->linears[i]->n * t->k) * sizeof(float);
        LU_TRY(take(t, bytes, (void **)&t->parts[i].w, err));
        LU_GPU_TRY(t->gpu, t->gpu->api->upload(t->gpu, t->parts[i].w, s->w[i], bytes),
                   "trial weights", err);
    }
    return LUTRA_OK;
}

int64_t lu_gpu_trial_bytes(int64_t k)
{
    const int64_t alone = 4 * LU_LINEAR_LOSS_ROWS * k;
    return 2 * (PIECE_BYTES > alone ? PIECE_BYTES : alone) + LEFT_BYTES;
}

lutra_status lu_gpu_trial_open(lu_gpu *gpu, lu_gpu_bare *bare, bool bf16, lu_view *v,
                               const lu_scaled *s, lu_gpu_trial **out, lutra_err *err)
{
    bool possible;
    size_t there;
    int64_t needed = 0;
    *out = NULL;
    lu_gpu_trial *t = lu_calloc(1, sizeof *t);
    if (!t)
        return lu_fail_nomem(err, sizeof *t);
    *t = (lu_gpu_trial){
        .gpu = gpu, .view = v, .alone = s->alone, .bf16 = bf16, .n = s->n, .k = s->linears[0]->k};
    /* alone: as many as lu_linear_loss takes, so that the sums are the same */
    const int64_t piece = s->alone ? LU_LINEAR_LOSS_ROWS : PIECE_BYTES / 4 / t->k;
    for (int i = 0; i < s->n; i++) {
        const int64_t rows = smaller(s->linears[i]->n, piece > 0 ? piece : 1);
        needed += 4 * s->linears[i]->n * t->k;
        t->rows = rows > t->rows ? rows : t->rows;
    }
    needed += 2 * 4 * t->rows * t->k;
    lutra_status status = open_parts(t, bare, s, &possible, err);
    if (status == LUTRA_OK && gpu->api->free_memory(gpu, &there) == 0)
        possible = possible && needed + LEFT_BYTES <= (int64_t)there;
    t->sums = lu_array((size_t)t->rows, sizeof *t->sums);
    if (status == LUTRA_OK && !t->sums)
        status = lu_fail_nomem(err, (size_t)t->rows * sizeof *t->sums);
    if (status == LUTRA_OK && possible)
        status = take_room(t, s, err);
    if (status == LUTRA_OK && possible)
        *out = t;
    else
        lu_gpu_trial_close(t);
    return status;
}

/* Rows [row, row + n) of a part. */
static lutra_status round_piece(lu_gpu_trial *t, const part *p, int64_t row, int64_t n,
                                lutra_err *err)
{
    lu_gpu *gpu = t->gpu;
    const float *w = p->w + row * t->k;
    const bool zeros = p->encoder->format.zero_point;
    LU_GPU_TRY(gpu, gpu->api->scale_columns(n, t->k, w, t->scale, t->scaled, gpu->stream),
               "trial weights", err);
    const lu_cuda_encode_args encode = {.encoder = p->encoder,
                                        .n = n,
                                        .k = t->k,
                                        .w = t->scaled,
                                        .dtype = LUTRA_F32,
                                        .codes = t->codes,
                                        .scales = t->scales,
                                        .zeros = zeros ? t->zeros : NULL,
                                        .energies = t->energies,
                                        .stream = gpu->stream};
    LU_GPU_TRY(gpu, gpu->api->encode(&encode), "trial weights", err);
    const lu_cuda_decode_args decode = {.n = n,
                                        .k = t->k,
                                        .format = &p->encoder->format,
                                        .codes = t->codes,
                                        .scales = t->scales,
                                        .zeros = zeros ? t->zeros : NULL,
                                        .scale = t->scale,
                                        .values = t->alone ? NULL : p->to + row * t->k,
                                        .bf16 = t->bf16,
                                        .w = w,
                                        .difference = t->scaled,
                                        .stream = gpu->stream};
    LU_GPU_TRY(gpu, gpu->api->decode(&decode), "trial weights", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_trial_set(lu_gpu_trial *t, const float *scale, double *loss, lutra_err *err)
{
    LU_GPU_TRY(t->gpu, t->gpu->api->upload(t->gpu, t->scale, scale, (size_t)t->k * sizeof *scale),
               "a trial scale", err);
    *loss = 0;
    for (int i = 0; i < t->n; i++) {
        const part *p = &t->parts[i];
        const int64_t all = p->linear->face.n;
        for (int64_t row = 0; row < all; row += t->rows) {
            const int64_t n = smaller(t->rows, all - row);
            LU_TRY(round_piece(t, p, row, n, err));
            if (!t->alone)
                continue;
            LU_TRY(lu_la_norms_there(t->view->block.la, n, t->k, t->scaled, t->alone->stats.hessian,
                                     t->sums, err));
            for (int64_t r = 0; r < n; r++)
                *loss += t->sums[r];
        }
    }
    return LUTRA_OK;
}

/* shard_piece.h - a piece of a shard: some rows of a tensor to encode, or some bytes to copy. A
   thread takes a piece from the input map to its place in the output file; one that a GPU encodes
   it takes twice, to the GPU and from there. */
#ifndef LU_CALIB_SHARD_PIECE_H
#define LU_CALIB_SHARD_PIECE_H

#include "base/context.h"
#include "calib/gpu_encoder.h"
#include "calib/quantize_plan.h"

#define LU_PIECE_BYTES ((int64_t)4 << 20) /* input per piece, at least one row */

typedef struct lu_piece {
    int64_t tensor;
    int64_t begin, end;    /* rows when encoded, else bytes */
    double signal, noise;  /* of an encoded one, once it is done */
    const lu_gpu_run *run; /* where a GPU encodes it; NULL: done by the thread that takes it */
    int64_t at;            /* its first row in the run */
} lu_piece;

/* What the threads that take pieces share, and what each has for itself. */
typedef struct lu_piece_room {
    const lu_plan *plan;
    lu_level level;
    int n_threads;
    lu_encoder *encoders; /* one per scheme of the plan */
    lu_encoder *learned;  /* one per thread, for tables of a tensor's own */
    float **tables;       /* [plan->n_tensors] learned tables of the tensors in work, or NULL */
    uint8_t **buffers;    /* one per thread: codes, scales, zeros of a piece */
    float **rows;         /* one per thread, for types that are converted first; else NULL */
    int fd;               /* the shard being written */
    const char *path;
} lu_piece_room;

/* Close also after a failure. */
lutra_status lu_pieces_open(lutra_ctx *ctx, const lu_plan *plan, lu_piece_room *out,
                            lutra_err *err);
void lu_pieces_close(lu_piece_room *r);
void lu_pieces_drop_tables(lu_piece_room *r);

/* Rows or bytes of a whole piece of a tensor. */
int64_t lu_piece_units(const lu_plan_tensor *t);
int64_t lu_piece_in_bytes(const lu_plan *plan, const lu_piece *p);

/* Writes and lets the disk begin with it, so that the sync at the end of a batch finds little to
 * do. */
lutra_status lu_piece_put(const lu_piece_room *r, const void *data, size_t n, uint64_t at,
                          lutra_err *err);

/* Copies or encodes a piece and writes it. */
lutra_status lu_piece_run(lu_piece_room *r, lu_piece *p, int worker, lutra_err *err);

/* Whether a GPU can encode the tensor: its format has a table, its type is one of the kernel's. */
bool lu_piece_for_gpu(const lu_plan_tensor *t);
/* Brings a piece to where its run has its weights; writes what the GPU made of it. */
void lu_piece_stage(const lu_piece_room *r, const lu_piece *p);
lutra_status lu_piece_finish(lu_piece_room *r, lu_piece *p, int worker, lutra_err *err);

#endif

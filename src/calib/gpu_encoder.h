/* gpu_encoder.h - rounding to nearest on a GPU, a slot of rows at a time. A slot is filled with
   runs, laid out, given its weights, queued, and read once its turn is over; while one slot is on
   the GPU the caller fills another and reads a third. The bytes are those of lu_encoder_row. */
#ifndef LU_CALIB_GPU_ENCODER_H
#define LU_CALIB_GPU_ENCODER_H

#include "kern/gpu.h"

#define LU_GPU_SLOT_RUNS 256

/* Rows of one tensor that are encoded by one call. */
typedef struct lu_gpu_run {
    const lu_encoder *encoder; /* borrowed until the slot was waited for */
    lutra_dtype dtype;         /* F32, F16 or BF16 */
    int64_t n, k;
    /* page-locked, from lu_gpu_slot_lay_out on */
    uint8_t *w;       /* [n][k]: for the caller to fill */
    uint8_t *codes;   /* [n][row bytes], as the three below: results after lu_gpu_slot_wait */
    uint8_t *scales;  /* [n][groups] */
    uint8_t *zeros;   /* [n][groups], or NULL when symmetric */
    double *energies; /* [n][2]: signal, noise; NaN for a row that cannot be encoded */
} lu_gpu_run;

typedef struct lu_gpu_slot {
    lu_gpu *gpu;
    lu_gpu_run runs[LU_GPU_SLOT_RUNS];
    int n_runs;
    size_t in_room, out_room; /* bytes of each of the four blocks */
    size_t in_used, out_used;
    uint8_t *host_in, *host_out; /* page-locked */
    uint8_t *in, *out;           /* on the GPU */
    void *mark;
    bool queued;
} lu_gpu_slot;

/* Bytes that n rows take in the blocks of a slot, at most. */
size_t lu_gpu_slot_in_bytes(lutra_dtype t, int64_t n, int64_t k);
size_t lu_gpu_slot_out_bytes(const lutra_format *f, int64_t n, int64_t k);

/* Takes memory. Close also after a failure. */
lutra_status lu_gpu_slot_open(lu_gpu *g, size_t in_bytes, size_t out_bytes, lu_gpu_slot *s,
                              lutra_err *err);
void lu_gpu_slot_close(lu_gpu_slot *s); /* waits; a slot of zeros is fine */

/* Forgets the runs. */
void lu_gpu_slot_clear(lu_gpu_slot *s);

/* Adds n rows: to the last run if they follow it, else as a new one. False if there is no room. */
bool lu_gpu_slot_add(lu_gpu_slot *s, const lu_encoder *e, lutra_dtype t, int64_t n, int64_t k,
                     bool follows);
void lu_gpu_slot_lay_out(lu_gpu_slot *s);

/* Queues copies and kernels for all runs, whose weights are in place. */
lutra_status lu_gpu_slot_queue(lu_gpu_slot *s, lutra_err *err);
/* Returns when the results are there; at once if nothing was queued. */
lutra_status lu_gpu_slot_wait(lu_gpu_slot *s, lutra_err *err);

#endif

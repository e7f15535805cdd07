/* decode_gpu.h - bench_decode on a GPU. */
#ifndef BENCH_DECODE_GPU_H
#define BENCH_DECODE_GPU_H

#include "lutra/tensor.h"

typedef struct bench_gpu_options {
    const char *folder, *device, *act_quant;
    lutra_dtype dtype;
    int64_t prompt, context, tokens;
    bool json;
} bench_gpu_options;

/* Loads, prefills, decodes batches of 1, 4, 16 and 64 sequences; prints one line each. 0 if all
   went well. */
int bench_decode_on_gpu(const bench_gpu_options *o);

#endif

/* encode_gpu.h - bench_quantize's part on a GPU: the encoder alone. */
#ifndef BENCH_ENCODE_GPU_H
#define BENCH_ENCODE_GPU_H

#include "base/status.h"

/* Encodes an fp16 matrix that lies in the GPU's memory in several formats and prints GB of weights
   per second, one line each. */
lutra_status bench_encode_on_gpu(const char *device, bool json, lutra_err *err);

#endif

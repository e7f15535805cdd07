/* gpu_emulated.h - a GPU of plain C: memory is the host's, work is done when it is queued,
   arithmetic is float64 with results rounded where the kernels round. It is what the engine's walk
   on a GPU is tested on where there is none, and the meaning that kern/cuda's faces document.
   Recording is emulated too: between begin and end calls are kept with their arguments, and launch
   runs them. A late GPU does nothing before somebody waits for it: who reads too early, or writes
   over what was only queued, gets wrong bytes. */
#ifndef TESTS_SUPPORT_GPU_EMULATED_H
#define TESTS_SUPPORT_GPU_EMULATED_H

#include "kern/gpu.h"

/* Two GPUs. */
const lu_gpu_api *gpu_emulated(void);

/* Settings and counters of the emulation; reset sets memory to 1 GB and counters to 0. */
typedef struct gpu_emulated_state {
    size_t memory;    /* bytes of a GPU */
    size_t taken;     /* of it */
    int64_t launches; /* of graphs */
    int64_t recorded; /* graphs */
    int64_t fail_at;  /* the call of a kernel that fails, 1 = the next; 0 = none */
    bool late;        /* for calls whose arguments hold no host memory that may change */
} gpu_emulated_state;
extern gpu_emulated_state gpu_emulated_now;
void gpu_emulated_reset(void);

#endif

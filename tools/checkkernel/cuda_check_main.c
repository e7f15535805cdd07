/* cuda_check_main.c - checks, then times, the GPU operations.

     check_cuda_ops [check [OPERATION] | time [rows|decode|prefill|sample]]

   Exits 0 if all is well, 1 if a check failed, 77 if there is no GPU. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_check.h"

enum { TIME_LIMIT = 60, NO_GPU = 77 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* In a child: the parent must not touch the driver before it forks. */
static int check_one(const cc_op *op)
{
    cc t = {0};
    const double start = now();
    alarm(TIME_LIMIT);
    lu_random_seed(&t.random, 20240607);
    op->check(&t);
    cc_case(&t, "end");
    const cudaError_t e = cudaDeviceSynchronize();
    if (e != cudaSuccess) {
        printf("  %s: %s\n", op->name, cudaGetErrorString(e));
        t.n_failed++;
    }
    printf("%-22s %s %4d cases, worst error %.2e, %d faults planted%s, %.1f s\n", op->name,
           t.n_failed ? "FAILED" : "ok    ", t.n_cases - 1, t.worst, t.n_planted,
           t.n_missed ? " (SOME MISSED)" : "", now() - start);
    fflush(stdout);
    return t.n_failed ? 1 : 0;
}

static int run_child(const cc_op *op)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0)
        _exit(check_one(op));
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
        return WEXITSTATUS(status);
    printf("%-22s FAILED: %s %d\n", op->name, WIFSIGNALED(status) ? "signal" : "exit",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 1;
}

static int count_gpus(void)
{
    const pid_t child = fork();
    if (child == 0) {
        int n = 0;
        _exit(cudaGetDeviceCount(&n) == cudaSuccess && n > 0 ? 0 : 1);
    }
    int status = 1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv)
{
    const cc_op *const lists[] = {cc_lut_ops,   cc_row_ops,    cc_attend_ops, cc_sample_ops,
                                  cc_chain_ops, cc_encode_ops, cc_int8_ops};
    const int n_lists = sizeof lists / sizeof *lists;
    const bool check = argc < 2 || strcmp(argv[1], "time") != 0,
               times = argc < 2 || strcmp(argv[1], "check") != 0;
    const char *only = argc > 2 ? argv[2] : NULL;
    int failed = 0, run = 0;
    if (!count_gpus()) {
        fprintf(stderr, "check_cuda_ops: no GPU\n");
        return NO_GPU;
    }
    for (int l = 0; check && l < n_lists; l++)
        for (const cc_op *op = lists[l]; op->name; op++)
            if (!only || strstr(op->name, only)) {
                run++;
                failed += run_child(op);
            }
    if (times)
        failed += cc_time_ops(only) != 0;
    printf("check_cuda_ops: %d operations, %d failed\n", run, failed);
    return failed ? 1 : 0;
}

/* cuda_check.c - see cuda_check.h */
#include "cuda_check.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/convert.h"

enum { GUARD = 1024, PATTERN = 0xa5, MOST_LINES = 4 };

static void need(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    printf("  cuda: %s: %s\n", what, cudaGetErrorString(e));
    fflush(stdout);
    _Exit(3);
}

void *cc_host(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p)
        _Exit(4);
    return p;
}

static void forget(cc *t)
{
    for (int i = 0; i < t->n_buffers; i++) {
        cudaFree(t->buffers[i].map);
        free(t->buffers[i].copy);
    }
    t->n_buffers = 0;
}

void cc_case(cc *t, const char *fmt, ...)
{
    forget(t);
    va_list args;
    va_start(args, fmt);
    vsnprintf(t->at, sizeof t->at, fmt, args);
    va_end(args);
    t->n_cases++;
}

void cc_fail(cc *t, const char *fmt, ...)
{
    if (t->planting) {
        t->differed = true;
        return;
    }
    if (t->n_failed++ >= MOST_LINES)
        return;
    va_list args;
    va_start(args, fmt);
    printf("  %s: ", t->at);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
}

static void *place(cc *t, const void *host, size_t bytes, bool constant)
{
    if (t->n_buffers == CC_MOST_BUFFERS)
        _Exit(5);
    cc_buffer *b = &t->buffers[t->n_buffers++];
    need(cudaMalloc((void **)&b->map, bytes + 2 * GUARD), "cudaMalloc");
    need(cudaMemset(b->map, PATTERN, bytes + 2 * GUARD), "cudaMemset");
    b->data = b->map + GUARD;
    b->bytes = bytes;
    b->copy = NULL;
    if (host)
        need(cudaMemcpy(b->data, host, bytes, cudaMemcpyHostToDevice), "copy in");
    else
        need(cudaMemset(b->data, 0xff, bytes), "cudaMemset");
    if (constant) {
        b->copy = cc_host(bytes);
        memcpy(b->copy, host, bytes);
    }
    return b->data;
}

const void *cc_input(cc *t, const void *host, size_t bytes)
{
    return host ? place(t, host, bytes, true) : NULL;
}
void *cc_fresh(cc *t, const void *host, size_t bytes)
{
    return host ? place(t, host, bytes, false) : NULL;
}
void *cc_output(cc *t, size_t bytes) { return place(t, NULL, bytes, false); }

void cc_fetch(cc *t, const void *device, void *host, size_t bytes)
{
    const cudaError_t e = cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost);
    if (e == cudaSuccess)
        return;
    printf("  %s: %s\n", t->at, cudaGetErrorString(e));
    fflush(stdout);
    _Exit(3); /* the context is lost */
}

void cc_status(cc *t, int status)
{
    if (status)
        cc_fail(t, "status %d (%s)", status,
                status < 1000 ? cudaGetErrorString((cudaError_t)status) : "shape");
}

void cc_end(cc *t)
{
    static uint8_t guard[GUARD];
    for (int i = 0; i < t->n_buffers; i++) {
        const cc_buffer *b = &t->buffers[i];
        for (int side = 0; side < 2; side++) {
            cc_fetch(t, side ? b->map + GUARD + b->bytes : b->map, guard, GUARD);
            for (int k = 0; k < GUARD; k++)
                if (guard[k] != PATTERN) {
                    cc_fail(t, "buffer %d written %s, %d bytes off", i, side ? "behind" : "ahead",
                            side ? k : GUARD - k);
                    break;
                }
        }
        if (!b->copy)
            continue;
        uint8_t *now = cc_host(b->bytes);
        cc_fetch(t, b->data, now, b->bytes);
        if (memcmp(now, b->copy, b->bytes))
            cc_fail(t, "input %d changed", i);
        free(now);
    }
}

double cc_uniform(cc *t, double lo, double hi)
{
    return lo + (hi - lo) * lu_random_unit(&t->random);
}
int64_t cc_pick(cc *t, int64_t lo, int64_t hi)
{
    return lo + (int64_t)(lu_random_next(&t->random) % (uint64_t)(hi - lo + 1));
}

float cc_act_value(uint16_t v, int bf16) { return bf16 ? lu_bf16_to_f32(v) : lu_f16_to_f32(v); }
uint16_t cc_to_act(float v, int bf16) { return bf16 ? lu_f32_to_bf16(v) : lu_f32_to_f16(v); }

uint16_t *cc_random_act(cc *t, int64_t n, double sigma, int bf16)
{
    uint16_t *p = cc_host((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) { /* four uniforms: near enough to a normal law */
        uint64_t r = lu_random_next(&t->random);
        int sum = 0;
        for (int k = 0; k < 4; k++, r >>= 16)
            sum += (int)(r & 0xffff);
        p[i] = cc_to_act((float)(sigma * (sum - 131070) / 37837.0), bf16);
    }
    return p;
}

float *cc_random_float(cc *t, int64_t n, double lo, double hi)
{
    float *p = cc_host((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        p[i] = (float)cc_uniform(t, lo, hi);
    return p;
}

/* The first element that is wrong, -1 if none; *error: of the whole. */
static int64_t first_wrong(const float *out, const double *ref, int64_t n, double each,
                           double *error)
{
    double squares = 0.0, wrong = 0.0;
    for (int64_t i = 0; i < n; i++)
        squares += ref[i] * ref[i];
    const double rms = sqrt(squares / (double)n);
    int64_t at = -1;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)out[i] - ref[i]);
        wrong += d * d;
        if (at < 0 && !(d <= each * (fabs(ref[i]) + rms)))
            at = i;
    }
    *error = squares > 0.0 ? sqrt(wrong / squares) : sqrt(wrong);
    return at;
}

void cc_compare(cc *t, const char *what, const float *out, const double *ref, int64_t n,
                double whole, double each)
{
    double error;
    const int64_t at = first_wrong(out, ref, n, each, &error);
    if (!t->planting && !(error <= t->worst))
        t->worst = error;
    if (at >= 0)
        cc_fail(t, "%s: error %.3g, first wrong %lld of %lld: %.7g for %.7g", what, error,
                (long long)at, (long long)n, (double)out[at], ref[at]);
    else if (!(error <= whole))
        cc_fail(t, "%s: error %.3g above %.3g", what, error, whole);
}

void cc_compare_act(cc *t, const char *what, const void *device, const double *ref, int64_t n,
                    int bf16)
{
    uint16_t *bits = cc_host((size_t)n * 2);
    float *out = cc_host((size_t)n * 4);
    cc_fetch(t, device, bits, (size_t)n * 2);
    for (int64_t i = 0; i < n; i++)
        out[i] = cc_act_value(bits[i], bf16);
    cc_compare(t, what, out, ref, n, bf16 ? 3e-3 : 5e-4, bf16 ? 8e-3 : 2e-3);
    free(out);
    free(bits);
}

void cc_same_bits(cc *t, const char *what, const void *a, const void *b, size_t bytes)
{
    uint8_t *x = cc_host(bytes), *y = cc_host(bytes);
    cc_fetch(t, a, x, bytes);
    cc_fetch(t, b, y, bytes);
    size_t i = 0;
    while (i < bytes && x[i] == y[i])
        i++;
    if (i < bytes)
        cc_fail(t, "%s: bits differ from byte %zu of %zu on", what, i, bytes);
    free(x);
    free(y);
}

void cc_plant(cc *t)
{
    t->planting = true;
    t->differed = false;
}

void cc_planted(cc *t, const char *fault)
{
    t->planting = false;
    t->n_planted++;
    if (t->differed)
        return;
    t->n_missed++;
    cc_fail(t, "planted fault not noticed: %s", fault);
}

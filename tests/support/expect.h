/* expect.h - what many tests need of a result: that it succeeded, and how far numbers are apart. */
#ifndef TESTS_SUPPORT_EXPECT_H
#define TESTS_SUPPORT_EXPECT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lutra/base.h"

/* Fails with the message of err unless status is OK. */
static inline void must(lutra_status status, const lutra_err *err)
{
    if (status != LUTRA_OK)
        fail_msg("%s: %s", lutra_status_text(status), err->msg);
}

static inline lutra_ctx *open_ctx(int n_threads)
{
    lutra_options o;
    lutra_ctx *ctx = NULL;
    lutra_err err;
    lutra_options_init(&o);
    o.n_threads = n_threads;
    must(lutra_open(&o, &ctx, &err), &err);
    return ctx;
}

/* ||a - b|| / ||b||; NaN if either has one */
static inline double relative(const float *a, const float *b, int64_t n)
{
    double d = 0.0, s = 0.0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / s);
}

#endif

/* context.c - opening and closing a context; clock and memory readings. Whether the CPU level
   exists is checked where kernels are chosen (kern/table.c): this room does not know kernels. */
#define _GNU_SOURCE
#include "base/context.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/mem.h"

#define MAX_THREADS 1024

void lutra_options_init(lutra_options *opt)
{
    memset(opt, 0, sizeof *opt);
    opt->size = sizeof *opt;
}

lutra_status lutra_open(const lutra_options *opt, lutra_ctx **out, lutra_err *err)
{
    lutra_options o;
    lutra_options_init(&o);
    if (opt)
        memcpy(&o, opt, opt->size < sizeof o ? opt->size : sizeof o);
    if (o.n_threads < 0 || o.n_threads > MAX_THREADS)
        return lu_fail(err, LUTRA_E_ARG, "%d threads asked for, expected 0 to %d", o.n_threads, MAX_THREADS);
    if (o.n_threads == 0)
        o.n_threads = lu_cpu_count();
    lutra_ctx *ctx = lu_calloc(1, sizeof *ctx);
    if (!ctx)
        return lu_fail_nomem(err, sizeof *ctx);
    if (o.cpu && strlen(o.cpu) >= sizeof ctx->cpu_name) {
        lu_free(ctx);
        return lu_fail(err, LUTRA_E_ARG, "unknown CPU level '%.40s'", o.cpu);
    }
    ctx->options = o;
    if (o.cpu) {
        memcpy(ctx->cpu_name, o.cpu, strlen(o.cpu) + 1);
        ctx->options.cpu = ctx->cpu_name;
    }
    const lutra_status status = lu_pool_open(o.n_threads, &ctx->pool, err);
    if (status != LUTRA_OK) {
        lu_free(ctx);
        return status;
    }
    *out = ctx;
    return LUTRA_OK;
}

void lutra_close(lutra_ctx *ctx)
{
    if (!ctx)
        return;
    lu_pool_close(ctx->pool);
    lu_free(ctx);
}

int lutra_n_threads(const lutra_ctx *ctx) { return ctx->options.n_threads; }

void lu_log(const lutra_ctx *ctx, lutra_log_level level, const char *fmt, ...)
{
    if (!ctx->options.log)
        return;
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    lu_printable(line);
    ctx->options.log(ctx->options.user, level, line);
}

void lu_progress(const lutra_ctx *ctx, const char *stage, const char *item, const char *unit,
                 int64_t done, int64_t total)
{
    if (!ctx->options.progress)
        return;
    const lutra_progress p = {.stage = stage, .item = item, .unit = unit, .done = done, .total = total};
    ctx->options.progress(ctx->options.user, &p);
}

lutra_status lu_check_cancel(const lutra_ctx *ctx, lutra_err *err)
{
    if (ctx->options.cancelled && ctx->options.cancelled(ctx->options.user))
        return lu_fail(err, LUTRA_E_CANCELLED, "stopped on request");
    return LUTRA_OK;
}

double lu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t lu_peak_rss(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (int64_t)u.ru_maxrss * 1024 : 0;
}

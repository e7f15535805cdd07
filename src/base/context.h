/* context.h - what a lutra_ctx holds: the options, the thread pool, log/progress/cancel helpers. */
#ifndef LU_BASE_CONTEXT_H
#define LU_BASE_CONTEXT_H

#include "base/pool.h"

struct lu_gpu_api;

struct lutra_ctx {
    lutra_options options; /* n_threads filled in; cpu points at cpu_name or is NULL */
    char cpu_name[16];
    lu_pool *pool;
    const struct lu_gpu_api *gpu; /* kern/gpu.h; NULL = what is built in. Tests put an emulation here */
};

void lu_log(const lutra_ctx *ctx, lutra_log_level level, const char *fmt, ...) LUTRA_PRINTF(3, 4);
void lu_progress(const lutra_ctx *ctx, const char *stage, const char *item, const char *unit,
                 int64_t done, int64_t total);

/* E_CANCELLED once the caller asked to stop, else OK. */
lutra_status lu_check_cancel(const lutra_ctx *ctx, lutra_err *err);

double lu_seconds(void);   /* monotonic clock */
int64_t lu_peak_rss(void); /* peak resident bytes of this process */

#endif

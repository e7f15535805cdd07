/* lutra/base.h - status codes, error messages, the context, progress and cancellation.
   Everything else in the public API builds on this file.

   Conventions of the whole API:
   - Functions that can fail return lutra_status and take a caller-owned `lutra_err *err` (may be
     NULL). On failure err->msg says what, where and what to do; outputs are left untouched.
   - The library never exits, prints or aborts. It holds no global state but the allocator hooks.
   - Strings are UTF-8 and NUL-terminated unless a length is given. Paths are native.
   - Objects are opaque; X_close(NULL) and X_free(NULL) are fine.
   - A context may be used by one thread at a time; separate contexts are independent. */
#ifndef LUTRA_BASE_H
#define LUTRA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define LUTRA_API __attribute__((visibility("default")))
#define LUTRA_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define LUTRA_API
#define LUTRA_PRINTF(fmt, args)
#endif

#define LUTRA_VERSION_MAJOR 0
#define LUTRA_VERSION_MINOR 1
#define LUTRA_VERSION_PATCH 0
#define LUTRA_VERSION "0.1.0"

/* Every status once: name, short text. Numbers never change once published; new ones go last. */
#define LUTRA_STATUS_LIST(X)                                                                      \
    X(LUTRA_OK, "ok")                                                                             \
    X(LUTRA_E_ARG, "bad argument")                                                                \
    X(LUTRA_E_NOMEM, "out of memory")                                                             \
    X(LUTRA_E_IO, "input/output error")                                                           \
    X(LUTRA_E_FORMAT, "malformed input")                                                          \
    X(LUTRA_E_UNSUPPORTED, "not supported")                                                       \
    X(LUTRA_E_EXISTS, "already exists")                                                           \
    X(LUTRA_E_NOSPACE, "no space left")                                                           \
    X(LUTRA_E_LIMIT, "limit reached")                                                             \
    X(LUTRA_E_CANCELLED, "cancelled")                                                             \
    X(LUTRA_E_INTERNAL, "internal error")

typedef enum lutra_status {
#define LUTRA_STATUS_ENUM(name, text) name,
    LUTRA_STATUS_LIST(LUTRA_STATUS_ENUM)
#undef LUTRA_STATUS_ENUM
} lutra_status;

/* Short static text of a status, e.g. "malformed input". Never NULL. */
LUTRA_API const char *lutra_status_text(lutra_status status);

/* Caller-owned error record. msg is one line: subject, fact, expectation or mend. */
typedef struct lutra_err {
    lutra_status status;
    char msg[512];
} lutra_err;

/* Replaces the library's allocator for the whole process. Call before any other lutra function; all
   three must be given; resize must accept NULL. JSON documents live in jansson's own memory while
   they are read or written (json_set_alloc_funcs). */
LUTRA_API void lutra_set_allocator(void *(*alloc)(size_t), void *(*resize)(void *, size_t),
                                   void (*release)(void *));

/* Releases memory that a function said to release so. NULL is fine. */
LUTRA_API void lutra_free(void *p);

/* "lutra 0.1.0" with the compiler and what is built in, one item a line. Static storage. */
LUTRA_API const char *lutra_version(void);

typedef enum lutra_log_level { LUTRA_LOG_ERROR, LUTRA_LOG_WARN, LUTRA_LOG_INFO, LUTRA_LOG_DEBUG } lutra_log_level;

/* One event of a long operation. `done` counts up to `total` (0 = unknown) in `unit`. */
typedef struct lutra_progress {
    const char *stage; /* what is being done: "quantize", "load", "eval" */
    const char *item;  /* what it is at now: a tensor or layer; may be NULL */
    const char *unit;  /* "bytes", "windows" */
    int64_t done, total;
} lutra_progress;

/* Settings of a context. Fill with lutra_options_init, then change what you need. */
typedef struct lutra_options {
    size_t size;      /* sizeof(lutra_options): lets the struct grow */
    int n_threads;    /* 0 = the CPUs this process may use */
    const char *cpu;  /* kernel level: "ref", "avx2", "avx512"; NULL = best available */
    void *user;       /* handed to the callbacks below, which run on the calling thread */
    void (*log)(void *user, lutra_log_level level, const char *line);      /* NULL = silent */
    void (*progress)(void *user, const lutra_progress *p);                 /* NULL = none */
    bool (*cancelled)(void *user); /* polled by long operations; NULL = never */
} lutra_options;

typedef struct lutra_ctx lutra_ctx;

LUTRA_API void lutra_options_init(lutra_options *opt);

/* Opens a context: checks the options, starts the worker threads. opt may be NULL.
   On success *out belongs to the caller (lutra_close). Fails with E_ARG on more than 1024 threads,
   E_NOMEM, E_IO if a thread cannot be started. The CPU level is judged by the calls that compute:
   E_ARG if it is unknown, E_UNSUPPORTED if this machine does not have it. The threads do not
   survive a fork: a child must open contexts of its own and leave the inherited ones alone. */
LUTRA_API lutra_status lutra_open(const lutra_options *opt, lutra_ctx **out, lutra_err *err);
LUTRA_API void lutra_close(lutra_ctx *ctx);
LUTRA_API int lutra_n_threads(const lutra_ctx *ctx);

#ifdef __cplusplus
}
#endif
#endif

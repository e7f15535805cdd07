/* gpu.c - names of devices, opening one, errors as messages (gpu.h). */
#include "kern/gpu.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "lutra/model.h"

#define MAX_ORDINAL 999

lutra_status lu_gpu_parse(const char *device, int *ordinal, lutra_err *err)
{
    int n = 0;
    if (!device || !*device || strcmp(device, "cpu") == 0) {
        *ordinal = -1;
        return LUTRA_OK;
    }
    if (strcmp(device, "cuda") == 0) {
        *ordinal = 0;
        return LUTRA_OK;
    }
    const char *p = strncmp(device, "cuda:", 5) == 0 ? device + 5 : "";
    bool good = *p != '\0';
    for (; *p; p++) {
        good = good && *p >= '0' && *p <= '9';
        n = good && n <= MAX_ORDINAL ? n * 10 + (*p - '0') : MAX_ORDINAL + 1;
    }
    if (!good || n > MAX_ORDINAL)
        return lu_fail(err, LUTRA_E_ARG, "device is '%.40s', expected cpu, cuda or cuda:N", device);
    *ordinal = n;
    return LUTRA_OK;
}

lutra_status lu_gpu_open(const lu_gpu_api *api, int ordinal, lu_gpu **out, lutra_err *err)
{
    int n = 0;
    if (!api)
        api = lu_gpu_builtin();
    LU_TRY(api->count(&n, err));
    if (ordinal >= n)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "device cuda:%d is not here: this machine has %d GPU%s, cuda:0%s", ordinal,
                       n, n == 1 ? "" : "s", n == 1 ? "" : " and up");
    lu_gpu *g = lu_calloc(1, sizeof *g);
    if (!g)
        return lu_fail_nomem(err, sizeof *g);
    g->api = api;
    g->ordinal = ordinal;
    lutra_status status = api->info(ordinal, &g->info, err);
    g->least_free = (size_t)g->info.memory;
    if (status == LUTRA_OK)
        status = api->open(g, err);
    if (status != LUTRA_OK) {
        lu_free(g);
        return status;
    }
    *out = g;
    return LUTRA_OK;
}

void lu_gpu_note_free(lu_gpu *g)
{
    size_t bytes;
    if (g->api->free_memory(g, &bytes) == 0 && bytes < g->least_free)
        g->least_free = bytes;
}

void lu_gpu_close(lu_gpu *g)
{
    if (!g)
        return;
    g->api->close(g);
    lu_free(g);
}

lutra_status lu_gpu_fail(const lu_gpu *g, int error, const char *what, lutra_err *err)
{
    bool nomem = false, unsupported = false;
    const char *text = error == LU_CUDA_E_SHAPE ? "a shape that the kernel does not take"
                                                : g->api->error_text(error, &nomem, &unsupported);
    const lutra_status status = nomem         ? LUTRA_E_NOMEM
                                : unsupported ? LUTRA_E_UNSUPPORTED
                                              : LUTRA_E_INTERNAL;
    return lu_fail(err, status, "%s:%d: %s: %s", g->api->name, g->ordinal, what, text);
}

const char *lutra_gpu_list(char *buf, size_t size)
{
    const lu_gpu_api *api = lu_gpu_builtin();
    lutra_err err;
    int n = 0;
    size_t used = 0;
    if (api->count(&n, &err) != LUTRA_OK) {
        snprintf(buf, size, "none: %s", err.msg);
        return buf;
    }
    for (int i = 0; i < n && used < size; i++) {
        lu_gpu_info info;
        if (api->info(i, &info, &err) != LUTRA_OK)
            used += (size_t)snprintf(buf + used, size - used, "%s%s:%d %s", i ? "\n" : "",
                                     api->name, i, err.msg);
        else
            used += (size_t)snprintf(
                buf + used, size - used,
                "%s%s:%d %s, compute capability %d.%d, %.1f GB, driver for CUDA %d.%d",
                i ? "\n" : "", api->name, i, info.name, info.capability / 10, info.capability % 10,
                (double)info.memory / 1e9, info.driver / 1000, info.driver % 1000 / 10);
    }
    return buf;
}

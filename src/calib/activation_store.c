/* activation_store.c - see activation_store.h. The file is written and read with explicit calls,
   not mapped, so that its pages never count as this process's memory. */
#define _GNU_SOURCE
#include "calib/activation_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

static lutra_status open_file(lu_store *s, const char *folder, size_t bytes, lutra_err *err)
{
    s->path = lu_path_join(folder, "activations.XXXXXX");
    if (!s->path)
        return lu_fail_nomem(err, strlen(folder));
    s->fd = mkstemp(s->path);
    if (s->fd < 0)
        return lu_fail_errno(err, errno, s->path, "create");
    unlink(s->path);
    const int error = posix_fallocate(s->fd, 0, (off_t)bytes);
    if (error == ENOSPC)
        return lu_fail(err, LUTRA_E_NOSPACE,
                       "%s: needs %.1f MB for activations: make room, allow more memory, or take "
                       "fewer samples",
                       folder, (double)bytes / 1e6);
    return LUTRA_OK; /* a file system that cannot reserve tells when it is written */
}

lutra_status lu_store_open(int64_t rows, int64_t cols, int64_t budget, const char *folder,
                           lu_store *out, lutra_err *err)
{
    size_t bytes;
    lu_store s = {.rows = rows, .cols = cols, .fd = -1};
    if (!lu_mul_size((size_t)rows, (size_t)cols, &bytes) ||
        !lu_mul_size(bytes, sizeof(float), &bytes) || bytes > INT64_MAX)
        return lu_fail(err, LUTRA_E_LIMIT, "activations of %lld tokens are too many to hold",
                       (long long)rows);
    lutra_status status = LUTRA_OK;
    if ((int64_t)bytes > budget) {
        status = open_file(&s, folder, bytes, err);
    } else {
        s.memory = lu_alloc_aligned(bytes);
        status = s.memory ? LUTRA_OK : lu_fail_nomem(err, bytes);
    }
    if (status == LUTRA_OK)
        *out = s;
    else
        lu_store_close(&s);
    return status;
}

void lu_store_close(lu_store *s)
{
    lu_free_aligned(s->memory);
    if (s->path && s->fd >= 0)
        close(s->fd);
    lu_free(s->path);
    *s = (lu_store){.fd = -1};
}

lutra_status lu_store_read(const lu_store *s, int64_t row, int64_t n, float *out, lutra_err *err)
{
    const size_t bytes = (size_t)(n * s->cols) * sizeof(float),
                 at = (size_t)(row * s->cols) * sizeof(float);
    if (s->memory) {
        memcpy(out, (const char *)s->memory + at, bytes);
        return LUTRA_OK;
    }
    for (size_t done = 0; done < bytes;) {
        const ssize_t got = pread(s->fd, (char *)out + done, bytes - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return lu_fail_errno(err, got < 0 ? errno : EIO, s->path, "read");
        done += (size_t)got;
    }
    return LUTRA_OK;
}

lutra_status lu_store_write(lu_store *s, int64_t row, int64_t n, const float *x, lutra_err *err)
{
    const size_t bytes = (size_t)(n * s->cols) * sizeof(float),
                 at = (size_t)(row * s->cols) * sizeof(float);
    if (s->memory) {
        memcpy((char *)s->memory + at, x, bytes);
        return LUTRA_OK;
    }
    return lu_write_at(s->fd, s->path, x, bytes, at, err);
}

/* file.c - maps, whole reads and atomic replacement of files, see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#define READ_STEP ((size_t)1 << 16)

static lutra_status open_to_read(const char *path, int *fd, struct stat *st, lutra_err *err)
{
    do
        *fd = open(path, O_RDONLY | O_CLOEXEC);
    while (*fd < 0 && errno == EINTR);
    if (*fd < 0)
        return lu_fail_errno(err, errno, path, "open");
    lutra_status status = LUTRA_OK;
    if (fstat(*fd, st) != 0)
        status = lu_fail_errno(err, errno, path, "stat");
    else if (S_ISDIR(st->st_mode))
        status = lu_fail(err, LUTRA_E_IO, "%s: is a folder, expected a file", path);
    if (status != LUTRA_OK)
        close(*fd);
    return status;
}

lutra_status lu_map_open(const char *path, lu_map *out, lutra_err *err)
{
    int fd;
    struct stat st;
    LU_TRY(open_to_read(path, &fd, &st, err));
    lu_map m = {NULL, 0};
    lutra_status status = LUTRA_OK;
    if (!S_ISREG(st.st_mode)) {
        status = lu_fail(err, LUTRA_E_IO, "%s: is not a regular file and cannot be mapped", path);
    } else if ((uint64_t)st.st_size > SIZE_MAX) {
        status =
            lu_fail(err, LUTRA_E_LIMIT, "%s: too large for this machine's address space", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            status = lu_fail_errno(err, errno, path, "map");
        } else {
            m.data = p;
            m.size = (size_t)st.st_size;
        }
    }
    close(fd);
    if (status == LUTRA_OK)
        *out = m;
    return status;
}

void lu_map_close(lu_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    m->data = NULL;
    m->size = 0;
}

/* Calls madvise for [p, p + size), cut to whole pages inside it or widened to the pages it touches.
 */
static void advise(const void *p, size_t size, bool widen, int advice)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p;
    const uintptr_t before = widen ? 0 : page - 1, after = widen ? page - 1 : 0;
    const uintptr_t begin = (at + before) / page * page, end = (at + size + after) / page * page;
    if (end > begin)
        (void)madvise((void *)begin, end - begin, advice);
}

void lu_map_prefetch(const void *p, size_t size) { advise(p, size, true, MADV_WILLNEED); }

void lu_map_release(const void *p, size_t size) { advise(p, size, false, MADV_DONTNEED); }

/* Reads fd to its end. st_size is a first guess only: files under /proc say 0. */
static lutra_status read_all(int fd, const char *path, size_t guess, size_t limit, char **data,
                             size_t *size, lutra_err *err)
{
    size_t capacity = (guess < limit ? guess : limit) + 1, used = 0;
    char *buf = NULL;
    for (;;) {
        char *grown = lu_resize(buf, capacity + 1);
        if (!grown) {
            lu_free(buf);
            return lu_fail_nomem(err, capacity + 1);
        }
        buf = grown;
        while (used < capacity) {
            const ssize_t got = read(fd, buf + used, capacity - used);
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0) {
                const int error = errno;
                lu_free(buf);
                return lu_fail_errno(err, error, path, "read");
            }
            if (got == 0) {
                buf[used] = '\0';
                *data = buf;
                *size = used;
                return LUTRA_OK;
            }
            used += (size_t)got;
        }
        if (used > limit) {
            lu_free(buf);
            return lu_fail(err, LUTRA_E_LIMIT, "%s: larger than the %zu bytes expected at most",
                           path, limit);
        }
        capacity = capacity < READ_STEP ? READ_STEP : capacity * 2;
        capacity = capacity < limit ? capacity : limit + 1;
    }
}

lutra_status lu_file_read(const char *path, size_t limit, char **data, size_t *size, lutra_err *err)
{
    int fd;
    struct stat st;
    LU_TRY(open_to_read(path, &fd, &st, err));
    const size_t guess = st.st_size > 0 ? (size_t)st.st_size : 0;
    const lutra_status status =
        S_ISREG(st.st_mode) && guess > limit
            ? lu_fail(err, LUTRA_E_LIMIT, "%s: %zu bytes, expected at most %zu", path, guess, limit)
            : read_all(fd, path, guess, limit, data, size, err);
    close(fd);
    return status;
}

lutra_status lu_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset,
                         lutra_err *err)
{
    const char *p = data;
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return lu_fail(err, LUTRA_E_LIMIT, "%s: cannot write at offset %llu", path,
                       (unsigned long long)offset);
    while (size) {
        const ssize_t put = pwrite(fd, p, size, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return lu_fail_errno(err, put < 0 ? errno : EIO, path, "write");
        p += put;
        size -= (size_t)put;
        offset += (uint64_t)put;
    }
    return LUTRA_OK;
}

void lu_path_sync_parent(const char *path)
{
    const size_t n = (size_t)(lu_path_base(path) - path);
    char dir[PATH_MAX] = "."; /* the work is done: nothing that could fail for want of memory */
    if (n >= sizeof dir)
        return;
    if (n) {
        memcpy(dir, path, n);
        dir[n] = '\0';
    }
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

lutra_status lu_file_write(const char *path, const void *data, size_t size, lutra_err *err)
{
    const size_t room = strlen(path) + 48;
    char *temp = lu_alloc(room);
    if (!temp)
        return lu_fail_nomem(err, room);
    int fd = -1;
    for (int i = 0; i < 100 && fd < 0; i++) { /* not mkstemp: the file gets the umask's mode */
        snprintf(temp, room, "%s.tmp%ld-%d", path, (long)getpid(), i);
        fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    if (fd < 0) {
        const int error = errno;
        lu_free(temp);
        return lu_fail_errno(err, error, path, "create");
    }
    lutra_status status = lu_write_at(fd, path, data, size, 0, err);
    if (status == LUTRA_OK && fsync(fd) != 0)
        status = lu_fail_errno(err, errno, path, "sync");
    if (close(fd) != 0 && status == LUTRA_OK)
        status = lu_fail_errno(err, errno, path, "close");
    if (status == LUTRA_OK && rename(temp, path) != 0)
        status = lu_fail_errno(err, errno, path, "replace");
    if (status == LUTRA_OK)
        lu_path_sync_parent(path);
    else
        unlink(temp);
    lu_free(temp);
    return status;
}

bool lu_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

bool lu_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *lu_path_join(const char *dir, const char *name)
{
    const size_t n = strlen(dir), m = strlen(name);
    const bool slash = n && dir[n - 1] != '/';
    char *path = lu_alloc(n + slash + m + 1);
    if (path) {
        memcpy(path, dir, n);
        path[n] = '/'; /* overwritten when dir ends in one */
        memcpy(path + n + slash, name, m + 1);
    }
    return path;
}

const char *lu_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* journal.c - see journal.h. */
#include "calib/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define HEAD "lutra journal 2\nrequest %016" PRIx64 "\n"
#define LIMIT                                                                           \
    ((size_t)64 << 20) /* a line has under 100 bytes, a checkpoint some 100 000 tensors \
                        */
#define LINE 128

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static double from_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Reads the lines of text that are complete; *size becomes the length of what was understood. */
static void read_lines(char *text, lu_journal_entry *entries, int64_t n, uint64_t *size)
{
    char *at = text + *size;
    for (char *end; (end = strchr(at, '\n')); at = end + 1) {
        int64_t i;
        uint64_t signal, noise, error;
        *end = '\0';
        if (sscanf(at, "done %" SCNd64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &i, &signal, &noise,
                   &error) != 4 ||
            i < 0 || i >= n)
            break;
        entries[i] =
            (lu_journal_entry){true, from_bits(signal), from_bits(noise), from_bits(error)};
    }
    *size = (uint64_t)(at - text);
}

static lutra_status start(lu_journal *j, const char *head, lutra_err *err)
{
    if (ftruncate(j->fd, 0) != 0)
        return lu_fail_errno(err, errno, j->path, "empty");
    LU_TRY(lu_write_at(j->fd, j->path, head, strlen(head), 0, err));
    j->size = strlen(head);
    return fsync(j->fd) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, j->path, "sync");
}

static lutra_status resume(lu_journal *j, const char *folder, const char *head,
                           lu_journal_entry *entries, int64_t n, lutra_err *err)
{
    char *text;
    size_t size;
    LU_TRY(lu_file_read(j->path, LIMIT, &text, &size, err));
    const size_t head_size = strlen(head);
    lutra_status status = LUTRA_OK;
    if (size < head_size) { /* new, or the process died as it began */
        status = start(j, head, err);
    } else if (memcmp(text, head, head_size) != 0) {
        status = lu_fail(
            err, LUTRA_E_EXISTS,
            "%s: holds the unfinished work of another request (other settings, or the input "
            "changed): finish that one, remove the folder, or ask for a restart",
            folder);
    } else {
        j->size = head_size;
        read_lines(text, entries, n, &j->size);
        if (ftruncate(j->fd, (off_t)j->size) != 0)
            status = lu_fail_errno(err, errno, j->path, "cut");
    }
    lu_free(text);
    return status;
}

lutra_status lu_journal_open(const char *folder, uint64_t request, lu_journal_entry *entries,
                             int64_t n, lu_journal *out, lutra_err *err)
{
    char head[LINE];
    lu_journal j = {.fd = -1, .path = lu_path_join(folder, LU_JOURNAL_NAME)};
    snprintf(head, sizeof head, HEAD, request);
    lutra_status status = j.path ? LUTRA_OK : lu_fail_nomem(err, strlen(folder));
    if (status == LUTRA_OK) {
        j.fd = open(j.path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        status = j.fd >= 0 ? resume(&j, folder, head, entries, n, err)
                           : lu_fail_errno(err, errno, j.path, "create");
    }
    if (status == LUTRA_OK)
        *out = j;
    else
        lu_journal_close(&j, false);
    return status;
}

/* Entry first + i of the list, or first + i itself without one, for i in [0, n). */
static lutra_status append(lu_journal *j, const lu_journal_entry *entries, const int64_t *list,
                           int64_t first, int64_t n, lutra_err *err)
{
    char *text = lu_array((size_t)n, LINE);
    size_t size = 0;
    if (!text)
        return lu_fail_nomem(err, (size_t)n * LINE);
    for (int64_t i = first; i < first + n; i++) {
        const int64_t at = list ? list[i] : i;
        const lu_journal_entry *e = &entries[at];
        if (e->done)
            size +=
                (size_t)snprintf(text + size, LINE,
                                 "done %" PRId64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 "\n",
                                 at, bits_of(e->signal), bits_of(e->noise), bits_of(e->error));
    }
    lutra_status status = lu_write_at(j->fd, j->path, text, size, j->size, err);
    lu_free(text);
    LU_TRY(status);
    j->size += size;
    return fdatasync(j->fd) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, j->path, "sync");
}

lutra_status lu_journal_add(lu_journal *j, const lu_journal_entry *entries, int64_t begin,
                            int64_t end, lutra_err *err)
{
    return append(j, entries, NULL, begin, end - begin, err);
}

lutra_status lu_journal_add_list(lu_journal *j, const lu_journal_entry *entries,
                                 const int64_t *list, int64_t n, lutra_err *err)
{
    return append(j, entries, list, 0, n, err);
}

void lu_journal_close(lu_journal *j, bool remove)
{
    if (j->fd >= 0) {
        if (remove)
            unlink(j->path);
        close(j->fd);
    }
    lu_free(j->path);
    *j = (lu_journal){.fd = -1};
}

/* out_folder.c - see out_folder.h. An existing output is replaced by exchanging the two names where
   the file system can do that, so that the name always leads to a whole checkpoint. Only folders of
   plain files are ever deleted, never a tree. */
#define _GNU_SOURCE
#include "calib/out_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define PARTIAL ".partial"
#define OLD ".old"

static char *with_suffix(const char *path, size_t n, const char *suffix)
{
    char *s = lu_alloc(n + strlen(suffix) + 1);
    if (s) {
        memcpy(s, path, n);
        memcpy(s + n, suffix, strlen(suffix) + 1);
    }
    return s;
}

static int not_dots(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

lutra_status lu_folder_list(const char *folder, lu_visit visit, void *arg, lutra_err *err)
{
    struct dirent **names;
    const int n = scandir(folder, &names, not_dots, by_bytes);
    if (n < 0)
        return lu_fail_errno(err, errno, folder, "list");
    lutra_status status = LUTRA_OK;
    for (int i = 0; i < n; i++) {
        if (status == LUTRA_OK)
            status = visit(arg, folder, names[i]->d_name, err);
        (free)(names[i]); /* scandir's memory */
    }
    (free)(names);
    return status;
}

static lutra_status require_plain(void *arg, const char *folder, const char *name, lutra_err *err)
{
    struct stat st;
    (void)arg;
    char *path = lu_path_join(folder, name);
    const bool plain = path && lstat(path, &st) == 0 && !S_ISDIR(st.st_mode);
    lu_free(path);
    return plain ? LUTRA_OK
                 : lu_fail(
                       err, LUTRA_E_EXISTS,
                       "%s: exists and holds the folder '%s', expected a checkpoint's plain files: "
                       "remove it yourself or choose another name",
                       folder, name);
}

static lutra_status note_file(void *arg, const char *folder, const char *name, lutra_err *err)
{
    (void)folder, (void)name, (void)err;
    *(bool *)arg = true;
    return LUTRA_OK;
}

/* Whether a folder may be replaced, which deletes it: one slip in a name must not cost anybody a
   folder of other things. */
static lutra_status require_checkpoint(const char *path, lutra_err *err)
{
    bool any = false;
    LU_TRY(lu_folder_list(path, require_plain, NULL, err));
    LU_TRY(lu_folder_list(path, note_file, &any, err));
    char *config = lu_path_join(path, "config.json");
    if (!config)
        return lu_fail_nomem(err, strlen(path));
    const bool good = !any || lu_path_exists(config);
    lu_free(config);
    return good ? LUTRA_OK
                : lu_fail(err, LUTRA_E_EXISTS,
                          "%s: exists and holds files but no config.json, so it is no checkpoint: "
                          "remove it yourself or choose another name",
                          path);
}

static lutra_status delete_entry(void *arg, const char *folder, const char *name, lutra_err *err)
{
    (void)arg;
    char *path = lu_path_join(folder, name);
    if (!path)
        return lu_fail_nomem(err, strlen(folder));
    const lutra_status status =
        unlink(path) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, path, "delete");
    lu_free(path);
    return status;
}

static lutra_status delete_folder(const char *path, lutra_err *err)
{
    LU_TRY(lu_folder_list(path, delete_entry, NULL, err));
    return rmdir(path) == 0 ? LUTRA_OK : lu_fail_errno(err, errno, path, "delete");
}

lutra_status lu_out_check(const char *in, const char *path, bool overwrite, lu_out_folder *out,
                          lutra_err *err)
{
    struct stat a, b;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    *out = (lu_out_folder){.overwrite = overwrite, .lock = -1};
    if (n == 0)
        return lu_fail(err, LUTRA_E_ARG, "output folder has an empty name");
    out->path = lu_strndup(path, n);
    out->partial = with_suffix(path, n, PARTIAL);
    if (!out->path || !out->partial)
        return lu_fail_nomem(err, n);
    const char *name = lu_path_base(out->path);
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !*name)
        return lu_fail(
            err, LUTRA_E_ARG,
            "%s: names no folder that can be made or replaced, give the output's own name",
            out->path);
    if (lstat(out->path, &b) != 0)
        return errno == ENOENT ? LUTRA_OK : lu_fail_errno(err, errno, out->path, "look at");
    if (stat(in, &a) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return lu_fail(err, LUTRA_E_ARG, "%s: is the input folder, choose another output",
                       out->path);
    if (!overwrite)
        return lu_fail(err, LUTRA_E_EXISTS, "%s: exists, choose another name or ask to overwrite",
                       out->path);
    if (!S_ISDIR(b.st_mode))
        return lu_fail(err, LUTRA_E_EXISTS, "%s: exists and is not a folder, remove it yourself",
                       out->path);
    return require_checkpoint(out->path, err);
}

lutra_status lu_out_begin(lu_out_folder *o, bool restart, lutra_err *err)
{
    struct stat held, named;
    if (mkdir(o->partial, 0777) != 0 && errno != EEXIST)
        return lu_fail_errno(err, errno, o->partial, "create");
    o->lock = open(o->partial, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (o->lock < 0)
        return lu_fail_errno(err, errno, o->partial, "open");
    if (flock(o->lock, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK
                   ? lu_fail(err, LUTRA_E_EXISTS,
                             "%s: another run is writing there, wait for its end", o->partial)
                   : lu_fail_errno(err, errno, o->partial, "lock");
    /* the run that held the lock may have finished and renamed the folder in between */
    if (fstat(o->lock, &held) != 0 || stat(o->partial, &named) != 0 || held.st_ino != named.st_ino)
        return lu_fail(err, LUTRA_E_EXISTS, "%s: another run has just finished, look at its result",
                       o->path);
    return restart ? lu_folder_list(o->partial, delete_entry, NULL, err) : LUTRA_OK;
}

lutra_status lu_out_need(const lu_out_folder *o, uint64_t bytes, lutra_err *err)
{
    struct statvfs v;
    if (statvfs(o->partial, &v) != 0)
        return lu_fail_errno(err, errno, o->partial, "look at the free space of");
    const double available = (double)v.f_bavail * (double)v.f_frsize;
    if ((double)bytes <= available)
        return LUTRA_OK;
    return lu_fail(
        err, LUTRA_E_NOSPACE,
        "%s: needs %.1f MB more, %.1f MB are free there: make room and run again, or choose "
        "another folder",
        o->partial, (double)bytes / 1e6, available / 1e6);
}

static lutra_status replace(lu_out_folder *o, lutra_err *err)
{
    if (renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_EXCHANGE) == 0) {
        lu_path_sync_parent(o->path);
        return delete_folder(o->partial, err);
    }
    char *old = with_suffix(o->path, strlen(o->path), OLD);
    if (!old)
        return lu_fail_nomem(err, strlen(o->path));
    lutra_status status = LUTRA_OK;
    if (rename(o->path, old) != 0) {
        status = lu_fail_errno(err, errno, o->path, "rename");
    } else if (rename(o->partial, o->path) != 0) {
        status = lu_fail_errno(err, errno, o->partial, "rename");
        (void)rename(old, o->path); /* back where it was */
    } else {
        lu_path_sync_parent(o->path);
        status = delete_folder(old, err);
    }
    lu_free(old);
    return status;
}

lutra_status lu_out_finish(lu_out_folder *o, lutra_err *err)
{
    (void)fsync(o->lock);
    if (o->overwrite && lu_path_exists(o->path)) {
        LU_TRY(lu_folder_list(o->path, require_plain, NULL, err));
        LU_TRY(replace(o, err));
    } else if (renameat2(AT_FDCWD, o->partial, AT_FDCWD, o->path, RENAME_NOREPLACE) != 0) {
        const int error = errno;
        if (error == EEXIST)
            return lu_fail(err, LUTRA_E_EXISTS,
                           "%s: has appeared during the run, the result stays in %s: rename it, or "
                           "ask to overwrite",
                           o->path, o->partial);
        /* a file system without this flag; rename itself refuses a folder that holds something */
        if (error != EINVAL || rename(o->partial, o->path) != 0)
            return lu_fail_errno(err, errno, o->partial, "rename");
    }
    lu_path_sync_parent(o->path);
    return LUTRA_OK;
}

void lu_out_close(lu_out_folder *o)
{
    if (o->lock >= 0)
        close(o->lock);
    lu_free(o->path);
    lu_free(o->partial);
    *o = (lu_out_folder){.lock = -1};
}

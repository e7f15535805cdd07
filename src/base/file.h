/* file.h - files: whole small reads, read-only maps, atomic replacement. */
#ifndef LU_BASE_FILE_H
#define LU_BASE_FILE_H

#include "base/status.h"

typedef struct lu_map {
    const uint8_t *data; /* NULL when size is 0 */
    size_t size;
} lu_map;

/* Maps a regular file for reading. Nobody may shorten it while it is mapped (SIGBUS). */
lutra_status lu_map_open(const char *path, lu_map *out, lutra_err *err);
void lu_map_close(lu_map *m);

/* Reads a file of at most `limit` bytes (more is E_LIMIT); *data gets a NUL appended and is freed
 * with lu_free. */
lutra_status lu_file_read(const char *path, size_t limit, char **data, size_t *size,
                          lutra_err *err);

/* Writes path through a temporary name in the same folder, fsync and rename. */
lutra_status lu_file_write(const char *path, const void *data, size_t size, lutra_err *err);

/* pwrite in full; retries short writes; names the path on failure. */
lutra_status lu_write_at(int fd, const char *path, const void *data, size_t size, uint64_t offset,
                         lutra_err *err);

/* Pages of a mapped file: asks the system to read them ahead, or gives the whole ones among them
   back (they stay in the page cache, and come back when touched). Hints: nothing can fail. */
void lu_map_prefetch(const void *p, size_t size);
void lu_map_release(const void *p, size_t size);

/* False only if nothing is there: a path that may not be looked at exists, and opening it says why
   it cannot be read. */
bool lu_path_exists(const char *path);
bool lu_path_is_dir(const char *path);
/* Makes names created or renamed in the folder that holds path durable, where the file system can
   sync a folder; others keep the data anyway. */
void lu_path_sync_parent(const char *path);
/* "<dir>/<name>" newly allocated, NULL = out of memory */
char *lu_path_join(const char *dir, const char *name);
const char *lu_path_base(const char *path); /* after the last '/' */

#endif

/* synthetic_checkpoint.h - temporary folders, small Hugging Face folders made in them, and
   comparing folders. Header only, so that each test program stays one file. */
#ifndef TESTS_SUPPORT_SYNTHETIC_CHECKPOINT_H
#define TESTS_SUPPORT_SYNTHETIC_CHECKPOINT_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

#define SYN_PATH 512

/* Makes a fresh folder under the system's place for temporary files. */
static inline void syn_temp(char path[SYN_PATH])
{
    const char *base = getenv("TMPDIR");
    snprintf(path, SYN_PATH, "%s/lutra-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
}

/* Deletes a file or a folder with all that is in it. */
static inline void syn_delete(const char *path)
{
    struct stat st;
    DIR *d = lstat(path, &st) == 0 && S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    if (!d) {
        unlink(path);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        char child[SYN_PATH * 2];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        syn_delete(child);
    }
    closedir(d);
    rmdir(path);
}

static inline void syn_write(const char *folder, const char *name, const void *data, size_t size)
{
    char path[SYN_PATH * 2];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(lu_file_write(path, data, size, NULL), LUTRA_OK);
}

static inline void syn_text(const char *folder, const char *name, const char *text)
{
    syn_write(folder, name, text, strlen(text));
}

/* One tensor of n x k (k = 0: one-dimensional) of type F32, F16 or BF16. */
typedef struct syn_tensor {
    const char *name;
    lutra_dtype dtype;
    int64_t n, k;
    float first; /* 0, or the value of element 0 instead of a random one */
} syn_tensor;

static inline float syn_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / 16777216.0f - 0.5f;
}

/* Writes folder/file with the tensors, random weights about 0.05 in size. */
static inline void syn_shard(const char *folder, const char *file, const syn_tensor *t, int n,
                             uint32_t seed)
{
    lu_st_entry e[32];
    uint64_t at[32], size;
    void *header;
    size_t header_bytes;
    assert_true(n <= 32);
    for (int i = 0; i < n; i++) {
        const int64_t count = t[i].n * (t[i].k ? t[i].k : 1);
        e[i] = (lu_st_entry){
            t[i].name, {.dtype = t[i].dtype, .rank = t[i].k ? 2 : 1, .shape = {t[i].n, t[i].k}}};
        e[i].view.bytes = (size_t)count * lutra_dtype_bytes(t[i].dtype);
    }
    assert_int_equal(lu_st_layout(e, n, &header, &header_bytes, at, &size, NULL), LUTRA_OK);
    uint8_t *image = calloc(1, size);
    assert_non_null(image);
    memcpy(image, header, header_bytes);
    for (int i = 0; i < n; i++) {
        const int64_t count = t[i].n * (t[i].k ? t[i].k : 1);
        float *w = malloc((size_t)count * sizeof *w);
        assert_non_null(w);
        for (int64_t j = 0; j < count; j++)
            w[j] = 0.1f * (syn_random(&seed) + syn_random(&seed) + syn_random(&seed));
        if (t[i].first != 0)
            w[0] = t[i].first;
        lu_from_f32(t[i].dtype, w, count, image + at[i]);
        free(w);
    }
    syn_write(folder, file, image, size);
    free(image);
    lu_free(header);
}

static inline bool syn_same_file(const char *a, const char *b)
{
    char *x = NULL, *y = NULL;
    size_t nx = 0, ny = 0;
    const bool read = lu_file_read(a, (size_t)1 << 30, &x, &nx, NULL) == LUTRA_OK &&
                      lu_file_read(b, (size_t)1 << 30, &y, &ny, NULL) == LUTRA_OK;
    const bool same = read && nx == ny && memcmp(x, y, nx) == 0;
    lu_free(x);
    lu_free(y);
    return same;
}

static inline int syn_count(const char *folder)
{
    int n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    closedir(d);
    return n;
}

/* The same file names with the same bytes. */
static inline bool syn_same_folder(const char *a, const char *b)
{
    bool same = syn_count(a) == syn_count(b);
    DIR *d = opendir(a);
    assert_non_null(d);
    for (struct dirent *e; same && (e = readdir(d));) {
        char x[SYN_PATH * 2], y[SYN_PATH * 2];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(x, sizeof x, "%s/%s", a, e->d_name);
        snprintf(y, sizeof y, "%s/%s", b, e->d_name);
        same = syn_same_file(x, y);
    }
    closedir(d);
    return same;
}

#endif

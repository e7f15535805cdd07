/* bench_quantize.c - times lutra_quantize_checkpoint against what the machine can do in the same
   run: reading the same shards, writing and syncing as many bytes as the output has, and copying
   the shards. The page cache is warm: the shards are read once before. The bound is the slower of
   read and write, since both can go on at once.
   usage: bench_quantize IN WORK [FORMAT] [RUNS]   (WORK: a folder that may be written and deleted)
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/context.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint.h"
#include "lutra/lutra.h"

#define BLOCK ((size_t)4 << 20)

static lutra_err err;
static lutra_ctx *ctx;
static uint8_t *buffers[1024]; /* one per thread */

static void fail(void)
{
    fprintf(stderr, "error: %s\n", err.msg);
    exit(1);
}

typedef struct {
    int in, out; /* -1 = not wanted */
    const char *out_path;
    uint64_t size;
} transfer;

static void move_block(void *arg, int64_t begin, int64_t end, int worker)
{
    const transfer *t = arg;
    for (int64_t i = begin; i < end; i++) {
        const uint64_t at = (uint64_t)i * BLOCK;
        const size_t n = t->size - at < BLOCK ? (size_t)(t->size - at) : BLOCK;
        if (t->in >= 0 && pread(t->in, buffers[worker], n, (off_t)at) != (ssize_t)n)
            fprintf(stderr, "short read\n");
        if (t->out >= 0 &&
            lu_write_at(t->out, t->out_path, buffers[worker], n, at, NULL) != LUTRA_OK)
            fprintf(stderr, "%s: cannot write\n", t->out_path);
    }
}

/* Reads and / or writes `size` bytes with all threads; a written file is synced and deleted. */
static double move_bytes(const char *in, const char *out, uint64_t size)
{
    transfer t = {-1, -1, out, size};
    const double start = lu_seconds();
    if (in)
        t.in = open(in, O_RDONLY);
    if (out)
        t.out = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    lu_pool_for(ctx->pool, (int64_t)((size + BLOCK - 1) / BLOCK), 1, move_block, &t);
    if (out)
        fsync(t.out);
    const double seconds = lu_seconds() - start;
    if (in)
        close(t.in);
    if (out) {
        close(t.out);
        unlink(out);
    }
    return seconds;
}

static double all_shards(const lutra_checkpoint *c, const char *out)
{
    double seconds = 0;
    for (int64_t i = 0; i < lu_checkpoint_n_shards(c); i++) {
        const char *path = lu_st_path(lu_checkpoint_shard(c, i));
        struct stat st;
        if (stat(path, &st) == 0)
            seconds += move_bytes(path, out, (uint64_t)st.st_size);
    }
    return seconds;
}

static void delete_output(const char *folder)
{
    char command[1200];
    snprintf(command, sizeof command, "rm -rf -- '%s'", folder);
    if (system(command) != 0)
        fprintf(stderr, "%s: cannot delete\n", folder);
}

int main(int argc, char **argv)
{
    if (argc < 3 || strchr(argv[2], '\'')) {
        fprintf(stderr, "usage: bench_quantize IN WORK [FORMAT] [RUNS]\n");
        return 2;
    }
    lutra_quantize_options o;
    lutra_quantize_report r;
    lutra_checkpoint *c;
    char out[1024], scratch[1024];
    lutra_quantize_options_init(&o);
    if (lutra_open(NULL, &ctx, &err) ||
        (argc > 3 && lutra_format_parse(argv[3], &o.format, &err)) ||
        lu_checkpoint_open(argv[1], &c, &err))
        fail();
    const int runs = argc > 4 ? atoi(argv[4]) : 3;
    mkdir(argv[2], 0777);
    snprintf(out, sizeof out, "%s/quantized", argv[2]);
    snprintf(scratch, sizeof scratch, "%s/scratch", argv[2]);
    for (int i = 0; i < lutra_n_threads(ctx); i++) {
        if (!(buffers[i] = lu_alloc_aligned(BLOCK)))
            return 1;
        memset(buffers[i], i + 1, BLOCK);
    }
    all_shards(c, NULL); /* warms the page cache */
    printf("%d threads, page cache warm; all figures GB of input per second but 'write'\n",
           lutra_n_threads(ctx));
    for (int i = 0; i < runs; i++) {
        if (lutra_quantize_checkpoint(ctx, argv[1], out, &o, &r, &err))
            fail();
        delete_output(out);
        const double read = all_shards(c, NULL),
                     write = move_bytes(NULL, scratch, (uint64_t)r.bytes_out);
        const double copy = all_shards(c, scratch), in = (double)r.bytes_in / 1e9;
        const double bound = read > write ? read : write;
        printf("quantize %.2f s %.2f GB/s, peak RSS %.0f MB, SQNR %.2f dB | read %.2f GB/s, write "
               "%.2f GB/s of output, "
               "copy %.2f GB/s | share of the bound %.0f%% (%s), of read %.0f%%, of copy %.0f%%\n",
               r.seconds, in / r.seconds, (double)r.peak_rss / 1e6, r.sqnr_db, in / read,
               (double)r.bytes_out / 1e9 / write, in / copy, 100 * bound / r.seconds,
               read > write ? "read" : "write", 100 * read / r.seconds, 100 * copy / r.seconds);
        fflush(stdout);
    }
    lutra_checkpoint_close(c);
    lutra_close(ctx);
    return 0;
}

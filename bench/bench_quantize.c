/* bench_quantize.c - times lutra_quantize_checkpoint against what the machine can do in the same
   run: reading the same shards, writing and syncing as many bytes as the output has, and copying
   the shards. The page cache is warm: the shards are read once before. The bound is the slower of
   read and write, since both can go on at once. With --device cuda[:N] first the encoder alone, on
   a matrix in the GPU's memory, then every run on both devices. usage: bench_quantize IN WORK
   [FORMAT] [RUNS] [--range minmax|mse] [--device NAME] [--json] (WORK: a folder that may be written
   and deleted) */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/context.h"
#include "base/file.h"
#include "base/mem.h"
#include "encode_gpu.h"
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

typedef struct {
    const char *in, *work, *format, *device;
    lutra_range range;
    int runs;
    bool json;
} arguments;

static bool parse(int argc, char **argv, arguments *a)
{
    int n = 0;
    *a = (arguments){.runs = 3, .range = LUTRA_RANGE_MINMAX};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--json") == 0)
            a->json = true;
        else if (strcmp(argv[i], "--device") == 0 && value)
            a->device = argv[++i];
        else if (strcmp(argv[i], "--range") == 0 && value)
            a->range = strcmp(argv[++i], "mse") == 0 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
        else if (argv[i][0] == '-')
            return false;
        else if (n == 3)
            a->runs = atoi(argv[i]), n++;
        else
            *(n == 0 ? &a->in : n == 1 ? &a->work : &a->format) = argv[i], n++;
    }
    return n >= 2 && n <= 4 && !strchr(a->work, '\'');
}

/* What the machine gives for the files of one run, in seconds. */
typedef struct {
    double read, write, copy;
} bounds;

static void print(const arguments *a, const char *device, const lutra_quantize_report *r,
                  const bounds *b)
{
    const double in = (double)r->bytes_in / 1e9, out = (double)r->bytes_out / 1e9;
    const double bound = b->read > b->write ? b->read : b->write;
    if (a->json)
        printf("{\"bench\":\"quantize\",\"device\":\"%s\",\"threads\":%d,\"format\":\"%s\","
               "\"range\":\"%s\",\"seconds\":%.3f,\"gb\":%.3f,\"gb_s\":%.2f,\"peak_rss\":%lld,"
               "\"sqnr_db\":%.6f,\"read_gb_s\":%.2f,\"write_gb_s\":%.2f,\"copy_gb_s\":%.2f}\n",
               device, lutra_n_threads(ctx), a->format ? a->format : "nf4:g64",
               a->range == LUTRA_RANGE_MSE ? "mse" : "minmax", r->seconds, in, in / r->seconds,
               (long long)r->peak_rss, r->sqnr_db, in / b->read, out / b->write, in / b->copy);
    else
        printf(
            "quantize on %s %.2f s %.2f GB/s, peak RSS %.0f MB, SQNR %.2f dB | read %.2f GB/s, "
            "write %.2f GB/s of output, copy %.2f GB/s | share of the bound %.0f%% (%s), of read "
            "%.0f%%, of copy %.0f%%\n",
            device, r->seconds, in / r->seconds, (double)r->peak_rss / 1e6, r->sqnr_db,
            in / b->read, out / b->write, in / b->copy, 100 * bound / r->seconds,
            b->read > b->write ? "read" : "write", 100 * b->read / r->seconds,
            100 * b->copy / r->seconds);
    fflush(stdout);
}

static void run(const arguments *a, const lutra_checkpoint *c, lutra_quantize_options *o)
{
    char out[1024], scratch[1024];
    snprintf(out, sizeof out, "%s/quantized", a->work);
    snprintf(scratch, sizeof scratch, "%s/scratch", a->work);
    const char *const devices[] = {"cpu", a->device};
    lutra_quantize_report r[2];
    const int n = a->device ? 2 : 1;
    for (int d = 0; d < n; d++) {
        o->device = devices[d];
        if (lutra_quantize_checkpoint(ctx, a->in, out, o, &r[d], &err))
            fail();
        delete_output(out);
    }
    const bounds b = {.read = all_shards(c, NULL),
                      .write = move_bytes(NULL, scratch, (uint64_t)r[0].bytes_out),
                      .copy = all_shards(c, scratch)};
    for (int d = 0; d < n; d++)
        print(a, devices[d], &r[d], &b);
}

int main(int argc, char **argv)
{
    arguments a;
    if (!parse(argc, argv, &a)) {
        fprintf(stderr, "usage: bench_quantize IN WORK [FORMAT] [RUNS] [--range minmax|mse] "
                        "[--device NAME] [--json]\n");
        return 2;
    }
    lutra_quantize_options o;
    lutra_checkpoint *c;
    lutra_quantize_options_init(&o);
    o.range = a.range;
    if (lutra_open(NULL, &ctx, &err) ||
        (a.format && lutra_format_parse(a.format, &o.format, &err)) ||
        lu_checkpoint_open(a.in, &c, &err) || bench_encode_on_gpu(a.device, a.json, &err))
        fail();
    mkdir(a.work, 0777);
    for (int i = 0; i < lutra_n_threads(ctx); i++) {
        if (!(buffers[i] = lu_alloc_aligned(BLOCK)))
            return 1;
        memset(buffers[i], i + 1, BLOCK);
    }
    all_shards(c, NULL); /* warms the page cache */
    if (!a.json)
        printf("%d threads, page cache warm; all figures GB of input per second but 'write'\n",
               lutra_n_threads(ctx));
    for (int i = 0; i < a.runs; i++)
        run(&a, c, &o);
    lutra_checkpoint_close(c);
    lutra_close(ctx);
    return 0;
}

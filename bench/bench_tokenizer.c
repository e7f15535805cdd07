/* bench_tokenizer.c - speed of encoding and decoding one text on one thread.
   usage: bench_tokenizer FOLDER TEXTFILE [ROUNDS]
   Prints the best round (least disturbed by others on the machine) and the median. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "lutra/text.h"

#define FILE_LIMIT ((size_t)1 << 30)
#define MAX_ROUNDS 100

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(const char *what, double *seconds, int rounds, size_t bytes, int64_t n_ids)
{
    qsort(seconds, (size_t)rounds, sizeof *seconds, by_value);
    const double best = seconds[0], median = seconds[rounds / 2];
    printf("%-7s best %8.2f MB/s (%.2f M tokens/s)   median %8.2f MB/s\n", what,
           (double)bytes / best / 1e6, (double)n_ids / best / 1e6, (double)bytes / median / 1e6);
}

static lutra_status measure(const lutra_tokenizer *t, const char *text, size_t n, int rounds,
                            lutra_err *err)
{
    double encode[MAX_ROUNDS], decode[MAX_ROUNDS];
    int64_t n_ids = 0;
    for (int i = 0; i < rounds; i++) {
        int32_t *ids;
        char *back;
        size_t n_back;
        const double start = lu_seconds();
        LU_TRY(lutra_encode(t, text, n, false, &ids, &n_ids, err));
        const double middle = lu_seconds();
        const lutra_status status = lutra_decode(t, ids, n_ids, false, &back, &n_back, err);
        const double end = lu_seconds();
        lutra_free(ids);
        LU_TRY(status);
        lutra_free(back);
        encode[i] = middle - start;
        decode[i] = end - middle;
    }
    printf("%zu bytes, %" PRId64 " tokens, %d rounds\n", n, n_ids, rounds);
    print_row("encode", encode, rounds, n, n_ids);
    print_row("decode", decode, rounds, n, n_ids);
    return LUTRA_OK;
}

int main(int argc, char **argv)
{
    const int rounds = argc == 4 ? atoi(argv[3]) : 10;
    if (argc < 3 || argc > 4 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr,
                "usage: bench_tokenizer FOLDER TEXTFILE [ROUNDS]\n"
                "  FOLDER    has a tokenizer.json\n"
                "  TEXTFILE  is encoded in one call, then decoded\n"
                "  ROUNDS    1 to %d, default 10\n",
                MAX_ROUNDS);
        return 2;
    }
    lutra_err err = {0};
    lutra_tokenizer *t = NULL;
    char *text = NULL;
    size_t n = 0;
    const double start = lu_seconds();
    lutra_status status = lutra_tokenizer_open(argv[1], &t, &err);
    if (status == LUTRA_OK) {
        printf("open    %.1f ms\n", (lu_seconds() - start) * 1e3);
        status = lu_file_read(argv[2], FILE_LIMIT, &text, &n, &err);
    }
    if (status == LUTRA_OK)
        status = measure(t, text, n, rounds, &err);
    if (status != LUTRA_OK)
        fprintf(stderr, "bench_tokenizer: %s\n", err.msg);
    lutra_free(text);
    lutra_tokenizer_close(t);
    return status == LUTRA_OK ? 0 : 1;
}

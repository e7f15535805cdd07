/* fuzz_safetensors.c - lu_st_parse over arbitrary bytes. The input is tried as a file, and again as
   header text up to the first NUL with the data after it, so that a mutation need not keep the
   length field right. */
#include <string.h>

#include "fuzz.h"
#include "io/safetensors.h"

static void check_views(const lu_st_file *f, const uint8_t *data, size_t size)
{
    const uint8_t *at = NULL;
    unsigned sum = 0;
    for (int64_t i = 0; i < lu_st_count(f); i++) {
        const lu_st_entry *e = lu_st_at(f, i);
        const uint8_t *begin = e->view.data;
        REQUIRE(begin >= data && begin <= data + size &&
                e->view.bytes <= (size_t)(data + size - begin));
        REQUIRE(!at || begin == at); /* dense, in order */
        REQUIRE(lu_st_find(f, e->name) == e);
        at = begin + e->view.bytes;
        if (e->view.bytes)
            sum += begin[0] + begin[e->view.bytes - 1];
    }
    REQUIRE(!at || at == data + size);
    static volatile unsigned sink;
    sink = sum;
    (void)sink;
}

static void parse(const uint8_t *data, size_t size)
{
    lu_st_file *f = NULL;
    lutra_err err = {0};
    const lutra_status status = lu_st_parse("input", data, size, &f, &err);
    REQUIRE((status == LUTRA_OK) == (f != NULL));
    if (f)
        check_views(f, data, size);
    else
        REQUIRE(err.status == status && err.msg[0] && !strchr(err.msg, '\n'));
    lu_st_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t h = nul ? (size_t)(nul - data) : size;
    const size_t rest = nul ? size - h - 1 : 0;
    uint8_t *file = malloc(8 + h + rest);
    REQUIRE(file);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)h >> (8 * i));
    if (h)
        memcpy(file + 8, data, h);
    if (rest)
        memcpy(file + 8 + h, nul + 1, rest);
    parse(file, 8 + h + rest);
    free(file);
    return 0;
}

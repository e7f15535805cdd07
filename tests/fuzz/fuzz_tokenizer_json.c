/* fuzz_tokenizer_json.c - the input as a tokenizer.json. One that opens must encode and decode: by
   ids that have pieces, or by an error that says why. */
#include <string.h>

#include "fuzz.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "abc ab <x>12 A\xC3\xA9 e\xCC\x81\xE2\x96\x81\n\n  the 'll \xFF\xF0\x9F\x98\x80";
    lutra_tokenizer *t = NULL;
    lutra_err err = {0};
    if (lu_tokenizer_parse("input", (const char *)data, size, &t, &err) != LUTRA_OK) {
        REQUIRE(err.msg[0] && !t);
        return 0;
    }
    int32_t *ids;
    int64_t n_ids;
    if (lutra_encode(t, text, sizeof text - 1, true, &ids, &n_ids, &err) == LUTRA_OK) {
        char *back;
        size_t n;
        for (int64_t i = 0; i < n_ids; i++)
            REQUIRE(lutra_tokenizer_piece(t, ids[i]));
        if (lutra_decode(t, ids, n_ids, false, &back, &n, &err) == LUTRA_OK) {
            REQUIRE(lu_utf8_valid(back, n));
            lutra_free(back);
        } else {
            REQUIRE(err.msg[0]);
        }
        lutra_free(ids);
    } else {
        REQUIRE(err.msg[0]);
    }
    lutra_tokenizer_close(t);
    return 0;
}

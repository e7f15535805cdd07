/* fuzz_tokenizer.c - text through the tokenizers of the test fixtures. The first byte chooses the
   tokenizer and add_special, the rest is the text. Every id must have a piece, the byte-level
   tokenizer must give valid text back, and streaming must equal decoding. */
#include <string.h>

#include "fuzz.h"
#include "lutra/text.h"
#include "text/bytes.h"
#include "text/utf8.h"

static const char *const folders[] = {"models/llama-8m", "tests/fixtures/tokenizers/gemma2",
                                      "tests/fixtures/tokenizers/mistral"};
static lutra_tokenizer *tokenizers[3]; /* opened once: they are what is slow */

static void stream_and_compare(const lutra_tokenizer *t, const int32_t *ids, int64_t n_ids,
                               const char *expected, size_t n_expected)
{
    lutra_stream *s;
    const char *text;
    size_t n;
    bool stopped;
    lu_bytes all = {0};
    REQUIRE(lutra_stream_open(t, true, NULL, 0, &s, NULL) == LUTRA_OK);
    for (int64_t i = 0; i < n_ids; i++) {
        REQUIRE(lutra_stream_push(s, ids[i], &text, &n, &stopped, NULL) == LUTRA_OK);
        REQUIRE(lu_utf8_valid(text, n));
        lu_bytes_append(&all, text, n);
    }
    REQUIRE(lutra_stream_flush(s, &text, &n, NULL) == LUTRA_OK);
    lu_bytes_append(&all, text, n);
    REQUIRE(all.n == n_expected && memcmp(all.data, expected, n_expected) == 0);
    lu_bytes_free(&all);
    lutra_stream_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const int which = data[0] % 3;
    if (!tokenizers[which])
        REQUIRE(lutra_tokenizer_open(folders[which], &tokenizers[which], NULL) == LUTRA_OK);
    const lutra_tokenizer *t = tokenizers[which];
    const char *text = (const char *)data + 1;
    const size_t n = size - 1;
    int32_t *ids;
    int64_t n_ids;
    char *back;
    size_t n_back;
    REQUIRE(lutra_encode(t, text, n, data[0] & 0x80, &ids, &n_ids, NULL) == LUTRA_OK);
    for (int64_t i = 0; i < n_ids; i++)
        REQUIRE(lutra_tokenizer_piece(t, ids[i]));
    REQUIRE(lutra_decode(t, ids, n_ids, false, &back, &n_back, NULL) == LUTRA_OK);
    REQUIRE(lu_utf8_valid(back, n_back));
    if (which == 0 && !(data[0] & 0x80) && lu_utf8_valid(text, n))
        REQUIRE(n_back == n && memcmp(back, text, n) == 0);
    lutra_free(back);
    REQUIRE(lutra_decode(t, ids, n_ids, true, &back, &n_back, NULL) == LUTRA_OK);
    stream_and_compare(t, ids, n_ids, back, n_back);
    lutra_free(back);
    lutra_free(ids);
    return 0;
}

/* test_tokenizer_parts.c - each part of tokenizer.json on a small hand-made file, then damaged
   files. The base file has one piece per character and a few merges, so that expected pieces can be
   read off; expectations follow Hugging Face tokenizers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "text/tokenizer.h"

#define MARK "\xE2\x96\x81" /* U+2581 */

#define VOCAB                                                                                  \
    "{\"<unk>\":0,\"a\":1,\"b\":2,\"c\":3,\" \":4,\"" MARK "\":5,\"ab\":6,\"abc\":7,\"1\":8,"  \
    "\"2\":9,\".\":10,\"" MARK "a\":11,\"bc\":12,\"\xC3\xA9\":13,\"<0xC3>\":14,\"<0xAA>\":15," \
    "\"e\":16,\"\xCC\x81\":17,\"\xC4\xA0\":18,\"A\":19}"
#define MERGES "[\"a b\",[\"ab\",\"c\"],\"b c\",\"" MARK " a\"]"
#define MODEL                                                                                     \
    "\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":" MERGES ",\"unk_token\":\"<unk>" \
                                                                         "\"}"

static lutra_tokenizer *open_text(const char *json)
{
    lutra_tokenizer *t = NULL;
    lutra_err err = {0};
    if (lu_tokenizer_parse("test", json, strlen(json), &t, &err) != LUTRA_OK)
        fail_msg("%s\n%s", err.msg, json);
    return t;
}

/* The pieces a text encodes to, each in "[]". */
static void pieces_of(const lutra_tokenizer *t, const char *text, bool special, char *out,
                      size_t size)
{
    int32_t *ids;
    int64_t n_ids;
    lutra_err err = {0};
    if (lutra_encode(t, text, strlen(text), special, &ids, &n_ids, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    out[0] = '\0';
    for (int64_t i = 0; i < n_ids; i++)
        snprintf(out + strlen(out), size - strlen(out), "[%s]", lutra_tokenizer_piece(t, ids[i]));
    lutra_free(ids);
}

static void assert_pieces(const char *members, const char *text, const char *expected)
{
    char json[4096], got[512];
    snprintf(json, sizeof json, "{%s%s%s}", members, *members ? "," : "",
             strstr(members, "\"model\"") ? "\"version\":\"1.0\"" : MODEL);
    lutra_tokenizer *t = open_text(json);
    pieces_of(t, text, false, got, sizeof got);
    assert_string_equal(got, expected);
    lutra_tokenizer_close(t);
}

static void merges_go_by_rank_then_from_the_left(void **state)
{
    (void)state;
    assert_pieces("", "abc", "[abc]");
    assert_pieces("", "bcab", "[bc][ab]");
    assert_pieces("", "ababc", "[ab][abc]");
    assert_pieces("", "aab", "[a][ab]");
    /* past the length where a heap takes over from the scan */
    assert_pieces("", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
                  "[a][a][a][a][a][a][a][a][a][a][a][a][a][a][a][a][a][a]"
                  "[a][a][a][a][a][a][a][a][a][a][ab]");
}

#define WITH_MODEL(flags) \
    "\"model\":{\"type\":\"BPE\",\"vocab\":" VOCAB ",\"merges\":" MERGES "," flags "}"

static void unknown_characters_follow_the_model_flags(void **state)
{
    (void)state;
    assert_pieces(WITH_MODEL("\"unk_token\":\"<unk>\""), "axya", "[a][<unk>][<unk>][a]");
    assert_pieces(WITH_MODEL("\"unk_token\":\"<unk>\",\"fuse_unk\":true"), "axya", "[a][<unk>][a]");
    assert_pieces(WITH_MODEL("\"unk_token\":null"), "axb", "[ab]");
    /* U+00EA is C3 AA: both have byte tokens; "x" has none */
    assert_pieces(WITH_MODEL("\"unk_token\":\"<unk>\",\"byte_fallback\":true"),
                  "\xC3\xAA"
                  "x",
                  "[<0xC3>][<0xAA>][<unk>]");
    assert_pieces("\"model\":{\"vocab\":" VOCAB ",\"merges\":[],\"ignore_merges\":true}", "abc",
                  "[abc]");
    assert_pieces(WITH_MODEL("\"unk_token\":\"\""), "abc", "[abc]"); /* missing, but never needed */
}

static void an_unknown_token_outside_the_vocabulary_fails_when_it_is_needed(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_text("{" WITH_MODEL("\"unk_token\":\"nope\"") "}");
    int32_t *ids = NULL;
    int64_t n;
    lutra_err err;
    assert_int_equal(lutra_encode(t, "x", 1, false, &ids, &n, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "nope"));
    assert_null(ids);
    lutra_tokenizer_close(t);
}

#define NORM(x) "\"normalizer\":" x
#define PRE(x) "\"pre_tokenizer\":" x

static void normalizers_change_the_text(void **state)
{
    (void)state;
    assert_pieces(NORM("{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"), "ab", "[" MARK "][ab]");
    assert_pieces(NORM("{\"type\":\"Prepend\",\"prepend\":\"" MARK "\"}"), "", "");
    assert_pieces(
        NORM("{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK "\"}"),
        "a  a", "[a][" MARK "][" MARK "a]");
    assert_pieces(
        NORM("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[ .]+\"},\"content\":\"1\"}"), "a .b",
        "[a][1][b]");
    assert_pieces(NORM("{\"type\":\"NFC\"}"), "e\xCC\x81", "[\xC3\xA9]");
    assert_pieces(NORM("{\"type\":\"NFD\"}"), "\xC3\xA9", "[e][\xCC\x81]");
    assert_pieces(NORM("{\"type\":\"NFKC\"}"), "\xEF\xBC\x91", "[1]");
    assert_pieces(NORM("{\"type\":\"NFKD\"}"), "\xEF\xBC\x91\xC3\xA9", "[1][e][\xCC\x81]");
    assert_pieces(NORM("{\"type\":\"Lowercase\"}"), "ABC", "[abc]");
    assert_pieces(NORM("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}"), " a ",
                  "[a][ ]");
    assert_pieces(NORM("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"},"
                       "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Strip\"}]}]}"),
                  " A ", "[a]");
}

#define SPLIT_AT(pattern, behaviour, invert)                                    \
    PRE("{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behaviour \
        "\",\"invert\":" invert "}")

static void split_has_five_behaviours(void **state)
{
    (void)state;
    /* merges show where pieces end: a|b|c do not join across a cut */
    assert_pieces(SPLIT_AT("{\"String\":\"1\"}", "Removed", "false"), "ab1c", "[ab][c]");
    assert_pieces(SPLIT_AT("{\"String\":\"b\"}", "Isolated", "false"), "abc", "[a][b][c]");
    assert_pieces(SPLIT_AT("{\"String\":\"b\"}", "MergedWithPrevious", "false"), "abcb",
                  "[ab][c][b]");
    assert_pieces(SPLIT_AT("{\"String\":\"b\"}", "MergedWithPrevious", "false"), "babc",
                  "[b][ab][c]");
    assert_pieces(SPLIT_AT("{\"String\":\"b\"}", "MergedWithNext", "false"), "abc", "[a][bc]");
    assert_pieces(SPLIT_AT("{\"Regex\":\"[ab]\"}", "Contiguous", "false"), "abc", "[ab][c]");
    assert_pieces(SPLIT_AT("{\"Regex\":\"[ab]+\"}", "Removed", "true"), "abcab", "[ab][ab]");
    assert_pieces(SPLIT_AT("{\"Regex\":\"(?=c)\"}", "Isolated", "false"), "abc", "[ab][c]");
}

static void pre_tokenizers_cut_the_text(void **state)
{
    (void)state;
    assert_pieces(PRE("{\"type\":\"Whitespace\"}"), "ab c.1", "[ab][c][.][1]");
    assert_pieces(PRE("{\"type\":\"WhitespaceSplit\"}"), "ab \n c", "[ab][c]");
    assert_pieces(PRE("{\"type\":\"Punctuation\"}"), "a.bc", "[a][.][bc]");
    assert_pieces(PRE("{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}"), "a.bc", "[a][bc]");
    assert_pieces(PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), "a12", "[a][1][2]");
    assert_pieces(PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":false}"),
                  "ab", "[\xC4\xA0][ab]");
    assert_pieces(PRE("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"),
                  "a ab", "[a][\xC4\xA0][ab]");
    assert_pieces(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{"
                      "\"type\":\"Punctuation\"}]}"),
                  "a.b c", "[a][.][b][c]");
}

#define METASPACE(scheme) \
    PRE("{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\",\"prepend_scheme\":\"" scheme "\"}")
#define ADDED(flags) "\"added_tokens\":[{\"id\":40,\"content\":\"<x>\"," flags "}]"

static void metaspace_prepends_by_its_scheme(void **state)
{
    (void)state;
    assert_pieces(METASPACE("always") "," ADDED("\"special\":true"), "a a<x>a",
                  "[" MARK "a][" MARK "a][<x>][" MARK "a]");
    assert_pieces(METASPACE("first") "," ADDED("\"special\":true"), "a<x>a", "[" MARK "a][<x>][a]");
    assert_pieces(METASPACE("never") "," ADDED("\"special\":true"), "a a", "[a][" MARK "a]");
}

static void added_tokens_are_found_with_their_flags(void **state)
{
    (void)state;
    assert_pieces(ADDED("\"special\":true"), "a<x><x>b", "[a][<x>][<x>][b]");
    assert_pieces(ADDED("\"lstrip\":true,\"normalized\":false"), "a  <x> b", "[a][<x>][ ][b]");
    assert_pieces(ADDED("\"rstrip\":true,\"normalized\":false"), "a <x>  b", "[a][ ][<x>][b]");
    assert_pieces("\"added_tokens\":[{\"id\":40,\"content\":\"ab1\",\"single_word\":true}]",
                  "ab12 ab1.", "[ab][1][2][ ][ab1][.]");
    /* the longest at the leftmost place */
    assert_pieces("\"added_tokens\":[{\"id\":8,\"content\":\"1\"},{\"id\":41,\"content\":\"12\"},{"
                  "\"id\":42,\"content\":\"121.\"}]",
                  "12121.1", "[12][121.][1]");
}

static void normalized_added_tokens_are_matched_after_normalisation(void **state)
{
    (void)state;
    assert_pieces(NORM("{\"type\":\"Lowercase\"}") "," ADDED("\"normalized\":true"), "a<X>",
                  "[a][<x>]");
    assert_pieces(NORM("{\"type\":\"Lowercase\"}") "," ADDED("\"normalized\":false"), "a<X>",
                  "[a][<unk>][<unk>][<unk>]");
}

static void the_template_puts_tokens_around_the_text(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_text(
        "{" MODEL
        ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\",\"type_id\":"
        "0}},{\"Sequence\":{\"id\":\"A\","
        "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"E\",\"type_id\":0}}],\"special_tokens\":{"
        "\"B\":{\"id\":\"B\",\"ids\":[8]},"
        "\"E\":{\"id\":\"E\",\"ids\":[9,10]}}}]}}");
    char got[256];
    pieces_of(t, "ab", true, got, sizeof got);
    assert_string_equal(got, "[1][ab][2][.]");
    pieces_of(t, "ab", false, got, sizeof got);
    assert_string_equal(got, "[ab]");
    lutra_tokenizer_close(t);
}

static void assert_decoded(const char *decoder, const int32_t *ids, int n_ids, const char *expected)
{
    char json[4096];
    snprintf(json, sizeof json, "{" MODEL ",\"decoder\":%s}", decoder);
    lutra_tokenizer *t = open_text(json);
    char *text;
    size_t n;
    assert_int_equal(lutra_decode(t, ids, n_ids, false, &text, &n, NULL), LUTRA_OK);
    assert_string_equal(text, expected);
    lutra_free(text);
    lutra_tokenizer_close(t);
}

static void decoders_make_text_of_pieces(void **state)
{
    (void)state;
    const int32_t ids[] = {11, 14, 15, 11, 14, 1}; /* _a <0xC3> <0xAA> _a <0xC3> a */
    assert_decoded("null", (int32_t[]){1, 2}, 2, "a b");
    assert_decoded("{\"type\":\"Fuse\"}", ids, 3, MARK "a<0xC3><0xAA>");
    assert_decoded("{\"type\":\"ByteFallback\"}", ids, 6,
                   MARK "a\xC3\xAA" MARK "a\xEF\xBF\xBD"
                        "a");
    assert_decoded("{\"type\":\"ByteFallback\"}", (int32_t[]){14, 14, 15}, 3,
                   "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    assert_decoded("{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"}", (int32_t[]){11, 11}, 2,
                   "a a");
    assert_decoded("{\"type\":\"Metaspace\",\"replacement\":\"" MARK
                   "\",\"prepend_scheme\":\"never\"}",
                   (int32_t[]){11, 11}, 2, " a a");
    assert_decoded("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[bc]\"},\"content\":\"-\"}",
                   (int32_t[]){7, 1}, 2, "a--a");
    assert_decoded("{\"type\":\"Strip\",\"content\":\"a\",\"start\":1,\"stop\":0}",
                   (int32_t[]){1, 6}, 2, "b");
    assert_decoded("{\"type\":\"ByteLevel\"}", (int32_t[]){18, 1, 5}, 3, " a" MARK);
    assert_decoded("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
                   "\"content\":\"a\",\"start\":1,"
                   "\"stop\":2}]}",
                   (int32_t[]){1, 1, 2, 1, 2, 1, 1, 1}, 8, "ababa");
    assert_decoded("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\","
                   "\"pattern\":{\"String\":\"ab\"},"
                   "\"content\":\"1\"}]}",
                   (int32_t[]){1, 2, 1}, 3, "1a");
}

static void regexes_of_the_wild_compile(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|"
        "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+",
        "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*[\\\\p{Ll}"
        "\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+"
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*|\\\\s+",
        "[!\\\"#$%&'()*+,\\\\-./"
        ":;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}"
        "\\\\p{M}]+",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char json[4096];
        snprintf(json, sizeof json,
                 "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                 "\"behavior\":\"Isolated\"}}",
                 patterns[i]);
        lutra_tokenizer_close(open_text(json));
    }
}

/* --- damaged files -------------------------------------------------------------------------- */

typedef struct damage {
    const char *json;
    lutra_status status;
    const char *part_of_message;
} damage;

#define BPE(rest) "{\"model\":{\"type\":\"BPE\"," rest "}}"
#define V "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define M "\"merges\":[\"a b\"]"
#define WITH(members) "{\"model\":{\"type\":\"BPE\"," V "," M "}," members "}"
#define F LUTRA_E_FORMAT
#define U LUTRA_E_UNSUPPORTED

static const damage damages[] = {
    {"", F, "test"},
    {"{", F, "test"},
    {"[]", F, "object"},
    {"null", F, "test"},
    {"{}", F, "model"},
    {"{\"model\":[]}", F, "model"},
    {"{\"model\":{}}", U, "BPE"},
    {"{\"model\":{\"type\":7}}", F, "type"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", U, "Unigram"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", U, "WordPiece"},
    {BPE("\"merges\":[]"), F, "vocab"},
    {BPE("\"vocab\":[],\"merges\":[]"), F, "vocab"},
    {BPE("\"vocab\":{\"a\":\"0\"}," M), F, "\"a\""},
    {BPE("\"vocab\":{\"a\":0.5}," M), F, "integer"},
    {BPE("\"vocab\":{\"a\":-1}," M), F, "-1"},
    {BPE("\"vocab\":{\"a\":4194304}," M), F, "4194304"},
    {BPE("\"vocab\":{\"a\":9223372036854775807}," M), F, "outside"},
    {BPE("\"vocab\":{\"a\":99999999999999999999}," M), F, "integer"},
    {BPE("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), F, "id 0"},
    {BPE("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), F, "uplicate"},
    {BPE("\"vocab\":{\"a\":null}," M), F, "integer"},
    {BPE(V), F, "merges"},
    {BPE(V ",\"merges\":{}"), F, "merges"},
    {BPE(V ",\"merges\":[7]"), F, "merge 0"},
    {BPE(V ",\"merges\":[\"ab\"]"), F, "merge 0"},
    {BPE(V ",\"merges\":[\"a b c\"]"), F, "merge 0"},
    {BPE(V ",\"merges\":[\"a b\",\"a x\"]"), F, "merge 1 names \"x\""},
    {BPE(V ",\"merges\":[\"b a\"]"), F, "makes \"ba\""},
    {BPE(V ",\"merges\":[[\"a\"]]"), F, "merge 0"},
    {BPE(V ",\"merges\":[[\"a\",7]]"), F, "merge 0"},
    {BPE(V ",\"merges\":[[\"a\",\"b\",\"c\"]]"), F, "merge 0"},
    {BPE(V ",\"merges\":[null]"), F, "merge 0"},
    {BPE(V ",\"merges\":[\" \"]"), F, "merge 0"},
    {BPE(V "," M ",\"byte_fallback\":1"), F, "byte_fallback"},
    {BPE(V "," M ",\"fuse_unk\":\"no\""), F, "fuse_unk"},
    {BPE(V "," M ",\"ignore_merges\":[]"), F, "ignore_merges"},
    {BPE(V "," M ",\"unk_token\":3"), F, "unk_token"},
    {BPE(V "," M ",\"dropout\":0.1"), U, "dropout"},
    {BPE(V "," M ",\"dropout\":\"x\""), F, "dropout"},
    {BPE(V "," M ",\"end_of_word_suffix\":\"</w>\""), U, "end_of_word_suffix"},
    {BPE(V "," M ",\"continuing_subword_prefix\":\"##\""), U, "continuing_subword_prefix"},
    {WITH("\"added_tokens\":{}"), F, "added_tokens"},
    {WITH("\"added_tokens\":[7]"), F, "entry 0"},
    {WITH("\"added_tokens\":[{\"content\":\"x\"}]"), F, "\"x\""},
    {WITH("\"added_tokens\":[{\"id\":5}]"), F, "content"},
    {WITH("\"added_tokens\":[{\"id\":-2,\"content\":\"x\"}]"), F, "-2"},
    {WITH("\"added_tokens\":[{\"id\":1e9,\"content\":\"x\"}]"), F, "id"},
    {WITH("\"added_tokens\":[{\"id\":2000000000,\"content\":\"x\"}]"), F, "2000000000"},
    {WITH("\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), F, "id 1"},
    {WITH("\"added_tokens\":[{\"id\":1,\"content\":\"a\"}]"), F, "\"a\""},
    {WITH("\"added_tokens\":[{\"id\":5,\"content\":\"x\"},{\"id\":6,\"content\":\"x\"}]"), F,
     "\"x\""},
    {WITH("\"added_tokens\":[{\"id\":5,\"content\":\"x\",\"special\":\"yes\"}]"), F, "special"},
    {WITH("\"normalizer\":7"), F, "normalizer"},
    {WITH("\"normalizer\":{\"type\":\"BertNormalizer\"}"), U, "BertNormalizer"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\"}"), F, "normalizers"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[null]}"), F, "null"},
    {WITH("\"normalizer\":{\"type\":\"Prepend\"}"), F, "prepend"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}"), F, "pattern"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{}}"), F, "pattern"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"String\":\"\"}}"),
     F, "empty"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"(\"}}"),
     F, "compile"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"[a&&b]\"}"
          "}"),
     U, "&&"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"a{1,3}+"
          "\"}}"),
     U, "{n,m}+"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"[a[bc]]"
          "\"}}"),
     U, "class"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"a\\\\\"}"
          "}"),
     F, "compile"},
    {WITH("\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}"), U, "BertPreTokenizer"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"}}"), F, "behavior"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":"
          "\"Shaken\"}"),
     U, "Shaken"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\"}"), F, "replacement"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xy\"}"), F, "one character"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
          "\"often\"}"),
     U, "often"},
    {WITH("\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":0}"), F, "use_regex"},
    {WITH("\"post_processor\":{\"type\":\"BertProcessing\"}"), U, "BertProcessing"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\"}"), F, "single"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), U, "0 times"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[7]}"), F, "item 0"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
          "\"id\":\"B\"}}]}"),
     F, "\"B\""},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
          "\"id\":\"B\"}}],"
          "\"special_tokens\":{\"B\":{\"ids\":[99]}}}"),
     F, "no token"},
    {WITH("\"decoder\":{\"type\":\"WordPiece\"}"), U, "WordPiece"},
    {WITH("\"decoder\":\"ByteLevel\""), F, "decoder"},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\"\",\"start\":1,\"stop\":0}"), F,
     "one character"},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":0}"), F,
     "Strip"},
    {WITH("\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}"), F, "content"},
};

static void damaged_files_are_refused_with_the_part_named(void **state)
{
    (void)state;
    assert_true(sizeof damages / sizeof *damages >= 60);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        lutra_tokenizer *t = NULL;
        lutra_err err = {0};
        const lutra_status status =
            lu_tokenizer_parse("test", damages[i].json, strlen(damages[i].json), &t, &err);
        if (status != damages[i].status || t || !strstr(err.msg, damages[i].part_of_message))
            fail_msg("%s\ngave status %d, \"%s\"", damages[i].json, (int)status, err.msg);
    }
}

static void nested_sequences_are_bounded(void **state)
{
    (void)state;
    char json[4096] = "{" MODEL ",\"normalizer\":";
    for (int i = 0; i < 20; i++)
        strcat(json, "{\"type\":\"Sequence\",\"normalizers\":[");
    strcat(json, "{\"type\":\"NFC\"}");
    for (int i = 0; i < 20; i++)
        strcat(json, "]}");
    strcat(json, "}");
    lutra_tokenizer *t = NULL;
    lutra_err err;
    assert_int_equal(lu_tokenizer_parse("test", json, strlen(json), &t, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "nested"));
}

static void every_failed_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    static const char json[] = "{" MODEL "," NORM("{\"type\":\"NFC\"}") "," ADDED(
        "\"special\":true") "," SPLIT_AT("{\"Regex\":\"\\\\s|b\"}", "Isolated",
                                         "false") ",\"decoder\":{\"type\":\"ByteLevel\"}}";
    bool done = false;
    for (int64_t at = 1; !done && at < 1000; at++) {
        lutra_tokenizer *t = NULL;
        int32_t *ids = NULL;
        int64_t n_ids;
        char *text = NULL;
        size_t n;
        lu_mem_fail_at(at, true);
        lutra_status status = lu_tokenizer_parse("test", json, sizeof json - 1, &t, NULL);
        if (status == LUTRA_OK)
            status = lutra_encode(t, "e\xCC\x81<x>ab \xFF", 9, true, &ids, &n_ids, NULL);
        if (status == LUTRA_OK)
            status = lutra_decode(t, ids, n_ids, false, &text, &n, NULL);
        lu_mem_fail_at(0, false);
        if (status != LUTRA_OK && status != LUTRA_E_NOMEM)
            fail_msg("allocation %d: status %d", (int)at, (int)status);
        done = status == LUTRA_OK;
        lutra_free(ids);
        lutra_free(text);
        lutra_tokenizer_close(t);
    }
    assert_true(done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_go_by_rank_then_from_the_left),
        cmocka_unit_test(unknown_characters_follow_the_model_flags),
        cmocka_unit_test(an_unknown_token_outside_the_vocabulary_fails_when_it_is_needed),
        cmocka_unit_test(normalizers_change_the_text),
        cmocka_unit_test(split_has_five_behaviours),
        cmocka_unit_test(pre_tokenizers_cut_the_text),
        cmocka_unit_test(metaspace_prepends_by_its_scheme),
        cmocka_unit_test(added_tokens_are_found_with_their_flags),
        cmocka_unit_test(normalized_added_tokens_are_matched_after_normalisation),
        cmocka_unit_test(the_template_puts_tokens_around_the_text),
        cmocka_unit_test(decoders_make_text_of_pieces),
        cmocka_unit_test(regexes_of_the_wild_compile),
        cmocka_unit_test(damaged_files_are_refused_with_the_part_named),
        cmocka_unit_test(nested_sequences_are_bounded),
        cmocka_unit_test(every_failed_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests_name("tokenizer parts", tests, NULL, NULL);
}

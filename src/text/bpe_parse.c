/* bpe_parse.c - the member "model" of tokenizer.json: flags, merges, and the tables made from them.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/bpe.h"
#include "text/utf8.h"

/* Size of the bitmap: at most 1 pair in 16 keeps text together needlessly. */
#define JOIN_BITS_PER_MERGE 16

static size_t merge_slot(const lu_bpe *m, uint32_t left, uint32_t right)
{
    const uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (h ^ h >> 32) & (m->n_slots - 1);
}

const lu_merge *lu_bpe_find(const lu_bpe *m, uint32_t left, uint32_t right)
{
    for (size_t slot = merge_slot(m, left, right);; slot = (slot + 1) & (m->n_slots - 1)) {
        const lu_merge *rule = &m->merges[slot];
        if (rule->left == left && rule->right == right)
            return rule;
        if (rule->left == UINT32_MAX)
            return NULL;
    }
}

uint64_t lu_bpe_join_hash(const lu_bpe *m, uint32_t left, uint32_t right)
{
    return (((uint64_t)left << 32 | right) * 0xD6E8FEB86659FD93u) >> m->join_shift;
}

/* The two sides of merge number `rank`: "left right", or ["left", "right"]. */
static lutra_status merge_sides(const char *what, json_t *merge, size_t rank, const char *side[2],
                                size_t n[2], lutra_err *err)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        const size_t length = json_string_length(merge);
        const char *space = memchr(text, ' ', length);
        if (space && !memchr(space + 1, ' ', length - (size_t)(space - text) - 1)) {
            side[0] = text;
            n[0] = (size_t)(space - text);
            side[1] = space + 1;
            n[1] = length - n[0] - 1;
            return LUTRA_OK;
        }
    } else if (json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
               json_is_string(json_array_get(merge, 1))) {
        for (size_t i = 0; i < 2; i++) {
            side[i] = json_string_value(json_array_get(merge, i));
            n[i] = json_string_length(json_array_get(merge, i));
        }
        return LUTRA_OK;
    }
    return lu_fail(err, LUTRA_E_FORMAT, "%s: merge %zu is no pair of pieces", what, rank);
}

static lutra_status add_merge(const char *what, json_t *merge, size_t rank, lu_bpe *m,
                              lu_bytes *joined, lutra_err *err)
{
    const char *side[2];
    size_t n[2];
    LU_TRY(merge_sides(what, merge, rank, side, n, err));
    int32_t id[3];
    lu_bytes_clear(joined);
    for (int i = 0; i < 2; i++) {
        id[i] = lu_vocab_find(m->vocab, side[i], n[i], LU_PIECE_MODEL);
        if (id[i] < 0)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: merge %zu names \"%.*s\", which is not in the vocabulary", what,
                           rank, n[i] < 100 ? (int)n[i] : 100, side[i]);
        lu_bytes_append(joined, side[i], n[i]);
    }
    LU_TRY(lu_bytes_check(joined, err));
    id[2] = lu_vocab_find(m->vocab, joined->data, joined->n, LU_PIECE_MODEL);
    if (id[2] < 0)
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: merge %zu makes \"%.100s\", which is not in the vocabulary", what, rank,
                       joined->data);
    size_t slot = merge_slot(m, (uint32_t)id[0], (uint32_t)id[1]);
    while (m->merges[slot].left != UINT32_MAX &&
           (m->merges[slot].left != (uint32_t)id[0] || m->merges[slot].right != (uint32_t)id[1]))
        slot = (slot + 1) & (m->n_slots - 1);
    /* a pair given twice keeps its last rank, as in the reference */
    m->merges[slot] = (lu_merge){(uint32_t)id[0], (uint32_t)id[1], (uint32_t)rank, (uint32_t)id[2]};
    return LUTRA_OK;
}

static lutra_status parse_merges(const char *what, json_t *merges, lu_bpe *m, lutra_err *err)
{
    if (!json_is_array(merges))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"merges\" is missing or no array", what);
    const size_t n = json_array_size(merges);
    m->n_slots = 16;
    while (m->n_slots < 2 * n)
        m->n_slots *= 2;
    m->merges = lu_array(m->n_slots, sizeof *m->merges);
    if (!m->merges)
        return lu_fail_nomem(err, m->n_slots * sizeof *m->merges);
    memset(m->merges, 0xFF, m->n_slots * sizeof *m->merges); /* every left = UINT32_MAX */
    lu_bytes joined = {0};
    lutra_status status = LUTRA_OK;
    for (size_t i = 0; i < n && status == LUTRA_OK; i++)
        status = add_merge(what, json_array_get(merges, i), i, m, &joined, err);
    lu_bytes_free(&joined);
    return status;
}

/* Ids of one-character pieces and of the byte tokens. */
static lutra_status index_characters(lu_bpe *m, lutra_err *err)
{
    m->char_ids = lu_array(LU_BPE_CHARS, sizeof *m->char_ids);
    if (!m->char_ids)
        return lu_fail_nomem(err, LU_BPE_CHARS * sizeof *m->char_ids);
    memset(m->char_ids, 0xFF, LU_BPE_CHARS * sizeof *m->char_ids); /* -1 */
    for (int32_t id = 0; id < m->vocab->n_ids; id++) {
        size_t n = 0;
        const char *text = lu_vocab_text(m->vocab, id, &n);
        if (!text || n == 0 || n > 4 || !(m->vocab->pieces[id].flags & LU_PIECE_MODEL))
            continue;
        int length;
        const int32_t c = lu_utf8_decode(text, &length);
        if ((size_t)length == n && c < LU_BPE_CHARS)
            m->char_ids[c] = id;
    }
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        m->byte_ids[b] = lu_vocab_find(m->vocab, name, 6, LU_PIECE_MODEL);
    }
    return LUTRA_OK;
}

/* The id of the first or last character of a piece, -1: that character has no piece of its own. */
static int32_t edge_character(const lu_bpe *m, uint32_t id, bool last)
{
    size_t n = 0;
    const char *text = lu_vocab_text(m->vocab, (int32_t)id, &n);
    if (!n)
        return -1;
    int length;
    if (last)
        text += lu_utf8_before(text, n);
    lu_utf8_decode(text, &length);
    return lu_vocab_find(m->vocab, text, (size_t)length, LU_PIECE_MODEL);
}

/* Marks every pair of characters that some merge brings together. A pair that is in no made piece
   can never end up inside one token. This reasons about the text of pieces, so it is given up
   where a merge takes a byte or unknown token, whose text is not the text it stands for. */
static lutra_status find_joins(lu_bpe *m, lutra_err *err)
{
    int bits = 12;
    while (((size_t)1 << bits) < JOIN_BITS_PER_MERGE * m->n_slots / 2)
        bits++;
    m->join_shift = 64 - bits;
    m->joins = lu_calloc((size_t)1 << (bits - 6), sizeof *m->joins);
    if (!m->joins)
        return lu_fail_nomem(err, (size_t)1 << (bits - 3));
    for (size_t slot = 0; slot < m->n_slots; slot++) {
        const lu_merge *rule = &m->merges[slot];
        if (rule->left == UINT32_MAX)
            continue;
        const int32_t left = edge_character(m, rule->left, true);
        const int32_t right = edge_character(m, rule->right, false);
        bool opaque = (int32_t)rule->left == m->unk || (int32_t)rule->right == m->unk;
        for (int b = 0; b < 256 && m->byte_fallback; b++)
            opaque |=
                (int32_t)rule->left == m->byte_ids[b] || (int32_t)rule->right == m->byte_ids[b];
        if (opaque) {
            lu_free(m->joins);
            m->joins = NULL;
            return LUTRA_OK;
        }
        if (left >= 0 && right >= 0) {
            const uint64_t bit = lu_bpe_join_hash(m, (uint32_t)left, (uint32_t)right);
            m->joins[bit / 64] |= (uint64_t)1 << bit % 64;
        }
    }
    return LUTRA_OK;
}

/* Options that change the result and that no large model uses. */
static lutra_status refuse_options(const char *what, json_t *model, lutra_err *err)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const char *text = "";
        LU_TRY(lu_json_string(what, model, affixes[i], &text, err));
        if (*text)
            return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: %s \"%.100s\" is not supported", what,
                           affixes[i], text);
    }
    double dropout = 0;
    LU_TRY(lu_json_float(what, model, "dropout", &dropout, err));
    if (dropout != 0)
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: dropout is not supported", what);
    return LUTRA_OK;
}

lutra_status lu_bpe_parse(const char *what, json_t *model, const lu_vocab *vocab, lu_bpe *out,
                          lutra_err *err)
{
    out->vocab = vocab;
    LU_TRY(refuse_options(what, model, err));
    LU_TRY(lu_json_bool(what, model, "byte_fallback", &out->byte_fallback, err));
    LU_TRY(lu_json_bool(what, model, "fuse_unk", &out->fuse_unk, err));
    LU_TRY(lu_json_bool(what, model, "ignore_merges", &out->ignore_merges, err));
    const char *unk = NULL;
    LU_TRY(lu_json_string(what, model, "unk_token", &unk, err));
    out->unk = -1;
    if (unk) {
        out->unk = lu_vocab_find(vocab, unk, strlen(unk), LU_PIECE_MODEL);
        out->unk_token = lu_strdup(unk);
        if (!out->unk_token)
            return lu_fail_nomem(err, strlen(unk));
    }
    LU_TRY(parse_merges(what, json_object_get(model, "merges"), out, err));
    LU_TRY(index_characters(out, err));
    return find_joins(out, err);
}

void lu_bpe_free(lu_bpe *m)
{
    lu_free(m->merges);
    lu_free(m->char_ids);
    lu_free(m->unk_token);
    lu_free(m->joins);
    *m = (lu_bpe){0};
}

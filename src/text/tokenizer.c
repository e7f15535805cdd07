/* tokenizer.c - the tokenizer object: opening it from tokenizer.json, encoding, decoding. The parts
   do the work (parts.h, bpe.h); this file knows their order. The result is that of Hugging Face's
   tokenizers library, id for id. */
#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "text/utf8.h"

#define FILE_LIMIT ((size_t)256 << 20)
#define TEXT_LIMIT ((size_t)1 << 30) /* keeps every position inside an int32 */
#define CACHE_PAYS_FROM 4096         /* bytes of text */

/* --- opening -------------------------------------------------------------------------------- */

static lutra_status add_added_tokens(const char *what, lutra_tokenizer *t, lutra_err *err)
{
    for (size_t i = 0; i < t->added.n; i++) {
        const lu_added_token *token = &t->added.tokens[i];
        LU_TRY(lu_vocab_add(what, &t->vocab, token->content, strlen(token->content), token->id,
                            token->special ? LU_PIECE_SPECIAL : 0, err));
    }
    return LUTRA_OK;
}

/* Refuses the model types that are not BPE. Old files leave the type out; merges give BPE away. */
static lutra_status check_model(const char *what, json_t *model, lutra_err *err)
{
    if (!json_is_object(model))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: missing or no object", what);
    const char *type = NULL;
    LU_TRY(lu_json_string(what, model, "type", &type, err));
    if (!type && !json_object_get(model, "merges"))
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: no \"type\" and no merges, expected BPE",
                       what);
    if (type && strcmp(type, "BPE") != 0)
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: type \"%.100s\" is not supported, only BPE",
                       what, type);
    return LUTRA_OK;
}

static lutra_status read_parts(const char *file, json_t *root, lutra_tokenizer *t, lutra_err *err)
{
    char what[320];
    if (!json_is_object(root))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: no JSON object", file);

    snprintf(what, sizeof what, "%s: added_tokens", file);
    LU_TRY(lu_added_parse(what, json_object_get(root, "added_tokens"), &t->added, err));
    int32_t id_limit = 1;
    for (size_t i = 0; i < t->added.n; i++)
        id_limit = t->added.tokens[i].id >= id_limit ? t->added.tokens[i].id + 1 : id_limit;

    snprintf(what, sizeof what, "%s: model", file);
    json_t *model = json_object_get(root, "model");
    LU_TRY(check_model(what, model, err));
    LU_TRY(lu_vocab_parse(what, json_object_get(model, "vocab"), t->added.n, id_limit, &t->vocab,
                          err));
    LU_TRY(add_added_tokens(what, t, err));
    LU_TRY(lu_bpe_parse(what, model, &t->vocab, &t->bpe, err));

    snprintf(what, sizeof what, "%s: normalizer", file);
    LU_TRY(lu_normalizer_parse(what, json_object_get(root, "normalizer"), &t->normalizer, err));
    LU_TRY(lu_added_prepare(&t->added, &t->normalizer, err));
    snprintf(what, sizeof what, "%s: pre_tokenizer", file);
    LU_TRY(
        lu_pretokenizer_parse(what, json_object_get(root, "pre_tokenizer"), &t->pretokenizer, err));
    snprintf(what, sizeof what, "%s: post_processor", file);
    LU_TRY(lu_postprocessor_parse(what, json_object_get(root, "post_processor"), &t->vocab,
                                  &t->postprocessor, err));
    snprintf(what, sizeof what, "%s: decoder", file);
    return lu_decoder_parse(what, json_object_get(root, "decoder"), &t->decoder, err);
}

lutra_status lu_tokenizer_parse(const char *what, const char *text, size_t n, lutra_tokenizer **out,
                                lutra_err *err)
{
    json_t *root;
    LU_TRY(lu_json_parse(what, text, n, true, &root, err));
    lutra_tokenizer *t = lu_calloc(1, sizeof *t);
    lutra_status status = t ? read_parts(what, root, t, err) : lu_fail_nomem(err, sizeof *t);
    json_decref(root);
    if (status == LUTRA_OK)
        *out = t;
    else
        lutra_tokenizer_close(t);
    return status;
}

lutra_status lutra_tokenizer_open(const char *folder, lutra_tokenizer **out, lutra_err *err)
{
    char *path = lu_path_join(folder, "tokenizer.json");
    if (!path)
        return lu_fail_nomem(err, strlen(folder));
    char *text = NULL;
    size_t n;
    lutra_tokenizer *t = NULL;
    lutra_status status = lu_file_read(path, FILE_LIMIT, &text, &n, err);
    if (status == LUTRA_OK)
        status = lu_tokenizer_parse(path, text, n, &t, err);
    if (status == LUTRA_OK)
        status = lu_chat_config_load(folder, &t->chat, err);
    lu_free(text);
    lu_free(path);
    if (status == LUTRA_OK)
        *out = t;
    else
        lutra_tokenizer_close(t);
    return status;
}

void lutra_tokenizer_close(lutra_tokenizer *t)
{
    if (!t)
        return;
    lu_vocab_free(&t->vocab);
    lu_bpe_free(&t->bpe);
    lu_added_free(&t->added);
    lu_normalizer_free(&t->normalizer);
    lu_pretokenizer_free(&t->pretokenizer);
    lu_postprocessor_free(&t->postprocessor);
    lu_decoder_free(&t->decoder);
    lu_chat_config_free(&t->chat);
    lu_free(t);
}

/* --- looking up ----------------------------------------------------------------------------- */

int64_t lutra_tokenizer_vocab_size(const lutra_tokenizer *t) { return t->vocab.n_ids; }

int32_t lutra_tokenizer_id(const lutra_tokenizer *t, const char *token)
{
    return lu_vocab_find(&t->vocab, token, strlen(token), LU_PIECE_PRESENT);
}

const char *lutra_tokenizer_piece(const lutra_tokenizer *t, int32_t id)
{
    size_t n;
    return lu_vocab_text(&t->vocab, id, &n);
}

bool lutra_tokenizer_is_special(const lutra_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n_ids && (t->vocab.pieces[id].flags & LU_PIECE_SPECIAL);
}

/* --- encoding ------------------------------------------------------------------------------- */

/* Working memory of one lutra_encode. */
typedef struct encoding {
    const lutra_tokenizer *t;
    lu_match_room match;
    lu_bpe_room bpe;
    lu_bytes normal;         /* the section at hand, normalised */
    lu_pieces pieces, spare; /* and cut into pre-tokens */
} encoding;

/* A stretch without added tokens, normalised already. */
static lutra_status encode_plain(encoding *e, const char *text, size_t n, bool at_start,
                                 lutra_err *err)
{
    lu_bytes_clear(&e->pieces.text);
    lu_bytes_append(&e->pieces.text, text, n);
    LU_TRY(lu_bytes_check(&e->pieces.text, err));
    LU_TRY(lu_pretokenize(&e->t->pretokenizer, &e->match, at_start, &e->pieces, &e->spare, err));
    for (size_t i = 0; i < e->pieces.n; i++) {
        const lu_span *span = &e->pieces.spans[i];
        LU_TRY(lu_bpe_encode(&e->t->bpe, &e->bpe, e->pieces.text.data + span->begin,
                             span->end - span->begin, err));
    }
    return LUTRA_OK;
}

/* A stretch without verbatim added tokens: is normalised, then may show further added tokens. */
static lutra_status encode_section(encoding *e, const char *text, size_t n, bool at_start,
                                   lutra_err *err)
{
    lu_bytes_clear(&e->normal);
    lu_bytes_append(&e->normal, text, n);
    LU_TRY(lu_normalize(&e->t->normalizer, &e->match, &e->normal, &at_start, err));
    lu_added_scan scan;
    lu_section section;
    lu_added_begin(&scan, &e->t->added.normalized, e->normal.data, e->normal.n);
    while (lu_added_next(&scan, &section)) {
        if (section.id >= 0)
            LU_TRY(lu_bpe_room_put(&e->bpe, section.id, err));
        else
            LU_TRY(encode_plain(e, e->normal.data + section.begin, section.end - section.begin,
                                at_start && section.begin == 0, err));
    }
    return LUTRA_OK;
}

static lutra_status encode_text(encoding *e, const char *text, size_t n, bool add_special,
                                lutra_err *err)
{
    const lu_postprocessor *post = &e->t->postprocessor;
    for (int i = 0; add_special && i < post->n_before; i++)
        LU_TRY(lu_bpe_room_put(&e->bpe, post->before[i], err));
    lu_added_scan scan;
    lu_section section;
    lu_added_begin(&scan, &e->t->added.verbatim, text, n);
    while (lu_added_next(&scan, &section)) {
        if (section.id >= 0)
            LU_TRY(lu_bpe_room_put(&e->bpe, section.id, err));
        else
            LU_TRY(encode_section(e, text + section.begin, section.end - section.begin,
                                  section.begin == 0, err));
    }
    for (int i = 0; add_special && i < post->n_after; i++)
        LU_TRY(lu_bpe_room_put(&e->bpe, post->after[i], err));
    return LUTRA_OK;
}

/* Hands over the ids; an empty result is an allocated array too. */
static lutra_status take_ids(lu_bpe_room *room, int32_t **ids, int64_t *n_ids, lutra_err *err)
{
    int32_t *fitted = lu_resize(room->ids, room->n_ids * sizeof *fitted);
    if (!fitted)
        return lu_fail_nomem(err, room->n_ids * sizeof *fitted);
    *ids = fitted;
    *n_ids = (int64_t)room->n_ids;
    room->ids = NULL;
    return LUTRA_OK;
}

lutra_status lutra_encode(const lutra_tokenizer *t, const char *text, size_t n, bool add_special,
                          int32_t **ids, int64_t *n_ids, lutra_err *err)
{
    if (n > TEXT_LIMIT)
        return lu_fail(err, LUTRA_E_LIMIT, "text of %zu bytes: more than %zu in one call", n,
                       TEXT_LIMIT);
    encoding e = {.t = t};
    lu_bytes clean = {0};
    if (!lu_utf8_valid(text, n)) {
        lu_utf8_append_lossy(&clean, text, n, false);
        text = clean.data;
        n = clean.n;
    }
    lutra_status status = lu_bytes_check(&clean, err);
    if (status == LUTRA_OK)
        status = lu_bpe_room_open(n >= CACHE_PAYS_FROM, &e.bpe, err);
    if (status == LUTRA_OK)
        status = encode_text(&e, text, n, add_special, err);
    if (status == LUTRA_OK)
        status = take_ids(&e.bpe, ids, n_ids, err);
    lu_bytes_free(&clean);
    lu_bytes_free(&e.normal);
    lu_pieces_free(&e.pieces);
    lu_pieces_free(&e.spare);
    lu_match_room_free(&e.match);
    lu_bpe_room_free(&e.bpe);
    return status;
}

/* --- decoding ------------------------------------------------------------------------------- */

lutra_status lu_tokenizer_push(const lutra_tokenizer *t, lu_decoding *d, int32_t id,
                               bool skip_special, lutra_err *err)
{
    if (id < 0)
        return lu_fail(err, LUTRA_E_ARG, "token id %d is negative", (int)id);
    size_t n;
    const char *piece = lu_vocab_text(&t->vocab, id, &n);
    /* Ids without a piece are no error: models have more rows than their tokenizers have pieces. */
    if (!piece || (skip_special && lutra_tokenizer_is_special(t, id)))
        return LUTRA_OK;
    return lu_decoding_push(d, piece, n, err);
}

lutra_status lutra_decode(const lutra_tokenizer *t, const int32_t *ids, int64_t n_ids,
                          bool skip_special, char **text, size_t *n, lutra_err *err)
{
    lu_decoding d;
    LU_TRY(lu_decoding_open(&t->decoder, &d, err));
    lutra_status status = LUTRA_OK;
    for (int64_t i = 0; i < n_ids && status == LUTRA_OK; i++)
        status = lu_tokenizer_push(t, &d, ids[i], skip_special, err);
    if (status == LUTRA_OK)
        status = lu_decoding_finish(&d, err);
    if (status == LUTRA_OK)
        status = lu_bytes_take(&d.out, text, n, err);
    lu_decoding_close(&d);
    return status;
}

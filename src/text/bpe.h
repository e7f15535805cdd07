/* bpe.h - byte pair encoding: a pre-token's characters become symbols, and the adjacent pair with
   the lowest rank is merged (leftmost first on ties) until no pair has one. */
#ifndef LU_TEXT_BPE_H
#define LU_TEXT_BPE_H

#include "text/vocab.h"

/* One merge rule, in an open-addressing table by (left, right). */
typedef struct lu_merge {
    uint32_t left, right; /* ids; left = UINT32_MAX: free slot */
    uint32_t rank;        /* place in the file: lower goes first */
    uint32_t made;        /* id of the joined piece */
} lu_merge;

#define LU_BPE_CHARS 0x10000 /* characters with a direct entry in char_ids */

typedef struct lu_bpe {
    const lu_vocab *vocab;
    lu_merge *merges;
    size_t n_slots;        /* a power of two */
    int32_t *char_ids;     /* id of the one-character piece, -1: none */
    int32_t byte_ids[256]; /* "<0x00>" .. "<0xFF>", -1: none */
    char *unk_token;       /* NULL: characters without a piece are dropped */
    int32_t unk;           /* its id, -1 when the vocabulary lacks it: an error once it is needed */
    bool byte_fallback, fuse_unk, ignore_merges;
    /* Bitmap over hashed pairs of symbols. A clear bit says that no piece that a merge can make
       has the two next to each other, so the text may be cut between them. NULL: never cut. */
    uint64_t *joins;
    int join_shift;
} lu_bpe;

/* Reads the member "model"; vocab is filled already and must outlive the result. */
lutra_status lu_bpe_parse(const char *what, json_t *model, const lu_vocab *vocab, lu_bpe *out,
                          lutra_err *err);
void lu_bpe_free(lu_bpe *m);

const lu_merge *lu_bpe_find(const lu_bpe *m, uint32_t left, uint32_t right); /* NULL: no rule */
uint64_t lu_bpe_join_hash(const lu_bpe *m, uint32_t left, uint32_t right);   /* bit number */

/* What one encoding call needs: working arrays, a cache of words, and the ids so far. */
typedef struct lu_bpe_room {
    int32_t *ids; /* the result; the caller may take it over */
    size_t n_ids, ids_capacity;
    uint32_t *symbols; /* of the stretch being collected */
    size_t n_symbols, symbols_capacity;
    int32_t *links; /* of long stretches: previous and next symbol */
    struct lu_bpe_pair *heap;
    size_t long_capacity;      /* symbols that links and heap have room for */
    struct lu_bpe_word *cache; /* NULL: none */
} lu_bpe_room;

/* use_cache pays from a few KB of text. */
lutra_status lu_bpe_room_open(bool use_cache, lu_bpe_room *out, lutra_err *err);
void lu_bpe_room_free(lu_bpe_room *r);
lutra_status lu_bpe_room_put(lu_bpe_room *r, int32_t id, lutra_err *err); /* appends to ids */

/* Appends the ids of one pre-token, which is valid UTF-8. */
lutra_status lu_bpe_encode(const lu_bpe *m, lu_bpe_room *r, const char *text, size_t n,
                           lutra_err *err);

#endif

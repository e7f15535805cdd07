/* vocab.h - pieces and ids: the model's vocabulary and the added tokens in one table. */
#ifndef LU_TEXT_VOCAB_H
#define LU_TEXT_VOCAB_H

#include "base/json.h"
#include "base/status.h"

/* Larger ids are refused: tables are indexed by id. The largest vocabularies in use are near 2^18.
 */
#define LU_ID_LIMIT (1 << 22)

enum {
    LU_PIECE_PRESENT = 1,
    LU_PIECE_MODEL = 2,  /* of the model's vocabulary, so that BPE may produce it */
    LU_PIECE_SPECIAL = 4 /* left out by skip_special */
};

typedef struct lu_piece {
    uint32_t offset, length; /* in lu_vocab.text, NUL-terminated there */
    uint32_t flags;
} lu_piece;

typedef struct lu_vocab {
    char *text;
    size_t text_size, text_capacity;
    lu_piece *pieces; /* by id */
    int32_t n_ids;    /* largest id + 1 */
    int32_t *slots;   /* hash table of ids, -1 = free; n_slots is a power of two */
    size_t n_slots;
} lu_vocab;

/* Reads {"piece": id, ...}. Room is left for `n_more` added pieces with ids below `id_limit`. */
lutra_status lu_vocab_parse(const char *what, json_t *object, size_t n_more, int32_t id_limit,
                            lu_vocab *out, lutra_err *err);
/* Adds a piece, or flags to the one that is there; E_FORMAT when id and text disagree. */
lutra_status lu_vocab_add(const char *what, lu_vocab *v, const char *text, size_t n, int32_t id,
                          uint32_t flags, lutra_err *err);
void lu_vocab_free(lu_vocab *v);

/* The id of a piece that has all of `flags`; -1: none. */
int32_t lu_vocab_find(const lu_vocab *v, const char *text, size_t n, uint32_t flags);
const char *lu_vocab_text(const lu_vocab *v, int32_t id, size_t *n); /* NULL: no such piece */

#endif

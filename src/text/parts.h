/* parts.h - the parts of tokenizer.json, each with its reader, its work and its release:

     text -> [added tokens] -> normalizer -> [added tokens] -> pre-tokenizer -> bpe -> ids
     ids -> pieces -> decoder -> text

   A part that is a Sequence is flattened into a list of steps. `what` names the file and part in
   messages. Everything is read-only once opened; what a call needs besides lives in lu_match_room
   and lu_bpe_room, so that one tokenizer serves several threads. */
#ifndef LU_TEXT_PARTS_H
#define LU_TEXT_PARTS_H

#include "text/bytes.h"
#include "text/regex.h"
#include "text/vocab.h"

/* Calls `step` for every step of a part: itself, or for a Sequence its members (key `list`), to a
   depth of 8. null is no step. */
typedef lutra_status (*lu_part_step)(void *arg, const char *what, const char *type, json_t *part,
                                     lutra_err *err);
lutra_status lu_part_walk(const char *what, json_t *part, const char *list, lu_part_step step,
                          void *arg, lutra_err *err);

/* Grows the array *items of `size`-byte items by one zeroed item. NULL = out of memory. */
void *lu_part_grow(void *items, int n, size_t size);

/* A required string member and its length; E_FORMAT when it is absent. */
lutra_status lu_part_text(const char *what, json_t *part, const char *key, const char **text,
                          size_t *n, lutra_err *err);
/* A required string of exactly one character (a Strip's content, a Metaspace's replacement). */
lutra_status lu_part_char(const char *what, json_t *part, const char *key, const char **text,
                          size_t *n, lutra_err *err);

/* Metaspace's prepend_scheme, with the older add_prefix_space taken into account. */
typedef enum lu_prepend { LU_PREPEND_ALWAYS, LU_PREPEND_FIRST, LU_PREPEND_NEVER } lu_prepend;
lutra_status lu_part_prepend(const char *what, json_t *part, lu_prepend *out, lutra_err *err);

/* The byte-level alphabet: every byte has a printable character. */
int32_t lu_byte_to_char(uint8_t byte);
int lu_char_to_byte(int32_t c); /* -1: not in the alphabet */

/* --- normalizer ----------------------------------------------------------------------------- */

typedef struct lu_norm_step lu_norm_step;
typedef struct lu_normalizer {
    lu_norm_step *steps;
    int n_steps;
} lu_normalizer;

lutra_status lu_normalizer_parse(const char *what, json_t *part, lu_normalizer *out,
                                 lutra_err *err);
/* Normalises *text in place. *at_start turns false once the text's first character was cut off. */
lutra_status lu_normalize(const lu_normalizer *z, lu_match_room *room, lu_bytes *text,
                          bool *at_start, lutra_err *err);
void lu_normalizer_free(lu_normalizer *z);

/* --- pre-tokenizer -------------------------------------------------------------------------- */

typedef struct lu_span {
    size_t begin, end;
    bool at_start; /* begins where the whole input begins */
} lu_span;

/* A text and the pieces it is cut into; pieces are in order, not empty, and may leave gaps. */
typedef struct lu_pieces {
    lu_bytes text;
    lu_span *spans;
    size_t n, capacity;
} lu_pieces;

void lu_pieces_free(lu_pieces *p);

typedef struct lu_pre_step lu_pre_step;
typedef struct lu_pretokenizer {
    lu_pre_step *steps;
    int n_steps;
} lu_pretokenizer;

lutra_status lu_pretokenizer_parse(const char *what, json_t *part, lu_pretokenizer *out,
                                   lutra_err *err);
/* Cuts p->text into the pieces that BPE takes; at_start: it begins the input. `spare` is working
 * room. */
lutra_status lu_pretokenize(const lu_pretokenizer *z, lu_match_room *room, bool at_start,
                            lu_pieces *p, lu_pieces *spare, lutra_err *err);
void lu_pretokenizer_free(lu_pretokenizer *z);

/* --- added tokens --------------------------------------------------------------------------- */

typedef struct lu_added_token {
    int32_t id;
    char *content; /* as written */
    char *match;   /* what is looked for: normalised when `normalized` */
    size_t n_match;
    bool single_word, lstrip, rstrip, normalized, special;
} lu_added_token;

/* The tokens of one matching round, sorted by their bytes; first[b] .. first[b+1] begin with b. */
typedef struct lu_added_set {
    const lu_added_token **sorted;
    size_t n;
    uint32_t first[257];
} lu_added_set;

typedef struct lu_added {
    lu_added_token *tokens;
    size_t n;
    lu_added_set verbatim, normalized; /* matched before and after normalisation */
} lu_added;

lutra_status lu_added_parse(const char *what, json_t *list, lu_added *out, lutra_err *err);
/* Sorts the sets; the normalizer is needed for the tokens that are matched after it. */
lutra_status lu_added_prepare(lu_added *a, const lu_normalizer *z, lutra_err *err);
void lu_added_free(lu_added *a);

/* A stretch of text: a token (id >= 0) or what lies between tokens (id = -1). */
typedef struct lu_section {
    size_t begin, end;
    int32_t id;
} lu_section;

/* Walks over the sections of a text. Like the reference it may give a token's range again where a
   token with rstrip has run over one. */
typedef struct lu_added_scan {
    const lu_added_set *set;
    const char *text;
    size_t n, at, done; /* searching from `at`; everything before `done` was given out */
    lu_section held;    /* a token found, given after the text before it; id -1: none */
} lu_added_scan;

void lu_added_begin(lu_added_scan *s, const lu_added_set *set, const char *text, size_t n);
bool lu_added_next(lu_added_scan *s, lu_section *out); /* false at the end */

/* --- post-processor ------------------------------------------------------------------------- */

/* Ids put around the text. */
typedef struct lu_postprocessor {
    int32_t *before, *after;
    int n_before, n_after;
} lu_postprocessor;

lutra_status lu_postprocessor_parse(const char *what, json_t *part, const lu_vocab *vocab,
                                    lu_postprocessor *out, lutra_err *err);
void lu_postprocessor_free(lu_postprocessor *z);

/* --- decoder -------------------------------------------------------------------------------- */

typedef struct lu_dec_step lu_dec_step;
typedef struct lu_decoder {
    lu_dec_step *steps;
    int n_steps;
} lu_decoder;

lutra_status lu_decoder_parse(const char *what, json_t *part, lu_decoder *out, lutra_err *err);
void lu_decoder_free(lu_decoder *z);

/* Decoding in progress: one state per step. */
typedef struct lu_dec_state lu_dec_state;
typedef struct lu_decoding {
    const lu_decoder *decoder;
    lu_dec_state *states;
    lu_match_room room;
    lu_bytes out; /* valid UTF-8 that no later token can change; the caller takes it from here */
} lu_decoding;

lutra_status lu_decoding_open(const lu_decoder *z, lu_decoding *out, lutra_err *err);
lutra_status lu_decoding_push(lu_decoding *d, const char *piece, size_t n, lutra_err *err);
lutra_status lu_decoding_finish(lu_decoding *d, lutra_err *err); /* after it: only close */
void lu_decoding_close(lu_decoding *d);

#endif

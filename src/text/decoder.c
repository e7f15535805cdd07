/* decoder.c - the member "decoder": from pieces back to text, one piece at a time, so that
   streaming and decoding at once are the same code. Each step takes pieces and hands pieces to the
   next one; the last hands text to lu_decoding.out.

   Fuse and ByteLevel make all pieces one. A step after them is given that one piece in fragments:
   Strip and Metaspace take these as they come; the others wait for the end (`waits`).
   Invariant: what was put out never has to be taken back. */
#include <string.h>

#include "base/mem.h"
#include "text/parts.h"
#include "text/utf8.h"

#define STRIP_LIMIT (1 << 20)

typedef enum step_kind {
    JOIN,
    BYTE_LEVEL,
    REPLACE,
    BYTE_FALLBACK,
    FUSE,
    STRIP,
    METASPACE
} step_kind;

struct lu_dec_step {
    step_kind kind;
    lu_pattern pattern; /* REPLACE */
    char *text;         /* REPLACE: the new text; STRIP, METASPACE: the character */
    size_t n;
    int64_t start, stop; /* STRIP: how many characters at most */
    lu_prepend prepend;  /* METASPACE */
    bool fused;          /* gets one piece in fragments */
    bool waits;          /* must see that piece whole */
};

struct lu_dec_state {
    lu_bytes held;    /* not yet handed on: see each step */
    lu_bytes scratch; /* what is handed on */
    int64_t n_pieces;
    int64_t cut;     /* STRIP of a fused piece: characters cut so far at the start */
    bool past_start; /* and another character was seen */
};

/* --- reading -------------------------------------------------------------------------------- */

static const struct {
    const char *type;
    step_kind kind;
} kinds[] = {
    {"ByteLevel", BYTE_LEVEL},
    {"Replace", REPLACE},
    {"ByteFallback", BYTE_FALLBACK},
    {"Fuse", FUSE},
    {"Strip", STRIP},
    {"Metaspace", METASPACE},
};

static lutra_status parse_step(lu_dec_step *step, const char *what, json_t *part, lutra_err *err)
{
    const char *text = NULL;
    if (step->kind == REPLACE) {
        LU_TRY(lu_part_text(what, part, "content", &text, &step->n, err));
        LU_TRY(lu_pattern_parse(what, part, &step->pattern, err));
    } else if (step->kind == STRIP) {
        LU_TRY(lu_part_char(what, part, "content", &text, &step->n, err));
        LU_TRY(lu_json_int(what, part, "start", &step->start, err));
        LU_TRY(lu_json_int(what, part, "stop", &step->stop, err));
        if (step->start < 0 || step->start > STRIP_LIMIT || step->stop < 0 ||
            step->stop > STRIP_LIMIT)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: a Strip of %lld and %lld characters, expected 0 .. %d", what,
                           (long long)step->start, (long long)step->stop, STRIP_LIMIT);
    } else if (step->kind == METASPACE) {
        LU_TRY(lu_part_prepend(what, part, &step->prepend, err));
        LU_TRY(lu_part_char(what, part, "replacement", &text, &step->n, err));
    } else {
        return LUTRA_OK;
    }
    step->text = lu_strndup(text, step->n);
    return step->text ? LUTRA_OK : lu_fail_nomem(err, step->n);
}

static lutra_status new_step(lu_decoder *z, step_kind kind, lutra_err *err)
{
    lu_dec_step *grown = lu_part_grow(z->steps, z->n_steps, sizeof *grown);
    if (!grown)
        return lu_fail_nomem(err, sizeof *grown);
    z->steps = grown;
    lu_dec_step *step = &grown[z->n_steps];
    step->kind = kind;
    if (z->n_steps) {
        const lu_dec_step *before = step - 1;
        step->fused = before->fused || before->kind == FUSE || before->kind == BYTE_LEVEL;
    }
    step->waits = step->fused && (kind == REPLACE || kind == BYTE_FALLBACK || kind == BYTE_LEVEL);
    z->n_steps++;
    return LUTRA_OK;
}

#define STEPS_LIMIT 64 /* steps call each other: bounds the stack */

static lutra_status add_step(void *arg, const char *what, const char *type, json_t *part,
                             lutra_err *err)
{
    lu_decoder *z = arg;
    if (z->n_steps == STEPS_LIMIT)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: more than %d steps", what, STEPS_LIMIT);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].type) == 0) {
            LU_TRY(new_step(z, kinds[i].kind, err));
            return parse_step(&z->steps[z->n_steps - 1], what, part, err);
        }
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: type \"%.100s\" is not supported", what, type);
}

lutra_status lu_decoder_parse(const char *what, json_t *part, lu_decoder *out, lutra_err *err)
{
    if (!part || json_is_null(part))
        return new_step(out, JOIN, err); /* no decoder: pieces with spaces between them */
    return lu_part_walk(what, part, "decoders", add_step, out, err);
}

void lu_decoder_free(lu_decoder *z)
{
    for (int i = 0; i < z->n_steps; i++) {
        lu_pattern_free(&z->steps[i].pattern);
        lu_free(z->steps[i].text);
    }
    lu_free(z->steps);
    *z = (lu_decoder){0};
}

/* --- steps ---------------------------------------------------------------------------------- */

static lutra_status hand_on(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err);

/* Pieces of the byte-level alphabet become bytes, any other piece its UTF-8. The bytes of all
   pieces together are the text; an incomplete character stays in `held`. */
static lutra_status byte_level(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    lu_dec_state *state = &d->states[i];
    const size_t before = state->held.n;
    int length;
    for (size_t at = 0; at < n; at += (size_t)length) {
        const int byte = lu_char_to_byte(lu_utf8_decode(piece + at, &length));
        if (byte < 0) {
            state->held.n = before;
            lu_bytes_append(&state->held, piece, n);
            break;
        }
        lu_bytes_put(&state->held, (char)byte);
    }
    LU_TRY(lu_bytes_check(&state->held, err));
    lu_bytes_clear(&state->scratch);
    const size_t used =
        lu_utf8_append_lossy(&state->scratch, state->held.data, state->held.n, true);
    lu_bytes_drop(&state->held, used);
    LU_TRY(lu_bytes_check(&state->scratch, err));
    return hand_on(d, i + 1, state->scratch.data, state->scratch.n, err);
}

/* "<0x41>" -> 0x41, else -1. */
static int byte_token(const char *piece, size_t n)
{
    int value = 0;
    if (n != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        const char c = piece[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if ((c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'))
            value = value * 16 + ((c | 0x20) - 'a' + 10);
        else
            return -1;
    }
    return value;
}

/* A run of byte tokens is known to be text only when it is over: one bad byte spoils all of it. */
static lutra_status end_byte_run(lu_decoding *d, int i, lutra_err *err)
{
    lu_bytes *held = &d->states[i].held;
    const size_t n = held->n;
    if (!n)
        return LUTRA_OK;
    held->n = 0; /* the bytes stay readable: nothing is appended before they are handed on */
    if (lu_utf8_valid(held->data, n))
        return hand_on(d, i + 1, held->data, n, err);
    for (size_t k = 0; k < n; k++)
        LU_TRY(hand_on(d, i + 1, LU_REPLACEMENT, sizeof LU_REPLACEMENT - 1, err));
    return LUTRA_OK;
}

static lutra_status byte_fallback(lu_decoding *d, int i, const char *piece, size_t n,
                                  lutra_err *err)
{
    const int byte = byte_token(piece, n);
    if (byte >= 0) {
        lu_bytes_put(&d->states[i].held, (char)byte);
        return lu_bytes_check(&d->states[i].held, err);
    }
    LU_TRY(end_byte_run(d, i, err));
    return hand_on(d, i + 1, piece, n, err);
}

static lutra_status replace(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    const lu_dec_step *step = &d->decoder->steps[i];
    lu_bytes *out = &d->states[i].scratch;
    lu_bytes_clear(out);
    LU_TRY(lu_pattern_replace(&step->pattern, &d->room, &(lu_text){piece, n},
                              &(lu_text){step->text, step->n}, out, err));
    return hand_on(d, i + 1, out->data, out->n, err);
}

static bool begins_with(const char *text, size_t n, const lu_dec_step *step)
{
    return n >= step->n && memcmp(text, step->text, step->n) == 0;
}

/* Bytes of at most `limit` of the step's characters at the end of the text. */
static size_t trailing(const char *text, size_t n, const lu_dec_step *step, int64_t limit)
{
    size_t bytes = 0;
    for (int64_t k = 0; k < limit && n - bytes >= step->n; k++) {
        if (memcmp(text + n - bytes - step->n, step->text, step->n) != 0)
            break;
        bytes += step->n;
    }
    return bytes;
}

/* Of a fused piece the start is cut once, and what may have to be cut at its end is held. */
static lutra_status strip(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    const lu_dec_step *step = &d->decoder->steps[i];
    lu_dec_state *state = &d->states[i];
    if (!step->fused) {
        state->cut = 0;
        state->past_start = false;
    }
    while (!state->past_start && n) {
        if (state->cut == step->start || !begins_with(piece, n, step)) {
            state->past_start = true;
        } else {
            state->cut++;
            piece += step->n;
            n -= step->n;
        }
    }
    if (!step->fused)
        return hand_on(d, i + 1, piece, n - trailing(piece, n, step, step->stop), err);
    if (!step->stop)
        return hand_on(d, i + 1, piece, n, err);
    lu_bytes_append(&state->held, piece, n);
    LU_TRY(lu_bytes_check(&state->held, err));
    const size_t keep = trailing(state->held.data, state->held.n, step, step->stop);
    const size_t give = state->held.n - keep;
    LU_TRY(hand_on(d, i + 1, state->held.data, give, err));
    lu_bytes_drop(&state->held, give);
    return LUTRA_OK;
}

static lutra_status metaspace(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    const lu_dec_step *step = &d->decoder->steps[i];
    lu_dec_state *state = &d->states[i];
    const bool drop = (step->fused || state->n_pieces == 0) && step->prepend != LU_PREPEND_NEVER;
    state->n_pieces++;
    lu_bytes_clear(&state->scratch);
    for (size_t at = 0; at < n;) {
        if (begins_with(piece + at, n - at, step)) {
            if (!drop)
                lu_bytes_put(&state->scratch, ' ');
            at += step->n;
        } else {
            lu_bytes_put(&state->scratch, piece[at++]);
        }
    }
    LU_TRY(lu_bytes_check(&state->scratch, err));
    return hand_on(d, i + 1, state->scratch.data, state->scratch.n, err);
}

static lutra_status join(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    if (d->states[i].n_pieces++)
        LU_TRY(hand_on(d, i + 1, " ", 1, err));
    return hand_on(d, i + 1, piece, n, err);
}

static lutra_status fuse(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    return hand_on(d, i + 1, piece, n, err);
}

/* --- running -------------------------------------------------------------------------------- */

static lutra_status (*const runs[])(lu_decoding *, int, const char *, size_t, lutra_err *) = {
    [JOIN] = join,           [BYTE_LEVEL] = byte_level,
    [REPLACE] = replace,     [BYTE_FALLBACK] = byte_fallback,
    [FUSE] = fuse,           [STRIP] = strip,
    [METASPACE] = metaspace,
};

/* Gives a piece, or a fragment of the fused piece, to step i. */
static lutra_status hand_on(lu_decoding *d, int i, const char *piece, size_t n, lutra_err *err)
{
    if (i == d->decoder->n_steps) {
        lu_bytes_append(&d->out, piece, n);
        return lu_bytes_check(&d->out, err);
    }
    const lu_dec_step *step = &d->decoder->steps[i];
    if (step->waits) {
        lu_bytes_append(&d->states[i].held, piece, n);
        return lu_bytes_check(&d->states[i].held, err);
    }
    return runs[step->kind](d, i, piece, n, err);
}

lutra_status lu_decoding_open(const lu_decoder *z, lu_decoding *out, lutra_err *err)
{
    *out = (lu_decoding){.decoder = z};
    out->states = lu_calloc((size_t)z->n_steps, sizeof *out->states);
    return out->states ? LUTRA_OK : lu_fail_nomem(err, (size_t)z->n_steps * sizeof *out->states);
}

lutra_status lu_decoding_push(lu_decoding *d, const char *piece, size_t n, lutra_err *err)
{
    return hand_on(d, 0, piece, n, err);
}

/* What a step holds back goes to the next step before that one is finished in its turn. */
static lutra_status finish_step(lu_decoding *d, int i, lutra_err *err)
{
    const lu_dec_step *step = &d->decoder->steps[i];
    lu_dec_state *state = &d->states[i];
    if (step->waits) {
        lu_bytes whole = state->held;
        state->held = (lu_bytes){0};
        lutra_status status = LUTRA_OK;
        if (whole.n)
            status = runs[step->kind](d, i, whole.data, whole.n, err);
        lu_bytes_free(&whole);
        LU_TRY(status);
    }
    if (step->kind == BYTE_FALLBACK)
        return end_byte_run(d, i, err);
    if (step->kind == BYTE_LEVEL && state->held.n)
        return hand_on(d, i + 1, LU_REPLACEMENT, sizeof LU_REPLACEMENT - 1, err);
    return LUTRA_OK;
}

lutra_status lu_decoding_finish(lu_decoding *d, lutra_err *err)
{
    for (int i = 0; i < d->decoder->n_steps; i++)
        LU_TRY(finish_step(d, i, err));
    return LUTRA_OK;
}

void lu_decoding_close(lu_decoding *d)
{
    for (int i = 0; d->states && i < d->decoder->n_steps; i++) {
        lu_bytes_free(&d->states[i].held);
        lu_bytes_free(&d->states[i].scratch);
    }
    lu_free(d->states);
    lu_match_room_free(&d->room);
    lu_bytes_free(&d->out);
    *d = (lu_decoding){0};
}

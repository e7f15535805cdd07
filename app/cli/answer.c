/* answer.c - drives lutra_generate: each token goes through the streaming decoder, the text that is
   safe to show goes out at once and into the answer. */
#include "answer.h"

#include <string.h>

#include "base/mem.h"
#include "interrupt.h"

typedef struct receiver {
    const cli_question *q;
    cli_answer *a;
    lutra_stream *stream;
    lutra_status status;
    lutra_err *err;
    bool stopped;
} receiver;

static lutra_status keep_text(receiver *r, const char *text, size_t n)
{
    cli_answer *a = r->a;
    if (a->n + n + 1 > a->room) {
        const size_t room = (a->n + n + 1) * 2;
        char *more = lu_resize(a->text, room);
        if (!more)
            return lu_fail_nomem(r->err, room);
        a->text = more;
        a->room = room;
    }
    memcpy(a->text + a->n, text, n);
    a->n += n;
    a->text[a->n] = '\0';
    if (r->q->show && n) {
        out_write(text, n);
        out_flush();
    }
    return LUTRA_OK;
}

static lutra_status keep_id(receiver *r, int32_t id)
{
    cli_answer *a = r->a;
    if (a->n_ids == a->ids_room) {
        const int64_t room = a->ids_room * 2 + 64;
        int32_t *more = lu_resize(a->ids, (size_t)room * sizeof *more);
        if (!more)
            return lu_fail_nomem(r->err, (size_t)room * sizeof *more);
        a->ids = more;
        a->ids_room = room;
    }
    a->ids[a->n_ids++] = id;
    return LUTRA_OK;
}

static bool on_token(void *user, int32_t id)
{
    receiver *r = user;
    const char *text;
    size_t n;
    r->status = keep_id(r, id);
    if (r->status == LUTRA_OK)
        r->status = lutra_stream_push(r->stream, id, &text, &n, &r->stopped, r->err);
    if (r->status == LUTRA_OK)
        r->status = keep_text(r, text, n);
    return r->status == LUTRA_OK && !r->stopped && !out_broken() && !interrupt_asked();
}

static lutra_status finish(receiver *r)
{
    cli_answer *a = r->a;
    if (!r->stopped) {
        const char *text;
        size_t n;
        LU_TRY(lutra_stream_flush(r->stream, &text, &n, r->err));
        LU_TRY(keep_text(r, text, n));
    }
    a->finish = r->stopped                             ? CLI_ANSWER_STOP
                : interrupt_asked() || out_broken()    ? CLI_ANSWER_INTERRUPTED
                : a->result.finish == LUTRA_FINISH_EOS ? CLI_ANSWER_EOS
                                                       : CLI_ANSWER_LENGTH;
    return LUTRA_OK;
}

lutra_status cli_generate(const cli_loaded *l, const cli_question *q, cli_answer *out,
                          lutra_err *err)
{
    receiver r = {.q = q, .a = out, .err = err};
    memset(out, 0, sizeof *out);
    LU_TRY(keep_text(&r, "", 0)); /* text is never NULL */
    LU_TRY(lutra_stream_open(l->tokenizer, true, q->stops->items, q->stops->n, &r.stream, err));
    lutra_generation g;
    lutra_generation_init(&g);
    g.sampling = q->sampling;
    g.max_tokens = q->max_tokens;
    g.ignore_eos = q->ignore_eos;
    g.user = &r;
    g.on_token = on_token;
    lutra_status status = lutra_generate(q->session, q->ids, q->n, &g, &out->result, err);
    if (r.status != LUTRA_OK)
        status = r.status;
    if (status == LUTRA_OK || status == LUTRA_E_CANCELLED)
        status = finish(&r);
    lutra_stream_close(r.stream);
    return status;
}

void cli_answer_free(cli_answer *a)
{
    lu_free(a->text);
    lu_free(a->ids);
}

const char *cli_finish_name(cli_finish f)
{
    static const char *const names[] = {"eos", "length", "stop", "interrupted"};
    return names[f];
}

int64_t cli_decoded(const cli_answer *a)
{
    const lutra_generation_result *r = &a->result;
    return r->finish == LUTRA_FINISH_EOS || r->n_new == 0 ? r->n_new : r->n_new - 1;
}

double cli_rate(int64_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

void cli_note_speed(cli_call *call, const cli_answer *a)
{
    const lutra_generation_result *r = &a->result;
    cli_note(call, "%lld tokens, %.1f tokens/s (prompt %lld tokens, %.1f tokens/s); end: %s",
             (long long)r->n_new, cli_rate(cli_decoded(a), r->decode_seconds), (long long)r->n_prompt,
             cli_rate(r->n_prompt, r->prompt_seconds), cli_finish_name(a->finish));
}

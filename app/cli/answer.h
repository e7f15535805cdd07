/* answer.h - one generation: tokens in, text streamed to stdout as it comes. Used by run and chat.
 */
#ifndef LUTRA_CLI_ANSWER_H
#define LUTRA_CLI_ANSWER_H

#include "loading.h"

typedef struct cli_question {
    lutra_session *session;
    const int32_t *ids; /* to feed after what the session holds */
    int64_t n;
    lutra_sampling sampling;
    int64_t max_tokens; /* 0 = until the context is full */
    bool ignore_eos;
    const cli_list *stops;
    bool show; /* write the text to stdout while it comes */
} cli_question;

typedef enum cli_finish {
    CLI_ANSWER_EOS,
    CLI_ANSWER_LENGTH,
    CLI_ANSWER_STOP,
    CLI_ANSWER_INTERRUPTED
} cli_finish;

typedef struct cli_answer {
    char *text; /* UTF-8, NUL-terminated, without the stop string */
    size_t n, room;
    int32_t *ids;
    int64_t n_ids, ids_room;
    cli_finish finish;
    lutra_generation_result result;
} cli_answer;

/* Answers until an end token, a stop string, the limit, or Ctrl-C (no failure: what came so far is
   in *out). *out is always fit for cli_answer_free. */
lutra_status cli_generate(const cli_loaded *l, const cli_question *q, cli_answer *out,
                          lutra_err *err);
void cli_answer_free(cli_answer *a);

const char *cli_finish_name(cli_finish f); /* "eos", "length", "stop", "interrupted" */

/* "37 tokens, 812.3 tokens/s (prompt 12 tokens, 4000.1 tokens/s)" on stderr. */
void cli_note_speed(cli_call *call, const cli_answer *a);
/* New tokens that went through the model, which is what decode_seconds was spent on: the last one
   did not, unless an end token followed. */
int64_t cli_decoded(const cli_answer *a);
double cli_rate(int64_t n, double seconds); /* 0 for no time */

#endif

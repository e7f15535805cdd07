/* generate.c - open a model folder, continue a prompt, print the text as it comes.
   Build: cc generate.c $(pkg-config --cflags --libs lutra) -o generate
   Run:   ./generate MODEL "Once upon a time" 64 */
#include <lutra/lutra.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each token goes through the stream decoder, which gives out only whole characters. */
static bool show(void *user, int32_t id)
{
    lutra_stream *stream = user;
    const char *text;
    size_t n;
    bool stopped = false;
    if (lutra_stream_push(stream, id, &text, &n, &stopped, NULL) != LUTRA_OK)
        return false;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
    return !stopped;
}

static lutra_status generate(lutra_ctx *ctx, const char *path, const char *prompt, long max_tokens,
                             lutra_err *err)
{
    lutra_model *model = NULL;
    lutra_tokenizer *tokenizer = NULL;
    lutra_session *session = NULL;
    lutra_stream *stream = NULL;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    lutra_generation_result result;

    lutra_status status = lutra_tokenizer_open(path, &tokenizer, err);
    if (status == LUTRA_OK)
        status = lutra_model_open(ctx, path, NULL, &model, err);
    if (status == LUTRA_OK)
        status = lutra_session_open(model, 0, &session, err);
    if (status == LUTRA_OK)
        status = lutra_stream_open(tokenizer, true, NULL, 0, &stream, err);
    if (status == LUTRA_OK) /* true: put the begin token before the text */
        status = lutra_encode(tokenizer, prompt, strlen(prompt), true, &ids, &n_ids, err);
    if (status == LUTRA_OK) {
        lutra_generation g;
        lutra_generation_init(&g); /* greedy; see g.sampling for more */
        g.max_tokens = max_tokens;
        g.user = stream;
        g.on_token = show;
        printf("%s", prompt);
        status = lutra_generate(session, ids, n_ids, &g, &result, err);
    }
    if (status == LUTRA_OK) {
        const char *rest;
        size_t n;
        if (lutra_stream_flush(stream, &rest, &n, NULL) == LUTRA_OK)
            fwrite(rest, 1, n, stdout);
        printf("\n");
        if (result.decode_seconds > 0)
            fprintf(stderr, "%.1f tokens/s\n", (double)result.n_new / result.decode_seconds);
    }
    lutra_free(ids);
    lutra_stream_close(stream);
    lutra_session_close(session);
    lutra_model_close(model);
    lutra_tokenizer_close(tokenizer);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL PROMPT [MAX_TOKENS]\n", argv[0]);
        return 2;
    }
    lutra_err err = {0};
    lutra_ctx *ctx = NULL;
    lutra_status status = lutra_open(NULL, &ctx, &err);
    if (status == LUTRA_OK)
        status = generate(ctx, argv[1], argv[2], argc > 3 ? atol(argv[3]) : 64, &err);
    lutra_close(ctx);
    if (status != LUTRA_OK)
        fprintf(stderr, "generate: %s\n", err.msg);
    return status == LUTRA_OK ? 0 : 1;
}

/* bench_decode.c - a whole model through the public API: tokens/s of prefill and of decoding one
   sequence, against what reading the packed weights once per token allows. The share of lm_head is
   the difference to steps that ask for no logits; with a tied vocabulary it is dense.
   usage: bench_decode FOLDER [--prompt N] [--tokens N] [--threads N] [--dtype bf16|f32]
                       [--cpu LEVEL] [--roof-gb N] [--act-quant SPEC] [--json]
          bench_decode FOLDER --device cuda[:N] [--prompt N] [--context N] [--tokens N]
                       [--dtype bf16|f16] [--act-quant SPEC] [--json]
   Tokens are arbitrary ids. --tokens (default 48) are decoded after the prompt (default 512), with
   and without logits in turn. The best step is what an undisturbed machine does; the median shows
   how disturbed this one was. Default threads: 1, then all. On a GPU see decode_gpu.c: a prompt of
   2048, then --tokens steps of 1, 4, 16 and 64 sequences that stand at --context (1024). */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "decode_gpu.h"
#include "lutra/engine.h"
#include "measure.h"
#include "tensor/convert.h"

typedef struct {
    const char *folder, *cpu, *device, *act_quant;
    int64_t prompt, tokens, context;
    int threads;
    lutra_dtype dtype;
    double roof_gb;
    bool json;
} options;

typedef struct {
    double seconds[2], median[2]; /* of a step: without logits, with logits */
    double prefill;               /* best seconds of the prompt */
} result;

static lutra_err err;

static void fail(const char *text)
{
    fprintf(stderr, "error: %s\n", text);
    exit(1);
}

static void *need(void *p)
{
    if (!p)
        fail("out of memory");
    return p;
}

static void try(lutra_status status)
{
    if (status != LUTRA_OK)
        fail(err.msg);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static result measure(lutra_model *m, const lutra_model_info *info, int threads, const options *o)
{
    enum { PREFILLS = 2 };
    lutra_session *s;
    result r;
    bm_least prefill = {0};
    double *took = need(lu_array((size_t)o->tokens * 2, sizeof *took));
    float *logits = need(lu_array((size_t)info->vocab_size, sizeof *logits));
    int32_t *ids = need(lu_array((size_t)o->prompt, sizeof *ids));
    for (int64_t i = 0; i < o->prompt; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % info->vocab_size);
    try(lutra_session_open(m, o->prompt + o->tokens * 2, &s, &err));
    for (int i = 0; i < PREFILLS; i++) {
        try(lutra_session_truncate(s, 0, &err));
        const double start = bm_now(threads);
        try(lutra_session_feed(s, ids, o->prompt, false, logits, &err));
        bm_take(&prefill, bm_now(threads) - start);
    }
    for (int64_t i = 0; i < o->tokens * 2; i++) {
        const double start = bm_now(threads);
        try(lutra_session_feed(s, &ids[i % o->prompt], 1, false, i & 1 ? logits : NULL, &err));
        took[(i & 1) * o->tokens + i / 2] = bm_now(threads) - start;
    }
    for (int i = 0; i < 2; i++) {
        qsort(took + i * o->tokens, (size_t)o->tokens, sizeof *took, by_value);
        r.seconds[i] = took[i * o->tokens];
        r.median[i] = took[i * o->tokens + o->tokens / 2];
    }
    r.prefill = prefill.seconds;
    lutra_session_close(s);
    lu_free(took);
    lu_free(logits);
    lu_free(ids);
    return r;
}

static void report(const lutra_model_info *info, const result *r, double roof, int threads,
                   const options *o)
{
    const double rate = (double)info->weight_bytes / r->seconds[1];
    const double head = r->seconds[1] - r->seconds[0];
    const char *format = info->format[0] ? info->format : "dense";
    if (o->json)
        printf("{\"bench\":\"decode\",\"format\":\"%s\",\"dtype\":\"%s\",\"threads\":%d,"
               "\"weight_bytes\":%lld,\"prompt\":%lld,\"prefill_tok_s\":%.2f,\"decode_tok_s\":%.3f,"
               "\"decode_median_tok_s\":%.3f,\"step_us\":%.1f,\"lm_head_us\":%.1f,\"gb_s\":%.3f,"
               "\"roof_gb_s\":%.3f,\"roof_share\":%.3f}\n",
               format, lutra_dtype_name(o->dtype), threads, (long long)info->weight_bytes,
               (long long)o->prompt, (double)o->prompt / r->prefill, 1 / r->seconds[1],
               1 / r->median[1], r->seconds[1] * 1e6, head * 1e6, rate / 1e9, roof / 1e9,
               rate / roof);
    else
        printf("| %s | %d | %.1f | %.2f | %.2f | %.0f | %.0f | %.3f | %.2f | %.0f %% of %.2f |\n",
               format, threads, (double)o->prompt / r->prefill, 1 / r->seconds[1], 1 / r->median[1],
               r->seconds[1] * 1e6, head * 1e6, (double)info->weight_bytes / 1e9, rate / 1e9,
               100 * rate / roof, roof / 1e9);
    fflush(stdout);
}

static double read_roof(int threads, const options *o)
{
    bm_memory memory;
    lu_pool *pool;
    try(lu_pool_open(threads, &pool, &err));
    if (!bm_memory_open(&memory, (size_t)(o->roof_gb * 1e9) / 4096 * 4096))
        fail("no memory to measure the read roof");
    const double roof = bm_read_roof(pool, &memory, 2);
    bm_memory_close(&memory);
    lu_pool_close(pool);
    return roof;
}

static void run(int threads, const options *o)
{
    lutra_options context_options;
    lutra_model_options model_options;
    lutra_model_info info;
    lutra_ctx *ctx;
    lutra_model *model;
    const double roof = read_roof(threads, o);
    lutra_options_init(&context_options);
    context_options.n_threads = threads;
    context_options.cpu = o->cpu;
    lutra_model_options_init(&model_options);
    model_options.dtype = o->dtype;
    model_options.act_quant = o->act_quant;
    try(lutra_open(&context_options, &ctx, &err));
    try(lutra_model_open(ctx, o->folder, &model_options, &model, &err));
    lutra_model_get_info(model, &info);
    const result r = measure(model, &info, threads, o);
    report(&info, &r, roof, threads, o);
    lutra_model_close(model);
    lutra_close(ctx);
}

static bool parse_option(options *o, const char *key, const char *value)
{
    if (strcmp(key, "--prompt") == 0)
        o->prompt = atoi(value);
    else if (strcmp(key, "--tokens") == 0)
        o->tokens = atoi(value);
    else if (strcmp(key, "--threads") == 0)
        o->threads = atoi(value);
    else if (strcmp(key, "--dtype") == 0)
        o->dtype = lutra_dtype_parse(value);
    else if (strcmp(key, "--device") == 0)
        o->device = value;
    else if (strcmp(key, "--context") == 0)
        o->context = atoi(value);
    else if (strcmp(key, "--act-quant") == 0)
        o->act_quant = value;
    else if (strcmp(key, "--cpu") == 0)
        o->cpu = value;
    else if (strcmp(key, "--roof-gb") == 0)
        o->roof_gb = atof(value);
    else
        return false;
    return true;
}

static bool parse(int argc, char **argv, options *o)
{
    *o = (options){.tokens = 48, .context = 1024, .dtype = LUTRA_BF16, .roof_gb = 2};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (i + 1 < argc && parse_option(o, argv[i], argv[i + 1]))
            i++;
        else if (argv[i][0] != '-' && !o->folder)
            o->folder = argv[i];
        else
            return false;
    }
    if (!o->prompt)
        o->prompt = o->device ? 2048 : 512;
    return o->folder && o->context >= 1 && o->prompt >= 1 && o->tokens >= 1 && o->threads >= 0 &&
           o->threads <= BM_MAX_THREADS && o->roof_gb >= 0.01;
}

int main(int argc, char **argv)
{
    options o;
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: bench_decode FOLDER [--prompt N] [--tokens N] [--threads N] "
                        "[--dtype bf16|f32] [--cpu LEVEL]\n"
                        "                    [--roof-gb N] [--act-quant SPEC] [--json]\n"
                        "       bench_decode FOLDER --device cuda[:N] [--prompt N] [--context N] "
                        "[--tokens N]\n"
                        "                    [--dtype bf16|f16] [--act-quant SPEC] [--json]\n");
        return 2;
    }
    if (o.device && strcmp(o.device, "cpu") != 0)
        return bench_decode_on_gpu(&(bench_gpu_options){.folder = o.folder,
                                                        .device = o.device,
                                                        .dtype = o.dtype,
                                                        .act_quant = o.act_quant,
                                                        .prompt = o.prompt,
                                                        .context = o.context,
                                                        .tokens = o.tokens,
                                                        .json = o.json});
    bm_print_machine(stdout, o.json);
    if (!o.json)
        printf("| format | threads | prefill %lld, tokens/s | decode, tokens/s | median | us a "
               "token | of it lm_head | weights, GB | GB/s | of reading |\n"
               "|---|---|---|---|---|---|---|---|---|---|\n",
               (long long)o.prompt);
    if (o.threads) {
        run(o.threads, &o);
        return 0;
    }
    run(1, &o);
    if (lu_cpu_count() > 1)
        run(lu_cpu_count(), &o);
    return 0;
}

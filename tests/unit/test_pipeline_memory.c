/* test_pipeline_memory.c - what a calibrated run holds: one block and its statistics, whatever the
   number of samples and of layers. Counts every byte the library asks for. */
#include "support/expect.h"

#include <malloc.h>
#include <stdatomic.h>
#include <string.h>

#include "calib/forecast.h"
#include "lutra/lutra.h"
#include "support/synthetic_checkpoint.h"

static _Atomic int64_t held, most;

static void *counted(void *p)
{
    if (p) {
        const int64_t size = (int64_t)malloc_usable_size(p);
        const int64_t now = atomic_fetch_add(&held, size) + size;
        int64_t before = atomic_load(&most);
        while (now > before && !atomic_compare_exchange_weak(&most, &before, now))
            continue;
    }
    return p;
}

static void *count_alloc(size_t n) { return counted(malloc(n)); }

static void *count_resize(void *p, size_t n)
{
    held -= p ? (int64_t)malloc_usable_size(p) : 0;
    return counted(realloc(p, n));
}

static void count_free(void *p)
{
    held -= p ? (int64_t)malloc_usable_size(p) : 0;
    free(p);
}

#define LENGTH 32

/* Bytes held at most while a recipe runs over the model with so many samples, whose activations may
   take so much memory. forecast: of these bytes; may be NULL. */
static int64_t peak_with(const char *model, const char *passes, const char *format,
                         int64_t n_samples, int64_t memory, int64_t *forecast)
{
    char root[SYN_PATH], data[SYN_PATH + 16], out[SYN_PATH + 16];
    lutra_err err = {0};
    uint32_t seed = 1;
    syn_temp(root);
    char *text = calloc(1, (size_t)n_samples * LENGTH * 3 + 1);
    for (int64_t i = 0; i < n_samples * LENGTH; i++)
        snprintf(text + 3 * i, 4, "%02d ", (int)((syn_random(&seed) + 0.5f) * 90));
    syn_text(root, "data.ids", text);
    free(text);
    snprintf(data, sizeof data, "%s/data.ids", root);
    snprintf(out, sizeof out, "%s/out", root);
    lutra_quantize_options o;
    lutra_calibration c;
    lutra_quantize_report report;
    lutra_recipe *recipe;
    lutra_quantize_options_init(&o);
    lutra_calibration_init(&c);
    must(lutra_recipe_parse("test", passes, strlen(passes), &recipe, &err), &err);
    must(lutra_format_parse(format, &o.format, &err), &err);
    o.recipe = recipe;
    o.calibration = &c;
    c.data = data;
    c.n_samples = n_samples;
    c.length = LENGTH;
    c.memory = memory;
    lutra_ctx *ctx = open_ctx(2);
    most = held;
    const int64_t before = held;
    must(lutra_quantize_checkpoint(ctx, model, out, &o, &report, &err), &err);
    const int64_t peak = most - before;
    if (forecast)
        *forecast = report.memory_forecast - LU_FORECAST_PROCESS;
    lutra_quantize_report_free(&report);
    assert_true(held - before < 4096); /* all is given back */
    lutra_close(ctx);
    lutra_recipe_free(recipe);
    syn_delete(root);
    return peak;
}

/* GPTQ, no activations in memory. */
static int64_t peak_of(const char *model, const char *format, int64_t n_samples)
{
    return peak_with(model, "passes: [{method: gptq}]\n", format, n_samples, 0, NULL);
}

/* The file of ids, read whole, and the ids themselves are what grows. */
static void samples_do_not_add_up(void **state)
{
    (void)state;
    const int64_t few = peak_of("models/llama-8m", "int4:g64", 32),
                  many = peak_of("models/llama-8m", "int4:g64", 128);
    const int64_t ids = 96 * LENGTH * (3 + 2 * 4 + 4);
    if (!(many - few <= ids))
        fail_msg("%lld bytes with 32 samples, %lld with 128", (long long)few, (long long)many);
}

/* llama-8m as float32 is 34 MB, a quarter of that one block with all of its statistics. */
static void one_block_is_held(void **state)
{
    (void)state;
    const int64_t hidden = 256, inner = 768, rows = 1024, q = 256, kv = 128;
    const int64_t linears = 3 * hidden * inner + 2 * hidden * (q + kv);
    const int64_t hessian = inner * inner, kept = 512 * inner;
    const int64_t gptq = 1024 * inner * 3 + inner * 128;
    const int64_t forward = rows * (2 * hidden + 3 * inner + 4 * q + 2 * kv + hidden);
    const int64_t bound = 4 * (2 * linears + hessian + 3 * kept + gptq + forward + rows * hidden);
    const int64_t peak = peak_of("models/llama-8m", "int4:g64", 64);
    if (!(peak <= bound + bound / 4))
        fail_msg("%lld bytes, expected about %lld", (long long)peak, (long long)bound);
}

/* What the program takes for itself, and a huge page that aligns the activations. */
#define OWN (6 << 20)

static void the_forecast_covers_it(void **state)
{
    (void)state;
    static const char *const models[] = {"models/llama-8m", "tests/fixtures/tiny/mixtral-h16"};
    static const char *const recipes[] = {
        "passes: [{method: rtn}]\n", "passes: [{method: gptq}]\n",
        "passes: [{method: awq, grid: 3, loss_samples: 16}, {method: rtn}]\n",
        "passes: [{method: awq, grid: 2, loss_samples: 16, clip_grid: 4}, {method: gptq}]\n",
        "passes: [{method: smoothquant, loss_samples: 16}, {method: gptq}]\n"};
    for (size_t m = 0; m < 2; m++)
        for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
            for (int spilled = 0; spilled < 2; spilled++) {
                int64_t forecast;
                const int64_t peak = peak_with(models[m], recipes[i], m ? "int4:g8" : "int4:g64",
                                               64, spilled ? 0 : 1 << 30, &forecast);
                if (!(peak <= forecast + OWN && forecast <= 2 * peak))
                    fail_msg("%s, %s%lld bytes, %lld expected", models[m], recipes[i],
                             (long long)peak, (long long)forecast);
            }
}

int main(void)
{
    lutra_set_allocator(count_alloc, count_resize, count_free);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_do_not_add_up),
        cmocka_unit_test(one_block_is_held),
        cmocka_unit_test(the_forecast_covers_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

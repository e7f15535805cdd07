/* test_output_losses.c - losses of outputs on calibration text, and the bits that follow from them.
 */
#include "support/expect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "calib/output_losses.h"
#include "lutra/lutra.h"
#include "support/alloc_sweep.h"
#include "support/synthetic_checkpoint.h"

static const char *const families[] = {"llama", "mistral", "qwen2", "gemma2", "mixtral"};
static const char *const specs[] = {"int8:g8", "int2:g8:asym", "km3:g8", "int4:g8"};
enum { N_FAMILIES = 5, N_FORMATS = 4, MOST = 64 };

typedef struct {
    char module[96];
    double loss[N_FORMATS];
} noted;

typedef struct {
    char root[SYN_PATH], data[SYN_PATH + 16], in[SYN_PATH];
    lutra_ctx *ctx;
    lutra_calibration c;
    lutra_format formats[N_FORMATS];
    lu_output_losses m;
    noted all[MOST];
    int n;
} place;

static bool wants(void *user, const char *module)
{
    (void)user;
    return !strstr(module, "q_proj") && !strstr(module, "gate");
}

static void note(void *user, const char *module, int at, double loss)
{
    place *p = user;
    int i = 0;
    while (i < p->n && strcmp(p->all[i].module, module) != 0)
        i++;
    assert_true(i < MOST);
    if (i == p->n) {
        snprintf(p->all[i].module, sizeof p->all[i].module, "%s", module);
        for (int j = 0; j < N_FORMATS; j++)
            p->all[i].loss[j] = -1;
        p->n++;
    }
    p->all[i].loss[at] = loss;
}

static void enter(place *p, const char *family, int threads)
{
    char text[4096] = "";
    uint32_t seed = 11;
    memset(p, 0, sizeof *p);
    syn_temp(p->root);
    snprintf(p->in, sizeof p->in, "tests/fixtures/tiny/%s", family);
    for (int i = 0; i < 40 * 16; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%d%c",
                 (int)((syn_random(&seed) + 0.5f) * 95), i % 16 == 15 ? '\n' : ' ');
    syn_text(p->root, "data.ids", text);
    snprintf(p->data, sizeof p->data, "%s/data.ids", p->root);
    lutra_calibration_init(&p->c);
    p->c.data = p->data;
    p->c.n_samples = 12;
    p->c.length = 20;
    for (int i = 0; i < N_FORMATS; i++)
        assert_int_equal(lutra_format_parse(specs[i], &p->formats[i], NULL), LUTRA_OK);
    p->ctx = open_ctx(threads);
    p->m = (lu_output_losses){.ctx = p->ctx,
                              .model = p->in,
                              .calibration = &p->c,
                              .folder = p->root,
                              .formats = p->formats,
                              .n_formats = N_FORMATS,
                              .range = LUTRA_RANGE_MSE,
                              .wants = wants,
                              .note = note,
                              .user = p};
}

static void leave(place *p)
{
    lutra_close(p->ctx);
    syn_delete(p->root);
}

static void must_measure(place *p)
{
    lutra_err err = {0};
    p->n = 0;
    must(lu_measure_outputs(&p->m, &err), &err);
}

/* A squared error relative to the stream; fewer bits lose more; what is not wanted is left alone.
 */
static void losses_fall_with_bits_in_every_family(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        place p;
        enter(&p, families[f], 2);
        must_measure(&p);
        assert_true(p.n >= 5 * 2);
        for (int i = 0; i < p.n; i++) {
            const double *loss = p.all[i].loss;
            assert_true(wants(NULL, p.all[i].module));
            if (!(loss[1] > loss[2] && loss[2] > loss[3] && loss[3] > 10 * loss[0] && loss[0] > 0 &&
                  loss[1] < 1))
                fail_msg("%s %s: %g %g %g %g", families[f], p.all[i].module, loss[0], loss[1],
                         loss[2], loss[3]);
        }
        leave(&p);
    }
}

static void threads_and_memory_change_nothing(void **state)
{
    (void)state;
    place a, b;
    enter(&a, "gemma2", 1);
    enter(&b, "gemma2", 3);
    b.c.memory = 0;
    must_measure(&a);
    must_measure(&b);
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.all, b.all, sizeof a.all);
    leave(&a);
    leave(&b);
}

/* ---- what nobody hears costs no bits ------------------------------------------------------------
 */

/* A copy of the model in which the tensor is 0. */
static void silence(place *p, const char *tensor)
{
    char path[SYN_PATH + 64], *data = NULL, *config = NULL;
    size_t size = 0, config_size = 0;
    uint64_t header;
    snprintf(path, sizeof path, "%s/config.json", p->in);
    assert_int_equal(lu_file_read(path, 1 << 20, &config, &config_size, NULL), LUTRA_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", p->in);
    assert_int_equal(lu_file_read(path, 1 << 20, &data, &size, NULL), LUTRA_OK);
    memcpy(&header, data, sizeof header);
    json_t *json = json_loadb(data + 8, header, 0, NULL);
    json_t *ends = json_object_get(json_object_get(json, tensor), "data_offsets");
    const json_int_t from = json_integer_value(json_array_get(ends, 0)),
                     to = json_integer_value(json_array_get(ends, 1));
    assert_true(to > from);
    memset(data + 8 + header + from, 0, (size_t)(to - from));
    snprintf(p->in, sizeof p->in, "%s/in", p->root);
    assert_int_equal(mkdir(p->in, 0777), 0);
    syn_write(p->in, "config.json", config, config_size);
    syn_write(p->in, "model.safetensors", data, size);
    json_decref(json);
    lu_free(config);
    lu_free(data);
}

static void what_nobody_hears_gets_the_fewest_bits(void **state)
{
    (void)state;
    for (int calibrated = 0; calibrated < 2; calibrated++) {
        place p;
        lutra_quantize_options o;
        lutra_quantize_report r;
        lutra_err err = {0};
        int coarse = 0, seen = 0;
        char out[SYN_PATH + 16];
        enter(&p, "llama", 2);
        silence(&p, "model.layers.1.self_attn.o_proj.weight");
        lutra_quantize_options_init(&o);
        o.format = p.formats[1];
        o.range = LUTRA_RANGE_MSE;
        o.candidates = p.formats;
        o.n_candidates = N_FORMATS;
        o.avg_bits = 9;
        o.calibration = calibrated ? &p.c : NULL;
        snprintf(out, sizeof out, "%s/out", p.root);
        must(lutra_quantize_checkpoint(p.ctx, p.in, out, &o, &r, &err), &err);
        const double tables = 32 * (256 + 4 + 16) / (double)r.params_quantized; /* in config.json */
        assert_true(r.bits_per_weight <= 9 + tables + 1e-9);
        for (int64_t i = 0; i < r.n_modules; i++)
            if (strstr(r.modules[i].module, "layers.1.self_attn.v_proj") ||
                strstr(r.modules[i].module, "layers.1.self_attn.k_proj")) {
                seen++;
                coarse += strncmp(r.modules[i].format, "int2", 4) == 0;
            }
        assert_int_equal(seen, 2);
        assert_int_equal(coarse, calibrated ? 2 : 0);
        lutra_quantize_report_free(&r);
        leave(&p);
    }
}

/* ---- failures -----------------------------------------------------------------------------------
 */

static lutra_status measure_quietly(void *arg)
{
    place *p = arg;
    p->n = 0;
    return lu_measure_outputs(&p->m, NULL);
}

static void measuring_survives_every_failed_allocation(void **state)
{
    (void)state;
    place p;
    enter(&p, "llama", 1);
    p.c.n_samples = 2;
    assert_true(fail_each_allocation(measure_quietly, &p) > 50);
    leave(&p);
}

static void data_that_does_not_fit_the_model_is_refused(void **state)
{
    (void)state;
    place p;
    lutra_err err = {0};
    enter(&p, "llama", 1);
    p.c.length = 1000000;
    assert_int_equal(lu_measure_outputs(&p.m, &err), LUTRA_E_ARG);
    p.c.length = 20;
    p.c.data = "no such file.ids";
    assert_int_equal(lu_measure_outputs(&p.m, &err), LUTRA_E_IO);
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_fall_with_bits_in_every_family),
        cmocka_unit_test(threads_and_memory_change_nothing),
        cmocka_unit_test(what_nobody_hears_gets_the_fewest_bits),
        cmocka_unit_test(measuring_survives_every_failed_allocation),
        cmocka_unit_test(data_that_does_not_fit_the_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

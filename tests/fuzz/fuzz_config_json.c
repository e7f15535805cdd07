/* fuzz_config_json.c - JSON as config.json may hold it: parse, getters, dump, quantization_config.
   What parses must survive dumping and parsing; what is a valid quantization_config must survive
   writing and reading. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "fuzz.h"
#include "io/checkpoint.h"

static void call_getters(json_t *value)
{
    const char *key;
    json_t *member;
    json_object_foreach (value, key, member) {
        int64_t i = 0;
        double x = 0;
        bool b = false;
        const char *s = "";
        lutra_err err = {0};
        const lutra_status status[] = {lu_json_int("input", value, key, &i, &err),
                                       lu_json_float("input", value, key, &x, &err),
                                       lu_json_bool("input", value, key, &b, &err),
                                       lu_json_string("input", value, key, &s, &err)};
        int n_ok = 0;
        for (int k = 0; k < 4; k++)
            n_ok += status[k] == LUTRA_OK;
        if (json_is_null(member))
            REQUIRE(n_ok == 4);
        else
            REQUIRE(n_ok <= 2); /* an integer is a float too */
    }
}

static void dump_and_parse(const json_t *value)
{
    size_t size;
    json_t *again = NULL;
    char *text = lu_json_dump(value, JSON_COMPACT, &size);
    REQUIRE(text && strlen(text) == size);
    REQUIRE(lu_json_parse("dump", text, size, true, &again, NULL) == LUTRA_OK);
    REQUIRE(json_equal(value, again));
    json_decref(again);
    lu_free(text);
}

static void write_and_read(lu_quant_config *q)
{
    json_t *config = json_pack("{s:o}", "quantization_config", lu_quant_config_write(q));
    lu_quant_config again;
    bool found = false;
    REQUIRE(config);
    REQUIRE(lu_quant_config_read(config, &found, &again, NULL) == LUTRA_OK && found);
    REQUIRE(again.n_modules == q->n_modules);
    REQUIRE(again.n_schemes == q->n_schemes);
    for (int64_t i = 0; i < q->n_schemes; i++)
        REQUIRE(lu_scheme_equal(&again.schemes[i], &q->schemes[i]));
    for (int64_t i = 0; i < q->n_modules; i++) {
        const lu_scheme *s = lu_quant_config_find(&again, q->modules[i].name);
        REQUIRE(s && lu_scheme_equal(s, &q->schemes[q->modules[i].scheme]));
    }
    lu_quant_config_free(&again);
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value = NULL;
    lutra_err err = {0};
    if (lu_json_parse("input", (const char *)data, size, true, &value, &err) == LUTRA_OK) {
        dump_and_parse(value);
        json_decref(value);
    } else {
        REQUIRE(err.msg[0] && !strchr(err.msg, '\n'));
    }
    if (lu_json_parse("input", (const char *)data, size, false, &value, &err) != LUTRA_OK)
        return 0;
    call_getters(value);
    lu_quant_config q;
    bool found = false;
    if (lu_quant_config_read(value, &found, &q, &err) == LUTRA_OK && found) {
        write_and_read(&q);
        lu_quant_config_free(&q);
    }
    json_decref(value);
    return 0;
}

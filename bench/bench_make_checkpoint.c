/* bench_make_checkpoint.c - writes a synthetic Llama folder: config.json, index, shards of Gaussian
   bf16 weights in which one row of 64 is up to eight times larger (heavy tails). For timing at real
   sizes without a download; its text is noise.
   usage: bench_make_checkpoint OUT [--shape llama-3.2-1b|llama-3.1-8b] [--layers N] [--hidden N]
          [--intermediate N] [--heads N] [--kv-heads N] [--head-dim N] [--vocab N] [--tied 0|1]
          [--shard-mb N] [--seed N] [--tokenizer DIR] */
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/context.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

#define MAX_NAME 96
#define SAMPLES 65536
#define BLOCK ((int64_t)1 << 20) /* elements made at a time */

typedef struct {
    const char *name;
    int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied;
} shape;

static const shape shapes[] = {
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 1},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 0},
};

typedef struct {
    shape s;
    const char *out, *tokenizer;
    int64_t shard_bytes, seed;
    char (*names)[MAX_NAME];
    lu_st_entry *entries;
    int64_t n;
    float samples[SAMPLES];
} maker;

static lutra_err err;

static void fail(void)
{
    fprintf(stderr, "error: %s\n", err.msg);
    exit(1);
}

static void add(maker *m, const char *name, int64_t rows, int64_t columns)
{
    snprintf(m->names[m->n], MAX_NAME, "%s", name);
    lutra_tensor t = {.dtype = LUTRA_BF16, .rank = columns ? 2 : 1, .shape = {rows, columns}};
    t.bytes = (size_t)rows * (size_t)(columns ? columns : 1) * 2;
    m->entries[m->n] = (lu_st_entry){m->names[m->n], t};
    m->n++;
}

static void add_layer(maker *m, int64_t layer)
{
    const shape *s = &m->s;
    const int64_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        int64_t rows, columns;
    } parts[] = {
        {"input_layernorm", s->hidden, 0},
        {"mlp.down_proj", s->hidden, s->intermediate},
        {"mlp.gate_proj", s->intermediate, s->hidden},
        {"mlp.up_proj", s->intermediate, s->hidden},
        {"post_attention_layernorm", s->hidden, 0},
        {"self_attn.k_proj", kv, s->hidden},
        {"self_attn.o_proj", s->hidden, q},
        {"self_attn.q_proj", q, s->hidden},
        {"self_attn.v_proj", kv, s->hidden},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char name[MAX_NAME];
        snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)layer, parts[i].name);
        add(m, name, parts[i].rows, parts[i].columns);
    }
}

static void list_tensors(maker *m)
{
    const size_t most = (size_t)m->s.layers * 9 + 3;
    m->names = lu_calloc(most, sizeof *m->names);
    m->entries = lu_calloc(most, sizeof *m->entries);
    if (!m->names || !m->entries) {
        lu_fail_nomem(&err, most);
        fail();
    }
    add(m, "model.embed_tokens.weight", m->s.vocab, m->s.hidden);
    for (int64_t i = 0; i < m->s.layers; i++)
        add_layer(m, i);
    add(m, "model.norm.weight", m->s.hidden, 0);
    if (!m->s.tied)
        add(m, "lm_head.weight", m->s.vocab, m->s.hidden);
}

static uint64_t next(uint64_t *x) /* xorshift64 */
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Box-Muller, once: rows draw from this table. */
static void make_samples(maker *m)
{
    uint64_t x = (uint64_t)m->seed * 2 + 1;
    for (int i = 0; i < SAMPLES; i += 2) {
        const double u = ((double)(next(&x) >> 11) + 1) * 0x1p-53,
                     v = (double)(next(&x) >> 11) * 0x1p-53;
        m->samples[i] = (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        m->samples[i + 1] = (float)(sqrt(-2 * log(u)) * sin(6.283185307179586 * v));
    }
}

static void make_weights(const maker *m, const lutra_tensor *t, int64_t begin, int64_t n,
                         uint64_t *x, uint16_t *out)
{
    const int64_t columns = t->rank == 2 ? t->shape[1] : 1;
    for (int64_t i = 0; i < n;) {
        const int64_t row = (begin + i) / columns, left = columns - (begin + i) % columns;
        const int64_t end = n - i < left ? n : i + left;
        const float size = row % 64 == 13 ? 0.02f * (float)(1 + row / 64 % 8) : 0.02f;
        for (; i < end && t->rank == 2; i++)
            out[i] = lu_f32_to_bf16(size * m->samples[next(x) & (SAMPLES - 1)]);
        for (; i < end; i++)
            out[i] = 0x3f80; /* norms: 1 */
    }
}

static void write_shard(maker *m, const char *name, int64_t first, int64_t count, json_t *map)
{
    void *header;
    size_t header_bytes;
    uint64_t *at = lu_array((size_t)count, sizeof *at), size;
    uint16_t *block = lu_array((size_t)BLOCK, sizeof *block);
    char *path = lu_path_join(m->out, name);
    uint64_t x = (uint64_t)(m->seed + first) * 2654435761u + 1;
    if (!at || !block || !path ||
        lu_st_layout(m->entries + first, count, &header, &header_bytes, at, &size, &err))
        fail();
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || lu_write_at(fd, path, header, header_bytes, 0, &err) != LUTRA_OK) {
        if (fd < 0)
            lu_fail(&err, LUTRA_E_IO, "%s: cannot create", path);
        fail();
    }
    for (int64_t i = 0; i < count; i++) {
        const lutra_tensor *t = &m->entries[first + i].view;
        const int64_t total = (int64_t)(t->bytes / 2);
        for (int64_t done = 0; done < total; done += BLOCK) {
            const int64_t n = total - done < BLOCK ? total - done : BLOCK;
            make_weights(m, t, done, n, &x, block);
            if (lu_write_at(fd, path, block, (size_t)n * 2, at[i] + (uint64_t)done * 2, &err) !=
                LUTRA_OK)
                fail();
        }
        json_object_set_new(map, m->entries[first + i].name, json_string(name));
    }
    close(fd);
    fprintf(stderr, "%s: %.2f GB\n", path, (double)size / 1e9);
    lu_free(path);
    lu_free(block);
    lu_free(header);
    lu_free(at);
}

static void write_text(const maker *m, const char *name, const char *text, size_t n)
{
    char *path = lu_path_join(m->out, name);
    if (!path || lu_file_write(path, text, n, &err) != LUTRA_OK)
        fail();
    lu_free(path);
}

static void write_json(const maker *m, const char *name, json_t *j)
{
    char *text = json_dumps(j, JSON_INDENT(2));
    write_text(m, name, text, strlen(text));
    free(text);
    json_decref(j);
}

static void write_shards(maker *m)
{
    int64_t first = 0, n_shards = 0;
    json_t *map = json_object();
    while (first < m->n) {
        int64_t count = 0;
        size_t bytes = 0;
        while (first + count < m->n && (count == 0 || bytes < (size_t)m->shard_bytes))
            bytes += m->entries[first + count++].view.bytes;
        char name[64];
        snprintf(name, sizeof name, "model-%05lld.safetensors", (long long)++n_shards);
        write_shard(m, name, first, count, map);
        first += count;
    }
    write_json(m, "model.safetensors.index.json",
               json_pack("{s:{}, s:o}", "metadata", "weight_map", map));
}

static void write_config(const maker *m)
{
    const shape *s = &m->s;
    write_json(m, "config.json",
               json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:f, s:f, s:i, "
                         "s:s, s:i, s:i}",
                         "architectures", "LlamaForCausalLM", "model_type", "llama",
                         "num_hidden_layers", (json_int_t)s->layers, "hidden_size",
                         (json_int_t)s->hidden, "intermediate_size", (json_int_t)s->intermediate,
                         "num_attention_heads", (json_int_t)s->heads, "num_key_value_heads",
                         (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim, "vocab_size",
                         (json_int_t)s->vocab, "tie_word_embeddings", (int)s->tied, "hidden_act",
                         "silu", "rms_norm_eps", 1e-5, "rope_theta", 500000.0,
                         "max_position_embeddings", 8192, "torch_dtype", "bfloat16", "bos_token_id",
                         0, "eos_token_id", 1));
}

static void copy_tokenizer(const maker *m)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                        "special_tokens_map.json"};
    for (int i = 0; m->tokenizer && i < 3; i++) {
        char *path = lu_path_join(m->tokenizer, names[i]), *text;
        size_t n;
        if (path && lu_path_exists(path)) {
            if (lu_file_read(path, (size_t)1 << 30, &text, &n, &err) != LUTRA_OK)
                fail();
            write_text(m, names[i], text, n);
            lu_free(text);
        }
        lu_free(path);
    }
}

static bool set_option(maker *m, const char *key, const char *value)
{
    const struct {
        const char *key;
        int64_t *field;
    } numbers[] = {
        {"--layers", &m->s.layers},
        {"--hidden", &m->s.hidden},
        {"--intermediate", &m->s.intermediate},
        {"--heads", &m->s.heads},
        {"--kv-heads", &m->s.kv_heads},
        {"--head-dim", &m->s.head_dim},
        {"--vocab", &m->s.vocab},
        {"--tied", &m->s.tied},
        {"--seed", &m->seed},
        {"--shard-mb", &m->shard_bytes},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(key, numbers[i].key) == 0) {
            *numbers[i].field = strtoll(value, NULL, 10);
            if (numbers[i].field == &m->shard_bytes)
                m->shard_bytes <<= 20;
            return true;
        }
    if (strcmp(key, "--tokenizer") == 0) {
        m->tokenizer = value;
        return true;
    }
    for (size_t i = 0; strcmp(key, "--shape") == 0 && i < sizeof shapes / sizeof shapes[0]; i++)
        if (strcmp(value, shapes[i].name) == 0) {
            m->s = shapes[i];
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    static maker m = {.shard_bytes = (int64_t)4096 << 20};
    m.s = shapes[0];
    bool ok = argc >= 2 && argc % 2 == 0;
    for (int i = 2; ok && i + 1 < argc; i += 2)
        ok = set_option(&m, argv[i], argv[i + 1]);
    if (!ok) {
        fprintf(stderr, "usage: bench_make_checkpoint OUT [--shape llama-3.2-1b|llama-3.1-8b] "
                        "[--layers N] ...\n");
        return 2;
    }
    m.out = argv[1];
    if (mkdir(m.out, 0777) != 0) {
        fprintf(stderr, "error: %s: cannot create the folder\n", m.out);
        return 1;
    }
    list_tensors(&m);
    make_samples(&m);
    write_shards(&m);
    write_config(&m);
    copy_tokenizer(&m);
    lu_free(m.names);
    lu_free(m.entries);
    return 0;
}

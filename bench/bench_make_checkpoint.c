/* bench_make_checkpoint.c - writes a synthetic Llama folder: config.json, index, shards of Gaussian
   bf16 weights in which one row of 64 is up to eight times larger (heavy tails); or, with --format,
   a folder as lutra compresses it, of random codes. For timing at real sizes without a download;
   its text is noise. usage: bench_make_checkpoint OUT [--shape llama-3.2-1b|llama-3.1-8b|
          llama-3.1-70b|llama-3.1-405b] [--layers N] [--hidden N] [--intermediate N] [--heads N]
   [--kv-heads N] [--head-dim N] [--vocab N] [--tied 0|1]
          [--shard-mb N] [--seed N] [--tokenizer DIR] [--format SPEC] */
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
#include "io/checkpoint.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

#define MAX_NAME 96
#define SAMPLES 65536
#define BLOCK ((int64_t)1 << 20) /* bytes made at a time by a thread */

typedef struct {
    const char *name;
    int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, tied;
} shape;

static const shape shapes[] = {
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 1},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 0},
    {"llama-3.1-70b", 80, 8192, 28672, 64, 8, 128, 128256, 0},
    {"llama-3.1-405b", 126, 16384, 53248, 128, 8, 128, 128256, 0},
};

typedef struct {
    shape s;
    const char *out, *tokenizer, *spec;
    lu_scheme scheme; /* of the layers' linears with --format */
    lu_quant_config quant;
    lu_pool *pool;
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

static void add_typed(maker *m, const char *name, lutra_dtype dtype, int64_t rows, int64_t columns)
{
    snprintf(m->names[m->n], MAX_NAME, "%s", name);
    lutra_tensor t = {.dtype = dtype, .rank = columns ? 2 : 1, .shape = {rows, columns}};
    t.bytes = (size_t)rows * (size_t)(columns ? columns : 1) * lutra_dtype_bytes(dtype);
    m->entries[m->n] = (lu_st_entry){m->names[m->n], t};
    m->n++;
}

static void add(maker *m, const char *name, int64_t rows, int64_t columns)
{
    add_typed(m, name, LUTRA_BF16, rows, columns);
}

/* A linear of a layer: M.weight, or M.codes, M.scales and M.zeros. */
static void add_linear(maker *m, const char *module, int64_t rows, int64_t columns)
{
    char name[MAX_NAME];
    const lutra_format *f = &m->scheme.format;
    if (!m->spec) {
        snprintf(name, sizeof name, "%s.weight", module);
        add(m, name, rows, columns);
        return;
    }
    const int64_t groups = lutra_format_groups(f, columns);
    if (!groups)
        lu_fail(&err, LUTRA_E_ARG, "%s: the group does not divide its columns", module);
    if (!groups || lu_quant_config_add(&m->quant, module, &m->scheme, &err) != LUTRA_OK)
        fail();
    snprintf(name, sizeof name, "%s.codes", module);
    add_typed(m, name, LUTRA_U8, rows, (int64_t)lutra_format_row_bytes(f, columns));
    snprintf(name, sizeof name, "%s.scales", module);
    add_typed(m, name, LUTRA_F16, rows, groups);
    snprintf(name, sizeof name, "%s.zeros", module);
    if (f->zero_point)
        add_typed(m, name, LUTRA_U8, rows, groups);
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
        snprintf(name, sizeof name, "model.layers.%lld.%s%s", (long long)layer, parts[i].name,
                 parts[i].columns ? "" : ".weight");
        if (parts[i].columns)
            add_linear(m, name, parts[i].rows, parts[i].columns);
        else
            add(m, name, parts[i].rows, 0);
    }
}

static void list_tensors(maker *m)
{
    const size_t most = (size_t)m->s.layers * 23 + 3;
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

/* Elements [begin, begin + n) of a bf16 tensor. */
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

/* Random codes; zero points below the number of codes; scales near 0.06. */
static void make_coded(const maker *m, const lutra_tensor *t, const char *name, int64_t n,
                       uint64_t *x, void *out)
{
    const size_t length = strlen(name);
    const bool zeros = length > 6 && strcmp(name + length - 6, ".zeros") == 0;
    for (int64_t i = 0; t->dtype == LUTRA_U8 && i < n; i++)
        ((uint8_t *)out)[i] =
            (uint8_t)(zeros ? next(x) & ((1u << m->scheme.format.bits) - 1) : next(x) >> 20);
    for (int64_t i = 0; t->dtype == LUTRA_F16 && i < n; i++)
        ((uint16_t *)out)[i] = (uint16_t)(0x2b80 + (next(x) & 63));
}

typedef struct {
    const maker *m;
    const lu_st_entry *entry;
    int fd;
    const char *path;
    uint64_t at, seed;
    uint8_t *blocks;      /* [threads][BLOCK] */
    lutra_status *status; /* [threads] */
} fill_job;

/* Each block has a seed of its own, so that the file does not depend on the number of threads. */
static void fill_blocks(void *arg, int64_t begin, int64_t end, int worker)
{
    const fill_job *j = arg;
    const lutra_tensor *t = &j->entry->view;
    const int64_t size = (int64_t)lutra_dtype_bytes(t->dtype), step = BLOCK / size;
    void *block = j->blocks + (size_t)worker * BLOCK;
    for (int64_t b = begin; b < end && j->status[worker] == LUTRA_OK; b++) {
        const int64_t left = (int64_t)t->bytes / size - b * step, n = left < step ? left : step;
        uint64_t x = (j->seed + (uint64_t)b * 0x9e3779b97f4a7c15u) * 2654435761u + 1;
        if (t->dtype == LUTRA_BF16)
            make_weights(j->m, t, b * step, n, &x, block);
        else
            make_coded(j->m, t, j->entry->name, n, &x, block);
        j->status[worker] = lu_write_at(j->fd, j->path, block, (size_t)(n * size),
                                        j->at + (uint64_t)(b * BLOCK), NULL);
    }
}

static void write_shard(maker *m, const char *name, int64_t first, int64_t count, json_t *map)
{
    void *header;
    size_t header_bytes;
    uint64_t *at = lu_array((size_t)count, sizeof *at), size;
    const size_t threads = (size_t)lu_pool_size(m->pool);
    uint8_t *blocks = lu_array(threads, BLOCK);
    lutra_status *status = lu_calloc(threads, sizeof *status);
    char *path = lu_path_join(m->out, name);
    if (!at || !blocks || !status || !path ||
        lu_st_layout(m->entries + first, count, &header, &header_bytes, at, &size, &err))
        fail();
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || lu_write_at(fd, path, header, header_bytes, 0, &err) != LUTRA_OK) {
        if (fd < 0)
            lu_fail(&err, LUTRA_E_IO, "%s: cannot create", path);
        fail();
    }
    for (int64_t i = 0; i < count; i++) {
        fill_job job = {.m = m,
                        .entry = &m->entries[first + i],
                        .fd = fd,
                        .path = path,
                        .at = at[i],
                        .seed = (uint64_t)(m->seed * 1000003 + first + i),
                        .blocks = blocks,
                        .status = status};
        const int64_t bytes = (int64_t)job.entry->view.bytes;
        lu_pool_for(m->pool, (bytes + BLOCK - 1) / BLOCK, 1, fill_blocks, &job);
        for (size_t t = 0; t < threads; t++)
            if (status[t] != LUTRA_OK) {
                lu_fail(&err, status[t], "%s: cannot write", path);
                fail();
            }
        json_object_set_new(map, m->entries[first + i].name, json_string(name));
    }
    close(fd);
    fprintf(stderr, "%s: %.2f GB\n", path, (double)size / 1e9);
    lu_free(path);
    lu_free(blocks);
    lu_free(status);
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

static void write_config(maker *m)
{
    const shape *s = &m->s;
    json_t *config = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:f, s:f, s:i, "
        "s:s, s:i, s:i}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "num_hidden_layers",
        (json_int_t)s->layers, "hidden_size", (json_int_t)s->hidden, "intermediate_size",
        (json_int_t)s->intermediate, "num_attention_heads", (json_int_t)s->heads,
        "num_key_value_heads", (json_int_t)s->kv_heads, "head_dim", (json_int_t)s->head_dim,
        "vocab_size", (json_int_t)s->vocab, "tie_word_embeddings", (int)s->tied, "hidden_act",
        "silu", "rms_norm_eps", 1e-5, "rope_theta", 500000.0, "max_position_embeddings", 8192,
        "torch_dtype", "bfloat16", "bos_token_id", 0, "eos_token_id", 1);
    if (m->spec)
        json_object_set_new(config, "quantization_config", lu_quant_config_write(&m->quant));
    write_json(m, "config.json", config);
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
    if (strcmp(key, "--format") == 0) {
        m->spec = value;
        if (lutra_format_parse(value, &m->scheme.format, &err) != LUTRA_OK)
            fail();
        return m->scheme.format.scale_dtype == LUTRA_F16;
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
    bool ok = argc >= 2 && argc % 2 == 0 && argv[1][0] != '-';
    for (int i = 2; ok && i + 1 < argc; i += 2)
        ok = set_option(&m, argv[i], argv[i + 1]);
    if (!ok) {
        fprintf(stderr, "usage: bench_make_checkpoint OUT [--shape llama-3.2-1b|llama-3.1-8b|"
                        "llama-3.1-70b|llama-3.1-405b] [--layers N] ...\n");
        return 2;
    }
    m.out = argv[1];
    if (mkdir(m.out, 0777) != 0) {
        fprintf(stderr, "error: %s: cannot create the folder\n", m.out);
        return 1;
    }
    if (lu_pool_open(lu_cpu_count(), &m.pool, &err) != LUTRA_OK)
        fail();
    list_tensors(&m);
    make_samples(&m);
    write_shards(&m);
    write_config(&m);
    copy_tokenizer(&m);
    lu_quant_config_free(&m.quant);
    lu_pool_close(m.pool);
    lu_free(m.names);
    lu_free(m.entries);
    return 0;
}

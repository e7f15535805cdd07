/* bpe.c - encoding one pre-token. The steps and their order are those of Hugging Face's BPE:
   characters without a piece become byte tokens, else the unknown token (fused or not), else
   nothing.

   A pre-token may be a whole megabyte (SentencePiece-like models do not pre-tokenise), so
   - it is cut wherever no merge can reach across (lu_bpe.joins): English falls into words;
   - short stretches are merged by scanning for the lowest rank, and remembered in a small cache;
   - long ones use a heap of pairs over a linked list: n log n for any text.
   Invariant: the ids do not depend on cuts, cache or the choice of loop (tests compare). */
#include "text/bpe.h"

#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"

#define WORD_SYMBOLS 15  /* longest cached stretch: makes an entry two cache lines */
#define SHORT_SYMBOLS 24 /* up to here a scan beats the heap */
#define CACHE_BITS 12
#define DEAD UINT32_MAX /* a symbol that was merged into the one before it */

typedef struct lu_bpe_word {
    uint32_t n_key, n_out; /* n_key 0: empty */
    uint32_t key[WORD_SYMBOLS], out[WORD_SYMBOLS];
} lu_bpe_word;

typedef struct lu_bpe_pair {
    uint64_t key;  /* rank << 32 | position: the order of merging */
    uint32_t made; /* what the merge gives; tells whether the pair is still there */
} lu_bpe_pair;

lutra_status lu_bpe_room_open(bool use_cache, lu_bpe_room *out, lutra_err *err)
{
    *out = (lu_bpe_room){0};
    if (use_cache) {
        out->cache = lu_calloc((size_t)1 << CACHE_BITS, sizeof *out->cache);
        if (!out->cache)
            return lu_fail_nomem(err, sizeof *out->cache << CACHE_BITS);
    }
    return LUTRA_OK;
}

void lu_bpe_room_free(lu_bpe_room *r)
{
    lu_free(r->ids);
    lu_free(r->symbols);
    lu_free(r->links);
    lu_free(r->heap);
    lu_free(r->cache);
    *r = (lu_bpe_room){0};
}

/* Doubles an array of 4-byte items; NULL = out of memory. */
static void *grow(void *items, size_t *capacity, size_t need)
{
    size_t wanted = *capacity ? *capacity : 64, bytes;
    while (wanted < need)
        wanted *= 2;
    if (!lu_mul_size(wanted, 4, &bytes))
        return NULL;
    void *grown = lu_resize(items, bytes);
    if (grown)
        *capacity = wanted;
    return grown;
}

static lutra_status put_all(lu_bpe_room *r, const uint32_t *ids, size_t n, lutra_err *err)
{
    if (r->n_ids + n > r->ids_capacity) {
        int32_t *grown = grow(r->ids, &r->ids_capacity, r->n_ids + n);
        if (!grown)
            return lu_fail_nomem(err, (r->n_ids + n) * sizeof *grown);
        r->ids = grown;
    }
    if (n)
        memcpy(r->ids + r->n_ids, ids, n * sizeof *ids);
    r->n_ids += n;
    return LUTRA_OK;
}

lutra_status lu_bpe_room_put(lu_bpe_room *r, int32_t id, lutra_err *err)
{
    const uint32_t one = (uint32_t)id;
    return put_all(r, &one, 1, err);
}

/* Merges n symbols in place by scanning; returns how many are left. */
static size_t merge_short(const lu_bpe *m, uint32_t *symbols, size_t n)
{
    const lu_merge *rules[SHORT_SYMBOLS]; /* of the pair i, i + 1 */
    for (size_t i = 0; i + 1 < n; i++)
        rules[i] = lu_bpe_find(m, symbols[i], symbols[i + 1]);
    while (n > 1) {
        uint32_t best_rank = UINT32_MAX;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (rules[i] && rules[i]->rank < best_rank) {
                best_rank = rules[i]->rank;
                best = i;
            }
        if (best_rank == UINT32_MAX)
            break;
        symbols[best] = rules[best]->made;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 2) * sizeof *symbols);
        if (n - best > 2)
            memmove(rules + best, rules + best + 1, (n - best - 2) * sizeof *rules);
        n--;
        if (best > 0)
            rules[best - 1] = lu_bpe_find(m, symbols[best - 1], symbols[best]);
        if (best + 1 < n)
            rules[best] = lu_bpe_find(m, symbols[best], symbols[best + 1]);
    }
    return n;
}

static void sift_down(lu_bpe_pair *heap, size_t n, size_t i)
{
    const lu_bpe_pair moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1].key < heap[child].key)
            child++;
        if (moved.key <= heap[child].key)
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void sift_up(lu_bpe_pair *heap, size_t i)
{
    const lu_bpe_pair moved = heap[i];
    for (; i > 0 && moved.key < heap[(i - 1) / 2].key; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = moved;
}

static lutra_status long_room(lu_bpe_room *r, size_t n, lutra_err *err)
{
    if (n <= r->long_capacity)
        return LUTRA_OK;
    lu_free(r->links);
    lu_free(r->heap);
    r->long_capacity = 0;
    r->links = lu_array(n, 2 * sizeof *r->links);
    r->heap =
        lu_array(n, 2 * sizeof *r->heap); /* each of n - 1 merges takes one pair and adds two */
    if (!r->links || !r->heap)
        return lu_fail_nomem(err, 2 * n * sizeof *r->heap);
    r->long_capacity = n;
    return LUTRA_OK;
}

/* Merges the n symbols of the room with a heap; the survivors are moved together. */
static lutra_status merge_long(const lu_bpe *m, lu_bpe_room *r, size_t *n_symbols, lutra_err *err)
{
    const size_t n = *n_symbols;
    LU_TRY(long_room(r, n, err));
    uint32_t *symbols = r->symbols;
    int32_t *prev = r->links, *next = r->links + n;
    lu_bpe_pair *heap = r->heap;
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        prev[i] = (int32_t)i - 1;
        next[i] = i + 1 < n ? (int32_t)i + 1 : -1;
        const lu_merge *rule = i + 1 < n ? lu_bpe_find(m, symbols[i], symbols[i + 1]) : NULL;
        if (rule)
            heap[n_heap++] = (lu_bpe_pair){(uint64_t)rule->rank << 32 | i, rule->made};
    }
    for (size_t i = n_heap / 2; i-- > 0;)
        sift_down(heap, n_heap, i);
    while (n_heap) {
        const lu_bpe_pair top = heap[0];
        heap[0] = heap[--n_heap];
        if (n_heap)
            sift_down(heap, n_heap, 0);
        const int32_t at = (int32_t)(uint32_t)top.key;
        if (symbols[at] == DEAD || next[at] < 0)
            continue;
        const lu_merge *now = lu_bpe_find(m, symbols[at], symbols[next[at]]);
        if (!now || now->made != top.made)
            continue; /* one of the two has been merged since */
        const int32_t gone = next[at];
        symbols[at] = top.made;
        symbols[gone] = DEAD;
        next[at] = next[gone];
        if (next[at] >= 0)
            prev[next[at]] = at;
        for (int side = 0; side < 2; side++) {
            const int32_t left = side ? at : prev[at];
            if (left < 0 || next[left] < 0)
                continue;
            const lu_merge *rule = lu_bpe_find(m, symbols[left], symbols[next[left]]);
            if (rule) {
                heap[n_heap] =
                    (lu_bpe_pair){(uint64_t)rule->rank << 32 | (uint32_t)left, rule->made};
                sift_up(heap, n_heap++);
            }
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (symbols[i] != DEAD)
            symbols[kept++] = symbols[i];
    *n_symbols = kept;
    return LUTRA_OK;
}

static lu_bpe_word *cache_entry(lu_bpe_room *r, const uint32_t *symbols, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ symbols[i]) * 0x9E3779B97F4A7C15u;
    return &r->cache[h >> (64 - CACHE_BITS)];
}

/* Merges the collected symbols and appends what is left of them to the ids. */
static lutra_status flush(const lu_bpe *m, lu_bpe_room *r, lutra_err *err)
{
    size_t n = r->n_symbols;
    r->n_symbols = 0;
    if (n > SHORT_SYMBOLS) {
        LU_TRY(merge_long(m, r, &n, err));
        return put_all(r, r->symbols, n, err);
    }
    if (n > 1 && n <= WORD_SYMBOLS && r->cache) {
        lu_bpe_word *word = cache_entry(r, r->symbols, n);
        if (word->n_key != n || memcmp(word->key, r->symbols, n * sizeof *word->key) != 0) {
            word->n_key = (uint32_t)n;
            memcpy(word->key, r->symbols, n * sizeof *word->key);
            word->n_out = (uint32_t)merge_short(m, r->symbols, n);
            memcpy(word->out, r->symbols, word->n_out * sizeof *word->out);
        }
        return put_all(r, word->out, word->n_out, err);
    }
    return put_all(r, r->symbols, merge_short(m, r->symbols, n), err);
}

static lutra_status add_symbol(const lu_bpe *m, lu_bpe_room *r, uint32_t id, lutra_err *err)
{
    if (r->n_symbols && m->joins) {
        const uint64_t bit = lu_bpe_join_hash(m, r->symbols[r->n_symbols - 1], id);
        if (!(m->joins[bit / 64] >> bit % 64 & 1))
            LU_TRY(flush(m, r, err));
    }
    if (r->n_symbols == r->symbols_capacity) {
        uint32_t *grown = grow(r->symbols, &r->symbols_capacity, r->n_symbols + 1);
        if (!grown)
            return lu_fail_nomem(err, r->n_symbols * sizeof *grown);
        r->symbols = grown;
    }
    r->symbols[r->n_symbols++] = id;
    return LUTRA_OK;
}

/* Adds the byte tokens of one character; *done is false when one of them is missing. */
static lutra_status add_bytes(const lu_bpe *m, lu_bpe_room *r, const char *text, int n, bool *done,
                              lutra_err *err)
{
    *done = false;
    for (int i = 0; i < n; i++)
        if (m->byte_ids[(uint8_t)text[i]] < 0)
            return LUTRA_OK;
    for (int i = 0; i < n; i++)
        LU_TRY(add_symbol(m, r, (uint32_t)m->byte_ids[(uint8_t)text[i]], err));
    *done = true;
    return LUTRA_OK;
}

lutra_status lu_bpe_encode(const lu_bpe *m, lu_bpe_room *r, const char *text, size_t n,
                           lutra_err *err)
{
    if (m->ignore_merges) {
        const int32_t whole = lu_vocab_find(m->vocab, text, n, LU_PIECE_MODEL);
        if (whole >= 0)
            return lu_bpe_room_put(r, whole, err);
    }
    bool unknown = false; /* an unknown token is due: the next may fuse with it */
    int length;
    for (size_t i = 0; i < n; i += (size_t)length) {
        const int32_t c = lu_utf8_decode(text + i, &length);
        const int32_t id = c < LU_BPE_CHARS
                               ? m->char_ids[c]
                               : lu_vocab_find(m->vocab, text + i, (size_t)length, LU_PIECE_MODEL);
        if (id >= 0) {
            if (unknown)
                LU_TRY(add_symbol(m, r, (uint32_t)m->unk, err));
            unknown = false;
            LU_TRY(add_symbol(m, r, (uint32_t)id, err));
            continue;
        }
        bool done = false;
        if (m->byte_fallback)
            LU_TRY(add_bytes(m, r, text + i, length, &done, err));
        if (done || !m->unk_token)
            continue;
        if (m->unk < 0)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "tokenizer: the unknown token \"%.100s\" is needed but "
                           "not in the vocabulary",
                           m->unk_token);
        if (unknown && !m->fuse_unk)
            LU_TRY(add_symbol(m, r, (uint32_t)m->unk, err));
        unknown = true;
    }
    if (unknown)
        LU_TRY(add_symbol(m, r, (uint32_t)m->unk, err));
    return flush(m, r, err);
}

/* sampler.c - choosing a token from logits. The steps, in this order:

     repetition penalty   a token of the session: logit / p if positive, else logit * p
     temperature 0        the largest logit, the lower id on ties; nothing below applies
     temperature          logit / T
     top-k                the k largest (ties: lower ids first)
     top-p                of these, in descending order, the fewest whose probability reaches p
     min-p                of these, those at least min_p times as probable as the largest

   and one draw among the rest. Only top-k and top-p need an order: candidates then come off a heap
   one by one, so the vocabulary is never sorted. NaN logits are never chosen. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "engine/random.h"
#include "engine/sampler.h"

typedef struct {
    float score; /* (logit - largest) / T, at most 0 */
    int32_t id;
} candidate;

struct lutra_sampler {
    lutra_sampling params;
    int64_t vocab_size;
    lu_random random;
    uint8_t *seen;         /* [vocab_size]: 1 = token of the session */
    candidate *candidates; /* [vocab_size] */
    double *weights;       /* [vocab_size] */
};

void lutra_sampling_init(lutra_sampling *p)
{
    memset(p, 0, sizeof *p);
    p->size = sizeof *p;
    p->top_p = 1.0f;
    p->repetition_penalty = 1.0f;
}

static lutra_status check(const lutra_sampling *p, lutra_err *err)
{
    if (!(p->temperature >= 0.0f && p->temperature <= 1e4f))
        return lu_fail(err, LUTRA_E_ARG, "temperature is %g, expected 0 to 10000",
                       (double)p->temperature);
    if (p->top_k < 0)
        return lu_fail(err, LUTRA_E_ARG, "top_k is %d, expected 0 (off) or more", p->top_k);
    if (!(p->top_p > 0.0f && p->top_p <= 1.0f))
        return lu_fail(err, LUTRA_E_ARG, "top_p is %g, expected above 0 and at most 1",
                       (double)p->top_p);
    if (!(p->min_p >= 0.0f && p->min_p <= 1.0f))
        return lu_fail(err, LUTRA_E_ARG, "min_p is %g, expected 0 to 1", (double)p->min_p);
    if (!(p->repetition_penalty > 0.0f && p->repetition_penalty <= 1e4f))
        return lu_fail(err, LUTRA_E_ARG,
                       "repetition_penalty is %g, expected above 0 and at most 10000",
                       (double)p->repetition_penalty);
    return LUTRA_OK;
}

lutra_status lutra_sampler_open(const lutra_sampling *p, int64_t vocab_size, lutra_sampler **out,
                                lutra_err *err)
{
    lutra_sampling params;
    lutra_sampling_init(&params);
    if (p)
        memcpy(&params, p, p->size < sizeof params ? p->size : sizeof params);
    LU_TRY(check(&params, err));
    if (vocab_size < 1 || vocab_size > INT32_MAX)
        return lu_fail(err, LUTRA_E_ARG, "vocabulary of %" PRId64 " tokens, expected 1 to 2^31 - 1",
                       vocab_size);
    lutra_sampler *s = lu_calloc(1, sizeof *s);
    if (!s)
        return lu_fail_nomem(err, sizeof *s);
    const size_t n = (size_t)vocab_size;
    s->params = params;
    s->vocab_size = vocab_size;
    lu_random_seed(&s->random, params.seed);
    s->seen = lu_calloc(n, 1);
    s->candidates = lu_array(n, sizeof *s->candidates);
    s->weights = lu_array(n, sizeof *s->weights);
    if (!s->seen || !s->candidates || !s->weights) {
        lutra_sampler_close(s);
        return lu_fail_nomem(err, n * (1 + sizeof *s->candidates + sizeof *s->weights));
    }
    *out = s;
    return LUTRA_OK;
}

void lutra_sampler_close(lutra_sampler *s)
{
    if (!s)
        return;
    lu_free(s->seen);
    lu_free(s->candidates);
    lu_free(s->weights);
    lu_free(s);
}

void lutra_sampler_accept(lutra_sampler *s, int32_t id)
{
    if (id >= 0 && id < s->vocab_size)
        s->seen[id] = 1;
}

double lu_sampler_draw(lutra_sampler *s) { return lu_random_unit(&s->random); }

static float penalised(const lutra_sampler *s, const float *logits, int64_t id)
{
    const float x = logits[id], penalty = s->params.repetition_penalty;
    if (!s->seen[id] || penalty == 1.0f)
        return x;
    return x > 0.0f ? x / penalty : x * penalty;
}

/* The largest penalised logit, the lowest id on ties; -1 if all are NaN. */
static int64_t largest(const lutra_sampler *s, const float *logits)
{
    int64_t best = -1;
    float top = 0.0f;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        const float x = penalised(s, logits, i);
        if (x == x && (best < 0 || x > top)) {
            best = i;
            top = x;
        }
    }
    return best;
}

static bool before(candidate a, candidate b)
{
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/* Binary heap: each candidate comes before its children 2i + 1 and 2i + 2. */
static void sift_down(candidate *heap, int64_t n, int64_t i)
{
    const candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child]))
            child++;
        if (!before(heap[child], moving))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Moves the first `keep` candidates in order to the end of the array, best last, and returns how
   many: at most top_k, and no more than reach top_p of the probability of those top_k. */
static int64_t take_ordered(lutra_sampler *s, int64_t n)
{
    candidate *heap = s->candidates;
    const int64_t limit = s->params.top_k > 0 && s->params.top_k < n ? s->params.top_k : n;
    double total = 0.0, reached = 0.0;
    int64_t taken = 0, kept = 0;
    for (int64_t i = 0; limit == n && i < n; i++)
        total += exp((double)heap[i].score);
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, i);
    /* With top-k the total is known only after its k are off the heap; else pop just what top-p
     * needs. */
    const double share = limit == n ? s->params.top_p * total : INFINITY;
    while (taken < limit && reached < share) {
        const candidate best = heap[0];
        heap[0] = heap[n - 1 - taken];
        heap[n - 1 - taken] = best;
        taken++;
        sift_down(heap, n - taken, 0);
        reached += exp((double)best.score);
    }
    if (limit == n)
        return taken;
    total = reached;
    for (reached = 0.0; kept < taken && reached < s->params.top_p * total; kept++)
        reached += exp((double)heap[n - 1 - kept].score);
    return kept;
}

/* One draw among c[0..n) of what min-p leaves; some candidate has score 0. */
static int32_t draw(lutra_sampler *s, const candidate *c, int64_t n)
{
    double total = 0.0;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        const double w = exp((double)c[i].score);
        s->weights[i] = w >= (double)s->params.min_p ? w : 0.0;
        total += s->weights[i];
        if (s->weights[i] > 0.0)
            last = i;
    }
    double left = lu_random_unit(&s->random) * total;
    for (int64_t i = 0; i < last; i++) {
        if (left < s->weights[i])
            return c[i].id;
        left -= s->weights[i];
    }
    return c[last].id; /* rounding of the running difference may fall past the end */
}

int32_t lutra_sampler_pick(lutra_sampler *s, const float *logits)
{
    const int64_t best = largest(s, logits);
    if (best < 0)
        return 0; /* all NaN: any token is as wrong as another */
    const float top = penalised(s, logits, best);
    if (s->params.temperature == 0.0f || isinf(top))
        return (int32_t)best;
    int64_t n = 0;
    for (int64_t i = 0; i < s->vocab_size; i++) {
        const float x = (penalised(s, logits, i) - top) / s->params.temperature;
        if (x > -INFINITY) /* neither NaN nor -inf */
            s->candidates[n++] = (candidate){.score = x, .id = (int32_t)i};
    }
    if (s->params.top_p == 1.0f && (s->params.top_k == 0 || s->params.top_k >= n))
        return draw(s, s->candidates, n);
    const int64_t kept = take_ordered(s, n);
    return draw(s, s->candidates + n - kept, kept);
}

/* measure.c - see measure.h. Inner loops are written per instruction set behind target attributes,
   so that the roofs use the widest loads and multiply-adds of this CPU whatever the build's flags.
 */
#include "measure.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/context.h"
#include "base/mem.h"
#include "kern/table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PREFETCH_BYTES 2048 /* ahead: 32 lines, about the reads a core has in flight, twice */
#define STREAMS 4

/* --- reading ---------------------------------------------------------------------------------- */

/* Plain C, as the compiler likes it. */
static uint64_t read_words(const void *p, size_t bytes)
{
    const uint64_t *x = p;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *x; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += x[i + (size_t)j];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f")))
#define AVX2 __attribute__((target("avx2,fma")))

AVX512 static uint64_t read_zmm(const void *p, size_t bytes)
{
    __m512i sum[4] = {0};
    for (const uint8_t *c = p, *end = c + bytes; c < end; c += 256)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(c + 64 * j));
    return (uint64_t)_mm512_reduce_or_epi64(sum[0] | sum[1] | sum[2] | sum[3]);
}

AVX512 static uint64_t read_zmm_prefetch(const void *p, size_t bytes)
{
    __m512i sum[4] = {0};
    for (const uint8_t *c = p, *end = c + bytes; c < end; c += 256)
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)c + PREFETCH_BYTES + 64 * j, _MM_HINT_T0);
            sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(c + 64 * j));
        }
    return (uint64_t)_mm512_reduce_or_epi64(sum[0] | sum[1] | sum[2] | sum[3]);
}

/* Several places of the part in turn: more pages open, more of the hardware's prefetchers at work.
 */
AVX512 static uint64_t read_zmm_streams(const void *p, size_t bytes)
{
    const size_t part = bytes / STREAMS;
    __m512i sum[STREAMS] = {0};
    for (size_t i = 0; i < part; i += 64)
        for (size_t j = 0; j < STREAMS; j++)
            sum[j] =
                _mm512_xor_si512(sum[j], _mm512_loadu_si512((const uint8_t *)p + j * part + i));
    return (uint64_t)_mm512_reduce_or_epi64(sum[0] | sum[1] | sum[2] | sum[3]);
}

AVX2 static uint64_t read_ymm(const void *p, size_t bytes)
{
    __m256i sum[4] = {0};
    uint64_t words[4];
    for (const uint8_t *c = p, *end = c + bytes; c < end; c += 128)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm256_xor_si256(sum[j], _mm256_loadu_si256((const __m256i *)(c + 32 * j)));
    _mm256_storeu_si256((__m256i *)words, sum[0] | sum[1] | sum[2] | sum[3]);
    return words[0] | words[1] | words[2] | words[3];
}
#endif

static const bm_reader avx512_readers[] = {
    {"words", "C loop over 8-byte words", read_words},
#if defined(__x86_64__)
    {"ymm", "32-byte loads", read_ymm},
    {"zmm", "64-byte loads", read_zmm},
    {"zmm+prefetch", "64-byte loads, prefetch 2 KiB ahead", read_zmm_prefetch},
    {"zmm x4", "64-byte loads, 4 streams in turn", read_zmm_streams},
#endif
    {0},
};

static const bm_reader avx2_readers[] = {
    {"words", "C loop over 8-byte words", read_words},
#if defined(__x86_64__)
    {"ymm", "32-byte loads", read_ymm},
#endif
    {0},
};

static const bm_reader ref_readers[] = {{"words", "C loop over 8-byte words", read_words}, {0}};

const bm_reader *bm_readers(void)
{
    const lu_level level = lu_level_best();
    return level == LU_LEVEL_AVX512 ? avx512_readers
           : level == LU_LEVEL_AVX2 ? avx2_readers
                                    : ref_readers;
}

bool bm_memory_open(bm_memory *m, size_t bytes)
{
    m->bytes = bytes;
    m->data = lu_alloc_aligned(bytes);
    if (m->data)
        memset(m->data, 0x5a, bytes); /* real pages, not the zero page */
    return m->data != NULL;
}

void bm_memory_close(bm_memory *m)
{
    lu_free_aligned(m->data);
    *m = (bm_memory){0};
}

typedef struct {
    const bm_reader *reader;
    const uint8_t *window;
    size_t part;
    _Atomic uint64_t sink; /* keeps the compiler from leaving the reading out */
} read_job;

static void read_task(void *arg, int64_t begin, int64_t end, int worker)
{
    read_job *job = arg;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        job->sink += job->reader->read(job->window + (size_t)i * job->part, job->part);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bm_rate bm_read_rate(lu_pool *pool, const bm_memory *m, const bm_reader *reader, int passes)
{
    const size_t window = m->bytes / BM_WINDOWS;
    const int64_t parts = lu_pool_size(pool);
    double *took = lu_array((size_t)(passes * BM_WINDOWS), sizeof *took);
    read_job job = {.reader = reader, .part = window / (size_t)parts / 4096 * 4096};
    if (!took)
        return (bm_rate){0};
    for (int i = 0; i < passes * BM_WINDOWS; i++) {
        job.window = m->data + (size_t)(i % BM_WINDOWS) * window;
        const double start = bm_now((int)parts);
        lu_pool_for(pool, parts, 1, read_task, &job);
        took[i] = bm_now((int)parts) - start;
    }
    qsort(took, (size_t)(passes * BM_WINDOWS), sizeof *took, by_value);
    const double bytes = (double)(job.part * (size_t)parts);
    const bm_rate rate = {bytes / took[0], bytes / took[passes * BM_WINDOWS / 2]};
    lu_free(took);
    return rate;
}

double bm_read_roof(lu_pool *pool, const bm_memory *m, int passes)
{
    double best = 0;
    for (const bm_reader *r = bm_readers(); r->name; r++) {
        const double rate = bm_read_rate(pool, m, r, passes).best;
        best = rate > best ? rate : best;
    }
    return best;
}

/* --- multiply-adds ---------------------------------------------------------------------------- */

enum { FMA_STEPS = 50000, FMA_CHAINS = 12, FMA_REPEATS = 200 };

#if defined(__x86_64__)
AVX512 static double fma_zmm(void)
{
    __m512 a[FMA_CHAINS];
    const __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
    for (int j = 0; j < FMA_CHAINS; j++) /* each its own value, so that none is left out */
        a[j] = _mm512_set1_ps((float)j);
    for (int i = 0; i < FMA_STEPS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            a[j] = _mm512_fmadd_ps(a[j], x, y);
    for (int j = 1; j < FMA_CHAINS; j++)
        a[0] = _mm512_add_ps(a[0], a[j]);
    return (double)_mm512_reduce_add_ps(a[0]);
}

AVX2 static double fma_ymm(void)
{
    __m256 a[FMA_CHAINS];
    const __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
    for (int j = 0; j < FMA_CHAINS; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int i = 0; i < FMA_STEPS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            a[j] = _mm256_fmadd_ps(a[j], x, y);
    for (int j = 1; j < FMA_CHAINS; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    return (double)_mm256_cvtss_f32(a[0]);
}
#endif

static double multiply_add_c(void)
{
    float a[FMA_CHAINS];
    for (int j = 0; j < FMA_CHAINS; j++)
        a[j] = (float)j;
    for (int i = 0; i < FMA_STEPS; i++)
        for (int j = 0; j < FMA_CHAINS; j++)
            a[j] = a[j] * 0.5f + 0.25f;
    float sum = 0;
    for (int j = 0; j < FMA_CHAINS; j++)
        sum += a[j];
    return (double)sum;
}

typedef struct {
    double (*steps)(void);
    double sink[BM_MAX_THREADS];
} fma_job;

static void fma_task(void *arg, int64_t begin, int64_t end, int worker)
{
    fma_job *job = arg;
    for (int64_t i = begin; i < end; i++)
        job->sink[worker] += job->steps();
}

double bm_fma_roof(lu_pool *pool)
{
    fma_job job = {.steps = multiply_add_c};
    int lanes = 1;
#if defined(__x86_64__)
    if (lu_level_best() == LU_LEVEL_AVX512)
        job.steps = fma_zmm, lanes = 16;
    else if (lu_level_best() == LU_LEVEL_AVX2)
        job.steps = fma_ymm, lanes = 8;
#endif
    const int threads = lu_pool_size(pool);
    bm_least least = {0};
    for (int i = 0; i < FMA_REPEATS; i++) {
        const double start = bm_now(threads);
        lu_pool_for(pool, threads, 1, fma_task, &job);
        bm_take(&least, bm_now(threads) - start);
    }
    return 2.0 * lanes * FMA_CHAINS * FMA_STEPS * threads / least.seconds;
}

/* --- small things ----------------------------------------------------------------------------- */

static void nothing(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)arg, (void)begin, (void)end, (void)worker;
}

double bm_empty_loop(lu_pool *pool)
{
    enum { LOOPS = 20, REPEATS = 1000 };
    bm_least least = {0};
    for (int i = 0; i < REPEATS; i++) {
        const double start = lu_seconds();
        for (int j = 0; j < LOOPS; j++)
            lu_pool_for(pool, 8 * (int64_t)lu_pool_size(pool), 1, nothing, NULL);
        bm_take(&least, (lu_seconds() - start) / LOOPS);
    }
    return least.seconds;
}

double bm_now(int threads)
{
    struct timespec t;
    if (threads > 1 || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) != 0)
        return lu_seconds();
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bm_take(bm_least *least, double seconds)
{
    if (least->n == 0 || seconds < least->seconds)
        least->seconds = seconds;
    least->n++;
}

static void cpu_name(char *out, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    snprintf(out, size, "unknown CPU");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strstr(line, ": ");
        if (strncmp(line, "model name", 10) == 0 && colon) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(out, size, "%s", colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

void bm_print_machine(FILE *out, bool json)
{
    char name[128];
    cpu_name(name, sizeof name);
    const char *level = lu_level_name(lu_level_best());
    if (json)
        fprintf(out, "{\"bench\":\"machine\",\"cpu\":\"%s\",\"cpus\":%d,\"level\":\"%s\"}\n", name,
                lu_cpu_count(), level);
    else
        fprintf(out, "%s, %d CPUs, level %s\n\n", name, lu_cpu_count(), level);
}

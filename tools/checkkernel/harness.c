/* harness.c - what every check stands on: operands between unmapped pages, inputs, verdicts, and
   the child process that turns a crash into one failed line. See checkkernel.h. */
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkkernel.h"
#include "tensor/convert.h"

#define PATTERN 0xa5
#define TIME_LIMIT 300 /* seconds a child may take, sanitizers included */

const int64_t ck_lengths[] = {0,  1,  2,  3,  7,   8,   9,   15,  16,   17,   31,   32, 33,
                              47, 63, 64, 65, 127, 128, 576, 960, 2048, 4097, 8192, -1};

static void die(const char *what)
{
    perror(what);
    _exit(2);
}

void ck_case(ck *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(t->report->at, sizeof t->report->at, fmt, args);
    va_end(args);
    t->report->n_cases++;
}

void ck_fail(ck *t, const char *fmt, ...)
{
    if (t->report->failed)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(t->report->message, sizeof t->report->message, fmt, args);
    va_end(args);
    t->report->failed = true;
}

/* map: [guard page][... pages ...][guard page]; data ends or starts at a guard page */
static ck_operand *new_operand(ck *t, size_t bytes, size_t alignment)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t room = (bytes + alignment - 1) / alignment * alignment;
    const size_t inner = (room + page) / page * page; /* at least one byte of pattern */
    if (t->n_operands == CK_MAX_OPERANDS)
        die("too many operands");
    ck_operand *o = &t->operands[t->n_operands++];
    o->map_bytes = inner + 2 * page;
    o->map = mmap(NULL, o->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (o->map == MAP_FAILED || mprotect(o->map, page, PROT_NONE) ||
        mprotect(o->map + page + inner, page, PROT_NONE))
        die("mmap");
    o->bytes = bytes;
    o->data = t->side == CK_END ? o->map + page + inner - room : o->map + page;
    memset(o->map + page, PATTERN, inner);
    memset(o->data, 0xff, bytes);
    return o;
}

static bool pattern_is_intact(const ck_operand *o)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uint8_t *p = o->map + page, *end = o->map + o->map_bytes - page;
    for (; p < end; p++)
        if (*p != PATTERN && !(p >= o->data && p < o->data + o->bytes))
            return false;
    return true;
}

bool ck_end_case(ck *t)
{
    for (int i = 0; i < t->n_operands; i++) {
        if (!pattern_is_intact(&t->operands[i]))
            ck_fail(t, "wrote outside operand %d", i);
        munmap(t->operands[i].map, t->operands[i].map_bytes);
    }
    t->n_operands = 0;
    return !t->report->failed;
}

void *ck_output(ck *t, size_t bytes) { return new_operand(t, bytes, 1)->data; }
void *ck_aligned(ck *t, size_t bytes) { return new_operand(t, bytes, 64)->data; }

void ck_freeze(ck *t, const void *p)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < t->n_operands; i++)
        if (t->operands[i].data == p &&
            mprotect(t->operands[i].map + page, t->operands[i].map_bytes - 2 * page, PROT_READ))
            die("mprotect");
}

uint64_t ck_random(ck *t) /* splitmix64 */
{
    uint64_t z = t->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float ck_gauss(ck *t)
{
    const double a = (double)((ck_random(t) >> 11) + 1) * 0x1p-53;
    const double b = (double)(ck_random(t) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(a)) * cos(6.283185307179586 * b));
}

static float draw(ck *t, ck_kind kind)
{
    const float g = ck_gauss(t);
    switch (kind) {
    case CK_GAUSS: return g;
    case CK_HEAVY: return g / (0.001f + fabsf(ck_gauss(t)));
    case CK_LARGE: return g * 1e30f;
    case CK_TINY_VALUES: return g * 1e-40f;
    default: return 0;
    }
}

void ck_fill(ck *t, float *x, int64_t n, ck_kind kind)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = draw(t, kind);
    if (kind == CK_ONE_HOT && n > 0)
        x[ck_random(t) % (uint64_t)n] = 1;
}

float *ck_input(ck *t, int64_t n, ck_kind kind)
{
    float *x = ck_output(t, (size_t)n * sizeof *x);
    ck_fill(t, x, n, kind);
    return x;
}

float *ck_copy(ck *t, const float *x, int64_t n)
{
    float *y = ck_output(t, (size_t)n * sizeof *y);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

const char *ck_kind_name(ck_kind kind)
{
    static const char *const names[CK_N_KINDS] = {"gauss",   "heavy", "zero",
                                                  "one-hot", "large", "tiny"};
    return names[kind];
}

bool ck_close(ck *t, const char *what, int64_t i, float got, double want, double bound)
{
    const double limit = FLT_MAX;
    bool ok;
    if (isnan(want))
        ok = isnan(got);
    else if (fabs(want) + bound >= limit && isinf(got))
        ok = signbit(got) == signbit(want);
    else
        ok = fabs(got - want) <= bound;
    if (!ok)
        ck_fail(t, "%s[%lld] = %.9g, expected %.9g +- %.2g", what, (long long)i, (double)got, want,
                bound);
    return ok;
}

bool ck_same(ck *t, const char *what, int64_t i, uint32_t got, uint32_t want)
{
    if (got != want)
        ck_fail(t, "%s[%lld] = bits 0x%x, expected 0x%x", what, (long long)i, got, want);
    return got == want;
}

ck_subject ck_subject_of(lu_level level)
{
    ck_subject s = {.level = level,
                    .linear_pack = lu_linear_pack,
                    .linear_run = lu_linear_run,
                    .encode_row = lu_encoder_row};
    lu_ops_fill(&s.ops, level);
    return s;
}

static void child(const ck_op *op, const ck_subject *subject, uint64_t seed, ck_report *r)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL); /* sanitizers would print a page each */
    alarm(TIME_LIMIT);
    for (int side = 0; side < CK_N_SIDES && !r->failed; side++) {
        ck t = {.subject = subject,
                .ops = &subject->ops,
                .level = subject->level,
                .side = (ck_side)side,
                .rng = seed,
                .report = r};
        op->check(&t);
    }
    _exit(0);
}

void ck_run(const ck_op *op, const ck_subject *subject, uint64_t seed, ck_report *out)
{
    ck_report *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    fflush(NULL);
    const pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        child(op, subject, seed, shared);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid)
        die("waitpid");
    *out = *shared;
    munmap(shared, sizeof *shared);
    if (WIFSIGNALED(status))
        snprintf(out->message, sizeof out->message, "%s", strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        snprintf(out->message, sizeof out->message, "exit status %d", WEXITSTATUS(status));
    out->failed |= status != 0;
}

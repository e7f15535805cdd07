/* table.c - CPU levels: their names, whether this machine runs them, and their op tables.
   A level needs the CPU's feature bits and an operating system that saves the wider registers
   (XCR0); __builtin_cpu_supports would hide which of the two is missing and is not the same in
   both compilers. */
#include "kern/table.h"

#include <string.h>

#include "kern/attend_scratch.h"
#include "kern/levels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#define XCR0_AVX 0x06u    /* xmm, ymm */
#define XCR0_AVX512 0xe0u /* opmask, upper zmm, zmm16-31 */

/* leaf 1 ecx */
#define F16C_FMA_AVX ((1u << 29) | (1u << 12) | (1u << 28))
#define OSXSAVE (1u << 27)
/* leaf 7.0 */
#define EBX_AVX2 (1u << 5)
#define EBX_AVX512 ((1u << 16) | (1u << 17) | (1u << 30) | (1u << 31)) /* F DQ BW VL */
#define ECX_AVX512 ((1u << 1) | (1u << 11)) /* VBMI VNNI */
/* leaf 7.1 */
#define EAX_BF16 (1u << 5)

static unsigned read_xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static bool all(unsigned value, unsigned mask) { return (value & mask) == mask; }

static lu_level detect(void)
{
    unsigned a, b, c, d, c1;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !all(c1, OSXSAVE | F16C_FMA_AVX))
        return LU_LEVEL_REF;
    const unsigned xcr0 = read_xcr0();
    if (!all(xcr0, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(b, EBX_AVX2))
        return LU_LEVEL_REF;
    if (!all(xcr0, XCR0_AVX512) || !all(b, EBX_AVX512) || !all(c, ECX_AVX512) || a < 1)
        return LU_LEVEL_AVX2;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && all(a, EAX_BF16) ? LU_LEVEL_AVX512
                                                                       : LU_LEVEL_AVX2;
}
#else
static lu_level detect(void) { return LU_LEVEL_REF; }
#endif

static const char *const names[LU_N_LEVELS] = {"ref", "avx2", "avx512"};

const char *lu_level_name(lu_level level) { return names[level]; }

bool lu_level_available(lu_level level) { return level <= detect(); }

lu_level lu_level_best(void) { return detect(); }

lutra_status lu_level_parse(const char *name, lu_level *out, lutra_err *err)
{
    if (!name) {
        *out = lu_level_best();
        return LUTRA_OK;
    }
    for (int i = 0; i < LU_N_LEVELS; i++) {
        if (strcmp(name, names[i]) != 0)
            continue;
        if (!lu_level_available((lu_level)i))
            return lu_fail(err, LUTRA_E_UNSUPPORTED,
                           "CPU level %s: this machine does not have it, the best here is %s", name,
                           names[lu_level_best()]);
        *out = (lu_level)i;
        return LUTRA_OK;
    }
    return lu_fail(err, LUTRA_E_ARG, "CPU level \"%s\": unknown, expected ref, avx2 or avx512",
                   name);
}

void lu_ops_fill(lu_ops *ops, lu_level level)
{
    ops->level = names[level];
    lu_fill_ref_convert(ops);
    lu_fill_ref_rows(ops);
    lu_fill_ref_reduce(ops);
    lu_fill_ref_attention(ops);
    lu_fill_ref_act(ops);
#if defined(__x86_64__)
    if (level >= LU_LEVEL_AVX2) {
        lu_fill_avx2_rows(ops);
        lu_fill_avx2_attention(ops);
    }
    if (level >= LU_LEVEL_AVX512) {
        lu_fill_avx512_rows(ops);
        lu_fill_avx512_attention(ops);
    }
#endif
}

size_t lu_attend_scratch(int64_t n_kv, int64_t head_dim)
{
    const size_t lanes = LU_ATTEND_MAX_LANES;
    const size_t dim = ((size_t)head_dim + lanes - 1) / lanes * lanes;
    const size_t blocked = LU_ATTEND_KEYS * dim * 3 /* keys, values, decoded keys */
                           + LU_ATTEND_ROWS * dim                     /* sums of values */
                           + LU_ATTEND_ROWS * (lanes + 1)             /* sums of weights, maxima */
                           + LU_ATTEND_TILE * LU_ATTEND_KEYS + lanes; /* scores, alignment */
    const size_t reference = (size_t)n_kv;                            /* one row of scores */
    return blocked > reference ? blocked : reference;
}

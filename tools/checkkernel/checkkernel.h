/* checkkernel.h - the parts of checkkernel: guarded operands, test inputs, verdicts, child
   processes (harness.c), the checks themselves (check_*.c) and benchmarks (bench.c).

   A check runs one kernel over many cases. A case names itself with ck_case, takes its operands
   from ck_output and ck_input, runs the kernel and compares through ck_close or ck_same. The first
   wrong answer ends the check. The comparison is always with a float64 oracle; since the reference
   level passes through the same cases, agreement of a level with the reference follows. */
#ifndef CHECKKERNEL_H
#define CHECKKERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kern/encode.h"
#include "kern/linear.h"
#include "kern/table.h"

#define CK_U 0x1p-24     /* unit roundoff of float */
#define CK_TINY 0x1p-149 /* spacing of subnormal floats: the absolute part of a bound */

typedef enum ck_kind {
    CK_GAUSS,
    CK_HEAVY, /* a few values thousands of times the median */
    CK_ZERO,
    CK_ONE_HOT,
    CK_LARGE,       /* about 1e30 */
    CK_TINY_VALUES, /* subnormal */
    CK_N_KINDS
} ck_kind;

/* Which end of an operand touches an unmapped page; the other end is watched by a pattern. */
typedef enum ck_side { CK_END, CK_START, CK_N_SIDES } ck_side;

/* Shared with the parent, so that a crash still tells where it happened. */
typedef struct ck_report {
    bool failed;
    int64_t n_cases;
    char at[200];
    char message[400];
} ck_report;

#define CK_MAX_OPERANDS 96

typedef struct ck_operand {
    uint8_t *map;
    size_t map_bytes; /* with both guard pages */
    uint8_t *data;
    size_t bytes;
} ck_operand;

/* What is tested: the real kernels, or one with a fault planted (selftest.c). */
typedef struct ck_subject {
    lu_level level;
    lu_ops ops;
    void (*linear_pack)(lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);
    void (*linear_run)(const lu_linear *l, const lu_linear_args *a);
    int64_t (*encode_row)(const lu_encoder *e, lu_encode_row_args *a);
} ck_subject;

typedef struct ck {
    const ck_subject *subject;
    const lu_ops *ops; /* subject->ops */
    lu_level level;
    ck_side side;
    uint64_t rng;
    ck_report *report;
    ck_operand operands[CK_MAX_OPERANDS];
    int n_operands;
} ck;

typedef void (*ck_check)(ck *t);

typedef struct ck_op {
    const char *name;
    ck_check check;
} ck_op;

extern const ck_op ck_op_list[]; /* ends with a NULL name */

/* harness.c */
void ck_case(ck *t, const char *fmt, ...) LUTRA_PRINTF(2, 3);
bool ck_end_case(ck *t); /* checks the patterns, frees the operands; false once the check failed */
void ck_fail(ck *t, const char *fmt, ...) LUTRA_PRINTF(2, 3);
void *ck_output(ck *t, size_t bytes);            /* filled with 0xff: NaN in every type */
float *ck_input(ck *t, int64_t n, ck_kind kind); /* not yet read-only */
void *ck_aligned(ck *t, size_t bytes);           /* the same, 64-byte aligned */
void ck_fill(ck *t, float *x, int64_t n, ck_kind kind);
void ck_freeze(ck *t, const void *p);             /* the kernel may only read it */
float *ck_copy(ck *t, const float *x, int64_t n); /* an operand with the same values */
uint64_t ck_random(ck *t);
float ck_gauss(ck *t);
/* |got - want| <= bound, NaN only where wanted, overflow only where want is out of float's range */
bool ck_close(ck *t, const char *what, int64_t i, float got, double want, double bound);
bool ck_same(ck *t, const char *what, int64_t i, uint32_t got, uint32_t want);
const char *ck_kind_name(ck_kind kind);

/* Lengths around the vector widths, then those of real models; ends with -1. */
extern const int64_t ck_lengths[];

/* The kernels of a level as they are. */
ck_subject ck_subject_of(lu_level level);

/* Runs a check in a child process. */
void ck_run(const ck_op *op, const ck_subject *subject, uint64_t seed, ck_report *out);

/* check_*.c */
void ck_check_bf16_to_f32(ck *t);
void ck_check_f16_to_f32(ck *t);
void ck_check_f32_to_bf16(ck *t);
void ck_check_f32_to_f16(ck *t);
void ck_check_rmsnorm(ck *t);
void ck_check_rope(ck *t);
void ck_check_silu_mul(ck *t);
void ck_check_gelu_mul(ck *t);
void ck_check_add(ck *t);
void ck_check_axpy(ck *t);
void ck_check_softcap(ck *t);
void ck_check_softmax(ck *t);
void ck_check_logsumexp(ck *t);
void ck_check_argmax(ck *t);
void ck_check_act_range(ck *t);
void ck_check_act_encode(ck *t);
void ck_check_act_decode(ck *t);
void ck_check_attend(ck *t);
void ck_check_linear(ck *t);
void ck_check_int8(ck *t);
void ck_check_encode(ck *t);

/* bench.c: times the ops whose name contains `filter` (NULL = all), one line each */
int ck_bench(const lu_ops *ops, lu_level level, const char *filter, bool json);

#endif

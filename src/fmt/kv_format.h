/* kv_format.h - in what numbers a KV cache keeps the keys and values of a head, and how they lie.

   A row is one position of one KV head, head_dim values. float32 and bfloat16 rows are dense. The
   others, with s and lo in float16 and q a code:

     int8    x' = s (q - 128)                    s = max |x| / 127
     int4    x' = s (q - z)                      s = (max(x, 0) - min(x, 0)) / 15, z a code
     fp8     x' = s * e4m3                       s = max |x| / 448
             a row is s, z (a byte; int4 only), a byte, then the codes

     kivi4, kivi2: KIVI (Liu et al. 2024, 2402.02750). Values: a row is cut into groups of
   LU_KIVI_GROUP columns, x' = s q + lo with s = (max - min) / (2^bits - 1), lo = min. Keys: each
   channel is rounded over LU_KIVI_GROUP consecutive positions together, likewise. The most recent
   positions stay as they are: a query at position p, which sees n = p + 1 positions, sees rounded
   keys at the first floor(n / R) R of them and rounded values at the first n - R, R =
   LU_KIVI_RECENT (the paper's algorithm, told by position). The same holds while a prompt is read,
   where the paper uses full precision, so that no cut of a sequence into passes changes a result.

             value row     [groups] s, [groups] lo, codes [head_dim]
             key group     [head_dim] s, [head_dim] lo, codes [LU_KIVI_GROUP][head_dim]

   Codes of 4 and 2 bits lie lowest first in their bytes; a row of codes is whole bytes. */
#ifndef LU_FMT_KV_FORMAT_H
#define LU_FMT_KV_FORMAT_H

#include "base/status.h"

enum { LU_KIVI_GROUP = 32, LU_KIVI_RECENT = 128 };

typedef enum lu_kv_kind {
    LU_KV_F32,
    LU_KV_BF16,
    LU_KV_INT8,
    LU_KV_INT4,
    LU_KV_FP8,
    LU_KV_KIVI4,
    LU_KV_KIVI2,
    LU_N_KV_KINDS
} lu_kv_kind;

/* "int8", "int4", "fp8", "kivi4", "kivi2": the kinds one can ask for. E_ARG with near names. */
lutra_status lu_kv_kind_parse(const char *name, lu_kv_kind *out, lutra_err *err);
const char *lu_kv_kind_name(lu_kv_kind kind);

static inline bool lu_kv_is_kivi(lu_kv_kind kind)
{
    return kind == LU_KV_KIVI4 || kind == LU_KV_KIVI2;
}

/* Bits of a code. */
static inline int lu_kv_bits(lu_kv_kind kind)
{
    static const int bits[LU_N_KV_KINDS] = {32, 16, 8, 4, 8, 4, 2};
    return bits[kind];
}

static inline int64_t lu_kv_code_bytes(lu_kv_kind kind, int64_t head_dim)
{
    return (head_dim * lu_kv_bits(kind) + 7) / 8;
}

static inline int64_t lu_kivi_groups(int64_t head_dim)
{
    return (head_dim + LU_KIVI_GROUP - 1) / LU_KIVI_GROUP;
}

/* Bytes of a row; for KIVI of a value row. Even. */
static inline int64_t lu_kv_row_bytes(lu_kv_kind kind, int64_t head_dim)
{
    const int64_t codes = (lu_kv_code_bytes(kind, head_dim) + 1) / 2 * 2;
    if (kind <= LU_KV_BF16)
        return lu_kv_code_bytes(kind, head_dim);
    return codes + (lu_kv_is_kivi(kind) ? 4 * lu_kivi_groups(head_dim) : 4);
}

/* KIVI: bytes of the keys of LU_KIVI_GROUP positions. Even. */
static inline int64_t lu_kivi_group_bytes(lu_kv_kind kind, int64_t head_dim)
{
    return 4 * head_dim + LU_KIVI_GROUP * lu_kv_code_bytes(kind, head_dim);
}

/* KIVI: how many of the n positions a query sees have rounded keys and values. */
static inline int64_t lu_kivi_rounded_keys(int64_t n)
{
    return n / LU_KIVI_RECENT * LU_KIVI_RECENT;
}
static inline int64_t lu_kivi_rounded_values(int64_t n)
{
    return n > LU_KIVI_RECENT ? n - LU_KIVI_RECENT : 0;
}

#endif

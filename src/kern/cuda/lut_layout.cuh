/* lut_layout.cuh - sizes of the packed layout, shared by packing and multiplying. */
#ifndef LU_KERN_CUDA_LUT_LAYOUT_CUH
#define LU_KERN_CUDA_LUT_LAYOUT_CUH

#include <stddef.h>
#include <stdint.h>

struct lut_shape {
    int64_t n_rb, n_kt;  /* stages down and across: 64 x 64 blocks */
    int slot_bits;       /* bits a code takes: 2, 3, 4 or 8 */
    int64_t group_cols;  /* columns per packed scale: 32 or a multiple of 64 */
    int64_t n_groups;    /* packed scales per row */
    size_t word_bytes, scale_bytes; /* multiples of 128 */
};

/* Scales are kept per group where the group is a multiple of 64 columns, else one per 32 columns
   (repeated); a whole-row group is one scale. */
static inline lut_shape lut_make_shape(int64_t n, int64_t k, int bits, int64_t group_size)
{
    lut_shape s;
    s.n_rb = (n + 63) / 64;
    s.n_kt = (k + 63) / 64;
    s.slot_bits = bits <= 4 ? bits : 8;
    s.group_cols = group_size == k ? s.n_kt * 64 : group_size % 64 == 0 ? group_size : 32;
    s.n_groups = (s.n_kt * 64 + s.group_cols - 1) / s.group_cols;
    s.word_bytes = (size_t)(s.n_rb * s.n_kt) * 64 * 64 * (size_t)s.slot_bits / 8;
    s.scale_bytes = (size_t)(s.n_rb * s.n_groups) * 128;
    return s;
}

#endif

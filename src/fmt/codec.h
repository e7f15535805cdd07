/* codec.h - the one encoder and decoder: floats to codes, scales and zero points, and back. They
   define what a format means; every fast kernel is checked against them. */
#ifndef LU_FMT_CODEC_H
#define LU_FMT_CODEC_H

#include "base/status.h"
#include "lutra/format.h"

/* Bit streams of one row (lutra/format.h): n codes of `bits` bits. Bytes past the last code are
   not touched except to zero its padding bits. */
void lu_codes_pack(const uint8_t *codes, int64_t n, int bits, uint8_t *out);
void lu_codes_unpack(const uint8_t *in, int64_t n, int bits, uint8_t *codes);
static inline int lu_code_at(const uint8_t *row, int64_t i, int bits)
{
    const uint64_t bit = (uint64_t)i * (uint64_t)bits;
    const unsigned shift = (unsigned)(bit & 7);
    unsigned v = row[bit >> 3];
    if (shift + (unsigned)bits > 8)
        v |= (unsigned)row[(bit >> 3) + 1] << 8;
    return (int)((v >> shift) & ((1u << bits) - 1));
}

/* Encodes one row of k float32 to nearest. Scales are rounded to f->scale_dtype first and the
   codes chosen for the rounded scale. A value midway between two table entries takes the lower
   code's... see codec.c. All-zero groups get scale 0 and the code of the value nearest 0.
   Returns the column of the first NaN or infinity, or -1. scales: groups elements of scale_dtype;
   zeros: groups codes, or NULL when symmetric. */
int64_t lu_encode_row(const lutra_format *f, const float *w, int64_t k, uint8_t *codes_packed,
                      void *scales, uint8_t *zeros);
void lu_decode_row(const lutra_format *f, const uint8_t *codes_packed, const void *scales,
                   const uint8_t *zeros, int64_t k, float *out);

#endif

/* lut_layout.cuh - the packed layout of one weight matrix, shared by packing and multiplying.

   Brick = 16 rows (a strip) x 128 columns = the A operands of eight mma.m16n8k16 steps j. Lane
   (g = lane / 4, t = lane % 4) holds the pairs p = 4 j + i:
     row g + 8 (i & 1),  columns 32 (j / 2) + 8 t + 4 (j & 1) + 2 (i / 2) + {0, 1}
   so that the activations a lane needs of 32 columns are 16 consecutive bytes. A pair is a field of
   2 b bits, low code first, and wherever possible a byte of its own: one byte permute then makes a
   table address of it. A lane's words of a brick:
     b = 4   word j: field i in byte i
     b = 3   words 3 h + q (h = j / 4): field i of step 4 h + q in the low 6 bits of byte i; the top
             2 bits of byte i over q = 0, 1, 2 are field i of step 4 h + 3
     b = 2   word j / 2: byte 2 (j & 1) + h holds fields h (low nibble) and h + 2
     b = 8   (codes of 5..8 bits) words 2 j, 2 j + 1: 16 bits a field
   Bricks lie [strip][brick]; in a brick vectors of 4 words (b = 3: 4, then 2) lie [vector][lane].
   Scales of a strip: [entry][g][q] pairs (row g, row g + 8); an entry is one group of a multiple of
   128 columns (q = 0), or the 2 groups of 64 or 4 groups of 32 columns of one brick. */
#ifndef LU_KERN_CUDA_LUT_LAYOUT_CUH
#define LU_KERN_CUDA_LUT_LAYOUT_CUH

#include <stddef.h>
#include <stdint.h>

struct lut_shape {
    int64_t n_strips, n_bricks; /* down and across */
    int slot_bits;              /* bits a code takes: 2, 3, 4 or 8 */
    int parts;                  /* scales per brick: 1, 2, 4; 0 = codes and scales stay canonical */
    int64_t n_entries;          /* scale entries per strip */
    int64_t bricks_per_entry;
    size_t word_bytes, scale_bytes; /* multiples of 128 */
};

static inline size_t lut_round_up(size_t v)
{
    return (v + 127) / 128 * 128;
}

static inline lut_shape lut_make_shape(int64_t n, int64_t k, int bits, int64_t group_size)
{
    lut_shape s;
    s.n_strips = (n + 15) / 16;
    s.n_bricks = (k + 127) / 128;
    s.slot_bits = bits <= 4 ? bits : 8;
    s.parts = group_size == k || group_size % 128 == 0 ? 1 : group_size % 64 == 0 ? 2 : group_size % 32 == 0 ? 4 : 0;
    s.bricks_per_entry = group_size == k ? s.n_bricks : s.parts == 1 ? group_size / 128 : 1;
    s.n_entries = (s.n_bricks + s.bricks_per_entry - 1) / s.bricks_per_entry;
    if (s.parts) {
        s.word_bytes = (size_t)(s.n_strips * s.n_bricks) * 256 * (size_t)s.slot_bits;
        s.scale_bytes = lut_round_up((size_t)(s.n_strips * s.n_entries) * 32 * (size_t)s.parts);
    } else {
        s.word_bytes = lut_round_up((size_t)n * (size_t)((k * bits + 7) / 8));
        s.scale_bytes = lut_round_up((size_t)n * (size_t)(k / group_size) * 2);
    }
    return s;
}

#endif

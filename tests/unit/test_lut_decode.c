/* test_lut_decode.c - codes to weights in registers as the GPU does it (kern/cuda/lut_decode.h), on
   stand-ins in plain C for the instructions: every width and type, bit for bit against the table,
   with the pairs where the turned activations expect them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fmt/codebook.h"
#include "kern/cuda/lut_decode.h"
#include "tensor/convert.h"

/* --- instructions ----------------------------------------------------------------------------- */

uint32_t lut_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    const uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> (4 * i) & 15;
        assert_true(s < 8); /* the fourth bit would copy a sign */
        v |= (uint32_t)(bytes >> (8 * s) & 255) << (8 * i);
    }
    return v;
}

uint32_t lut_and_or(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }

/* Demands that nothing is rounded, so that how the GPU rounds does not matter. */
uint32_t lut_fma2(int bf16, uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t v = 0;
    for (int h = 0; h < 32; h += 16) {
        const double x = lut_value((uint16_t)(a >> h), bf16),
                     y = lut_value((uint16_t)(b >> h), bf16),
                     z = lut_value((uint16_t)(c >> h), bf16), r = x * y + z;
        const uint16_t half = bf16 ? lu_f32_to_bf16((float)r) : lu_f32_to_f16((float)r);
        assert_true(lut_value(half, bf16) == r);
        v |= (uint32_t)half << h;
    }
    return v;
}

/* --- a lane's part of a brick ------------------------------------------------------------------
 */

static uint64_t seed = 11;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

typedef struct {
    unsigned code[2][32]; /* rows g and g + 8, the lane's columns: 8 of each 32 */
    uint32_t word[16];
} lane_part;

static unsigned field(const lane_part *p, int slot, int j, int i)
{
    const unsigned *c = p->code[i & 1] + 4 * j + 2 * (i >> 1);
    return c[0] | c[1] << slot;
}

/* The words, as lut_layout.cuh describes them. */
static void pack(lane_part *p, int slot)
{
    memset(p->word, 0, sizeof p->word);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) {
            const uint32_t f = field(p, slot, j, i);
            if (slot == 4) {
                p->word[j] |= f << (8 * i);
            } else if (slot == 8) {
                p->word[2 * j + i / 2] |= f << (16 * (i & 1));
            } else if (slot == 2) {
                p->word[j / 2] |= f << (8 * (2 * (j & 1) + (i & 1)) + 4 * (i >> 1));
            } else if (j % 4 < 3) {
                p->word[3 * (j / 4) + j % 4] |= f << (8 * i);
            } else {
                for (int q = 0; q < 3; q++)
                    p->word[3 * (j / 4) + q] |= (f >> (2 * q) & 3) << (8 * i + 6);
            }
        }
}

static void check_part(const lane_part *p, int slot, int bf16, const lu_cuda_decoder *d,
                       const uint16_t *table)
{
    for (int j = 0; j < 8; j++) {
        uint32_t a[4], x[4]; /* x: numbers of columns */
        lut_decode_arithmetic(slot, bf16, d, p->word, j, a);
        for (unsigned c = 0; c < 4; c++)
            x[c] = (unsigned)(j / 2) * 8 + 2 * c + (((unsigned)(j / 2) * 8 + 2 * c + 1) << 16);
        if (lut_turned(slot, LU_CUDA_ARITHMETIC))
            lut_turn_x(slot, x);
        for (int i = 0; i < 4; i++) {
            const uint32_t pair = x[2 * (j & 1) + (i >> 1)];
            const unsigned *row = p->code[i & 1];
            const uint32_t expected = table[row[pair & 65535]] | (uint32_t)table[row[pair >> 16]]
                                                                     << 16;
            assert_int_equal(a[i], expected);
        }
    }
}

/* Every pair of codes in every place, among random others. */
static void check_arithmetic(int bits, int bf16, const uint16_t *table)
{
    const int slot = bits > 4 ? 8 : bits;
    lu_cuda_decoder d;
    assert_true(lut_prepare(LU_CUDA_ARITHMETIC, bits, bf16, table, &d));
    for (int turn = 0; turn < 400; turn++) {
        lane_part p;
        for (int r = 0; r < 2; r++)
            for (int c = 0; c < 32; c++)
                p.code[r][c] = random_bits() >> (32 - bits);
        pack(&p, slot);
        check_part(&p, slot, bf16, &d, table);
    }
    for (unsigned pair = 0; pair < 1u << (2 * bits); pair++) {
        lane_part p;
        for (int r = 0; r < 2; r++)
            for (int c = 0; c < 32; c++)
                p.code[r][c] = (c & 1 ? pair >> bits : pair) & ((1u << bits) - 1);
        pack(&p, slot);
        check_part(&p, slot, bf16, &d, table);
    }
}

static void to_act(const float *from, int n, int bf16, uint16_t *to)
{
    for (int i = 0; i < n; i++)
        to[i] = bf16 ? lu_f32_to_bf16(from[i]) : lu_f32_to_f16(from[i]);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void arithmetic_gives_integers(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 8; bits++)
        for (int kind = 0; kind < 4; kind++) {
            char name[8] = "int0";
            float values[256] = {0};
            uint16_t table[256] = {0};
            lu_cuda_decoder d;
            name[3] = (char)('0' + bits);
            lu_codebook_table(lu_codebook_find(name), kind & 1, values);
            to_act(values, 1 << bits, kind >> 1, table);
            if (kind >> 1 && bits == 8)
                assert_false(
                    lut_prepare(LU_CUDA_ARITHMETIC, bits, 1, table, &d)); /* bf16 holds 7 bits */
            else
                check_arithmetic(bits, kind >> 1, table);
        }
}

/* Steps and bases of all sizes: taken only if exact, and then right. */
static void arithmetic_takes_steps_that_are_exact(void **state)
{
    int taken = 0, refused = 0;
    (void)state;
    for (int turn = 0; turn < 3000; turn++) {
        const int bits = 2 + (int)(random_bits() >> 8) % 4, bf16 = turn & 1;
        const double step =
                         ldexp((double)(random_bits() >> 29) - 3, (int)(random_bits() >> 28) - 10),
                     base =
                         ldexp((double)(random_bits() >> 28) - 7, (int)(random_bits() >> 28) - 10);
        float values[32] = {0};
        uint16_t table[32] = {0};
        lu_cuda_decoder d;
        for (int q = 0; q < 1 << bits; q++)
            values[q] = (float)(base + step * q);
        to_act(values, 1 << bits, bf16, table);
        if (lut_prepare(LU_CUDA_ARITHMETIC, bits, bf16, table, &d)) {
            taken++;
            if (taken <= 300)
                check_arithmetic(bits, bf16, table);
        } else {
            refused++;
        }
    }
    assert_true(taken > 100 && refused > 100);
}

static void arithmetic_refuses_other_tables(void **state)
{
    static const char *const names[] = {"nf4", "nf3", "nf2", "lm4", "lm3", "lm2", "fp4", "fp3"};
    (void)state;
    lu_cuda_decoder d;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const lu_codebook *c = lu_codebook_find(names[i]);
        float values[16] = {0};
        uint16_t table[16] = {0};
        lu_codebook_table(c, false, values);
        for (int bf16 = 0; bf16 < 2; bf16++) {
            to_act(values, 1 << c->bits, bf16, table);
            assert_false(lut_prepare(LU_CUDA_ARITHMETIC, c->bits, bf16, table, &d));
        }
    }
    for (int q = 0; q < 16; q++) { /* a bit away from integers */
        float values[16] = {0};
        uint16_t table[16] = {0};
        lu_codebook_table(lu_codebook_find("int4"), false, values);
        to_act(values, 16, 0, table);
        assert_true(lut_prepare(LU_CUDA_ARITHMETIC, 4, 0, table, &d));
        table[q] ^= 1;
        assert_false(lut_prepare(LU_CUDA_ARITHMETIC, 4, 0, table, &d));
    }
    const uint16_t infinite[4] = {0x7c00, 0x7c00, 0x7c00, 0x7c00},
                   nan[4] = {0x7e00, 0x7e00, 0x7e00, 0x7e00};
    assert_false(lut_prepare(LU_CUDA_ARITHMETIC, 2, 0, infinite, &d));
    assert_false(lut_prepare(LU_CUDA_ARITHMETIC, 2, 0, nan, &d));
}

static void a_table_is_always_known(void **state)
{
    const uint16_t table[256] = {0};
    lu_cuda_decoder d;
    (void)state;
    assert_true(lut_prepare(LU_CUDA_TABLE, 8, 0, table, &d));
    assert_false(lut_prepare(LU_CUDA_WAYS, 4, 0, table, &d));
}

/* The kernel divides small numbers by up to 16 with a multiplication. */
static void reciprocals_divide(void **state)
{
    (void)state;
    for (unsigned d = 1; d <= 16; d++)
        for (unsigned v = 0; v <= LUT_DIVIDED; v++)
            assert_int_equal(v * lut_reciprocal((int)d) >> 16, v / d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arithmetic_gives_integers),
        cmocka_unit_test(arithmetic_takes_steps_that_are_exact),
        cmocka_unit_test(arithmetic_refuses_other_tables),
        cmocka_unit_test(a_table_is_always_known),
        cmocka_unit_test(reciprocals_divide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* cuda_peers.c - what other kernels reached, for comparison. Measured on one H200 (132 SMs,
   CUDA 13.0) on 2026-11-22 with the method of cuda_measure.h: fp16 activations, group 128, the sum
   of the four layers of a block in microseconds. Marlin, CUTLASS (the best of 16 configurations)
   and FLUTE (its best template) as their projects shipped them then. */
#include "cuda_roofline.h"

#include <string.h>

enum { COUNTS = 11 };
static const int tokens[COUNTS] = {1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096};
static const struct {
    const char *kernel, *block;
    int bits;
    int us[COUNTS];
} peers[] = {
    {"cuBLAS fp16", "8B", 16, {117, 116, 118, 120, 123, 126, 137, 198, 340, 694, 2639}},
    {"Marlin", "8B", 4, {65, 65, 65, 66, 95, 132, 185, 323, 614, 1251, 5059}},
    {"CUTLASS mixed-input", "8B", 4, {91, 85, 85, 85, 91, 105, 123, 186, 327, 639, 2708}},
    {"FLUTE", "8B", 4, {103, 103, 103, 103, 166, 305, 581, 1141, 2257, 5131, 20343}},
    {"FLUTE", "8B", 3, {90, 90, 90, 91, 143, 252, 470, 906, 1783, 3538, 14067}},
    {"FLUTE", "8B", 2, {80, 80, 80, 80, 129, 227, 421, 808, 1582, 3132, 12443}},
    {"ggml q4_0 (int8 activations)",
     "8B",
     4,
     {62, 83, 130, 153, 181, 240, 369, 659, 1142, 2208, 8529}},
    {"GemLite", "8B", 4, {70, 148, 148, 151, 177, 175, 380, 564, 863, 1704, 7209}},
    {"cuBLAS fp16", "70B", 16, {419, 418, 420, 421, 442, 437, 478, 751, 1451, 2689, 10488}},
    {"Marlin", "70B", 4, {171, 170, 174, 181, 237, 348, 625, 1228, 2425, 4856, 19572}},
    {"CUTLASS mixed-input", "70B", 4, {232, 210, 210, 209, 240, 293, 361, 646, 1158, 2493, 10368}},
    {"FLUTE", "70B", 4, {345, 345, 346, 345, 575, 1126, 2231, 4435, 8849, 20012, 79851}},
    {"FLUTE", "70B", 3, {268, 268, 268, 270, 467, 900, 1766, 3504, 6977, 13938, 55563}},
    {"FLUTE", "70B", 2, {253, 253, 253, 254, 420, 801, 1575, 3109, 6178, 12333, 49158}},
    {"ggml q4_0 (int8 activations)",
     "70B",
     4,
     {180, 262, 431, 483, 570, 769, 1191, 2152, 4251, 8298, 33147}},
};
enum { PEERS = sizeof peers / sizeof *peers };

/* Weights of a block's four layers, and activations in and out of them per token. */
static const struct {
    const char *block;
    double weights, activations;
} sizes[] = {{"8B", 218103808, 69632}, {"70B", 855638016, 137216}};

int cf_peers(const cf_row **rows)
{
    static cf_row all[PEERS * COUNTS];
    for (int i = 0; i < PEERS; i++)
        for (int j = 0; j < COUNTS; j++) {
            const int s = strcmp(peers[i].block, sizes[0].block) != 0, bits = peers[i].bits;
            cf_row *r = &all[i * COUNTS + j];
            *r = (cf_row){.part = "peers",
                          .name = peers[i].block,
                          .kernel = peers[i].kernel,
                          .bits = bits,
                          .group = bits < 16 ? 128 : 0,
                          .m = tokens[j],
                          .sum = peers[i].us[j]};
            r->bytes = sizes[s].weights * (bits < 16 ? bits / 8.0 + 2.0 / 128 : 2) +
                       2 * sizes[s].activations * tokens[j];
            r->flops = 2 * sizes[s].weights * tokens[j];
        }
    *rows = all;
    return PEERS * COUNTS;
}

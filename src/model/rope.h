/* rope.h - rotary position embedding: what the config asks for and the angles of a position.

   inv_freq[i] = theta^(-2i/d), i in [0, d/2), in float32 as Hugging Face computes it, then scaled
   by the rope type; the angle of position p is the float32 product p * inv_freq[i]. */
#ifndef LU_MODEL_ROPE_H
#define LU_MODEL_ROPE_H

#include <jansson.h>

#include "base/status.h"

typedef enum lu_rope_type {
    LU_ROPE_DEFAULT,
    LU_ROPE_LINEAR,
    LU_ROPE_LLAMA3,
    LU_N_ROPE_TYPES
} lu_rope_type;

typedef struct lu_rope {
    lu_rope_type type;
    double theta;
    double factor;                                              /* linear, llama3 */
    double low_freq_factor, high_freq_factor, original_context; /* llama3 */
} lu_rope;

/* Layers of two kinds may rotate differently ("rope_parameters" keyed by layer type). */
typedef enum lu_attention_kind { LU_ATTN_FULL, LU_ATTN_SLIDING, LU_N_ATTN_KINDS } lu_attention_kind;

/* Reads rope_parameters, or the older rope_theta and rope_scaling. E_UNSUPPORTED names the type and
   the supported ones; E_FORMAT a missing or senseless number. */
lutra_status lu_rope_read(const char *what, json_t *config, double default_theta,
                          lu_rope out[LU_N_ATTN_KINDS], lutra_err *err);

/* Fills inv_freq[head_dim / 2]. */
void lu_rope_frequencies(const lu_rope *r, int64_t head_dim, float *inv_freq);

/* cos and sin [head_dim / 2] of one position. */
void lu_rope_angles(const float *inv_freq, int64_t head_dim, int64_t position, float *cosines,
                    float *sines);

#endif

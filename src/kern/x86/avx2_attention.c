/* avx2_attention.c - attention_impl.h compiled for AVX2. Exports its fill function only. */
#include "kern/x86/attention_impl.h"

void lu_fill_avx2_attention(lu_ops *ops) { ops->attend = attend; }

/* avx512_attention.c - attention_impl.h compiled for AVX-512. Exports its fill function only. */
#include "kern/x86/attention_impl.h"

void lu_fill_avx512_attention(lu_ops *ops) { ops->attend = attend; }

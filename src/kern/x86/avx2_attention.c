/* avx2_attention.c - attention for AVX2: attention_impl.h on vec_avx2.h. Exports its fill function
   only. */
#include <stdbool.h>
#include <string.h>

#include "kern/attend_scratch.h"
#include "kern/levels.h"
#include "kern/x86/vec_avx2.h"

#include "kern/x86/vec_math.h"

#include "kern/x86/attention_impl.h"

void lu_fill_avx2_attention(lu_ops *ops) { ops->attend = attend; }

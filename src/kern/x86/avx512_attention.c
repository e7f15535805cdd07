/* avx512_attention.c - attention for AVX-512: attention_impl.h on vec_avx512.h. Exports its fill
   function only. */
#include <stdbool.h>
#include <string.h>

#include "kern/attend_scratch.h"
#include "kern/levels.h"
#include "kern/x86/vec_avx512.h"

#include "kern/x86/vec_math.h"

#include "kern/x86/attention_impl.h"

void lu_fill_avx512_attention(lu_ops *ops) { ops->attend = attend; }

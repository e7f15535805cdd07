/* avx2_encode.c - the row encoder for AVX2. */
#include "kern/x86/encode_impl.h"

void lu_fill_avx2_encode(lu_encoder *e) { choose(e); }

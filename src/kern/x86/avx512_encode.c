/* avx512_encode.c - the row encoder for AVX-512. */
#include "kern/x86/encode_impl.h"

void lu_fill_avx512_encode(lu_encoder *e) { choose(e); }

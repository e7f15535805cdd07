/* vec.h - the vector operations of the widest instruction set this file is compiled for. */
#ifndef LU_KERN_X86_VEC_H
#define LU_KERN_X86_VEC_H

#if defined(__AVX512F__)
#include "kern/x86/vec_avx512.h"
#else
#include "kern/x86/vec_avx2.h"
#endif

#endif

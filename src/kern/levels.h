/* levels.h - the fill functions that table.c calls, lowest level first. Each overwrites the slots
   its file implements and needs the CPU features of its level only when a slot is called. */
#ifndef LU_KERN_LEVELS_H
#define LU_KERN_LEVELS_H

#include "kern/ops.h"

void lu_fill_ref_convert(lu_ops *ops);
void lu_fill_ref_rows(lu_ops *ops);
void lu_fill_ref_reduce(lu_ops *ops);
void lu_fill_ref_attention(lu_ops *ops);
void lu_fill_ref_act(lu_ops *ops);

#if defined(__x86_64__)
void lu_fill_avx2_rows(lu_ops *ops);
void lu_fill_avx2_attention(lu_ops *ops);
void lu_fill_avx512_rows(lu_ops *ops);
void lu_fill_avx512_attention(lu_ops *ops);
#endif

#endif

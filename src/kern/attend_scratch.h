/* attend_scratch.h - the sizes attention blocks by; shared by lu_attend_scratch and the kernels.

   A call works on LU_ATTEND_ROWS (query, head) rows against LU_ATTEND_KEYS keys at a time. Key
   blocks start at multiples of LU_ATTEND_KEYS of the absolute position, never relative to the
   query: that is what makes a query's arithmetic the same in every batch. */
#ifndef LU_KERN_ATTEND_SCRATCH_H
#define LU_KERN_ATTEND_SCRATCH_H

#define LU_ATTEND_ROWS 64
#define LU_ATTEND_KEYS 64
#define LU_ATTEND_TILE 4 /* rows multiplied together */
#define LU_ATTEND_MAX_LANES 16

#endif

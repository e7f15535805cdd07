/* codebook.h - the built-in codebooks as rows of one table. A new number format is a row here and
   nothing else: kernels are chosen by bits, never by name. */
#ifndef LU_FMT_CODEBOOK_H
#define LU_FMT_CODEBOOK_H

#include "lutra/format.h"

typedef struct lu_codebook {
    const char *name;
    const char *help;
    int bits;
    bool integer;        /* values are consecutive integers; may be asymmetric */
    const float *values; /* 2^bits, ascending; NULL for integers: -2^(bits-1) .. 2^(bits-1)-1 */
    float absmax_ref;    /* symmetric: the value that the largest weight of a group gets */
    bool learned;        /* each matrix has its own table; learning starts at values / absmax_ref */
} lu_codebook;

const lu_codebook *lu_codebook_find(const char *name); /* NULL if unknown */

/* Writes the table: symmetric as documented above; asymmetric integers are 0 .. 2^bits-1. */
void lu_codebook_table(const lu_codebook *c, bool zero_point, float *table);

#endif

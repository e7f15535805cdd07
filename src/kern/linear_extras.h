/* linear_extras.h - what some coded weights have beside codes and scales (linear.h): tables per
   block of rows, groups that are no runs of columns, outlier columns. They lie behind the packed
   units, each part 64-byte aligned:

       tables            [blocks][2^bits] float32
       order             [k] int32
       counters          [groups] int32, of the sort by group
       outlier columns   [outliers] int32, then their packed columns
       outlier weights   [units][outliers][unit_rows] float32 */
#ifndef LU_KERN_LINEAR_EXTRAS_H
#define LU_KERN_LINEAR_EXTRAS_H

#include "kern/linear.h"

/* E_ARG for extras that do not fit the weight. */
lutra_status lu_extras_check(const lu_weight *w, lutra_err *err);

/* Adds their bytes to l->packed_bytes, after the units; false if that overflows. */
bool lu_extras_plan(lu_linear *l, const lu_weight *w);

/* Fills the parts that all units share. l->packed is set. */
void lu_extras_attach(lu_linear *l, const lu_weight *w);
/* Packs the outlier weights of units [unit0, unit1). */
void lu_extras_pack(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1);

/* True if a run takes a changed copy of x. */
bool lu_extras_change_x(const lu_linear *l);
/* out [rows][k] = rows of x in the order of the packed columns, outliers 0. */
void lu_extras_x(const lu_linear *l, const void *x, int64_t ldx, int64_t rows, void *out);
/* Adds the outliers' share to the columns of y that a->unit0, a->unit1 name. */
void lu_extras_add(const lu_linear *l, const lu_linear_args *a);

/* lu_weight_row for a weight with extras. */
void lu_extras_row(const lu_weight *w, int64_t row, float *out);

#endif

/* bind_coded.h - the tensors of one coded module to a lu_weight, checked against the scheme that
   quantization_config gives it (docs/formats.md). */
#ifndef LU_MODEL_BIND_CODED_H
#define LU_MODEL_BIND_CODED_H

#include "io/checkpoint.h"
#include "kern/linear.h"

/* A tensor by name, of this shape. E_FORMAT naming it, what was found and what was expected. */
lutra_status lu_bind_tensor(const lutra_checkpoint *files, const char *name, int rank,
                            const int64_t *shape, const lutra_tensor **out, lutra_err *err);
lutra_status lu_bind_wrong_dtype(const lutra_checkpoint *files, const char *name,
                                 lutra_dtype found, const char *want, lutra_err *err);

/* w->n and w->k are given; the rest is filled, and how the module's input is rounded (bits 0: not).
   Nothing is owned. Every number that a kernel would take as an index is checked here. */
lutra_status lu_bind_coded(const lutra_checkpoint *files, const char *module, const lu_scheme *s,
                           lu_weight *w, lu_act_quant *input, lutra_err *err);

#endif

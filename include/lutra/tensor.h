/* lutra/tensor.h - element types and a borrowed view of a dense tensor.
   Tensors are dense, row-major (last index fastest), little-endian, as in safetensors. */
#ifndef LUTRA_TENSOR_H
#define LUTRA_TENSOR_H

#include "lutra/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every element type once: enum name, safetensors name, bits. */
#define LUTRA_DTYPE_LIST(X)                                                                       \
    X(LUTRA_F32, "F32", 32)                                                                       \
    X(LUTRA_F16, "F16", 16)                                                                       \
    X(LUTRA_BF16, "BF16", 16)                                                                     \
    X(LUTRA_F64, "F64", 64)                                                                       \
    X(LUTRA_F8_E4M3, "F8_E4M3", 8)                                                                \
    X(LUTRA_F8_E5M2, "F8_E5M2", 8)                                                                \
    X(LUTRA_F8_E8M0, "F8_E8M0", 8)                                                                \
    X(LUTRA_I8, "I8", 8)                                                                          \
    X(LUTRA_U8, "U8", 8)                                                                          \
    X(LUTRA_I16, "I16", 16)                                                                       \
    X(LUTRA_U16, "U16", 16)                                                                       \
    X(LUTRA_I32, "I32", 32)                                                                       \
    X(LUTRA_U32, "U32", 32)                                                                       \
    X(LUTRA_I64, "I64", 64)                                                                       \
    X(LUTRA_U64, "U64", 64)                                                                       \
    X(LUTRA_BOOL, "BOOL", 8)

typedef enum lutra_dtype {
    LUTRA_DTYPE_NONE = 0,
#define LUTRA_DTYPE_ENUM(name, text, bits) name,
    LUTRA_DTYPE_LIST(LUTRA_DTYPE_ENUM)
#undef LUTRA_DTYPE_ENUM
} lutra_dtype;

LUTRA_API const char *lutra_dtype_name(lutra_dtype t);    /* safetensors name; "?" if unknown */
LUTRA_API size_t lutra_dtype_bytes(lutra_dtype t);        /* 0 for LUTRA_DTYPE_NONE */
LUTRA_API lutra_dtype lutra_dtype_parse(const char *name); /* safetensors or "bfloat16" style;
                                                              LUTRA_DTYPE_NONE if unknown */

#define LUTRA_MAX_RANK 8

/* A view: nothing is owned. shape[0..rank), rank 0 is a scalar. */
typedef struct lutra_tensor {
    lutra_dtype dtype;
    int rank;
    int64_t shape[LUTRA_MAX_RANK];
    const void *data;
    size_t bytes; /* product(shape) * lutra_dtype_bytes(dtype) */
} lutra_tensor;

#ifdef __cplusplus
}
#endif
#endif

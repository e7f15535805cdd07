/* ops.c - the list of checks, one for every op of kern/ops.h: an op without a check does not
   build; and the kernels with interfaces of their own. */
#include "checkkernel.h"

const ck_op ck_op_list[] = {
#define ROW(name, args) {#name, ck_check_##name},
    LU_OPS_LIST(ROW)
#undef ROW
        {"logsumexp", ck_check_logsumexp},
    {"argmax", ck_check_argmax},
    {"linear", ck_check_linear}, /* kern/linear.h */
    {"int8", ck_check_int8},     /* kern/linear_int8.h */
    {"encode", ck_check_encode}, /* kern/encode.h */
    {NULL, NULL},
};

/* ops.c - the list of checks, one for every op of kern/ops.h: an op without a check does not
   build. */
#include "checkkernel.h"

const ck_op ck_op_list[] = {
#define ROW(name, args) {#name, ck_check_##name},
    LU_OPS_LIST(ROW)
#undef ROW
    {"logsumexp", ck_check_logsumexp},
    {"argmax", ck_check_argmax},
    {NULL, NULL},
};

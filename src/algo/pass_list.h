/* pass_list.h - every pass, once; passes.c makes the list of them. */
#ifndef LU_ALGO_PASS_LIST_H
#define LU_ALGO_PASS_LIST_H

#include "algo/pass.h"

/* One line per pass, transforms first. */
/* clang-format off */
#define LU_PASS_LIST(X) \
    X(smoothquant) \
    X(osplus) \
    X(awq) \
    X(clip) \
    X(range) \
    X(gptq) \
    X(hqq) \
    X(llmint8) \
    X(rtn)
/* clang-format on */

#define LU_PASS_DECLARE(name) extern const lu_pass lu_pass_##name;
LU_PASS_LIST(LU_PASS_DECLARE)
#undef LU_PASS_DECLARE

#endif

/* alloc_sweep.h - runs an operation with each of its allocations failing in turn. */
#ifndef TESTS_SUPPORT_ALLOC_SWEEP_H
#define TESTS_SUPPORT_ALLOC_SWEEP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"

/* Calls attempt, which tries the operation, releases what it gave and returns its status, with the
   first allocation failing, then the second, and so on until one is never reached. Every failure
   must be reported as E_NOMEM, the last run must succeed. Leaks are the sanitizer's to find.
   Returns how many allocations a whole run makes. */
static inline int64_t fail_each_allocation(lutra_status (*attempt)(void *arg), void *arg)
{
    for (int64_t n = 1;; n++) {
        lu_mem_fail_at(n, false);
        const lutra_status status = attempt(arg);
        const bool reached = lu_mem_count() >= n;
        lu_mem_fail_at(0, false);
        assert_int_equal(status, reached ? LUTRA_E_NOMEM : LUTRA_OK);
        if (!reached)
            return n - 1;
    }
}

#endif

/* test_base.c - errors, memory faults, the thread pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/context.h"
#include "base/mem.h"
#include "support/alloc_sweep.h"

static void a_prefix_goes_before_the_message(void **state)
{
    (void)state;
    lutra_err err;
    lu_fail(&err, LUTRA_E_FORMAT, "bad thing %d", 7);
    assert_int_equal(lu_fail_prefix(&err, LUTRA_E_FORMAT, "file %s", "x"), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "file x: bad thing 7");
}

static void a_long_message_is_cut_and_terminated(void **state)
{
    (void)state;
    lutra_err err;
    char text[2000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lu_fail(&err, LUTRA_E_IO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    lu_fail_prefix(&err, LUTRA_E_IO, "%s", text);
    assert_true(strlen(err.msg) < sizeof err.msg);
}

static void a_message_is_one_printable_line(void **state)
{
    (void)state;
    lutra_err err;
    lu_fail(&err, LUTRA_E_FORMAT, "tensor '%s': bad", "a\nb\x1b[2J\x7f\xc2\x9b" "1m\tz\xc3\xa9\xc2\xa0");
    assert_string_equal(err.msg, "tensor 'a?b?[2J???1m?z\xc3\xa9\xc2\xa0': bad");
    lu_fail_prefix(&err, LUTRA_E_FORMAT, "file %s", "x\r\n");
    assert_string_equal(err.msg, "file x??: tensor 'a?b?[2J???1m?z\xc3\xa9\xc2\xa0': bad");
}

static void the_chosen_allocation_fails(void **state)
{
    (void)state;
    lu_mem_fail_at(2, false);
    void *a = lu_alloc(8), *b = lu_alloc(8), *c = lu_alloc(8);
    lu_mem_fail_at(0, false);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    lu_free(a);
    lu_free(c);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    assert_null(lu_calloc(SIZE_MAX / 2, 4));
    assert_null(lu_array(SIZE_MAX, SIZE_MAX));
    assert_null(lu_alloc_aligned(SIZE_MAX - 8));
}

static void aligned_blocks_are_aligned(void **state)
{
    (void)state;
    for (size_t n = 0; n < 200; n += 13) {
        char *p = lu_alloc_aligned(n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, 1, n);
        lu_free_aligned(p);
    }
}

static void mark(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        ((uint8_t *)arg)[i]++;
}

static void every_index_is_run_once_for_any_pool_and_grain(void **state)
{
    (void)state;
    static uint8_t seen[1000];
    for (int threads = 1; threads <= 5; threads++) {
        lu_pool *pool;
        assert_int_equal(lu_pool_open(threads, &pool, NULL), LUTRA_OK);
        for (int round = 0; round < 200; round++) {
            const int64_t n = (round * 37) % 1000;
            memset(seen, 0, sizeof seen);
            lu_pool_for(pool, n, 1 + round % 7, mark, seen);
            for (int64_t i = 0; i < 1000; i++)
                assert_int_equal(seen[i], i < n);
        }
        lu_pool_close(pool);
    }
}

static void a_context_refuses_a_negative_thread_count(void **state)
{
    (void)state;
    lutra_options o;
    lutra_err err;
    lutra_ctx *ctx = NULL;
    lutra_options_init(&o);
    o.n_threads = -1;
    assert_int_equal(lutra_open(&o, &ctx, &err), LUTRA_E_ARG);
    assert_null(ctx);
}

static lutra_status open_and_close(void *options)
{
    lutra_ctx *ctx = NULL;
    const lutra_status status = lutra_open(options, &ctx, NULL);
    lutra_close(ctx);
    return status;
}

static void opening_a_context_survives_every_failed_allocation(void **state)
{
    (void)state;
    lutra_options o;
    lutra_options_init(&o);
    o.n_threads = 3;
    assert_true(fail_each_allocation(open_and_close, &o) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prefix_goes_before_the_message),
        cmocka_unit_test(a_long_message_is_cut_and_terminated),
        cmocka_unit_test(a_message_is_one_printable_line),
        cmocka_unit_test(the_chosen_allocation_fails),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(aligned_blocks_are_aligned),
        cmocka_unit_test(every_index_is_run_once_for_any_pool_and_grain),
        cmocka_unit_test(a_context_refuses_a_negative_thread_count),
        cmocka_unit_test(opening_a_context_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_cli_progress.c - the progress line: share, rate, ETA and width, for a terminal and a log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli.h"

static const lutra_progress event = {.stage = "quantize",
                                     .item = "model.layers.0.mlp",
                                     .unit = "bytes",
                                     .done = 3000000000,
                                     .total = 4000000000};

static void shows_share_rate_and_time_left(void **state)
{
    (void)state;
    char line[256];
    const progress p = {.terminal = true, .began = 100, .base = 1000000000};
    /* 2 GB moved in 4 s, since 1 GB was done before; 1 GB is left */
    progress_line(&p, &event, 104, 120, line, sizeof line);
    assert_string_equal(line, "quantize [###############-----]  75% 3.00 GB/4.00 GB 500.0 MB/s ETA "
                              "0:02 model.layers.0.mlp");
    const progress log = {.began = 100, .base = 1000000000};
    progress_line(&log, &event, 104, 120, line, sizeof line);
    assert_string_equal(line,
                        "quantize  75% 3.00 GB/4.00 GB 500.0 MB/s ETA 0:02 model.layers.0.mlp");
}

static void says_no_rate_from_nothing(void **state)
{
    (void)state;
    char line[256];
    const progress p = {.began = 100};
    const lutra_progress windows = {.stage = "eval", .unit = "windows", .done = 2, .total = 8};
    progress_line(&p, &windows, 100.1, 120, line, sizeof line);
    assert_string_equal(line, "eval  25% 2/8 windows");
    const lutra_progress unknown = {.stage = "read", .unit = "bytes", .done = 2048};
    progress_line(&p, &unknown, 100.1, 120, line, sizeof line);
    assert_string_equal(line, "read 2.05 kB");
}

static void never_is_wider_than_the_terminal(void **state)
{
    (void)state;
    const progress p = {.terminal = true, .began = 100};
    for (int width = 1; width < 130; width++) {
        char line[256];
        progress_line(&p, &event, 104, width, line, sizeof line);
        assert_true(strlen(line) <= (size_t)width);
    }
    char small[16];
    progress_line(&p, &event, 104, 200, small, sizeof small);
    assert_true(strlen(small) < sizeof small);
}

static void sizes_and_times_read_well(void **state)
{
    (void)state;
    char buf[32];
    assert_string_equal(human_bytes(0, buf, sizeof buf), "0 B");
    assert_string_equal(human_bytes(999, buf, sizeof buf), "999 B");
    assert_string_equal(human_bytes(1000, buf, sizeof buf), "1.00 kB");
    assert_string_equal(human_bytes(12345678, buf, sizeof buf), "12.3 MB");
    assert_string_equal(human_bytes(999990000, buf, sizeof buf), "1.00 GB");
    assert_string_equal(human_time(0.4, buf, sizeof buf), "0:00");
    assert_string_equal(human_time(75, buf, sizeof buf), "1:15");
    assert_string_equal(human_time(3723, buf, sizeof buf), "1:02:03");
    assert_string_equal(human_time(1e12, buf, sizeof buf), "--:--");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_share_rate_and_time_left),
        cmocka_unit_test(says_no_rate_from_nothing),
        cmocka_unit_test(never_is_wider_than_the_terminal),
        cmocka_unit_test(sizes_and_times_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

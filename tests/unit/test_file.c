/* test_file.c - maps, whole reads, atomic writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "support/synthetic_checkpoint.h"

static char folder[SYN_PATH], path[SYN_PATH + 8];

static int make_folder(void **state)
{
    (void)state;
    syn_temp(folder);
    snprintf(path, sizeof path, "%s/f", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    syn_delete(folder);
    return 0;
}

static int files_in_folder(void)
{
    DIR *d = opendir(folder);
    int n = -2; /* . and .. */
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void what_is_written_is_read_and_mapped(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 300000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s];
        char *data = malloc(n + 1), *back;
        for (size_t i = 0; i < n; i++)
            data[i] = (char)(i * 7 + i / 251);
        assert_int_equal(lu_file_write(path, data, n, NULL), LUTRA_OK);
        assert_int_equal(files_in_folder(), 1); /* no temporary left */
        size_t size = 99;
        assert_int_equal(lu_file_read(path, n, &back, &size, NULL), LUTRA_OK);
        assert_int_equal(size, n);
        assert_memory_equal(back, data, n);
        assert_int_equal(back[n], 0);
        lu_free(back);
        lu_map map;
        assert_int_equal(lu_map_open(path, &map, NULL), LUTRA_OK);
        assert_int_equal(map.size, n);
        assert_int_equal(map.data == NULL, n == 0);
        if (n)
            assert_memory_equal(map.data, data, n);
        lu_map_close(&map);
        assert_null(map.data);
        free(data);
    }
}

static void a_file_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    char *back = NULL;
    size_t size;
    lutra_err err;
    assert_int_equal(lu_file_write(path, "12345", 5, NULL), LUTRA_OK);
    assert_int_equal(lu_file_read(path, 4, &back, &size, &err), LUTRA_E_LIMIT);
    assert_non_null(strstr(err.msg, path));
    assert_null(back);
    assert_int_equal(lu_file_read("/dev/zero", 100000, &back, &size, &err), LUTRA_E_LIMIT);
}

static void files_of_unknown_size_are_read_to_their_end(void **state)
{
    (void)state;
    char *back;
    size_t size;
    assert_int_equal(lu_file_read("/proc/self/maps", 1 << 20, &back, &size, NULL), LUTRA_OK);
    assert_true(size > 0 && strlen(back) == size);
    lu_free(back);
}

static void replacing_keeps_the_old_file_until_the_new_one_is_whole(void **state)
{
    (void)state;
    assert_int_equal(lu_file_write(path, "old", 3, NULL), LUTRA_OK);
    const int old = open(path, O_RDONLY); /* a reader of the old file goes on reading it */
    assert_int_equal(lu_file_write(path, "newer", 5, NULL), LUTRA_OK);
    char text[8] = {0};
    assert_int_equal(read(old, text, sizeof text), 3);
    assert_string_equal(text, "old");
    close(old);
    lutra_err err;
    char missing[160];
    snprintf(missing, sizeof missing, "%s/no/f", folder);
    assert_int_equal(lu_file_write(missing, "x", 1, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, missing));
}

static void a_full_disk_is_said_so(void **state)
{
    (void)state;
    const int fd = open("/dev/full", O_WRONLY);
    if (fd < 0)
        skip();
    lutra_err err;
    assert_int_equal(lu_write_at(fd, "/dev/full", "x", 1, 0, &err), LUTRA_E_NOSPACE);
    close(fd);
}

static void writing_at_an_offset_leaves_the_rest(void **state)
{
    (void)state;
    assert_int_equal(lu_file_write(path, "abcdef", 6, NULL), LUTRA_OK);
    const int fd = open(path, O_WRONLY);
    assert_int_equal(lu_write_at(fd, path, "XY", 2, 2, NULL), LUTRA_OK);
    assert_int_equal(lu_write_at(fd, path, "x", 1, UINT64_MAX, NULL), LUTRA_E_LIMIT);
    close(fd);
    char *back;
    size_t size;
    assert_int_equal(lu_file_read(path, 100, &back, &size, NULL), LUTRA_OK);
    assert_string_equal(back, "abXYef");
    lu_free(back);
}

static void missing_files_and_folders_are_named(void **state)
{
    (void)state;
    lu_map map;
    char *back;
    size_t size;
    lutra_err err;
    assert_int_equal(lu_map_open("no/such", &map, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, "no/such: cannot open"));
    assert_int_equal(lu_map_open(folder, &map, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, "folder"));
    assert_int_equal(lu_file_read(folder, 10, &back, &size, &err), LUTRA_E_IO);
    assert_int_equal(lu_map_open("/dev/null", &map, &err), LUTRA_E_IO);
}

static void paths_join_with_one_slash(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "", "a/"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *p = lu_path_join(cases[i][0], cases[i][1]);
        assert_string_equal(p, cases[i][2]);
        lu_free(p);
    }
    assert_string_equal(lu_path_base("a/b/c"), "c");
    assert_string_equal(lu_path_base("c"), "c");
    assert_true(lu_path_is_dir(folder) && lu_path_exists(folder));
    assert_false(lu_path_exists("no/such"));
    char loop[SYN_PATH + 8]; /* there, though it cannot be followed */
    snprintf(loop, sizeof loop, "%s/loop", folder);
    assert_int_equal(symlink("loop", loop), 0);
    assert_true(lu_path_exists(loop));
    assert_int_equal(unlink(loop), 0);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 4; n++) {
        char *back = NULL;
        size_t size;
        lu_mem_fail_at(n, false);
        lutra_status status = lu_file_write(path, "abc", 3, NULL);
        if (status == LUTRA_OK)
            status = lu_file_read(path, 100, &back, &size, NULL);
        lu_mem_fail_at(0, false);
        assert_true(status == LUTRA_OK || status == LUTRA_E_NOMEM);
        assert_int_equal(status == LUTRA_OK, back != NULL);
        lu_free(back);
        assert_true(files_in_folder() <= 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_and_mapped),
        cmocka_unit_test(a_file_beyond_the_limit_is_refused),
        cmocka_unit_test(files_of_unknown_size_are_read_to_their_end),
        cmocka_unit_test(replacing_keeps_the_old_file_until_the_new_one_is_whole),
        cmocka_unit_test(a_full_disk_is_said_so),
        cmocka_unit_test(writing_at_an_offset_leaves_the_rest),
        cmocka_unit_test(missing_files_and_folders_are_named),
        cmocka_unit_test(paths_join_with_one_slash),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

/* test_quantize_crash.c - killed runs and full disks: the output appears whole or not at all, and
   the next run continues to the same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "calib/quantize.h"
#include "lutra/lutra.h"
#include "support/synthetic_checkpoint.h"

#define MODEL "models/llama-8m"
#define BATCH ((int64_t)256 << 10) /* small: many records in the journal */

static lutra_status quantize(const char *out, lutra_options *options, lutra_quantize_report *r,
                             lutra_err *err)
{
    lutra_ctx *ctx;
    lutra_quantize_options o;
    lutra_quantize_options_init(&o);
    options->n_threads = 2;
    assert_int_equal(lutra_open(options, &ctx, NULL), LUTRA_OK);
    const lutra_status status = lu_quantize_in_batches(ctx, MODEL, out, &o, BATCH, r, err);
    lutra_close(ctx);
    return status;
}

static void quantize_fully(const char *out, lutra_quantize_report *r)
{
    lutra_options options;
    lutra_err err;
    lutra_options_init(&options);
    if (quantize(out, &options, r, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
}

static void die_at(void *user, const lutra_progress *p)
{
    int *left = user;
    (void)p;
    if (--*left == 0)
        raise(SIGKILL);
}

/* A child that quantizes to out. It kills itself at the n-th report of progress, or, with n = 0, is
   killed after some microseconds. */
static void run_killed(const char *out, int n, unsigned microseconds)
{
    int status;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        lutra_options options;
        lutra_options_init(&options);
        options.user = &n;
        options.progress = n ? die_at : NULL;
        _exit(quantize(out, &options, NULL, NULL) == LUTRA_OK ? 0 : 1);
    }
    if (n == 0) {
        usleep(microseconds);
        kill(child, SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status))
        assert_int_equal(WEXITSTATUS(status), 0); /* it was faster */
}

static void a_killed_run_resumes_to_the_same_bytes(void **state)
{
    (void)state;
    char root[SYN_PATH], whole[SYN_PATH + 16], out[SYN_PATH + 16];
    lutra_quantize_report full, r;
    uint32_t seed = 20240;
    int resumed = 0;
    syn_temp(root);
    snprintf(whole, sizeof whole, "%s/whole", root);
    snprintf(out, sizeof out, "%s/out", root);
    quantize_fully(whole, &full);
    const double microseconds = 1e6 * full.seconds;
    for (int round = 0; round < 20; round++) {
        const float x = syn_random(&seed) + 0.5f;
        run_killed(out, round % 2 ? 0 : 1 + (int)(60 * x), (unsigned)(1.2 * x * microseconds));
        if (round % 5 == 0 && !lu_path_exists(out)) /* twice in a row */
            run_killed(out, 3, 0);
        if (!lu_path_exists(out)) {
            quantize_fully(out, &r);
            resumed += r.resumed_tensors > 0;
            assert_true(r.sqnr_db == full.sqnr_db);
        }
        assert_true(syn_same_folder(whole, out));
        syn_delete(out);
    }
    assert_true(resumed >= 5); /* else the kills did not test much */
    syn_delete(root);
}

static void a_limit_on_file_sizes_leaves_no_output(void **state)
{
    (void)state;
    char root[SYN_PATH], out[SYN_PATH + 16];
    int status;
    syn_temp(root);
    snprintf(out, sizeof out, "%s/out", root);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit limit = {2 << 20, 2 << 20};
        lutra_options options;
        lutra_options_init(&options);
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
            _exit(2);
        _exit(quantize(out, &options, NULL, NULL) == LUTRA_E_IO ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_false(lu_path_exists(out));
    quantize_fully(out, NULL); /* without the limit it goes on */
    assert_true(lu_path_exists(out));
    syn_delete(root);
}

/* Fills the disk once the run has begun, so that the check before it has passed. */
static void fill_disk(void *user, const lutra_progress *p)
{
    char *path = user;
    (void)p;
    if (lu_path_exists(path))
        return;
    FILE *f = fopen(path, "wb");
    static const char block[1 << 16] = {1};
    while (f && fwrite(block, sizeof block, 1, f) == 1)
        continue;
    if (f)
        fclose(f);
}

static void a_full_disk_leaves_no_output_and_is_mended_by_room(void **state)
{
    (void)state;
    char root[SYN_PATH], disk[SYN_PATH + 16], out[SYN_PATH + 32], filler[SYN_PATH + 32],
        whole[SYN_PATH + 16];
    lutra_options options;
    lutra_err err;
    syn_temp(root);
    snprintf(disk, sizeof disk, "%s/disk", root);
    snprintf(out, sizeof out, "%s/out", disk);
    snprintf(filler, sizeof filler, "%s/filler", disk);
    snprintf(whole, sizeof whole, "%s/whole", root);
    assert_int_equal(mkdir(disk, 0777), 0);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=4m") != 0) {
        syn_delete(root);
        skip(); /* only root may mount */
    }
    lutra_options_init(&options);
    assert_int_equal(quantize(out, &options, NULL, &err), LUTRA_E_NOSPACE);
    assert_non_null(strstr(err.msg, "MB more"));
    assert_false(lu_path_exists(out));
    umount(disk);

    assert_int_equal(mount("tmpfs", disk, "tmpfs", 0, "size=12m"), 0);
    options.user = filler;
    options.progress = fill_disk;
    const lutra_status status = quantize(out, &options, NULL, &err);
    const bool exists = lu_path_exists(out);
    unlink(filler);
    quantize_fully(out, NULL);
    quantize_fully(whole, NULL);
    const bool same = syn_same_folder(out, whole);
    umount(disk);
    assert_int_equal(status, LUTRA_E_NOSPACE);
    assert_non_null(strstr(err.msg, "make room and run again"));
    assert_false(exists);
    assert_true(same);
    syn_delete(root);
}

static void two_runs_do_not_write_one_output(void **state)
{
    (void)state;
    char root[SYN_PATH], out[SYN_PATH + 16], partial[SYN_PATH + 32];
    lutra_options options;
    lutra_err err;
    syn_temp(root);
    snprintf(out, sizeof out, "%s/out", root);
    snprintf(partial, sizeof partial, "%s.partial", out);
    assert_int_equal(mkdir(partial, 0777), 0);
    const int fd = open(partial, O_RDONLY | O_DIRECTORY); /* as a run holds it */
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    lutra_options_init(&options);
    assert_int_equal(quantize(out, &options, NULL, &err), LUTRA_E_EXISTS);
    assert_non_null(strstr(err.msg, "another run is writing"));
    close(fd);
    quantize_fully(out, NULL);
    syn_delete(root);
}

/* Makes the folder `user` with a file in it, once the run has begun. */
static void make_output(void *user, const lutra_progress *p)
{
    (void)p;
    if (mkdir(user, 0777) == 0)
        syn_text(user, "mine", "not to be lost");
}

static void an_output_that_appears_during_the_run_is_kept(void **state)
{
    (void)state;
    char root[SYN_PATH], out[SYN_PATH + 16], mine[SYN_PATH + 32];
    lutra_options options;
    lutra_err err;
    syn_temp(root);
    snprintf(out, sizeof out, "%s/out", root);
    snprintf(mine, sizeof mine, "%s/mine", out);
    lutra_options_init(&options);
    options.user = out;
    options.progress = make_output;
    assert_int_equal(quantize(out, &options, NULL, &err), LUTRA_E_EXISTS);
    assert_non_null(strstr(err.msg, "has appeared during the run"));
    assert_true(lu_path_exists(mine));
    syn_delete(out);
    quantize_fully(out, NULL); /* the work was not lost either */
    assert_false(lu_path_exists(mine));
    syn_delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_run_resumes_to_the_same_bytes),
        cmocka_unit_test(a_limit_on_file_sizes_leaves_no_output),
        cmocka_unit_test(a_full_disk_leaves_no_output_and_is_mended_by_room),
        cmocka_unit_test(two_runs_do_not_write_one_output),
        cmocka_unit_test(an_output_that_appears_during_the_run_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

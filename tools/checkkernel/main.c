/* main.c - checkkernel: checks every kernel of every CPU level this machine has, or times them.
   One line per op and level, then a count; the exit status is 1 if anything failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkkernel.h"

typedef struct {
    const char *cpu, *device, *op;
    bool bench, json;
    uint64_t seed;
} options;

static const char USAGE[] =
    "usage: checkkernel [--cpu LEVEL | --device cuda] [--op NAME] [--seed N] [--bench] [--json]\n"
    "  --cpu LEVEL  ref, avx2 or avx512; default: all this machine has\n"
    "  --device cuda  the GPU's kernels, by the program check_cuda_ops beside this one\n"
    "  --op NAME    ops whose name contains NAME\n"
    "  --seed N     seed of the random inputs, default 1\n"
    "  --bench      time instead of check\n"
    "  --json       one JSON object a line\n"
    "exit status: 0 all passed, 1 a check failed, 2 bad usage, 77 level not on this machine\n";

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--bench") == 0)
            o->bench = true;
        else if (strcmp(a, "--json") == 0)
            o->json = true;
        else if (strcmp(a, "--cpu") == 0 && value)
            o->cpu = argv[++i];
        else if (strcmp(a, "--device") == 0 && value)
            o->device = argv[++i];
        else if (strcmp(a, "--op") == 0 && value)
            o->op = argv[++i];
        else if (strcmp(a, "--seed") == 0 && value)
            o->seed = strtoull(argv[++i], NULL, 0);
        else
            return false;
    }
    return true;
}

static void print_result(const options *o, const ck_op *op, lu_level level, const ck_report *r)
{
    const char *verdict = r->failed ? "FAIL" : "ok";
    if (o->json)
        printf("{\"op\":\"%s\",\"level\":\"%s\",\"verdict\":\"%s\",\"cases\":%lld}\n", op->name,
               lu_level_name(level), verdict, (long long)r->n_cases);
    else
        printf("%-6s %-12s %-4s %6lld cases", lu_level_name(level), op->name, verdict,
               (long long)r->n_cases);
    if (!o->json && r->failed)
        printf("  at %s: %s", r->at, r->message);
    if (!o->json)
        printf("\n");
    else if (r->failed)
        fprintf(stderr, "checkkernel: %s %s at %s: %s\n", lu_level_name(level), op->name, r->at,
                r->message);
}

static int check_level(const options *o, lu_level level, int *n_run)
{
    int n_failed = 0;
    const ck_subject subject = ck_subject_of(level);
    for (const ck_op *op = ck_op_list; op->name; op++) {
        ck_report r;
        if (o->op && !strstr(op->name, o->op))
            continue;
        ck_run(op, &subject, o->seed, &r);
        print_result(o, op, level, &r);
        n_failed += r.failed;
        ++*n_run;
    }
    return n_failed;
}

/* The GPU's checks link CUDA, which most builds of this program can do without. Returns on failure
 * only. */
static int check_gpu(const char *self, const options *o)
{
    char path[4096];
    const char *slash = strrchr(self, '/');
    snprintf(path, sizeof path, "%.*scheck_cuda_ops", slash ? (int)(slash - self + 1) : 0, self);
    execlp(path, path, o->bench ? "time" : "check", o->op, (char *)NULL);
    fprintf(stderr, "checkkernel: cannot run %s: build it with --target check_cuda_ops\n", path);
    return 77;
}

int main(int argc, char **argv)
{
    options o = {.seed = 1};
    if (!parse(argc, argv, &o) || (o.device && (strcmp(o.device, "cuda") != 0 || o.cpu))) {
        fputs(USAGE, stderr);
        return 2;
    }
    if (o.device)
        return check_gpu(argv[0], &o);
    lu_level first = LU_LEVEL_REF, last = lu_level_best();
    lutra_err err;
    if (o.cpu) {
        const lutra_status status = lu_level_parse(o.cpu, &first, &err);
        if (status != LUTRA_OK) {
            fprintf(stderr, "checkkernel: %s\n", err.msg);
            return status == LUTRA_E_UNSUPPORTED ? 77 : 2;
        }
        last = first;
    }
    int n_run = 0, n_failed = 0;
    for (int level = (int)first; level <= (int)last; level++) {
        lu_ops ops;
        lu_ops_fill(&ops, (lu_level)level);
        if (o.bench)
            n_run += ck_bench(&ops, (lu_level)level, o.op, o.json);
        else
            n_failed += check_level(&o, (lu_level)level, &n_run);
    }
    if (n_run == 0) {
        fprintf(stderr, "checkkernel: no op is called like \"%s\"\n", o.op);
        return 2;
    }
    if (!o.bench && !o.json)
        printf("%d of %d passed\n", n_run - n_failed, n_run);
    return n_failed > 0;
}

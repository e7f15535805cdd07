/* gpu_emulated.c - gpu.h in plain C (gpu_emulated.h). */
#include "support/gpu_emulated.h"

#include <stdlib.h>
#include <string.h>

#include "support/gpu_emulated_ops.h"

#define E_NOMEM 2
#define E_PLANTED 3
#define HEADER 64 /* before a block: its size */

gpu_emulated_state gpu_emulated_now;

void gpu_emulated_reset(void) { gpu_emulated_now = (gpu_emulated_state){.memory = 1 << 30}; }

/* --- recording -------------------------------------------------------------------------------- */

typedef struct {
    gpu_emulated_runner run;
    void *args;
} call;

typedef struct {
    call *calls;
    size_t n, room;
} graph;

static graph *recording;
static graph queued;      /* of a late GPU */
static size_t queue_done; /* calls of it that were run */

static void keep(graph *g, gpu_emulated_runner run, const void *args, size_t bytes)
{
    if (g->n == g->room) {
        g->room = g->room * 2 + 64;
        g->calls = realloc(g->calls, g->room * sizeof *g->calls);
    }
    call *c = &g->calls[g->n++];
    c->run = run;
    c->args = malloc(bytes);
    memcpy(c->args, args, bytes);
}

/* Runs what is queued, up to the n-th call since the start. */
static int catch_up(size_t n)
{
    int e = 0;
    for (; queue_done < n && queue_done < queued.n; queue_done++) {
        call *c = &queued.calls[queue_done];
        e = e ? e : c->run(c->args);
        free(c->args);
    }
    return e;
}

static int catch_up_all(void)
{
    const int e = catch_up(queued.n);
    free(queued.calls);
    queued = (graph){NULL, 0, 0};
    queue_done = 0;
    return e;
}

void gpu_emulated_flush(void) { catch_up_all(); }

int gpu_emulated_queue(gpu_emulated_runner run, const void *args, size_t bytes)
{
    if (gpu_emulated_now.fail_at && --gpu_emulated_now.fail_at == 0)
        return E_PLANTED;
    if (recording)
        keep(recording, run, args, bytes);
    else if (gpu_emulated_now.late)
        keep(&queued, run, args, bytes);
    else
        return run(args);
    return 0;
}

static int capture_begin(lu_gpu *g)
{
    (void)g;
    recording = calloc(1, sizeof *recording);
    return recording ? 0 : E_NOMEM;
}

static int capture_end(lu_gpu *g, void **out)
{
    (void)g;
    *out = recording;
    recording = NULL;
    gpu_emulated_now.recorded++;
    return 0;
}

static int launch(lu_gpu *g, void *p)
{
    const graph *recorded = p;
    (void)g;
    catch_up_all();
    gpu_emulated_now.launches++;
    for (size_t i = 0; i < recorded->n; i++) {
        const int e = recorded->calls[i].run(recorded->calls[i].args);
        if (e)
            return e;
    }
    return 0;
}

static void graph_close(lu_gpu *g, void *p)
{
    graph *recorded = p;
    (void)g;
    if (!recorded)
        return;
    for (size_t i = 0; i < recorded->n; i++)
        free(recorded->calls[i].args);
    free(recorded->calls);
    free(recorded);
}

/* --- memory and copies ------------------------------------------------------------------------ */

static lutra_status count(int *n, lutra_err *err)
{
    (void)err;
    *n = 2;
    return LUTRA_OK;
}

static lutra_status info(int ordinal, lu_gpu_info *out, lutra_err *err)
{
    (void)ordinal, (void)err;
    *out = (lu_gpu_info){.name = "emulated GPU",
                         .capability = 90,
                         .memory = (int64_t)gpu_emulated_now.memory,
                         .driver = 13000};
    return LUTRA_OK;
}

static lutra_status open_gpu(lu_gpu *g, lutra_err *err)
{
    (void)err;
    g->worth = 0; /* all work that may come here comes */
    g->chip = (lu_cuda_device){.sm_count = 1, .capability = 90, .shared_bytes = 1 << 17};
    return LUTRA_OK;
}

static void close_gpu(lu_gpu *g)
{
    (void)g;
    catch_up_all();
}

static int use(lu_gpu *g) { return g->api != gpu_emulated(); }

static int free_memory(lu_gpu *g, size_t *bytes)
{
    (void)g;
    *bytes = gpu_emulated_now.memory - gpu_emulated_now.taken;
    return 0;
}

static int take(lu_gpu *g, size_t bytes, void **out)
{
    uint8_t *p = bytes <= gpu_emulated_now.memory - gpu_emulated_now.taken
                     ? aligned_alloc(HEADER, (bytes + 2 * HEADER - 1) / HEADER * HEADER)
                     : NULL;
    if (!p)
        return E_NOMEM;
    memset(p, 0xff, bytes + HEADER); /* NaN in all types: what nobody wrote must not matter */
    memcpy(p, &bytes, sizeof bytes);
    gpu_emulated_now.taken += bytes;
    *out = p + HEADER;
    lu_gpu_note_free(g);
    return 0;
}

static void give(lu_gpu *g, void *p)
{
    size_t bytes;
    (void)g;
    if (!p)
        return;
    catch_up_all();
    memcpy(&bytes, (uint8_t *)p - HEADER, sizeof bytes);
    gpu_emulated_now.taken -= bytes;
    free((uint8_t *)p - HEADER);
}

static int take_host(lu_gpu *g, size_t bytes, void **out)
{
    (void)g;
    *out = malloc(bytes);
    return *out ? 0 : E_NOMEM;
}

static void give_host(lu_gpu *g, void *p)
{
    (void)g;
    catch_up_all();
    free(p);
}

/* Copies from and to the host are not recorded by CUDA graphs as the engine uses them. */
static int move(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    (void)g;
    if (recording)
        return E_PLANTED;
    catch_up_all();
    memcpy(to, from, bytes);
    return 0;
}

typedef struct {
    void *to;
    const void *from;
    size_t bytes;
} transfer;

static int run_transfer(const void *args)
{
    const transfer *t = args;
    memcpy(t->to, t->from, t->bytes);
    return 0;
}

/* Only queued. */
static int move_later(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    const transfer t = {to, from, bytes};
    if (!gpu_emulated_now.late)
        return move(g, to, from, bytes);
    keep(&queued, run_transfer, &t, sizeof t);
    return 0;
}

static int zero(lu_gpu *g, void *to, size_t bytes)
{
    (void)g;
    catch_up_all();
    memset(to, 0, bytes);
    return 0;
}

static int mark_open(lu_gpu *g, void **mark)
{
    (void)g;
    *mark = calloc(1, sizeof(size_t)); /* how much of the queue is ahead */
    return *mark ? 0 : E_NOMEM;
}

static void mark_close(lu_gpu *g, void *mark)
{
    (void)g;
    free(mark);
}

static int mark(lu_gpu *g, void *m)
{
    (void)g;
    memcpy(m, &queued.n, sizeof queued.n);
    return 0;
}

static int wait_mark(lu_gpu *g, void *m)
{
    size_t n;
    (void)g;
    memcpy(&n, m, sizeof n);
    return catch_up(n);
}

static int sync(lu_gpu *g)
{
    (void)g;
    return catch_up_all();
}

static const char *error_text(int error, bool *nomem, bool *unsupported)
{
    *nomem = error == E_NOMEM;
    *unsupported = false;
    return error == E_NOMEM ? "out of memory" : "a planted fault";
}

const lu_gpu_api *gpu_emulated(void)
{
#define KERNEL(name, result, args) .name = emulated_##name,
    static const lu_gpu_api api = {
        .name = "cuda",
        .graphs = true,
        .count = count,
        .info = info,
        .open = open_gpu,
        .close = close_gpu,
        .use = use,
        .free_memory = free_memory,
        .take = take,
        .give = give,
        .take_host = take_host,
        .give_host = give_host,
        .upload = move,
        .download = move,
        .send = move_later,
        .fetch = move_later,
        .copy = move,
        .zero = zero,
        .mark_open = mark_open,
        .mark_close = mark_close,
        .mark = mark,
        .wait = wait_mark,
        .sync = sync,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .launch = launch,
        .graph_close = graph_close,
        .dense = gpu_emulated_dense,
        .gemm = gpu_emulated_gemm,
        .int8 = gpu_emulated_int8,
        LU_GPU_KERNELS(KERNEL).error_text = error_text,
    };
#undef KERNEL
    return &api;
}

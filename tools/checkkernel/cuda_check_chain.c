/* cuda_check_chain.c - a chain of operations as a decoder step has them, captured into a graph and
   replayed: the bits must be those of the same calls made one by one with a wait after each. So a
   kernel that reads before the one ahead has written, or a counter that is not put back, shows. */
#include <cuda_runtime_api.h>
#include <stdlib.h>

#include "cuda_check.h"
#include "kern/cuda/cuda_ops.h"

enum {
    ROWS = 5,
    HEADS = 8,
    KV_HEADS = 2,
    HEAD_DIM = 128,
    PAGE = 16,
    PAGES = 40,
    CONTEXT = 600,
    STEPS = 6,
    REPLAYS = 300
};
enum { QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM, OUT = HEADS * HEAD_DIM, POSITIONS = PAGES * PAGE };

typedef struct {
    float *x, *y; /* residual streams of QKV and OUT columns */
    const float *x0, *y0, *norm, *angles;
    uint16_t *in, *out, *in2, *mid, *cache;
    const uint16_t *branch, *cache0;
    size_t cache_bytes;
    lu_cuda_attend_args attend;
} chain;

static int pause_if(int wait, int status)
{
    return status ? status : wait ? (int)cudaDeviceSynchronize() : 0;
}

/* From the same start every time. */
static int run(const chain *c, int wait, cudaStream_t stream)
{
    int s = (int)cudaMemcpyAsync(c->x, c->x0, sizeof(float) * ROWS * QKV, cudaMemcpyDeviceToDevice,
                                 stream);
    s = s ? s
          : (int)cudaMemcpyAsync(c->y, c->y0, sizeof(float) * ROWS * OUT, cudaMemcpyDeviceToDevice,
                                 stream);
    s = s ? s
          : (int)cudaMemcpyAsync(c->cache, c->cache0, c->cache_bytes, cudaMemcpyDeviceToDevice,
                                 stream);
    for (int i = 0; i < STEPS && !s; i++) {
        const lu_cuda_seam_args before = {.n = ROWS,
                                          .cols = QKV,
                                          .x = c->x,
                                          .branch = c->branch,
                                          .in_norm = c->norm,
                                          .eps = 1e-5f,
                                          .in = c->in,
                                          .stream = stream};
        const lu_cuda_seam_args after = {.n = ROWS,
                                         .cols = OUT,
                                         .x = c->y,
                                         .branch = c->out,
                                         .out_norm = c->norm,
                                         .in_norm = c->norm,
                                         .eps = 1e-5f,
                                         .in = c->in2,
                                         .stream = stream};
        lu_cuda_attend_args a = c->attend;
        a.layer = i & 1;
        a.stream = stream;
        s = pause_if(wait, lu_cuda_seam(&before));
        s = s ? s
              : pause_if(wait, lu_cuda_rope_attend_decode(&a, c->angles,
                                                          c->angles + POSITIONS * HEAD_DIM / 2));
        s = s ? s : pause_if(wait, lu_cuda_seam(&after));
        s = s ? s : pause_if(wait, lu_cuda_act_mul(ROWS, OUT / 2, c->in2, 0, 0, c->mid, stream));
        s = s ? s
              : pause_if(wait, lu_cuda_moe_gather(ROWS, OUT / 2, c->attend.rows.sequence, c->mid,
                                                  c->out, stream));
        s = s ? s : pause_if(wait, lu_cuda_act_mul(ROWS, OUT / 4, c->out, 1, 0, c->in, stream));
    }
    return s;
}

static void check_chain(cc *t)
{
    cc_case(t, "chain");
    chain c = {.cache_bytes = (size_t)(2 * 2 * ROWS * PAGES * KV_HEADS * PAGE * HEAD_DIM) * 2};
    int32_t sequence[ROWS], position[ROWS], pages[ROWS * PAGES];
    for (int i = 0; i < ROWS; i++) {
        sequence[i] = (i + 2) % ROWS;
        position[i] = CONTEXT - 1 - i * 130;
    }
    for (int i = 0; i < ROWS * PAGES; i++)
        pages[i] = ROWS * PAGES - 1 - i;
    c.x0 = cc_input(t, cc_random_float(t, ROWS * QKV, -1, 1), sizeof(float) * ROWS * QKV);
    c.y0 = cc_input(t, cc_random_float(t, ROWS * OUT, -1, 1), sizeof(float) * ROWS * OUT);
    c.norm = cc_input(t, cc_random_float(t, QKV, 0.5, 1.5), sizeof(float) * QKV);
    c.angles = cc_input(t, cc_random_float(t, POSITIONS * HEAD_DIM, -1, 1),
                        sizeof(float) * POSITIONS * HEAD_DIM);
    c.branch = cc_input(t, cc_random_act(t, ROWS * QKV, 1.0, 0), 2 * ROWS * QKV);
    c.cache0 = cc_input(t, cc_random_act(t, (int64_t)c.cache_bytes / 2, 1.0, 0), c.cache_bytes);
    c.x = cc_output(t, sizeof(float) * ROWS * QKV);
    c.y = cc_output(t, sizeof(float) * ROWS * OUT);
    c.cache = cc_output(t, c.cache_bytes);
    c.in = cc_output(t, 2 * ROWS * QKV);
    c.out = cc_output(t, 2 * ROWS * OUT);
    c.in2 = cc_output(t, 2 * ROWS * OUT);
    c.mid = cc_output(t, ROWS * OUT);
    const size_t scratch = lu_cuda_attend_scratch(ROWS, HEADS, HEAD_DIM, POSITIONS);
    c.attend = (lu_cuda_attend_args){.rows = {ROWS, cc_input(t, sequence, sizeof sequence),
                                              cc_input(t, position, sizeof position)},
                                     .q = c.in,
                                     .ld = QKV,
                                     .n_heads = HEADS,
                                     .kv = {c.cache, ROWS * PAGES, PAGE, KV_HEADS, HEAD_DIM,
                                            cc_input(t, pages, sizeof pages), PAGES},
                                     .scale = 0.1f,
                                     .out = c.out,
                                     .max_position = POSITIONS,
                                     .scratch = cc_fresh(t, cc_host(scratch), scratch)};
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cc_status(t, (int)cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cc_status(t, run(&c, 1, stream));
    void *y = cc_output(t, sizeof(float) * ROWS * OUT), *cache = cc_output(t, c.cache_bytes);
    cc_status(t, (int)cudaMemcpy(y, c.y, sizeof(float) * ROWS * OUT, cudaMemcpyDeviceToDevice));
    cc_status(t, (int)cudaMemcpy(cache, c.cache, c.cache_bytes, cudaMemcpyDeviceToDevice));
    cc_status(t, run(&c, 0, stream));
    cc_status(t, (int)cudaStreamSynchronize(stream));
    cc_same_bits(t, "y, in a stream", c.y, y, sizeof(float) * ROWS * OUT);
    cc_status(t, (int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cc_status(t, run(&c, 0, stream));
    cc_status(t, (int)cudaStreamEndCapture(stream, &graph));
    cc_status(t, (int)cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < REPLAYS && !t->n_failed; i++) {
        cc_status(t, (int)cudaGraphLaunch(exec, stream));
        cc_status(t, (int)cudaStreamSynchronize(stream));
        cc_same_bits(t, "y, in a graph", c.y, y, sizeof(float) * ROWS * OUT);
        if (i % 100 == 0)
            cc_same_bits(t, "cache, in a graph", c.cache, cache, c.cache_bytes);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    cc_end(t);
}

const cc_op cc_chain_ops[] = {{"graph", check_chain}, {NULL, NULL}};

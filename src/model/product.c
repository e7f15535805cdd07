/* product.c - matrix products of a pass. Decoding one token is bound by reading weights and by the
   threads meeting between loops, so linears that share their input run as one loop over the units
   of all of them: q|k|v, gate|up, and the experts of a layer. A unit writes its own columns only.
 */
#include "base/context.h"
#include "model/step.h"

/* Below this many multiply-adds a loop is cheaper than waking the threads. */
#define INLINE_WORK 32768
/* Chunks per thread: enough to even out threads, few enough that taking one costs nothing. */
#define CHUNKS_PER_THREAD 8

typedef struct {
    lu_forward *f;
    const lu_product *products;
    int64_t n;
} products_job;

static void run_units(void *arg, int64_t begin, int64_t end, int worker)
{
    const products_job *job = arg;
    void *scratch = job->f->scratch + (size_t)worker * job->f->scratch_bytes;
    for (int64_t i = 0; i < job->n; i++) {
        const lu_product *p = &job->products[i];
        const int64_t first = p->first_unit, last = first + p->linear->n_units;
        if (!p->rows || begin >= last || end <= first)
            continue;
        const int64_t u0 = begin > first ? begin - first : 0;
        const int64_t u1 = (end < last ? end : last) - first;
        const lu_linear_args a = {.x = p->x,
                                  .ldx = lu_linear_x_stride(p->linear),
                                  .M = p->rows,
                                  .y = p->y,
                                  .ldy = p->linear->n,
                                  .unit0 = u0,
                                  .unit1 = u1,
                                  .scratch = scratch};
        lu_linear_run(p->linear, &a);
    }
}

void lu_run_products(lu_forward *f, lu_product *products, int64_t n)
{
    lu_pool *pool = f->model->ctx->pool;
    int64_t units = 0, work = 0;
    if (f->model->rounds_inputs)
        lu_round_inputs(f, products, n);
    for (int64_t i = 0; i < n; i++) {
        products[i].first_unit = units;
        if (products[i].rows)
            units += products[i].linear->n_units;
        work += products[i].rows * products[i].linear->n * products[i].linear->k;
    }
    const int64_t chunks = (int64_t)lu_pool_size(pool) * CHUNKS_PER_THREAD;
    const int64_t grain = work < INLINE_WORK ? units : (units + chunks - 1) / chunks;
    products_job job = {.f = f, .products = products, .n = n};
    lu_pool_for(pool, units, grain, run_units, &job);
}

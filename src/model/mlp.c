/* mlp.c - the feed-forward branch of a block: down(act(gate(x)) * up(x)), either one for all rows
   or a choice of experts per row (Mixtral).

   Experts: the router's scores pass a softmax over all experts; a row takes its n_active largest
   (lower index on ties), their weights scaled to sum 1. Rows are gathered by expert, so that each
   expert multiplies its rows at once:

       rows 0 1 2, experts {0,2} {2,3} {0,3}  ─▶  gathered: 0:[r0 r2] 2:[r0 r1] 3:[r1 r2]

   A row's sum runs over its experts in ascending order whatever else is in the batch. */
#include <string.h>

#include "base/context.h"
#include "model/step.h"

static void activate_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const lu_forward *f = arg;
    const lu_model_config *c = &f->model->config;
    const lu_ops *ops = &f->model->ops;
    const int64_t cols = c->intermediate_size;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        float *gate = f->gate + r * cols;
        (c->activation == LU_ACT_SILU ? ops->silu_mul : ops->gelu_mul)(gate, gate, f->up + r * cols,
                                                                       cols);
        lu_store_act(f, f->mid, r * cols, gate, cols);
    }
}

static void dense_branch(lu_forward *f, int64_t layer, lu_stage to)
{
    const lu_model_config *c = &f->model->config;
    lu_module *mlp = f->model->layers[layer].experts[0];
    lu_tap_act(f, layer, mlp[LU_GATE].site, f->in, f->n_rows, c->hidden_size);
    lu_tap_act(f, layer, mlp[LU_UP].site, f->in, f->n_rows, c->hidden_size);
    f->products[0] =
        (lu_product){.linear = &mlp[LU_GATE].linear, .x = f->in, .rows = f->n_rows, .y = f->gate};
    f->products[1] =
        (lu_product){.linear = &mlp[LU_UP].linear, .x = f->in, .rows = f->n_rows, .y = f->up};
    if (to == LU_STAGE_MLP)
        return;
    lu_run_products(f, f->products, 2);
    lu_for_rows(f, f->n_rows, c->intermediate_size, activate_rows, f);
    lu_tap_act(f, layer, mlp[LU_DOWN].site, f->mid, f->n_rows, c->intermediate_size);
    if (to == LU_STAGE_DOWN)
        return;
    f->products[0] = (lu_product){
        .linear = &mlp[LU_DOWN].linear, .x = f->mid, .rows = f->n_rows, .y = f->branch};
    lu_run_products(f, f->products, 1);
}

/* The n_active largest of p[n_experts] in ascending order of index, with weights of sum 1. */
static void choose(const float *p, int64_t n_experts, int64_t n_active, int64_t *chosen,
                   float *share)
{
    float sum = 0.0f;
    for (int64_t a = 0; a < n_active; a++) {
        int64_t best = -1;
        for (int64_t e = 0; e < n_experts; e++) {
            bool taken = false;
            for (int64_t i = 0; i < a; i++)
                taken |= chosen[i] == e;
            if (!taken && (best < 0 || p[e] > p[best]))
                best = e;
        }
        chosen[a] = best;
        sum += p[best];
    }
    for (int64_t a = 1; a < n_active; a++) /* insertion sort of a handful */
        for (int64_t i = a; i > 0 && chosen[i - 1] > chosen[i]; i--) {
            const int64_t t = chosen[i];
            chosen[i] = chosen[i - 1];
            chosen[i - 1] = t;
        }
    for (int64_t a = 0; a < n_active; a++)
        share[a] = p[chosen[a]] / sum;
}

/* Fills chosen, share, first_row and place, and gathers the inputs. */
static void route(lu_forward *f)
{
    const lu_model_config *c = &f->model->config;
    const int64_t active = c->n_active, experts = c->n_experts;
    const size_t row_bytes = (size_t)c->hidden_size * lutra_dtype_bytes(f->model->act);
    memset(f->first_row, 0, (size_t)(experts + 1) * sizeof *f->first_row);
    for (int64_t r = 0; r < f->n_rows; r++) {
        float *p = f->router + r * experts;
        f->model->ops.softmax(p, experts);
        choose(p, experts, active, f->chosen + r * active, f->share + r * active);
        for (int64_t a = 0; a < active; a++)
            f->first_row[f->chosen[r * active + a] + 1]++;
    }
    for (int64_t e = 0; e < experts; e++)
        f->first_row[e + 1] += f->first_row[e];
    for (int64_t r = 0; r < f->n_rows; r++)
        for (int64_t a = 0; a < active; a++) {
            /* first_row[e] moves up as rows are placed and is moved back below */
            const int64_t place = f->first_row[f->chosen[r * active + a]]++;
            f->place[r * active + a] = place;
            memcpy(lu_act_at(f, f->gathered, place * c->hidden_size),
                   lu_act_at(f, f->in, r * c->hidden_size), row_bytes);
        }
    for (int64_t e = experts; e > 0; e--)
        f->first_row[e] = f->first_row[e - 1];
    f->first_row[0] = 0;
}

static void combine_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const lu_forward *f = arg;
    const int64_t cols = f->model->config.hidden_size, active = f->model->config.n_active;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        float *sum = f->branch + r * cols;
        memset(sum, 0, (size_t)cols * sizeof *sum);
        for (int64_t a = r * active; a < (r + 1) * active; a++)
            f->model->ops.axpy(sum, f->share[a], f->expert_out + f->place[a] * cols, cols);
    }
}

/* One product of every expert over its gathered rows; part `to` of f->products onwards. */
static void expert_products(lu_forward *f, int64_t layer, lu_expert_part part, void *x,
                            int64_t x_cols, float *y, lu_product *to)
{
    for (int64_t e = 0; e < f->model->config.n_experts; e++) {
        lu_module *module = &f->model->layers[layer].experts[e][part];
        const int64_t first = f->first_row[e], rows = f->first_row[e + 1] - first;
        void *mine = lu_act_at(f, x, first * x_cols);
        if (rows)
            lu_tap_act(f, layer, module->site, mine, rows, x_cols);
        to[e] = (lu_product){
            .linear = &module->linear, .x = mine, .rows = rows, .y = y + first * module->linear.n};
    }
}

static void expert_branch(lu_forward *f, int64_t layer, lu_stage to)
{
    const lu_model_config *c = &f->model->config;
    lu_module *router = &f->model->layers[layer].router;
    lu_tap_act(f, layer, router->site, f->in, f->n_rows, c->hidden_size);
    f->products[0] =
        (lu_product){.linear = &router->linear, .x = f->in, .rows = f->n_rows, .y = f->router};
    lu_run_products(f, f->products, 1);
    route(f);
    expert_products(f, layer, LU_GATE, f->gathered, c->hidden_size, f->gate, f->products);
    expert_products(f, layer, LU_UP, f->gathered, c->hidden_size, f->up,
                    f->products + c->n_experts);
    if (to == LU_STAGE_MLP)
        return;
    lu_run_products(f, f->products, 2 * c->n_experts);
    lu_for_rows(f, f->n_rows * c->n_active, c->intermediate_size, activate_rows, f);
    expert_products(f, layer, LU_DOWN, f->mid, c->intermediate_size, f->expert_out, f->products);
    if (to == LU_STAGE_DOWN)
        return;
    lu_run_products(f, f->products, c->n_experts);
    lu_for_rows(f, f->n_rows, c->hidden_size * c->n_active, combine_rows, f);
}

void lu_mlp_branch(lu_forward *f, int64_t layer, lu_stage to)
{
    if (f->model->layers[layer].router.weight.n)
        expert_branch(f, layer, to);
    else
        dense_branch(f, layer, to);
}

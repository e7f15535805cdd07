/* layer_pass.c - one layer over rows that the caller keeps: what calibration needs, which walks the
   same rows through a layer several times while its weights change. */
#include <string.h>

#include "base/context.h"
#include "model/step.h"

static void turn_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    lu_forward *f = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        lu_turn_row(f, r);
}

lutra_status lu_forward_layer(lu_forward *f, const lu_layer_run *run, lutra_err *err)
{
    const lu_layer *layer = &f->model->layers[run->layer];
    const int64_t cols = f->model->config.hidden_size;
    LU_TRY(lu_check_cancel(f->model->ctx, err));
    lu_place_rows(f, run->segments, run->n_segments);
    const size_t bytes = (size_t)(f->n_rows * cols) * sizeof(float);
    memcpy(f->x, run->x, bytes);
    const bool attention = run->from == LU_STAGE_QKV;
    lu_join_rows(f,
                 (lu_joint){.in_norm = layer->norm[attention ? LU_NORM_ATTN_IN : LU_NORM_MLP_IN]},
                 f->n_rows);
    if (attention) {
        lu_for_rows(f, f->n_rows, f->model->config.head_dim, turn_rows, f);
        lu_attention_branch(f, run->layer, run->to);
        if (run->to < LU_STAGE_MLP)
            return LUTRA_OK;
        lu_join_rows(f,
                     (lu_joint){.add = true,
                                .out_norm = layer->norm[LU_NORM_ATTN_OUT],
                                .in_norm = layer->norm[LU_NORM_MLP_IN]},
                     f->n_rows);
        memcpy(run->x, f->x, bytes);
    }
    lu_mlp_branch(f, run->layer, run->to);
    if (run->to < LU_STAGE_END)
        return LUTRA_OK;
    lu_join_rows(f, (lu_joint){.add = true, .out_norm = layer->norm[LU_NORM_MLP_OUT]}, f->n_rows);
    memcpy(run->x, f->x, bytes);
    return LUTRA_OK;
}

const float *lu_forward_branch(const lu_forward *f) { return f->branch; }

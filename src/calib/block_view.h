/* block_view.h - one layer of a model as the methods see it (algo/pass.h): its linears as float32,
   its sites and seams. The only file of calib that knows what a layer is made of. */
#ifndef LU_CALIB_BLOCK_VIEW_H
#define LU_CALIB_BLOCK_VIEW_H

#include "algo/pass.h"
#include "model/forward.h"

typedef struct lu_view_linear {
    lu_site_linear face;
    char name[160];    /* "model.layers.3.mlp.up_proj" */
    lu_module *module; /* where the layer runs it */
    lu_stage stage;    /* when its input is known */
    int site;
    bool changed; /* w is neither what the file holds nor what the codes say: it must stay */
} lu_view_linear;

/* A vector of the layer: a norm's gain, or a bias. Owned by the model's layer. */
typedef struct lu_view_vector {
    char name[160]; /* "model.layers.3.input_layernorm.weight" */
    float *values;
    int64_t n;
} lu_view_vector;

typedef struct lu_view {
    lu_block block;
    lutra_model *model;
    lu_view_linear *linears;
    int n_linears;
    lu_view_vector *vectors;
    int n_vectors;
    lu_stage *stages;           /* [block.n_sites] */
    char (*site_names)[48];     /* [block.n_sites] */
    char (*seam_names)[96];     /* [block.n_seams] */
    lu_site_linear **site_lists; /* what the sites' lists point into */
    lu_site **reader_lists;
} lu_view;

/* Describes the layer; weights are NULL. Free with lu_view_close, also after a failure. */
lutra_status lu_view_open(lutra_model *m, lu_la *la, int64_t layer, lu_view *out, lutra_err *err);
void lu_view_close(lu_view *v);

/* Weights are in memory while they are worked on: makes w, where it is NULL, from the codes if the
   linear is rounded, else from the model's own files. */
lutra_status lu_view_fetch(lu_view *v, lu_view_linear *l, lutra_err *err);
lutra_status lu_view_fetch_all(lu_view *v, lutra_err *err);
/* Gives w back if it can be made again. */
void lu_view_release(lu_view_linear *l);

/* Calls visit, with their weights in memory, for all linears that a run from..to multiplies. */
typedef lutra_status (*lu_view_visit)(void *arg, lu_view *v, lu_view_linear *l, lutra_err *err);
lutra_status lu_view_each(lu_view *v, lu_stage from, lu_stage to, lu_view_visit visit, void *arg,
                          lutra_err *err);
/* Hands the weights as they are to the layer, for all linears that a run from..to multiplies. */
lutra_status lu_view_pack(lu_view *v, lu_stage from, lu_stage to, lutra_err *err);
void lu_view_unpack(lu_view *v);

/* Site of the linear with this name inside the layer, when it is the first of its site; else -1. */
int lu_view_find_site(const lu_view *v, const char *site);

void lu_stats_free(lu_stats *s);
void lu_stats_keep_rows(lu_stats *s); /* and how many were seen */

#endif

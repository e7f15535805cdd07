/* pass.h - the face between the pipeline (calib) and the methods (algo).

   A method is a pass over the blocks of a model. The pipeline loads one block, gathers the
   statistics that the next pass asks for, and calls the pass's hooks; passes run in the order of
   the recipe. A pass sees no model, no file and no token: only the block view below.

       block ── sites:  linears that share their input rows   q|k|v    o    gate|up    down
             ── seams:  places where a per-channel scale can move between an operation and all
                        linears that read its output          norm→q,k,v  v→o  norm→gate,up  up→down

   A dense Llama block has four sites and four seams. In a mixture of experts each expert's gate|up
   is a site of its own (it sees the tokens routed to it), as is the router; all of them are readers
   of the one seam behind the norm.

   Rules for hooks:
   - Weights (lu_site_linear.w) are float32 and belong to the block; a hook may change them in
     place. A transform must leave the function of the block as it is, within rounding: use
     lu_seam_apply. A rounding pass calls lu_linear_open_codes, fills codes, scales and zeros, and
     then lu_linear_close_codes, which puts the decoded values into w.
   - Results depend neither on threads nor on the machine's load. Long loops ask lu_check_cancel.
   - A rounding pass may spoil the Hessian of the site it is called for.
   - Errors name the linear and the mend; the pipeline prefixes nothing. */
#ifndef LU_ALGO_PASS_H
#define LU_ALGO_PASS_H

#include "base/context.h"
#include "fmt/scheme.h"
#include "kern/encode.h"
#include "kern/table.h"
#include "la/dense.h"
#include "lutra/method.h"
#include "lutra/quant.h"

/* --- statistics of a site's input ------------------------------------------------------------- */

/* What a pass asks for, as bits. */
enum {
    LU_STAT_ABSMAX = 1,
    LU_STAT_ABSMEAN = 2,
    LU_STAT_RANGE = 4,   /* per-channel min and max */
    LU_STAT_HESSIAN = 8, /* second moments */
    LU_STAT_ROWS = 16,   /* a sample of the input rows themselves */
};

/* Members that were not asked for are NULL. All are over the calibration rows that this site saw.
   The pipeline owns everything; lu_seam_apply keeps it true to the changed inputs. */
typedef struct lu_stats {
    int64_t n_rows;          /* rows seen; 0 for an expert that no token was routed to */
    float *absmax;           /* [k] max |x| */
    float *absmean;          /* [k] mean |x| */
    float *lowest, *highest; /* [k] */
    float *hessian; /* [k][k] sum over rows of x x^T / n_rows: symmetric, both halves filled */
    float *rows;    /* [n_kept][k], spread evenly over the rows seen, in order */
    int64_t n_kept;
} lu_stats;

typedef struct lu_gptq_settings lu_gptq_settings; /* algo/gptq.h */

/* --- linears and sites ------------------------------------------------------------------------ */

/* What a rounding pass makes of a linear; buffers are owned by the linear. */
typedef struct lu_codes {
    uint8_t *codes;    /* [n][lutra_format_row_bytes]; NULL: not rounded */
    void *scales;      /* [n][groups] of format.scale_dtype */
    uint8_t *zeros;    /* [n][groups] codes of zero points; NULL when symmetric */
    int32_t *group_of; /* [k] group of each column, where groups are not runs of columns (act-order
                          without static groups); else NULL */
    int64_t n_outliers; /* columns kept in fp16, whose codes are not used */
    int32_t *outlier_columns;  /* [n_outliers] ascending */
    uint16_t *outlier_weights; /* [n][n_outliers] fp16 */
    float input_scale; /* of inputs rounded per tensor (calib/input_ranges.h); 0: none */
    uint8_t input_zero;
} lu_codes;

typedef struct lu_site_linear {
    const char *name; /* "model.layers.3.mlp.up_proj" */
    int64_t n, k;
    float *w;    /* [n][k] */
    float *bias; /* [n] or NULL */
    bool wanted; /* the recipe lets the pass that runs now work on it */
    bool kept;   /* never rounded (routers, ignored modules); scaled with the others all the same */
    bool feeds_scores;   /* a query or key projection: its output becomes an attention score */
    lutra_format format; /* to round to; a pass that learns a table writes it here */
    lutra_range range;   /* how a group's scale follows from its weights */
    lu_act_format act;   /* how the input is rounded whenever the model runs */
    const lu_gptq_settings *gptq; /* of the pass that will round it, if that is GPTQ: transforms judge
                                     by it; else NULL */
    float *lo, *hi; /* [n][groups] ends of each group's range to use instead of its smallest and
                       largest weight, or NULL; owned by the linear (lu_array) */
    float *tables; /* format.learned: [lu_format_tables][2^bits] by lu_linear_learn, else NULL; then
                      format.table is only where learning started. Owned by the linear (lu_array) */
    lu_codes codes; /* the result */
    double signal, noise; /* sums of w^2 and (w - decoded)^2 over the linear, set by close_codes */
} lu_site_linear;

typedef struct lu_site {
    const char
        *name; /* "qkv", "o", "gate_up", "down", "router", "expert 3 gate_up": for messages */
    int64_t k;
    lu_site_linear **linears;
    int n_linears;
    lu_stats stats;
} lu_site;

/* --- seams ------------------------------------------------------------------------------------ */

/* The part of a block whose output a loss compares. */
typedef enum lu_part { LU_PART_ATTENTION, LU_PART_MLP, LU_N_PARTS } lu_part;

typedef enum lu_seam_kind {
    LU_SEAM_NORM, /* a norm: its gain is divided */
    LU_SEAM_ROWS, /* a linear whose outputs reach the readers channel by channel: rows divided */
} lu_seam_kind;

typedef struct lu_seam {
    const char *name; /* "input_layernorm → qkv" */
    lu_seam_kind kind;
    const char *refusal; /* NULL, or why no scale can move here */
    lu_part part;        /* what both ends lie in */
    bool in_part_alone;  /* the readers are one linear at the end of the part (o, down): the output
                            error of that linear is the loss, lu_linear_loss gives it */
    lu_site **readers;   /* all of them; each must compensate */
    int n_readers;
    int64_t k;          /* channels of the readers' input */
    lutra_dtype stored; /* type that the gain, or the producer's bias, is written in */
    int64_t n_scales;   /* free scales; channel c takes scale lu_seam_scale_of(c) */
    /* NORM: the norm multiplies by gain + offset (Gemma's offset is 1) */
    float *gain; /* [k] */
    float offset;
    /* ROWS */
    lu_site_linear *producer; /* n = n_scales */
    bool passes_constants; /* what is added to the producer's outputs arrives at the readers as it
                              is: v → o, because the weights of attention have the sum 1 */
    int64_t head_dim, repeat; /* GQA: KV head h feeds query heads h * repeat ..; else repeat 1 */
} lu_seam;

static inline int64_t lu_seam_scale_of(const lu_seam *s, int64_t channel)
{
    if (s->repeat <= 1)
        return channel;
    return channel / (s->head_dim * s->repeat) * s->head_dim + channel % s->head_dim;
}

/* --- the block -------------------------------------------------------------------------------- */

typedef struct lu_block lu_block;

/* Changes the input rows x [rows][k] of a site, before its products: x -> quantized x. */
typedef void (*lu_edit)(void *arg, const lu_site *site, float *x, int64_t rows);

/* Linears whose weights are to be judged as rounded(w s) / s, in several scales s. */
typedef struct lu_scaled {
    lu_site_linear **linears;
    float *const *w;      /* [n] the weights of each, which do not change meanwhile */
    int n;
    lu_part part;         /* whose loss is asked for, with the other weights as they are now, or: */
    const lu_site *alone; /* the loss of linears[0] by the Hessian of its site (lu_linear_loss) */
} lu_scaled;

/* Groups of a linear whose ranges are searched (algo/clip.h). */
typedef struct lu_range_search {
    const lu_site *site;  /* with the statistic HESSIAN */
    const lu_site_linear *l;
    const float *lo, *hi; /* [n][groups] the whole range of each group */
    const float *factors; /* [n_factors] of both ends, in the order of trial; the first is 1 */
    int n_factors;
    float *best;           /* out [n][groups] the factor with the smallest error, the first of equals */
    bool weigh;            /* the losses are wanted: */
    double clipped, plain; /* out: lu_linear_loss with the best ranges, and by l->range */
} lu_range_search;

struct lu_block {
    lutra_ctx *ctx;
    lu_la *la;
    lu_level level;
    int64_t index; /* layer */
    lu_site *sites;
    int n_sites; /* in the order of the forward pass */
    lu_seam *seams;
    int n_seams;
    int64_t loss_samples; /* a pass may set it before record: losses are taken over so many of the
                             first calibration samples; 0 = all */
    /* Records the output of the part, with the weights as they are now, for the calibration rows.
     */
    lutra_status (*record)(lu_block *b, lu_part part, lutra_err *err);
    /* The mean over rows and outputs of (output now - recorded)^2, for the same inputs. edit may be
       NULL. record must have been called for the part. */
    lutra_status (*loss)(lu_block *b, lu_part part, lu_edit edit, void *arg, double *out,
                         lutra_err *err);
    /* Rounds where it walks, which may be far from w. open sets *possible to false if it cannot; each
       loss is then what the caller would get by itself, within the roundings of sums. NULL: there is
       no such place. The part has been recorded. close follows an open that was possible. */
    lutra_status (*scaled_open)(lu_block *b, const lu_scaled *s, bool *possible, lutra_err *err);
    lutra_status (*scaled_loss)(lu_block *b, const float *scale, double *out, lutra_err *err);
    void (*scaled_close)(lu_block *b);
    /* Does the whole search where it is faster; *possible is false, and nothing done, if it cannot.
       NULL: there is no such place. */
    lutra_status (*search_ranges)(lu_block *b, lu_range_search *s, bool *possible, lutra_err *err);
    void *runner; /* calib's */
};

/* --- passes ----------------------------------------------------------------------------------- */

/* A rounding pass that looks at Hessians of inputs that come from already rounded linears sets
   `sequential`: then the pipeline gathers the statistics of a site after the sites before it were
   worked on. Otherwise one walk gathers all. Each hook may be NULL. */
typedef struct lu_pass {
    lutra_method method; /* name, help, parameters */
    size_t settings_size;
    /* LU_STAT bits, which may follow from the settings */
    unsigned (*needs)(const void *settings);
    bool (*sequential)(const void *settings); /* NULL: false */
    /* A rounding pass that stores more than codes, scales and zero points says so before any work:
       it sets column_groups or outlier_columns of s (fmt/scheme.h), from its settings alone.
       outliers: exactly how many columns of k it will keep apart. Each NULL: none */
    void (*scheme)(const void *settings, lu_scheme *s);
    int64_t (*outliers)(const void *settings, int64_t k);
    /* E_ARG for settings or a format that do not go together, before any work. NULL: all do */
    lutra_status (*check)(const void *settings, const lutra_format *f, lutra_err *err);
    /* lu_block.loss_samples that it will set, 0 = all; below 0, or NULL: it asks for no losses of parts */
    int64_t (*loss_samples)(const void *settings);
    /* for each seam with a wanted linear among its readers; transforms */
    lutra_status (*seam)(lu_block *b, lu_seam *s, const void *settings, lutra_err *err);
    /* for each site with a wanted linear */
    lutra_status (*site)(lu_block *b, lu_site *s, const void *settings, lutra_err *err);
    /* once per block, before the others */
    lutra_status (*block)(lu_block *b, const void *settings, lutra_err *err);
} lu_pass;

/* passes.c: the list; pass_list.h has one line per pass. */
const lu_pass *lu_pass_at(int i);              /* NULL past the end */
const lu_pass *lu_pass_find(const char *name); /* NULL: unknown */
/* Fills settings (settings_size bytes) with the defaults of the table. */
void lu_pass_defaults(const lu_pass *p, void *settings);
/* Stores a value, which is in the parameter's range, at its place in settings. */
void lu_param_set(const lutra_param *p, void *settings, double value);

/* --- what passes share ------------------------------------------------------------------------ */

/* seam.c. Divides the seam's operation by s[n_scales] > 0 and multiplies the columns of all
   readers; the readers' statistics, the producer's bias and its lo/hi follow, the readers' lo/hi
   are dropped. A norm's gain is rounded to the type it is written in, and the scale that this makes
   is what the columns are multiplied by. E_ARG if a scale is not finite and positive, or the seam
   refuses. */
lutra_status lu_seam_apply(lu_block *b, lu_seam *seam, const float *s, lutra_err *err);
/* Whether a per-channel shift can move: the seam passes constants, the producer and all readers
   have a bias. */
bool lu_seam_shifts(const lu_seam *seam);
/* Subtracts z[n_scales] from the producer's bias and adds W z to the readers' biases; the readers'
   lowest, highest and rows follow, the other statistics are dropped. E_ARG unless lu_seam_shifts.
 */
lutra_status lu_seam_shift(lu_block *b, lu_seam *seam, const float *z, lutra_err *err);

/* linear_tables.c. Learns l->tables from w as it is now, if the format is learned; else does nothing.
   A rounding pass calls it first. importance: [k] weight of each column's squared errors, such as the
   diagonal of the Hessian, or NULL. */
lutra_status lu_linear_learn(lu_block *b, lu_site_linear *l, const float *importance,
                             lutra_err *err);
/* Prepares an encoder for row `row` under l->range (learned: mse), with the table that the row uses;
   it serves rows up to *end. */
void lu_linear_encoder(const lu_block *b, const lu_site_linear *l, int64_t row, lu_encoder *out,
                       int64_t *end);
/* The diagonal of the site's Hessian, [k] (lu_free); NULL without one, or without memory. */
float *lu_site_importance(const lu_site *s);

/* linear_codes.c. Allocates codes for l->format; frees what was there. */
lutra_status lu_linear_open_codes(lu_site_linear *l, lutra_err *err);
/* Sets signal and noise and replaces w by the decoded values. */
lutra_status lu_linear_close_codes(lu_block *b, lu_site_linear *l, lutra_err *err);
/* The part of the codes that is stored as the tensor of this kind (fmt/scheme.h), or NULL. */
void *lu_linear_codes_part(lu_site_linear *l, lu_tensor_kind kind);
/* One row of the decoded values, [k]. */
void lu_linear_decode_row(const lu_site_linear *l, int64_t row, float *out);
void lu_linear_free_codes(lu_site_linear *l);
/* Rounds to nearest under l->range and l->lo, l->hi: codes of w. Learns tables first, unless there
   are some. */
lutra_status lu_linear_round(lu_block *b, lu_site_linear *l, lutra_err *err);
/* What rounding w (of the shape of l) to l->format would give: out [n][k], may be w. Where the format
   is learned and l->tables are not there yet, the table that learning starts from stands for them. */
lutra_status lu_linear_fake_round(lu_block *b, const lu_site_linear *l, const float *w, float *out,
                                  lutra_err *err);

/* linear_loss.c. Mean over the site's rows of |x (w - approx)^T|^2, summed over outputs: from the
   Hessian if there is one, else from the kept rows; E_INTERNAL with neither. approx: [n][k]. So many
   rows are multiplied at a time. */
#define LU_LINEAR_LOSS_ROWS 512
lutra_status lu_linear_loss(lu_block *b, const lu_site *s, const lu_site_linear *l,
                            const float *approx, double *out, lutra_err *err);

#endif

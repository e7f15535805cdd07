/* lutra/quant.h - compressing: one matrix in memory, or a whole checkpoint on disk. */
#ifndef LUTRA_QUANT_H
#define LUTRA_QUANT_H

#include "lutra/model.h"
#include "lutra/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An encoded matrix: buffers owned by the object. */
typedef struct lutra_qmatrix {
    lutra_format format;
    int64_t n, k;
    uint8_t *codes; /* [n][lutra_format_row_bytes] */
    void *scales;   /* [n][groups] of format.scale_dtype */
    uint8_t *zeros; /* [n][groups] codes of the zero points, or NULL when symmetric */
    float *tables;  /* learned formats: [n / table_rows rounded up, or 1][2^bits]; else NULL */
} lutra_qmatrix;

/* A dense matrix, borrowed. */
typedef struct lutra_matrix {
    int64_t n, k;
    const void *w;           /* [n][k] */
    lutra_dtype dtype;       /* F32, F16 or BF16 */
    const float *importance; /* [k] or NULL: how much a column's squared errors count when a table
                                is learned, such as the mean square of the input that it meets */
} lutra_matrix;

/* Rounds m to the nearest codes; a learned format first learns its tables and takes the range rule
   mse whatever `range` says. E_ARG if the group does not divide k; E_FORMAT on NaN or infinity,
   naming row and column. On success *out owns its buffers (lutra_qmatrix_free). */
LUTRA_API lutra_status lutra_quantize_matrix(lutra_ctx *ctx, const lutra_format *f,
                                             lutra_range range, const lutra_matrix *m,
                                             lutra_qmatrix *out, lutra_err *err);
LUTRA_API void lutra_qmatrix_free(lutra_qmatrix *q);

/* Writes the dequantized values, [n][k] float32. */
LUTRA_API lutra_status lutra_dequantize_matrix(lutra_ctx *ctx, const lutra_qmatrix *q, float *out,
                                               lutra_err *err);

/* A matrix packed for this machine's kernels: y[m][n] = sum_k x[m][k] w[n][k] (+ bias[n]). */
typedef struct lutra_linear lutra_linear;

/* Packs q (which may be freed afterwards). act: LUTRA_F32 computes with float32 activations,
   LUTRA_BF16 rounds them to bfloat16 (faster). bias: [n] float32 or NULL, copied. */
LUTRA_API lutra_status lutra_linear_open(lutra_ctx *ctx, const lutra_qmatrix *q, const float *bias,
                                         lutra_dtype act, lutra_linear **out, lutra_err *err);
/* x: [m][k] float32 row-major, y: [m][n] float32 row-major; m >= 0. */
LUTRA_API lutra_status lutra_linear_multiply(lutra_ctx *ctx, const lutra_linear *lin, int64_t m,
                                             const float *x, float *y, lutra_err *err);
LUTRA_API void lutra_linear_close(lutra_linear *lin);

/* A format for the modules whose name matches a pattern. */
typedef struct lutra_format_rule {
    const char *pattern; /* glob: * ? */
    lutra_format format;
} lutra_format_rule;

/* Settings for compressing a checkpoint. Fill with lutra_quantize_options_init. */
typedef struct lutra_quantize_options {
    size_t size;
    lutra_format format;
    const char *const *ignore;  /* name patterns (glob: * ?) of modules left alone */
    int n_ignore;               /* default: "lm_head" and "*embed_tokens" */
    bool dry_run;               /* plan only: nothing is written */
    bool overwrite;             /* replace an existing output folder once the new one is complete;
                                   it must be empty or hold a config.json */
    bool restart;               /* discard the work of an interrupted run instead of resuming */
    lutra_range range;          /* default: LUTRA_RANGE_MINMAX */
    const lutra_recipe *recipe; /* methods for the decoder blocks, block by block; NULL: rounding to
                                   nearest, tensor by tensor */
    const lutra_calibration *calibration; /* data for the recipe and for avg_bits; NULL: none */
    const lutra_format_rule *rules; /* formats other than `format`; the last that matches counts */
    int n_rules;
    double avg_bits; /* 0, or mixed precision: modules that no rule names get the candidates that
                        lose least within so many bits a weight, scales and tables included: of
                        the outputs on the calibration data if there is any, else of the weights */
    const lutra_format *candidates; /* with avg_bits */
    int n_candidates;
    const char *device; /* where weights are rounded: "cpu" or NULL, "cuda", "cuda:N"; the bytes of
                           the result are the same */
    const char *act_quant; /* NULL or "none", or how the inputs of the blocks' compressed linears are
                              rounded whenever the model runs, as act_quant of lutra_model_options;
                              the checkpoint says so. Of "intB:tensor" it also holds the scales, which
                              are found while a recipe runs on calibration data. A pass of the recipe
                              may say otherwise for its modules */
    const char *act_rule;  /* of "intB:tensor": how a range follows from the samples, as rule of
                              lutra_act_calibration. NULL: "minmax" */
    double act_percentile; /* for the rule "percentile"; 0: 99.99 */
} lutra_quantize_options;

/* How well one module was kept. */
typedef struct lutra_module_error {
    char *module;        /* "model.layers.0.mlp.up_proj" */
    char format[64];     /* its spec */
    double sqnr_db;      /* of its weights; what a transform before changed is not counted */
    double output_error; /* |x (w - rounded)^T| / |x w^T| on calibration rows; NaN where unknown */
} lutra_module_error;

/* What a run did, or with dry_run would do. */
/* Where the time of a recipe went, in seconds. */
typedef struct lutra_quantize_times {
    double walk;       /* calibration rows through layers, weights to the GPU, losses */
    double statistics; /* of the inputs of linears */
    double factor;     /* of second moments, for methods that want them */
    double methods;    /* all else that methods do: scaling, rounding, judging */
    double write;      /* blocks to disk */
    /* of methods: */
    double scales;   /* judging scales and moving them through the block */
    double ranges;   /* clipped ranges */
    double rounding; /* codes, and what rounding does to outputs */
} lutra_quantize_times;

typedef struct lutra_quantize_report {
    int64_t n_tensors, n_quantized; /* of the input checkpoint */
    int64_t bytes_in, bytes_out;    /* tensor bytes */
    int64_t params_quantized;
    double bits_per_weight; /* over the quantized tensors, scales and tables included */
    double sqnr_db;         /* signal to quantization noise over all quantized weights */
    double seconds;
    int64_t resumed_tensors;     /* found finished from an interrupted run */
    int64_t peak_rss;            /* bytes, of this process */
    int64_t memory_forecast;     /* with a recipe: bytes it takes at its peak, about */
    int64_t gpu_peak;            /* bytes of the GPU in use at the peak, by others too; 0: no GPU */
    int64_t gpu_forecast;        /* with a recipe on a GPU: bytes of it at the peak, about */
    lutra_quantize_times times;  /* with a recipe */
    lutra_module_error *modules; /* the quantized ones in layer order; owned */
    int64_t n_modules;
} lutra_quantize_report;

/* Releases what a report owns. */
LUTRA_API void lutra_quantize_report_free(lutra_quantize_report *r);

LUTRA_API void lutra_quantize_options_init(lutra_quantize_options *o);

/* Compresses the Hugging Face folder `in` to the folder `out`: without a recipe by rounding to
   nearest, which holds only a few tensors in memory; with one block by block, which holds one
   decoder block, its statistics and the calibration's activations (lutra_calibration.memory). Work
   goes to `out`.partial, which is renamed to `out` when complete; an interrupted run resumes there
   and gives the same bytes. Fails with E_EXISTS if `out` exists, E_NOSPACE, E_FORMAT (malformed
   input, NaN weights, naming file and tensor), E_ARG (group size that does not divide a tensor's
   columns, naming it), E_UNSUPPORTED where there is no such device. */
LUTRA_API lutra_status lutra_quantize_checkpoint(lutra_ctx *ctx, const char *in, const char *out,
                                                 const lutra_quantize_options *o,
                                                 lutra_quantize_report *report, lutra_err *err);

/* --- static activations --------------------------------------------------------------------- */

typedef struct lutra_act_calibration {
    size_t size;
    const char *rule;  /* how a linear's range follows from the samples: "minmax" (mean of the
                          samples'  ends, the default), "moving" (running mean), "mse" (least squared
                          error over  a histogram), "percentile" */
    double percentile; /* values inside the range, in percent; default 99.99 */
    int64_t window;    /* tokens of a sample; default 512 */
    int64_t samples;   /* at most so many; default 32 */
} lutra_act_calibration;

LUTRA_API void lutra_act_calibration_init(lutra_act_calibration *o);

/* Finds one scale for the input of each linear of the blocks by running the first windows of ids[n]
   through the model, and rounds these inputs from now on. act_quant: a static format such as
   "int8:tensor" or "int8:tensor:asym". Sessions of the model must be closed before and opened
   after. E_ARG if the text is shorter than a window or the model rounds its inputs already;
   E_CANCELLED leaves the model as it was. Should packing the weights anew fail (E_NOMEM), close the
   model. */
LUTRA_API lutra_status lutra_model_calibrate(lutra_model *m, const char *act_quant,
                                             const int32_t *ids, int64_t n,
                                             const lutra_act_calibration *o, lutra_err *err);

#ifdef __cplusplus
}
#endif
#endif

/* quantize_internal.h - between the files of quantize.h. */
#ifndef FIT_QUANTIZE_INTERNAL_H
#define FIT_QUANTIZE_INTERNAL_H

#include "fit/compensate.h"
#include "fit/quantize.h"

/* What a matrix sees in the coordinates of its turn. */
struct view {
    const struct moments *h;
    struct feedback *feedback;
};

/* The view of a set's inputs, turned in pieces of width (see moments_turn()), with feedback by blocks of columns
 * (see feedback_block()); borrowed until the next call. */
int views_find(struct views *views, const struct moment_set *set, struct transform transform, int64_t width,
               int64_t columns, const struct view **view);

/* One matrix on its way, in turned coordinates. */
struct rounded_matrix {
    const char *name;
    int64_t out, in;
    const struct view *view;     /* NULL: plain */
};

/* Q, and U V where there is a residual (otherwise u and v have no data), as stored, with the error of their sum. */
struct mixture {
    struct tensor q, u, v;
    double error, norm;
};

void mixture_free(struct mixture *mixture);

/* w [out, in] to codes alone, the tensor [1, out, in, 1]. */
int mixture_round(const struct rounded_matrix *matrix, const float *w, const struct quantization *how,
                  struct mixture *mixture);

/* The same with a residual. */
int mixture_fit(const struct rounded_matrix *matrix, const float *w, const struct quantization *how,
                struct mixture *mixture);

/* Bytes of the residual of a matrix [out, in], 0 where it gets none. */
int64_t mixture_residual_bytes(const struct quantization *how, int64_t out, int64_t in);

struct tensor tensor_copy(const struct tensor *tensor);

/* tr(D H D'), or the sum of squares without moments. */
double weighted_error(const struct view *view, const float *d, int64_t rows, int64_t in);

/* Rounds the cores k of a chain with rounds[k], all f32, to dtype: a group format, or f16. view: of the chain's input;
 * NULL: each to nearest. */
int chain_round(struct chain *chain, const bool *rounds, struct dtype dtype, const struct view *view, const char *name);

/* A core replaced by its rounding to nearest. */
int core_round(struct tensor *core, struct dtype dtype, const char *name, struct difference *difference);

#endif

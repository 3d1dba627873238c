/* decompose_internal.h - what the parts of decompose share: a matrix to be fitted, and what became of it. */
#ifndef FIT_DECOMPOSE_INTERNAL_H
#define FIT_DECOMPOSE_INTERNAL_H

#include "fit/decompose.h"

/* One matrix [out, in]: what the new cores are to give is W, or what W is above the terms that are there, in the
 * coordinates of these. */
struct task {
    const char *name;
    int64_t out, in;
    const struct decomposition *how;
    const struct moments *h;     /* of the input in these coordinates; NULL: none */
    float *w;                    /* to be fitted */
    double scale;                /* |W|_F, with moments sqrt(tr(W H W')), that tolerances refer to; 0: w's own */
    const float *dense;          /* W itself, in its own coordinates: only for the sequential target, as are */
    const float *stored;         /* what is there in these coordinates of W; NULL: nothing */
    struct transform input, output;      /* what the cores' input goes through, and their output, inverted */
};

/* One fit, as it is stored. */
struct attempt {
    struct mpo_budget budget;
    struct mpo mpo;
    struct operator fitted;
    struct difference difference;    /* of task.w and fitted */
    double error;                /* tr((w - fitted) H (w - fitted)') */
    double scale;                /* task.scale, or that of w */
    double before, reached;      /* relative to scale: of what was fitted before rounding; of w after it */
    bool sequential;
};

/* sqrt(tr(w H w')), or |w|_F. */
double weighted_size(const struct moments *h, const float *w, int64_t out, int64_t in);

/* The best fit within how->budget: with cross moments of both kinds also one to the sequential target, which is taken
 * where what it gives is better held out and holds a tolerance. *a is the caller's, empty after an error. */
int attempt_best(const struct task *task, struct attempt *a);

void attempt_free(struct attempt *a);

/* Whether it holds the tolerance, where there is one. */
bool attempt_holds(const struct attempt *a, const struct decomposition *how);

/* Whether cores with so many numbers are smaller than op, or asked for in any case. */
bool decompose_saves(const struct operator *op, const struct decomposition *how, int64_t parameters);

#endif

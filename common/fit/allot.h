/* allot.h - one setting for each matrix under a budget: a multiple-choice knapsack over error curves. */
#ifndef FIT_ALLOT_H
#define FIT_ALLOT_H

#include "fit/curve.h"

enum allot_unit {
    ALLOT_BPW,                   /* bits of payload per original parameter */
    ALLOT_PART,                  /* numbers stored, in percent of the original parameters */
    ALLOT_BYTES,                 /* of payload */
};

struct allot_budget {
    enum allot_unit unit;
    double amount;
    bool whole;                  /* of all tensors in the curves, not only of the matrices that have settings */
};

/* "2.5bpw", "30%", "60MB" (B, KB, MB, GB: powers of 1000; KiB, MiB, GiB). False where it is none of these. */
bool allot_budget_parse(const char *text, struct allot_budget *budget);

/* Bounds the settings of the matrices that a glob matches. */
struct allot_rule {
    bool ceiling;                /* at most; otherwise at least */
    char *glob;                  /* owned */
    char *key;                   /* a plan's key whose values have an order; NULL: unit. Owned */
    enum allot_unit unit;        /* ALLOT_BPW or ALLOT_PART, of the matrix alone */
    double value;                /* infinite: "full", "row" */
    double absent;               /* of a setting without the key; NAN: it isn't held to the bound */
};

/* "GLOB=2.5bpw", "GLOB=30%", "GLOB=KEY=VALUE" with a key of fit/plan.h that has an order; rotate=full and group=row are
 * above all numbers. A setting without the key has 0 of scale_bits, rotate and residual_chi, and isn't held to bounds
 * by another one. Keeping the matrix as it is meets every floor, and no ceiling by a key. False where the text is none
 * of these; then nothing is to be freed. */
bool allot_rule_parse(const char *text, bool ceiling, struct allot_rule *rule);
void allot_rule_free(struct allot_rule *rule);

/* Whether all of the n rules that match the curve's name let it have this setting. */
bool allot_allows(const struct allot_rule *rule, int n, const struct curve *curve, const struct curve_point *point);

/* A matrix and the settings it may get. */
struct allot_matrix {
    const struct curve *curve;
    double weight;               /* of its loss in the sum that is minimised; 1 to begin with */
    struct curve_point *point;   /* ascending in cost; plans are the curve's */
    int n_point;
    int chosen;                  /* -1: none yet */
};

struct allotment {
    struct allot_budget budget;
    struct allot_matrix *matrix; /* in the order of their names */
    int n_matrix;
    int64_t limit;               /* for the matrices: bytes, or numbers stored with ALLOT_PART */
    int64_t original;            /* parameters that the budget is about */
    int64_t fixed_bytes, fixed_parameters;       /* of the tensors that stay, where they are in the budget */
};

/* Makes out what can be chosen (curves are borrowed, as long as the allotment lives). EX_DATAERR after a message where
 * no matrix has settings, a rule matches no matrix or leaves one without a setting, or the sums overflow. Free it in
 * any case. */
int allotment_begin(struct allotment *allotment, const struct curves *curves, const struct allot_budget *budget,
                    const struct allot_rule *rule, int n_rule);
void allotment_free(struct allotment *allotment);

/* Weights from what `evaluate sensitivity` wrote: of each matrix the KL divergence per unit of loss, by least squares
 * over the settings measured: of itself, else of its block, else of its kind in all blocks. Matrices of which nothing was
 * measured get the mean of their kind, or of all. EX_DATAERR with file and line; where no line is for a matrix of the
 * allotment. EX_NOINPUT, EX_IOERR. */
int allot_weigh(struct allotment *allotment, const char *path);

/* Minimises the sum of weight * loss: the points of each lower convex hull in the order of their slopes (what
 * a Lagrange multiplier gives: exact for the budgets that it meets), up to the first that doesn't fit; then single
 * exchanges that still fit, the one that saves most error for its cost first. Never above the limit, and above the
 * least sum that it allows by at most one step on a hull. Ties go by name. EX_DATAERR, with the least that is possible,
 * where even that is above the limit. */
int allot_least(struct allotment *allotment);

/* Deeper layers first: from the last block backwards each matrix gets its least setting (or the one whose plan is
 * given, NULL for none), until the limit holds; the others keep their largest. EX_DATAERR as above, or where a matrix
 * doesn't have that setting. */
int allot_deeper_first(struct allotment *allotment, const char *plan);

/* Of the settings chosen, with what is fixed. */
struct allot_totals {
    int64_t bytes, parameters;
    double bpw, percent;         /* of allotment->original */
    double error, weighted;      /* sums of error / norm, and of weight * loss */
};
struct allot_totals allot_totals(const struct allotment *allotment);

/* error / norm of a point; 0 where the norm is. */
double allot_relative(const struct curve *curve, const struct curve_point *point);

/* What an error / norm e counts for: -log(1 - e), which is e where it is small. A layer keeps the part 1 - e of its
 * signal, and along the layers these multiply, so their logarithms add up: a matrix that is lost can't be made up for
 * by others that are good. From e = .99 on a straight line goes on, so that errors of 1 and more have an order, too. */
double allot_loss(double relative);

/* The chosen settings as a plan: comments with budget and totals, then a line of each matrix, its name escaped for
 * fnmatch(). EX_DATAERR where a name can't stand in a plan; text is appended to. */
int allot_print(const struct allotment *allotment, struct text *text);

#endif

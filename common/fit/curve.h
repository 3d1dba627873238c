/* curve.h - error curves: what each setting of a program would cost and give, per matrix, as JSON lines:
 *
 *     {"name", "out", "in", "plan": "bits=3 group=64", "bytes", "parameters", "error", "norm"}
 *     {"name", "bytes", "parameters", "stored_parameters", "fixed": true}
 *
 * plan is what a line of a plan says (fit/plan.h), "" where the matrix is kept as it is; bytes of the payloads and
 * numbers stored it leads to; error the weighted squared error tr((W - W') H (W - W')') of the stored W' (H = 1
 * without moments), norm tr(W H W'). A fixed line is a tensor that no setting applies to: parameters are its own; or
 * one core of an operator, with "term" and "site", and parameters d_out * d_in (of the sites of term 0 they multiply
 * to those of the operator). `mpo-decompose --curves` and `quantize --curves` write them, `allot` reads them. */
#ifndef FIT_CURVE_H
#define FIT_CURVE_H

#include "base/file.h"
#include "operator/operator.h"

struct curve_point {
    char *plan;                  /* owned by readers, borrowed by writers */
    int64_t bytes, parameters;
    double error;
};

/* All settings of one matrix, or what stays as it is. */
struct curve {
    char *name;
    int64_t out, in;             /* 0 where no setting is known */
    double norm;
    struct curve_point *point;   /* the settings, ascending in bytes */
    int n_point;
    struct curve_point *core;    /* from fixed lines: what is stored now, plan "TERM.SITE" */
    int n_core;
    bool fixed;                  /* no settings */
    int64_t original;            /* parameters of the matrix or tensor itself */
};

struct curves {
    struct curve *curve;         /* in the order of their names */
    int n_curve;
};

/* Adds the lines of a file (NULL or "-": standard input) to curves ({0} is empty); several files, and lines of one
 * matrix in several of them, go together, in any order. Where the norms of one matrix differ by more than 1e-3, or a
 * line is twice there with different numbers: EX_DATAERR with file and line. EX_NOINPUT, EX_IOERR. curves may be freed
 * in any case. */
int curves_read(struct curves *curves, const char *path);
void curves_free(struct curves *curves);

/* The cores of a curve together, as one more setting: kept as it is, plan "". False where there are none. */
bool curve_kept(const struct curve *curve, struct curve_point *kept);

/* One line on an output. EX_IOERR. */
int curve_write(struct output *output, const char *name, int64_t out, int64_t in, double norm,
                const struct curve_point *point);

/* A fixed line for a tensor or core that stays as it is (companion files give none). */
int curve_write_fixed(struct output *output, const struct record *record);

#endif

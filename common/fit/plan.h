/* plan.h - which weight gets what: files of lines
 *
 *     # comment
 *     GLOB key=value key=value ...
 *
 * The first line whose glob matches a weight's name counts. Keys: chi, keep, tolerance (one of the three), sites,
 * shape, dtype for mpo-decompose; for quantize bits, and with it group, zero, scale_bits, or code=trellis, and with
 * it rate and state; with both rotate, residual_chi, residual_bits. Both programs read the same file, and each leaves
 * alone what its line gives no key of its own for: one of the three to the one, bits or code=trellis to the other. */
#ifndef FIT_PLAN_H
#define FIT_PLAN_H

#include "base/json.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum { ROTATE_FULL = -1 };       /* both sides over their whole width */

struct plan_line {
    unsigned given;              /* bit k: the k-th key of plan.c's table was given */
    char *glob;
    int64_t chi;                 /* 0: not given */
    double keep, tolerance;      /* 0: not given */
    int sites;                   /* 0: not given */
    char *shape;                 /* NULL: not given; "auto" or "20x256,640x16" */
    bool has_dtype, has_group, has_zero;
    struct dtype dtype;
    int bits;                    /* 0: not given */
    bool trellis;                /* code=trellis; code=scalar is the default */
    int rate;                    /* half bits per weight; 0: not given */
    int state;                   /* 0: not given */
    int group;
    enum dtype_zero zero;
    int scale_bits;              /* 0 (f16; the default), 6, 8 */
    int64_t rotate;              /* 0 (no turn; the default), a power of two from 2 on, or ROTATE_FULL ("full") */
    int64_t residual_chi;        /* 0 (none; the default) or more */
    int residual_bits;           /* 0: not given; 2 to 8, or 16 for cores in f16 */
};

struct plan {
    char *name;                  /* base name of the file */
    uint64_t hash;               /* XXH3 of its bytes */
    struct plan_line *line;
    int n_line;
};

/* Reads a file. EX_NOINPUT, or EX_DATAERR with file and line. *plan is the caller's; it is empty after an error. */
int plan_read(struct plan *plan, const char *path);

/* Sets a key of the above, as options do that mean the same. NULL, or where the value is bad what was expected. */
const char *plan_set(struct plan_line *line, const char *key, const char *value);

/* Whether this is a key of the above whose values have an order, so that they can be bounded; *absent is what a setting
 * without it has: 0, or NAN where that is no number. */
bool plan_is_ordered(const char *key, double *absent);

/* The line for a weight, or NULL. */
const struct plan_line *plan_find(const struct plan *plan, const char *name);

/* {"name", "hash"} for a history. */
struct json *plan_history(const struct plan *plan);

void plan_free(struct plan *plan);

#endif

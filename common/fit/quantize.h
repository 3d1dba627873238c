/* quantize.h - an operator's matrix or cores become packed codes: to nearest, or with the moments of what the layer
 * sees so that its output changes least; turned before, and with a low-rank residual beside, where asked for. */
#ifndef FIT_QUANTIZE_H
#define FIT_QUANTIZE_H

#include "base/file.h"
#include "fit/moments.h"
#include "fit/plan.h"
#include "operator/difference.h"

struct quantization {
    struct dtype dtype;          /* a packed format */
    const struct moment_set *moments;    /* what the matrix sees; NULL: every input the same, and rounding to nearest */
    int64_t rotate;              /* 0; a power of two: the most that a block of the input's turn has; ROTATE_FULL */
    uint64_t seed;               /* of its signs; those of the output's are by the next one */
    int64_t fold_input;          /* 0, or the head size: see below */
    struct transform fold_output;    /* block 0: none; turns of fold_size rows each */
    int64_t fold_size;
    int64_t residual_chi;        /* 0, or the rank of a term beside the codes */
    int residual_bits;           /* of its two cores: 2 to 8 (no offset, groups as in dtype, or of 64), or 16: f16 */
    int alternations;            /* of codes and residual, at most; 1 or more */
};

/* What became of it. */
struct quantized {
    bool done;                   /* false: left as it is, and said so by inform() */
    bool sequential;             /* the codes are those of the sequential target (fit/aware.h) */
    struct transform input;      /* its turn, also where it isn't stored */
    struct transform output;
    struct difference difference;    /* of W and what is stored; only its sums of squares where W was turned */
    double error, norm;          /* tr((W - W') H (W - W')'), tr(W H W'); of plain rounding the squares */
};

/* The moments of turned inputs and their feedback factors, made when first needed and shared by all matrices of a
 * block that see the same. */
struct views;
struct views *views_new(void);
void views_free(struct views *views);                    /* NULL is allowed */

/* Rounds op in place.
 *
 * A matrix in one core: W is turned (with op's own transforms, where it has any, otherwise by rotate: in blocks, its
 * input; ROTATE_FULL, both sides by transform_full()), then rounded. What sees the same input shares its turn. With
 * cross moments the sequential target is tried as well and kept where the held-out error is lower. With a residual,
 * W = Q + U V by alternating: Q rounds W - U V, U V fits W - Q; of all pairs as they are stored the best is kept.
 * Several cores: with moments each core is rounded for the moments that reach it, from the input's side on, bonds
 * balanced before, and the next core is fitted to what the rounding of those behind it left; without, each to nearest.
 * Neither residual nor sequential target; turned only where the whole input lies in the last core of each term, and
 * the whole output in the first one.
 * Cores that are packed already or would not get smaller (a matrix with its residual) stay.
 *
 * fold_input: the turn is that of heads (each piece of fold_input numbers turned in the same way) and isn't stored; op
 * must be dense. The matrix whose output it reads is to be given result->input as fold_output, and the same size as
 * fold_size: its W becomes T W before all else, or EX_DATAERR where it isn't one plain core that gets smaller.
 *
 * Memory for a matrix: W in f32 twice, what compensate() and aware_low_rank() take, and the views: n^2 floats, and n (n
 * + 1) / 2 of turned moments, n^2 doubles in the making. EX_DATAERR after a message where values aren't finite or too
 * large for the format, EX_SOFTWARE; then the terms of op are lost. */
int quantize_operator(struct operator *op, const struct quantization *how, struct views *views,
                      struct quantized *result);

/* Packed cores become plain ones of a dtype f32, f16 or bf16; the turn stays. EX_DATAERR where a number doesn't fit. */
int quantize_inverse(struct operator *op, struct dtype dtype);

/* The turn of an input of this width; none where none fits. */
struct transform quantize_turn(const struct quantization *how, int64_t width);

/* The turn of o_proj's input made one of v_proj's rows, head by head: what attention gives is a mean of values, and a
 * mean of turned ones is the mean turned. v_proj comes behind o_proj, so it is decided at the one and must come
 * true at the other. */
struct fold {
    int64_t head_dim, width;     /* of a head, and of what o_proj reads; 0: the model's attention doesn't allow it */
    char *values;                /* the v_proj that is yet to come, owned; NULL: none */
    struct transform turn;       /* that it is to get */
    int64_t done;                /* how many there were */
};

/* Before an operator is rounded by *how: sets its folds. wanted: whether a matrix of this name is to be rounded.
 * EX_DATAERR where another o_proj comes first. */
int fold_prepare(struct fold *fold, const struct operator *op, bool (*wanted)(const char *name),
                 struct quantization *how);

/* After it. */
void fold_note(struct fold *fold, const struct quantization *how, const struct quantized *result);

/* At the end: EX_DATAERR where a v_proj never came. */
int fold_end(const struct fold *fold);
void fold_free(struct fold *fold);

/* What a line of a plan says of quantization, into *how, whose dtype is a group format: bits, scale_bits, rotate and
 * residual_chi in any case, the others where they are given; with code=trellis the trellis format instead. */
void quantization_set(struct quantization *how, const struct plan_line *line);

/* The same for a history, from a line that gives all of them; what is 0 is left out. */
void quantization_history(struct json *history, const struct plan_line *line);

/* The settings to try of one matrix: each key of a plan with its values; all combinations. */
enum { SETTINGS = 16 };
struct setting_list {
    const char *key;
    const char *value[SETTINGS];
    int count;
};

/* Writes the line of each setting, and one of the operator kept as it is (plan ""), as fit/curve.h has them; how
 * gives what settings leave open. Settings that change nothing are left out. Values are good; lists may be empty, and
 * the first one is the fastest to change. */
int quantize_curves(const struct operator *op, const struct quantization *how, const struct setting_list *lists,
                    int n_list, struct views *views, struct output *output);

#endif

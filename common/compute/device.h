/* device.h - the operations that models are run with, as one table per device. Model code calls nothing else, so a
 * model never knows where it runs.
 *
 * "reference" is the plain definition of every operation: loops, sums in double. "cpu" is the fast one, tested against
 * it. Memory: float pointers are the device's (from allocate()) unless marked host; sizes and lists of indices are
 * the host's. Matrices are row-major, [n, d] with a stride (in floats) between rows where one is given. Nothing here
 * fails: sizes are the caller's to check, and without memory the program ends with 71. None of it may be called from
 * inside parallel_for(). Results don't depend on the number of threads. */
#ifndef COMPUTE_DEVICE_H
#define COMPUTE_DEVICE_H

#include "tensor/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a product with a packed matrix does to its input first: nothing, or it is rounded to 8-bit integers, in groups
 * of ACTIVATION_GROUP columns (a shorter one at the end) that share an f32 scale, the group's largest magnitude / 127
 * (ties to even). Matrices in a plain dtype take f32 always. */
enum activations { ACTIVATIONS_F32, ACTIVATIONS_INT8 };
enum { ACTIVATION_GROUP = 32 };

/* What products of many rows do to their two factors first: nothing, or both are rounded to bf16, to nearest even, and
 * the products summed in f32. */
enum products { PRODUCTS_F32, PRODUCTS_BF16 };
extern const char *const product_names[];        /* "f32", "bf16"; NULL-terminated */

/* A matrix W [rows, columns] on a device, in the device's own layout; devices put what they need behind these. */
struct placed {
    int64_t rows, columns;
    struct dtype dtype;          /* as it was stored */
    enum activations activations;
    int64_t bytes;               /* that it takes on the device */
};

/* One of several products of the same input: y [n, rows] = x W', or y += x W'. */
struct product {
    const struct placed *w;
    float *y;
    int64_t stride;              /* of y, at least w->rows */
    bool add;
};

/* Attention of the queries of one sequence over its keys and values, all heads.
 *
 * Query i (0..n-1) stands at position past + i and sees the keys at positions 0..past+i (with a window w only the
 * last w of them, itself included). The key at position p lies in row p where p < shared, otherwise in row own + (p -
 * shared): so several continuations of one prefix can share its rows. A sequence by itself has own == shared == 0.
 * Query head h uses key head h / (n_head / n_kv_head). out = softmax(scale * q k') v. */
struct attention {
    int64_t n, past, shared, own, window;        /* window 0: none */
    int64_t n_head, n_kv_head, head_dim;
    float scale;
    const float *q;              /* [n, n_head * head_dim], q_stride */
    const float *k, *v;          /* rows of n_kv_head * head_dim floats, kv_stride */
    float *out;                  /* [n, n_head * head_dim], out_stride; must not overlap q */
    int64_t q_stride, kv_stride, out_stride;
    float *lse;                  /* [n, n_head]: log(sum(exp(scale * q k'))), for the backward pass; NULL: not wanted */
};

/* The backward pass of an attention whose past, shared and own are 0: gradients of q, k and v, which are set, in rows
 * as q, k and v lie (their strides), from that of out. out and lse are those of the forward pass. */
struct attention_back {
    const struct attention *forward;
    const float *dout;           /* out_stride */
    float *dq, *dk, *dv;
};

/* What there is to train in a matrix. */
enum numbers {
    NUMBERS_VALUES,              /* of a plain dtype: [rows, columns] */
    NUMBERS_SCALES,              /* of a group format: [rows, groups of a row] */
    NUMBERS_MINIMA,              /* likewise, where it has minima */
    NUMBERS,
};

/* A step of AdamW (Loshchilov, Hutter, arXiv:1711.05101), number step from 1 on. The gradient is multiplied by factor
 * first (a mean of sums, clipping). */
struct adamw {
    double rate, beta1, beta2, epsilon, decay, factor;
    int64_t step;
};

/* A teacher of which only the k most likely ids of each row are known, and what all others have together: each row sums
 * to 1. Lists are the host's. */
struct loss_top {
    int64_t k;                   /* 1 to d, then the rest is 0 */
    const int32_t *id;           /* [n, k], ascending in a row */
    const float *log_p;          /* [n, k]: the logarithms of their probabilities */
    const float *rest;           /* [n]: the probability of the others */
};

/* What rows of logits cost, and how that depends on them:  cross[i] * (lse_i - logit_i[target]) + distill[i] *
 * KL(softmax(teacher_i) || softmax(logit_i)). With a top, KL is that of distributions over k + 1 outcomes, the k ids
 * and any other: with p the teacher's probabilities, q the row's softmax, r = rest and s the sum of the others' q,
 *     sum over the k of p log(p / q) + r log(r / s),   and its gradient q - p for the k, q (1 - r / s) for the others.
 * That is the top-k distillation of Anshumann et al., arXiv:2503.16870, whose bias (the k as if they were all) the one
 * outcome for the rest takes away; at most the whole KL (log sum inequality), and all of it where k is d. All lists are
 * the host's; teacher and its lse may be NULL where distill is 0 throughout, or with a top. */
struct loss_rows {
    const int32_t *target;       /* of rows whose cross is 0: any number */
    const float *cross, *distill;
    const double *lse;           /* log_sum_exp() of the rows */
    const float *teacher;        /* [n, d] on the device */
    const double *teacher_lse;
    const struct loss_top *top;  /* instead of teacher; NULL: none */
};

/* An orthogonal turn of rows of d numbers, T = (Q kron H) S in each span of mix * block numbers, which divides d: S
 * flips signs; H[i][j] = (-1)^popcount(i & j) / sqrt(block) turns each block, a power of two; Q[k][l] = (cos a + sin a)
 * / sqrt(mix), a = 2 pi k l / mix, is Hartley's matrix and mixes the blocks of a span: number i of block k becomes the
 * sum over blocks l of Q[k][l] times number i of block l. Q and H are symmetric and their own inverses, so T' = S (Q
 * kron H). block log(block) additions per block and mix multiply-adds per number (none where mix is 1). */
enum { HADAMARD_MIX = 1024 };    /* the most that mix may be */

struct hadamard {
    int64_t block, mix;
    const float *sign;           /* [d], the device's: 1 and -1 */
    const float *hartley;        /* [mix, mix], the device's; unused where mix is 1 */
};

struct device {
    const char *name;

    /* Bytes at a multiple of 64. */
    void *(*allocate)(size_t bytes);
    void (*release)(void *memory);                       /* NULL is allowed */
    void (*upload)(void *to, const void *host, size_t bytes);
    void (*download)(void *host, const void *from, size_t bytes);
    void (*copy)(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t n, int64_t d);   /* no overlap */

    /* A matrix of rank 2 or of shape [1, rows, columns, 1], [1, rows, 1, columns] or [rows, 1, columns, 1] (cores of
     * dense, packed and low-rank chains), of any real dtype. The tensor moves in and is emptied. */
    struct placed *(*place)(struct tensor *matrix, enum activations activations);
    void (*displace)(struct placed *w);                  /* NULL is allowed */

    /* From now on multiply(), gemm() and their backward passes may round so, where there are rows enough for it to be
     * faster; PRODUCTS_F32 at first. False, with nothing changed, where this machine can't. */
    bool (*products)(enum products products);

    /* count products of x [n, columns]; all w have the same columns. Reads each w once, whatever n is. */
    void (*multiply)(const struct product *product, int count, const float *x, int64_t x_stride, int64_t n);

    /* y [n, columns] = the rows of W with these (host) indices, as f32. */
    void (*gather)(const struct placed *w, const int32_t *index, int64_t n, float *y, int64_t stride);

    /* y = alpha x w' (w [rows, columns] plain f32, w_stride) + beta y, for tiles that are made at run time. */
    void (*gemm)(float alpha, const float *x, int64_t x_stride, const float *w, int64_t w_stride, float beta, float *y,
                 int64_t y_stride, int64_t n, int64_t rows, int64_t columns);

    /* y = x with its axes in the order axes[0..rank-1] of x's; shape is x's. Contiguous, rank up to TENSOR_RANK. */
    void (*permute)(float *y, const float *x, int rank, const int64_t *shape, const int *axes);

    /* y [n, d] = x / sqrt(mean(x^2) + epsilon) * weight [d]. y may be x. Rows of both have this stride. */
    void (*rms_norm)(float *y, const float *x, int64_t stride, const float *weight, int64_t n, int64_t d,
                     double epsilon);

    /* Turns x [n, n_head, head_dim] (stride between rows) in place: with m = head_dim / 2, c = cosine[position][j], s =
     * sine[position][j] for j < m, (x_j, x_{j+m}) becomes (x_j c - x_{j+m} s, x_{j+m} c + x_j s). position: host, [n];
     * cosine, sine: [.., m]. */
    void (*rope)(float *x, int64_t stride, int64_t n, int64_t n_head, int64_t head_dim, const int32_t *position,
                 const float *cosine, const float *sine);

    /* y [n, d] = T x of each row, or T' x. y may be x. */
    void (*hadamard)(float *y, int64_t y_stride, const float *x, int64_t x_stride, const struct hadamard *turn,
                     bool inverse, int64_t n, int64_t d);

    void (*attend)(const struct attention *attention);

    void (*silu_multiply)(float *gate, const float *up, int64_t count);       /* gate = gate / (1 + exp(-gate)) * up */
    void (*add_scaled)(float *x, const float *y, float factor, int64_t count);   /* x += factor * y */
    void (*add_bias)(float *y, int64_t stride, const float *bias, int64_t n, int64_t d);    /* each row += bias [d] */
    void (*scale)(float *x, float factor, int64_t count);

    /* Of each row of logits [n, d] (contiguous): log(sum(exp(x))), in double, and the index of the (first) largest.
     * lse, argmax: host, [n]; either may be NULL. A row with a NaN gives NaN and -1. */
    void (*log_sum_exp)(const float *logits, int64_t n, int64_t d, double *lse, int32_t *argmax);

    /* KL(p || q) in nats of each pair of rows, softmax of logits p and q [n, d], whose log_sum_exp() are given
     * (host). */
    void (*divergence)(const float *p, const double *p_lse, const float *q, const double *q_lse, int64_t n, int64_t d,
                       double *kl);

    void (*clear)(float *x, int64_t count);              /* x = 0 */

    /* ---- training: the gradient of what is called y has the name dy. What adds says so. ---- */

    /* A matrix as place() takes it, to be trained: a plain one becomes f32; one in a group format keeps its codes and
     * whole zero points and gets f32 scales and minima. */
    struct placed *(*place_trained)(struct tensor *matrix);

    /* These numbers of a matrix from place_trained(), on the device, to be changed in place, and their count; NULL
     * where it has none. */
    float *(*numbers)(const struct placed *w, enum numbers which, int64_t *count);

    /* dx [n, columns] = dy W, or += with add. Of every matrix, trained or not; activations are f32. */
    void (*multiply_back)(const struct placed *w, const float *dy, int64_t dy_stride, float *dx, int64_t dx_stride,
                          bool add, int64_t n);

    /* Adds what y = x W' gives for the numbers of a trained W: d[which] has as many as numbers() says; NULL: not
     * wanted. */
    void (*multiply_gradient)(const struct placed *w, float *const d[NUMBERS], const float *dy, int64_t dy_stride,
                              const float *x, int64_t x_stride, int64_t n);

    /* gemm()'s two backward passes: x [n, columns] = y [n, rows] w [rows, columns] + beta x, and
     * w [rows, columns] += y' x. */
    void (*gemm_back)(const float *y, int64_t y_stride, const float *w, int64_t w_stride, float beta, float *x,
                      int64_t x_stride, int64_t n, int64_t rows, int64_t columns);
    void (*gemm_gradient)(float *w, int64_t w_stride, const float *y, int64_t y_stride, const float *x,
                          int64_t x_stride, int64_t n, int64_t rows, int64_t columns);

    /* dx = (with add: +=) the gradient of rms_norm()'s x, from dy and that x, and dweight [d] += (NULL: not wanted).
     * All rows have this stride. dx may be dy. */
    void (*rms_norm_back)(float *dx, bool add, float *dweight, const float *dy, const float *x, int64_t stride,
                          const float *weight, int64_t n, int64_t d, double epsilon);

    /* count attentions at once, all of the same number of heads and of the same sizes of them. */
    void (*attend_back)(const struct attention_back *back, int count);

    /* Of y = gate / (1 + exp(-gate)) * up: gate and up are replaced by their gradients. */
    void (*silu_multiply_back)(float *gate, float *up, const float *dy, int64_t count);

    /* logits [n, d] become the gradient of their cost times factor; cost [2][n] (host): what the two parts are before
     * cross and distill multiply them, 0 where these are. */
    void (*loss)(float *logits, const struct loss_rows *rows, float factor, int64_t n, int64_t d, double *cost);

    /* Of each row of x [n, d] and y (contiguous): cost[i] (host) = |x - y|^2 / |y|^2, sums in double, and dx = (with
     * add: +=) its gradient of x times weight[i] (host). A row of weight 0 costs 0, whatever its numbers are; where
     * another y is all zeros, neither is finite. */
    void (*deviation)(float *dx, bool add, const float *x, const float *y, const float *weight, int64_t n, int64_t d,
                      double *cost);

    /* In double. */
    double (*sum_squares)(const float *x, int64_t count);

    /* mean and square (0 before the first step) are the moments. */
    void (*adamw)(float *x, const float *dx, float *mean, float *square, const struct adamw *step, int64_t count);
};

extern const struct device device_cpu, device_reference;

/* The names of all devices, NULL-terminated, and one by its name; NULL where there is none. */
extern const char *const device_names[];
const struct device *device_find(const char *name);

/* The device that --device names. EX_UNAVAILABLE where there is none, after a message that tells those there are. */
int device_choose(const char *name, const struct device **device);

#endif

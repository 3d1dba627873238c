/* apply.h - operators at work: y = x W' without ever holding W.
 *
 * An input transform turns x once for all operators of a call that share it; an output transform turns what the terms
 * give back, in place.
 * What is done depends on the terms: a dense or packed matrix is one product; a low-rank term two; any other chain is
 * contracted with the input core by core, from the side that costs less, or where all of that is more work than the
 * matrix itself, W is rebuilt tile by tile, and each tile used and dropped. Multiply-adds and moved numbers are counted
 * once, when the operator is placed; the number of columns then decides. Terms add up. */
#ifndef OPERATOR_APPLY_H
#define OPERATOR_APPLY_H

#include "compute/device.h"
#include "operator/operator.h"

/* An operator on a device. */
struct applied;

/* Moves the operator onto the device (its payloads move in; *op is emptied). Cores of dense, packed and low-rank terms
 * keep their stored dtype; those of other chains become f32. */
struct applied *apply_place(const struct device *device, struct operator *op, enum activations activations);
void apply_free(struct applied *applied);                /* NULL is allowed */

int64_t apply_out(const struct applied *applied);
int64_t apply_in(const struct applied *applied);
int64_t apply_bytes(const struct applied *applied);      /* that it takes on the device */

/* Multiply-adds of one column when n are done at once. */
int64_t apply_work(const struct applied *applied, int64_t n);

/* One of several operators with the same input (q, k, v; gate, up): y [n, out] = x W', or += with add. */
struct application {
    const struct applied *w;
    float *y;
    int64_t stride;
    bool add;
};

/* x [n, in]; workspace comes from the device and goes back, in pieces that don't grow with n beyond some hundred MiB
 * (rows are done in parts). */
void apply(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n);

/* The classes of numbers that can be trained, as bits. */
enum train {
    TRAIN_CORES = 1,             /* of terms of several cores; packed ones as plain numbers, unless their scales are */
    TRAIN_SCALES = 2,            /* scales and minima of packed cores that are a matrix or half of a low-rank term */
    TRAIN_MATRICES = 4,          /* plain matrices in one core */
};

/* apply_place() with these classes (bits) to be trained: in f32, the rest as it is stored. Activations are f32. */
struct applied *apply_place_trained(const struct device *device, struct operator *op, unsigned train);

/* Numbers of an operator that are trained together. */
struct trainable {
    enum train train;
    int term, site;              /* of the operator's terms that have numbers */
    enum numbers which;
    float *values;               /* on the device, in an order of the device's own: to be changed in place */
    int64_t count;
    float **gradient;            /* where apply_back() finds the memory, of as many, that it adds to; NULL: none */
};

/* Shows all that is trained, in a fixed order. */
void apply_trainable(struct applied *applied, void (*see)(void *context, const struct trainable *trainable),
                     void *context);

/* values, or a gradient (both on the device), in the order in which the core has them, or its rows their scales; host
 * [count]. */
void apply_download(const struct applied *applied, const struct trainable *trainable, const float *from, float *host);

/* apply() that keeps what the backward pass needs: of each row so many floats, on the device. */
int64_t apply_kept(const struct application *application, int count);
void apply_keep(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n,
                float *kept);

/* The backward pass: y of each application holds its gradient (add counts for nothing), x and kept are what they were.
 * dx [n, in], contiguous, is set, or added to with add; gradients of what is trained are added to. Terms that are
 * neither matrices nor low rank compute the states between their cores again. */
void apply_back(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n,
                const float *kept, float *dx, bool add);

/* y [n, in]: rows of W by (host) index, as embeddings are looked up. With an output transform each is a sum of rows of
 * the terms, and the call takes n times out times in multiply-adds. */
void apply_gather(const struct applied *applied, const int32_t *index, int64_t n, float *y, int64_t stride);

#endif

/* trainer_internal.h - micro-batches on their way through a model, or through one block, private to train. */
#ifndef TRAIN_TRAINER_INTERNAL_H
#define TRAIN_TRAINER_INTERNAL_H

#include "base/number.h"
#include "train/trainer.h"

/* A micro-batch on its way: inputs of all blocks and what leaves the last, and what blocks keep: those from first_kept
 * on each for itself, the others one after another in the same place. */
struct way {
    struct span *span;
    int n_span;
    int64_t n, first_kept;
    float *x;                    /* [n_layer + 1][n, d_model] */
    float *dx;
    bool last;                   /* micro-batch of the step */
    float *shared, *own;
    int64_t kept;                /* floats of the largest block */
    int64_t targets;             /* of LOSS_FEATURE: the last so many blocks are to give the teacher's states */
    float *target;               /* [targets][n, d_model] */
    const float *weight;         /* of LOSS_FEATURE, host: [n] */
};

/* Whole cache lines. */
static inline int64_t trainer_line(int64_t floats)
{
    return divide_up(floats, RANKS_LINE) * RANKS_LINE;
}

/* The sequences of a micro-batch; span is the caller's to free. */
struct way way_of(const struct micro_batch *batch);

/* The same with places for keys and values of so many heads' numbers each, k and v [way->n, keys]; the caller's. */
struct span *way_spans(const struct way *way, float *k, float *v, int64_t keys);

/* What the rows cost: targets and weights, [n] each; how many rows count is added to trainer->counted, how many
 * there are to trainer->tokens. */
void trainer_weigh(struct trainer *trainer, const struct micro_batch *batch, int32_t *target, float *cross,
                   float *distill);

/* The trainer's memory, of at least so many floats. */
float *trainer_room(struct trainer *trainer, int64_t floats);

/* Bytes of gradients, sums of them, moments, and messages. */
int64_t trainer_trained(const struct trainer *trainer, int64_t accumulate);

/* Where the teacher's states are that leave this block. */
float *way_target(const struct way *way, int64_t layer, const struct config *config);

/* Adds the gradient of the deviation of y [n, d_model], which leaves this block, to way->dx, and what it costs to
 * trainer->divergence. */
void way_deviate(struct trainer *trainer, const struct way *way, int64_t layer, const float *y);

#endif

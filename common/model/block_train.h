/* block_train.h - blocks forwards, keeping what the backward pass needs, and backwards. */
#ifndef MODEL_BLOCK_TRAIN_H
#define MODEL_BLOCK_TRAIN_H

#include "model/block.h"

/* Gradients of a block's norms, on the device, borrowed; NULL: not wanted. Those of its matrices are found through
 * apply_trainable(). */
struct block_gradients {
    float *input_norm, *post_norm, *q_norm, *k_norm;
};

/* Floats that block_keep() keeps of n rows. Some 4 d_model + 2 d_ff and what lies between factors, times n. */
int64_t block_kept(const struct config *config, const struct block *block, int64_t n);

/* block_forward() from x [n, d_model] to y (may be x), with all that is needed to come back in kept. All on the device.
 * The spans are whole sequences: past, shared and own are 0, k and v count for nothing. All n rows are done at once. */
void block_keep(struct forward *forward, const struct block *block, int64_t layer, const struct span *span, int n_span,
                const float *x, float *y, int64_t n, float *kept);

/* dx [n, d_model], the gradient of y, becomes that of x; gradients of what is trained are added to. x is what it was,
 * kept is used up: to come back again, block_keep() has to go there again. */
void block_back(struct forward *forward, const struct block *block, const struct block_gradients *gradients,
                int64_t layer, const struct span *span, int n_span, const float *x, float *dx, int64_t n, float *kept);

#endif

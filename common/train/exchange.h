/* exchange.h - gradients of all ranks added while the backward pass goes on, and updates divided among them; private to
 * train. Rajbhandari, Rasley, Ruwase, He, "ZeRO" (arXiv:1910.02054), stage 1, where moments are shared out. */
#ifndef TRAIN_EXCHANGE_H
#define TRAIN_EXCHANGE_H

#include "train/trainer.h"

/* The gradients of blocks from number block on (n_layer: of the head) are those of the whole step now: those that
 * aren't on their way yet get there. Nothing adds to them until trainer_step(). */
void exchange_send(struct trainer *trainer, int64_t block);

/* Sends the rest, and waits: gradients (with shares of moments, those that this rank updates), costs and counts of the
 * trainer become sums over all ranks. The gradient's norm, undivided: equal bytes for any number of ranks where the
 * gradient has equal bytes. */
double exchange_finish(struct trainer *trainer);

/* What is trained takes a step of AdamW, on all ranks; the gradient is used up. */
void exchange_update(struct trainer *trainer, double factor);

#endif

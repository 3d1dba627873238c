/* loss.h - losses of the head's rows, in chunks, private to train. */
#ifndef TRAIN_LOSS_H
#define TRAIN_LOSS_H

#include "train/trainer.h"

/* x, teacher_x [n, d_model]: what leaves the last blocks. target and cross, distill (host, [n]) as struct loss_rows has
 * them. dx [n, d_model] is set to the gradient of x; those of the final norm and the head are added to; the costs are
 * added to trainer->cross and trainer->divergence, undivided. Where trainer->top is there, it is the teacher of all
 * rows, and teacher_x NULL. */
void loss_back(struct trainer *trainer, const float *x, const float *teacher_x, const int32_t *target,
               const float *cross, const float *distill, int64_t n, float *dx);

/* Adds the cross entropies of rows (target < 0: none) to *cross. */
void loss_measure(struct trainer *trainer, const float *x, const int32_t *target, int64_t n, double *cross);

/* Bytes that loss_back() takes. */
int64_t loss_memory(const struct trainer *trainer, int64_t n);

#endif

/* block_internal.h - what the passes through blocks share. */
#ifndef MODEL_BLOCK_INTERNAL_H
#define MODEL_BLOCK_INTERNAL_H

#include "model/block.h"

/* Cuts count floats off the workspace, at multiples of 64 bytes, or only counts them where there is none yet (NULL). */
float *work_cut(float *work, size_t *at, int64_t count);

/* Makes the workspace have so many floats; what was in it is lost where it grows. */
void forward_ensure(struct forward *forward, size_t floats);

/* The positions of all rows, and tables that reach them. */
void forward_place(struct forward *forward, const struct span *span, int n_span, int64_t n);

/* y [n, d] += bias, where there is one. */
void bias_rows(const struct device *device, float *y, const float *bias, int64_t n, int64_t d);

#endif

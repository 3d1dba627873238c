/* aware_internal.h - what only the fits of this room need of aware.c. */
#ifndef FIT_AWARE_INTERNAL_H
#define FIT_AWARE_INTERNAL_H

#include "fit/aware.h"

/* aware_low_rank() that also gives tr(W H W'), which costs nothing there. */
int aware_low_rank_norm(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name,
                        int64_t rank, float *u, float *v, double *error, double *norm);

#endif

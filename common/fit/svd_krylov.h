/* svd_krylov.h - between svd.c and svd_krylov.c. */
#ifndef FIT_SVD_KRYLOV_H
#define FIT_SVD_KRYLOV_H

#include "fit/svd.h"

/* Whether the space that rank needs is small enough beside min(m, n) to be worth it. rank 0: whether discard
 * (relative to total) is large enough for f32 to tell. */
bool krylov_suits(int64_t m, int64_t n, const struct svd_target *target, double total);

/* svd_truncate() with svd->total set. With rank 0, *done is false (a is as it was, svd too) where the largest space
 * allowed misses more than discard. */
int krylov_truncate(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd, bool *done);

#endif

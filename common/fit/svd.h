/* svd.h - the truncated singular value decomposition of an f32 matrix: A ~ U R with orthonormal columns U and R =
 * U'A. */
#ifndef FIT_SVD_H
#define FIT_SVD_H

#include "base/random.h"

#include <stdbool.h>
#include <stdint.h>

/* How it was done. GRAM: eigenvectors of A'A or A A' in double, as accurate as f32 input allows. KRYLOV: a block
 * Krylov space, near the optimum (see svd_krylov.c). LAPACK: in double throughout. */
enum svd_method { SVD_GRAM, SVD_KRYLOV, SVD_LAPACK };

struct svd_target {
    int64_t rank;                /* columns of U, clipped to min(m, n); 0: the least that discard allows */
    double discard;              /* with rank 0: |A - U R|^2 may be this much, absolute */
    bool exact;                  /* LAPACK */
    bool draft;                  /* a quick look where A is large: less energy, a quarter of the time */
    bool numbers;                /* only the numbers: u and r may stay NULL */
    struct random random;
};

struct svd {
    enum svd_method method;
    int64_t rank;
    float *u;                    /* [m, rank], owned; |U'U - 1| to f32 rounding, also where A has a lower rank */
    float *r;                    /* [rank, n], owned: U'A */
    double *values;              /* [n_value] descending, owned: all, or the Krylov space's approximations */
    int64_t n_value;
    double total, kept;          /* |A|^2 and |U R|^2 = |R|^2 */
    double discarded;            /* |A - U R|^2 */
};

/* Decomposes a [m, n] row-major, m, n >= 1, which is only read. EX_DATAERR after a message where a isn't finite,
 * EX_SOFTWARE where a factorisation doesn't converge; then *svd is empty.
 * Besides a and the result, about 3 * 4 rank (m + n) bytes (KRYLOV), 24 min(m, n)^2 (GRAM), 24 m n (LAPACK). */
int svd_truncate(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd);

void svd_free(struct svd *svd);

#endif

/* svd.c - picks the method for a truncated SVD by the sizes, and does those that look at all of the spectrum. */
#include "fit/svd.h"
#include "fit/svd_krylov.h"
#include "base/memory.h"
#include "compute/linalg.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void svd_free(struct svd *svd)
{
    free(svd->u);
    free(svd->r);
    free(svd->values);
    *svd = (struct svd){0};
}

/* Sets rank, kept and discarded from all squared singular values. The tail is summed from its small end: as a
 * difference of large sums it would lose what matters where almost all is kept. */
static void choose_rank(struct svd *svd, const struct svd_target *target, const double *squares, int64_t count)
{
    int64_t rank = count;
    double tail = 0;

    while (rank > 1 && (target->rank ? rank > target->rank : tail + squares[rank - 1] <= target->discard))
        tail += squares[--rank];
    svd->rank = rank;
    svd->discarded = tail;
    svd->kept = 0;
    for (int64_t i = rank - 1; i >= 0; i--)
        svd->kept += squares[i];
}

/* m <= n: U is the leading eigenvectors of A A'. */
static void left_from_gram(struct svd *svd, const double *g, int64_t m)
{
    svd->u = xaligned((size_t)(m * svd->rank), sizeof *svd->u);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < svd->rank; j++)
            svd->u[i * svd->rank + j] = (float)g[j * m + i];
}

/* m > n: with V the leading eigenvectors of A'A, U = A V / sigma. Where sigma is too small for that to be
 * accurate, the orthonormalisation restores a basis; what such columns lack in direction is below f32 rounding of
 * A. */
static int left_from_product(struct svd *svd, const float *a, int64_t m, int64_t n, const double *g,
                             struct random random)
{
    float *v = xaligned((size_t)(svd->rank * n), sizeof *v);

    for (int64_t i = 0; i < svd->rank; i++)
        for (int64_t j = 0; j < n; j++)
            v[i * n + j] = svd->values[i] > 0 ? (float)(g[i * n + j] / svd->values[i]) : 0;
    svd->u = xaligned((size_t)(m * svd->rank), sizeof *svd->u);
    linalg_gemm(1, matrix_of(a, m, n), matrix_turn(matrix_of(v, svd->rank, n)), 0, matrix_of(svd->u, m, svd->rank));
    free(v);
    return linalg_orthonormalise(matrix_turn(matrix_of(svd->u, m, svd->rank)), random);
}

static int by_gram(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd)
{
    int64_t side = m < n ? m : n;
    double *g = xaligned((size_t)(side * side), sizeof *g), *squares = xmallocarray((size_t)side, sizeof *squares);
    struct matrix whole = matrix_of(a, m, n);
    int rc;

    svd->method = SVD_GRAM;
    linalg_gram(m <= n ? whole : matrix_turn(whole), g);
    rc = target->numbers ? linalg_eigenvalues(side, g, squares) : linalg_eigh(side, g, squares);
    if (!rc) {
        svd->n_value = side;
        svd->values = xmallocarray((size_t)side, sizeof *svd->values);
        for (int64_t i = 0; i < side; i++) {
            squares[i] = squares[i] > 0 ? squares[i] : 0;          /* rounding may leave -1e-17 */
            svd->values[i] = sqrt(squares[i]);
        }
        choose_rank(svd, target, squares, side);
        if (target->numbers)
            rc = EX_OK;
        else if (m <= n)
            left_from_gram(svd, g, m);
        else
            rc = left_from_product(svd, a, m, n, g, target->random);
    }
    free(g);
    free(squares);
    if (!rc && !target->numbers) {
        svd->r = xaligned((size_t)(svd->rank * n), sizeof *svd->r);
        linalg_gemm(1, matrix_turn(matrix_of(svd->u, m, svd->rank)), whole, 0, matrix_of(svd->r, svd->rank, n));
    }
    return rc;
}

static int by_lapack(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd)
{
    int64_t k = m < n ? m : n;
    double *wide = xaligned((size_t)(m * n), sizeof *wide), *u = xaligned((size_t)(m * k), sizeof *u);
    double *vt = xaligned((size_t)(k * n), sizeof *vt), *squares = xmallocarray((size_t)k, sizeof *squares);
    int rc;

    svd->method = SVD_LAPACK;
    svd->n_value = k;
    svd->values = xmallocarray((size_t)k, sizeof *svd->values);
    for (int64_t i = 0; i < m * n; i++)
        wide[i] = a[i];
    rc = linalg_svd(matrix64_of(wide, m, n), u, svd->values, vt);
    if (!rc) {
        for (int64_t i = 0; i < k; i++)
            squares[i] = svd->values[i] * svd->values[i];
        choose_rank(svd, target, squares, k);
        svd->u = xaligned((size_t)(m * svd->rank), sizeof *svd->u);
        svd->r = xaligned((size_t)(svd->rank * n), sizeof *svd->r);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < svd->rank; j++)
                svd->u[i * svd->rank + j] = (float)u[i * k + j];
        for (int64_t i = 0; i < svd->rank; i++)
            for (int64_t j = 0; j < n; j++)
                svd->r[i * n + j] = (float)(svd->values[i] * vt[i * n + j]);
    }
    free(wide);
    free(u);
    free(vt);
    free(squares);
    return rc;
}

int svd_truncate(const float *a, int64_t m, int64_t n, const struct svd_target *target, struct svd *svd)
{
    bool done = false;
    int rc = EX_OK;

    assert(m >= 1 && n >= 1 && target->rank >= 0);
    *svd = (struct svd){.total = linalg_sum_squares(a, m * n)};
    if (!isfinite(svd->total))
        rc = fail(EX_DATAERR, "cannot decompose a matrix of %lld x %lld: it isn't finite", (long long)m, (long long)n);
    else if (target->exact)
        rc = by_lapack(a, m, n, target, svd);
    else {
        if (krylov_suits(m, n, target, svd->total))
            rc = krylov_truncate(a, m, n, target, svd, &done);
        if (!rc && !done)
            rc = by_gram(a, m, n, target, svd);
    }
    if (rc)
        svd_free(svd);
    return rc;
}

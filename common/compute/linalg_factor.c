/* linalg_factor.c - factorisations: LAPACK's eigensolver and SVD, and orthonormalisation by products. */
#include "compute/linalg.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <cblas.h>
#include <lapacke.h>
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SOLVE_TILE = 1024, ROUNDS = 12 };

/* -1 where the entry of largest magnitude is negative, else 1. */
static double sign_of(const double *vector, int64_t count, int64_t stride)
{
    double best = 0;

    for (int64_t i = 0; i < count; i++)
        if (fabs(vector[i * stride]) > fabs(best))
            best = vector[i * stride];
    return best < 0 ? -1 : 1;
}

static void scale(double *vector, int64_t count, int64_t stride, double factor)
{
    for (int64_t i = 0; i < count; i++)
        vector[i * stride] *= factor;
}

/* LAPACK's order is ascending, ours descending. */
static void reverse_rows(int64_t n, double *g, double *values)
{
    for (int64_t i = 0; i < n / 2; i++) {
        double *a = g + i * n, *b = g + (n - 1 - i) * n, value = values[i];

        values[i] = values[n - 1 - i];
        values[n - 1 - i] = value;
        for (int64_t j = 0; j < n; j++) {
            double swap = a[j];

            a[j] = b[j];
            b[j] = swap;
        }
    }
}

/* LAPACK's order: ascending, vectors in columns of a column-major matrix. job is 'V' or 'N'. */
static int eigen(char job, int64_t n, double *g, double *values)
{
    double ask = 0, *work;
    lapack_int ask_int = 0, *work_int, info, size = (lapack_int)n;

    if (n == 0)
        return EX_OK;
    /* The size of the workspace is about 2 n^2 and counted in 32 bits. */
    if (n > 30000)
        return fail(EX_SOFTWARE, "cannot find the eigenvalues of a matrix of order %lld: at most 30000", (long long)n);
    info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, job, 'L', size, g, size, values, &ask, -1, &ask_int, -1);
    assert(info == 0);
    work = xaligned((size_t)ask, sizeof *work);
    work_int = xmallocarray((size_t)ask_int, sizeof *work_int);
    info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, job, 'L', size, g, size, values, work, (lapack_int)ask, work_int,
                               ask_int);
    free(work);
    free(work_int);
    if (info)
        return fail(EX_SOFTWARE, "the symmetric eigensolver doesn't converge at order %lld", (long long)n);
    return EX_OK;
}

int linalg_eigenvalues(int64_t n, double *g, double *values)
{
    int rc = eigen('N', n, g, values);

    for (int64_t i = 0; i < n / 2 && !rc; i++) {
        double swap = values[i];

        values[i] = values[n - 1 - i];
        values[n - 1 - i] = swap;
    }
    return rc;
}

int linalg_eigh(int64_t n, double *g, double *values)
{
    int rc = eigen('V', n, g, values);

    if (rc)
        return rc;
    reverse_rows(n, g, values);             /* columns of the column-major result are our rows */
    for (int64_t i = 0; i < n; i++)
        scale(g + i * n, n, 1, sign_of(g + i * n, n, 1));
    return EX_OK;
}

int linalg_svd(struct matrix64 a, double *u, double *s, double *vt)
{
    lapack_int m = (lapack_int)a.rows, n = (lapack_int)a.columns, k = m < n ? m : n, info, *work_int;
    double ask = 0, *work;

    if (k == 0)
        return EX_OK;
    if (a.rows > INT_MAX || a.columns > INT_MAX || k > 15000)
        return fail(EX_SOFTWARE, "cannot decompose a matrix of %lld x %lld exactly: the shorter side is over 15000",
                    (long long)a.rows, (long long)a.columns);
    assert(!a.turned && a.stride == a.columns);
    /* Column-major LAPACK sees a' = v s u', so its left vectors are our right ones. */
    work_int = xmallocarray((size_t)k * 8, sizeof *work_int);
    info = LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', n, m, a.data, n, s, vt, n, u, k, &ask, -1, work_int);
    assert(info == 0);
    work = xaligned((size_t)ask, sizeof *work);
    info = LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', n, m, a.data, n, s, vt, n, u, k, work, (lapack_int)ask, work_int);
    free(work);
    free(work_int);
    if (info)
        return fail(EX_SOFTWARE, "the SVD doesn't converge at %lld x %lld", (long long)a.rows, (long long)a.columns);
    for (int64_t i = 0; i < k; i++) {
        double sign = sign_of(u + i, m, k);

        scale(u + i, m, k, sign);
        scale(vt + i * n, n, 1, sign);
    }
    return EX_OK;
}

struct solve {
    struct matrix x;
    const float *l;                         /* lower triangle [x.rows, x.rows] */
};

static void solve_item(void *context, int64_t item, int thread)
{
    const struct solve *p = context;
    int64_t first = item * SOLVE_TILE, width = p->x.columns - first;
    int r = (int)p->x.rows, c = (int)(width < SOLVE_TILE ? width : SOLVE_TILE);

    (void)thread;
    if (p->x.turned)
        cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, c, r, 1, p->l, r,
                    p->x.data + first * p->x.stride, (int)p->x.stride);
    else
        cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, r, c, 1, p->l, r,
                    p->x.data + first, (int)p->x.stride);
}

/* x = l^-1 x for g = l l', where g, scaled to a unit diagonal, is well conditioned; else false, with x as it was.
 * g is kept. */
static bool solve_cholesky(struct matrix x, const double *g)
{
    int64_t r = x.rows;
    double *l = xmallocarray((size_t)(r * r), sizeof *l), least = 1;
    float *l32 = xmallocarray((size_t)(r * r), sizeof *l32);
    bool good = true;

    for (int64_t i = 0; i < r && good; i++) {
        good = g[i * r + i] > 0;
        for (int64_t j = 0; j <= i && good; j++)
            l[i * r + j] = l[j * r + i] = g[i * r + j] / sqrt(g[i * r + i]) / sqrt(g[j * r + j]);
    }
    good = good && LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)r, l, (lapack_int)r) == 0;
    for (int64_t i = 0; i < r && good; i++)
        least = l[i * r + i] < least ? l[i * r + i] : least;
    good = good && least > 1e-4;            /* the next round's matrix then differs from the identity by 1e-3 at most */
    if (good) {
        struct solve p = {x, l32};

        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < r; j++)
                l32[i * r + j] = j > i ? 0 : (float)(l[i * r + j] * sqrt(g[i * r + i]));
        parallel_for((x.columns + SOLVE_TILE - 1) / SOLVE_TILE, solve_item, &p);
    }
    free(l);
    free(l32);
    return good;
}

static void fill_row(struct matrix x, int64_t row, struct random fill)
{
    int64_t padded = (x.columns + 3) / 4 * 4;
    float *values = xmallocarray((size_t)padded, sizeof *values);

    random_normal(fill, (uint64_t)(row * padded), padded, values);
    for (int64_t j = 0; j < x.columns; j++)
        *(x.turned ? x.data + j * x.stride + row : x.data + row * x.stride + j) = values[j] / sqrtf((float)x.columns);
    free(values);
}

/* x = s^-1/2 e' x for g = e s e'; directions whose value is nought become random. Destroys g. */
static int rotate(struct matrix x, double *g, struct random fill)
{
    int64_t r = x.rows;
    double *values = xmallocarray((size_t)r, sizeof *values), *norm = xmallocarray((size_t)r, sizeof *norm);
    float *turn = xmallocarray((size_t)(r * r), sizeof *turn), *old = xaligned((size_t)(r * x.columns), sizeof *old);
    struct matrix copy = {old, x.rows, x.columns, x.turned ? x.rows : x.columns, x.turned};
    int64_t lines = x.turned ? x.columns : x.rows, length = copy.stride;
    int rc;

    for (int64_t i = 0; i < r; i++)         /* rows of length 1 first, so that small rows count as much as large ones */
        norm[i] = g[i * r + i] > 0 ? sqrt(g[i * r + i]) : 1;
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < r; j++)
            g[i * r + j] /= norm[i] * norm[j];
    rc = linalg_eigh(r, g, values);
    if (!rc) {
        for (int64_t i = 0; i < lines; i++)
            memcpy(old + i * length, x.data + i * x.stride, (size_t)length * sizeof *old);
        for (int64_t i = 0; i < r; i++)
            for (int64_t j = 0; j < r; j++)
                turn[i * r + j] = values[i] < 1e-12 ? 0 : (float)(g[i * r + j] / norm[j] / sqrt(values[i]));
        linalg_gemm(1, matrix_of(turn, r, r), copy, 0, x);
        for (int64_t i = 0; i < r; i++)
            if (values[i] < 1e-12)
                fill_row(x, i, fill);
    }
    free(values);
    free(norm);
    free(turn);
    free(old);
    return rc;
}

/* The largest entry of |g - 1|; NaN where there is one. */
static double defect_of(int64_t r, const double *g)
{
    double most = 0;

    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j <= i; j++) {
            double defect = fabs(g[i * r + j] - (i == j));

            if (!(defect <= most))
                most = defect;
            if (isnan(most))
                return most;
        }
    return most;
}

int linalg_orthonormalise(struct matrix x, struct random fill)
{
    double *g = xaligned((size_t)(x.rows * x.rows), sizeof *g), defect = 0;
    int rc = EX_OK;

    assert(x.rows <= x.columns && x.stride <= INT_MAX);
    for (int round = 0; round < ROUNDS; round++) {
        linalg_gram(x, g);
        defect = defect_of(x.rows, g);
        if (!isfinite(defect) || defect < 1e-6)
            break;
        if (solve_cholesky(x, g)) {
            /* One step squares the defect: below this the result is as good as f32 can hold. */
            if (defect < 1e-4)
                break;
            continue;
        }
        fill.stream += 1;                   /* other random numbers in each round */
        rc = rotate(x, g, fill);
        if (rc)
            break;
    }
    free(g);
    if (!rc && !(defect < 1e-4))
        rc = fail(EX_SOFTWARE, "cannot orthonormalise %lld vectors of length %lld", (long long)x.rows,
                  (long long)x.columns);
    return rc;
}

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

/* What turning the vectors of the tridiagonal matrix back needs: the reflectors that dsytrd left in g. */
struct reflectors {
    int64_t n, count;
    const double *g, *tau;
    double *vector;                         /* [count, n] */
    double *work;                           /* [threads, work_size] */
    int64_t work_size;
};

enum { BACK_TILE = 96 };

static void turn_back(void *context, int64_t item, int thread)
{
    const struct reflectors *p = context;
    int64_t first = item * BACK_TILE, width = p->count - first < BACK_TILE ? p->count - first : BACK_TILE;

    LAPACKE_dormtr_work(LAPACK_COL_MAJOR, 'L', 'L', 'N', (int)p->n, (int)width, p->g, (int)p->n, p->tau,
                        p->vector + first * p->n, (int)p->n, p->work + thread * p->work_size, (int)p->work_size);
}

/* g becomes the tridiagonal matrix (diagonal, beside) and its reflectors. */
static void tridiagonalise(int64_t n, double *g, double *diagonal, double *beside, double *tau)
{
    double ask = 0, *work;

    LAPACKE_dsytrd_work(LAPACK_COL_MAJOR, 'L', (int)n, g, (int)n, diagonal, beside, tau, &ask, -1);
    work = xaligned((size_t)ask, sizeof *work);
    LAPACKE_dsytrd_work(LAPACK_COL_MAJOR, 'L', (int)n, g, (int)n, diagonal, beside, tau, work, (int)ask);
    free(work);
}

/* Vectors, in rows, of a tridiagonal matrix; its values, ascending, take the place of the diagonal. */
static bool conquer(int64_t n, double *diagonal, double *beside, double *vector)
{
    lapack_int ask_int = 0, *work_int, info;
    double ask = 0, *work;

    LAPACKE_dstedc_work(LAPACK_COL_MAJOR, 'I', (int)n, diagonal, beside, vector, (int)n, &ask, -1, &ask_int, -1);
    work = xaligned((size_t)ask, sizeof *work);
    work_int = xmallocarray((size_t)ask_int, sizeof *work_int);
    info = LAPACKE_dstedc_work(LAPACK_COL_MAJOR, 'I', (int)n, diagonal, beside, vector, (int)n, work, (lapack_int)ask,
                               work_int, ask_int);
    free(work);
    free(work_int);
    return info == 0;
}

int linalg_eigh_leading(int64_t n, int64_t count, double *g, double *values)
{
    struct reflectors p = {.n = n, .count = count, .g = g, .work_size = BACK_TILE * 64 + 65 * 64};
    double *beside, *tau;
    int rc = EX_OK;

    assert(count >= 0 && count <= n);
    if (n == 0)
        return EX_OK;
    if (n > 30000)
        return fail(EX_SOFTWARE, "cannot find the eigenvalues of a matrix of order %lld: at most 30000", (long long)n);
    beside = xmallocarray((size_t)n, sizeof *beside);
    tau = xmallocarray((size_t)n, sizeof *tau);
    p.vector = xaligned((size_t)(n * n), sizeof *p.vector);
    tridiagonalise(n, g, values, beside, tau);
    if (!conquer(n, values, beside, p.vector))
        rc = fail(EX_SOFTWARE, "the symmetric eigensolver doesn't converge at order %lld", (long long)n);
    if (!rc) {
        reverse_rows(n, p.vector, values);
        p.tau = tau;
        p.work = xmallocarray((size_t)parallel_threads(), (size_t)p.work_size * sizeof *p.work);
        parallel_for((count + BACK_TILE - 1) / BACK_TILE, turn_back, &p);
        memcpy(g, p.vector, (size_t)(count * n) * sizeof *g);
        for (int64_t i = 0; i < count; i++)
            scale(g + i * n, n, 1, sign_of(g + i * n, n, 1));
        free(p.work);
    }
    free(beside);
    free(tau);
    free(p.vector);
    return rc;
}

/* Copies the upper triangle to the lower one, or back. */
static void mirror(int64_t n, double *a, bool back)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            if (back)
                a[j * n + i] = a[i * n + j];
            else
                a[i * n + j] = a[j * n + i];
}

int64_t linalg_cholesky_pivoted(int64_t n, double *a, double tolerance, int *pivot)
{
    double *diagonal = xmallocarray((size_t)n + 1, sizeof *diagonal), *work, most = 0;
    lapack_int rank = (lapack_int)n;
    bool good;

    mirror(n, a, false);
    for (int64_t i = 0; i < n; i++) {
        diagonal[i] = a[i * n + i];
        most = fmax(most, diagonal[i]);
        pivot[i] = (int)i;
    }
    good = linalg_cholesky(n, a);
    for (int64_t i = 0; i < n && good; i++)
        good = a[i * n + i] * a[i * n + i] >= tolerance * most;
    if (!good) {
        mirror(n, a, true);
        for (int64_t i = 0; i < n; i++)
            a[i * n + i] = diagonal[i];
        work = xmallocarray((size_t)n, 2 * sizeof *work);
        LAPACKE_dpstrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, a, (lapack_int)n, pivot, &rank,
                            fmax(tolerance * most, 1e-300), work);
        for (int64_t i = 0; i < n; i++)
            pivot[i]--;
        free(work);
    }
    free(diagonal);
    return rank;
}

struct solve64 {
    double *x;
    int64_t rows, n, stride;
    const double *r;
    bool turned;
};

enum { SOLVE_ROWS = 64 };

static void solve64_item(void *context, int64_t item, int thread)
{
    const struct solve64 *p = context;
    int64_t first = item * SOLVE_ROWS, rows = p->rows - first < SOLVE_ROWS ? p->rows - first : SOLVE_ROWS;

    (void)thread;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, p->turned ? CblasTrans : CblasNoTrans, CblasNonUnit, (int)rows,
                (int)p->n, 1, p->r, (int)p->stride, p->x + first * p->n, (int)p->n);
}

void linalg_solve64(double *x, int64_t rows, int64_t n, const double *r, int64_t stride, bool turned)
{
    struct solve64 p = {x, rows, n, stride, r, turned};

    if (n > 0)
        parallel_for((rows + SOLVE_ROWS - 1) / SOLVE_ROWS, solve64_item, &p);
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

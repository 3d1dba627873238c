/* test_linalg.c - products, eigenvalues, SVD and orthonormalisation: against plain loops in double, by backward error,
 * orthogonality and known spectra, and equal for any number of threads. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/linalg.h"

#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float *noise(int64_t count, uint64_t stream)
{
    int64_t padded = (count + 3) / 4 * 4;
    float *values = xaligned((size_t)padded, sizeof *values);

    random_normal((struct random){1, stream}, 0, padded, values);
    return values;
}

static double at(struct matrix a, int64_t i, int64_t j)
{
    return a.turned ? a.data[j * a.stride + i] : a.data[i * a.stride + j];
}

/* The largest error of c against alpha a b + beta old, over the sum of the magnitudes of its terms. */
static double product_error(float alpha, struct matrix a, struct matrix b, float beta, struct matrix c,
                            const float *old)
{
    double most = 0;

    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.columns; j++) {
            struct matrix was = c;
            double sum, size, error;

            was.data = (float *)old;
            sum = beta != 0 ? beta * at(was, i, j) : 0;
            size = fabs(sum) + 1e-30;
            for (int64_t l = 0; l < a.columns; l++) {
                sum += (double)alpha * at(a, i, l) * at(b, l, j);
                size += fabs((double)alpha * at(a, i, l) * at(b, l, j));
            }
            error = fabs(sum - at(c, i, j)) / size;
            most = error <= most ? most : error;
        }
    return most;
}

static void check_product(int64_t m, int64_t n, int64_t k, int turned, float beta)
{
    float *a = noise(m * k, 1), *b = noise(k * n, 2), *c = noise(m * n, 3), *old = noise(m * n, 3);
    struct matrix ma = turned & 1 ? matrix_turn(matrix_of(a, k, m)) : matrix_of(a, m, k);
    struct matrix mb = turned & 2 ? matrix_turn(matrix_of(b, n, k)) : matrix_of(b, k, n);
    struct matrix mc = turned & 4 ? matrix_turn(matrix_of(c, n, m)) : matrix_of(c, m, n);

    if (beta == 0)
        memset(c, 0xff, (size_t)(m * n) * sizeof *c);       /* NaN: must not be read */
    linalg_gemm(0.5f, ma, mb, beta, mc);
    /* Each product and sum rounds once, relative to the sum of magnitudes at most sqrt(k) + 2 roundings in practice. */
    CHECK_AT_MOST(product_error(0.5f, ma, mb, beta, mc, old), (sqrt((double)k) + 2) * 0x1p-24, "error of a product");
    free(a);
    free(b);
    free(c);
    free(old);
}

static void test_products(void)
{
    static const int64_t odd[] = {1, 2, 3, 7, 17, 33};

    for (size_t i = 0; i < 6; i++)
        for (int turned = 0; turned < 8; turned++)
            check_product(odd[i], odd[5 - i], odd[(i + 3) % 6], turned, turned % 2 ? 1 : 0);
    check_product(300, 520, 40, 0, 0);                      /* several tiles */
    check_product(520, 300, 40, 7, -1);
    check_product(5, 9, 5000, 0, 1);                        /* several chunks */
    check_product(5, 9, 5000, 3, 0);
}

static void test_empty_product(void)
{
    float c[4] = {1, 2, 3, 4};

    linalg_gemm(1, matrix_of(c, 2, 0), matrix_of(c, 0, 2), 2, matrix_of(c, 2, 2));
    assert_true(c[0] == 2 && c[3] == 8);
    linalg_gemm(1, matrix_of(c, 0, 2), matrix_of(c, 2, 2), 0, matrix_of(c, 0, 2));
}

static void test_product64(void)
{
    double a[6] = {1, 2, 3, 4, 5, 6}, c[4] = {0};

    linalg_gemm64(1, matrix64_of(a, 2, 3), matrix64_turn(matrix64_of(a, 2, 3)), 0, matrix64_of(c, 2, 2));
    assert_true(c[0] == 14 && c[1] == 32 && c[2] == 32 && c[3] == 77);
}

static void check_gram(int64_t rows, int64_t columns, int turned)
{
    float *a = noise(rows * columns, 4);
    double *g = xmallocarray((size_t)(rows * rows), sizeof *g), most = 0;
    struct matrix m = turned ? matrix_turn(matrix_of(a, columns, rows)) : matrix_of(a, rows, columns);

    linalg_gram(m, g);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < rows; j++) {
            double sum = 0, error;

            for (int64_t l = 0; l < columns; l++)
                sum += at(m, i, l) * at(m, j, l);
            error = fabs(sum - g[i * rows + j]) / (double)columns;
            most = error <= most ? most : error;
        }
    CHECK_AT_MOST(most, 1e-14, "error of a Gram matrix");
    free(a);
    free(g);
}

static void test_gram(void)
{
    for (int turned = 0; turned < 2; turned++) {
        check_gram(1, 1, turned);
        check_gram(7, 3, turned);
        check_gram(33, 3000, turned);
        check_gram(250, 600, turned);
    }
}

static void test_eigh(void)
{
    enum { N = 67 };
    double g[N * N], v[N * N], values[N], residual = 0, overlap = 0;
    float *a = noise(N * N, 5);

    linalg_gram(matrix_of(a, N, N), g);
    memcpy(v, g, sizeof g);
    assert_int_equal(linalg_eigh(N, v, values), EX_OK);
    for (int i = 0; i < N; i++) {
        double best = 0;

        assert_true(i == 0 || values[i] <= values[i - 1]);
        for (int j = 0; j < N; j++) {
            double sum = 0, dot = 0;

            for (int l = 0; l < N; l++) {
                sum += g[j * N + l] * v[i * N + l];
                dot += v[i * N + l] * v[j * N + l];
            }
            residual = fmax(residual, fabs(sum - values[i] * v[i * N + j]) / values[0]);
            overlap = fmax(overlap, fabs(dot - (i == j)));
            if (fabs(v[i * N + j]) > fabs(best))
                best = v[i * N + j];
        }
        assert_true(best > 0);
    }
    CHECK_AT_MOST(residual, 1e-13, "|G v - lambda v|");
    CHECK_AT_MOST(overlap, 1e-13, "|V'V - 1|");
    free(a);
}

static void check_svd(int64_t m, int64_t n)
{
    int64_t k = m < n ? m : n;
    double *a = xmallocarray((size_t)(m * n), sizeof *a), *u = xmallocarray((size_t)(m * k), sizeof *u);
    double *vt = xmallocarray((size_t)(k * n), sizeof *vt), *s = xmallocarray((size_t)k, sizeof *s), most = 0;
    float *values = noise(m * n, 6);

    for (int64_t i = 0; i < m * n; i++)
        a[i] = values[i];
    assert_int_equal(linalg_svd(matrix64_of(a, m, n), u, s, vt), EX_OK);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = -values[i * n + j];

            for (int64_t l = 0; l < k; l++)
                sum += u[i * k + l] * s[l] * vt[l * n + j];
            most = fmax(most, fabs(sum) / s[0]);
        }
    CHECK_AT_MOST(most, 1e-13, "|A - U S V'|");
    free(a);
    free(u);
    free(s);
    free(vt);
    free(values);
}

static void test_svd(void)
{
    check_svd(1, 1);
    check_svd(31, 17);
    check_svd(17, 63);
    check_svd(1, 9);
}

static double defect(struct matrix x)
{
    double *g = xmallocarray((size_t)(x.rows * x.rows), sizeof *g), most = 0;

    linalg_gram(x, g);
    for (int64_t i = 0; i < x.rows * x.rows; i++)
        most = fmax(most, fabs(g[i] - (i % (x.rows + 1) == 0)));
    free(g);
    return most;
}

/* What of `old` the rows of x don't span, over |old|. */
static double outside(struct matrix old, struct matrix x)
{
    float *dot = xcalloc((size_t)(old.rows * x.rows), sizeof *dot);
    double all = 0, inside = 0;

    linalg_gemm(1, old, matrix_turn(x), 0, matrix_of(dot, old.rows, x.rows));
    for (int64_t i = 0; i < old.rows * x.rows; i++)
        inside += (double)dot[i] * dot[i];
    for (int64_t i = 0; i < old.rows; i++)
        for (int64_t j = 0; j < old.columns; j++)
            all += at(old, i, j) * at(old, i, j);
    free(dot);
    return sqrt(fmax(0, all - inside) / all);
}

static void test_orthonormalise(void)
{
    enum { R = 24, N = 700 };
    float *a = noise(R * N, 7), *old = xmallocarray(R * N, sizeof *old);

    for (int kind = 0; kind < 5; kind++)
        for (int turned = 0; turned < 2; turned++) {
            struct matrix x = turned ? matrix_turn(matrix_of(a, N, R)) : matrix_of(a, R, N), was = x;

            free(a);
            x.data = a = noise(R * N, 7);
            for (int64_t i = 0; i < R; i++)
                for (int64_t j = 0; j < N; j++) {
                    float *to = turned ? a + j * R + i : a + i * N + j;

                    if (kind == 1)                          /* lengths over 24 orders of magnitude */
                        *to *= powf(10, (float)(i - 12));
                    else if (kind == 2 && i > 3)            /* rank 4 */
                        *to = *(turned ? a + j * R + i % 4 : a + i % 4 * N + j);
                    else if (kind == 3)
                        *to = 0;
                    else if (kind == 4 && i > 0)            /* nearly parallel */
                        *to = *(turned ? a + j * R : a + j) + 1e-4f * *to;
                }
            was.data = old;
            memcpy(old, a, R * N * sizeof *old);
            assert_int_equal(linalg_orthonormalise(x, (struct random){1, 8}), EX_OK);
            CHECK_AT_MOST(defect(x), 1e-6, "|X X' - 1|");
            if (kind != 3)
                CHECK_AT_MOST(outside(was, x), 2e-3, "lost of the span");   /* sqrt of f32 rounding of a difference */
        }
    a[5] = NAN;
    error_capture((char[200]){0}, 200);
    assert_int_equal(linalg_orthonormalise(matrix_of(a, R, N), (struct random){1, 8}), EX_SOFTWARE);
    error_capture(NULL, 0);
    free(a);
    free(old);
}

static void test_sum_squares(void)
{
    float *a = noise(200001, 9);
    double sum = 0;

    for (int i = 0; i < 200001; i++)
        sum += (double)a[i] * a[i];
    CHECK_AT_MOST(fabs(linalg_sum_squares(a, 200001) / sum - 1), 1e-13, "sum of squares");
    a[150000] = -INFINITY;
    assert_false(isfinite(linalg_sum_squares(a, 200001)));
    a[150000] = NAN;
    assert_false(isfinite(linalg_sum_squares(a, 200001)));
    a[150000] = 3e38f;                                      /* its square is beyond f32 */
    assert_true(isfinite(linalg_sum_squares(a, 200001)));
    assert_true(linalg_sum_squares(a, 0) == 0);
    free(a);
}

static void test_threads(void)
{
    enum { R = 70, N = 5000 };
    float *a = noise(R * N, 10), *c[2], *x[2];
    double *g[2];

    for (int i = 0; i < 2; i++) {
        parallel_set(i ? 4 : 1);
        c[i] = xcalloc(R * R, sizeof **c);
        g[i] = xcalloc(R * R, sizeof **g);
        x[i] = noise(R * N, 11);
        linalg_gemm(1, matrix_of(a, R, N), matrix_turn(matrix_of(a, R, N)), 0, matrix_of(c[i], R, R));
        linalg_gram(matrix_of(a, R, N), g[i]);
        assert_int_equal(linalg_orthonormalise(matrix_of(x[i], R, N), (struct random){1, 12}), EX_OK);
    }
    parallel_set(0);
    assert_memory_equal(c[0], c[1], R * R * sizeof **c);
    assert_memory_equal(g[0], g[1], R * R * sizeof **g);
    assert_memory_equal(x[0], x[1], R * N * sizeof **x);
    for (int i = 0; i < 2; i++) {
        free(c[i]);
        free(g[i]);
        free(x[i]);
    }
    free(a);
}

/* g [n, n] = a a' of a random a [n, columns], in double. */
static double *gram_made(int64_t n, int64_t columns)
{
    float *a = noise(n * columns, 50);
    double *g = xaligned((size_t)(n * n), sizeof *g);

    linalg_gram(matrix_of(a, n, columns), g);
    free(a);
    return g;
}

/* Leading vectors are those of the whole decomposition; below the diagonal nothing is read. */
static void test_eigh_leading(void)
{
    static const int64_t orders[] = {1, 2, 5, 90, 300};

    for (size_t k = 0; k < sizeof orders / sizeof *orders; k++) {
        int64_t n = orders[k], count = (n + 1) / 2;
        double *g = gram_made(n, n + 3), *all = gram_made(n, n + 3), *was = gram_made(n, n + 3);
        double *values = xmallocarray((size_t)n, sizeof *values), *whole = xmallocarray((size_t)n, sizeof *whole);

        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < i; j++)
                g[i * n + j] = NAN;
        assert_int_equal(linalg_eigh_leading(n, count, g, values), EX_OK);
        assert_int_equal(linalg_eigh(n, all, whole), EX_OK);
        for (int64_t i = 0; i < n; i++)
            CHECK_AT_MOST(fabs(values[i] - whole[i]), 1e-12 * whole[0], "value against the whole decomposition's");
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;

                for (int64_t l = 0; l < n; l++)
                    sum += was[j * n + l] * g[i * n + l];
                CHECK_AT_MOST(fabs(sum - values[i] * g[i * n + j]), 1e-12 * whole[0], "residual of a vector");
            }
        free(g);
        free(all);
        free(was);
        free(values);
        free(whole);
    }
}

/* Factors of full and of lower rank give the matrix back, and x r and x r' go back to x. */
static void test_cholesky_pivoted(void)
{
    static const int64_t sizes[][2] = {{1, 4}, {60, 80}, {300, 400}, {60, 20}, {300, 7}, {5, 0}};

    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int64_t n = sizes[k][0], rank = sizes[k][1] < n ? sizes[k][1] : n;
        double *a = gram_made(n, sizes[k][1]), *was = gram_made(n, sizes[k][1]);
        double *x = xcalloc((size_t)(2 * rank + 1), sizeof *x);
        int *pivot = xmallocarray((size_t)n, sizeof *pivot);

        assert_int_equal(linalg_cholesky_pivoted(n, a, 1e-11, pivot), rank);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;

                for (int64_t l = 0; l < rank && l <= i && l <= j; l++)
                    sum += a[l * n + i] * a[l * n + j];
                CHECK_AT_MOST(fabs(sum - was[pivot[i] * n + pivot[j]]), 1e-9, "r' r against a");
            }
        for (int64_t i = 0; i < rank; i++)
            for (int64_t j = 0; j < rank; j++) {
                x[j] += i <= j ? a[i * n + j] : 0;              /* ones times r, and r' */
                x[rank + j] += j <= i ? a[j * n + i] : 0;
            }
        linalg_solve64(x, 1, rank, a, n, false);
        linalg_solve64(x + rank, 1, rank, a, n, true);
        for (int64_t j = 0; j < 2 * rank; j++)
            CHECK_AT_MOST(fabs(x[j] - 1), 1e-6, "solution");
        free(a);
        free(was);
        free(x);
        free(pivot);
    }
}

CHECK_MAIN({"products agree with plain loops in double", test_products},
           {"empty products scale or do nothing", test_empty_product},
           {"products in double", test_product64},
           {"Gram matrices are exact to double rounding", test_gram},
           {"eigenvectors: residual, orthogonality, order, signs", test_eigh},
           {"leading eigenvectors are those of the whole", test_eigh_leading},
           {"pivoted Cholesky factors of any rank, and solutions by them", test_cholesky_pivoted},
           {"the SVD gives the matrix back", test_svd},
           {"orthonormalisation of good, bad and missing vectors", test_orthonormalise},
           {"sums of squares find what isn't finite", test_sum_squares},
           {"equal bytes for 1 and 4 threads", test_threads})

/* test_fit.c - truncated SVDs and TT-SVD: against prescribed spectra (Eckart-Young),
 * plain contraction in double, parameter formulas, and for equal bytes with 1 and 4 threads. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "fit/mpo.h"
#include "fit/reorder.h"
#include "fit/svd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static char message[400];

static float *noise(int64_t count, uint64_t stream)
{
    int64_t padded = (count + 3) / 4 * 4;
    float *values = xaligned((size_t)padded, sizeof *values);

    random_normal((struct random){1, stream}, 0, padded, values);
    return values;
}

/* [m, n] with the singular values k^-exponent, k = 1..rank: random orthonormal factors. */
static float *power_law(int64_t m, int64_t n, int64_t rank, double exponent)
{
    float *u = noise(rank * m, 101), *v = noise(rank * n, 102), *a = xcalloc((size_t)(m * n), sizeof *a);

    assert_int_equal(linalg_orthonormalise(matrix_of(u, rank, m), (struct random){1, 103}), EX_OK);
    assert_int_equal(linalg_orthonormalise(matrix_of(v, rank, n), (struct random){1, 104}), EX_OK);
    for (int64_t k = 0; k < rank; k++)
        for (int64_t i = 0; i < m; i++)
            u[k * m + i] *= (float)pow((double)(k + 1), -exponent);
    linalg_gemm(1, matrix_turn(matrix_of(u, rank, m)), matrix_of(v, rank, n), 0, matrix_of(a, m, n));
    free(u);
    free(v);
    return a;
}

static double tail(int64_t first, int64_t last, double exponent)
{
    double sum = 0;

    for (int64_t k = last; k >= first; k--)
        sum += pow((double)k, -2 * exponent);
    return sum;
}

static float *copy_of(const float *a, int64_t count)
{
    float *copy = xaligned((size_t)count, sizeof *copy);

    memcpy(copy, a, (size_t)count * sizeof *copy);
    return copy;
}

static struct mpo_shape shape_of(const char *text)
{
    struct mpo_shape shape;

    assert_true(shape_parse(text, &shape));
    return shape;
}

static int64_t size_of(const struct mpo_shape *shape)
{
    int64_t size = 1;

    for (int k = 0; k < shape->n_site; k++)
        size *= shape->out[k] * shape->in[k];
    return size;
}

/* |W - W'|_F / |W|_F by contraction in double; w isn't changed. */
static double true_error(const float *w, const struct mpo *mpo)
{
    int64_t left = 1, size = size_of(&mpo->shape);
    double *now = xcalloc(1, sizeof *now), error = 0, norm = 0;
    float *sites = copy_of(w, size);

    now[0] = 1;
    for (int k = 0; k < mpo->shape.n_site; k++) {
        int64_t a = mpo->bond[k], c = mpo->shape.out[k] * mpo->shape.in[k] * mpo->bond[k + 1];
        double *next = xcalloc((size_t)(left * c), sizeof *next);
        const float *core = (const float *)mpo->core[k].data;

        for (int64_t i = 0; i < left; i++)
            for (int64_t j = 0; j < a; j++)
                for (int64_t l = 0; l < c; l++)
                    next[i * c + l] += now[i * a + j] * core[j * c + l];
        free(now);
        now = next;
        left *= mpo->shape.out[k] * mpo->shape.in[k];
    }
    reorder_sites(sites, &mpo->shape);
    for (int64_t i = 0; i < size; i++) {
        error += (now[i] - sites[i]) * (now[i] - sites[i]);
        norm += (double)sites[i] * sites[i];
    }
    free(now);
    free(sites);
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

/* The largest entry of |U'U - 1| over all cores but the last. */
static double canonical_defect(const struct mpo *mpo)
{
    double most = 0;

    for (int k = 0; k < mpo->shape.n_site - 1; k++) {
        int64_t rows = mpo->bond[k] * mpo->shape.out[k] * mpo->shape.in[k], d = mpo->bond[k + 1];
        double *g = xmallocarray((size_t)(d * d), sizeof *g);

        linalg_gram(matrix_turn(matrix_of((float *)mpo->core[k].data, rows, d)), g);
        for (int64_t i = 0; i < d * d; i++)
            most = fmax(most, fabs(g[i] - (i % (d + 1) == 0)));
        free(g);
    }
    return most;
}

static struct mpo fitted(const float *w, const char *shape, struct mpo_budget budget)
{
    struct mpo_shape s = shape_of(shape);
    float *copy = copy_of(w, size_of(&s));
    struct mpo mpo;

    assert_int_equal(mpo_fit(copy, "test", &s, &budget, &mpo), EX_OK);
    assert_memory_equal(copy, w, (size_t)size_of(&s) * sizeof *w);
    free(copy);
    return mpo;
}

static void check_svd(int64_t m, int64_t n, int64_t known, double exponent, const struct svd_target *target)
{
    float *a = power_law(m, n, known, exponent), *left = copy_of(a, m * n);
    double error = 0, total = tail(1, known, exponent), best;
    struct svd svd;

    assert_int_equal(svd_truncate(a, m, n, target, &svd), EX_OK);
    linalg_gemm(-1, matrix_of(svd.u, m, svd.rank), matrix_of(svd.r, svd.rank, n), 1, matrix_of(left, m, n));
    error = linalg_sum_squares(left, m * n);
    best = tail(svd.rank + 1, known, exponent);
    if (target->rank)
        assert_int_equal(svd.rank, target->rank < m ? (target->rank < n ? target->rank : n) : m);
    else {
        CHECK_AT_MOST(error, target->discard * (1 + 1e-5), "discarded, of what is allowed");
        if (svd.method != SVD_KRYLOV && svd.rank > 1)
            assert_true(tail(svd.rank, known, exponent) > target->discard * (1 - 1e-5));
    }
    /* The optimum to 1e-4; f32 rounding of U, R and their product leaves about 1e-6 of |A|. */
    if (svd.method != SVD_KRYLOV)
        CHECK_AT_MOST(sqrt(error), sqrt(best) * (1 + 1e-4) + 2e-6 * sqrt(total), "error, of the optimum");
    else if (target->rank)
        CHECK_AT_MOST(0.99 * tail(1, svd.rank < known ? svd.rank : known, exponent), total - error,
                      "energy of the optimum");
    CHECK_AT_MOST(fabs(error - svd.discarded), 1e-4 * error + 1e-5 * total, "discarded as told and as found");
    CHECK_AT_MOST(fabs(svd.total - total), 1e-5 * total, "sum of squares");
    for (int64_t i = 0; i < svd.rank && svd.method != SVD_KRYLOV && i < known; i++)
        CHECK_AT_MOST(fabs(svd.values[i] - pow((double)(i + 1), -exponent)), 1e-6, "singular value");
    svd_free(&svd);
    free(a);
    free(left);
}

static void test_svd_by_rank(void)
{
    for (int exact = 0; exact < 2; exact++) {
        struct svd_target target = {.exact = exact, .random = {1, 3}};
        static const int64_t ranks[] = {1, 7, 40, 63, 100};

        for (size_t i = 0; i < 5; i++) {
            target.rank = ranks[i];
            check_svd(63, 129, 63, 0.5, &target);
            check_svd(129, 63, 63, 0.5, &target);
            check_svd(67, 67, 67, 2, &target);
            check_svd(129, 63, 5, 1, &target);              /* of rank 5 */
            check_svd(63, 129, 5, 1, &target);
        }
    }
}

static void test_svd_by_tolerance(void)
{
    for (int exact = 0; exact < 2; exact++)
        for (double discard = 1e-4; discard < 10; discard *= 30) {
            struct svd_target target = {.discard = discard, .exact = exact, .random = {1, 3}};

            check_svd(63, 129, 63, 0.5, &target);
            check_svd(129, 63, 63, 0.8, &target);
        }
}

static void test_svd_krylov(void)
{
    struct svd_target target = {.rank = 40, .random = {1, 3}};

    for (int i = 0; i < 2; i++) {
        check_svd(1200, 1100, 1100, 0.3, &target);
        check_svd(1100, 1200, 1100, 0.8, &target);
        check_svd(1100, 1200, 30, 0.5, &target);            /* of lower rank than asked for */
        target = (struct svd_target){.discard = 0.1 * tail(1, 1100, 0.8), .random = {1, 3}};
    }
}

/* All singular values equal: every Krylov block lies in the span of the first. */
static void test_svd_degenerate(void)
{
    enum { N = 1100 };
    float *a = xcalloc(N * N, sizeof *a);
    struct svd_target target = {.rank = 48, .random = {1, 3}};
    struct svd svd;

    for (int i = 0; i < N; i++)
        a[i * N + i] = 2;
    assert_int_equal(svd_truncate(a, N, N, &target, &svd), EX_OK);
    CHECK_AT_MOST(fabs(svd.kept / (4 * 48) - 1), 1e-5, "kept of the identity");
    svd_free(&svd);
    memset(a, 0, N * N * sizeof *a);
    assert_int_equal(svd_truncate(a, N, N, &target, &svd), EX_OK);
    assert_true(svd.kept == 0 && svd.discarded == 0);
    svd_free(&svd);
    free(a);
}

static void test_eckart_young(void)
{
    static const struct {
        int64_t out, in;
        const char *shape;
    } sizes[] = {{576, 1536, "576x1,1x1536"}, {192, 576, "192x1,1x576"}, {1536, 576, "1536x1,1x576"}};

    for (size_t i = 0; i < 3; i++) {
        int64_t side = sizes[i].out < sizes[i].in ? sizes[i].out : sizes[i].in;
        float *w = power_law(sizes[i].out, sizes[i].in, side, 0.4);

        for (int64_t chi = 1; chi < side; chi = 3 * chi + 5) {
            struct mpo mpo = fitted(w, sizes[i].shape, (struct mpo_budget){.chi = chi});
            double best = sqrt(tail(chi + 1, side, 0.4) / tail(1, side, 0.4));

            CHECK_AT_MOST(fabs(true_error(w, &mpo) / best - 1), 1e-4, "error beside Eckart-Young");
            CHECK_AT_MOST(fabs(mpo_error(&mpo) / best - 1), 1e-4, "error as told beside Eckart-Young");
            mpo_free(&mpo);
        }
        free(w);
    }
}

static const char *const shapes[] = {"24x1,1x30",       "6x5,4x6",       "4x6,6x5",   "2x3,3x5,4x2", "24x1,1x5,1x6",
                                     "2x1,2x2,2x3,3x5", "1x1,24x30,1x1", "1x30,24x1", "24x30"};

static void test_full_bonds(void)
{
    float *w = noise(24 * 30, 7);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int exact = 0; exact < 2; exact++) {
            struct mpo mpo = fitted(w, shapes[i], (struct mpo_budget){.chi = 1000, .exact = exact});

            CHECK_AT_MOST(true_error(w, &mpo), 1e-5, "error at full bonds");
            CHECK_AT_MOST(canonical_defect(&mpo), 1e-5, "|U'U - 1| of a core");
            assert_true(mpo.clipped == (mpo.shape.n_site > 1));
            mpo_free(&mpo);
        }
    free(w);
}

static void test_error_bound(void)
{
    float *w = noise(24 * 30, 8);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double before = INFINITY;

        for (int64_t chi = 1; chi < 40; chi++) {
            struct mpo mpo = fitted(w, shapes[i], (struct mpo_budget){.chi = chi});
            double error = true_error(w, &mpo);

            CHECK_AT_MOST(error, mpo_error(&mpo) * (1 + 1e-5) + 1e-6, "error beside its bound");
            CHECK_AT_MOST(error, before + 1e-6, "error beside that of smaller bonds");
            assert_int_equal(mpo_parameters(&mpo), shape_parameters(&mpo.shape, chi));
            before = error;
            mpo_free(&mpo);
        }
    }
    free(w);
}

static void test_keep_and_tolerance(void)
{
    float *w = power_law(24, 30, 24, 0.7);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes - 2; i++)
        for (double part = 0.1; part < 1; part += 0.2) {
            struct mpo keep = fitted(w, shapes[i], (struct mpo_budget){.limit = MPO_KEEP, .part = part});
            struct mpo within = fitted(w, shapes[i], (struct mpo_budget){.limit = MPO_TOLERANCE, .part = part});
            int64_t least = shape_parameters(&keep.shape, 1);

            assert_true(mpo_parameters(&keep) <= (int64_t)(part * 24 * 30) || mpo_parameters(&keep) == least);
            CHECK_AT_MOST(true_error(w, &within), part * (1 + 1e-6), "error beside the tolerance");
            mpo_free(&keep);
            mpo_free(&within);
        }
    free(w);
}

static void test_odd_matrices(void)
{
    static const struct {
        int64_t out, in;
        const char *shape;
    } odd[] = {{1, 1, "1x1,1x1"},   {1, 17, "1x1,1x17"},     {17, 1, "17x1,1x1"}, {13, 7, "13x1,1x7"},
               {13, 7, "1x7,13x1"}, {13, 7, "13x7,1x1,1x1"}, {1, 12, "1x3,1x4"},  {31, 2, "1x2,31x1"}};

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (int zero = 0; zero < 3; zero++) {
            int64_t count = odd[i].out * odd[i].in;
            float *w = zero ? xcalloc((size_t)count, sizeof *w) : noise(count, 9);
            struct mpo mpo;

            if (zero == 2)                                  /* of rank 1 */
                w[count / 2] = 3;
            mpo = fitted(w, odd[i].shape, (struct mpo_budget){.chi = 5});
            CHECK_AT_MOST(true_error(w, &mpo), mpo_error(&mpo) * (1 + 1e-5) + 1e-6, "error beside its bound");
            CHECK_AT_MOST(canonical_defect(&mpo), 1e-5, "|U'U - 1| of a core");
            mpo_free(&mpo);
            free(w);
        }
}

static void test_not_finite(void)
{
    float *w = noise(12, 10);
    struct mpo_shape shape = shape_of("3x1,1x4");
    struct mpo mpo;

    w[7] = NAN;
    error_capture(message, sizeof message);
    assert_int_equal(mpo_fit(w, "q_proj", &shape, &(struct mpo_budget){.chi = 1}, &mpo), EX_DATAERR);
    error_capture(NULL, 0);
    assert_non_null(strstr(message, "'q_proj'"));
    assert_int_equal(mpo.shape.n_site, 0);
    free(w);
}

static void test_any_shape(void)
{
    float *w = power_law(48, 60, 48, 0.6), *same = copy_of(w, 48 * 60);

    for (int n_site = 1; n_site <= 4; n_site++)
        for (int limit = MPO_CHI; limit <= MPO_TOLERANCE; limit++) {
            struct mpo_budget budget = {.limit = (enum mpo_limit)limit, .chi = 10, .part = 0.3};
            struct mpo mpo;

            assert_int_equal(mpo_fit_any(w, 48, 60, "test", n_site, &budget, &mpo), EX_OK);
            assert_memory_equal(w, same, 48 * 60 * sizeof *w);
            assert_int_equal(mpo.shape.n_site, n_site);
            if (n_site == 2)                                /* made as a low-rank matrix */
                assert_int_equal(mpo.shape.in[0], 1);
            if (limit == MPO_CHI && n_site > 1)         /* one site has no choice */
                assert_true(mpo_parameters(&mpo) <= 10 * (48 + 60));
            CHECK_AT_MOST(fabs(true_error(w, &mpo) - mpo_error(&mpo)), 1e-5, "error as told");
            mpo_free(&mpo);
        }
    free(same);
    free(w);
}

static void check_threads(const float *w, const char *shape, struct mpo_budget budget)
{
    struct mpo mpo[2];

    for (int i = 0; i < 2; i++) {
        parallel_set(i ? 4 : 1);
        mpo[i] = fitted(w, shape, budget);
    }
    parallel_set(0);
    for (int k = 0; k < mpo[0].shape.n_site; k++) {
        assert_int_equal(mpo[0].core[k].bytes, mpo[1].core[k].bytes);
        assert_memory_equal(mpo[0].core[k].data, mpo[1].core[k].data, (size_t)mpo[0].core[k].bytes);
    }
    mpo_free(&mpo[0]);
    mpo_free(&mpo[1]);
}

static void test_threads(void)
{
    float *w = noise(1152 * 1100, 11);

    check_threads(w, "1152x1,1x1100", (struct mpo_budget){.chi = 30});               /* Krylov */
    check_threads(w, "32x33,36x33,1x1", (struct mpo_budget){.chi = 20, .seed = 5});
    check_threads(w, "2x10,576x110", (struct mpo_budget){.chi = 5});                 /* Gram */
    check_threads(w, "1152x1,1x1100", (struct mpo_budget){.limit = MPO_TOLERANCE, .part = 0.97});
    check_threads(w, "24x20,48x55", (struct mpo_budget){.chi = 7, .exact = true});
    free(w);
}

CHECK_MAIN({"truncated SVD by rank: prescribed spectra", test_svd_by_rank},
           {"truncated SVD by tolerance", test_svd_by_tolerance},
           {"Krylov: near the optimum, orthonormal, tolerance", test_svd_krylov},
           {"Krylov: identity and zero", test_svd_degenerate},
           {"two sites reach Eckart-Young", test_eckart_young},
           {"full bonds give the matrix back", test_full_bonds},
           {"the error keeps its bound and never rises with chi", test_error_bound},
           {"keep and tolerance are kept", test_keep_and_tolerance},
           {"vectors, primes, zero and rank one", test_odd_matrices},
           {"what isn't finite is named", test_not_finite},
           {"the best of several shapes", test_any_shape},
           {"equal bytes for 1 and 4 threads", test_threads})

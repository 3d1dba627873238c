/* test_aware.c - fits for a layer's outputs: the exact low-rank one against LAPACK's SVD of W S (S S' = H), alternating
 * least squares against dense least squares for each core, singular and badly conditioned moments, the sequential
 * target. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "fit/aware.h"
#include "fit/reorder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static float *noise(int64_t count, uint64_t stream)
{
    int64_t padded = (count + 3) / 4 * 4;
    float *values = xaligned((size_t)padded, sizeof *values);

    random_normal((struct random){1, stream}, 0, padded, values);
    return values;
}

/* Moments of count inputs whose sizes fall by a factor of spread from the first to the last direction of a random
 * basis. */
static struct moments moments_made(int64_t n, int64_t count, double spread)
{
    struct moments h = {n, count, xaligned((size_t)(n * (n + 1) / 2), sizeof(float))};
    float *basis = noise(n * n, 100), *x = noise(count * n, 101);
    float *turned = xaligned((size_t)(count * n), sizeof *turned);

    assert_int_equal(linalg_orthonormalise(matrix_of(basis, n, n), (struct random){1, 1}), EX_OK);
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < n; i++)
            x[t * n + i] *= (float)pow(spread, -(double)i / (double)n);
    linalg_gemm(1, matrix_of(x, count, n), matrix_of(basis, n, n), 0, matrix_of(turned, count, n));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;

            for (int64_t t = 0; t < count; t++)
                sum += (double)turned[t * n + i] * turned[t * n + j];
            h.packed[i * (i + 1) / 2 + j] = (float)(sum / (double)count);
        }
    free(basis);
    free(x);
    free(turned);
    return h;
}

/* tr((w - u v) H (w - u v)') */
static double error_of(const float *w, int64_t out, int64_t in, const struct moments *h, const float *u, const float *v,
                       int64_t rank)
{
    float *d = xaligned((size_t)(out * in), sizeof *d);
    double error;

    memcpy(d, w, (size_t)(out * in) * sizeof *d);
    linalg_gemm(-1, matrix_of(u, out, rank), matrix_of(v, rank, in), 1, matrix_of(d, out, in));
    error = h ? moments_error(h, d, out) : linalg_sum_squares(d, out * in);
    free(d);
    return error;
}

/* best [min(out, in) + 1]: the least error of each rank, from the singular values of W S. */
static void best_errors(const float *w, int64_t out, int64_t in, const struct moments *h, double *best)
{
    int64_t side = out < in ? out : in;
    double *s = xaligned((size_t)(in * in), sizeof *s), *values = xmallocarray((size_t)(in + side), sizeof *values);
    double *product = xaligned((size_t)(out * in), sizeof *product), *wide = xaligned((size_t)(out * in), sizeof *wide);
    double *u = xaligned((size_t)(out * side), sizeof *u), *vt = xaligned((size_t)(side * in), sizeof *vt);

    moments_full64(h, s);
    assert_int_equal(linalg_eigh(in, s, values), EX_OK);
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < in; j++)
            s[i * in + j] *= sqrt(fmax(values[i], 0));
    for (int64_t i = 0; i < out * in; i++)
        wide[i] = w[i];
    linalg_gemm64(1, matrix64_of(wide, out, in), matrix64_turn(matrix64_of(s, in, in)), 0,
                  matrix64_of(product, out, in));
    assert_int_equal(linalg_svd(matrix64_of(product, out, in), u, values, vt), EX_OK);
    best[side] = 0;
    for (int64_t i = side - 1; i >= 0; i--)
        best[i] = best[i + 1] + values[i] * values[i];
    free(s);
    free(values);
    free(product);
    free(wide);
    free(u);
    free(vt);
}

static void check_low_rank(int64_t out, int64_t in, const struct moments *h)
{
    int64_t side = out < in ? out : in;
    float *w = noise(out * in, 7), *u = xaligned((size_t)(out * side), sizeof *u);
    float *v = xaligned((size_t)(side * in), sizeof *v);
    double *best = xmallocarray((size_t)side + 1, sizeof *best);
    double *errors = xmallocarray((size_t)side + 1, sizeof *errors);

    best_errors(w, out, in, h, best);
    assert_int_equal(aware_errors(w, out, in, h, "w", errors), EX_OK);
    for (int64_t rank = 1; rank <= side; rank += rank < 4 ? 1 : 5) {
        double error, defect = 0;

        assert_int_equal(aware_low_rank(w, out, in, h, "w", rank, u, v, &error), EX_OK);
        for (int64_t a = 0; a < rank; a++)
            for (int64_t b = 0; b <= a; b++) {
                double sum = 0;

                for (int64_t i = 0; i < out; i++)
                    sum += (double)u[i * rank + a] * u[i * rank + b];
                defect = fmax(defect, fabs(sum - (a == b)));
            }
        CHECK_AT_MOST(defect, 1e-5, "columns of U from orthonormal");
        CHECK_AT_MOST(error_of(w, out, in, h, u, v, rank), best[rank] + 1e-6 * best[0], "error against the best");
        CHECK_AT_MOST(fabs(error - best[rank]), 1e-6 * best[0], "error told");
        CHECK_AT_MOST(fabs(errors[rank] - best[rank]), 1e-6 * best[0], "error of the curve");
    }
    CHECK_AT_MOST(fabs(errors[0] - best[0]), 1e-6 * best[0], "norm");
    free(w);
    free(u);
    free(v);
    free(best);
    free(errors);
}

static void test_low_rank(void)
{
    static const int64_t sizes[][2] = {{20, 33}, {33, 20}, {24, 24}, {1, 9}, {9, 1}, {700, 40}, {40, 1100}};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 3; kind++) {      /* plain, badly conditioned, of few inputs */
            struct moments h = moments_made(sizes[i][1], kind == 2 ? 6 : 2 * sizes[i][1], kind == 1 ? 1e4 : 3);

            check_low_rank(sizes[i][0], sizes[i][1], &h);
            free(h.packed);
        }
}

/* Inputs that are never there, a W of low rank, no H at all. */
static void test_degenerate(void)
{
    int64_t out = 30, in = 18;
    struct moments h = moments_made(in, 40, 2);
    float *a = noise(out * 4, 1), *b = noise(4 * in, 2), *w = xcalloc((size_t)(out * in), sizeof *w);
    float *u = xaligned((size_t)(out * in), sizeof *u), *v = xaligned((size_t)(in * in), sizeof *v);
    double error, norm;

    assert_int_equal(aware_low_rank(w, out, in, &h, "w", 3, u, v, &error), EX_OK);
    assert_true(error == 0 && v[0] == 0);
    linalg_gemm(1, matrix_of(a, out, 4), matrix_of(b, 4, in), 0, matrix_of(w, out, in));
    for (int64_t j = 0; j < in; j++)
        for (int64_t i = j; i < in; i++)
            if (j < 5 || i < 5)
                h.packed[i * (i + 1) / 2 + j] = 0;
    norm = moments_error(&h, w, out);
    for (int64_t rank = 4; rank <= in; rank += 7) {
        assert_int_equal(aware_low_rank(w, out, in, &h, "w", rank, u, v, &error), EX_OK);
        CHECK_AT_MOST(error, 1e-9 * norm, "error told");
        CHECK_AT_MOST(error_of(w, out, in, &h, u, v, rank), 1e-9 * norm, "weighted error of the rank of W");
        CHECK_AT_MOST(error_of(w, out, in, NULL, u, v, rank), 1e-9 * linalg_sum_squares(w, out * in), "plain error");
    }
    assert_int_equal(aware_low_rank(w, out, in, NULL, "w", 2, u, v, &error), EX_OK);
    CHECK_AT_MOST(fabs(error - error_of(w, out, in, NULL, u, v, 2)), 1e-6 * norm, "error without moments");
    w[7] = NAN;
    assert_int_equal(aware_low_rank(w, out, in, &h, "w", 3, u, v, &error), EX_DATAERR);
    free(a);
    free(b);
    free(w);
    free(u);
    free(v);
    free(h.packed);
}

/* A smaller rank is a prefix of a larger one; results don't depend on threads. */
static void test_prefix(void)
{
    for (int tall = 0; tall < 2; tall++) {
        int64_t out = tall ? 300 : 200, in = tall ? 200 : 300;
        struct moments h = moments_made(in, 400, 10);
        float *w = noise(out * in, 3), *u[2], *v[2];
        double error;

        for (int k = 0; k < 2; k++) {
            parallel_set(k ? 3 : 1);
            u[k] = xaligned((size_t)(out * 40), sizeof(float));
            v[k] = xaligned((size_t)(40 * in), sizeof(float));
            assert_int_equal(aware_low_rank(w, out, in, &h, "w", 40, u[k], v[k], &error), EX_OK);
        }
        assert_memory_equal(u[0], u[1], (size_t)(out * 40) * sizeof(float));
        assert_memory_equal(v[0], v[1], (size_t)(40 * in) * sizeof(float));
        assert_int_equal(aware_low_rank(w, out, in, &h, "w", 15, u[1], v[1], &error), EX_OK);
        CHECK_AT_MOST(check_relative(v[1], v[0], 15 * in), 1e-4, "first rows of V");
        parallel_set(0);
        for (int k = 0; k < 2; k++) {
            free(u[k]);
            free(v[k]);
        }
        free(w);
        free(h.packed);
    }
}

/* W' [out, in] of a chain, site by site in plain loops. */
static void chain_matrix(const struct mpo *mpo, float *to, int64_t out, int64_t in)
{
    float *left = xcalloc(1, sizeof *left);
    int64_t before = 1;

    left[0] = 1;
    for (int k = 0; k < mpo->shape.n_site; k++) {
        int64_t a = mpo->bond[k], width = mpo->shape.out[k] * mpo->shape.in[k] * mpo->bond[k + 1];
        float *next = xcalloc((size_t)(before * width), sizeof *next);

        linalg_gemm(1, matrix_of(left, before, a), matrix_of((float *)(void *)mpo->core[k].data, a, width), 0,
                    matrix_of(next, before, width));
        free(left);
        left = next;
        before *= mpo->shape.out[k] * mpo->shape.in[k];
    }
    memcpy(to, left, (size_t)(out * in) * sizeof *to);
    reorder_matrix(to, &mpo->shape);
    free(left);
}

static double chain_error(const struct mpo *mpo, const float *w, int64_t out, int64_t in, const struct moments *h)
{
    float *given = xaligned((size_t)(out * in), sizeof *given);
    double error;

    chain_matrix(mpo, given, out, in);
    for (int64_t i = 0; i < out * in; i++)
        given[i] = w[i] - given[i];
    error = h ? moments_error(h, given, out) : linalg_sum_squares(given, out * in);
    free(given);
    return error;
}

/* What dense least squares for core k alone would still gain: W' is linear in it, so with a column per number of the
 * core, the gain is b' N^+ b for the normal matrix N and the gradient b. */
static double still_to_gain(const struct mpo *mpo, const float *w, int64_t out, int64_t in, const struct moments *h,
                            int k)
{
    int64_t size = tensor_count(&mpo->core[k]), count = out * in;
    float *core = (float *)(void *)mpo->core[k].data, *keep = xmallocarray((size_t)size, sizeof *keep);
    float *column = xaligned((size_t)(size * count), sizeof *column), *gap = xaligned((size_t)count, sizeof *gap);
    double *full = xaligned((size_t)(in * in), sizeof *full), *normal = xaligned((size_t)(size * size), sizeof *normal);
    double *half = xcalloc((size_t)(size * count), sizeof *half), *values = xmallocarray((size_t)size, sizeof *values);
    double gain = 0;

    chain_matrix(mpo, gap, out, in);
    memcpy(keep, core, (size_t)size * sizeof *core);
    memset(core, 0, (size_t)size * sizeof *core);
    for (int64_t m = 0; m < size; m++) {
        core[m] = 1;
        chain_matrix(mpo, column + m * count, out, in);
        core[m] = 0;
    }
    memcpy(core, keep, (size_t)size * sizeof *core);
    moments_full64(h, full);
    for (int64_t row = 0; row < size * out; row++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t j = 0; j < in; j++)
                half[row * in + j] += column[row * in + i] * full[i * in + j];
    for (int64_t a = 0; a < size; a++)
        for (int64_t b = 0; b < size; b++) {
            normal[a * size + b] = 0;
            for (int64_t i = 0; i < count; i++)
                normal[a * size + b] += half[a * count + i] * column[b * count + i];
        }
    assert_int_equal(linalg_eigh(size, normal, values), EX_OK);
    for (int64_t e = 0; e < size; e++) {
        double slope = 0;

        for (int64_t a = 0; a < size; a++)
            for (int64_t i = 0; i < count; i++)
                slope += normal[e * size + a] * half[a * count + i] * (w[i] - gap[i]);
        if (values[e] > 1e-6 * values[0])
            gain += slope * slope / values[e];
    }
    free(keep);
    free(column);
    free(gap);
    free(full);
    free(normal);
    free(half);
    free(values);
    return gain;
}

static struct mpo fitted(float *w, const char *shape, int64_t chi)
{
    struct mpo_budget budget = {.limit = MPO_CHI, .chi = chi};
    struct mpo_shape parsed;
    struct mpo mpo;

    assert_true(shape_parse(shape, &parsed));
    assert_int_equal(mpo_fit(w, "w", &parsed, &budget, &mpo), EX_OK);
    return mpo;
}

static const struct {
    const char *shape;
    int64_t out, in, chi;
} chains[] = {{"3x2,2x4", 6, 8, 3}, {"6x1,1x8", 6, 8, 2}, {"2x4,3x2", 6, 8, 4}, {"3x1,2x2,1x4", 6, 8, 2},
              {"2x3,3x2,2x2", 12, 12, 3}, {"1x4,6x2", 6, 8, 2}};

/* Converged: no core alone can do better. */
static void test_als_small(void)
{
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++)
        for (int kind = 0; kind < 2; kind++) {      /* of many inputs, of few */
            int64_t out = chains[i].out, in = chains[i].in;
            struct moments h = moments_made(in, kind ? 3 : 30, 5);
            float *w = noise(out * in, i);
            struct mpo mpo = fitted(w, chains[i].shape, chains[i].chi);
            double before = chain_error(&mpo, w, out, in, &h), norm = moments_error(&h, w, out);
            struct als als = {.sweeps = 400};

            assert_int_equal(aware_als(w, &h, "w", &mpo, &als), EX_OK);
            CHECK_AT_MOST(fabs(als.before - before), 1e-5 * norm, "error before");
            CHECK_AT_MOST(fabs(als.after - chain_error(&mpo, w, out, in, &h)), 1e-5 * norm, "error after");
            CHECK_AT_MOST(als.after, als.before, "error after, against before");
            for (int k = 0; k < mpo.shape.n_site; k++)
                CHECK_AT_MOST(still_to_gain(&mpo, w, out, in, &h, k), 0.01 * als.after + 1e-5 * norm, "left to gain");
            mpo_free(&mpo);
            free(w);
            free(h.packed);
        }
}

/* Sizes at which cores are solved by conjugate gradients; H well, badly conditioned (1e8) and singular. */
static void test_als_large(void)
{
    static const char *const shapes[] = {"12x8,8x12", "96x1,1x96", "8x12,12x8", "12x1,8x8,1x12", "4x8,8x4,3x3"};
    static const double spread[] = {3, 1e4, 3};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct moments h = moments_made(96, kind == 2 ? 20 : 300, spread[kind]);
            float *w = noise(96 * 96, 5);
            struct mpo mpo = fitted(w, shapes[i], 30);
            struct als als = {0};
            double last, noise_level = 1e-6 * moments_error(&h, w, 96);

            assert_int_equal(aware_als(w, &h, "w", &mpo, &als), EX_OK);
            CHECK_AT_MOST(als.after, (kind ? 0.5 : 0.95) * als.before, "error against TT-SVD's");
            last = als.after;
            als.sweeps = 1;
            assert_int_equal(aware_als(w, &h, "w", &mpo, &als), EX_OK);
            CHECK_AT_MOST(fabs(als.before - last), 1e-3 * last + noise_level, "error told before, against after");
            CHECK_AT_MOST(als.after, als.before, "error after one more sweep");
            last = chain_error(&mpo, w, 96, 96, &h);
            CHECK_AT_MOST(fabs(als.after - last), 1e-3 * last + noise_level, "error told");
            mpo_free(&mpo);
            free(w);
            free(h.packed);
        }
}

/* The matrix grouping has an exact answer, and the identity one that TT-SVD gives for two sites. */
static void test_als_optimum(void)
{
    static const double spread[] = {3, 100};

    for (int kind = 0; kind < 2; kind++) {
        struct moments h = moments_made(40, 100, spread[kind]);
        float *w = noise(60 * 40, 5), *u = xaligned(60 * 8, sizeof *u), *v = xaligned(8 * 40, sizeof *v);
        struct mpo mpo = fitted(w, "60x1,1x40", 8), plain = fitted(w, "5x8,4x5,3x1", 8);
        struct als als = {.sweeps = 1000}, none = {0};
        double best;

        assert_int_equal(aware_low_rank(w, 60, 40, &h, "w", 8, u, v, &best), EX_OK);
        assert_int_equal(aware_als(w, &h, "w", &mpo, &als), EX_OK);
        CHECK_AT_MOST(als.after, 1.001 * best, "error against the optimum");
        CHECK_AT_MOST(best, als.after * 1.00001, "the optimum against it");
        assert_int_equal(aware_als(w, NULL, "w", &plain, &none), EX_OK);
        CHECK_AT_MOST(none.after, none.before, "error without moments, against TT-SVD's");
        CHECK_AT_MOST(fabs(none.before - pow(mpo_error(&plain) * plain.norm, 2)), 1e-4 * none.before, "TT-SVD's own");
        mpo_free(&mpo);
        mpo_free(&plain);
        free(w);
        free(u);
        free(v);
        free(h.packed);
    }
}

/* Pairs of inputs x (dense) and y (compressed), and their moments. */
static struct moment_set pairs_made(int64_t n, int64_t count, float **x, float **y)
{
    static char name[] = "inputs";
    struct moment_set set = {.name = name, .h = {n, count, xmallocarray((size_t)(n * (n + 1) / 2), sizeof(float))}};
    float *mix = noise(n * n, 21);

    *x = noise(count * n, 20);
    *y = noise(count * n, 22);
    for (int64_t i = 0; i < n * n; i++)
        mix[i] = (i % (n + 1) == 0) + 0.2f * mix[i] / sqrtf((float)n);
    linalg_gemm(1, matrix_of(*x, count, n), matrix_of(mix, n, n), 0.1f, matrix_of(*y, count, n));
    set.cross = xaligned((size_t)(n * n), sizeof(float));
    linalg_gemm(1 / (float)count, matrix_turn(matrix_of(*x, count, n)), matrix_of(*y, count, n), 0,
                matrix_of(set.cross, n, n));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;

            for (int64_t t = 0; t < count; t++)
                sum += (double)(*y)[t * n + i] * (*y)[t * n + j];
            set.h.packed[i * (i + 1) / 2 + j] = (float)(sum / (double)count);
        }
    free(mix);
    return set;
}

/* Mean |W x - V y|^2 - |W x|^2. */
static double mean_error(const float *w, const float *v, int64_t out, const struct moment_set *set, const float *x,
                         const float *y)
{
    int64_t n = set->h.n, count = set->h.tokens;
    double sum = 0;

    for (int64_t t = 0; t < count; t++)
        for (int64_t o = 0; o < out; o++) {
            double wx = 0, vy = 0;

            for (int64_t i = 0; i < n; i++) {
                wx += (double)w[o * n + i] * x[t * n + i];
                vy += (double)v[o * n + i] * y[t * n + i];
            }
            sum += (wx - vy) * (wx - vy) - wx * wx;
        }
    return sum / (double)count;
}

static void test_target(void)
{
    int64_t n = 24, out = 300, count = 200;
    float *x, *y, *w = noise(out * n, 30), *target = xaligned((size_t)(out * n), sizeof *target);
    struct moment_set set = pairs_made(n, count, &x, &y);
    double plain = mean_error(w, w, out, &set, x, y), best;

    assert_false(aware_has_reference(&set));
    set.held = set.h;
    set.held_cross = set.cross;
    assert_true(aware_has_reference(&set));
    CHECK_AT_MOST(fabs(aware_held_out(w, w, out, &set) - plain), 1e-4 * fabs(plain), "error of W itself");
    assert_int_equal(aware_target(w, out, &set, 1e-6, target), EX_OK);
    best = mean_error(w, target, out, &set, x, y);
    CHECK_AT_MOST(fabs(aware_held_out(w, target, out, &set) - best), 1e-4 * fabs(best), "error of the target");
    CHECK_AT_MOST(best, plain - 1e-3 * fabs(plain), "the target's against W's");
    for (int64_t i = 0; i < out * n; i += 97) {      /* least squares: any change is for the worse */
        float was = target[i];

        for (int sign = -1; sign <= 1; sign += 2) {
            target[i] = was + 0.05f * (float)sign;
            CHECK_AT_MOST(best, mean_error(w, target, out, &set, x, y), "the target's against its neighbours'");
        }
        target[i] = was;
    }
    assert_int_equal(aware_target(w, out, &set, 1e-6, w), EX_OK);       /* in place */
    assert_memory_equal(w, target, (size_t)(out * n) * sizeof *w);
    memset(set.h.packed, 0, (size_t)(n * (n + 1) / 2) * sizeof *set.h.packed);
    memset(set.cross, 0, (size_t)(n * n) * sizeof *set.cross);
    assert_int_equal(aware_target(w, out, &set, 0.01, target), EX_OK);  /* inputs that are always zero */
    assert_true(linalg_sum_squares(target, out * n) == 0);
    set.h.packed[1] = 1;
    assert_int_equal(aware_target(w, out, &set, 0.01, target), EX_DATAERR);
    free(set.cross);
    free(set.h.packed);
    free(x);
    free(y);
    free(w);
    free(target);
}

static void test_balance(void)
{
    int64_t out = 9, in = 14, rank = 3;
    float *u = noise(out * rank, 1), *v = noise(rank * in, 2), *a = xaligned((size_t)(out * in), sizeof *a);
    float *b = xaligned((size_t)(out * in), sizeof *b);

    for (int64_t j = 0; j < in; j++) {
        v[j] *= 0x1p-30f;
        v[2 * in + j] = 0;
    }
    linalg_gemm(1, matrix_of(u, out, rank), matrix_of(v, rank, in), 0, matrix_of(a, out, in));
    aware_balance(u, v, out, in, rank);
    linalg_gemm(1, matrix_of(u, out, rank), matrix_of(v, rank, in), 0, matrix_of(b, out, in));
    assert_memory_equal(a, b, (size_t)(out * in) * sizeof *a);
    CHECK_AT_MOST(fabs(log2(linalg_sum_squares(v, in) / (double)in)), 34, "size of a small row");
    free(u);
    free(v);
    free(a);
    free(b);
}

CHECK_MAIN({"a low-rank fit is the best one, for all ranks, for any H", test_low_rank},
           {"inputs that are never there, a matrix of low rank, none at all", test_degenerate},
           {"a smaller rank is a prefix, and threads change nothing", test_prefix},
           {"alternating least squares ends where dense least squares gain nothing for any core", test_als_small},
           {"it never raises the error, also for singular and badly conditioned H", test_als_large},
           {"it comes to the optimum of the matrix grouping, and is no worse than TT-SVD without H", test_als_optimum},
           {"the sequential target is the least squares answer, held-out errors those of the samples", test_target},
           {"balancing moves powers of two only", test_balance})

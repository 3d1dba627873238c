/* test_compensate.c - rounding with second moments: against all codes of small cases, the textbook's sequential
 * formula, and for what is stored, with all kinds of groups and bad moments. */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "base/random.h"
#include "fit/compensate_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static char message[400];

static float *noise(int64_t count, uint64_t stream)
{
    int64_t padded = (count + 3) / 4 * 4;
    float *values = xaligned((size_t)padded, sizeof *values);

    random_normal((struct random){7, stream}, 0, padded, values);
    return values;
}

/* Moments of `tokens` inputs whose components are mixed and of sizes falling to 1 / spread. */
static struct moments moments_made(int64_t n, int64_t tokens, double spread, uint64_t stream)
{
    struct moments h = {.n = n, .tokens = tokens, .packed = xcalloc((size_t)(n * (n + 1) / 2), sizeof *h.packed)};
    float *x = noise(tokens * n, stream), *mix = noise(n, stream + 1);

    for (int64_t t = 0; t < tokens; t++) {
        float common = x[t * n];

        for (int64_t i = 0; i < n; i++)
            x[t * n + i] = (float)(pow(spread, -(double)((i * 7) % n) / (double)n) * (x[t * n + i] + common * mix[i]));
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;

            for (int64_t t = 0; t < tokens; t++)
                sum += (double)x[t * n + i] * x[t * n + j];
            h.packed[i * (i + 1) / 2 + j] = (float)(sum / (double)tokens);
        }
    free(x);
    free(mix);
    return h;
}

static struct dtype dtype_of(const char *name)
{
    struct dtype dtype;

    assert_true(dtype_parse(name, &dtype));
    return dtype;
}

/* W - W' of what is stored. */
static float *difference_of(const float *w, const struct tensor *to)
{
    int64_t count = tensor_count(to);
    float *d = xaligned((size_t)count, sizeof *d);

    tensor_get(to, d);
    for (int64_t i = 0; i < count; i++)
        d[i] = w[i] - d[i];
    return d;
}

static double stored_error(const struct moments *h, const float *w, const struct tensor *to)
{
    float *d = difference_of(w, to);
    double error = moments_error(h, d, tensor_rows(to));

    free(d);
    return error;
}

enum { FEW = 6, FEW_CODES = 4096 };

/* The least error of one row with the given scale and minimum, by trying all codes of 2 bits. */
static double least_error(const double *h, const float *w, float scale, float minimum)
{
    double best = INFINITY;

    for (int codes = 0; codes < FEW_CODES; codes++) {
        double d[FEW], error = 0;

        for (int i = 0; i < FEW; i++)
            d[i] = w[i] - (scale * (double)(codes >> 2 * i & 3) + minimum);
        for (int i = 0; i < FEW; i++)
            for (int j = 0; j < FEW; j++)
                error += d[i] * h[i * FEW + j] * d[j];
        best = error < best ? error : best;
    }
    return best;
}

static void test_all_codes(void)
{
    double sum = 0, sum_nearest = 0, sum_best = 0;

    for (uint64_t seed = 0; seed < 40; seed++) {
        struct moments h = moments_made(FEW, 50, 10, 10 + 2 * seed);
        float *w = noise(2 * FEW, 200 + seed);
        double full[FEW * FEW], best = 0;
        struct group_layout layout;
        struct compensated ours, nearest;
        struct feedback *feedback;
        struct tensor to, plain;

        moments_full64(&h, full);
        assert_int_equal(feedback_new(&h, 0, &feedback), EX_OK);
        assert_int_equal(compensate(w, feedback, dtype_of("q2-row-min"), 2, (int64_t[]){2, FEW}, "w", &to, &ours),
                         EX_OK);
        assert_int_equal(search_nearest(w, &h, dtype_of("q2-row-min"), 2, (int64_t[]){2, FEW}, "w", &plain, &nearest),
                         EX_OK);
        group_layout(to.dtype, 2, to.shape, &layout);
        for (int row = 0; row < 2; row++)
            best += least_error(full, w + row * FEW, half_to_float(((uint16_t *)(to.data + layout.scale))[row]),
                                half_to_float(((uint16_t *)(to.data + layout.zero))[row]));
        CHECK_AT_MOST(best, ours.error * 1.0001, "the best codes against ours");
        sum += ours.error;
        sum_nearest += nearest.error;
        sum_best += best;
        tensor_free(&to);
        tensor_free(&plain);
        feedback_free(feedback);
        free(h.packed);
        free(w);
    }
    CHECK_AT_MOST(sum, 1.1 * sum_best, "our error against that of the best codes");
    CHECK_AT_MOST(sum, .8 * sum_nearest, "our error against rounding to nearest");
}

/* a = a^-1, of a positive definite matrix: Gauss-Jordan. */
static void invert(double *a, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        double pivot = 1 / a[k * n + k];

        a[k * n + k] = 1;
        for (int64_t j = 0; j < n; j++)
            a[k * n + j] *= pivot;
        for (int64_t i = 0; i < n; i++) {
            double factor = a[i * n + k];

            if (i == k)
                continue;
            a[i * n + k] = 0;
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] -= factor * a[k * n + j];
        }
    }
}

/* The textbook: the inverse of what is left of H after each column, its error spread over the columns that are left. */
static void textbook(const struct moments *h, const float *w, int64_t rows, const struct group_layout *l,
                     const struct tensor *scales, float *out)
{
    int64_t n = h->n, *order = xmallocarray((size_t)n, sizeof *order);
    double *full = xmallocarray((size_t)(n * n), sizeof *full);
    double *inverse = xmallocarray((size_t)(n * n), sizeof *inverse);
    double *left = xmallocarray((size_t)(rows * n), sizeof *left), mean = 0;
    const uint16_t *scale = (const void *)(scales->data + l->scale), *minimum = (const void *)(scales->data + l->zero);

    moments_full64(h, full);
    for (int64_t i = 0; i < n; i++)
        mean += full[i * n + i] / (double)n;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i;

        full[i * n + i] += .01 * mean;
        for (; at > 0 && full[order[at - 1] * n + order[at - 1]] < full[i * n + i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (int64_t i = 0; i < rows * n; i++)
        left[i] = w[i];
    for (int64_t k = 0; k < n; k++) {
        int64_t m = n - k, column = order[k];

        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < m; j++)
                inverse[i * m + j] = full[order[k + i] * n + order[k + j]];
        invert(inverse, m);
        for (int64_t row = 0; row < rows; row++) {
            double s = half_to_float(scale[row * l->groups + column / l->group]);
            double o = half_to_float(minimum[row * l->groups + column / l->group]);
            double code = fmin(fmax(rint((left[row * n + column] - o) / s), 0), 7);
            double error = (left[row * n + column] - (s * code + o)) / inverse[0];

            out[row * n + column] = (float)(s * code + o);
            for (int64_t j = 0; j < m; j++)
                left[row * n + order[k + j]] -= error * inverse[j];
        }
    }
    free(order);
    free(full);
    free(inverse);
    free(left);
}

static void test_textbook(void)
{
    enum { ROWS = 5, N = 150 };              /* more than two blocks */
    struct moments h = moments_made(N, 400, 30, 400);
    float *w = noise(ROWS * N, 401), *ours = xmallocarray(ROWS * N, sizeof *ours);
    float *theirs = xmallocarray(ROWS * N, sizeof *theirs);
    struct group_layout layout;
    struct compensated result;
    struct feedback *feedback;
    struct tensor to;
    int different = 0;

    assert_int_equal(feedback_new(&h, 0, &feedback), EX_OK);
    assert_int_equal(compensate_passes(w, feedback, 0, dtype_of("q3-32-min"), 2, (int64_t[]){ROWS, N}, "w", &to,
                                       &result),
                     EX_OK);
    group_layout(to.dtype, 2, to.shape, &layout);
    textbook(&h, w, ROWS, &layout, &to, theirs);
    tensor_get(&to, ours);
    for (int i = 0; i < ROWS * N; i++)
        different += ours[i] != theirs[i];
    /* A tie of rounding may fall either way, and then moves what follows in its row. */
    CHECK_AT_MOST(different, ROWS * N / 50, "values that differ from the sequential formula");
    CHECK_AT_MOST(fabs(stored_error(&h, theirs, &to)) / result.error, .05, "and by how much");
    feedback_free(feedback);
    tensor_free(&to);
    free(h.packed);
    free(w);
    free(ours);
    free(theirs);
}

/* Rounds both ways and checks the error that is said against what is stored. */
static void check_format(const char *name, const struct moments *h, int64_t rows, double bound)
{
    float *w = noise(rows * h->n, 500), *d;
    int64_t shape[] = {rows, 1, h->n, 1};
    struct compensated ours, nearest, squares;
    struct feedback *feedback;
    struct tensor to, plain;
    double error, norm = moments_error(h, w, rows), plain_squares = 0;

    assert_int_equal(feedback_new(h, 0, &feedback), EX_OK);
    assert_int_equal(compensate(w, feedback, dtype_of(name), 4, shape, "w", &to, &ours), EX_OK);
    error = stored_error(h, w, &to);
    CHECK_AT_MOST(fabs(ours.error - error), 1e-4 * error + 1e-9 * norm, name);
    CHECK_AT_MOST(fabs(ours.norm - norm), 1e-5 * norm, name);
    assert_int_equal(search_nearest(w, h, dtype_of(name), 4, shape, "w", &plain, &nearest), EX_OK);
    error = stored_error(h, w, &plain);
    CHECK_AT_MOST(fabs(nearest.error - error), 1e-4 * error + 1e-9 * norm, name);
    CHECK_AT_MOST(ours.error, bound * nearest.error + 1e-9 * norm, name);
    tensor_free(&plain);
    assert_int_equal(search_nearest(w, NULL, dtype_of(name), 4, shape, "w", &plain, &squares), EX_OK);
    d = difference_of(w, &plain);
    for (int64_t i = 0; i < rows * h->n; i++)
        plain_squares += (double)d[i] * d[i];
    CHECK_AT_MOST(fabs(squares.error - plain_squares), 1e-5 * plain_squares, name);
    feedback_free(feedback);
    tensor_free(&to);
    tensor_free(&plain);
    free(d);
    free(w);
}

static void test_formats(void)
{
    static const char *const zeros[] = {"none", "int", "min"}, *const scales[] = {"", "-s6", "-s8"},
                      *const groups[] = {"row", "32", "12", "100", "150"};
    struct moments h = moments_made(200, 600, 20, 600);     /* the last groups are short ones */

    for (int bits = 2; bits <= 8; bits += bits < 4 ? 1 : 4)
        for (int zero = 0; zero < 3; zero++)
            for (int scale = 0; scale < 3; scale++)
                for (int group = 0; group < 5; group++) {
                    char name[DTYPE_NAME];

                    snprintf(name, sizeof name, "q%d-%s-%s%s", bits, groups[group], zeros[zero], scales[scale]);
                    check_format(name, &h, group == 1 ? 1 : 35, .95);
                }
    free(h.packed);
}

static void test_moments(void)
{
    struct moments few = moments_made(130, 20, 10, 700), ill = moments_made(130, 500, 1e5, 702);
    struct moments zero = moments_made(130, 500, 10, 704), dead = moments_made(130, 500, 10, 706);
    struct moments one = moments_made(1, 9, 1, 708);

    memset(zero.packed, 0, (size_t)(zero.n * (zero.n + 1) / 2) * sizeof *zero.packed);
    for (int64_t i = 0; i < dead.n; i++)
        for (int64_t j = 0; j <= i; j++)
            if (i % 3 == 0 || j % 3 == 0)
                dead.packed[i * (i + 1) / 2 + j] = 0;
    check_format("q2-64-min", &few, 33, .5);
    check_format("q3-32-int", &few, 33, .5);
    check_format("q2-64-min", &ill, 33, .9);
    check_format("q2-64-min", &zero, 33, 1);
    check_format("q2-64-min", &dead, 33, .9);
    check_format("q2-row-none", &dead, 33, .9);
    check_format("q2-64-min", &one, 1, 1);
    free(few.packed);
    free(ill.packed);
    free(zero.packed);
    free(dead.packed);
    free(one.packed);
}

/* Each pass lowers the error or leaves it. */
static void test_passes(void)
{
    enum { ROWS = 70, N = 256 };
    static const char *const names[] = {"q2-64-min", "q2-32-min-s6", "q3-32-int", "q2-16-none-s8", "q4-256-min",
                                        "q2-row-min"};
    struct moments h = moments_made(N, 1000, 50, 800);
    float *w = noise(ROWS * N, 802);
    struct feedback *feedback;

    assert_int_equal(feedback_new(&h, .02, &feedback), EX_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double last = INFINITY;

        for (int passes = 0; passes < 5; passes++) {
            struct compensated result;
            struct tensor to;

            assert_int_equal(compensate_passes(w, feedback, passes, dtype_of(names[i]), 2, (int64_t[]){ROWS, N}, "w",
                                               &to, &result),
                             EX_OK);
            CHECK_AT_MOST(result.error, last * (1 + 1e-6), names[i]);
            last = result.error;
            tensor_free(&to);
        }
    }
    feedback_free(feedback);
    free(h.packed);
    free(w);
}

/* Values on a grid with all their codes are found again. */
static void test_exact(void)
{
    enum { ROWS = 40, N = 128 };
    struct moments h = moments_made(N, 300, 10, 900);
    float *w = xaligned(ROWS * N, sizeof *w);
    struct compensated result;
    struct feedback *feedback;
    struct tensor to;

    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++)
            w[i * N + j] = .125f * (float)((i * 5 + j * 11) % 16) - 1.25f;
    assert_int_equal(feedback_new(&h, 0, &feedback), EX_OK);
    assert_int_equal(compensate(w, feedback, dtype_of("q4-32-min"), 2, (int64_t[]){ROWS, N}, "w", &to, &result), EX_OK);
    CHECK_AT_MOST(result.error, 1e-12 * result.norm, "error of what can be stored");
    tensor_free(&to);
    memset(w, 0, sizeof *w * ROWS * N);
    assert_int_equal(compensate(w, feedback, dtype_of("q2-64-min-s6"), 2, (int64_t[]){ROWS, N}, "w", &to, &result),
                     EX_OK);
    assert_true(result.error == 0 && result.norm == 0);
    tensor_free(&to);
    feedback_free(feedback);
    free(h.packed);
    free(w);
}

static void test_threads(void)
{
    enum { ROWS = 100, N = 700 };            /* several tiles of the factor */
    struct moments h = moments_made(N, 900, 20, 1000);
    float *w = noise(ROWS * N, 1002);
    struct tensor to[2];
    struct compensated result[2];

    for (int i = 0; i < 2; i++) {
        struct feedback *feedback;

        parallel_set(i ? 4 : 1);
        assert_int_equal(feedback_new(&h, 0, &feedback), EX_OK);
        assert_int_equal(compensate(w, feedback, dtype_of("q2-64-min-s6"), 2, (int64_t[]){ROWS, N}, "w", &to[i],
                                    &result[i]),
                         EX_OK);
        feedback_free(feedback);
    }
    parallel_set(0);
    assert_int_equal(to[0].bytes, to[1].bytes);
    assert_memory_equal(to[0].data, to[1].data, (size_t)to[0].bytes);
    assert_true(result[0].error == result[1].error && result[0].norm == result[1].norm);
    tensor_free(&to[0]);
    tensor_free(&to[1]);
    free(h.packed);
    free(w);
}

static void check_refused(const float *w, const struct moments *h, const char *name)
{
    struct compensated result;
    struct feedback *feedback;
    struct tensor to;

    assert_int_equal(feedback_new(h, 0, &feedback), EX_OK);
    assert_int_equal(compensate(w, feedback, dtype_of(name), 2, (int64_t[]){3, h->n}, "lm.w", &to, &result),
                     EX_DATAERR);
    assert_non_null(strstr(message, "lm.w"));
    assert_int_equal(search_nearest(w, NULL, dtype_of(name), 2, (int64_t[]){3, h->n}, "lm.w", &to, &result),
                     EX_DATAERR);
    assert_null(to.data);
    feedback_free(feedback);
}

static void test_refused(void)
{
    struct moments h = moments_made(40, 100, 5, 1100);
    float *w = noise(3 * 40, 1102);
    struct feedback *feedback;

    error_capture(message, sizeof message);
    w[77] = NAN;
    check_refused(w, &h, "q2-32-min");
    w[77] = -INFINITY;
    check_refused(w, &h, "q2-32-int");
    w[77] = 3e38f;
    check_refused(w, &h, "q2-32-none");
    check_refused(w, &h, "q2-32-min");
    check_refused(w, &h, "q2-8-min-s6");
    h.packed[100] = NAN;
    assert_int_equal(feedback_new(&h, 0, &feedback), EX_DATAERR);
    h.packed[100] = 1e30f;                   /* not a positive definite matrix */
    assert_int_equal(feedback_new(&h, 0, &feedback), EX_SOFTWARE);
    assert_null(feedback);
    error_capture(NULL, 0);
    free(h.packed);
    free(w);
}

CHECK_MAIN({"codes of small cases are near the best of all, and better than the nearest", test_all_codes},
           {"without refining, values are those of the sequential formula", test_textbook},
           {"the error is that of what is stored, for all kinds of groups", test_formats},
           {"moments of low rank, badly conditioned, zero, with dead inputs", test_moments},
           {"no refining pass raises the error", test_passes},
           {"what the format can hold is kept", test_exact},
           {"equal bytes with 1 and 4 threads", test_threads},
           {"values and moments that aren't finite, and scales beyond f16, are refused", test_refused})

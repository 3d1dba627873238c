/* test_transform.c - transforms of an operator's input and output against dense matrices made from their definition. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "operator/transform.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int64_t block, n;
    uint64_t seed;
} cases[] = {
    {2, 2, 0}, {2, 6, 1}, {4, 4, 2}, {4, 20, 3}, {8, 24, 4}, {16, 48, 5}, {32, 32, 6}, {64, 192, 7},
    {64, 576, INT64_MAX}, {128, 128, 9}, {256, 512, 10}, {512, 1536, 11},
};

enum { N_CASE = sizeof cases / sizeof *cases };

/* Entry (k, l) of Hartley's matrix, the real part less the imaginary one of Fourier's. */
static double hartley(int64_t k, int64_t l, int64_t mix)
{
    double complex entry = cexp(-2 * M_PI * I * (double)k * (double)l / (double)mix);

    return (creal(entry) - cimag(entry)) / sqrt((double)mix);
}

/* T [n, n] by FORMAT: signs by a generator that steps, Hadamard matrices by doubling, copied times Q's entries. */
static double *dense_transform(struct transform transform, int64_t n)
{
    int64_t block = transform.block, mix = transform.mix ? transform.mix : 1, span = block * mix;
    double *t = xcalloc((size_t)(n * n), sizeof *t), *h = xcalloc((size_t)(block * block), sizeof *h);
    uint64_t state = transform.seed, word = 0;

    h[0] = 1 / sqrt((double)block);
    for (int64_t size = 1; size < block; size *= 2)
        for (int64_t i = 0; i < size; i++)
            for (int64_t j = 0; j < size; j++) {
                h[i * block + j + size] = h[(i + size) * block + j] = h[i * block + j];
                h[(i + size) * block + j + size] = -h[i * block + j];
            }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i / span * span; j < (i / span + 1) * span; j++)
            t[i * n + j] = hartley(i % span / block, j % span / block, mix) * h[i % block * block + j % block];
    free(h);
    for (int64_t j = 0; j < n; j++) {
        if (j % 64 == 0) {
            state += 0x9e3779b97f4a7c15u;
            word = (state ^ state >> 30) * 0xbf58476d1ce4e5b9u;
            word = (word ^ word >> 27) * 0x94d049bb133111ebu;
            word ^= word >> 31;
        }
        for (int64_t i = 0; i < n && word >> j % 64 & 1; i++)
            t[i * n + j] *= -1;
    }
    return t;
}

/* y [rows, n] = x T'. */
static float *turned(const float *x, const double *t, int64_t rows, int64_t n)
{
    float *y = xmallocarray((size_t)(rows * n), sizeof *y);

    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;

            for (int64_t j = 0; j < n; j++)
                sum += t[i * n + j] * (double)x[r * n + j];
            y[r * n + i] = (float)sum;
        }
    return y;
}

static float *numbers(int64_t count)
{
    float *x = xmallocarray((size_t)(count + 3), sizeof *x);

    random_normal(random_named(3, "x"), 0, (count + 3) / 4 * 4, x);
    return x;
}

static void check_rows(struct transform transform, int64_t n, int64_t rows)
{
    int64_t count = rows * n;
    float *x = numbers(count), *y = xmallocarray((size_t)count, sizeof *y), *expected;
    double *t = dense_transform(transform, n);

    expected = turned(x, t, rows, n);
    memcpy(y, x, (size_t)count * sizeof *y);
    transform_rows(transform, y, rows, n);
    CHECK_AT_MOST(check_relative(y, expected, count), 1e-6, "turned");
    transform_rows_inverse(transform, y, rows, n);
    CHECK_AT_MOST(check_relative(y, x, count), 1e-6, "turned back");
    free(x);
    free(y);
    free(expected);
    free(t);
}

static void test_rows(void)
{
    for (int c = 0; c < N_CASE; c++)
        check_rows((struct transform){cases[c].block, cases[c].seed, 0}, cases[c].n, 5);
}

/* The rows of 1, turned, are the rows of T': their products with each other are those of 1. */
static void check_orthogonal(struct transform transform, int64_t n)
{
    float *t = xcalloc((size_t)(n * n), sizeof *t);

    for (int64_t i = 0; i < n; i++)
        t[i * n + i] = 1;
    transform_rows(transform, t, n, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;

            for (int64_t k = 0; k < n; k++)
                sum += (double)t[i * n + k] * (double)t[j * n + k];
            if (!(fabs(sum - (i == j)) <= 1e-6))
                fail_msg("width %lld: T T' - 1 is %g at %lld, %lld", (long long)n, sum - (i == j), (long long)i,
                         (long long)j);
        }
    free(t);
}

static void test_orthogonal(void)
{
    for (int c = 0; c < N_CASE; c++)
        check_orthogonal((struct transform){cases[c].block, cases[c].seed, 0},
                         cases[c].n < 192 ? cases[c].n : cases[c].block);
}

/* Every width has a transform of all of it. */
static void test_full(void)
{
    for (int64_t n = 2; n <= 300; n++) {
        struct transform transform = transform_full(n, (uint64_t)n);

        assert_int_equal(transform_span(transform), n);
        check_rows(transform, n, 3);
        check_orthogonal(transform, n);
    }
}

/* Where T is too large to be made in full: a few of its columns, which are those of T' of e_j, against the product of
 * their factors. */
static void check_column(struct transform transform, int64_t n, int64_t j, float *x, const float *sign)
{
    int64_t block = transform.block, mix = transform.mix ? transform.mix : 1;

    memset(x, 0, (size_t)n * sizeof *x);
    x[j] = 1;
    transform_rows(transform, x, 1, n);
    for (int64_t i = 0; i < n; i++) {
        double h = __builtin_parityll((uint64_t)(i & j & (block - 1))) ? -1 : 1;
        double expected = hartley(i / block, j / block, mix) * h / sqrt((double)block) * (double)sign[j];

        if (!(fabs((double)x[i] - expected) <= 1e-6))
            fail_msg("width %lld: %g instead of %g at %lld, %lld", (long long)n, (double)x[i], expected, (long long)i,
                     (long long)j);
    }
    transform_rows_inverse(transform, x, 1, n);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabsf(x[i] - (i == j)) <= (mix > 256 ? 3e-6f : 1e-6f));      /* sums of mix terms in f32 */
}

static void test_full_wide(void)
{
    static const int64_t widths[][3] = {{576, 64, 9}, {1536, 512, 3}, {192, 64, 3}, {4096, 4096, 0}, {12800, 512, 25},
                                        {1024, 1024, 0}, {172, 4, 43}, {49152, 16384, 3}, {11008, 256, 43},
                                        {1021, 1, 1021}, {131072, 65536, 2}};

    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        int64_t n = widths[w][0];
        struct transform transform = transform_full(n, 7);
        float *x = xmallocarray((size_t)n, sizeof *x), *sign = xmallocarray((size_t)n, sizeof *sign);

        assert_int_equal(transform.block, widths[w][1]);
        assert_int_equal(transform.mix, widths[w][2]);
        transform_signs(transform, n, sign);
        for (int64_t c = 0; c < 5; c++)
            check_column(transform, n, c * (n - 1) / 4, x, sign);
        free(x);
        free(sign);
    }
}

/* What is left beside powers of two may be too large for a matrix of its own. */
static void test_full_in_spans(void)
{
    static const int64_t widths[][3] = {{49155, 1, 565}, {151936, 128, 0}, {1038, 2, 519}, {2062, 2, 0}, {1031, 0, 0},
                                        {1, 0, 0}, {0, 0, 0}, {3 * 1031, 1, 3}};

    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        struct transform transform = transform_full(widths[w][0], 7);

        assert_int_equal(transform.block, widths[w][1]);
        assert_int_equal(transform.mix, widths[w][2]);
        if (transform.block)
            assert_int_equal(widths[w][0] % transform_span(transform), 0);
    }
    check_rows(transform_full(2062, 1), 2062, 1);
    check_rows(transform_full(3 * 1031, 1), 3 * 1031, 1);
}

/* Columns are rows of the transpose, whole or in pieces. */
static void test_columns(void)
{
    static const int64_t sizes[][3] = {{12, 12, 7}, {172, 172, 40}, {48, 12, 33}, {6, 3, 1}, {1536, 1536, 700}};

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s][0], size = sizes[s][1], columns = sizes[s][2], count = n * columns;
        struct transform transform = transform_full(size, 3);
        float *w = numbers(count), *same = numbers(count), *rows = xmallocarray((size_t)count, sizeof *rows);

        for (int64_t i = 0; i < count; i++)
            rows[i % columns * n + i / columns] = w[i];
        transform_rows(transform, rows, columns * (n / size), size);
        transform_columns(transform, size, w, n, columns);
        for (int64_t i = 0; i < count; i++)
            assert_true(w[i] == rows[i % columns * n + i / columns]);
        transform_columns_inverse(transform, size, w, n, columns);
        CHECK_AT_MOST(check_relative(w, same, count), 1e-6, "turned back");
        free(w);
        free(same);
        free(rows);
    }
}

/* The first outputs of SplitMix64 from seed 1234567, as published with it. */
static void test_signs(void)
{
    static const uint64_t words[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u};
    float sign[180];

    transform_signs((struct transform){64, 1234567, 0}, 180, sign);
    for (int i = 0; i < 180; i++)
        assert_true(sign[i] == (words[i / 64] >> i % 64 & 1 ? -1.0f : 1.0f));
}

static void test_threads(void)
{
    enum { ROWS = 300, N = 384, COUNT = ROWS * N };
    static const struct transform turns[] = {{128, 1, 0}, {128, 1, 3}};
    float *x = numbers(COUNT), *first = xmalloc(COUNT * sizeof *first), *y = xmalloc(COUNT * sizeof *y);

    for (int i = 0; i < 6; i++) {
        int threads = 1 + i % 3, t = i / 3;

        parallel_set(threads);
        memcpy(y, x, COUNT * sizeof *y);
        transform_rows(turns[t], y, ROWS, N);
        transform_columns(turns[t], N, y, N, ROWS);
        if (threads == 1)
            memcpy(first, y, COUNT * sizeof *y);
        assert_memory_equal(first, y, COUNT * sizeof *y);
    }
    parallel_set(0);
    free(x);
    free(y);
    free(first);
}

static void test_none(void)
{
    float x[] = {1, 2, 3};

    transform_rows((struct transform){0}, x, 1, 3);
    transform_rows_inverse((struct transform){.seed = 4}, x, 1, 3);
    assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3);
    assert_null(transform_json((struct transform){0}));
    assert_true(transform_same((struct transform){0, 1, 0}, (struct transform){0, 2, 0}));
    assert_false(transform_same((struct transform){2, 1, 0}, (struct transform){2, 2, 0}));
    assert_false(transform_same((struct transform){2, 1, 0}, (struct transform){4, 1, 0}));
    assert_false(transform_same((struct transform){4, 1, 3}, (struct transform){4, 1, 0}));
    assert_true(transform_same((struct transform){4, 1, 3}, (struct transform){4, 1, 3}));
}

static void test_block(void)
{
    static const int64_t cases_[][3] = {{64, 576, 64}, {128, 576, 64}, {63, 576, 32}, {64, 7, 1}, {64, 0, 1}, {1, 8, 1},
                                        {0, 8, 1}, {INT64_MAX, INT64_C(1) << 40, TRANSFORM_BLOCK_MOST}};

    for (size_t i = 0; i < sizeof cases_ / sizeof *cases_; i++)
        assert_int_equal(transform_block(cases_[i][0], cases_[i][1]), cases_[i][2]);
}

static void test_json(void)
{
    static const struct {
        const char *text;
        int64_t n;
        bool good;
    } inputs[] = {
        {"{\"signs\": 5, \"hadamard\": 64}", 576, true}, {"{\"hadamard\": 2, \"signs\": 0}", 2, true},
        {"{\"signs\": 9223372036854775807, \"hadamard\": 65536}", 65536, true},
        {"{\"signs\": 5, \"hadamard\": 131072}", 131072, false}, {"{\"signs\": 5, \"hadamard\": 64}", 32, false},
        {"{\"signs\": 5, \"hadamard\": 64}", 100, false}, {"{\"signs\": 5, \"hadamard\": 64}", 0, false},
        {"{\"signs\": -1, \"hadamard\": 64}", 64, false}, {"{\"signs\": 5.0, \"hadamard\": 64}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64.0}", 64, false}, {"{\"signs\": 5, \"hadamard\": 1}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 0}", 64, false}, {"{\"signs\": 5, \"hadamard\": -2}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 24}", 48, false}, {"{\"signs\": 5}", 64, false},
        {"{\"hadamard\": 64}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"more\": 1}", 64, false}, {"[5, 64]", 64, false}, {"64", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 9}", 576, true},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 3}", 576, true},
        {"{\"signs\": 5, \"hadamard\": 1, \"hartley\": 1024}", 2048, true},
        {"{\"signs\": 5, \"hadamard\": 1, \"hartley\": 1025}", 1025, false},
        {"{\"signs\": 5, \"hadamard\": 0, \"hartley\": 9}", 9, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 1}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 0}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": -3}", 192, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 2}", 64, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 2}", 0, false},
        {"{\"signs\": 5, \"hadamard\": 1, \"hartley\": 2}", 0, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": \"3\"}", 192, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": null}", 192, false},
        {"{\"signs\": 5, \"hadamard\": 64, \"hartley\": 4611686018427387904}", 192, false},
        {"{\"signs\": 5, \"hartley\": 9}", 9, false},
        {"{\"signs\": 5, \"hadamard\": 1, \"hartley\": 3, \"more\": 1}", 9, false},
        {"null", 64, false}, {"{\"signs\": \"5\", \"hadamard\": 64}", 64, false},
    };

    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        struct json *json = json_parse(inputs[i].text, strlen(inputs[i].text), "a test"), *again;
        struct transform transform = {0};

        if (transform_parse(json, inputs[i].n, &transform) != inputs[i].good)
            fail_msg("'%s' for %lld", inputs[i].text, (long long)inputs[i].n);
        again = transform_json(transform);
        assert_true(inputs[i].good ? json_same(json, again) : !again);
        json_drop(json);
        json_drop(again);
    }
    assert_false(transform_parse(NULL, 64, &(struct transform){0}));
}

CHECK_MAIN({"rows, turned and turned back, against the dense matrix", test_rows},
           {"transforms are orthogonal", test_orthogonal},
           {"whole widths up to 300, against the dense matrix, orthogonal", test_full},
           {"widths of models", test_full_wide}, {"spans, where a whole width is too much", test_full_in_spans},
           {"columns, whole and in pieces", test_columns}, {"signs are SplitMix64's bits", test_signs},
           {"the same bytes with any number of threads", test_threads}, {"no transform", test_none},
           {"blocks that fit a width", test_block}, {"members of records", test_json})

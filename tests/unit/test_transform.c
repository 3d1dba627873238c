/* test_transform.c - transforms of an operator's input against dense matrices made from their definition. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "operator/transform.h"

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

/* T [n, n] by FORMAT: signs by a generator that steps, Hadamard matrices by doubling. */
static double *dense_transform(struct transform transform, int64_t n)
{
    double *t = xcalloc((size_t)(n * n), sizeof *t);
    uint64_t state = transform.seed, word = 0;

    for (int64_t block = 0; block < n; block += transform.block) {
        double *at = t + block * n + block;

        at[0] = 1 / sqrt((double)transform.block);
        for (int64_t size = 1; size < transform.block; size *= 2)
            for (int64_t i = 0; i < size; i++)
                for (int64_t j = 0; j < size; j++) {
                    at[i * n + j + size] = at[(i + size) * n + j] = at[i * n + j];
                    at[(i + size) * n + j + size] = -at[i * n + j];
                }
    }
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

static void test_rows(void)
{
    enum { ROWS = 5 };

    for (int c = 0; c < N_CASE; c++) {
        struct transform transform = {cases[c].block, cases[c].seed};
        int64_t n = cases[c].n, count = ROWS * n;
        float *x = numbers(count), *y = xmallocarray((size_t)count, sizeof *y), *expected;
        double *t = dense_transform(transform, n);

        expected = turned(x, t, ROWS, n);
        memcpy(y, x, (size_t)count * sizeof *y);
        transform_rows(transform, y, ROWS, n);
        CHECK_AT_MOST(check_relative(y, expected, count), 1e-6, "turned");
        transform_rows_inverse(transform, y, ROWS, n);
        CHECK_AT_MOST(check_relative(y, x, count), 1e-6, "turned back");
        free(x);
        free(y);
        free(expected);
        free(t);
    }
}

/* The rows of 1, turned, are the rows of T': their products with each other are those of 1. */
static void test_orthogonal(void)
{
    for (int c = 0; c < N_CASE; c++) {
        int64_t n = cases[c].n < 192 ? cases[c].n : cases[c].block;
        float *t = xcalloc((size_t)(n * n), sizeof *t);

        for (int64_t i = 0; i < n; i++)
            t[i * n + i] = 1;
        transform_rows((struct transform){cases[c].block, cases[c].seed}, t, n, n);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;

                for (int64_t k = 0; k < n; k++)
                    sum += (double)t[i * n + k] * (double)t[j * n + k];
                CHECK_AT_MOST(fabs(sum - (i == j)), 1e-6, "T T' - 1");
            }
        free(t);
    }
}

/* The first outputs of SplitMix64 from seed 1234567, as published with it. */
static void test_signs(void)
{
    static const uint64_t words[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u};
    float sign[180];

    transform_signs((struct transform){64, 1234567}, 180, sign);
    for (int i = 0; i < 180; i++)
        assert_true(sign[i] == (words[i / 64] >> i % 64 & 1 ? -1.0f : 1.0f));
}

static void test_threads(void)
{
    enum { ROWS = 300, N = 256, COUNT = ROWS * N };
    float *x = numbers(COUNT), *first = xmalloc(COUNT * sizeof *first), *y = xmalloc(COUNT * sizeof *y);

    for (int threads = 1; threads <= 3; threads++) {
        parallel_set(threads);
        memcpy(y, x, COUNT * sizeof *y);
        transform_rows((struct transform){128, 1}, y, ROWS, N);
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
    assert_true(transform_same((struct transform){0, 1}, (struct transform){0, 2}));
    assert_false(transform_same((struct transform){2, 1}, (struct transform){2, 2}));
    assert_false(transform_same((struct transform){2, 1}, (struct transform){4, 1}));
    assert_true(transform_same((struct transform){4, 1}, (struct transform){4, 1}));
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
           {"transforms are orthogonal", test_orthogonal}, {"signs are SplitMix64's bits", test_signs},
           {"the same bytes with any number of threads", test_threads}, {"no transform", test_none},
           {"blocks that fit a width", test_block}, {"members of records", test_json})

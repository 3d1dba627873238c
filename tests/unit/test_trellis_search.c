/* test_trellis_search.c - Viterbi's search for trellis codes: errors on normal numbers, against all codes of short
 * sequences, the same in all instruction sets; then whole matrices with moments. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "compute/kernels.h"
#include "compute/linalg.h"
#include "compute/trellis.h"
#include "fit/compensate.h"
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct dtype named(const char *name)
{
    struct dtype dtype;

    assert_true(dtype_parse(name, &dtype));
    return dtype;
}

static float *noise(int64_t count, uint64_t stream)
{
    int64_t padded = (count + 3) / 4 * 4;
    float *values = xaligned((size_t)padded, sizeof *values);

    random_normal((struct random){11, stream}, 0, padded, values);
    return values;
}

/* Search and work space. */
struct bench {
    struct dtype dtype;
    struct trellis_search *search;
    void *room;
};

static struct bench bench_new(struct dtype dtype, const struct kernels *kernels)
{
    struct bench b = {dtype, trellis_search_new(dtype, kernels), NULL};

    b.room = xaligned((trellis_search_room(b.search) + 63) / 64, 64);
    return b;
}

static void bench_free(struct bench *b)
{
    trellis_search_free(b->search);
    free(b->room);
}

static double error_of(struct dtype dtype, const float *x, int count, const uint32_t *state)
{
    double sum = 0;

    for (int i = 0; i < count; i++) {
        double d = x[i] - trellis_value(dtype, state[i / dtype.step], i % dtype.step) / (double)TRELLIS_ONE;

        sum += d * d;
    }
    return sum;
}

enum { SEQUENCES = 96 };

/* Squared error on normal numbers, as a part of their squares, with the factor for the codes that makes it least. */
static double normal_error(const char *name, double spread, bool tail)
{
    struct bench b = bench_new(named(name), NULL);
    int count = TRELLIS_WEIGHTS;
    float *x = noise(SEQUENCES * count, 1), y[TRELLIS_WEIGHTS];
    double xx = 0, xv = 0, vv = 0;

    for (int n = 0; n < SEQUENCES; n++) {
        uint32_t state[TRELLIS_WEIGHTS];

        for (int i = 0; i < count; i++)
            y[i] = x[n * count + i] * (float)(TRELLIS_SPREAD / TRELLIS_ONE / spread);
        (tail ? trellis_search : trellis_search_free_ends)(b.search, y, count, b.room, state);
        for (int i = 0; i < count; i++) {
            double v = trellis_value(b.dtype, state[i / b.dtype.step], i % b.dtype.step);

            xx += x[n * count + i] * x[n * count + i];
            xv += x[n * count + i] * v;
            vv += v * v;
        }
    }
    free(x);
    bench_free(&b);
    return (xx - xv * xv / vv) / xx;
}

/* Free ends: what a table of 2^state normal numbers gives by Viterbi's search in floats, to 2 % (for half rates and 4
 * bits: what our own gave on more, other numbers; at 3.5 and 4 bits the few large numbers of a sample weigh most).
 * Tail-biting: what free ends know for nothing, the state - bits of the start, is a part of the rate that costs as
 * much as such a part does, 2^(2 (state - bits) / 256) at most. */
static void test_normal(void)
{
    static const struct {
        const char *name;
        double spread, error;
    } tests[] = {{"t1-12", .96, .268}, {"t2-8", 1.04, .087}, {"t2-10", 1.04, .076}, {"t2-12", 1.04, .071},
                 {"t2-14", 1.04, .067}, {"t3-8", 1.1, .026},  {"t3-10", 1.1, .021},  {"t3-12", 1.1, .019},
                 {"t3-14", 1.1, .018},  {"t1.5-12", 1, .1327}, {"t2.5-12", 1.08, .035}, {"t3.5-12", 1.13, .0098},
                 {"t4-12", 1.14, .0049}};

    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        double free_ends = normal_error(tests[i].name, tests[i].spread, false);
        double tail = normal_error(tests[i].name, tests[i].spread, true);
        struct dtype d = named(tests[i].name);

        CHECK_AT_MOST(free_ends, tests[i].error * 1.02, tests[i].name);
        CHECK_AT_MOST(tail, free_ends * pow(2, 2. * (d.state - d.bits) / TRELLIS_WEIGHTS), tests[i].name);
    }
}

/* Of all instruction sets, with all lengths. */
static void test_same_codes(void)
{
    static const char *const names[] = {"t1-8", "t1-13", "t1.5-8", "t1.5-12", "t2-8", "t2-12", "t2.5-8", "t2.5-10",
                                        "t2.5-12", "t3-8", "t3-9", "t3-11", "t3.5-8", "t3.5-11", "t3.5-12",
                                        "t3.5-13", "t4-8",
                                        "t4-9", "t4-12"};
    static const int counts[] = {256, 255, 192, 100, 17, 9, 2};

    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            struct dtype dtype = named(names[n]);
            struct bench best = bench_new(dtype, kernels_all()[0]);
            float *x = noise(256, 10 + n);
            uint32_t first[TRELLIS_WEIGHTS], state[TRELLIS_WEIGHTS];
            int count = counts[c], steps = (count + dtype.step - 1) / dtype.step;

            x[0] *= 100;                         /* beyond the range */
            x[1] *= -100;
            trellis_search(best.search, x, count, best.room, first);
            for (int k = 1; kernels_all()[k]; k++) {
                struct bench b = bench_new(dtype, kernels_all()[k]);

                trellis_search(b.search, x, count, b.room, state);
                assert_memory_equal(state, first, (size_t)steps * sizeof *state);
                bench_free(&b);
            }
            bench_free(&best);
            free(x);
        }
}

/* The least error of all codes of so many steps, and of those whose first `overlap` bits are those of `codes`. */
static double least_error(struct dtype dtype, const float *x, int count, int steps, int overlap, uint32_t codes)
{
    double least = INFINITY;
    uint32_t mask = (1u << overlap) - 1;

    for (uint32_t c = 0; c < 1u << steps * dtype.bits; c++) {
        unsigned char packed[4] = {(unsigned char)c, (unsigned char)(c >> 8), (unsigned char)(c >> 16)};
        uint32_t state[TRELLIS_WEIGHTS];

        if ((c & mask) != (codes & mask))
            continue;
        trellis_states(dtype, steps, packed, state);
        least = fmin(least, error_of(dtype, x, count, state));
    }
    return least;
}

/* Short sequences: the second search is exact for the bits that the first one chose (but for what integers round
 * off), also where the last step has one weight of two. The first one is a guess that is bad where a tile has hardly
 * more bits than a state: there the bound is a wide one. */
static void test_all_codes(void)
{
    static const struct {
        const char *name;
        int count;
    } tests[] = {{"t1-8", 14}, {"t1-8", 9}, {"t2-8", 7}, {"t2-9", 6}, {"t1.5-8", 10}, {"t1.5-8", 9}, {"t3-8", 5},
                 {"t2.5-8", 6}, {"t2.5-8", 5}, {"t4-9", 4}};

    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        struct bench b = bench_new(named(tests[i].name), NULL);
        int count = tests[i].count, steps = (count + b.dtype.step - 1) / b.dtype.step;
        double ours = 0, best = 0;

        for (uint64_t seed = 0; seed < 12; seed++) {
            float *x = noise(count, 50 + seed);
            uint32_t state[TRELLIS_WEIGHTS], codes = 0;
            double error, given;

            for (int k = 0; k < count; k++)
                x[k] *= (float)(TRELLIS_SPREAD / TRELLIS_ONE);
            trellis_search(b.search, x, count, b.room, state);
            for (int t = 0; t < steps; t++)
                codes |= (state[t] & ((1u << b.dtype.bits) - 1)) << t * b.dtype.bits;
            error = error_of(b.dtype, x, count, state);
            given = least_error(b.dtype, x, count, steps, b.dtype.state - b.dtype.bits, codes);
            CHECK_AT_MOST(error, given + 2. / 1024 * count, tests[i].name);
            ours += error;
            best += least_error(b.dtype, x, count, steps, 0, 0);
            free(x);
        }
        CHECK_AT_MOST(best, ours, tests[i].name);
        CHECK_AT_MOST(ours, 3.5 * best, tests[i].name);
        bench_free(&b);
    }
}

/* Fewer bits than a state has: nothing is better. */
static void test_tiny(void)
{
    static const char *const names[] = {"t1-16", "t2-12", "t1.5-12", "t4-16"};

    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        struct bench b = bench_new(named(names[n]), NULL);
        float *x = noise(8, 90 + n);

        for (int count = 1; count < 4; count++) {
            uint32_t state[TRELLIS_WEIGHTS];

            trellis_search(b.search, x, count, b.room, state);
            assert_true(error_of(b.dtype, x, count, state)
                        == least_error(b.dtype, x, count, (count + b.dtype.step - 1) / b.dtype.step, 0, 0));
        }
        bench_free(&b);
        free(x);
    }
}

/* Moments of inputs that have a part in common. */
static struct moments moments_made(int64_t n)
{
    struct moments h = {.n = n, .tokens = 4 * n, .packed = xcalloc((size_t)(n * (n + 1) / 2), sizeof *h.packed)};
    float *x = noise(4 * n * n, 3), *mix = noise(n, 4);

    for (int64_t t = 0; t < 4 * n; t++)
        for (int64_t i = n - 1; i >= 0; i--)
            x[t * n + i] = (x[t * n + i] + 2 * x[t * n] * mix[i]) / (float)(1 + i % 5);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            for (int64_t t = 0; t < 4 * n; t++)
                h.packed[i * (i + 1) / 2 + j] += x[t * n + i] * x[t * n + j] / (float)(4 * n);
    free(x);
    free(mix);
    return h;
}

/* tr(D H D') of what is stored, in double. */
static double stored_error(const float *w, const struct tensor *tensor, const struct moments *h)
{
    int64_t rows = tensor_rows(tensor), n = tensor_row_length(tensor);
    float *q = xaligned((size_t)(rows * n), sizeof *q);
    double *full = xmallocarray((size_t)(n * n), sizeof *full), sum = 0;

    tensor_get(tensor, q);
    moments_full64(h, full);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                sum += full[i * n + j] * ((double)w[r * n + i] - q[r * n + i]) * ((double)w[r * n + j] - q[r * n + j]);
    free(full);
    free(q);
    return sum;
}

enum { ROWS = 45, N = 76 };      /* short tiles at both edges */

static void test_matrix(void)
{
    static const char *const names[] = {"t2-8", "t1.5-10", "t3-12"};
    struct moments h = moments_made(N);
    float *w = noise(ROWS * N, 5);
    struct feedback *feedback;

    assert_int_equal(feedback_new_blocks(&h, 0, TRELLIS_TILE, &feedback), EX_OK);
    for (int i = 0; i < 3; i++) {
        struct compensated with, without;
        struct tensor to, plain, again;
        double error;

        parallel_set(1);
        assert_int_equal(compensate(w, feedback, named(names[i]), 2, (int64_t[]){ROWS, N}, "w", &to, &with), EX_OK);
        parallel_set(3);
        assert_int_equal(compensate(w, feedback, named(names[i]), 2, (int64_t[]){ROWS, N}, "w", &again, &with), EX_OK);
        assert_memory_equal(to.data, again.data, to.bytes);
        assert_int_equal(compensate_trellis(w, NULL, named(names[i]), 2, (int64_t[]){ROWS, N}, "w", &plain, &without),
                         EX_OK);
        error = stored_error(w, &to, &h);
        CHECK_AT_MOST(fabs(with.error - error), 1e-4 * error, names[i]);
        CHECK_AT_MOST(error, .8 * stored_error(w, &plain, &h), "with feedback against without");
        CHECK_AT_MOST(without.error, .5 * without.norm, "plain error");
        tensor_free(&to);
        tensor_free(&again);
        tensor_free(&plain);
    }
    parallel_set(0);
    feedback_free(feedback);
    free(h.packed);
    free(w);
}

/* No neighbour of a row's scale is better. */
static void test_scales(void)
{
    struct moments h = moments_made(N);
    float *w = noise(ROWS * N, 6);
    struct feedback *feedback;
    struct compensated result;
    struct trellis_layout l;
    struct tensor to;
    uint16_t *scale;

    assert_int_equal(feedback_new_blocks(&h, 0, TRELLIS_TILE, &feedback), EX_OK);
    assert_int_equal(compensate(w, feedback, named("t2-8"), 2, (int64_t[]){ROWS, N}, "w", &to, &result), EX_OK);
    trellis_layout(to.dtype, 2, to.shape, &l);
    scale = (uint16_t *)(void *)(to.data + l.scale);
    for (int row = 0; row < ROWS; row += 11)
        for (int step = -1; step <= 1; step += 2) {
            scale[row] = (uint16_t)(scale[row] + step);
            CHECK_AT_MOST(result.error * (1 - 1e-6), stored_error(w, &to, &h), "a scale's neighbour");
            scale[row] = (uint16_t)(scale[row] - step);
        }
    tensor_free(&to);
    feedback_free(feedback);
    free(h.packed);
    free(w);
}

/* Rows of zeros stay zero; what isn't finite, or too large, is refused. */
static void test_special(void)
{
    static const float bad[] = {NAN, INFINITY, 1e9f};
    struct compensated result;
    struct tensor to;
    float *w = noise(20 * 33, 7), back[20 * 33];
    char message[300];

    memset(w, 0, 33 * sizeof *w);
    assert_int_equal(compensate_trellis(w, NULL, named("t2-12"), 2, (int64_t[]){20, 33}, "w", &to, &result), EX_OK);
    tensor_get(&to, back);
    for (int i = 0; i < 33; i++)
        assert_true(back[i] == 0);
    tensor_free(&to);
    error_capture(message, sizeof message);
    for (int i = 0; i < 3; i++) {
        w[100] = bad[i];
        assert_int_equal(compensate_trellis(w, NULL, named("t2-12"), 2, (int64_t[]){20, 33}, "w", &to, &result),
                         EX_DATAERR);
        assert_non_null(strstr(message, "'w'"));
        assert_null(to.data);
    }
    error_capture(NULL, 0);
    free(w);
}

CHECK_MAIN({"normal numbers: errors of all rates, free ends and tail-biting", test_normal},
           {"all instruction sets choose the same codes", test_same_codes},
           {"short sequences against all codes", test_all_codes},
           {"fewer bits than a state has", test_tiny},
           {"matrices with moments: any threads, what is stored, feedback", test_matrix},
           {"scales are the best for their codes", test_scales},
           {"zeros, and what is refused", test_special})

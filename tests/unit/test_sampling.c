/* Sampling: greedy, temperature, top-k, top-p, and the draw. */
#include "check.h"
#include "base/random.h"
#include "model/sampling.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 257, DRAWS = 20000 };

static int32_t take(const struct sampling *sampling, const float *logits, int64_t n, int64_t position)
{
    struct sampler sampler;
    float copy[VOCAB];
    int32_t token;

    memcpy(copy, logits, (size_t)n * sizeof *logits);
    sampler_begin(&sampler, sampling, n);
    token = sample(&sampler, copy, position);
    sampler_end(&sampler);
    return token;
}

static void test_greedy(void)
{
    const struct sampling greedy = {.top_p = 1};
    float x[5] = {1, 3, 3, -INFINITY, 2};

    assert_int_equal(take(&greedy, x, 5, 0), 1);
    x[4] = NAN;
    assert_int_equal(take(&greedy, x, 5, 0), -1);
    x[4] = INFINITY;
    assert_int_equal(take(&greedy, x, 5, 0), -1);
    for (int i = 0; i < 5; i++)
        x[i] = -INFINITY;
    assert_int_equal(take(&greedy, x, 5, 0), -1);
}

/* Counts of DRAWS tokens. */
static void histogram(const struct sampling *sampling, const float *logits, int64_t n, int64_t *count)
{
    struct sampler sampler;
    float copy[VOCAB];

    memset(count, 0, (size_t)n * sizeof *count);
    sampler_begin(&sampler, sampling, n);
    for (int64_t i = 0; i < DRAWS; i++) {
        int32_t token;

        memcpy(copy, logits, (size_t)n * sizeof *logits);
        token = sample(&sampler, copy, i);
        assert_in_range(token, 0, n - 1);
        count[token]++;
    }
    sampler_end(&sampler);
}

/* Pearson's statistic of counts against probabilities; what has none must not come. */
static double chi_square(const int64_t *count, const double *p, int64_t n, int *classes)
{
    double sum = 0;

    *classes = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(p[i] > 0))
            assert_int_equal(count[i], 0);
        else {
            double expected = p[i] * DRAWS, d = (double)count[i] - expected;

            sum += d * d / expected;
            ++*classes;
        }
    }
    return sum;
}

struct entry {
    double p;
    int64_t token;
};

static int descending(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : (x->token > y->token) - (x->token < y->token);
}

/* transformers' definition, plainly: sort, cut, normalise. */
static void define(const struct sampling *sampling, const float *logits, int64_t n, double *p)
{
    struct entry entry[VOCAB] = {0};
    int64_t kept = n;
    double total = 0, below;

    for (int64_t i = 0; i < n; i++)
        entry[i] = (struct entry){(double)logits[i] / sampling->temperature, i};
    qsort(entry, (size_t)n, sizeof *entry, descending);
    if (sampling->top_k && sampling->top_k < n)
        for (kept = sampling->top_k; kept < n && entry[kept].p == entry[sampling->top_k - 1].p; kept++)
            ;
    for (int64_t i = 0; i < kept; i++)
        total += entry[i].p = exp(entry[i].p);
    below = 0;
    for (int64_t i = kept - 1; i > 0 && sampling->top_p < 1; i--) {
        below += entry[i].p / total;
        if (below > 1 - sampling->top_p)
            break;
        kept = i;
    }
    total = 0;
    for (int64_t i = 0; i < kept; i++)
        total += entry[i].p;
    memset(p, 0, (size_t)n * sizeof *p);
    for (int64_t i = 0; i < kept; i++)
        p[entry[i].token] = entry[i].p / total;
}

/* The bound on chi-square is its mean plus five standard deviations: c - 1 + 5 sqrt(2 (c - 1)). */
static void check_distribution(const struct sampling *sampling, const float *logits, int64_t n)
{
    int64_t count[VOCAB];
    double p[VOCAB], x;
    int classes;

    define(sampling, logits, n, p);
    histogram(sampling, logits, n, count);
    x = chi_square(count, p, n, &classes);
    CHECK_AT_MOST(x, classes - 1 + 5 * sqrt(2.0 * (classes - 1)) + 1e-9, "chi-square");
}

static void test_distribution(void)
{
    static const struct sampling samplings[] = {
        {1, 0, 1, 1, 0},   {0.5, 0, 1, 2, 0}, {2, 0, 1, 3, 0},     {1, 1, 1, 4, 0},    {1, 2, 1, 5, 0},
        {1, 7, 1, 6, 0},   {1, 300, 1, 7, 0}, {1, 0, 0.5, 8, 0},   {1, 0, 0.9, 9, 0},  {1, 0, 0, 10, 0},
        {0.7, 5, 0.8, 11, 0}, {1.5, 40, 0.95, 12, 0}, {1, 3, 0.999, 13, 0},
    };
    static const float few[8] = {1, 2, 2, 0, 2, -1, 0.5f, -INFINITY};

    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++)
        check_distribution(&samplings[i], few, 8);
}

static void test_large(void)
{
    static const struct sampling samplings[] = {{1, 0, 0.9, 1, 0}, {1, 12, 1, 2, 0}, {1, 30, 0.7, 3, 0}};
    struct random random = random_named(1, "logits");
    float x[VOCAB + 3];

    random_normal(random, 0, VOCAB + 3, x);
    for (int i = 0; i < VOCAB; i++)
        x[i] *= 3;
    for (size_t i = 0; i < sizeof samplings / sizeof *samplings; i++)
        check_distribution(&samplings[i], x, VOCAB);
}

/* The same numbers give the same token; another seed, sequence or position others. */
static void test_random_numbers(void)
{
    static const float x[64];
    const struct sampling a = {1, 0, 1, 5, 0}, b = {1, 0, 1, 6, 0}, c = {1, 0, 1, 5, 1};
    int same_seed = 0, same_sequence = 0, same_position = 0;

    for (int64_t i = 0; i < 200; i++) {
        int32_t token = take(&a, x, 64, i);

        assert_int_equal(take(&a, x, 64, i), token);
        same_seed += take(&b, x, 64, i) == token;
        same_sequence += take(&c, x, 64, i) == token;
        same_position += take(&a, x, 64, i + 1) == token;
    }
    assert_true(same_seed < 20 && same_sequence < 20 && same_position < 20);
}

static void test_extremes(void)
{
    const struct sampling cold = {1e-30, 0, 1, 0, 0}, hot = {1000, 0, 1, 0, 0};
    const float far[3] = {3e38f, -3e38f, 1}, x[3] = {1e30f, 2, 3};

    assert_int_equal(take(&cold, x, 3, 0), 0);
    assert_int_equal(take(&hot, far, 3, 0), 0);
}

static void test_device(void)
{
    static const struct sampling drawn = {1, 3, 0.9, 1, 0}, greedy = {.top_p = 1};
    const float x[6] = {1, 2, 5, 4, 5, 0};
    float *on = device_reference.allocate(sizeof x);
    struct sampler sampler;

    device_reference.upload(on, x, sizeof x);
    sampler_begin(&sampler, &greedy, 6);
    assert_int_equal(sample_from(&sampler, &device_reference, on, 0), 2);
    sampler_end(&sampler);
    sampler_begin(&sampler, &drawn, 6);
    for (int64_t i = 0; i < 20; i++)
        assert_int_equal(sample_from(&sampler, &device_reference, on, i), take(&drawn, x, 6, i));
    sampler_end(&sampler);
    device_reference.release(on);
}

CHECK_MAIN({"the most likely token, of equal ones the first; what isn't a number is told", test_greedy},
           {"draws have the distribution that transformers defines", test_distribution},
           {"and of a larger vocabulary", test_large},
           {"draws depend on seed, sequence and position alone", test_random_numbers},
           {"temperatures that overflow", test_extremes},
           {"logits on a device", test_device})

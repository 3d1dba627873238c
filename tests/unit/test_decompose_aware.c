/* test_decompose_aware.c - operators decomposed with moments: what is reported is what is stored, tolerances are
 * weighted, the sequential target is taken where it is better, residual terms live in turned coordinates. */
#include "base/memory.h"
#include "base/random.h"
#include "compute/linalg.h"
#include "fit/aware.h"
#include "fit/decompose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { OUT = 48, IN = 64, INPUTS = 400 };

static char message[500];

static float *noise(int64_t count, uint64_t stream)
{
    float *values = xaligned((size_t)count, sizeof *values);

    random_normal((struct random){1, stream}, 0, count, values);
    return values;
}

static void pack_moments(const float *x, int64_t count, struct moments *h)
{
    double *g = xaligned((size_t)(IN * IN), sizeof *g);

    *h = (struct moments){IN, count, xaligned((size_t)(IN * (IN + 1) / 2), sizeof(float))};
    linalg_gram(matrix_turn(matrix_of(x, count, IN)), g);
    for (int64_t i = 0; i < IN; i++)
        for (int64_t j = 0; j <= i; j++)
            h->packed[i * (i + 1) / 2 + j] = (float)(g[i * IN + j] / (double)count);
    free(g);
}

static float *cross_moments(const float *x, const float *y, int64_t count)
{
    float *cross = xaligned((size_t)(IN * IN), sizeof *cross);

    linalg_gemm(1 / (float)count, matrix_turn(matrix_of(x, count, IN)), matrix_of(y, count, IN), 0,
                matrix_of(cross, IN, IN));
    return cross;
}

/* Inputs x of uneven sizes and, in a compressed model, y = x mixed; cross moments where shift isn't 0. */
static struct moment_set set_made(float shift)
{
    float *x = noise(2 * INPUTS * IN, 1), *mix = noise(IN * IN, 2), *y = noise(2 * INPUTS * IN, 3);
    float *held_x = x + INPUTS * IN, *held_y = y + INPUTS * IN;
    struct moment_set set = {.name = xstrdup("inputs")};

    for (int64_t i = 0; i < 2 * INPUTS * IN; i++)
        x[i] *= (float)pow(50, -(double)(i % IN) / IN);
    for (int64_t i = 0; i < IN * IN; i++)
        mix[i] = (i % (IN + 1) == 0) + shift * mix[i] / 8;
    linalg_gemm(1, matrix_of(x, 2 * INPUTS, IN), matrix_of(mix, IN, IN), 0, matrix_of(y, 2 * INPUTS, IN));
    pack_moments(y, INPUTS, &set.h);
    if (shift != 0) {
        set.cross = cross_moments(x, y, INPUTS);
        pack_moments(held_y, INPUTS, &set.held);
        set.held_cross = cross_moments(held_x, held_y, INPUTS);
    }
    free(x);
    free(y);
    free(mix);
    return set;
}

static struct operator matrix(const float *w, struct dtype dtype)
{
    struct tensor tensor = tensor_new(dtype, 2, (int64_t[]){OUT, IN});

    tensor_set(&tensor, w);
    return operator_from_matrix("w", &tensor);
}

/* tr((w - op) H (w - op)') */
static double error_of(const float *w, const struct operator *op, const struct moments *h)
{
    float *gap = xaligned((size_t)(OUT * IN), sizeof *gap);
    double error;

    operator_dense(op, gap);
    for (int64_t i = 0; i < OUT * IN; i++)
        gap[i] = w[i] - gap[i];
    error = moments_error(h, gap, OUT);
    free(gap);
    return error;
}

static void expect_error(double told, double is, double norm)
{
    CHECK_AT_MOST(fabs(told - is), 1e-6 * norm + 1e-4 * is, "error told, from that of what is stored");
}

static void test_reports(void)
{
    static const char *const shapes[] = {NULL, "48x1,1x64", "6x8,8x8", "4x4,4x4,3x4"};
    struct moment_set set = set_made(0);
    float *w = noise(OUT * IN, 9);
    double norm = moments_error(&set.h, w, OUT);

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int kind = DTYPE_F32; kind <= DTYPE_BF16; kind++) {
            struct decomposition how = {.budget = {.limit = MPO_KEEP, .part = 0.5}, .sites = 2, .moments = &set,
                                        .dtype = {.kind = (enum dtype_kind)kind}, .force = true}, plain = how;
            struct operator op = matrix(w, DTYPE(F32)), other = matrix(w, DTYPE(F32));
            struct decomposed result, without;

            plain.moments = NULL;
            if (shapes[i])
                assert_true(shape_parse(shapes[i], &how.shape) && shape_parse(shapes[i], &plain.shape));
            assert_int_equal(decompose(&op, &how, &result), EX_OK);
            assert_int_equal(decompose(&other, &plain, &without), EX_OK);
            assert_true(result.done && result.parameters <= OUT * IN / 2 && !result.sequential);
            expect_error(result.norm, norm, norm);
            expect_error(result.error, error_of(w, &op, &set.h), norm);
            CHECK_AT_MOST(result.error, 0.7 * error_of(w, &other, &set.h), "weighted error, against a plain fit's");
            CHECK_AT_MOST(difference_error(&without.difference), difference_error(&result.difference), "plain error");
            operator_free(&op);
            operator_free(&other);
        }
    free(w);
    moment_set_free(&set);
}

static void test_tolerance(void)
{
    static const char *const shapes[] = {"48x1,1x64", "6x8,8x8", "4x4,4x4,3x4"};
    static const double parts[] = {0.6, 0.2, 0.02};
    struct moment_set plain = set_made(0), shifted = set_made(0.3f);
    float *w = noise(OUT * IN, 9);

    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++)
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            struct moment_set set = i % 2 ? shifted : plain;
            struct decomposition how = {.budget = {.limit = MPO_TOLERANCE, .part = parts[p]}, .moments = &set,
                                        .dtype = DTYPE(F16), .force = true};
            struct operator op = matrix(w, DTYPE(F32));
            struct decomposed result;
            double relative;

            assert_true(shape_parse(shapes[i / 2], &how.shape));
            assert_int_equal(decompose(&op, &how, &result), EX_OK);
            relative = sqrt(error_of(w, &op, &set.h) / moments_error(&set.h, w, OUT));
            assert_true(result.done);
            CHECK_AT_MOST(relative, parts[p] * 1.00001, "weighted error, against the tolerance");
            if (parts[p] > 0.1)              /* below, one bond more or less is much */
                CHECK_AT_MOST(0.5 * parts[p], relative, "the tolerance is used");
            operator_free(&op);
        }
    free(w);
    moment_set_free(&plain);
    moment_set_free(&shifted);
}

/* Inputs that are always zero. */
static void test_nothing_seen(void)
{
    struct moment_set set = set_made(0.5f);
    struct decomposition how = {.budget = {.limit = MPO_KEEP, .part = 0.5}, .sites = 2, .moments = &set,
                                .dtype = DTYPE(F16)};
    float *w = noise(OUT * IN, 9);
    struct operator op = matrix(w, DTYPE(F32));
    struct decomposed result;

    memset(set.h.packed, 0, IN * (IN + 1) / 2 * sizeof(float));
    memset(set.held.packed, 0, IN * (IN + 1) / 2 * sizeof(float));
    memset(set.cross, 0, IN * IN * sizeof(float));
    memset(set.held_cross, 0, IN * IN * sizeof(float));
    assert_int_equal(decompose(&op, &how, &result), EX_OK);
    assert_true(result.done && !result.sequential && result.error == 0);
    operator_free(&op);
    free(w);
    moment_set_free(&set);
}

static void test_sequential(void)
{
    float *w = noise(OUT * IN, 9), *given = xaligned((size_t)(OUT * IN), sizeof *given);

    for (int shifted = 0; shifted < 2; shifted++) {
        struct moment_set set = set_made(shifted ? 0.5f : 1e-3f), no_reference;
        struct decomposition how = {.budget = {.limit = MPO_KEEP, .part = 0.7}, .sites = 2, .moments = &set,
                                    .dtype = DTYPE(F16)};
        struct operator op = matrix(w, DTYPE(F32)), plain = matrix(w, DTYPE(F32));
        struct decomposed result, without;
        double error;

        assert_int_equal(decompose(&op, &how, &result), EX_OK);
        no_reference = set;
        no_reference.held_cross = NULL;
        how.moments = &no_reference;
        assert_int_equal(decompose(&plain, &how, &without), EX_OK);
        assert_true(!without.sequential);
        if (shifted)
            assert_true(result.sequential);
        expect_error(result.error, error_of(w, &op, &set.h), result.norm);
        expect_error(result.norm, without.norm, without.norm);
        operator_dense(&op, given);
        error = aware_held_out(w, given, OUT, &set);
        operator_dense(&plain, given);
        CHECK_AT_MOST(error, aware_held_out(w, given, OUT, &set), "held-out error, against the plain target's");
        operator_free(&op);
        operator_free(&plain);
        moment_set_free(&set);
    }
    free(w);
    free(given);
}

/* An operator that gives about w, behind a transform: a rank of 4 of w's turned matrix. */
static struct operator coarse(const float *w, struct transform input, struct transform output)
{
    float *turned = xaligned((size_t)(OUT * IN), sizeof *turned);
    struct decomposition how = {.budget = {.limit = MPO_CHI, .chi = 4}, .sites = 2, .dtype = DTYPE(F32)};
    struct operator op;
    struct decomposed result;

    memcpy(turned, w, (size_t)(OUT * IN) * sizeof *turned);
    transform_rows(input, turned, OUT, IN);
    transform_columns(output, OUT, turned, OUT, IN);
    op = matrix(turned, DTYPE(F32));
    assert_int_equal(decompose(&op, &how, &result), EX_OK);
    op.input = input;
    op.output = output;
    free(turned);
    return op;
}

static void test_residual(void)
{
    struct moment_set plain = set_made(0), shifted = set_made(0.3f);
    const struct moment_set *sets[] = {NULL, &plain, &shifted};
    float *w = noise(OUT * IN, 9);

    static const struct transform none, blocks = {16, 5, 0};

    for (int turned = 0; turned < 3; turned++)
        for (int k = 0; k < 3; k++) {
            struct operator op = coarse(w, turned == 2 ? transform_full(IN, 4) : turned ? blocks : none,
                                        turned == 2 ? transform_full(OUT, 5) : none);
            struct decomposition how = {.budget = {.limit = MPO_CHI, .chi = 6}, .sites = 2, .moments = sets[k],
                                        .dtype = DTYPE(F16)};
            struct decomposed result;
            struct difference whole;
            double before = error_of(w, &op, &plain.h);

            assert_int_equal(decompose_residual(&op, w, &how, &result), EX_OK);
            assert_true(result.done && op.n_term == 2 && op.term[1].n_site == 2 && !op.input.block == !turned);
            assert_int_equal(result.parameters, 6 * (OUT + IN));
            CHECK_AT_MOST(error_of(w, &op, &plain.h), 0.9 * before, "error with the term, against before");
            whole = operator_difference_from(w, &op);
            CHECK_AT_MOST(fabs(difference_error(&result.difference) - difference_error(&whole)), 1e-6,
                          "plain error told");
            if (k)
                expect_error(result.error, error_of(w, &op, &sets[k]->h), result.norm);
            how.budget = (struct mpo_budget){.limit = MPO_TOLERANCE, .part = 0.05};
            how.force = true;
            assert_int_equal(decompose_residual(&op, w, &how, &result), EX_OK);
            assert_true(result.done && op.n_term == 3);
            CHECK_AT_MOST(sqrt(result.error / result.norm), 0.05, "error against the tolerance");
            error_capture(message, sizeof message);
            how.budget.part = 0.9;
            assert_int_equal(decompose_residual(&op, w, &how, &result), EX_OK);
            error_capture(NULL, 0);
            assert_true(!result.done && op.n_term == 3 && strstr(message, "within an error of") != NULL);
            operator_free(&op);
        }
    free(w);
    moment_set_free(&plain);
    moment_set_free(&shifted);
}

CHECK_MAIN({"weighted errors told are those of the cores as stored, and below a plain fit's", test_reports},
           {"a tolerance is one of the weighted error of what is stored", test_tolerance},
           {"inputs that are always zero decide nothing", test_nothing_seen},
           {"the sequential target is taken where it is better held out", test_sequential},
           {"a residual term is added, behind a transform too, and its errors are of the whole", test_residual})

/* test_quantize.c - operators rounded with and without moments, turned, with residuals, core by core; and all codes of
 * tiny ones enumerated. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "fit/curve.h"
#include "fit/moments_turn.h"
#include "fit/quantize_internal.h"
#include "fit/round.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static char message[500];

static float *normal(uint64_t stream, int64_t count)
{
    float *values = xmallocarray((size_t)(count + 3), sizeof *values);

    random_normal((struct random){7, stream}, 0, (count + 3) / 4 * 4, values);
    return values;
}

/* E[x x'] of 4 n vectors that are mostly in a few directions, of a block's input. */
static struct moment_set moments(int64_t n, uint64_t stream)
{
    static char name[] = "model.layers.0.mlp.down";
    struct moment_set set = {.name = name, .h = {.n = n, .tokens = 4 * n}};
    int64_t tokens = 4 * n, few = n < 16 ? 1 : n / 8;
    float *x = normal(stream, tokens * n), *z = normal(stream + 1, tokens * few), *a = normal(stream + 2, few * n);

    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < few; k++)
                x[t * n + i] += 3 * z[t * few + k] * a[k * n + i];
    set.h.packed = xmallocarray((size_t)(n * (n + 1) / 2), sizeof *set.h.packed);
    for (int64_t i = 0, at = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++, at++) {
            double sum = 0;

            for (int64_t t = 0; t < tokens; t++)
                sum += (double)x[t * n + i] * x[t * n + j];
            set.h.packed[at] = (float)(sum / (double)tokens);
        }
    free(x);
    free(z);
    free(a);
    return set;
}

static struct operator matrix(int64_t out, int64_t in, uint64_t stream)
{
    struct tensor tensor = tensor_new(DTYPE(F32), 2, (int64_t[]){out, in});
    float *w = normal(stream, out * in);

    tensor_set(&tensor, w);
    free(w);
    return operator_from_matrix("model.layers.0.mlp.down_proj.weight", &tensor);
}

/* Cores of noise; shape: n_site + 1 bonds, then out and in of each. */
static struct operator chain(int n_site, const int64_t *bond, const int64_t *out, const int64_t *in)
{
    struct tensor core[4];

    for (int s = 0; s < n_site; s++) {
        float *values;

        core[s] = tensor_new(DTYPE(F32), 4, (int64_t[]){bond[s], out[s], in[s], bond[s + 1]});
        values = normal(100 + (uint64_t)s, tensor_count(&core[s]));
        /* Singular values that fall off, as those of a fit do. */
        for (int64_t i = 0; i < tensor_count(&core[s]); i++)
            values[i] *= 1 / (1 + (float)(i % bond[s + 1])) * (s ? 5 : 1);
        tensor_set(&core[s], values);
        free(values);
    }
    return operator_from_cores("model.layers.0.mlp.down_proj.weight", n_site, core);
}

static float *dense(const struct operator *op)
{
    float *w = xmallocarray((size_t)(op->out * op->in), sizeof *w);

    operator_dense(op, w);
    return w;
}

/* d = a - b. */
static float *minus(const float *a, const float *b, int64_t count)
{
    float *d = xmallocarray((size_t)count, sizeof *d);

    for (int64_t i = 0; i < count; i++)
        d[i] = a[i] - b[i];
    return d;
}

static struct quantization plain(int bits, int group)
{
    return (struct quantization){.dtype = {.kind = DTYPE_GROUP, .bits = bits, .group = group, .zero = ZERO_MIN},
                                   .residual_bits = 8,
                                 .alternations = 4};
}

static struct quantized run(struct operator *op, const struct quantization *how)
{
    struct views *views = views_new();
    struct quantized result;

    assert_int_equal(quantize_operator(op, how, views, &result), EX_OK);
    views_free(views);
    return result;
}

/* |a - b| <= part |b| */
static void check_close(double a, double b, double part, const char *what)
{
    CHECK_AT_MOST(fabs(a - b), part * fabs(b), what);
}

/* What the result tells is what the operator gives, for the inputs as they come. */
static void check_told(const float *w, const struct operator *op, const struct moment_set *set,
                       const struct quantized *result)
{
    float *given = dense(op), *d = minus(w, given, op->out * op->in);

    check_close(result->error, moments_error(&set->h, d, op->out), 1e-3, "error told");
    check_close(result->norm, moments_error(&set->h, w, op->out), 1e-4, "norm told");
    check_close(difference_error(&result->difference), check_relative(given, w, op->out * op->in), 1e-3,
                "relative error told");
    free(given);
    free(d);
}

static void test_nearest(void)
{
    struct quantization how = plain(3, 32);
    struct operator op = matrix(24, 80, 1), was = matrix(24, 80, 1);
    struct quantized result = run(&op, &how);
    struct difference difference = {0};

    assert_int_equal(round_nearest(&was.term[0].core[0], how.dtype, "w", &difference), EX_OK);
    assert_memory_equal(op.term[0].core[0].data, was.term[0].core[0].data, (size_t)op.term[0].core[0].bytes);
    assert_true(result.done && result.difference.squares == difference.squares && result.error == difference.squares);
    result = run(&op, &how);
    assert_false(result.done);
    operator_free(&op);
    operator_free(&was);
}

static void test_turned(void)
{
    struct quantization how = plain(3, 16);
    struct operator op = matrix(24, 96, 2);
    struct quantized result, straight;
    float *w = dense(&op), *data = (float *)(void *)op.term[0].core[0].data, *given;
    struct operator other;

    for (int64_t i = 0; i < 24 * 96; i += 96)
        w[i + 5] = data[i + 5] *= 20;        /* an input whose weights stand out */
    other = matrix(24, 96, 2);
    memcpy(other.term[0].core[0].data, w, sizeof *w * 24 * 96);
    straight = run(&other, &how);
    how.rotate = 64;
    how.seed = 3;
    result = run(&op, &how);
    assert_true(op.input.block == 32 && op.input.seed == 3 && result.input.block == 32);
    given = dense(&op);
    check_close(difference_error(&result.difference), check_relative(given, w, 24 * 96), 1e-3, "relative error told");
    CHECK_AT_MOST(difference_error(&result.difference), difference_error(&straight.difference), "error, of straight");
    free(given);
    free(w);
    operator_free(&op);
    operator_free(&other);
}

/* Weights that stand out in a row and in a column, of widths with odd parts: both are spread. */
static void test_full_turn(void)
{
    static const int64_t rotate[3] = {0, 64, ROTATE_FULL};
    struct quantization how = plain(3, 16);
    struct operator op[3];
    double error[3];

    how.seed = INT64_MAX;
    for (int k = 0; k < 3; k++) {
        struct quantized result;
        float *data, *w, *given;

        op[k] = matrix(24, 100, 2);
        data = (float *)(void *)op[k].term[0].core[0].data;
        for (int64_t i = 0; i < 24; i++)
            data[100 * i + 5] *= 30;
        for (int64_t j = 0; j < 100; j++)
            data[100 * 7 + j] *= 30;
        w = dense(&op[k]);
        how.rotate = rotate[k];
        result = run(&op[k], &how);
        assert_true(transform_same(result.input, op[k].input) && transform_same(result.output, op[k].output));
        given = dense(&op[k]);
        error[k] = check_relative(given, w, 24 * 100);
        check_close(difference_error(&result.difference), error[k], 1e-3, "relative error told");
        free(given);
        free(w);
    }
    assert_true(transform_same(op[2].input, transform_full(100, INT64_MAX)));
    assert_true(transform_same(op[2].output, transform_full(24, 0)));
    assert_true(!op[1].output.block && op[1].input.block == 4);
    CHECK_AT_MOST(error[2], 0.7 * error[1], "error, of part of that of a turn in blocks");
    CHECK_AT_MOST(error[2], 0.7 * error[0], "error, of part of the straight one's");
    for (int k = 0; k < 3; k++)
        operator_free(&op[k]);
}

static void test_moments(void)
{
    static const int64_t rotate[] = {0, 16, ROTATE_FULL};

    for (int r = 0; r < 3; r++)
        for (int scale_bits = 0; scale_bits <= 6; scale_bits += 6) {
            struct moment_set set = moments(48, 10);
            struct quantization how = plain(3, 16);
            struct operator op = matrix(40, 48, 3), nearest = matrix(40, 48, 3);
            struct quantized result;
            float *w = dense(&op), *given, *d;

            how.rotate = rotate[r];
            how.dtype.scale_bits = scale_bits;
            run(&nearest, &how);
            how.moments = &set;
            result = run(&op, &how);
            assert_true(op.input.block == (r ? 16 : 0)
                        && op.term[0].core[0].dtype.scale_bits == scale_bits);
            assert_true((op.input.mix == 3 && op.output.mix == 5 && op.output.block == 8) == (r == 2));
            check_told(w, &op, &set, &result);
            given = dense(&nearest);
            d = minus(w, given, 40 * 48);
            CHECK_AT_MOST(result.error, 0.6 * moments_error(&set.h, d, 40), "error, of part of the nearest's");
            free(given);
            free(d);
            free(w);
            operator_free(&op);
            operator_free(&nearest);
            moment_set_free(&(struct moment_set){.h = set.h});
        }
}

/* The least e H e' over all codes of a row w [n] whose scale and minimum are given. */
static double best_codes(const float *w, int64_t n, int bits, float scale, float least, const struct moments *h)
{
    double best = INFINITY;

    for (int64_t code = 0; code < 1 << (bits * n); code++) {
        float e[8];
        double error;

        for (int64_t i = 0; i < n; i++)
            e[i] = w[i] - (scale * (float)(code >> (bits * i) & ((1 << bits) - 1)) + least);
        error = moments_error(h, e, 1);
        best = error < best ? error : best;
    }
    return best;
}

/* Rows of w [rows, n], one group each, against all codes for the scales that are stored. */
static void check_codes(const float *w, const struct tensor *core, const struct moments *h, double part,
                        const char *what)
{
    int64_t rows = tensor_rows(core), n = tensor_row_length(core);
    float *given = xmallocarray((size_t)(rows * n), sizeof *given), *d;
    double best = 0;
    struct group_layout l;

    assert_true(group_layout(core->dtype, core->rank, core->shape, &l) && l.groups == 1);
    tensor_get(core, given);
    for (int64_t i = 0; i < rows; i++) {
        uint16_t scale, least;

        memcpy(&scale, core->data + l.scale + 2 * i, 2);
        memcpy(&least, core->data + l.zero + 2 * i, 2);
        best += best_codes(w + i * n, n, core->dtype.bits, half_to_float(scale), half_to_float(least), h);
    }
    d = minus(w, given, rows * n);
    CHECK_AT_MOST(moments_error(h, d, rows), part * best, what);
    free(given);
    free(d);
}

static void test_all_codes_of_a_matrix(void)
{
    struct moment_set set = moments(6, 20);
    struct quantization how = plain(2, GROUP_ROW);
    struct operator op = matrix(6, 6, 4);
    float *w = dense(&op);
    struct quantized result;

    how.moments = &set;
    result = run(&op, &how);
    check_told(w, &op, &set, &result);
    check_codes(w, &op.term[0].core[0], &set.h, 1.05, "error, of the best of all codes");
    free(w);
    operator_free(&op);
    free(set.h.packed);
}

/* U V of 6 x 6, and 2: with V as it is stored, no U of these scales is better, the best one without rounding being
 * W H V' (V H V')^-1. */
static void test_all_codes_of_cores(void)
{
    struct moment_set set = moments(6, 30);
    struct operator op = chain(2, (int64_t[]){1, 2, 1}, (int64_t[]){6, 1}, (int64_t[]){1, 6});
    float *w = dense(&op), v[12], vh[12], fit[12];
    struct moments h = {.n = 2, .tokens = 1, .packed = (float[3]){0}};
    double g[4] = {0}, det;
    struct views *views = views_new();
    const struct view *view;

    assert_int_equal(views_find(views, &set, (struct transform){0}, 6, 1, &view), EX_OK);
    assert_int_equal(chain_round(&op.term[0], (bool[]){true, true}, plain(2, GROUP_ROW).dtype, view, "w"), EX_OK);
    tensor_get(&op.term[0].core[1], v);
    moments_times(&set.h, v, 2, vh);
    for (int k = 0; k < 12; k++)
        for (int j = 0; j < 2; j++)
            g[k / 6 * 2 + j] += (double)vh[k] * v[6 * j + k % 6];
    h.packed[0] = (float)g[0], h.packed[1] = (float)g[1], h.packed[2] = (float)g[3];
    det = g[0] * g[3] - g[1] * g[2];
    for (int o = 0; o < 6; o++) {
        double a = 0, b = 0;

        for (int i = 0; i < 6; i++) {
            a += (double)w[6 * o + i] * vh[i];
            b += (double)w[6 * o + i] * vh[6 + i];
        }
        fit[2 * o] = (float)((a * g[3] - b * g[2]) / det);
        fit[2 * o + 1] = (float)((b * g[0] - a * g[1]) / det);
    }
    check_codes(fit, &op.term[0].core[0], &h, 1.02, "error of U, of the best of all codes");
    views_free(views);
    free(w);
    operator_free(&op);
    free(set.h.packed);
}

static void test_cores(void)
{
    static const struct {
        int n_site;
        int64_t bond[5], out[4], in[4];
    } cases[] = {{2, {1, 12, 1}, {30, 1}, {1, 48}}, {2, {1, 12, 1}, {5, 6}, {6, 8}},
                 {3, {1, 6, 7, 1}, {5, 2, 3}, {4, 3, 4}}, {3, {1, 6, 1, 1}, {5, 2, 3}, {4, 3, 4}},
                 {2, {1, 9, 1}, {1, 30}, {48, 1}}};
    struct moment_set set = moments(48, 40);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct quantization how = plain(3, 16);
        struct operator op = chain(cases[i].n_site, cases[i].bond, cases[i].out, cases[i].in);
        struct operator nearest = chain(cases[i].n_site, cases[i].bond, cases[i].out, cases[i].in);
        float *w = dense(&op), *given, *d;
        struct quantized result;
        double error;

        how.rotate = i ? 0 : 16;
        run(&nearest, &how);
        given = dense(&nearest);
        d = minus(w, given, 30 * 48);
        error = moments_error(&set.h, d, 30);
        how.moments = &set;
        result = run(&op, &how);
        assert_true(op.input.block == how.rotate && result.done);
        check_told(w, &op, &set, &result);
        printf("# %zu: error %.4g, nearest %.4g, norm %.4g\n", i, result.error, error, result.norm);
        CHECK_AT_MOST(result.error, error, "error, of the nearest's");
        free(w);
        free(given);
        free(d);
        operator_free(&op);
        operator_free(&nearest);
    }
    free(set.h.packed);
}

static void test_residual(void)
{
    struct moment_set set = moments(64, 50);

    for (int with = 0; with < 2; with++)
        for (int bits = 8; bits <= 16; bits += 8) {
            struct quantization how = plain(2, 32);
            struct operator op = matrix(48, 64, 5), alone = matrix(48, 64, 5);
            float *w = dense(&op);
            struct quantized result, without;

            how.moments = with ? &set : NULL;
            how.rotate = with ? 0 : bits == 8 ? 32 : ROTATE_FULL;
            without = run(&alone, &how);
            how.residual_chi = 6;
            how.residual_bits = bits;
            result = run(&op, &how);
            assert_true(op.n_term == 2 && op.term[1].n_site == 2 && op.term[1].core[0].shape[3] == 6);
            assert_true(op.term[1].core[1].dtype.kind == (bits == 16 ? DTYPE_F16 : DTYPE_GROUP));
            assert_int_equal(op.input.block, with ? 0 : bits == 8 ? 32 : 64);
            if (with)
                check_told(w, &op, &set, &result);
            CHECK_AT_MOST(result.error, 0.9 * without.error, "error, of part of that without a residual");
            free(w);
            operator_free(&op);
            operator_free(&alone);
        }
    free(set.h.packed);
}

static void test_threads(void)
{
    struct moment_set set = moments(64, 60);
    struct quantization how = plain(3, 32);
    unsigned char *first[3] = {NULL};

    how.moments = &set;
    how.rotate = 16;
    how.residual_chi = 5;
    for (int threads = 1; threads <= 3; threads++) {
        struct operator op = matrix(70, 64, 6);
        const struct tensor *part[] = {&op.term[0].core[0], NULL, NULL};

        parallel_set(threads);
        run(&op, &how);
        part[0] = &op.term[0].core[0];
        part[1] = &op.term[1].core[0];
        part[2] = &op.term[1].core[1];
        for (int i = 0; i < 3; i++)
            if (threads == 1)
                first[i] = memcpy(xmalloc((size_t)part[i]->bytes), part[i]->data, (size_t)part[i]->bytes);
            else
                assert_memory_equal(part[i]->data, first[i], (size_t)part[i]->bytes);
        operator_free(&op);
    }
    for (int i = 0; i < 3; i++)
        free(first[i]);
    parallel_set(0);
    free(set.h.packed);
}

/* Values of 3 heads of 8, read by o: O V is as it was. */
static void test_fold(void)
{
    struct quantization how = plain(8, 24);
    struct operator o = matrix(20, 24, 8), v = matrix(24, 16, 9);
    float *wo = dense(&o), *wv = dense(&v), product[2][20 * 16];
    struct quantized result;

    how.rotate = 64;
    how.seed = 5;
    how.fold_input = 8;
    result = run(&o, &how);
    assert_true(!o.input.block && result.input.block == 8);
    how = (struct quantization){.dtype = how.dtype, .fold_output = result.input, .fold_size = 8};
    run(&v, &how);
    for (int pass = 0; pass < 2; pass++) {
        float *a = pass ? dense(&o) : wo, *b = pass ? dense(&v) : wv;

        for (int i = 0; i < 20; i++)
            for (int j = 0; j < 16; j++) {
                product[pass][16 * i + j] = 0;
                for (int k = 0; k < 24; k++)
                    product[pass][16 * i + j] += a[24 * i + k] * b[16 * k + j];
            }
        free(a);
        free(b);
    }
    CHECK_AT_MOST(check_relative(product[1], product[0], 20 * 16), 0.01, "error of o v");
    error_capture(message, sizeof message);
    assert_int_equal(quantize_operator(&v, &how, NULL, &result), EX_DATAERR);
    error_capture(NULL, 0);
    assert_non_null(strstr(message, "can't be folded"));
    operator_free(&o);
    operator_free(&v);
}

static void test_refuses(void)
{
    struct moment_set set = moments(16, 70);
    struct quantization how = plain(4, 16);
    struct views *views = views_new();

    for (int with = 0; with < 2; with++)
        for (int chi = 0; chi <= 2; chi += 2) {
            struct operator op = matrix(8, 16, 9);
            struct quantized result;

            ((float *)(void *)op.term[0].core[0].data)[17] = NAN;
            how.moments = with ? &set : NULL;
            how.residual_chi = chi;
            error_capture(message, sizeof message);
            assert_int_equal(quantize_operator(&op, &how, views, &result), EX_DATAERR);
            error_capture(NULL, 0);
            assert_non_null(strstr(message, "not finite"));
            operator_free(&op);
        }
    views_free(views);
    free(set.h.packed);
}

/* T H T' and products, against the whole matrix. */
static void test_turned_moments(void)
{
    static const int64_t widths[] = {48, 16};

    for (int i = 0; i < 2; i++) {
        struct moment_set set = moments(48, 80);
        struct transform transform = {.block = 16, .seed = 9};
        struct moments turned;
        float *x = normal(90, 5 * 48), *y = xmallocarray(5 * 48, sizeof *y);
        double sum = 0;

        moments_turn(&set.h, transform, widths[i], &turned);
        assert_true(turned.n == 48 && turned.tokens == set.h.tokens);
        moments_times(&set.h, x, 5, y);
        for (int j = 0; j < 5 * 48; j++)
            sum += (double)x[j] * y[j];
        check_close(sum, moments_error(&set.h, x, 5), 1e-5, "x H x'");
        transform_rows(transform, x, 5 * 48 / widths[i], widths[i]);
        check_close(moments_error(&turned, x, 5), sum, 1e-5, "x T' (T H T') T x'");
        free(x);
        free(y);
        free(turned.packed);
        free(set.h.packed);
    }
}

CHECK_MAIN({"both sides turned over their whole width", test_full_turn},
           {"without moments: rounding to nearest", test_nearest},
           {"turned, what stands out costs less; the operator says so", test_turned},
           {"with moments: errors as told, and less than the nearest's", test_moments},
           {"6 x 6: no codes of these scales are much better", test_all_codes_of_a_matrix},
           {"cores of 6 x 6: no codes of these scales are much better", test_all_codes_of_cores},
           {"cores: errors as told, and less than the nearest's", test_cores},
           {"a residual beside the codes", test_residual},
           {"equal bytes for any number of threads", test_threads},
           {"a turn folded into the matrix before", test_fold},
           {"numbers that aren't finite are refused", test_refuses},
           {"moments turned, and their products", test_turned_moments})

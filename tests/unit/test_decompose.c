/* test_decompose.c - operators decomposed or kept, rounding of their cores, and plan files. */
#include "base/memory.h"
#include "base/random.h"
#include "fit/decompose.h"
#include "fit/plan.h"
#include "operator/difference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static char message[500];

/* A matrix of noise on a rank of 3, as dtype. */
static struct operator matrix(int64_t out, int64_t in, struct dtype dtype, float scale)
{
    struct tensor tensor = tensor_new(dtype, 2, (int64_t[]){out, in});
    int64_t padded = (out * in + 3) / 4 * 4;
    float *w = xmallocarray((size_t)padded, sizeof *w), *u = xmallocarray((size_t)(4 * (out + in)), sizeof *u);

    random_normal((struct random){1, 1}, 0, padded, w);
    random_normal((struct random){1, 2}, 0, 4 * (out + in), u);
    for (int64_t i = 0; i < out; i++)
        for (int64_t j = 0; j < in; j++) {
            w[i * in + j] *= 0.1f * scale;
            for (int k = 0; k < 3; k++)
                w[i * in + j] += scale * u[4 * i + k] * u[4 * (out + j) + k];
        }
    tensor_set(&tensor, w);
    free(w);
    free(u);
    return operator_from_matrix("w", &tensor);
}

static int run(struct operator *op, const struct decomposition *how, struct decomposed *result)
{
    int rc;

    message[0] = '\0';
    error_capture(message, sizeof message);
    rc = decompose(op, how, result);
    error_capture(NULL, 0);
    return rc;
}

static void test_decomposes(void)
{
    static const enum dtype_kind kinds[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct decomposition how = {.budget = {.chi = 3}, .sites = 2};

    for (int free_shape = 0; free_shape < 2; free_shape++)
        for (int i = 0; i < 3; i++) {
            struct operator op = matrix(40, 60, DTYPE(F32), 1), was = matrix(40, 60, DTYPE(F32), 1);
            struct decomposed result;
            struct difference difference;

            how.dtype = (struct dtype){.kind = kinds[i]};
            shape_parse("40x1,1x60", &how.shape);
            how.shape.n_site = free_shape ? 0 : 2;
            assert_int_equal(run(&op, &how, &result), EX_OK);
            assert_true(result.done);
            assert_int_equal(op.n_term, 1);
            assert_int_equal(op.term[0].n_site, 2);
            assert_true(dtype_same(op.term[0].core[1].dtype, how.dtype));
            assert_int_equal(result.parameters, 300);
            difference = operator_difference(&was, &op);
            CHECK_AT_MOST(fabs(difference_error(&difference) - difference_error(&result.difference)), 0,
                          "error as told");
            CHECK_AT_MOST(difference_error(&result.difference), 0.06, "error at the rank of what is not noise");
            assert_string_equal(op.name, "w");
            operator_free(&op);
            operator_free(&was);
        }
}

static void test_keeps(void)
{
    struct decomposition how = {.budget = {.chi = 24}, .sites = 2, .dtype = DTYPE(F16)};
    struct operator op = matrix(40, 60, DTYPE(F32), 1);         /* 24 * 100 = 40 * 60: saves nothing against 16 bits */
    struct decomposed result;

    assert_int_equal(run(&op, &how, &result), EX_OK);
    assert_false(result.done);
    assert_true(operator_is_dense(&op));
    assert_non_null(strstr(message, "'w': 2400 numbers in cores would take 4800 bytes against 4800, kept"));
    how.budget.chi = 23;
    assert_int_equal(run(&op, &how, &result), EX_OK);
    assert_true(result.done);
    assert_int_equal(run(&op, &how, &result), EX_OK);           /* is compressed now */
    assert_false(result.done);
    assert_non_null(strstr(message, "compressed already"));
    how.force = true;
    how.budget.chi = 24;
    assert_int_equal(run(&op, &how, &result), EX_OK);
    assert_true(result.done);
    CHECK_AT_MOST(difference_error(&result.difference), 2e-3, "error of one chi more than there was, in f16");
    operator_free(&op);
}

static void test_refuses(void)
{
    struct decomposition how = {.budget = {.chi = 2}, .sites = 2, .dtype = DTYPE(F16)};
    struct operator op;
    struct decomposed result;

    for (int small = 0; small < 2; small++) {                   /* off either end of f16 */
        op = matrix(40, 60, DTYPE(F32), small ? 1e-15f : 1e12f);
        assert_int_equal(run(&op, &how, &result), EX_DATAERR);
        assert_non_null(strstr(message, "use --dtype bf16 or f32"));
        assert_true(operator_is_dense(&op));
        operator_free(&op);
        op = matrix(40, 60, DTYPE(F32), small ? 1e-5f : 1e5f);  /* fits once the cores share the scale */
        assert_int_equal(run(&op, &how, &result), EX_OK);
        assert_true(result.done);
        operator_free(&op);
    }
    op = matrix(40, 60, DTYPE(F32), 1e12f);
    how.dtype = DTYPE(BF16);
    shape_parse("8x6,5x9", &how.shape);
    assert_int_equal(run(&op, &how, &result), EX_DATAERR);
    assert_non_null(strstr(message, "'w': shape 8x6,5x9 isn't one of a 40 x 60 matrix"));
    shape_parse("8x6,5x10", &how.shape);
    assert_int_equal(run(&op, &how, &result), EX_OK);
    operator_free(&op);
    op = matrix(1, 0, DTYPE(F32), 1);
    how = (struct decomposition){.budget = {.chi = 2}, .sites = 2, .dtype = DTYPE(F16), .force = true};
    assert_int_equal(run(&op, &how, &result), EX_OK);           /* nothing in it */
    assert_false(result.done);
    operator_free(&op);
}

/* A tolerance holds for the cores as they are stored, or the matrix is kept. */
static void test_tolerance(void)
{
    static const struct {
        enum dtype_kind dtype;
        double part;
        bool reached;
    } cases[] = {{DTYPE_F16, 0.3, true}, {DTYPE_F16, 1e-3, true}, {DTYPE_F16, 1e-4, false}, {DTYPE_BF16, 0.02, true},
                 {DTYPE_BF16, 1e-3, false}, {DTYPE_F32, 1e-4, true}, {DTYPE_F32, 1e-6, true}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int sites = 2; sites <= 3; sites++) {
            struct decomposition how = {.budget = {.limit = MPO_TOLERANCE, .part = cases[i].part}, .sites = sites,
                                        .dtype = {.kind = cases[i].dtype}, .force = true};
            struct operator op = matrix(48, 48, DTYPE(F32), 1);
            struct decomposed result;

            assert_int_equal(run(&op, &how, &result), EX_OK);
            assert_int_equal(result.done, cases[i].reached);
            if (result.done)
                CHECK_AT_MOST(difference_error(&result.difference), cases[i].part, "error, of the tolerance");
            else
                assert_non_null(strstr(message, "kept (see --dtype f32)"));
            operator_free(&op);
        }
}

static int read_plan(struct plan *plan, const char *text)
{
    FILE *file = fopen("test.plan", "w");
    int rc;

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    error_capture(message, sizeof message);
    rc = plan_read(plan, "./test.plan");
    error_capture(NULL, 0);
    return rc;
}

static void test_plan(void)
{
    struct plan plan;
    const struct plan_line *line;

    assert_int_equal(read_plan(&plan, "# first\n\n*.q_proj.weight chi=7 dtype=bf16 # queries\n"
                                      "*.layers.[01].* keep=0.25 sites=3 bits=3 group=row zero=int\r\n"
                                      "*_proj.weight\ttolerance=0.5 shape=2x3,4x5\n"
                                      "*.norm* bits=2 scale_bits=6 rotate=64 residual_chi=16 residual_bits=16\n"
                                      "* bits=8 scale_bits=0 rotate=0 residual_chi=0"), EX_OK);
    assert_string_equal(plan.name, "test.plan");
    assert_int_equal(plan.n_line, 5);
    line = plan_find(&plan, "model.layers.0.self_attn.q_proj.weight");
    assert_true(line->chi == 7 && line->has_dtype && line->dtype.kind == DTYPE_BF16 && line->bits == 0);
    line = plan_find(&plan, "model.layers.1.mlp.up_proj.weight");
    assert_true(line->keep == 0.25 && line->sites == 3);
    assert_true(line->bits == 3 && line->zero == ZERO_INT && line->group == GROUP_ROW);
    line = plan_find(&plan, "model.layers.2.mlp.up_proj.weight");
    assert_true(line->tolerance == 0.5);
    assert_string_equal(line->shape, "2x3,4x5");
    line = plan_find(&plan, "model.norm.weight");
    assert_true(line->bits == 2 && line->scale_bits == 6 && line->rotate == 64);
    assert_true(line->residual_chi == 16 && line->residual_bits == 16);
    line = plan_find(&plan, "lm_head.weight");
    assert_true(line->bits == 8 && !line->scale_bits && !line->rotate && !line->residual_chi && !line->residual_bits);
    plan_free(&plan);
    assert_int_equal(read_plan(&plan, ""), EX_OK);
    assert_null(plan_find(&plan, "x"));
    plan_free(&plan);
}

static void test_bad_plans(void)
{
    static const char *const bad[] = {"chi=0",    "chi=x",        "chi=3.5",        "chi",      "keep=0",
                                      "keep=2",   "keep=nan",     "tolerance=-1",   "sites=1",  "sites=17",
                                      "shape=2",  "shape=2x3",    "dtype=q8",       "dtype=f64", "bits=7",
                                      "bits=1",   "group=0",      "zero=maybe",     "color=red",
                                      "scale_bits=4", "scale_bits=-6", "rotate=1", "rotate=48", "rotate=131072",
                                      "rotate=-2", "residual_chi=-1", "residual_chi=x", "residual_bits=7",
                                      "residual_bits=9", "residual_bits=1", "residual_bits=0",
                                      "chi=1 keep=0.5", "keep=0.5 tolerance=0.5", "sites=3 shape=2x2,3x3"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[200];
        struct plan plan;

        snprintf(text, sizeof text, "# a comment\n*.weight %s\n", bad[i]);
        assert_int_equal(read_plan(&plan, text), EX_DATAERR);
        assert_non_null(strstr(message, "'./test.plan', line 2: "));
        assert_null(plan.line);
    }
}

CHECK_MAIN({"matrices become cores of any dtype, errors are those of the cores", test_decomposes},
           {"what saves nothing or is compressed stays, unless forced", test_keeps},
           {"wrong shapes and overflow are refused, nothing is kept", test_refuses},
           {"a tolerance holds for the stored cores", test_tolerance},
           {"plans: comments, first match, all keys", test_plan},
           {"bad plans are named by file and line", test_bad_plans})

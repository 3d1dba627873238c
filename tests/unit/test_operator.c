/* test_operator.c - chains multiplied out against the definition, and operators through streams. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "operator/difference.h"
#include "operator/operator.h"
#include "operator/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sizes {
    int n;
    int64_t out[4], in[4], bond[5];
};

static const struct sizes shapes[] = {
    {1, {5}, {7}, {1, 1}},
    {2, {6, 1}, {1, 7}, {1, 3, 1}},
    {2, {2, 3}, {5, 2}, {1, 4, 1}},
    {3, {2, 3, 2}, {3, 1, 5}, {1, 2, 6, 1}},
    {4, {2, 1, 3, 2}, {1, 4, 2, 3}, {1, 2, 5, 3, 1}},
    {2, {1, 1}, {1, 1}, {1, 1, 1}},
    {3, {4, 3, 2}, {2, 3, 2}, {1, 3, 4, 1}},
    {2, {1, 9}, {5, 1}, {1, 2, 1}},
    {1, {5}, {24}, {1, 1}},
    {2, {6, 1}, {1, 24}, {1, 3, 1}},
    {3, {2, 3, 2}, {3, 2, 4}, {1, 2, 6, 1}},
};

enum { N_SHAPE = sizeof shapes / sizeof *shapes };

static struct operator make(const struct sizes *z, const char *name)
{
    struct tensor core[4];

    for (int s = 0; s < z->n; s++) {
        int64_t shape[] = {z->bond[s], z->out[s], z->in[s], z->bond[s + 1]};
        float values[1024];

        core[s] = tensor_new(DTYPE(F32), 4, shape);
        random_normal(random_named((uint64_t)s, name), 0, (tensor_count(&core[s]) + 3) / 4 * 4, values);
        tensor_set(&core[s], values);
    }
    return operator_from_cores(name, z->n, core);
}

/* W[o, i] by its definition, one element at a time, in double. */
static double element(const struct operator *op, int term, int64_t o, int64_t i)
{
    const struct chain *chain = &op->term[term];
    double left[16] = {1};

    for (int s = 0, width = 1; s < chain->n_site; s++) {
        const struct tensor *core = &chain->core[s];
        const float *values = (const void *)core->data;
        int64_t do_ = o, di = i;
        double right[16] = {0};

        for (int later = chain->n_site - 1; later > s; later--) {
            do_ /= chain->core[later].shape[1];
            di /= chain->core[later].shape[2];
        }
        do_ %= core->shape[1];
        di %= core->shape[2];
        for (int a = 0; a < width; a++)
            for (int64_t b = 0; b < core->shape[3]; b++)
                right[b] += left[a] * values[((a * core->shape[1] + do_) * core->shape[2] + di) * core->shape[3] + b];
        memcpy(left, right, sizeof left);
        width = (int)core->shape[3];
    }
    return left[0];
}

/* T [n, n] by its definition. */
static double *dense_transform(struct transform transform, int64_t n)
{
    int64_t block = transform.block ? transform.block : 1, mix = transform.mix ? transform.mix : 1, span = block * mix;
    double *t = xcalloc((size_t)(n * n), sizeof *t);
    float *sign = xmallocarray((size_t)n, sizeof *sign);

    transform_signs(transform, n, sign);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double angle = 2 * M_PI * (double)(i % span / block) * (double)(j % span / block) / (double)mix;
            double h = __builtin_parityll((uint64_t)(i & j & (block - 1))) ? -1 : 1;

            if (i / span == j / span)
                t[i * n + j] = h * (cos(angle) + sin(angle)) / sqrt((double)span)
                               * (transform.block ? (double)sign[j] : 1);
        }
    free(sign);
    return t;
}

/* W = T_out' (sum of terms) T_in by definition, [out, in]. */
static float *defined(const struct operator *op)
{
    int64_t out = op->out, in = op->in;
    double *left = dense_transform(op->output, out), *right = dense_transform(op->input, in);
    double *half = xcalloc((size_t)(out * in), sizeof *half);
    float *w = xmallocarray((size_t)(out * in), sizeof *w);

    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            for (int t = 0; t < op->n_term; t++)
                for (int64_t j = 0; j < in; j++)
                    half[o * in + j] += element(op, t, o, i) * right[i * in + j];
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            double sum = 0;

            for (int64_t j = 0; j < out; j++)
                sum += left[j * out + o] * half[j * in + i];
            w[o * in + i] = (float)sum;
        }
    free(left);
    free(right);
    free(half);
    return w;
}

/* W band by band, in each size and at each place a band may have, is W. */
static void check_bands(const struct operator *op, const float *w)
{
    struct contraction c;

    contraction_begin(&c, op);
    assert_int_equal(op->out % c.band, 0);
    for (int64_t first = 0; first < op->out; first += c.band)
        for (int64_t rows = c.band; first + rows <= op->out; rows += c.band) {
            float *part = xmallocarray((size_t)(rows * op->in), sizeof *part);

            contraction_rows(&c, first, rows, part);
            CHECK_AT_MOST(check_relative(part, w + first * op->in, rows * op->in), 1e-6, "a band");
            free(part);
        }
    contraction_end(&c);
}

static void check_dense(const struct operator *op)
{
    int64_t count = op->out * op->in;
    float *w = xmallocarray((size_t)count, sizeof *w), *expected = defined(op);
    struct difference d;

    operator_dense(op, w);
    CHECK_AT_MOST(check_relative(w, expected, count), 1e-6, "contraction");
    d = operator_difference_from(expected, op);
    CHECK_AT_MOST(difference_error(&d), 1e-6, "difference");
    check_bands(op, w);
    free(w);
    free(expected);
}

static void test_contraction(void)
{
    for (int i = 0; i < N_SHAPE; i++) {
        struct operator op = make(&shapes[i], "w");

        check_dense(&op);
        operator_free(&op);
    }
}

/* Some have a transform of the largest block that fits, some of the whole width, on either side or both. */
enum { INPUT_BLOCK = 1, INPUT_FULL, OUTPUT_BLOCK = 4, OUTPUT_FULL = 8, WAYS = 12 };

static struct transform made(bool in_blocks, bool full, int i, int64_t n)
{
    int64_t block = transform_block(8 << i % 3, n);

    if (full)
        return transform_full(n, (uint64_t)i);
    return in_blocks && block > 1 ? (struct transform){block, (uint64_t)i, 0} : (struct transform){0};
}

static struct operator make_turned(int i, const char *name)
{
    int way = i % WAYS;
    struct operator op = make(&shapes[i / WAYS], name);

    op.input = made(way & INPUT_BLOCK, way & INPUT_FULL, i, op.in);
    op.output = made(way & OUTPUT_BLOCK, way & OUTPUT_FULL, i + 1, op.out);
    return op;
}

enum { N_TURNED = N_SHAPE * WAYS };

static void test_transforms(void)
{
    int turned = 0;

    for (int i = 0; i < N_TURNED; i++) {
        struct operator op = make_turned(i, "w"), straight = make(&shapes[i / WAYS], "w");
        struct difference d = operator_difference(&straight, &op);

        check_dense(&op);
        assert_true(operator_is_matrix(&op) == (shapes[i / WAYS].n == 1));
        assert_true(operator_is_dense(&op) == (shapes[i / WAYS].n == 1 && !operator_is_turned(&op)));
        assert_true(operator_is_turned(&op) == (op.input.block || op.output.block));
        assert_true((difference_error(&d) > 0.1) == operator_is_turned(&op));
        turned += operator_is_turned(&op);
        operator_free(&straight);
        straight = make_turned(i, "w");
        assert_int_equal(operator_contract(&op, DTYPE(F32)), EX_OK);
        assert_true(operator_is_dense(&op));
        d = operator_difference(&straight, &op);
        assert_true(difference_error(&d) < 1e-6);
        operator_free(&op);
        operator_free(&straight);
    }
    assert_true(turned > N_TURNED / 2 && turned < N_TURNED);
}

/* FORMAT's example. */
static void test_example(void)
{
    struct tensor core = tensor_new(DTYPE(F32), 4, (int64_t[]){1, 1, 4, 1});
    float w[4], expected[] = {-5, -1, -2, 0};
    struct operator op;

    tensor_set(&core, (float[]){1, 2, 3, 4});
    op = operator_from_cores("w", 1, &core);
    op.input = (struct transform){4, 1, 0};
    operator_dense(&op, w);
    for (int i = 0; i < 4; i++)
        assert_true(w[i] == expected[i]);
    operator_free(&op);
}

/* Terms of one size: 6 x 8 as a matrix of one core and as a product. */
static void test_sum_of_terms(void)
{
    static const struct sizes whole = {1, {6}, {8}, {1, 1}}, balanced = {2, {3, 2}, {8, 1}, {1, 4, 1}};
    static const struct sizes low_rank = {2, {6, 1}, {1, 8}, {1, 3, 1}};

    for (int first = 0; first < 3; first++) {
        const struct sizes *z[3] = {&whole, &low_rank, &balanced};
        struct operator op = make(z[first], "a"), second = make(z[(first + 1) % 3], "b");
        struct operator third = make(z[(first + 2) % 3], "c");

        op.term = xreallocarray(op.term, 3, sizeof *op.term);
        op.term[1] = second.term[0];
        op.term[2] = third.term[0];
        op.n_term = 3;
        check_dense(&op);
        op.input = (struct transform){.block = 2, .seed = 5};
        check_dense(&op);
        op.output = transform_full(op.out, 6);
        check_dense(&op);
        second.n_term = third.n_term = 0;
        operator_free(&second);
        operator_free(&third);
        operator_free(&op);
    }
}

static void write_operators(const char *path)
{
    struct writer writer;

    assert_int_equal(writer_open(&writer, path, NULL, NULL), EX_OK);
    for (int i = 0; i < N_TURNED; i++) {
        char name[32];
        struct operator op;

        snprintf(name, sizeof name, "w%03d", i);
        op = make_turned(i, name);
        assert_int_equal(operator_write(&writer, &op), EX_OK);
        operator_free(&op);
    }
    assert_int_equal(writer_end(&writer), EX_OK);
    writer_close(&writer);
}

static void test_through_a_stream(void)
{
    struct source source;
    struct record record = {0};
    int seen = 0;

    write_operators("operators.tns");
    assert_int_equal(source_open(&source, "operators.tns"), EX_OK);
    while (!source_next(&source, &record) && record.kind != RECORD_END) {
        struct operator op, expected = make_turned(seen, record.name);
        struct difference d;

        assert_true(operator_begins(&record));
        assert_true((record.kind == RECORD_TENSOR) == operator_is_dense(&expected));
        assert_int_equal(operator_read(&source, &record, &op), EX_OK);
        assert_int_equal(op.out, expected.out);
        assert_int_equal(op.in, expected.in);
        assert_true(transform_same(op.input, expected.input));
        assert_true(transform_same(op.output, expected.output));
        assert_int_equal(operator_parameters(&op), operator_parameters(&expected));
        assert_int_equal(operator_bytes(&op), 4 * operator_parameters(&expected));
        d = operator_difference(&op, &expected);
        assert_int_equal(d.unequal, 0);
        assert_true(d.norm > 0);
        operator_free(&op);
        operator_free(&expected);
        record_free(&record);
        seen++;
    }
    assert_int_equal(seen, N_TURNED);
    source_close(&source);
}

/* Records of two terms of one core each, or of one tensor, with a member more. */
struct strange {
    int64_t shape[2][4];
    int at;                      /* the term of the member */
    const char *member, *value, *complaint;
    bool tensor;
};

static void write_strange(const struct strange *strange)
{
    struct writer writer;

    assert_int_equal(writer_open(&writer, "strange.tns", NULL, NULL), EX_OK);
    for (int t = 0; t < (strange->tensor ? 1 : 2); t++) {
        const int64_t *shape = strange->shape[t];
        struct tensor core = tensor_new(DTYPE(F32), 4, shape);
        struct record record = strange->tensor ? record_tensor("w", DTYPE(F32), 2, shape + 1)
                                               : record_core("w", t, 2, 0, 1, &core);

        memset(core.data, 0, (size_t)core.bytes);
        if (strange->member && t == strange->at)
            json_put(record.map, strange->member, json_parse(strange->value, strlen(strange->value), "a test"));
        assert_int_equal(writer_put(&writer, &record, core.data), EX_OK);
        record_free(&record);
        tensor_free(&core);
    }
    assert_int_equal(writer_end(&writer), EX_OK);
    writer_close(&writer);
}

/* Terms of different sizes, members that this version doesn't know, transforms that aren't or stand elsewhere. */
static void test_strange_operators(void)
{
#define SAME {{1, 3, 4, 1}, {1, 3, 4, 1}}
#define GOOD "{\"signs\": 9223372036854775807, \"hadamard\": 4}"
    static const struct strange cases[] = {
        {{{1, 3, 4, 1}, {1, 4, 3, 1}}, 0, NULL, NULL, "term 1 is 4 x 3, expected 3 x 4", false},
        {SAME, 0, "transform", "\"hadamard\"", "'transform' is not known", false},
        {SAME, 0, NULL, NULL, NULL, false},
        {SAME, 0, "input", GOOD, NULL, false},
        {SAME, 1, "input", GOOD, "'input' is not known", false},
        {SAME, 0, "input", GOOD, "'input' is not known", true},
        {SAME, 0, "output", "{\"signs\": 1, \"hadamard\": 1, \"hartley\": 3}", NULL, false},
        {SAME, 1, "output", "{\"signs\": 1, \"hadamard\": 1, \"hartley\": 3}", "'output' is not known", false},
        {SAME, 0, "output", "{\"signs\": 1, \"hadamard\": 1, \"hartley\": 3}", "'output' is not known", true},
        {SAME, 0, "output", GOOD, "bad 'output'", false},
        {SAME, 0, "output", "{\"signs\": 1, \"hadamard\": 1, \"hartley\": 9}", "bad 'output'", false},
        {SAME, 0, "output", "[]", "bad 'output'", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 2, \"hartley\": 2}", NULL, false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 4, \"hartley\": 2}", "bad 'input'", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 8}", "that divides 4", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 3}", "bad 'input'", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 1}", "bad 'input'", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 4611686018427387904}", "bad 'input'", false},
        {SAME, 0, "input", "{\"signs\": -1, \"hadamard\": 4}", "bad 'input'", false},
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 4, \"scale\": 2}", "bad 'input'", false},
        {SAME, 0, "input", "[[[1]]]", "bad 'input'", false},
        {SAME, 0, "input", "null", "bad 'input'", false},
        {{{1, 3, 3, 1}, {1, 3, 3, 1}}, 0, "input", "{\"signs\": 1, \"hadamard\": 2}", "that divides 3", false},
    };
    char message[512];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct source source;
        struct record record = {0};
        struct operator op;
        int rc;

        write_strange(&cases[i]);
        error_capture(message, sizeof message);
        assert_int_equal(source_open(&source, "strange.tns"), EX_OK);
        assert_int_equal(source_next(&source, &record), EX_OK);
        rc = operator_read(&source, &record, &op);
        error_capture(NULL, 0);
        assert_int_equal(rc, cases[i].complaint ? EX_DATAERR : EX_OK);
        if (cases[i].complaint && !strstr(message, cases[i].complaint))
            fail_msg("case %zu: '%s'", i, message);
        operator_free(&op);
        record_free(&record);
        source_close(&source);
    }
}

/* Summaries show transforms, and refuse what is none. */
static void test_summary(void)
{
    static const struct strange good = {SAME, 0, "input", GOOD, NULL, false};
    static const struct strange bad[] = {
        {SAME, 0, "input", "{\"signs\": 1, \"hadamard\": 8}", "no transform of 4 columns", false},
        {SAME, 0, "output", "{\"signs\": 1, \"hadamard\": 2}", "no transform of 3 rows", false}};
    static const struct strange output = {SAME, 0, "output", "{\"signs\": 1, \"hadamard\": 1, \"hartley\": 3}", NULL,
                                          false};
    struct summary summary;
    struct source source;
    struct json *json;
    char message[512];

    write_strange(&good);
    assert_int_equal(source_open(&source, "strange.tns"), EX_OK);
    assert_int_equal(summary_take(&summary, &source, true), EX_OK);
    assert_int_equal(summary.n_weight, 1);
    assert_int_equal(summary.weight[0].input.block, 4);
    assert_string_equal(summary.weight[0].description, "f32 1x3x4x1 + f32 1x3x4x1");
    json = summary_json(&summary, false);
    assert_int_equal(json_as_int(json_at(json_at(json_item(json_at(json, "tensors"), 0), "input"), "hadamard"), 0), 4);
    json_drop(json);
    summary_free(&summary);
    source_close(&source);
    write_strange(&output);
    assert_int_equal(source_open(&source, "strange.tns"), EX_OK);
    assert_int_equal(summary_take(&summary, &source, true), EX_OK);
    assert_true(transform_same(summary.weight[0].output, transform_full(3, 1)));
    json = summary_json(&summary, false);
    assert_int_equal(json_as_int(json_at(json_at(json_item(json_at(json, "tensors"), 0), "output"), "hartley"), 0), 3);
    json_drop(json);
    summary_free(&summary);
    source_close(&source);
    for (int i = 0; i < 2; i++) {
        write_strange(&bad[i]);
        error_capture(message, sizeof message);
        assert_int_equal(source_open(&source, "strange.tns"), EX_OK);
        assert_int_equal(summary_take(&summary, &source, false), EX_DATAERR);
        error_capture(NULL, 0);
        assert_non_null(strstr(message, bad[i].complaint));
        summary_free(&summary);
        source_close(&source);
    }
}

/* A writer doesn't write what a reader would refuse. */
static void test_writer_holds_the_order(void)
{
    struct writer writer;
    struct tensor core = tensor_new(DTYPE(F32), 4, (int64_t[]){1, 3, 1, 2});
    struct record record = record_core("w", 0, 1, 0, 2, &core);

    memset(core.data, 0, (size_t)core.bytes);
    error_capture((char[256]){0}, 256);
    assert_int_equal(writer_open(&writer, "never.tns", NULL, NULL), EX_OK);
    assert_int_equal(writer_put(&writer, &record, core.data), EX_OK);
    assert_int_equal(writer_put(&writer, &record, core.data), EX_SOFTWARE);
    assert_int_equal(writer_end(&writer), EX_SOFTWARE);
    error_capture(NULL, 0);
    writer_close(&writer);
    record_free(&record);
    tensor_free(&core);
}

static void test_difference(void)
{
    float a[] = {1, 2, 3, 4, NAN}, b[] = {1, 2.5f, 3, 2, NAN};
    struct difference d = {0};

    difference_add(&d, a, b, 4, 10);
    assert_int_equal(d.unequal, 2);
    assert_int_equal(d.worst, 13);
    assert_true(d.worst_a == 4 && d.worst_b == 2);
    CHECK_AT_MOST(fabs(difference_error(&d) - sqrt(4.25 / 30)), 1e-12, "relative error");
    d = (struct difference){0};
    difference_add(&d, a + 4, b + 4, 1, 0);
    assert_int_equal(d.unequal, 0);                   /* the same NaN */
    b[4] = 1;
    difference_add(&d, a, b, 5, 0);
    assert_int_equal(d.worst, 4);
    assert_true(isnan(difference_error(&d)));
}

CHECK_MAIN({"chains multiply out as defined", test_contraction},
           {"terms add up, in any order of kinds", test_sum_of_terms},
           {"an input transform is part of W", test_transforms},
           {"the transform that FORMAT shows", test_example},
           {"operators go through a stream unchanged", test_through_a_stream},
           {"terms that differ, unknown members and bad transforms are refused", test_strange_operators},
           {"summaries show transforms", test_summary},
           {"a writer holds the order of cores", test_writer_holds_the_order},
           {"differences, with their worst element", test_difference})

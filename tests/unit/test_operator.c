/* test_operator.c - chains multiplied out against the definition, and operators through streams. */
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "operator/difference.h"
#include "operator/operator.h"

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
    float *w = xmallocarray((size_t)count, sizeof *w), *expected = xmallocarray((size_t)count, sizeof *expected);

    operator_dense(op, w);
    for (int64_t o = 0; o < op->out; o++)
        for (int64_t i = 0; i < op->in; i++) {
            double sum = 0;

            for (int t = 0; t < op->n_term; t++)
                sum += element(op, t, o, i);
            expected[o * op->in + i] = (float)sum;
        }
    CHECK_AT_MOST(check_relative(w, expected, count), 1e-6, "contraction");
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

/* Two terms of one size: 6 x 7 as a matrix of one core and as a product. */
static void test_sum_of_terms(void)
{
    static const struct sizes whole = {1, {6}, {7}, {1, 1}}, balanced = {2, {3, 2}, {7, 1}, {1, 4, 1}};

    for (int first = 0; first < 3; first++) {
        const struct sizes *z[3] = {&whole, &shapes[1], &balanced};
        struct operator op = make(z[first], "a"), second = make(z[(first + 1) % 3], "b"), third = make(z[(first + 2) % 3], "c");

        op.term = xreallocarray(op.term, 3, sizeof *op.term);
        op.term[1] = second.term[0];
        op.term[2] = third.term[0];
        op.n_term = 3;
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
    for (int i = 0; i < N_SHAPE; i++) {
        char name[32];
        struct operator op;

        snprintf(name, sizeof name, "w%d", i);
        op = make(&shapes[i], name);
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
        struct operator op, expected = make(&shapes[seen], record.name);
        struct difference d;

        assert_true(operator_begins(&record));
        assert_int_equal(operator_read(&source, &record, &op), EX_OK);
        assert_int_equal(op.out, expected.out);
        assert_int_equal(op.in, expected.in);
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
    assert_int_equal(seen, N_SHAPE);
    source_close(&source);
}

/* Terms of different sizes, members that this version doesn't know, and matrices beyond any memory. */
static void test_strange_operators(void)
{
    static const struct {
        int64_t shape[2][4];
        const char *member, *complaint;
    } cases[] = {
        {{{1, 3, 4, 1}, {1, 4, 3, 1}}, NULL, "term 1 is 4 x 3, expected 3 x 4"},
        {{{1, 3, 4, 1}, {1, 3, 4, 1}}, "transform", "'transform' is not known"},
        {{{1, 3, 4, 1}, {1, 3, 4, 1}}, NULL, NULL},
    };
    char message[512];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct writer writer;
        struct source source;
        struct record record = {0};
        struct operator op;
        int rc;

        assert_int_equal(writer_open(&writer, "strange.tns", NULL, NULL), EX_OK);
        for (int t = 0; t < 2; t++) {
            struct tensor core = tensor_new(DTYPE(F32), 4, cases[i].shape[t]);

            memset(core.data, 0, (size_t)core.bytes);
            record = record_core("w", t, 2, 0, 1, &core);
            if (cases[i].member)
                json_put(record.map, cases[i].member, json_make_string("hadamard"));
            assert_int_equal(writer_put(&writer, &record, core.data), EX_OK);
            record_free(&record);
            tensor_free(&core);
        }
        assert_int_equal(writer_end(&writer), EX_OK);
        writer_close(&writer);
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
           {"operators go through a stream unchanged", test_through_a_stream},
           {"terms that differ and unknown members are refused", test_strange_operators},
           {"a writer holds the order of cores", test_writer_holds_the_order},
           {"differences, with their worst element", test_difference})

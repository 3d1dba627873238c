/* test_apply.c - all kinds of operators at work, on both devices. */
#include "apply_made.h"

static void check_spec(const struct spec *spec, enum activations activations, double bound)
{
    static const int64_t columns[] = {1, 3, 300, 1};
    struct operator op = make(spec);

    for (int d = 0; d < 2; d++) {
        struct applied *w = place(spec, devices[d], activations);

        assert_int_equal(apply_out(w), op.out);
        assert_int_equal(apply_in(w), op.in);
        assert_true(apply_bytes(w) > 0);
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
            float *x = numbers("x", columns[i], op.in), *truth = expected(&op, x, columns[i], activations);

            check_applied(w, spec->name, devices[d], x, truth, columns[i], bound);
            free(x);
            free(truth);
        }
        apply_free(w);
    }
    operator_free(&op);
}

static void test_all_kinds(void)
{
    for (int i = 0; i < N_SPEC; i++)
        check_spec(&specs[i], ACTIVATIONS_F32, BOUND);
}

/* A number at the border between two codes may fall to either side, by a 254th of its group's largest, in a low-rank
 * term's middle or behind a transform: one in some thousand numbers does. */
static void test_int8_activations(void)
{
    for (int i = 0; i < N_SPEC; i++)
        check_spec(&specs[i], ACTIVATIONS_INT8,
                   strstr(specs[i].name, "low rank packed") || strstr(specs[i].name, "hadamard") ? 2e-3 : BOUND);
}

static void test_gather(void)
{
    static const int32_t index[] = {3, 0, 34, 3, 17, 1};

    for (int i = 0; i < N_SPEC; i++)
        for (int d = 0; d < 2; d++)
            for (int pad = 0; pad < 5; pad += 4) {
                struct operator op = make(&specs[i]);
                int64_t in = op.in, out = op.out, stride = in + pad;
                float *w = xmallocarray((size_t)(out * in), sizeof *w), *y = xcalloc((size_t)(6 * stride), sizeof *y);
                float *dy = to_device(devices[d], y, 6 * stride);
                struct applied *applied;
                int32_t row[6];

                for (int r = 0; r < 6; r++)
                    row[r] = index[r] % (int32_t)out;
                operator_dense(&op, w);
                applied = apply_place(devices[d], &op, i % 2 ? ACTIVATIONS_INT8 : ACTIVATIONS_F32);
                apply_gather(applied, row, 6, dy, stride);
                devices[d]->download(y, dy, (size_t)(6 * stride) * sizeof *y);
                for (int r = 0; r < 6; r++) {
                    CHECK_AT_MOST(check_relative(y + r * stride, w + row[r] * in, in), BOUND, specs[i].name);
                    assert_true(!pad || y[r * stride + in] == 0);
                }
                apply_gather(applied, row, 0, dy, stride);
                apply_free(applied);
                devices[d]->release(dy);
                free(w);
                free(y);
            }
}

/* Operators of all kinds with one input, more of them than fit into one call, some added. */
static void test_shared_input(void)
{
    enum { N = 40, COLUMNS = 5 };
    struct application application[N];
    struct applied *w[N];
    float *truth[N], *start[N], *x = numbers("x", COLUMNS, 70), *dx;

    for (int d = 0; d < 2; d++) {
        int count = 0;

        dx = to_device(devices[d], x, COLUMNS * 70);
        for (int i = 0; i < 3 * N_SPEC && count < N; i++) {
            const struct spec *spec = &specs[i * 7 % N_SPEC];
            struct operator op = make(spec);

            if (op.in == 70) {
                truth[count] = expected(&op, x, COLUMNS, ACTIVATIONS_F32);
                w[count] = apply_place(devices[d], &op, ACTIVATIONS_F32);
                start[count] = numbers("start", COLUMNS, apply_out(w[count]));
                application[count] = (struct application){
                    w[count], to_device(devices[d], start[count], COLUMNS * apply_out(w[count])), apply_out(w[count]),
                    count % 3 == 0};
                count++;
            }
            operator_free(&op);
        }
        assert_int_equal(count, N);
        apply(application, count, dx, 70, COLUMNS);
        for (int i = 0; i < count; i++) {
            int64_t size = COLUMNS * apply_out(w[i]);
            float *y = xmallocarray((size_t)size, sizeof *y);

            devices[d]->download(y, application[i].y, (size_t)size * sizeof *y);
            check_against("shared input", y, truth[i], application[i].add ? start[i] : NULL, size, BOUND);
            devices[d]->release(application[i].y);
            apply_free(w[i]);
            free(y);
            free(truth[i]);
            free(start[i]);
        }
        devices[d]->release(dx);
    }
    free(x);
}

/* Sizes without numbers: W = 0 or nothing at all. */
static void test_empty(void)
{
    static const struct spec empty[] = {
        {"no rank", {{2, {6, 1}, {1, 7}, {1, 0, 1}, {F32, F32}}}},
        {"no rank, with another", {{2, {6, 1}, {1, 7}, {1, 0, 1}, {F32, F32}}, {1, {6}, {7}, {1, 1}, {F32}}}},
        {"no rank between three", {{3, {6, 1, 1}, {1, 7, 1}, {1, 2, 0, 1}, {F32, F32, F32}}}},
        {"no columns", {{1, {6}, {0}, {1, 1}, {F32}}}},
        {"no rows", {{1, {0}, {7}, {1, 1}, {F32}}}},
    };

    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++)
        for (int d = 0; d < 2; d++) {
            struct operator op = make(&empty[i]);
            float *x = numbers("x", 3, op.in), *truth = expected(&op, x, 3, ACTIVATIONS_F32), *y;
            struct applied *w = apply_place(devices[d], &op, ACTIVATIONS_F32);

            y = applied_to(w, devices[d], x, 3, 2, NULL);
            for (int64_t o = 0; o < 3 * apply_out(w); o++)
                assert_true(fabsf(y[o] - truth[o]) < 1e-5f);
            free(y);
            y = applied_to(w, devices[d], x, 3, 0, truth);
            for (int64_t o = 0; o < 3 * apply_out(w); o++)
                assert_true(fabsf(y[o] - 2 * truth[o]) < 1e-5f);
            free(y);
            apply(&(struct application){w, NULL, 0, false}, 1, NULL, 0, 0);
            free(x);
            free(truth);
            apply_free(w);
        }
    apply(NULL, 0, NULL, 0, 3);
    apply_free(NULL);
}

CHECK_MAIN({"each kind of term, alone and added, with strides", test_all_kinds},
           {"inputs of packed matrices rounded to 8 bits", test_int8_activations},
           {"rows of W by index", test_gather},
           {"operators that share their input", test_shared_input},
           {"sizes without numbers", test_empty})

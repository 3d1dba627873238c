/* test_device_products.c - products of bf16: those of rounded factors, near the definition's and the same bytes for any
 * number of threads. */
#include "device_check.h"

static const int64_t shapes[][3] = {{9, 1, 1}, {10, 33, 7}, {12, 64, 31}, {13, 65, 32}, {64, 17, 513}, {100, 129, 640},
                                    {37, 192, 1025}, {1040, 5, 33}};

struct case_of {
    int64_t n, rows, columns;
    float *x, *w, *y;            /* y [n, rows] */
};

static void round_all(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = bfloat_to_float(bfloat_from_float(x[i]));
}

static void run_gemm(const struct device *device, void *context, float *out)
{
    const struct case_of *c = context;

    device->gemm(1, c->x, c->columns, c->w, c->columns, 1, out, c->rows, c->n, c->rows, c->columns);
}

static void run_back(const struct device *device, void *context, float *out)
{
    const struct case_of *c = context;

    device->gemm_back(c->y, c->rows, c->w, c->columns, 1, out, c->columns, c->n, c->rows, c->columns);
}

static void run_gradient(const struct device *device, void *context, float *out)
{
    const struct case_of *c = context;

    device->gemm_gradient(out, c->columns, c->y, c->rows, c->x, c->columns, c->n, c->rows, c->columns);
}

static void run_multiply(const struct device *device, void *context, float *out)
{
    const struct case_of *c = context;
    struct tensor tensor = tensor_new(DTYPE(F32), 2, (int64_t[]){c->rows, c->columns});
    struct placed *w;

    memcpy(tensor.data, c->w, (size_t)(c->rows * c->columns) * sizeof *c->w);
    w = device->place(&tensor, ACTIVATIONS_F32);
    device->multiply(&(struct product){w, out, c->rows, true}, 1, c->x, c->columns, c->n);
    device->displace(w);
}

typedef void operation(const struct device *, void *, float *);

/* Factors as they are give the bytes of rounded ones, and those are near the definition's. */
static void check(operation *run, struct case_of *c, int64_t count, double bound, const char *what)
{
    float *start = normal("start", count), *as_they_are = normal("start", count), *rounded = normal("start", count);

    assert_true(device_cpu.products(PRODUCTS_BF16));
    run(&device_cpu, c, as_they_are);
    round_all(c->x, c->n * c->columns);
    round_all(c->w, c->rows * c->columns);
    round_all(c->y, c->n * c->rows);
    run(&device_cpu, c, rounded);
    assert_memory_equal(as_they_are, rounded, (size_t)count * sizeof *rounded);
    memcpy(as_they_are, start, (size_t)count * sizeof *start);
    run(&device_reference, c, as_they_are);
    if (!(distance(rounded, as_they_are, count) <= bound))
        fail_msg("%s: off by %g, allowed %g", what, distance(rounded, as_they_are, count), bound);
    for (int threads = 2; threads <= 3; threads++) {
        parallel_set(threads);
        memcpy(as_they_are, start, (size_t)count * sizeof *start);
        run(&device_cpu, c, as_they_are);
        assert_memory_equal(as_they_are, rounded, (size_t)count * sizeof *rounded);
    }
    parallel_set(1);
    assert_true(device_cpu.products(PRODUCTS_F32));
    free(start);
    free(as_they_are);
    free(rounded);
}

static void test_products(void)
{
    if (!device_cpu.products(PRODUCTS_BF16))
        skip();
    parallel_set(1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        static const struct {
            operation *run;
            const char *name;
        } runs[] = {{run_gemm, "gemm"}, {run_back, "gemm_back"}, {run_gradient, "gemm_gradient"},
                    {run_multiply, "multiply"}};

        for (int k = 0; k < 4; k++) {
            struct case_of c = {.n = shapes[i][0], .rows = shapes[i][1], .columns = shapes[i][2]};
            int64_t count = k == 1 ? c.n * c.columns : k == 2 ? c.rows * c.columns : c.n * c.rows;
            int64_t length = k == 1 ? c.rows : k == 2 ? c.n : c.columns;
            double size;

            c.x = normal("x", c.n * c.columns);
            c.w = normal("w", c.rows * c.columns);
            c.y = normal("y", c.n * c.rows);
            size = k == 1 ? norm(c.y, c.n, c.rows, c.rows) * norm(c.w, c.rows, c.columns, c.columns)
                 : k == 2 ? norm(c.y, c.n, c.rows, c.rows) * norm(c.x, c.n, c.columns, c.columns)
                          : norm(c.x, c.n, c.columns, c.columns) * norm(c.w, c.rows, c.columns, c.columns);
            check(runs[k].run, &c, count, (double)(length + 8) * u * size + 1e-6, runs[k].name);
            free(c.x);
            free(c.w);
            free(c.y);
        }
    }
    parallel_set(0);
}

/* Few rows, and the definition, stay as they are. */
static void test_refused(void)
{
    assert_true(device_reference.products(PRODUCTS_F32));
    assert_false(device_reference.products(PRODUCTS_BF16));
    cpu_kernels_set(&kernels_portable);
    assert_false(device_cpu.products(PRODUCTS_BF16));
    assert_true(device_cpu.products(PRODUCTS_F32));
    cpu_kernels_set(NULL);
}

CHECK_MAIN({"products of bf16 are those of rounded factors", test_products},
           {"bf16 is refused where it can't be done", test_refused})

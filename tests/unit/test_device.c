/* test_device.c - matrices on the fast device against the definition, with every set of kernels that this processor
 * runs.
 *
 * Bounds of products: a sum of K products in f32 differs from the exact one by at most about K u sum |x_j w_j|, u =
 * 2^-24, and by Cauchy-Schwarz over all elements |Y - Y'|_F <= K u |X|_F |W|_F. The rounded products sum whole
 * numbers exactly and add two terms per 32 columns in f32, but scale * code and the offset are larger than w itself:
 * 4 covers what codes of 2 to 8 bits do there. A wrong element of W or x shows as an error near |X| |W| / K, a
 * thousand times as much. */
#include "device_check.h"
#include "tensor/trellis.h"

#include <stdio.h>

enum { PAD = 3 };

static void random_bytes(unsigned char *to, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 16) {
        uint32_t word[4];

        random_block(random_named(2, "codes"), (uint64_t)i, word);
        memcpy(to + i, word, (size_t)(bytes - i < 16 ? bytes - i : 16));
    }
}

/* Any codes, scales near 0.1, minima near 0.1; any integers, of either sign with their factors. */
static struct tensor random_packed(struct dtype dtype, int rank, const int64_t *shape)
{
    struct tensor tensor = tensor_new(dtype, rank, shape);
    struct group_layout layout;
    float *noise;

    group_layout(dtype, rank, shape, &layout);
    random_bytes(tensor.data, tensor.bytes);
    noise = normal("scales", 2 * layout.rows * layout.groups);
    for (int64_t i = 0; i < layout.rows * layout.supers; i++) {
        ((uint16_t *)(void *)(tensor.data + layout.scale_factor))[i] = half_from_float(0.002f * noise[2 * i]);
        if (dtype.zero == ZERO_MIN)
            ((uint16_t *)(void *)(tensor.data + layout.minimum_factor))[i] = half_from_float(0.002f * noise[2 * i + 1]);
    }
    for (int64_t i = 0; !dtype.scale_bits && i < layout.rows * layout.groups; i++) {
        ((uint16_t *)(void *)(tensor.data + layout.scale))[i] = half_from_float(0.1f + 0.03f * noise[2 * i]);
        if (dtype.zero == ZERO_MIN)
            ((uint16_t *)(void *)(tensor.data + layout.zero))[i] = half_from_float(0.1f * noise[2 * i + 1]);
    }
    free(noise);
    return tensor;
}

static struct tensor random_trellis(struct dtype dtype, int rank, const int64_t *shape)
{
    struct tensor tensor = tensor_new(dtype, rank, shape);
    struct trellis_layout layout;
    float *noise;

    trellis_layout(dtype, rank, shape, &layout);
    random_bytes(tensor.data, layout.codes);
    noise = normal("scales", layout.rows);
    for (int64_t i = 0; i < layout.rows; i++)
        ((uint16_t *)(void *)(tensor.data + layout.scale))[i] = half_from_float(0.1f + 0.03f * noise[i]);
    free(noise);
    return tensor;
}

static struct tensor random_tensor(struct dtype dtype, int rank, const int64_t *shape)
{
    struct tensor tensor;
    float *values;

    if (dtype.kind == DTYPE_GROUP)
        return random_packed(dtype, rank, shape);
    if (dtype.kind == DTYPE_TRELLIS)
        return random_trellis(dtype, rank, shape);
    tensor = tensor_new(dtype, rank, shape);
    values = normal("weights", tensor_count(&tensor));
    if (dtype.kind == DTYPE_F64)
        for (int64_t i = 0; i < tensor_count(&tensor); i++)
            ((double *)(void *)tensor.data)[i] = values[i] * 1.0000001;
    else
        tensor_set(&tensor, values);
    free(values);
    return tensor;
}

static struct tensor copy_of(const struct tensor *tensor)
{
    struct tensor copy = tensor_new(tensor->dtype, tensor->rank, tensor->shape);

    memcpy(copy.data, tensor->data, (size_t)copy.bytes);
    return copy;
}

struct multiplication {
    const struct tensor *tensor;
    enum activations activations;
    bool add;
    const float *x;
    int64_t x_stride, n, stride;
};

static void run_multiply(const struct device *device, void *context, float *y)
{
    const struct multiplication *m = context;
    struct tensor copy = copy_of(m->tensor);
    struct placed *w = device->place(&copy, m->activations);

    assert_null(copy.data);
    device->multiply(&(struct product){w, y, m->stride, m->add}, 1, m->x, m->x_stride, m->n);
    device->displace(w);
}

/* x has NaN between its rows and y a number: neither may be touched. */
static void check_multiply(struct dtype dtype, enum activations activations, int64_t n, int64_t rows, int64_t columns)
{
    struct tensor tensor = random_tensor(dtype, 2, (int64_t[]){rows, columns});
    struct multiplication m = {&tensor, activations, (rows + n) % 2, NULL, columns + PAD, n, rows + PAD};
    float *x = normal("x", n * m.x_stride), *y = normal("y", n * m.stride);
    float *w = xmallocarray((size_t)(rows * columns), sizeof *w);
    char name[DTYPE_NAME], what[128];
    double bound;

    tensor_get(&tensor, w);
    bound = (double)(columns + 8) * u * (norm(x, n, columns, m.x_stride) * norm(w, 1, rows * columns, 0)
                                         + norm(y, n, rows, m.stride));
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < PAD; j++)
            x[i * m.x_stride + columns + j] = NAN;
    m.x = x;
    snprintf(what, sizeof what, "%s %s n %d rows %d columns %d", dtype_name(dtype, name),
             activations ? "int8" : "f32", (int)n, (int)rows, (int)columns);
    check_all(run_multiply, &m, y, n * m.stride, dtype_is_packed(dtype) ? 4 * bound : bound, what);
    tensor_free(&tensor);
    free(x);
    free(y);
    free(w);
}

/* All numbers of columns and of tokens; rows go along. */
static void check_dtype(struct dtype dtype, enum activations activations)
{
    for (int i = 0; i < N_SIZE; i++) {
        int64_t n = tokens[i % N_TOKEN], rows = sizes[(i * 7 + 3) % (N_SIZE - 1)];

        check_multiply(dtype, activations, n, rows, sizes[i]);
    }
    check_multiply(dtype, activations, 17, 80, 640);
}

static void test_plain(void)
{
    check_dtype(DTYPE(F32), ACTIVATIONS_F32);
    check_dtype(DTYPE(F16), ACTIVATIONS_INT8);   /* which means f32 here */
    check_dtype(DTYPE(BF16), ACTIVATIONS_F32);
    check_multiply(DTYPE(F64), ACTIVATIONS_F32, 3, 5, 17);
    check_multiply(DTYPE(F32), ACTIVATIONS_F32, 1100, 33, 65);          /* several slices */
    check_multiply(DTYPE(F32), ACTIVATIONS_F32, 100, 192, 1300);        /* several depths */
}

static void check_packed(enum activations activations)
{
    static const int bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 16, GROUP_ROW, 100}, integers[] = {0, 6, 8};

    for (int b = 0; b < 6; b++)
        for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++)
            for (int g = 0; g < 5; g++)
                for (int s = 0; s < 3; s++)
                    check_dtype((struct dtype){.kind = DTYPE_GROUP, .bits = bits[b], .group = groups[g],
                                               .zero = (enum dtype_zero)zero, .scale_bits = integers[s]},
                                activations);
}

static void test_packed_f32(void)
{
    check_packed(ACTIVATIONS_F32);
}

static void test_packed_int8(void)
{
    check_packed(ACTIVATIONS_INT8);
}

/* Whole strips of rows and others, whole blocks of columns and others, and more tokens than are done by strips. */
static void test_trellis(void)
{
    static const int states[] = {8, 9, 12, 16};
    static const int64_t columns[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 100, 1300}, rows[] = {16, 32, 48, 80, 17, 5};

    for (int rate = 2; rate <= 8; rate++)
        for (int s = 0; s < 4; s++)
            for (int i = 0; i < 11 * 2; i++) {
                struct dtype dtype;

                assert_true(dtype_trellis(rate, states[s], &dtype));
                check_multiply(dtype, (enum activations)(i % 2), tokens[(i * 5 + s + rate) % N_TOKEN],
                               rows[(i + s) % 6], columns[i / 2]);
                check_multiply(dtype, (enum activations)(i % 2), 1 + i % 9, 32, columns[i / 2]);
            }
}

/* Shapes of cores; among them a column, whose groups run down the rows. */
static void test_shapes(void)
{
    static const int64_t shapes[][4] = {{1, 70, 33, 1}, {1, 70, 1, 33}, {70, 1, 33, 1}, {1, 70, 1, 1}, {1, 1, 70, 1},
                                        {70, 1, 1, 1}, {1, 1, 1, 1}};
    struct dtype dtypes[] = {DTYPE(F32), DTYPE(BF16), {.kind = DTYPE_GROUP, .bits = 4, .group = 32, .zero = ZERO_NONE},
                             {.kind = DTYPE_GROUP, .bits = 3, .group = 100, .zero = ZERO_MIN},
                             {.kind = DTYPE_GROUP, .bits = 5, .group = 2, .zero = ZERO_MIN, .scale_bits = 6},
                             {.kind = DTYPE_TRELLIS, .bits = 5, .step = 2, .state = 12}};

    for (int s = 0; s < 7; s++)
        for (int d = 0; d < 6; d++) {
            struct tensor tensor = random_tensor(dtypes[d], 4, shapes[s]), copy = copy_of(&tensor);
            struct placed *w = device_cpu.place(&copy, ACTIVATIONS_INT8);
            int64_t n = 5, rows = w->rows, columns = w->columns;
            float *x = normal("x", n * columns), *y = normal("y", n * rows);
            struct multiplication m = {&tensor, ACTIVATIONS_INT8, false, x, columns, n, rows};

            assert_int_equal(rows, shapes[s][0] * shapes[s][1]);
            assert_int_equal(columns, shapes[s][2] * shapes[s][3]);
            assert_true(dtype_same(w->dtype, dtypes[d]) && w->bytes > 0);
            check_all(run_multiply, &m, y, n * rows, 1e-3 * sqrt((double)(n * rows)), "cores");
            device_cpu.displace(w);
            tensor_free(&tensor);
            free(x);
            free(y);
        }
}

/* Products of one input with matrices of all kinds at once are those of each alone. */
static void test_several(void)
{
    struct dtype dtypes[] = {DTYPE(F32), {.kind = DTYPE_GROUP, .bits = 4, .group = 32, .zero = ZERO_NONE},
                             {.kind = DTYPE_GROUP, .bits = 5, .group = 20, .zero = ZERO_INT},
                             DTYPE(F16), {.kind = DTYPE_GROUP, .bits = 6, .group = 64, .zero = ZERO_MIN},
                             {.kind = DTYPE_GROUP, .bits = 4, .group = 32, .zero = ZERO_INT},
                             {.kind = DTYPE_GROUP, .bits = 3, .group = 32, .zero = ZERO_MIN, .scale_bits = 6},
                             {.kind = DTYPE_TRELLIS, .bits = 2, .step = 1, .state = 12}};
    enum { COUNT = 8, COLUMNS = 150, ROWS = 96 };

    for (int64_t n = 1; n < 80; n = 3 * n + 1) {
        float *x = normal("x", n * COLUMNS), *y = xcalloc((size_t)(2 * COUNT * n * ROWS), sizeof *y);
        float *alone = y + COUNT * n * ROWS;
        struct product products[COUNT];

        for (int i = 0; i < COUNT; i++) {
            struct tensor tensor = random_tensor(dtypes[i], 2, (int64_t[]){ROWS - i % 7, COLUMNS});

            products[i] = (struct product){device_cpu.place(&tensor, i % 2 ? ACTIVATIONS_INT8 : ACTIVATIONS_F32),
                                           alone + i * n * ROWS, ROWS, false};
            device_cpu.multiply(products + i, 1, x, COLUMNS, n);
            products[i].y = y + i * n * ROWS;
        }
        device_cpu.multiply(products, COUNT, x, COLUMNS, n);
        assert_memory_equal(y, alone, (size_t)(COUNT * n * ROWS) * sizeof *y);
        for (int i = 0; i < COUNT; i++)
            device_cpu.displace((struct placed *)products[i].w);
        free(x);
        free(y);
    }
}

static void test_gather_trellis(void)
{
    for (int rate = 2; rate <= 8; rate++)
        for (int i = 0; i < 6; i++) {
            int64_t columns = i < 2 ? 1 + i : 23 * i, rows = i % 2 ? 48 : 37;
            struct tensor tensor;
            struct placed *w;
            struct dtype dtype;
            float *whole = xmallocarray((size_t)(rows * columns), 4), *y = xmallocarray((size_t)(3 * columns), 4);

            dtype_trellis(rate, 8 + i, &dtype);
            tensor = random_tensor(dtype, 2, (int64_t[]){rows, columns});
            tensor_get(&tensor, whole);
            w = device_cpu.place(&tensor, ACTIVATIONS_F32);
            device_cpu.gather(w, (int32_t[]){36, 0, 17}, 3, y, columns);
            assert_memory_equal(y, whole + 36 * columns, (size_t)columns * 4);
            assert_memory_equal(y + columns, whole, (size_t)columns * 4);
            assert_memory_equal(y + 2 * columns, whole + 17 * columns, (size_t)columns * 4);
            device_cpu.displace(w);
            free(whole);
            free(y);
        }
}

/* Rows come out as tensor_get() gives them, to the bit. */
static void test_gather(void)
{
    static const int bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 20, GROUP_ROW, 64};

    for (int i = 0; i < 6 * 3 * 4 * 3 + 4; i++) {
        struct dtype dtype = i < 4 ? (struct dtype[]){DTYPE(F32), DTYPE(F16), DTYPE(BF16), DTYPE(F64)}[i]
                                   : (struct dtype){.kind = DTYPE_GROUP, .bits = bits[i % 6],
                                                    .group = groups[i / 6 % 4],
                                                    .zero = (enum dtype_zero)(i / 24 % 3),
                                                    .scale_bits = (int[]){0, 6, 8}[i / 72 % 3]};
        int64_t columns = i % 5 == 0 ? 1 : i % 2 ? 97 : 301;
        struct tensor tensor = random_tensor(dtype, 2, (int64_t[]){37, columns});
        float *whole = xmallocarray((size_t)(37 * columns), 4), *y = xmallocarray((size_t)(3 * columns), 4);
        struct placed *w;

        tensor_get(&tensor, whole);
        w = device_cpu.place(&tensor, ACTIVATIONS_F32);
        device_cpu.gather(w, (int32_t[]){36, 0, 17}, 3, y, columns);
        assert_memory_equal(y, whole + 36 * columns, (size_t)columns * 4);
        assert_memory_equal(y + columns, whole, (size_t)columns * 4);
        assert_memory_equal(y + 2 * columns, whole + 17 * columns, (size_t)columns * 4);
        device_cpu.displace(w);
        free(whole);
        free(y);
    }
}

/* A group of x that holds infinity or NaN gives NaN; a huge, a tiny and an empty one don't disturb. */
static void test_rounding_limits(void)
{
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++)
        for (int bad = 0; bad < 2; bad++) {
            struct tensor tensor = random_tensor((struct dtype){.kind = DTYPE_GROUP, .bits = 4, .group = 32,
                                                                .zero = ZERO_NONE}, 2, (int64_t[]){5, 96});
            struct tensor copy = copy_of(&tensor);
            struct placed *w = device_cpu.place(&tensor, ACTIVATIONS_INT8);
            struct placed *reference = device_reference.place(&copy, ACTIVATIONS_INT8);
            float x[3][96] = {{0}}, y[3][5], expected[3][5];

            for (int j = 0; j < 96; j++) {
                x[0][j] = j < 32 ? 1e30f * (float)(j - 9) : j < 64 ? 1e-42f : (float)j;
                x[1][j] = j == 77 ? bad ? -INFINITY : NAN : (float)j;
            }
            cpu_kernels_set(*kernels);
            device_cpu.multiply(&(struct product){w, y[0], 5, false}, 1, x[0], 96, 3);
            device_reference.multiply(&(struct product){reference, expected[0], 5, false}, 1, x[0], 96, 3);
            CHECK_AT_MOST(check_relative(y[0], expected[0], 5), 1e-5, "a huge group");
            for (int r = 0; r < 5; r++) {
                assert_true(isnan(y[1][r]) && isnan(expected[1][r]));
                assert_true(y[2][r] == 0);
            }
            device_cpu.displace(w);
            device_reference.displace(reference);
        }
    cpu_kernels_set(NULL);
}

struct gemm {
    const float *x, *w;
    int64_t n, rows, columns;
    float alpha, beta;
};

static void run_gemm(const struct device *device, void *context, float *y)
{
    const struct gemm *g = context;

    device->gemm(g->alpha, g->x, g->columns + 1, g->w, g->columns + 2, g->beta, y, g->rows + 3, g->n, g->rows,
                 g->columns);
}

static void test_gemm(void)
{
    for (int i = 0; i < N_SIZE; i++) {
        struct gemm g = {.n = sizes[i], .rows = sizes[(i * 5 + 1) % N_SIZE], .columns = sizes[(i * 11 + 7) % N_SIZE],
                         .alpha = -0.5f, .beta = i % 3 ? 2 : 0};
        float *x = normal("x", g.n * (g.columns + 1)), *w = normal("w", g.rows * (g.columns + 2));
        float *y = normal("y", g.n * (g.rows + 3));
        double bound = (double)(g.columns + 8) * u * (norm(x, g.n, g.columns, g.columns + 1)
                                                      * norm(w, g.rows, g.columns, g.columns + 2) / 2
                                                      + 2 * norm(y, g.n, g.rows, g.rows + 3));

        g.x = x;
        g.w = w;
        if (g.beta == 0)
            y[0] = NAN;          /* not read then */
        check_all(run_gemm, &g, y, g.n * (g.rows + 3), bound, "gemm");
        g.columns = 0;
        y[0] = 1;
        check_all(run_gemm, &g, y, g.n * (g.rows + 3), 0, "gemm without columns");
        free(x);
        free(w);
        free(y);
    }
}

static void test_permute(void)
{
    static const struct {
        int rank, axes[4];
        int64_t shape[4];
    } cases[] = {{1, {0}, {7}}, {2, {1, 0}, {65, 33}}, {3, {0, 2, 1}, {3, 17, 40}}, {3, {2, 0, 1}, {5, 6, 7}},
                 {4, {3, 2, 1, 0}, {5, 6, 7, 8}}, {4, {0, 2, 1, 3}, {9, 20, 16, 12}},
                 {4, {1, 3, 0, 2}, {1, 40, 1, 130}},
                 {4, {2, 0, 3, 1}, {12, 64, 5, 31}}, {3, {1, 0, 2}, {200, 100, 2}},
                 {2, {1, 0}, {1, 1}}, {2, {0, 1}, {0, 4}}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t count = 1;
        float *x, *y, *expected;

        for (int axis = 0; axis < cases[i].rank; axis++)
            count *= cases[i].shape[axis];
        x = normal("x", count);
        y = xcalloc((size_t)count, 4);
        expected = xcalloc((size_t)count, 4);
        device_cpu.permute(y, x, cases[i].rank, cases[i].shape, cases[i].axes);
        device_reference.permute(expected, x, cases[i].rank, cases[i].shape, cases[i].axes);
        assert_memory_equal(y, expected, (size_t)count * 4);
        free(x);
        free(y);
        free(expected);
    }
}

static void test_names(void)
{
    for (int i = 0; device_names[i]; i++)
        assert_string_equal(device_find(device_names[i])->name, device_names[i]);
    assert_null(device_find("abacus"));
}

CHECK_MAIN({"devices have names", test_names}, {"products with plain matrices", test_plain},
           {"products with packed matrices", test_packed_f32},
           {"products of rounded activations with packed matrices", test_packed_int8},
           {"products with trellis codes", test_trellis}, {"rows of trellis codes", test_gather_trellis},
           {"cores of all shapes are matrices", test_shapes}, {"several products of one input", test_several},
           {"rows are gathered exactly", test_gather}, {"limits of rounding to 8 bits", test_rounding_limits},
           {"gemm", test_gemm}, {"permute", test_permute})

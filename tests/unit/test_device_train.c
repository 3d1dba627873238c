/* test_device_train.c - products backwards: the definition against finite differences in double, the fast device
 * against the definition, with every set of kernels that this processor runs. */
#include "device_train.h"
#include "tensor/scales.h"
#include "tensor/trellis.h"

#include <stdio.h>

#define PACKED(b, g, z, s) \
    ((struct dtype){.kind = DTYPE_GROUP, .bits = b, .group = g, .zero = ZERO_##z, .scale_bits = s})

#define TRELLIS(b, s, state_bits) ((struct dtype){.kind = DTYPE_TRELLIS, .bits = b, .step = s, .state = state_bits})

static const struct dtype dtypes[] = {
    {.kind = DTYPE_F32}, {.kind = DTYPE_F16}, {.kind = DTYPE_BF16}, {.kind = DTYPE_F64}, PACKED(4, 32, MIN, 0),
    PACKED(2, 64, NONE, 0), PACKED(3, 32, INT, 0), PACKED(5, 7, MIN, 0), PACKED(8, GROUP_ROW, INT, 0),
    PACKED(6, 32, NONE, 6), PACKED(3, 16, MIN, 8), TRELLIS(2, 1, 12), TRELLIS(5, 2, 10), TRELLIS(4, 1, 16),
};

enum { N_DTYPE = sizeof dtypes / sizeof *dtypes, PAD = 3 };

static void fill_groups(struct tensor *tensor)
{
    struct dtype dtype = tensor->dtype;
    struct group_layout layout;

    assert_true(group_layout(dtype, 2, tensor->shape, &layout));
    for (int64_t i = 0; i < layout.rows; i++) {
        struct group_row row = group_row_new(&layout);

        for (int64_t j = 0; j < layout.length; j++)
            row.codes[j] = (unsigned char)((i * 7 + j * 5 + j / 3) % (1 << dtype.bits));
        for (int64_t g = 0; g < layout.groups; g++) {
            row.scale[g] = dtype.scale_bits ? (uint16_t)(3 + (i + g) % 50) : half_from_float(0.1f + 0.01f * (float)g);
            row.zero[g] = dtype.zero == ZERO_INT ? (uint16_t)(g % (1 << dtype.bits))
                        : dtype.scale_bits ? (uint16_t)(g % 30) : half_from_float(-0.1f * (float)g);
        }
        for (int64_t g = 0; g < layout.supers; g++) {
            row.scale_factor[g] = half_from_float(0.01f);
            row.minimum_factor[g] = half_from_float(-0.02f);
        }
        tensor_put_row(tensor, &layout, i, &row);
        group_row_free(&row);
    }
}

static void fill_trellis(struct tensor *tensor)
{
    struct trellis_layout l;

    assert_true(trellis_layout(tensor->dtype, 2, tensor->shape, &l));
    for (int64_t i = 0; i < l.codes; i++)
        tensor->data[i] = (unsigned char)(i * i * 31 + i * 77 + i / 5);
    for (int64_t i = 0; i < l.rows; i++)
        ((uint16_t *)(void *)(tensor->data + l.scale))[i] = half_from_float(0.1f + 0.01f * (float)(i % 13));
}

static struct tensor random_tensor(struct dtype dtype, int64_t rows, int64_t columns)
{
    struct tensor tensor = tensor_new(dtype, 2, (int64_t[]){rows, columns});
    float *values = normal("weights", rows * columns);

    if (dtype.kind == DTYPE_F64)
        for (int64_t i = 0; i < rows * columns; i++)
            ((double *)(void *)tensor.data)[i] = (double)values[i];
    else if (dtype.kind == DTYPE_GROUP)
        fill_groups(&tensor);
    else if (dtype.kind == DTYPE_TRELLIS)
        fill_trellis(&tensor);
    else
        tensor_set(&tensor, values);
    free(values);
    return tensor;
}

struct product_case {
    struct dtype dtype;
    int64_t n, rows, columns;
    const float *x, *dy;
    bool trained, add;
};

static struct placed *place_case(const struct device *device, const struct product_case *c)
{
    struct tensor tensor = random_tensor(c->dtype, c->rows, c->columns);
    struct placed *w = c->trained ? device->place_trained(&tensor) : device->place(&tensor, ACTIVATIONS_F32);

    for (int which = 0; which < NUMBERS && c->trained; which++) {
        int64_t count;
        float *numbers = device->numbers(w, (enum numbers)which, &count);

        for (int64_t i = 0; i < count; i += 3)               /* as a step does; the memory is the host's */
            numbers[i] *= 0.75f;
    }
    return w;
}

static void run_product(const struct device *device, void *context, float *y)
{
    const struct product_case *c = context;
    struct placed *w = place_case(device, c);

    device->multiply(&(struct product){w, y, c->rows + PAD, c->add}, 1, c->x, c->columns + PAD, c->n);
    device->displace(w);
}

static void run_back(const struct device *device, void *context, float *dx)
{
    const struct product_case *c = context;
    struct placed *w = place_case(device, c);

    device->multiply_back(w, c->dy, c->rows + PAD, dx, c->columns + PAD, c->add, c->n);
    device->displace(w);
}

/* All gradients one behind the other. */
static void run_gradient(const struct device *device, void *context, float *d)
{
    const struct product_case *c = context;
    struct placed *w = place_case(device, c);
    float *parts[NUMBERS] = {0};

    for (int which = 0; which < NUMBERS; which++) {
        int64_t count;

        if (device->numbers(w, (enum numbers)which, &count)) {
            parts[which] = d;
            d += count;
        }
    }
    device->multiply_gradient(w, parts, c->dy, c->rows + PAD, c->x, c->columns + PAD, c->n);
    device->displace(w);
}

static void check_products(struct dtype dtype, int64_t n, int64_t rows, int64_t columns)
{
    struct product_case c = {dtype, n, rows, columns, .add = (n + rows) % 2};
    float *x = normal("x", n * (columns + PAD)), *dy = normal("dy", n * (rows + PAD));
    float *y = normal("y", n * (rows + PAD)), *dx = normal("dx", n * (columns + PAD));
    float *d = normal("d", 2 * rows * columns), *w = xmallocarray((size_t)(rows * columns), sizeof *w);
    struct tensor tensor = random_tensor(dtype, rows, columns);
    int64_t count = rows * columns;
    char name[DTYPE_NAME], what[128];
    double size_w, size_x = norm(x, n, columns, columns + PAD), size_dy = norm(dy, n, rows, rows + PAD);

    tensor_get(&tensor, w);
    size_w = norm(w, 1, count, 0);
    c.x = x;
    c.dy = dy;
    if (dtype_is_packed(dtype)) {
        struct scaling s = scales_of(&tensor);

        count = s.rows * s.groups * (s.minima ? 2 : 1);
    }
    for (int trained = 0; trained < 2; trained++) {
        c.trained = trained;
        snprintf(what, sizeof what, "%s%s n %d rows %d columns %d", dtype_name(dtype, name), trained ? " trained" : "",
                 (int)n, (int)rows, (int)columns);
        check_all(run_back, &c, dx, n * (columns + PAD), 4 * (double)(rows + 8) * u * (size_dy * size_w + 1), what);
        if (trained)
            check_all(run_product, &c, y, n * (rows + PAD), 4 * (double)(columns + 8) * u * (size_x * size_w + 1),
                      what);
    }
    check_all(run_gradient, &c, d, count,
              (1 << dtype.bits) * (double)(n + 8 + columns) * u * (size_x * size_dy + 1), what);
    tensor_free(&tensor);
    free(x);
    free(dy);
    free(y);
    free(dx);
    free(d);
    free(w);
}

static void test_products(void)
{
    for (int t = 0; t < N_DTYPE; t++)
        for (int i = 1; i < N_SIZE; i++)
            if (!dtype_is_packed(dtypes[t]) || sizes[i] > 1)
                check_products(dtypes[t], tokens[i % N_TOKEN], sizes[(i * 7 + 3) % (N_SIZE - 1)], sizes[i]);
    for (int t = 0; t < N_DTYPE; t++)
        check_products(dtypes[t], 70, 592 + t % 2 * 8, 130); /* several bands and depths; whole strips of rows */
    check_products(DTYPE(F32), 1100, 1030, 65);              /* several slices */
}

/* sum of dy * (x W'), W = scale * unit + minimum, of the numbers [x, values] or [x, scales, minima]. */
struct linear {
    const struct product_case *c;
    const float *unit, *dy;
    int64_t group, groups;
    bool minima;
};

static double linear_value(const struct objective *objective, const double *at)
{
    const struct linear *l = objective->context;
    const struct product_case *c = l->c;
    const double *w = at + c->n * c->columns, *minimum = w + c->rows * l->groups;
    double sum = 0;

    for (int64_t i = 0; i < c->n; i++)
        for (int64_t r = 0; r < c->rows; r++)
            for (int64_t j = 0; j < c->columns; j++) {
                int64_t g = r * l->groups + (l->unit ? j / l->group : j);
                double value = l->unit ? w[g] * l->unit[r * c->columns + j] + (l->minima ? minimum[g] : 0) : w[g];

                sum += (double)l->dy[i * c->rows + r] * value * at[i * c->columns + j];
            }
    return sum;
}

static void difference_product(struct dtype dtype)
{
    struct product_case c = {dtype, 3, 5, 37, .trained = true};
    const struct device *device = &device_reference;
    struct placed *w = place_case(device, &c);
    struct tensor tensor = random_tensor(dtype, c.rows, c.columns);
    float *x = normal("x", c.n * c.columns), *dy = normal("dy", c.n * c.rows);
    float *at = xcalloc(1000, sizeof *at), *d = xcalloc(1000, sizeof *d), *parts[NUMBERS] = {0};
    int64_t total = c.n * c.columns, count;
    struct linear l = {&c, NULL, dy, 1, c.columns, dtype.zero == ZERO_MIN};
    float *unit = xmallocarray((size_t)(c.rows * c.columns), sizeof *unit);

    if (dtype_is_packed(dtype)) {
        struct scaling s = scales_of(&tensor);

        scales_get_units(&tensor, 0, c.rows, unit);
        l.unit = unit;
        l.group = s.group;
        l.groups = s.groups;
    }
    memcpy(at, x, (size_t)total * sizeof *x);
    for (int which = 0; which < NUMBERS; which++) {
        const float *numbers = device->numbers(w, (enum numbers)which, &count);

        if (numbers) {
            parts[which] = d + total;
            memcpy(at + total, numbers, (size_t)count * sizeof *at);
            total += count;
        }
    }
    device->multiply_back(w, dy, c.rows, d, c.columns, false, c.n);
    device->multiply_gradient(w, parts, dy, c.rows, x, c.columns, c.n);
    check_gradient((struct objective){linear_value, &l}, at, d, total, "product");
    device->displace(w);
    tensor_free(&tensor);
    free(x);
    free(dy);
    free(at);
    free(d);
    free(unit);
}

static void test_product_differences(void)
{
    for (int t = 0; t < N_DTYPE; t++)
        difference_product(dtypes[t]);
}

struct tile_case {
    int64_t n, rows, columns;
    const float *x, *other;
    float beta;
};

static void run_gemm_back(const struct device *device, void *context, float *x)
{
    const struct tile_case *c = context;

    device->gemm_back(c->x, c->rows + 1, c->other, c->columns + 2, c->beta, x, c->columns + 3, c->n, c->rows,
                      c->columns);
}

static void run_gemm_gradient(const struct device *device, void *context, float *w)
{
    const struct tile_case *c = context;

    device->gemm_gradient(w, c->columns + 3, c->x, c->rows + 1, c->other, c->columns + 2, c->n, c->rows, c->columns);
}

static void test_tiles(void)
{
    for (int i = 0; i < N_SIZE; i++) {
        struct tile_case c = {tokens[i % N_TOKEN], sizes[(i * 5 + 2) % (N_SIZE - 1)], sizes[i], .beta = i % 3 * 0.5f};
        int64_t most = (c.n > c.rows ? c.n : c.rows) * (c.columns + 3);
        float *x = normal("x", c.n * (c.rows + 1)), *other = normal("w", most), *y = normal("y", most);
        double bound = (double)(c.n + c.rows + 8) * u * (norm(x, c.n, c.rows, c.rows + 1) * norm(other, 1, most, 0));

        c.x = x;
        c.other = other;
        check_all(run_gemm_back, &c, y, c.n * (c.columns + 3), bound, "gemm_back");
        check_all(run_gemm_gradient, &c, y, c.rows * (c.columns + 3), bound, "gemm_gradient");
        free(x);
        free(other);
        free(y);
    }
}

CHECK_MAIN({"products backwards: the definition against differences", test_product_differences},
           {"products backwards, of all dtypes, trained or not", test_products},
           {"products of tiles backwards", test_tiles})

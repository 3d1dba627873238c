/* test_device_train.c - what training adds to the devices: the definition against finite differences in double, the
 * fast device against the definition, with every set of kernels that this processor runs. */
#include "device_train.h"

#include <stdio.h>

/* ---- products ---- */

#define PACKED(b, g, z, s) ((struct dtype){DTYPE_GROUP, b, g, ZERO_##z, s})

static const struct dtype dtypes[] = {
    {.kind = DTYPE_F32}, {.kind = DTYPE_F16}, {.kind = DTYPE_BF16}, {.kind = DTYPE_F64}, PACKED(4, 32, MIN, 0),
    PACKED(2, 64, NONE, 0), PACKED(3, 32, INT, 0), PACKED(5, 7, MIN, 0), PACKED(8, GROUP_ROW, INT, 0),
    PACKED(6, 32, NONE, 6), PACKED(3, 16, MIN, 8),
};

enum { N_DTYPE = sizeof dtypes / sizeof *dtypes, PAD = 3 };

static struct tensor random_tensor(struct dtype dtype, int64_t rows, int64_t columns)
{
    struct tensor tensor = tensor_new(dtype, 2, (int64_t[]){rows, columns});
    struct group_layout layout;
    float *values = normal("weights", rows * columns);

    if (dtype.kind == DTYPE_F64)
        for (int64_t i = 0; i < rows * columns; i++)
            ((double *)(void *)tensor.data)[i] = (double)values[i];
    else if (dtype.kind != DTYPE_GROUP)
        tensor_set(&tensor, values);
    else {
        assert_true(group_layout(dtype, 2, tensor.shape, &layout));
        for (int64_t i = 0; i < layout.rows; i++) {
            struct group_row row = group_row_new(&layout);

            for (int64_t j = 0; j < layout.length; j++)
                row.codes[j] = (unsigned char)((i * 7 + j * 5 + j / 3) % (1 << dtype.bits));
            for (int64_t g = 0; g < layout.groups; g++) {
                row.scale[g] = dtype.scale_bits ? (uint16_t)(3 + (i + g) % 50)
                                                : half_from_float(0.1f + 0.01f * (float)g);
                row.zero[g] = dtype.zero == ZERO_INT ? (uint16_t)(g % (1 << dtype.bits))
                            : dtype.scale_bits ? (uint16_t)(g % 30) : half_from_float(-0.1f * (float)g);
            }
            for (int64_t g = 0; g < layout.supers; g++) {
                row.scale_factor[g] = half_from_float(0.01f);
                row.minimum_factor[g] = half_from_float(-0.02f);
            }
            tensor_put_row(&tensor, &layout, i, &row);
            group_row_free(&row);
        }
    }
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

    return c->trained ? device->place_trained(&tensor) : device->place(&tensor, ACTIVATIONS_F32);
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
    struct group_layout layout;

    tensor_get(&tensor, w);
    size_w = norm(w, 1, count, 0);
    c.x = x;
    c.dy = dy;
    if (dtype.kind == DTYPE_GROUP && group_layout(dtype, 2, tensor.shape, &layout))
        count = layout.rows * layout.groups * (dtype.zero == ZERO_MIN ? 2 : 1);
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
            if (dtypes[t].kind != DTYPE_GROUP || sizes[i] > 1)
                check_products(dtypes[t], tokens[i % N_TOKEN], sizes[(i * 7 + 3) % (N_SIZE - 1)], sizes[i]);
    for (int t = 0; t < N_DTYPE; t++)
        check_products(dtypes[t], 70, 600, 130);             /* several bands and depths */
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
    struct group_layout layout;
    float *unit = xmallocarray((size_t)(c.rows * c.columns), sizeof *unit);

    if (dtype.kind == DTYPE_GROUP) {
        group_layout(dtype, 2, tensor.shape, &layout);
        group_get_units(&tensor, 0, c.rows, unit);
        l.unit = unit;
        l.group = layout.group;
        l.groups = layout.groups;
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

/* ---- rows ---- */

struct rows_case {
    int64_t n, d;
    const float *x, *dy, *weight;
    bool add;
};

static double norm_value(const struct objective *objective, const double *x)
{
    const struct rows_case *c = objective->context;
    const double *weight = x + c->n * c->d;
    double sum = 0;

    for (int64_t i = 0; i < c->n; i++) {
        double square = 0;

        for (int64_t j = 0; j < c->d; j++)
            square += x[i * c->d + j] * x[i * c->d + j];
        for (int64_t j = 0; j < c->d; j++)
            sum += (double)c->dy[i * c->d + j] * weight[j] * x[i * c->d + j] / sqrt(square / (double)c->d + 0.125);
    }
    return sum;
}

static void test_norm_differences(void)
{
    enum { N = 3, D = 7 };
    float *at = normal("x", (N + 1) * D), *dy = normal("dy", N * D), *d = xcalloc((N + 1) * D, sizeof *d);
    struct rows_case c = {N, D, .dy = dy};

    device_reference.rms_norm_back(d, false, d + N * D, dy, at, D, at + N * D, N, D, 0.125);
    check_gradient((struct objective){norm_value, &c}, at, d, (N + 1) * D, "rms_norm");
    device_reference.rms_norm_back(d, true, d + N * D, dy, at, D, at + N * D, N, D, 0.125);
    for (int i = 0; i < (N + 1) * D; i++)
        d[i] /= 2;
    check_gradient((struct objective){norm_value, &c}, at, d, (N + 1) * D, "rms_norm, added");
    free(at);
    free(dy);
    free(d);
}

/* y: dx, then the gradient of the weight. */
static void run_norm_back(const struct device *device, void *context, float *y)
{
    const struct rows_case *c = context;

    device->rms_norm_back(y, c->add, y + c->n * (c->d + 2), c->dy, c->x, c->d + 2, c->weight, c->n, c->d, 1e-5);
}

static void run_silu_back(const struct device *device, void *context, float *y)
{
    const struct rows_case *c = context;

    device->silu_multiply_back(y, y + c->n * c->d, c->dy, c->n * c->d);
}

static void run_adamw(const struct device *device, void *context, float *y)
{
    const struct rows_case *c = context;
    int64_t count = c->n * c->d;

    for (int64_t i = 0; i < count; i++)
        y[2 * count + i] = fabsf(y[2 * count + i]);
    device->adamw(y, c->dy, y + count, y + 2 * count,
                  &(struct adamw){0.01, 0.9, 0.95, 1e-8, 0.1, 0.7, 3}, count);
}

static void test_rows(void)
{
    for (int i = 0; i < N_SIZE; i++) {
        struct rows_case c = {tokens[i % N_TOKEN], sizes[i], .add = i % 2};
        int64_t count = c.n * (c.d + 2) + c.d;
        float *x = normal("x", count), *dy = normal("dy", count), *weight = normal("w", c.d);
        float *y = normal("y", 3 * count);
        double size = norm(y, 1, count, 0) + norm(dy, 1, count, 0);

        c.x = x;
        c.dy = dy;
        c.weight = weight;
        for (int64_t r = 0; r < c.n; r++)        /* a row near 0 would have a gradient as large as its norm is small */
            x[r * (c.d + 2)] += copysignf(1, x[r * (c.d + 2)]);
        check_all(run_norm_back, &c, y, count, 200 * u * size * sqrt((double)c.n), "rms_norm_back");
        check_all(run_silu_back, &c, y, 2 * c.n * c.d, 100 * u * size, "silu_multiply_back");
        check_all(run_adamw, &c, y, 3 * c.n * c.d, 100 * u * size, "adamw");
        CHECK_AT_MOST(fabs(device_cpu.sum_squares(x, count) / device_reference.sum_squares(x, count) - 1), 1e-12,
                      "sum of squares");
        free(x);
        free(dy);
        free(weight);
        free(y);
    }
}

static double silu_value(const struct objective *objective, const double *x)
{
    const struct rows_case *c = objective->context;
    double sum = 0;

    for (int64_t i = 0; i < c->n; i++)
        sum += (double)c->dy[i] * x[i] / (1 + exp(-x[i])) * x[c->n + i];
    return sum;
}

static void test_silu_differences(void)
{
    enum { N = 33 };
    float *at = normal("x", 2 * N), *dy = normal("dy", N), d[2 * N];
    struct rows_case c = {.n = N, .dy = dy};

    memcpy(d, at, sizeof d);
    device_reference.silu_multiply_back(d, d + N, dy, N);
    check_gradient((struct objective){silu_value, &c}, at, d, 2 * N, "silu_multiply");
    free(at);
    free(dy);
}

/* <rope(x), y> = <x, rope back (y)>, and the same for the Hadamard transform. */
static void test_turns(void)
{
    enum { N = 3, HEADS = 2, DIM = 16, WIDTH = HEADS * DIM };
    float *x = normal("x", N * WIDTH), *y = normal("y", N * WIDTH), *table = normal("table", 5 * DIM);
    float a[N * WIDTH], b[N * WIDTH], minus[5 * DIM / 2], sign[WIDTH];
    const float *sine = table + 5 * DIM / 2;
    static const int32_t position[N] = {4, 0, 3};
    double left = 0, right = 0;

    for (int i = 0; i < 5 * DIM / 2; i++)
        minus[i] = -sine[i];
    for (int i = 0; i < WIDTH; i++)
        sign[i] = i % 3 ? 1 : -1;
    memcpy(a, x, sizeof a);
    memcpy(b, y, sizeof b);
    device_reference.rope(a, WIDTH, N, HEADS, DIM, position, table, sine);
    device_reference.hadamard(a, WIDTH, a, WIDTH, sign, 8, false, N, WIDTH);
    device_reference.hadamard(b, WIDTH, b, WIDTH, sign, 8, true, N, WIDTH);
    device_reference.rope(b, WIDTH, N, HEADS, DIM, position, table, minus);
    for (int i = 0; i < N * WIDTH; i++) {
        left += (double)a[i] * (double)y[i];
        right += (double)x[i] * (double)b[i];
    }
    CHECK_AT_MOST(fabs(left - right), 1e-5, "turned");
    free(x);
    free(y);
    free(table);
}

/* ---- attention ---- */

/* Memory of one sequence, numbers [q, k, v]; gradients lie in the same way. */
struct sequence_case {
    struct attention a;
    const float *x, *dout;
    int64_t queries, keys;       /* floats of q, and of k */
};

static double attend_value(const struct objective *objective, const double *x)
{
    const struct sequence_case *c = objective->context;
    const struct attention *a = &c->a;
    const double *k = x + c->queries, *v = k + c->keys;
    double sum = 0;

    for (int64_t i = 0; i < a->n; i++)
        for (int64_t h = 0; h < a->n_head; h++) {
            int64_t column = h * a->head_dim, shared = h / (a->n_head / a->n_kv_head) * a->head_dim;
            double total = 0, part = 0;

            for (int64_t p = a->window && i + 1 > a->window ? i + 1 - a->window : 0; p <= i; p++) {
                double score = 0, value = 0;

                for (int64_t j = 0; j < a->head_dim; j++) {
                    score += x[i * a->q_stride + column + j] * k[p * a->kv_stride + shared + j];
                    value += (double)c->dout[i * a->out_stride + column + j] * v[p * a->kv_stride + shared + j];
                }
                total += exp(score * (double)a->scale);
                part += exp(score * (double)a->scale) * value;
            }
            sum += part / total;
        }
    return sum;
}

static void run_attend_back(const struct device *device, void *context, float *d)
{
    const struct sequence_case *c = context;
    struct attention a[2] = {c->a, c->a};
    struct attention_back back[2];
    int64_t total = c->queries + 2 * c->keys;
    float *out = xcalloc((size_t)(2 * c->queries), sizeof *out);
    float *lse = xcalloc((size_t)(2 * a->n * a->n_head), sizeof *lse);

    a[1].n = a->n / 2 + 1;       /* a second one, shorter */
    for (int i = 0; i < 2; i++) {
        a[i].q = c->x;
        a[i].k = c->x + c->queries;
        a[i].v = a[i].k + c->keys;
        a[i].out = out + i * c->queries;
        a[i].lse = lse + i * a->n * a->n_head;
        device->attend(&a[i]);
        back[i] = (struct attention_back){&a[i], c->dout, d + i * total, d + i * total + c->queries,
                                          d + i * total + c->queries + c->keys};
    }
    device->attend_back(back, 2);
    free(out);
    free(lse);
}

static void check_attend(struct attention a, bool differences)
{
    struct sequence_case c = {.a = a};
    float *x, *dout, *d;
    int64_t total;

    c.a.q_stride = c.a.out_stride = a.n_head * a.head_dim + 1;
    c.a.kv_stride = a.n_kv_head * a.head_dim + 2;
    c.a.scale = 1 / sqrtf((float)a.head_dim);
    c.queries = a.n * c.a.q_stride;
    c.keys = a.n * c.a.kv_stride;
    total = c.queries + 2 * c.keys;
    c.x = x = normal("x", total);
    c.dout = dout = normal("dout", c.queries);
    d = xcalloc((size_t)(2 * total), sizeof *d);
    if (differences) {
        run_attend_back(&device_reference, &c, d);
        check_gradient((struct objective){attend_value, &c}, x, d, total, "attention");
    }
    memset(d, 0, (size_t)(2 * total) * sizeof *d);
    check_all(run_attend_back, &c, d, 2 * total, 300 * u * sqrt((double)total), "attend_back");
    free(x);
    free(dout);
    free(d);
}

static void test_attend(void)
{
    static const int64_t dims[] = {1, 3, 8, 16, 24, 64, 80, 128};

    check_attend((struct attention){.n = 7, .n_head = 6, .n_kv_head = 2, .head_dim = 3}, true);
    check_attend((struct attention){.n = 9, .n_head = 2, .n_kv_head = 2, .head_dim = 5, .window = 4}, true);
    for (int i = 0; i < 8; i++)
        check_attend((struct attention){.n = tokens[i + 2], .n_head = 6, .n_kv_head = i % 2 ? 2 : 6,
                                        .head_dim = dims[i], .window = i % 3 == 1 ? 5 : 0}, false);
    check_attend((struct attention){.n = 300, .n_head = 9, .n_kv_head = 3, .head_dim = 64, .window = 100}, false);
    check_attend((struct attention){.n = 130, .n_head = 60, .n_kv_head = 1, .head_dim = 8}, false);
}

/* ---- losses ---- */

struct loss_case {
    int64_t n, d;
    struct loss_rows rows;
    double *cost;
};

static double loss_value(const struct objective *objective, const double *x)
{
    const struct loss_case *c = objective->context;
    const struct loss_rows *r = &c->rows;
    double sum = 0;

    for (int64_t i = 0; i < c->n; i++, x += c->d) {
        double lse = 0;

        for (int64_t j = 0; j < c->d; j++)
            lse += exp(x[j]);
        lse = log(lse);
        sum += (double)r->cross[i] * (lse - x[r->target[i]]);
        for (int64_t j = 0; j < c->d; j++) {
            double left = (double)r->teacher[i * c->d + j] - r->teacher_lse[i];

            sum += (double)r->distill[i] * exp(left) * (left - x[j] + lse);
        }
    }
    return 0.25 * sum;
}

static void run_loss(const struct device *device, void *context, float *x)
{
    const struct loss_case *c = context;

    device->loss(x, &c->rows, 0.25f, c->n, c->d, c->cost);
}

static void check_loss(int64_t d, bool differences)
{
    enum { N = 5 };
    static const int32_t target[N] = {0, 0, 0, 0, -1};
    static const float cross[N] = {1, 0, 0.25f, 0, 0}, distill[N] = {0, 1, 0.75f, 0, 1};
    double lse[N], teacher_lse[N], cost[2 * N], sum = 0, total = 0;
    int32_t last[N];
    struct loss_case c = {N, d, {last, cross, distill, lse, NULL, teacher_lse}, cost};
    float *x = normal("x", N * d), *teacher = normal("t", N * d), *gradient = normal("x", N * d);

    for (int i = 0; i < N; i++)
        last[i] = target[i] < 0 && !differences ? -1 : (int32_t)((d - 1) / (i + 1));
    c.rows.teacher = teacher;
    device_reference.log_sum_exp(x, N, d, lse, NULL);
    device_reference.log_sum_exp(teacher, N, d, teacher_lse, NULL);
    if (differences) {
        run_loss(&device_reference, &c, gradient);
        check_gradient((struct objective){loss_value, &c}, x, gradient, N * d, "loss");
        for (int i = 0; i < N; i++)
            total += (double)cross[i] * cost[i] + (double)distill[i] * cost[N + i];
        memcpy(gradient, x, (size_t)(N * d) * sizeof *x);
        sum = 0;
        {
            double *at = doubles(x, N * d);

            sum = loss_value(&(struct objective){loss_value, &c}, at);
            free(at);
        }
        CHECK_AT_MOST(fabs(0.25 * total - sum), 1e-6, "value of a loss");
    }
    check_all(run_loss, &c, x, N * d, 20 * u, "loss");
    run_loss(&device_reference, &c, gradient);
    total = 0;
    for (int i = 0; i < N; i++)
        total += (double)cross[i] * cost[i] + (double)distill[i] * cost[N + i];
    memcpy(gradient, x, (size_t)(N * d) * sizeof *x);
    run_loss(&device_cpu, &c, gradient);
    for (int i = 0; i < N; i++)
        total -= (double)cross[i] * cost[i] + (double)distill[i] * cost[N + i];
    CHECK_AT_MOST(fabs(total), 1e-6, "values of losses");
    free(x);
    free(teacher);
    free(gradient);
}

static void test_losses(void)
{
    check_loss(7, true);
    check_loss(33, true);
    for (int i = 1; i < N_SIZE; i++)
        check_loss(sizes[i], false);
    check_loss(49152, false);
}

CHECK_MAIN({"products backwards: the definition against differences", test_product_differences},
           {"products backwards, of all dtypes, trained or not", test_products},
           {"products of tiles backwards", test_tiles},
           {"rms_norm backwards: the definition against differences", test_norm_differences},
           {"silu backwards: the definition against differences", test_silu_differences},
           {"rows backwards, AdamW, sums of squares", test_rows}, {"rope and hadamard backwards", test_turns},
           {"attention backwards", test_attend}, {"losses", test_losses})

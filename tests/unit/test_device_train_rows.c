/* test_device_train_rows.c - operations on rows, attention and losses backwards, and AdamW: the definition against
 * finite differences in double, the fast device against the definition, with every set of kernels that this processor
 * runs. */
#include "device_train.h"

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

/* The first step moves each number by the rate against the sign of its gradient, whatever its size; decay apart. */
static void test_adamw(void)
{
    float x[] = {1, 1, 1}, dx[] = {3e-3f, -200, 0}, mean[3] = {0}, square[3] = {0};
    struct adamw step = {.rate = 0.125, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-12, .factor = 0.5, .step = 1};

    device_reference.adamw(x, dx, mean, square, &step, 3);
    CHECK_AT_MOST(fabs(x[0] - 0.875) + fabs(x[1] - 1.125) + fabs(x[2] - 1.0), 1e-6, "the first step");
    CHECK_AT_MOST(fabs((double)mean[1] / -10 - 1) + fabs((double)square[1] / 500 - 1), 1e-6, "the moments");
    step.decay = 2;
    step.step = 2;
    dx[0] = dx[1] = dx[2] = 0;
    device_reference.adamw(x, dx, mean, square, &step, 3);
    CHECK_AT_MOST(fabs(x[2] - 0.75), 1e-6, "decay");
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
    enum { N = 3, HEADS = 2, DIM = 16, WIDTH = HEADS * DIM, MIX = 4 };
    float *x = normal("x", N * WIDTH), *y = normal("y", N * WIDTH), *table = normal("table", 5 * DIM);
    float a[N * WIDTH], b[N * WIDTH], minus[5 * DIM / 2], sign[WIDTH], hartley[MIX * MIX];
    const float *sine = table + 5 * DIM / 2;
    static const int32_t position[N] = {4, 0, 3};
    const struct hadamard turn = {WIDTH / MIX, MIX, sign, hartley};
    double left = 0, right = 0;

    for (int i = 0; i < 5 * DIM / 2; i++)
        minus[i] = -sine[i];
    for (int i = 0; i < WIDTH; i++)
        sign[i] = i % 3 ? 1 : -1;
    for (int i = 0; i < MIX * MIX; i++) {
        double angle = 2 * M_PI * (i / MIX * (i % MIX)) / MIX;

        hartley[i] = (float)((cos(angle) + sin(angle)) / sqrt(MIX));
    }
    memcpy(a, x, sizeof a);
    memcpy(b, y, sizeof b);
    device_reference.rope(a, WIDTH, N, HEADS, DIM, position, table, sine);
    device_reference.hadamard(a, WIDTH, a, WIDTH, &turn, false, N, WIDTH);
    device_reference.hadamard(b, WIDTH, b, WIDTH, &turn, true, N, WIDTH);
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
        double lse = exp(x[0]);

        for (int64_t j = 1; j < c->d; j++)
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
    double lse[N], teacher_lse[N], cost[2 * N], total = 0, *at;
    int32_t last[N];
    struct loss_case c = {N, d, {.target = last, .cross = cross, .distill = distill, .lse = lse,
                                 .teacher_lse = teacher_lse}, cost};
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
        at = doubles(x, N * d);
        CHECK_AT_MOST(fabs(0.25 * total - loss_value(&(struct objective){loss_value, &c}, at)), 1e-6,
                      "value of a loss");
        free(at);
        memcpy(gradient, x, (size_t)(N * d) * sizeof *x);
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

/* ---- deviations of states ---- */

struct deviation_case {
    int64_t n, d;
    bool add;
    const float *x, *y, *weight;
    double *cost;
};

static double deviation_value(const struct objective *objective, const double *x)
{
    const struct deviation_case *c = objective->context;
    double sum = 0;

    for (int64_t i = 0; i < c->n; i++) {
        double apart = 0, size = 0;

        for (int64_t j = 0; j < c->d; j++) {
            double y = (double)c->y[i * c->d + j];

            apart += (x[i * c->d + j] - y) * (x[i * c->d + j] - y);
            size += y * y;
        }
        sum += (double)c->weight[i] * apart / size;
    }
    return sum;
}

static void run_deviation(const struct device *device, void *context, float *dx)
{
    const struct deviation_case *c = context;

    device->deviation(dx, c->add, c->x, c->y, c->weight, c->n, c->d, c->cost);
}

/* Row 3 isn't counted, so its numbers may be anything. */
static void check_deviation(int64_t d, bool differences)
{
    enum { N = 5 };
    static const float weight[N] = {1, 0.5f, -2, 0, 3};
    float *x = normal("x", N * d), *y = normal("y", N * d), *start = normal("dx", N * d), *dx = normal("dx", N * d);
    double cost[N], expected[N];
    struct deviation_case c = {N, d, d % 2, x, y, weight, cost};
    struct objective objective = {deviation_value, &c};

    for (int64_t i = 0; i < N; i++)              /* not near 0 */
        y[i * d] += copysignf(1, y[i * d]);
    if (differences) {
        c.add = false;
        run_deviation(&device_reference, &c, dx);
        check_gradient(objective, x, dx, N * d, "deviation");
        c.add = true;
        run_deviation(&device_reference, &c, dx);
        for (int64_t j = 0; j < N * d; j++)
            dx[j] /= 2;
        check_gradient(objective, x, dx, N * d, "deviation, added");
    }
    for (int64_t j = 0; j < d; j++)
        x[3 * d + j] = y[3 * d + j] = NAN;
    check_all(run_deviation, &c, start, N * d, 100 * u * (norm(x, 3, d, d) + norm(start, N, d, d) + 1), "deviation");
    c.cost = expected;
    run_deviation(&device_reference, &c, dx);
    assert_true(expected[3] == 0 && cost[3] == 0);
    for (int i = 0; i < N; i++)
        CHECK_AT_MOST(fabs(cost[i] - expected[i]), 1e-12 * (1 + expected[i]), "cost of a row");
    free(x);
    free(y);
    free(start);
    free(dx);
}

static void test_deviations(void)
{
    check_deviation(7, true);
    check_deviation(33, true);
    for (int i = 0; i < N_SIZE; i++)
        check_deviation(sizes[i], false);
}

CHECK_MAIN({"rms_norm backwards: the definition against differences", test_norm_differences},
           {"silu backwards: the definition against differences", test_silu_differences},
           {"rows backwards, AdamW, sums of squares", test_rows}, {"AdamW, step by step", test_adamw},
           {"rope and hadamard backwards", test_turns}, {"attention backwards", test_attend}, {"losses", test_losses},
           {"deviations of states", test_deviations})

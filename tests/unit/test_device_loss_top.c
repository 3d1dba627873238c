/* test_device_loss_top.c - the loss against a teacher of which only the most likely ids are known: the definition
 * against finite differences in double, the fast device against the definition, and both against the loss of a teacher
 * that is known whole. */
#include "device_train.h"

enum { N = 5 };

struct top_case {
    int64_t d;
    struct loss_rows rows;
    struct loss_top top;
    float *teacher;              /* [N, d] */
    double lse[N], teacher_lse[N], cost[2 * N];
};

static const int32_t target[N] = {0, 0, 0, 0, -1};
static const float cross[N] = {1, 0, 0.25f, 0, 0}, distill[N] = {0, 1, 0.75f, 0, 1};

/* Ids that are spread over the row, both ends among them where there are two; the rest of the teacher's row. */
static void make_case(struct top_case *c, int64_t d, int64_t k, const float *x)
{
    int32_t *id = xmallocarray((size_t)(N * k), sizeof *id);
    float *log_p = xmallocarray((size_t)(N * k), sizeof *log_p), *rest = xmallocarray(N, sizeof *rest);

    *c = (struct top_case){.d = d, .teacher = normal("t", N * d), .top = {k, id, log_p, rest}};
    device_reference.log_sum_exp(x, N, d, c->lse, NULL);
    device_reference.log_sum_exp(c->teacher, N, d, c->teacher_lse, NULL);
    for (int64_t i = 0; i < N; i++) {
        double others = k < d;

        for (int64_t j = 0; j < k; j++) {
            id[i * k + j] = (int32_t)(k > 1 ? j * (d - 1) / (k - 1) : (i * 3) % d);
            log_p[i * k + j] = (float)((double)c->teacher[i * d + id[i * k + j]] - c->teacher_lse[i]);
            others -= k < d ? exp((double)log_p[i * k + j]) : 0;
        }
        rest[i] = (float)fmax(others, 0);
    }
    c->rows = (struct loss_rows){.target = target, .cross = cross, .distill = distill, .lse = c->lse, .top = &c->top};
}

static void free_case(struct top_case *c)
{
    free(c->teacher);
    free((void *)c->top.id);
    free((void *)c->top.log_p);
    free((void *)c->top.rest);
}

static void run_loss(const struct device *device, void *context, float *x)
{
    struct top_case *c = context;

    device->loss(x, &c->rows, 0.25f, N, c->d, c->cost);
}

static double total(const struct top_case *c)
{
    double sum = 0;

    for (int i = 0; i < N; i++)
        sum += (double)cross[i] * c->cost[i] + (double)distill[i] * c->cost[N + i];
    return sum;
}

/* By the formula alone: the softmax of the row, its sum over those that are not in the list. */
static double top_value(const struct objective *objective, const double *x)
{
    const struct top_case *c = objective->context;
    double sum = 0;

    for (int64_t i = 0; i < N; i++, x += c->d) {
        const int32_t *id = c->top.id + i * c->top.k;
        double all = 0, others = 0;

        for (int64_t j = 0; j < c->d; j++)
            all += exp(x[j]);
        others = all;
        for (int64_t j = 0; j < c->top.k; j++) {
            double left = (double)c->top.log_p[i * c->top.k + j];

            others -= exp(x[id[j]]);
            sum += (double)distill[i] * exp(left) * (left - x[id[j]] + log(all));
        }
        if (c->top.rest[i] > 0)
            sum += (double)(distill[i] * c->top.rest[i]) * log((double)c->top.rest[i] / (others / all));
        sum += cross[i] > 0 ? (double)cross[i] * (log(all) - x[target[i]]) : 0;
    }
    return 0.25 * sum;
}

static void test_differences(void)
{
    static const int64_t shapes[][2] = {{7, 1}, {7, 3}, {7, 6}, {7, 7}, {33, 5}, {33, 33}, {2, 1}, {1, 1}};

    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t d = shapes[s][0];
        float *x = normal("x", N * d), *gradient = normal("x", N * d);
        double *at = doubles(x, N * d);
        struct top_case c;

        make_case(&c, d, shapes[s][1], x);
        run_loss(&device_reference, &c, gradient);
        CHECK_AT_MOST(fabs(0.25 * total(&c) - top_value(&(struct objective){top_value, &c}, at)), 1e-6, "value");
        if (d > 2)
            check_gradient((struct objective){top_value, &c}, x, gradient, N * d, "loss of a top");
        free_case(&c);
        free(x);
        free(gradient);
        free(at);
    }
}

static void check_fast(int64_t d, int64_t k)
{
    float *x = normal("x", N * d), *gradient = normal("x", N * d);
    struct top_case c;
    double expected;

    make_case(&c, d, k, x);
    check_all(run_loss, &c, x, N * d, 20 * u, "loss of a top");
    run_loss(&device_reference, &c, gradient);
    expected = total(&c);
    memcpy(gradient, x, (size_t)(N * d) * sizeof *x);
    run_loss(&device_cpu, &c, gradient);
    CHECK_AT_MOST(fabs(total(&c) - expected), 1e-6, "values");
    free_case(&c);
    free(x);
    free(gradient);
}

static void test_fast(void)
{
    for (int i = 0; i < N_SIZE; i++)
        for (int64_t k = 1; k < 2 * sizes[i]; k *= 3)
            check_fast(sizes[i], k < sizes[i] ? k : sizes[i]);
    check_fast(49152, 64);
}

/* All ids: the loss of a teacher that is known whole. */
static void test_whole(void)
{
    const struct device *const devices[] = {&device_reference, &device_cpu};

    for (int i = 0; i < N_SIZE; i++)
        for (int which = 0; which < 2; which++) {
            int64_t count = N * sizes[i];
            float *x = normal("x", count), *whole = normal("x", count);
            struct top_case c;
            double sum;

            make_case(&c, sizes[i], sizes[i], x);
            run_loss(devices[which], &c, x);
            sum = total(&c);
            c.rows.top = NULL;
            c.rows.teacher = c.teacher;
            c.rows.teacher_lse = c.teacher_lse;
            run_loss(devices[which], &c, whole);
            CHECK_AT_MOST(fabs(sum - total(&c)), 1e-6, "value of the whole");
            CHECK_AT_MOST(distance(x, whole, count), 20 * u, "gradient of the whole");
            free_case(&c);
            free(x);
            free(whole);
        }
}

/* What the others have together can be too small for a float's exponent without a loss or gradient that isn't one. */
static void test_far(void)
{
    const struct device *const devices[] = {&device_reference, &device_cpu};
    const int32_t id = 0;
    const float log_p = logf(0.75f), rest = 0.25f, one = 1, none = 0;
    const struct loss_top top = {1, &id, &log_p, &rest};

    for (int which = 0; which < 2; which++) {
        float x[3] = {900, 0, 0};
        double lse = 900, cost[2];
        struct loss_rows rows = {.target = target, .cross = &none, .distill = &one, .lse = &lse, .top = &top};

        devices[which]->loss(x, &rows, 1, 1, 3, cost);
        CHECK_AT_MOST(fabs(cost[1] - (0.75 * log(0.75) + 0.25 * (log(0.25) + 900 - log(2)))), 1e-3, "cost");
        CHECK_AT_MOST(fabs((double)x[0] - 0.25) + fabs((double)x[1] + 0.125) + fabs((double)x[2] + 0.125), 1e-6,
                      "gradient");
    }
}

CHECK_MAIN({"the definition against differences", test_differences}, {"the fast device", test_fast},
           {"all ids are a whole teacher", test_whole}, {"others that are far away", test_far})

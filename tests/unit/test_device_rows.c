/* test_device_rows.c - operations on rows and attention on the fast device against the definition, with every set of
 * kernels that this processor runs. */
#include "device_check.h"

struct rows {
    int64_t n, d;
    const float *other;
    const int32_t *position;
};

static void run_rms_norm(const struct device *device, void *context, float *y)
{
    const struct rows *r = context;

    device->rms_norm(y, y, r->d + 2, r->other, r->n, r->d, 1e-5);
}

static void run_rope(const struct device *device, void *context, float *y)
{
    const struct rows *r = context;

    device->rope(y, r->d * 3 + 1, r->n, 3, r->d, r->position, r->other, r->other + 5);
}

static void run_silu(const struct device *device, void *context, float *y)
{
    const struct rows *r = context;

    device->silu_multiply(y, r->other, r->n * r->d);
}

static void run_sums(const struct device *device, void *context, float *y)
{
    const struct rows *r = context;

    device->add_scaled(y, r->other, 0.3f, r->n * r->d);
    device->scale(y, -1.7f, r->n * r->d);
    device->add_bias(y, r->d, r->other, r->n, r->d);
    device->copy(y, r->d, y + r->n * r->d, r->d + 1, r->n, r->d / 2);
}

/* Each number goes through a few roundings: some u of its own size; rope's sums of two, of the pair's. */
static void test_rows(void)
{
    for (int i = 0; i < N_SIZE; i++) {
        int32_t position[600];
        struct rows r = {tokens[i % N_TOKEN], sizes[i], NULL, position};
        int64_t count = r.n * (3 * r.d + 2);
        float *y = normal("y", 2 * count), *other = normal("other", count + 64 * r.d);
        double size = norm(y, 1, count, 0);

        for (int j = 0; j < 600; j++)
            position[j] = (j * 37 + 5) % 64;
        r.other = other;
        check_all(run_rms_norm, &r, y, r.n * (r.d + 2), 100 * u * size, "rms_norm");
        check_all(run_silu, &r, y, r.n * r.d, 100 * u * size, "silu");
        check_all(run_sums, &r, y, 2 * count, 100 * u * size, "sums");
        if (r.d % 2 == 0)
            check_all(run_rope, &r, y, r.n * (3 * r.d + 1), 100 * u * size, "rope");
        free(y);
        free(other);
    }
}

struct turning {
    struct hadamard turn;
    const float *x;              /* NULL: in place */
    int64_t n, d;
    bool inverse;
};

static void run_hadamard(const struct device *device, void *context, float *y)
{
    const struct turning *h = context;
    int64_t stride = h->d + 3;

    device->hadamard(y, stride, h->x ? h->x : y, h->x ? h->d : stride, &h->turn, h->inverse, h->n, h->d);
}

static float *signs(int64_t n)
{
    float *sign = normal("sign", n);

    for (int64_t j = 0; j < n; j++)
        sign[j] = sign[j] < 0 ? -1 : 1;
    return sign;
}

/* Every number is a sum of block others, in log(block) steps, and of mix of these. */
static void test_hadamard(void)
{
    for (int64_t block = 1; block <= 1024; block *= 2)
        for (int blocks = 1; blocks <= 5; blocks += 2)
            for (int variant = 0; variant < 4; variant++) {
                struct turning h = {.n = tokens[(variant + blocks) % 8], .d = block * blocks, .inverse = variant % 2};
                float *sign = signs(h.d), *x = normal("x", h.n * h.d), *y = normal("y", h.n * (h.d + 3));

                h.turn = (struct hadamard){.block = block, .mix = 1, .sign = sign};
                h.x = variant / 2 ? x : NULL;
                check_all(run_hadamard, &h, y, h.n * (h.d + 3), 20 * u * norm(y, 1, h.n * (h.d + 3), 0), "hadamard");
                free(sign);
                free(x);
                free(y);
            }
}

/* Any matrix mixes the blocks. */
static void test_mix(void)
{
    static const int64_t mixes[] = {2, 3, 5, 9, 43, 130};

    for (int64_t block = 1; block <= 64; block *= 2)
        for (int i = 0; i < 24; i++) {
            int64_t mix = mixes[i % 6];
            struct turning h = {.n = tokens[i % 8], .d = block * mix * (1 + i % 3), .inverse = i % 2};
            float *sign = signs(h.d), *matrix = normal("mix", mix * mix), *y = normal("y", h.n * (h.d + 3));

            h.turn = (struct hadamard){.block = block, .mix = mix, .sign = sign, .hartley = matrix};
            check_all(run_hadamard, &h, y, h.n * (h.d + 3),
                      (20 + (double)mix) * u * norm(matrix, 1, mix * mix, 0) * norm(y, 1, h.n * (h.d + 3), 0), "mixed");
            free(sign);
            free(matrix);
            free(y);
        }
}

/* Filters turn weights with it: the same bytes on any processor. */
static void test_hadamard_bytes(void)
{
    for (int64_t block = 1; block <= 1024; block *= 2)
        for (int64_t mix = 1; block * mix <= 1024; mix += mix < 4 ? 1 : 3) {
            int64_t d = 1024 / (block * mix) * block * mix;
            float *sign = signs(d), *x = normal("x", d), *matrix = normal("mix", mix * mix), first[1024], y[1024];
            struct hadamard turn = {block, mix, sign, matrix};

            kernels_portable.hadamard(first, x, &turn, mix % 2, d);
            for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++) {
                (*kernels)->hadamard(y, x, &turn, mix % 2, d);
                assert_memory_equal(y, first, (size_t)d * sizeof *y);
            }
            free(sign);
            free(x);
            free(matrix);
        }
}

static void test_silu_limits(void)
{
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++) {
        float gate[] = {-1000, -100, -88.5f, 88.5f, 1000, 0, NAN}, up[] = {1, 1, 1, 1, 1, 1, 1};

        (*kernels)->silu_multiply(gate, up, 7);
        for (int i = 0; i < 3; i++)
            assert_true(gate[i] <= 0 && gate[i] > -1e-35f);
        assert_true(gate[3] == 88.5f && gate[4] == 1000 && gate[5] == 0 && isnan(gate[6]));
    }
}

static void run_attend(const struct device *device, void *context, float *y)
{
    struct attention a = *(struct attention *)context;

    a.out = y;
    device->attend(&a);
}

/* Weights sum to 1, so out is bounded by v; each is exact to some u times the largest score, here below 30. */
static void check_attend(struct attention a)
{
    int64_t lines = a.own + a.past + a.n;
    float *q, *k, *v, *y;

    a.q_stride = a.out_stride = a.n_head * a.head_dim + 1;
    a.kv_stride = a.n_kv_head * a.head_dim + 2;
    a.scale = 1 / sqrtf((float)a.head_dim);
    q = normal("q", a.n * a.q_stride);
    k = normal("k", lines * a.kv_stride);
    v = normal("v", lines * a.kv_stride);
    y = normal("y", a.n * a.out_stride);
    a.q = q;
    a.k = k;
    a.v = v;
    check_all(run_attend, &a, y, a.n * a.out_stride, 100 * u * sqrt((double)(a.n * a.out_stride)), "attention");
    free(q);
    free(k);
    free(v);
    free(y);
}

static void test_attend(void)
{
    static const int64_t dims[] = {1, 3, 8, 16, 24, 64, 80, 128};

    for (int i = 0; i < 8; i++)
        for (int j = 0; j < N_TOKEN - 1; j++)
            check_attend((struct attention){.n = tokens[j], .past = i * 7 % 5 * j, .n_head = 6,
                                            .n_kv_head = i % 2 ? 2 : 6, .head_dim = dims[i],
                                            .window = j % 3 == 1 ? 5 : 0});
    check_attend((struct attention){.n = 1, .past = 1999, .n_head = 9, .n_kv_head = 3, .head_dim = 64});
    check_attend((struct attention){.n = 2, .past = 1500, .shared = 600, .own = 900, .n_head = 4, .n_kv_head = 1,
                                    .head_dim = 16});
    check_attend((struct attention){.n = 3, .past = 1500, .window = 700, .n_head = 2, .n_kv_head = 2, .head_dim = 32});
    check_attend((struct attention){.n = 300, .past = 0, .window = 40, .n_head = 2, .n_kv_head = 1, .head_dim = 32});
    check_attend((struct attention){.n = 130, .past = 70, .shared = 33, .own = 50, .n_head = 60, .n_kv_head = 1,
                                    .head_dim = 8});
    check_attend((struct attention){.n = 20, .past = 40, .shared = 50, .own = 90, .n_head = 2, .n_kv_head = 2,
                                    .head_dim = 8});
}

/* Relative to the sum, not its logarithm. */
static void test_log_sum_exp(void)
{
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++)
        for (int i = 0; i <= N_SIZE; i++) {
            int64_t n = 3, d = i < N_SIZE ? sizes[i] : 49152;
            float *x = normal("logits", n * d);
            double lse[3], expected[3];
            int32_t most[3], best[3];

            cpu_kernels_set(*kernels);
            for (int64_t j = 0; j < d; j++)
                x[j] *= 8;
            x[d - 1] = x[d / 2] = 40;            /* the first of equals */
            device_cpu.log_sum_exp(x, n, d, lse, most);
            device_reference.log_sum_exp(x, n, d, expected, best);
            for (int r = 0; r < n; r++) {
                assert_int_equal(most[r], best[r]);
                CHECK_AT_MOST(fabs(lse[r] - expected[r]), 1e-7, "log_sum_exp");
            }
            x[d / 5] = -INFINITY;
            device_cpu.log_sum_exp(x, 1, d, lse, NULL);
            device_reference.log_sum_exp(x, 1, d, expected, NULL);
            assert_true(lse[0] == expected[0] || fabs(lse[0] - expected[0]) < 1e-7);
            x[d / 3] = NAN;
            x[2 * d - 1] = INFINITY;
            for (int64_t j = 2 * d; j < 3 * d; j++)
                x[j] = -INFINITY;
            device_cpu.log_sum_exp(x, n, d, lse, NULL);
            device_cpu.log_sum_exp(x, n, d, NULL, most);
            assert_true(isnan(lse[0]) && most[0] == -1);
            assert_true(lse[1] == (double)INFINITY && most[1] == d - 1);
            assert_true(lse[2] == -(double)INFINITY && most[2] == 0);
            free(x);
        }
    cpu_kernels_set(NULL);
}

/* Against sums of |p log(p / q)| of order 1. */
static void test_divergence(void)
{
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++)
        for (int i = 0; i <= N_SIZE; i++) {
            int64_t n = 2, d = i < N_SIZE ? sizes[i] : 49152;
            float *p = normal("p", n * d), *q = normal("q", n * d);
            double p_lse[2], q_lse[2], kl[2], expected[2];

            cpu_kernels_set(*kernels);
            for (int64_t j = 0; j < n * d; j++) {
                p[j] = 6 * p[j];
                q[j] = p[j] + 0.1f * q[j];
            }
            p[0] = q[0] = -INFINITY;
            if (d > 1) {
                device_reference.log_sum_exp(p, n, d, p_lse, NULL);
                device_reference.log_sum_exp(q, n, d, q_lse, NULL);
                device_cpu.divergence(p, p_lse, q, q_lse, n, d, kl);
                device_reference.divergence(p, p_lse, q, q_lse, n, d, expected);
                for (int r = 0; r < n; r++)
                    CHECK_AT_MOST(fabs(kl[r] - expected[r]), 3e-8, "divergence");
            }
            free(p);
            free(q);
        }
    cpu_kernels_set(NULL);
}

/* exp within 2e-7 from where it is normal to where it overflows. */
static void test_exponentials(void)
{
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++)
        for (float x = -87; x < 88.7f; x += 0.0131f) {
            float value = x;

            (*kernels)->exponentials(&value, 1, 0);
            CHECK_AT_MOST(fabs((double)value / exp((double)x) - 1), 2e-7, "exp");
        }
}

CHECK_MAIN({"operations on rows", test_rows}, {"the fast Hadamard transform", test_hadamard},
           {"and its blocks mixed", test_mix},
           {"the fast Hadamard transform has the same bytes with all kernels", test_hadamard_bytes},
           {"limits of silu", test_silu_limits}, {"attention", test_attend},
           {"log_sum_exp", test_log_sum_exp}, {"divergence", test_divergence}, {"exponentials", test_exponentials})

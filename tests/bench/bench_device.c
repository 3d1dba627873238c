/* bench_device.c - what the CPU device reaches: products against OpenBLAS on the same threads, bandwidth of products
 * with one token, low rank against dense, attention, and the rest of a pass.
 *
 * bench_device [THREADS] one line per case, medians; under a minute
 *
 * OpenBLAS is called through linalg_gemm(), which spreads single-threaded calls over the threads. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "compute/device_cpu.h"
#include "compute/linalg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPEATS = 15, TOKENS = 512 };

struct shape {
    const char *name;
    int64_t rows, columns;
};

static const struct shape smollm2[] = {{"q", 576, 576}, {"k", 192, 576}, {"v", 192, 576}, {"o", 576, 576},
                                       {"gate", 1536, 576}, {"up", 1536, 576}, {"down", 576, 1536},
                                       {"head", 49152, 576}};
static const struct shape granite[] = {{"granite q", 4096, 4096}, {"granite k", 1024, 4096}};

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Median seconds, after one call that isn't counted; fewer repeats where one takes long. */
static double seconds(void (*run)(void *), void *context)
{
    double times[REPEATS], start = clock_seconds();
    int count = 0;

    run(context);
    for (double begin = clock_seconds(); count < REPEATS && (count < 3 || begin - start < 1.5); count++) {
        begin = clock_seconds();
        run(context);
        times[count] = clock_seconds() - begin;
    }
    qsort(times, (size_t)count, sizeof *times, ascending);
    return times[count / 2];
}

static struct placed *random_matrix(struct dtype dtype, int64_t rows, int64_t columns, enum activations activations)
{
    struct tensor tensor = tensor_new(dtype, 2, (int64_t[]){rows, columns});

    if (dtype.kind == DTYPE_GROUP) {
        struct group_layout layout;

        group_layout(dtype, 2, tensor.shape, &layout);
        for (int64_t i = 0; i < tensor.bytes; i++)
            tensor.data[i] = (unsigned char)(i * 37 + i / 7);
        for (int64_t i = layout.scale / 2; i < tensor.bytes / 2; i++)
            ((uint16_t *)(void *)tensor.data)[i] = half_from_float(0.01f);
    } else {
        float *values = xaligned((size_t)(rows * columns), sizeof *values);

        random_normal(random_named(1, "bench"), 0, rows * columns, values);
        tensor_set(&tensor, values);
        free(values);
    }
    // cppcheck-suppress returnDanglingLifetime ; the tensor moves into what is placed
    return device_cpu.place(&tensor, activations);
}

struct pass {
    struct product products[8];
    int count;
    const float *x;
    float *y;
    int64_t n;
    const float *w;              /* OpenBLAS's */
};

static void run_multiply(void *context)
{
    struct pass *p = context;

    for (int i = 0; i < p->count; i++)
        device_cpu.multiply(p->products + i, 1, p->x, p->products[i].w->columns, p->n);
}

static void run_openblas(void *context)
{
    struct pass *p = context;
    const struct placed *w = p->products->w;

    linalg_gemm(1, matrix_of(p->x, p->n, w->columns), matrix_turn(matrix_of(p->w, w->rows, w->columns)), 0,
                matrix_of(p->y, p->n, w->rows));
}

static void bench_shape(const struct shape *shape, const float *x, float *y)
{
    static const char *const names[] = {"f32", "bf16", "q4-32-none", "q4-32-min", "q8-32-none"};
    double work = 2.0 * (double)shape->rows * (double)shape->columns * TOKENS, blas;
    struct pass p = {.count = 1, .x = x, .y = y, .n = TOKENS};

    p.products[0] = (struct product){random_matrix(DTYPE(F32), shape->rows, shape->columns, 0), y, shape->rows, false};
    p.w = (const float *)(const void *)((const struct cpu_matrix *)p.products->w)->tensor.data;
    blas = seconds(run_openblas, &p);
    printf("%-12s %5d x %5d  OpenBLAS %6.1f GF/s", shape->name, (int)shape->rows, (int)shape->columns,
           work / blas / 1e9);
    for (int i = 0; i < 5; i++) {
        struct dtype dtype;
        double time;

        dtype_parse(names[i], &dtype);
        device_cpu.displace((struct placed *)p.products->w);
        p.products->w = random_matrix(dtype, shape->rows, shape->columns, i < 2 ? ACTIVATIONS_F32 : ACTIVATIONS_INT8);
        time = seconds(run_multiply, &p);
        printf("  %s%s %6.1f (%.2f)", names[i], i < 2 ? "" : "/int8", work / time / 1e9, blas / time);
        fflush(stdout);
    }
    device_cpu.displace((struct placed *)p.products->w);
    printf("\n");
}

/* One token through all matrices of SmolLM2, each layer's its own memory. */
struct token {
    struct placed *w[31][8];
    const float *x;
    float *y;
};

static void run_token(void *context)
{
    struct token *t = context;
    float *y = t->y;

    for (int layer = 0; layer < 30; layer++) {
        struct placed **w = t->w[layer];
        struct product qkv[3] = {{w[0], y, 576, false}, {w[1], y + 576, 192, false}, {w[2], y + 768, 192, false}};
        struct product gate_up[2] = {{w[4], y, 1536, false}, {w[5], y + 1536, 1536, false}};

        device_cpu.multiply(qkv, 3, t->x, 576, 1);
        device_cpu.multiply(&(struct product){w[3], y, 576, false}, 1, t->x, 576, 1);
        device_cpu.multiply(gate_up, 2, t->x, 576, 1);
        device_cpu.multiply(&(struct product){w[6], y, 576, false}, 1, t->x, 1536, 1);
    }
    device_cpu.multiply(&(struct product){t->w[30][7], y, 49152, false}, 1, t->x, 576, 1);
}

static void bench_token(const char *name, enum activations activations, const float *x, float *y)
{
    struct token token = {.x = x, .y = y};
    struct dtype dtype;
    double bytes = 0, time;

    dtype_parse(name, &dtype);
    for (int layer = 0; layer < 31; layer++)
        for (int i = layer < 30 ? 0 : 7; i < (layer < 30 ? 7 : 8); i++) {
            token.w[layer][i] = random_matrix(dtype, smollm2[i].rows, smollm2[i].columns, activations);
            bytes += (double)token.w[layer][i]->bytes;
        }
    time = seconds(run_token, &token);
    printf("one token, %-12s %-4s %8.1f us  %6.1f tokens/s  %5.1f GB/s\n", name,
           activations ? "int8" : "f32", time * 1e6, 1 / time, bytes / time / 1e9);
    for (int layer = 0; layer < 31; layer++)
        for (int i = 0; i < 8; i++)
            device_cpu.displace(token.w[layer][i]);
}

struct low_rank {
    struct placed *dense, *right, *left;
    const float *x;
    float *middle, *y;
};

static void run_dense(void *context)
{
    struct low_rank *l = context;

    device_cpu.multiply(&(struct product){l->dense, l->y, l->dense->rows, false}, 1, l->x, l->dense->columns, TOKENS);
}

static void run_low_rank(void *context)
{
    struct low_rank *l = context;

    struct product right = {l->right, l->middle, l->right->rows, false}, left = {l->left, l->y, l->left->rows, false};

    device_cpu.multiply(&right, 1, l->x, l->right->columns, TOKENS);
    device_cpu.multiply(&left, 1, l->middle, l->right->rows, TOKENS);
}

static void bench_low_rank(const struct shape *shape, const float *x, float *y)
{
    int64_t chi = shape->rows * shape->columns / (shape->rows + shape->columns) / 2;
    struct low_rank l = {random_matrix(DTYPE(F32), shape->rows, shape->columns, 0),
                         random_matrix(DTYPE(F32), chi, shape->columns, 0),
                         random_matrix(DTYPE(F32), shape->rows, chi, 0), x,
                         device_cpu.allocate((size_t)(TOKENS * chi) * sizeof(float)), y};
    double dense = seconds(run_dense, &l), low = seconds(run_low_rank, &l);

    printf("low rank %-12s chi %4d  %6.2f ms, dense %6.2f ms: %.2f times as fast at half the work\n", shape->name,
           (int)chi, low * 1e3, dense * 1e3, dense / low);
    device_cpu.displace(l.dense);
    device_cpu.displace(l.left);
    device_cpu.displace(l.right);
    device_cpu.release(l.middle);
}

static void run_attend(void *context)
{
    device_cpu.attend(context);
}

static void bench_attend(int64_t n, int64_t past, const float *x, float *y)
{
    struct attention a = {.n = n, .past = past, .n_head = 9, .n_kv_head = 3, .head_dim = 64, .scale = 0.125f, .q = x,
                          .k = x, .v = x + 192, .out = y, .q_stride = 576, .kv_stride = 384, .out_stride = 576};
    double time = seconds(run_attend, &a);
    double work = 4.0 * 576 * (double)n * ((double)past + (double)(n + 1) / 2);

    printf("attention of %4d queries after %4d: %9.1f us, %6.1f GF/s of what is seen\n", (int)n, (int)past, time * 1e6,
           work / time / 1e9);
}

static void run_log_sum_exp(void *context)
{
    double lse[64];
    int32_t most[64];

    device_cpu.log_sum_exp(context, 64, 49152, lse, most);
}

static void run_divergence(void *context)
{
    static const double lse[64];
    double kl[64];

    device_cpu.divergence(context, lse, context, lse, 64, 49152, kl);
}

static void run_silu(void *context)
{
    device_cpu.silu_multiply(context, (float *)context + TOKENS * 1536, TOKENS * 1536);
}

int main(int argc, char **argv)
{
    int64_t floats = TOKENS * 49152;
    float *x = xaligned((size_t)floats, sizeof *x), *y = xaligned((size_t)floats, sizeof *y);

    parallel_set(argc > 1 ? atoi(argv[1]) : 0);
    random_normal(random_named(1, "x"), 0, floats, x);
    memset(y, 0, (size_t)floats * sizeof *y);
    printf("kernels %s, %d threads, %d tokens (in parentheses: times OpenBLAS)\n", cpu_kernels()->name,
           parallel_threads(), TOKENS);
    for (int i = 0; i < 8; i++)
        if (i != 2 && i != 3 && i != 5)
            bench_shape(smollm2 + i, x, y);
    bench_shape(granite, x, y);
    bench_shape(granite + 1, x, y);
    bench_token("q4-32-none", ACTIVATIONS_INT8, x, y);
    bench_token("q4-32-none", ACTIVATIONS_F32, x, y);
    bench_token("q4-32-min", ACTIVATIONS_INT8, x, y);
    bench_token("q3-64-int", ACTIVATIONS_INT8, x, y);
    bench_token("q3-64-min", ACTIVATIONS_INT8, x, y);
    bench_token("q3-64-min-s6", ACTIVATIONS_INT8, x, y);
    bench_token("q3-64-min-s6", ACTIVATIONS_F32, x, y);
    bench_token("q8-32-none", ACTIVATIONS_INT8, x, y);
    bench_token("q8-32-none", ACTIVATIONS_F32, x, y);
    bench_token("bf16", ACTIVATIONS_F32, x, y);
    bench_token("f32", ACTIVATIONS_F32, x, y);
    for (int i = 0; i < 7; i += 2)
        bench_low_rank(smollm2 + i, x, y);
    bench_low_rank(smollm2 + 4, x, y);
    bench_low_rank(granite, x, y);
    bench_attend(TOKENS, 0, x, y);
    bench_attend(4096, 0, x, y);
    bench_attend(1, 511, x, y);
    bench_attend(1, 4095, x, y);
    printf("log_sum_exp of 64 x 49152: %.1f us\n", seconds(run_log_sum_exp, x) * 1e6);
    printf("divergence of 64 x 49152: %.1f us\n", seconds(run_divergence, x) * 1e6);
    memset(y, 0, (size_t)floats * sizeof *y);
    printf("silu of 512 x 1536: %.1f us\n", seconds(run_silu, y) * 1e6);
    free(x);
    free(y);
    return 0;
}

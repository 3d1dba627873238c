/* bench_trellis.c - products with trellis-coded matrices: one column against the 4-bit groups, 512 against dense f32.
 *
 * bench_trellis [THREADS] one line per case, medians of runs that take turns; under a minute */
#include "base/clock.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "compute/device_cpu.h"
#include "tensor/trellis.h"

#include <stdio.h>
#include <stdlib.h>

enum { REPEATS = 31, TOKENS = 512 };

static const struct shape {
    const char *name;
    int64_t rows, columns;
} shapes[] = {{"smollm2 gate", 1536, 576}, {"granite q", 4096, 4096}, {"granite gate", 12800, 4096}};

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

/* Any bytes are codes; all scales are 0.01. */
static void fill_packed(struct tensor *tensor)
{
    struct group_layout group;
    struct trellis_layout trellis;
    int64_t scale;

    if (tensor->dtype.kind == DTYPE_GROUP) {
        group_layout(tensor->dtype, 2, tensor->shape, &group);
        scale = group.scale;
    } else {
        trellis_layout(tensor->dtype, 2, tensor->shape, &trellis);
        scale = trellis.scale;
    }
    for (int64_t i = 0; i < tensor->bytes; i++)
        tensor->data[i] = (unsigned char)(i * 37 + i / 7);
    for (int64_t i = scale / 2; i < tensor->bytes / 2; i++)
        ((uint16_t *)(void *)tensor->data)[i] = half_from_float(0.01f);
}

static struct placed *random_matrix(const char *name, const struct shape *shape, enum activations activations)
{
    struct dtype dtype;
    struct tensor tensor;

    dtype_parse(name, &dtype);
    tensor = tensor_new(dtype, 2, (int64_t[]){shape->rows, shape->columns});
    if (dtype_is_packed(dtype))
        fill_packed(&tensor);
    else
        random_normal(random_named(1, "bench"), 0, shape->rows * shape->columns, (float *)(void *)tensor.data);
    // cppcheck-suppress returnDanglingLifetime ; the tensor moves into what is placed
    return device_cpu.place(&tensor, activations);
}

static double once(struct product *product, const float *x, int64_t n)
{
    double start = clock_seconds();

    device_cpu.multiply(product, 1, x, product->w->columns, n);
    return clock_seconds() - start;
}

/* Median seconds of a and of b, which take turns, after one run of each that isn't counted. */
static void compare(struct product *a, struct product *b, const float *x, int64_t n, double seconds[2])
{
    double times[2][REPEATS], begin = clock_seconds();
    int count = 0;

    once(a, x, n);
    once(b, x, n);
    for (; count < REPEATS && (count < 5 || clock_seconds() - begin < 4); count++) {
        times[0][count] = once(a, x, n);
        times[1][count] = once(b, x, n);
    }
    for (int i = 0; i < 2; i++) {
        qsort(times[i], (size_t)count, sizeof **times, ascending);
        seconds[i] = times[i][count / 2];
    }
}

static void bench(const struct shape *shape, const char *format, const char *against, enum activations activations,
                  int64_t n, const float *x, float *y)
{
    struct product a = {random_matrix(format, shape, activations), y, shape->rows, false};
    struct product b = {random_matrix(against, shape, activations), y, shape->rows, false};
    double weights = (double)shape->rows * (double)shape->columns, seconds[2];

    compare(&a, &b, x, n, seconds);
    printf("%-12s %5lld x %lld, %3lld columns, %s: %-7s %7.3f ns/weight, %s %7.3f, ratio %.2f\n", shape->name,
           (long long)shape->rows, (long long)shape->columns, (long long)n, activations ? "int8" : "f32 ", format,
           seconds[0] / weights * 1e9, against, seconds[1] / weights * 1e9, seconds[0] / seconds[1]);
    fflush(stdout);
    device_cpu.displace((struct placed *)(uintptr_t)a.w);
    device_cpu.displace((struct placed *)(uintptr_t)b.w);
}

int main(int argc, char **argv)
{
    static const char *const formats[] = {"t2-12", "t3-12", "t2.5-12", "t4-12"};
    float *x = xaligned(TOKENS * 4096, sizeof *x), *y = xaligned(TOKENS * 12800, sizeof *y);

    parallel_set(argc > 1 ? atoi(argv[1]) : 0);
    random_normal(random_named(1, "x"), 0, TOKENS * 4096, x);
    printf("%s, %d threads\n", cpu_kernels()->name, parallel_threads());
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int activations = 0; activations < 2; activations++)
            for (int f = 0; f < 4; f++)
                bench(&shapes[s], formats[f], "q4-64-min", (enum activations)activations, 1, x, y);
    for (size_t s = 0; s < 2; s++)
        for (int activations = 0; activations < 2; activations++)
            for (int f = 0; f < 4; f += 3)
                bench(&shapes[s], formats[f], "f32", (enum activations)activations, TOKENS, x, y);
    free(x);
    free(y);
    return 0;
}

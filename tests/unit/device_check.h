/* device_check.h - the fast device beside the definition, for the tests of devices. */
#ifndef DEVICE_CHECK_H
#define DEVICE_CHECK_H

#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "check.h"
#include "compute/device_cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double u __attribute__((unused)) = 0x1p-24;
static const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 193, 255, 1023};
static const int64_t tokens[] = {1, 2, 3, 4, 7, 8, 9, 16, 17, 64, 65, 512};
enum { N_SIZE = sizeof sizes / sizeof *sizes, N_TOKEN = sizeof tokens / sizeof *tokens };

static float *normal(const char *name, int64_t count)
{
    float *x = xaligned((size_t)(count + 3) / 4 * 4, sizeof *x);

    random_normal(random_named(1, name), 0, (count + 3) / 4 * 4, x);
    return x;
}

__attribute__((unused)) static double norm(const float *x, int64_t n, int64_t d, int64_t stride)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            sum += (double)x[i * stride + j] * (double)x[i * stride + j];
    return sqrt(sum);
}

static double distance(const float *x, const float *y, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sqrt(sum);
}

/* The same computation on the fast device with all kernels and 1, 2, 3 threads: near the expected result, and the same
 * bytes for any number of threads. start: what y holds before. */
__attribute__((unused)) static void check_all(void (*run)(const struct device *, void *, float *), void *context,
                                              const float *start, int64_t count, double bound, const char *what)
{
    float *expected = xmallocarray((size_t)count, sizeof *expected), *y = xmallocarray((size_t)count, sizeof *y);
    float *first = xmallocarray((size_t)count, sizeof *first);
    size_t bytes = (size_t)count * sizeof *y;

    memcpy(expected, start, bytes);
    run(&device_reference, context, expected);
    for (const struct kernels *const *kernels = kernels_all(); *kernels; kernels++) {
        cpu_kernels_set(*kernels);
        for (int threads = 1; threads <= 3; threads++) {
            parallel_set(threads);
            memcpy(y, start, bytes);
            run(&device_cpu, context, y);
            if (threads == 1)
                memcpy(first, y, bytes);
            else if (memcmp(y, first, bytes))
                fail_msg("%s, %s: other bytes with %d threads", what, (*kernels)->name, threads);
        }
        if (!(distance(y, expected, count) <= bound))
            fail_msg("%s, %s: off by %g, allowed %g", what, (*kernels)->name, distance(y, expected, count), bound);
    }
    parallel_set(0);
    cpu_kernels_set(NULL);
    free(expected);
    free(first);
    free(y);
}

#endif

/* bench_apply.c - times the seven linear layers of a SmolLM2-135M block as low rank and as balanced MPOs against dense.
 *
 *     bench_apply [N [REPEATS]]     N columns (512), medians of REPEATS (9) runs, f32
 *
 * All kinds take turns, so that a slow moment of the machine meets all of them. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "operator/apply.h"

#include <stdio.h>
#include <stdlib.h>

static const struct layer {
    const char *name;
    int64_t out[2], in[2];       /* factors of a balanced MPO */
} layers[] = {
    {"q", {24, 24}, {24, 24}},    {"k", {12, 16}, {24, 24}},  {"v", {12, 16}, {24, 24}},    {"o", {24, 24}, {24, 24}},
    {"gate", {48, 32}, {24, 24}}, {"up", {48, 32}, {24, 24}}, {"down", {24, 24}, {48, 32}},
};

enum { N_LAYER = sizeof layers / sizeof *layers, KINDS = 5, MOST_REPEATS = 99 };
enum { DENSE, LOW_RANK, MPO };

static const struct kind {
    const char *name;
    int form;
    int64_t chi;
} kinds[KINDS] = {{"dense", DENSE, 0}, {"low rank, half the multiply-adds", LOW_RANK, 0}, {"MPO, chi 16", MPO, 16},
                  {"MPO, chi 64", MPO, 64}, {"MPO, chi 100", MPO, 100}};

static struct tensor core(int64_t left, int64_t out, int64_t in, int64_t right)
{
    struct tensor tensor = tensor_new(DTYPE(F32), 4, (int64_t[]){left, out, in, right});

    random_normal(random_named(1, "core"), 0, tensor_count(&tensor), (void *)tensor.data);
    return tensor;
}

static struct operator make(const struct layer *layer, const struct kind *kind)
{
    int64_t out = layer->out[0] * layer->out[1], in = layer->in[0] * layer->in[1], chi = out * in / 2 / (out + in);
    struct tensor cores[2];

    if (kind->form == DENSE) {
        cores[0] = core(1, out, in, 1);
        return operator_from_cores(layer->name, 1, cores);
    }
    if (kind->form == LOW_RANK) {
        cores[0] = core(1, out, 1, chi);
        cores[1] = core(chi, 1, in, 1);
    } else {
        cores[0] = core(1, layer->out[0], layer->in[0], kind->chi);
        cores[1] = core(kind->chi, layer->out[1], layer->in[1], 1);
    }
    return operator_from_cores(layer->name, 2, cores);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return values[count / 2];
}

static void run(struct applied *const *w, const float *x, float *y, int64_t n)
{
    for (int l = 0; l < N_LAYER; l++)
        apply(&(struct application){w[l], y, apply_out(w[l]), false}, 1, x, apply_in(w[l]), n);
}

int main(int argc, char **argv)
{
    const struct device *device = &device_cpu;
    int64_t n = argc > 1 ? atoll(argv[1]) : 512;
    int repeats = argc > 2 ? atoi(argv[2]) : 9;
    struct applied *w[KINDS][N_LAYER];
    double seconds[KINDS][MOST_REPEATS], work[KINDS] = {0}, dense = 0;
    float *x = xaligned((size_t)n * 1536, sizeof *x), *dx = device->allocate((size_t)n * 1536 * sizeof *dx);
    float *y = device->allocate((size_t)n * 1536 * sizeof *y);

    repeats = repeats < 1 ? 1 : repeats < MOST_REPEATS ? repeats : MOST_REPEATS;
    random_normal(random_named(2, "x"), 0, n * 1536, x);
    device->upload(dx, x, (size_t)n * 1536 * sizeof *x);
    for (int k = 0; k < KINDS; k++)
        for (int l = 0; l < N_LAYER; l++) {
            struct operator op = make(&layers[l], &kinds[k]);

            w[k][l] = apply_place(device, &op, ACTIVATIONS_F32);
            work[k] += (double)apply_work(w[k][l], n);
        }
    for (int r = -1; r < repeats; r++)                   /* the first one only warms up */
        for (int k = 0; k < KINDS; k++) {
            double start = clock_seconds();

            run(w[k], dx, y, n);
            seconds[k][r < 0 ? 0 : r] = clock_seconds() - start;
        }
    for (int k = 0; k < KINDS; k++) {
        double m = median(seconds[k], repeats);

        dense = k ? dense : m;
        printf("%-34s %8.2f ms  %5.2f x dense  multiply-adds %5.2f of dense's  %5.1f GFLOP/s\n", kinds[k].name, 1e3 * m,
               dense / m, work[k] / work[0], 2 * work[k] * (double)n / m / 1e9);
        for (int l = 0; l < N_LAYER; l++)
            apply_free(w[k][l]);
    }
    device->release(dx);
    device->release(y);
    free(x);
    return 0;
}

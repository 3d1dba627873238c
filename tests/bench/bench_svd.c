/* bench_svd.c - times mpo_fit() at two sites against six products with W, and its captured energy against the
 * optimum.
 *
 *     bench_svd [REPEATS [CASE]]        one line per case and spectrum
 *     bench_svd write FILE CASE SPECTRUM     writes the (regrouped) test matrix as raw f32 for svd_peers.py
 *     bench_svd any                     the time that choosing among shapes takes, beside one fit
 *     bench_svd optimum                 recomputes the optima of the noise matrices (minutes)
 *
 * Power laws are diagonals between two orthogonal transforms (rounds of 45 degree rotations of random pairs), so
 * their optima are known; those of the noise are eigenvalues of Gram matrices, kept in the table. The six products
 * are threaded OpenBLAS's, the only use of CBLAS outside of linalg.c. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/random.h"
#include "compute/linalg.h"
#include "fit/mpo.h"
#include "fit/reorder.h"
#include "operator/difference.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHI = 100, EXTRA = 16, ROUNDS = 18, N_CASE = 4, N_SPECTRUM = 4 };

static const struct bench_case {
    int64_t out, in;
    const char *shape;
    double optimum;              /* energy of the noise's first CHI singular values over out * in */
} cases[N_CASE] = {
    {12800, 4096, "12800x1,1x4096", 0.056356018},
    {12800, 4096, "20x256,640x16", 0.053569983},
    {4096, 4096, "4096x1,1x4096", 0.089201087},
    {4096, 4096, "64x64,64x64", 0.089201087},
};

static const double exponents[N_SPECTRUM] = {0.3, 0.5, 0.8, 0};      /* 0: white noise */

static double base;             /* resident memory at the start */

/* A line of /proc/self/status, in bytes. */
static double memory(const char *key)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;

    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key)))
            kilobytes = atof(line + strlen(key) + 1);
    if (file)
        fclose(file);
    return 1024 * kilobytes;
}

static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");

    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

/* A random order of 0..count-1; the caller frees. */
static int *shuffled(int count, struct random random)
{
    int *order = xmallocarray((size_t)count, sizeof *order);

    for (int i = 0; i < count; i++) {
        uint32_t word[4];
        int j;

        random_block(random, (uint64_t)i, word);
        j = (int)(word[0] % (uint32_t)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

struct mix {
    float *a;
    int64_t m, n;
    int *order[ROUNDS];          /* pairs of rows or columns */
    int round;
};

static void turn(float *x, float *y)
{
    float sum = (*x + *y) * 0.70710678118654752f, difference = (*x - *y) * 0.70710678118654752f;

    *x = sum;
    *y = difference;
}

static void mix_columns(void *context, int64_t row, int thread)
{
    const struct mix *mix = context;
    float *a = mix->a + row * mix->n;

    (void)thread;
    for (int round = 0; round < ROUNDS; round++)
        for (int64_t j = 0; j + 1 < mix->n; j += 2)
            turn(a + mix->order[round][j], a + mix->order[round][j + 1]);
}

static void mix_rows(void *context, int64_t pair, int thread)
{
    const struct mix *mix = context;
    const int *order = mix->order[mix->round];
    float *x = mix->a + order[2 * pair] * mix->n, *y = mix->a + order[2 * pair + 1] * mix->n;

    (void)thread;
    for (int64_t j = 0; j < mix->n; j++)
        turn(x + j, y + j);
}

static void make_power(float *a, int64_t m, int64_t n, double exponent)
{
    struct mix mix = {.a = a, .m = m, .n = n};

    memset(a, 0, (size_t)(m * n) * sizeof *a);
    for (int64_t k = 0; k < m && k < n; k++)
        a[k * n + k] = (float)pow((double)(k + 1), -exponent);
    for (int round = 0; round < ROUNDS; round++)
        mix.order[round] = shuffled((int)n, (struct random){1, (uint64_t)round});
    parallel_for(m, mix_columns, &mix);
    for (mix.round = 0; mix.round < ROUNDS; mix.round++) {
        free(mix.order[mix.round]);
        mix.order[mix.round] = shuffled((int)m, (struct random){2, (uint64_t)mix.round});
        parallel_for(m / 2, mix_rows, &mix);
        free(mix.order[mix.round]);
    }
}

/* The matrix in site order [o1 i1, o2 i2]. */
static void make_grouped(float *a, const struct mpo_shape *shape, double exponent)
{
    int64_t m = shape->out[0] * shape->in[0], n = shape->out[1] * shape->in[1];

    if (exponent > 0)
        make_power(a, m, n, exponent);
    else
        random_normal((struct random){1, 1}, 0, m * n, a);
}

static double optimum(const struct bench_case *c, double exponent)
{
    double sum = 0;

    if (!(exponent > 0))
        return c->optimum * (double)c->out * (double)c->in;
    for (int k = 1; k <= CHI; k++)
        sum += pow(k, -2 * exponent);
    return sum;
}

static double time_products(const float *a, int64_t m, int64_t n)
{
    int64_t columns = CHI + EXTRA;
    float *x = xcalloc((size_t)(n * columns), sizeof *x), *y = xcalloc((size_t)(m * columns), sizeof *y);
    double start;

    openblas_set_num_threads(2);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 64, (int)columns, (int)n, 1, a, (int)n, x, (int)columns, 0,
                y, (int)columns);
    start = clock_seconds();
    for (int i = 0; i < 6; i++)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)columns, (int)n, 1, a, (int)n, x,
                    (int)columns, 0, y, (int)columns);
    start = clock_seconds() - start;
    openblas_set_num_threads(1);
    free(x);
    free(y);
    return start;
}

/* |W|^2 - |W - W'|^2, from the cores as they came out, which move. */
static double captured(const float *w, struct mpo *mpo)
{
    struct operator op = operator_from_cores("bench", mpo->shape.n_site, mpo->core);
    struct difference difference = operator_difference_from(w, &op);

    operator_free(&op);
    return difference.norm - difference.squares;
}

static int run(const struct bench_case *c, double exponent, int repeats)
{
    double best = INFINITY, products = INFINITY, peak = 0, energy = 0, bytes;
    float *w = xaligned((size_t)(c->out * c->in), sizeof *w);
    struct mpo_budget budget = {.limit = MPO_CHI, .chi = CHI};
    struct mpo_shape shape, back;
    char label[16] = "noise";

    shape_parse(c->shape, &shape);
    bytes = (double)(c->out * c->in) * sizeof *w;
    back = (struct mpo_shape){2, {shape.out[0], shape.in[0]}, {shape.out[1], shape.in[1]}};
    for (int i = 0; i < repeats; i++) {
        struct mpo mpo;
        double start, time;

        make_grouped(w, &shape, exponent);
        time = time_products(w, shape.out[0] * shape.in[0], shape.out[1] * shape.in[1]);
        products = time < products ? time : products;
        reorder_sites(w, &back);
        reset_peak();
        start = clock_seconds();
        if (mpo_fit(w, "bench", &shape, &budget, &mpo))
            return EX_SOFTWARE;
        time = clock_seconds() - start;
        peak = fmax(peak, (memory("VmHWM") - base) / bytes);
        best = time < best ? time : best;
        energy = captured(w, &mpo);
        mpo_free(&mpo);
    }
    if (exponent > 0)
        snprintf(label, sizeof label, "k^-%.1f", exponent);
    printf("%5lldx%-5lld %-15s %-6s %.3f s, six products %.3f s, ratio %.2f; energy %.4f of the optimum; peak %.2f W\n",
           (long long)c->out, (long long)c->in, c->shape,
           label, best, products, best / products, energy / optimum(c, exponent), peak);
    fflush(stdout);
    free(w);
    return EX_OK;
}

static int time_any(void)
{
    size_t count = (size_t)(cases[0].out * cases[0].in);
    float *w = xaligned(count, sizeof *w);
    struct mpo_budget budget = {.limit = MPO_CHI, .chi = CHI};

    for (int j = 0; j < N_SPECTRUM; j++) {
        char text[SHAPE_TEXT];
        struct mpo_shape shape;
        struct mpo one, any;
        double start = clock_seconds(), time;

        shape_parse(cases[0].shape, &shape);
        make_grouped(w, &shape, exponents[j]);
        start = clock_seconds();
        if (mpo_fit(w, "bench", &shape, &budget, &one))
            return EX_SOFTWARE;
        time = clock_seconds() - start;
        start = clock_seconds();
        if (mpo_fit_any(w, cases[0].out, cases[0].in, "bench", 2, &budget, &any))
            return EX_SOFTWARE;
        start = clock_seconds() - start;
        printf("%5lldx%-5lld k^-%.1f: one shape %.3f s, error %.4f; %d shapes %.3f s, %.2f times, error %.4f by %s\n",
               (long long)cases[0].out, (long long)cases[0].in, exponents[j], time, mpo_error(&one), any.tried, start,
               start / time, mpo_error(&any), shape_print(&any.shape, text));
        fflush(stdout);
        mpo_free(&one);
        mpo_free(&any);
    }
    free(w);
    return EX_OK;
}

static int find_optima(void)
{
    for (int i = 0; i < N_CASE; i++) {
        struct mpo_shape shape;
        int64_t m, n, side;
        float *a;
        double *g, *values, sum = 0;

        shape_parse(cases[i].shape, &shape);
        m = shape.out[0] * shape.in[0];
        n = shape.out[1] * shape.in[1];
        side = m < n ? m : n;
        a = xaligned((size_t)(m * n), sizeof *a);
        g = xaligned((size_t)(side * side), sizeof *g);
        values = xmallocarray((size_t)side, sizeof *values);
        make_grouped(a, &shape, 0);
        linalg_gram(m <= n ? matrix_of(a, m, n) : matrix_turn(matrix_of(a, m, n)), g);
        free(a);
        if (linalg_eigh(side, g, values))
            return EX_SOFTWARE;
        for (int k = 0; k < CHI; k++)
            sum += values[k];
        printf("%lldx%lld %s: %.9f\n", (long long)m, (long long)n, cases[i].shape, sum / (double)(m * n));
        fflush(stdout);
        free(g);
        free(values);
    }
    return EX_OK;
}

static int write_matrix(const char *path, int which, double exponent)
{
    FILE *file = fopen(path, "wb");
    struct mpo_shape shape;
    size_t count = (size_t)(cases[which].out * cases[which].in);
    float *a = xaligned(count, sizeof *a);
    bool good;

    shape_parse(cases[which].shape, &shape);
    make_grouped(a, &shape, exponent);
    good = file && fwrite(a, sizeof *a, count, file) == count;
    good = file && !fclose(file) && good;
    free(a);
    return good ? EX_OK : fail(EX_IOERR, "cannot write '%s':", path);
}

int main(int argc, char **argv)
{
    int repeats = argc > 1 ? atoi(argv[1]) : 3, rc = EX_OK;

    base = memory("VmRSS");
    error_program("bench_svd");
    parallel_set(2);
    if (argc == 5 && !strcmp(argv[1], "write"))
        return write_matrix(argv[2], atoi(argv[3]) % N_CASE, atof(argv[4]));
    if (argc == 2 && !strcmp(argv[1], "optimum"))
        return find_optima();
    if (argc == 2 && !strcmp(argv[1], "any"))
        return time_any();
    for (int i = 0; i < N_CASE && !rc; i++)
        for (int j = 0; j < N_SPECTRUM && !rc; j++)
            if (argc < 3 || atoi(argv[2]) == i)
                rc = run(&cases[i], exponents[j], repeats > 0 ? repeats : 1);
    return rc;
}

/* als.c - alternating least squares over the cores of a chain, for the outputs of a layer: the objective is quadratic
 * in each core. Sweeps go from the last core to the first and back; the cores beside the one being solved are kept
 * orthonormal, so that without H its normal matrix would be the identity. (For tensor trains: Holtz, Rohwedder,
 * Schneider, SIAM J. Sci. Comput. 34 (2012).) */
#include "fit/als_internal.h"
#include "fit/moments_turn.h"
#include "fit/reorder.h"
#include "base/memory.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEPS = 8 };

/* A sweep that lowers the objective by less than this part is the last: where the caller says nothing, or a number of
 * sweeps. */
static const double enough = 2e-3, converged = 1e-7;

static float *values_of(const struct sweep *s, int k)
{
    return (float *)(void *)s->mpo->core[k].data;
}

struct site site_of(const struct sweep *s, int k)
{
    const struct mpo *mpo = s->mpo;
    struct site t = {1, 1, mpo->bond[k], mpo->shape.out[k], mpo->shape.in[k], mpo->bond[k + 1], 0, false};
    double size;

    for (int j = 0; j < k; j++)
        t.before *= mpo->shape.out[j] * mpo->shape.in[j];
    for (int j = k + 1; j < mpo->shape.n_site; j++)
        t.after *= mpo->shape.out[j] * mpo->shape.in[j];
    size = (double)(t.o * t.i);
    t.count = t.a * t.o * t.i * t.b;
    t.left_first = (double)t.before * size * (double)t.b * (double)(t.a + t.after)
                   <= (double)t.after * size * (double)t.a * (double)(t.b + t.before);
    return t;
}

void als_build(const struct sweep *s, int k, const float *x, float *to)
{
    struct site t = site_of(s, k);
    int64_t size = t.o * t.i;
    struct matrix left = matrix_of(s->left[k], t.before, t.a), right = matrix_of(s->right[k], t.b, t.after);
    float *half = xaligned((size_t)(t.left_first ? t.before * size * t.b : t.a * size * t.after), sizeof *half);

    if (t.left_first) {
        linalg_gemm(1, left, matrix_of(x, t.a, size * t.b), 0, matrix_of(half, t.before, size * t.b));
        linalg_gemm(1, matrix_of(half, t.before * size, t.b), right, 0, matrix_of(to, t.before * size, t.after));
    } else {
        linalg_gemm(1, matrix_of(x, t.a * size, t.b), right, 0, matrix_of(half, t.a * size, t.after));
        linalg_gemm(1, left, matrix_of(half, t.a, size * t.after), 0, matrix_of(to, t.before, size * t.after));
    }
    free(half);
    reorder_matrix(to, &s->mpo->shape);
}

void als_project(const struct sweep *s, int k, float *z, float *x)
{
    struct site t = site_of(s, k);
    int64_t size = t.o * t.i;
    struct matrix left = matrix_turn(matrix_of(s->left[k], t.before, t.a));
    struct matrix right = matrix_turn(matrix_of(s->right[k], t.b, t.after));
    float *half = xaligned((size_t)(t.left_first ? t.before * size * t.b : t.a * size * t.after), sizeof *half);

    reorder_sites(z, &s->mpo->shape);
    if (t.left_first) {
        linalg_gemm(1, matrix_of(z, t.before * size, t.after), right, 0, matrix_of(half, t.before * size, t.b));
        linalg_gemm(1, left, matrix_of(half, t.before, size * t.b), 0, matrix_of(x, t.a, size * t.b));
    } else {
        linalg_gemm(1, left, matrix_of(z, t.before, size * t.after), 0, matrix_of(half, t.a, size * t.after));
        linalg_gemm(1, matrix_of(half, t.a * size, t.after), right, 0, matrix_of(x, t.a * size, t.b));
    }
    free(half);
}

/* The gap (W - W') H and the objective, for x in place of core k. */
static double measure(struct sweep *s, int k, const float *x, float *gap)
{
    int64_t count = s->out * s->in;
    double sum;

    als_build(s, k, x, s->work[0]);
    for (int64_t i = 0; i < count; i++)
        s->work[0][i] = s->w[i] - s->work[0][i];
    sum = s->h ? moments_error(s->h, s->work[0], s->out) : linalg_sum_squares(s->work[0], count);
    if (s->full)
        linalg_gemm(1, matrix_of(s->work[0], s->out, s->in), matrix_of(s->full, s->in, s->in), 0,
                    matrix_of(gap, s->out, s->in));
    else
        memcpy(gap, s->work[0], (size_t)count * sizeof *gap);
    return sum;
}

/* Solves for core k; what would raise the objective is dropped. */
static void improve(struct sweep *s, int k)
{
    int64_t count = s->out * s->in, size = tensor_count(&s->mpo->core[k]);
    float *core = values_of(s, k), *gradient = xaligned((size_t)size, sizeof *gradient);
    float *step = xaligned((size_t)size, sizeof *step), *gap = xaligned((size_t)count, sizeof *gap);
    double objective;

    memcpy(s->work[0], s->gap, (size_t)count * sizeof *s->gap);
    als_project(s, k, s->work[0], gradient);
    als_solve(s, k, gradient, step);
    for (int64_t i = 0; i < size; i++)
        step[i] += core[i];
    objective = measure(s, k, step, gap);
    if (objective < s->objective) {
        memcpy(core, step, (size_t)size * sizeof *core);
        s->objective = objective;
        free(s->gap);
        s->gap = gap;
        gap = NULL;
    }
    free(gap);
    free(gradient);
    free(step);
}

static void extend_left(struct sweep *s, int k)
{
    struct site t = site_of(s, k);
    int64_t width = t.o * t.i * t.b;

    free(s->left[k + 1]);
    s->left[k + 1] = xaligned((size_t)(t.before * width), sizeof(float));
    linalg_gemm(1, matrix_of(s->left[k], t.before, t.a), matrix_of(values_of(s, k), t.a, width), 0,
                matrix_of(s->left[k + 1], t.before, width));
}

static void extend_right(struct sweep *s, int k)
{
    struct site t = site_of(s, k);
    int64_t height = t.a * t.o * t.i;

    free(s->right[k - 1]);
    s->right[k - 1] = xaligned((size_t)(height * t.after), sizeof(float));
    linalg_gemm(1, matrix_of(values_of(s, k), height, t.b), matrix_of(s->right[k], t.b, t.after), 0,
                matrix_of(s->right[k - 1], height, t.after));
}

/* Makes core k orthonormal towards one side and moves what that takes off into its neighbour. */
static int orthonormalise(struct sweep *s, int k, bool to_left)
{
    struct site t = site_of(s, k);
    int64_t bond = to_left ? t.a : t.b, others = t.count / bond;
    float *core = values_of(s, k), *old, *taken, *next;
    struct matrix view = to_left ? matrix_of(core, bond, others) : matrix_turn(matrix_of(core, others, bond));
    struct matrix was = view;
    struct tensor *beside = &s->mpo->core[to_left ? k - 1 : k + 1];
    int64_t far = tensor_count(beside) / bond;
    int rc;

    if (bond > others)                      /* more vectors than dimensions, as a tolerance may leave them */
        return EX_OK;
    old = xaligned((size_t)t.count, sizeof *old);
    memcpy(old, core, (size_t)t.count * sizeof *old);
    was.data = old;
    if ((rc = linalg_orthonormalise(view, random_named((uint64_t)k, "als")))) {
        free(old);
        return rc;
    }
    taken = xaligned((size_t)(bond * bond), sizeof *taken);
    linalg_gemm(1, was, matrix_turn(view), 0, matrix_of(taken, bond, bond));
    next = xaligned((size_t)tensor_count(beside), sizeof *next);
    if (to_left)
        linalg_gemm(1, matrix_of((float *)(void *)beside->data, far, bond), matrix_of(taken, bond, bond), 0,
                    matrix_of(next, far, bond));
    else
        linalg_gemm(1, matrix_turn(matrix_of(taken, bond, bond)), matrix_of((float *)(void *)beside->data, bond, far),
                    0, matrix_of(next, bond, far));
    memcpy(beside->data, next, (size_t)beside->bytes);
    free(old);
    free(taken);
    free(next);
    return EX_OK;
}

/* From one end to the other: solves each core but the first, which the sweep before ended with (or nobody, at the
 * start). */
static int sweep(struct sweep *s, bool to_left, bool all)
{
    int n = s->mpo->shape.n_site, rc = EX_OK;

    for (int j = 0; j < n && !rc; j++) {
        int k = to_left ? n - 1 - j : j;

        if (all || j > 0)
            improve(s, k);
        if (j == n - 1)
            break;
        rc = orthonormalise(s, k, to_left);
        if (to_left)
            extend_right(s, k);
        else
            extend_left(s, k);
    }
    return rc;
}

static void sweep_begin(struct sweep *s)
{
    int n = s->mpo->shape.n_site;
    size_t count = (size_t)(s->out * s->in);
    float one = 1;

    if (s->h) {
        s->full = xaligned((size_t)(s->in * s->in), sizeof *s->full);
        moments_full(s->h, s->full);
    }
    s->gap = xaligned(count, sizeof *s->gap);
    for (int i = 0; i < 2; i++)
        s->work[i] = xaligned(count, sizeof *s->work[i]);
    s->left[0] = xaligned(1, sizeof one);
    s->right[n - 1] = xaligned(1, sizeof one);
    *s->left[0] = *s->right[n - 1] = one;
    for (int k = 0; k < n - 1; k++)
        extend_left(s, k);
    s->objective = measure(s, n - 1, values_of(s, n - 1), s->gap);
}

static void sweep_end(struct sweep *s)
{
    for (int k = 0; k < MPO_SITES; k++) {
        free(s->left[k]);
        free(s->right[k]);
    }
    free(s->full);
    free(s->gap);
    free(s->work[0]);
    free(s->work[1]);
}

int aware_als(const float *w, const struct moments *h, const char *name, struct mpo *mpo, struct als *als)
{
    struct sweep s = {.w = w, .h = h, .mpo = mpo, .out = 1, .in = 1};
    int sweeps = als->sweeps ? als->sweeps : SWEEPS, rc = EX_OK;

    for (int k = 0; k < mpo->shape.n_site; k++) {
        s.out *= mpo->shape.out[k];
        s.in *= mpo->shape.in[k];
    }
    sweep_begin(&s);
    als->before = s.objective;
    if (!isfinite(s.objective))
        rc = fail(EX_DATAERR, "'%s': holds values that are not finite, or its input's moments do", name);
    for (int i = 0; i < sweeps && !rc; i++) {
        double objective = s.objective;

        rc = sweep(&s, i % 2 == 0, i == 0);
        if (objective - s.objective <= (als->sweeps ? converged : enough) * objective)
            break;
    }
    als->after = s.objective;
    sweep_end(&s);
    return rc;
}

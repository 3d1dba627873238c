/* als_solve.c - the least squares problem of one core: a step N^-1 g, where N = A' (1 x H) A with A the contraction of
 * a core with its neighbours. N is the same for each row index of the core: where it is small it is made and factored
 * in double, otherwise its products are computed by contraction, times H, contraction back, for conjugate gradients. */
#include "fit/als_internal.h"
#include "fit/reorder.h"
#include "base/memory.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIRECT = 768, DIRECT_COST = 24, ITERATIONS = 24 };

/* Conjugate gradients end where a step gains less than this part of what all before it did. */
static const double little = 0.02, dependent = 1e-10;

static double dot(const float *a, const float *b, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* y = N x */
static void multiply(const struct sweep *s, int k, const float *x, float *y)
{
    als_build(s, k, x, s->work[0]);
    if (!s->full) {
        als_project(s, k, s->work[0], y);
        return;
    }
    linalg_gemm(1, matrix_of(s->work[0], s->out, s->in), matrix_of(s->full, s->in, s->in), 0,
                matrix_of(s->work[1], s->out, s->in));
    als_project(s, k, s->work[1], y);
}

/* The chains beside a core with row and column indices apart: left [O, I, a] and right [b, P, J], so that the columns
 * of W are (I, i, J). */
struct neighbours {
    float *left, *right;
    int64_t o, i, p, j;
};

static struct neighbours neighbours_of(const struct sweep *s, int k)
{
    const struct mpo_shape *shape = &s->mpo->shape;
    struct site t = site_of(s, k);
    struct neighbours to = {xaligned((size_t)(t.before * t.a), sizeof(float)),
                            xaligned((size_t)(t.after * t.b), sizeof(float)), 1, 1, 1, 1};
    struct mpo_shape before = {k + 1, {0}, {0}}, after = {shape->n_site - k, {0}, {0}};

    before.out[k] = after.in[0] = 1;        /* the bonds as a site of their own */
    before.in[k] = t.a;
    after.out[0] = t.b;
    for (int j = 0; j < k; j++) {
        to.o *= before.out[j] = shape->out[j];
        to.i *= before.in[j] = shape->in[j];
    }
    for (int j = k + 1; j < shape->n_site; j++) {
        to.p *= after.out[j - k] = shape->out[j];
        to.j *= after.in[j - k] = shape->in[j];
    }
    memcpy(to.left, s->left[k], (size_t)(t.before * t.a) * sizeof *to.left);
    memcpy(to.right, s->right[k], (size_t)(t.after * t.b) * sizeof *to.right);
    reorder_matrix(to.left, &before);
    reorder_matrix(to.right, &after);
    return to;
}

static void neighbours_free(struct neighbours *near)
{
    free(near->left);
    free(near->right);
}

/* Squares summed over the row index: left [I, a], right [b, J], in place. */
static void square_neighbours(struct neighbours *near, int64_t a, int64_t b)
{
    int64_t width = near->i * a;

    for (int64_t m = 0; m < width; m++) {
        float sum = 0;

        for (int64_t o = 0; o < near->o; o++)
            sum += near->left[o * width + m] * near->left[o * width + m];
        near->left[m] = sum;
    }
    for (int64_t m = 0; m < b; m++)
        for (int64_t j = 0; j < near->j; j++) {
            float sum = 0;

            for (int64_t p = 0; p < near->p; p++) {
                float value = near->right[(m * near->p + p) * near->j + j];

                sum += value * value;
            }
            near->right[m * near->j + j] = sum;     /* stands before all that is still to be read */
        }
}

/* to [a, i, b]: the diagonal that N would have if H had nothing beside its own. */
static void weigh_diagonal(const struct sweep *s, const struct site *t, const struct neighbours *near, float *to)
{
    float *part = xaligned((size_t)(near->i * near->j), sizeof *part);
    float *half = xaligned((size_t)(near->i * t->b), sizeof *half);
    struct matrix right = matrix_turn(matrix_of(near->right, t->b, near->j));

    for (int64_t i = 0; i < t->i; i++) {
        for (int64_t l = 0; l < near->i; l++)
            for (int64_t m = 0; m < near->j; m++)
                part[l * near->j + m] = s->h ? moments_diagonal(s->h, (l * t->i + i) * near->j + m) : 1;
        linalg_gemm(1, matrix_of(part, near->i, near->j), right, 0, matrix_of(half, near->i, t->b));
        linalg_gemm(1, matrix_turn(matrix_of(near->left, near->i, t->a)), matrix_of(half, near->i, t->b), 0,
                    (struct matrix){to + i * t->b, t->a, t->b, t->i * t->b, false});
    }
    free(part);
    free(half);
}

/* The inverse of that, in the core's shape. */
static float *preconditioner(const struct sweep *s, int k)
{
    struct site t = site_of(s, k);
    struct neighbours near = neighbours_of(s, k);
    int64_t width = t.i * t.b;
    float *diagonal = xaligned((size_t)(t.a * width), sizeof *diagonal), *to = xaligned((size_t)t.count, sizeof *to);
    double largest = 0;

    square_neighbours(&near, t.a, t.b);
    weigh_diagonal(s, &t, &near, diagonal);
    for (int64_t m = 0; m < t.a * width; m++)
        largest = fmax(largest, diagonal[m]);
    for (int64_t m = 0; m < t.a * width; m++)
        diagonal[m] = (float)(1 / fmax(diagonal[m], 1e-7 * largest + 1e-30));
    for (int64_t row = 0; row < t.a * t.o; row++)
        memcpy(to + row * width, diagonal + row / t.o * width, (size_t)width * sizeof *to);
    free(diagonal);
    neighbours_free(&near);
    return to;
}

static void by_gradients(const struct sweep *s, int k, const float *gradient, float *x)
{
    int64_t n = site_of(s, k).count;
    float *inverse = preconditioner(s, k), *r = xaligned((size_t)n, sizeof *r), *p = xaligned((size_t)n, sizeof *p);
    float *q = xaligned((size_t)n, sizeof *q);
    double size = 0, gained = 0;

    memset(x, 0, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        r[i] = gradient[i];
        p[i] = inverse[i] * r[i];
    }
    size = dot(r, p, n);
    for (int round = 0; round < ITERATIONS && size > 0; round++) {
        double bent, alpha, next = 0;

        multiply(s, k, p, q);
        bent = dot(p, q, n);
        if (!(bent > 0) || !isfinite(bent))
            break;
        alpha = size / bent;
        for (int64_t i = 0; i < n; i++) {
            x[i] += (float)alpha * p[i];
            r[i] -= (float)alpha * q[i];
            next += (double)r[i] * inverse[i] * r[i];
        }
        gained += alpha * size;
        if (alpha * size < little * gained)
            break;
        for (int64_t i = 0; i < n; i++)
            p[i] = inverse[i] * r[i] + (float)(next / size) * p[i];
        size = next;
    }
    free(inverse);
    free(r);
    free(p);
    free(q);
}

/* Where the columns [i, (I, J)] are, with the site's own index first. */
static int64_t *places(const struct sweep *s, const struct site *t, const struct neighbours *near)
{
    int64_t *place = xmallocarray((size_t)s->in, sizeof *place), at = 0;

    for (int64_t i = 0; i < t->i; i++)
        for (int64_t l = 0; l < near->i; l++)
            for (int64_t m = 0; m < near->j; m++)
                place[at++] = (l * t->i + i) * near->j + m;
    return place;
}

/* Rows of H in double, both sides in that order: to [(I, J), i', (I', J')], of the i that `row` begins with. */
static void take_rows(const struct sweep *s, const int64_t *place, const int64_t *row, int64_t count, double *to)
{
    int64_t n = s->in;

    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < n; j++)
            to[i * n + j] = s->full ? s->full[row[i] * n + place[j]] : row[i] == place[j];
}

/* What one pair of rows o of the left chain and p of the right one gives: to [(a, b), (I, J)]. */
static void pair_rows(const struct site *t, const struct neighbours *near, int64_t o, int64_t p, double *to)
{
    for (int64_t a = 0; a < t->a; a++)
        for (int64_t b = 0; b < t->b; b++)
            for (int64_t i = 0; i < near->i; i++)
                for (int64_t j = 0; j < near->j; j++)
                    *to++ = (double)near->left[(o * near->i + i) * t->a + a]
                            * near->right[(b * near->p + p) * near->j + j];
}

/* N [(i, a, b), (i', a', b')], in double: a sum over the rows of the chains beside. H is taken in pieces, one for each i:
 * as a whole it would be the largest thing in memory. */
static double *normal_matrix(const struct sweep *s, int k)
{
    struct site t = site_of(s, k);
    struct neighbours near = neighbours_of(s, k);
    int64_t bonds = t.a * t.b, rest = near.i * near.j, order = bonds * t.i;
    int64_t *place = places(s, &t, &near);
    double *h = xaligned((size_t)(rest * s->in), sizeof *h), *normal = xcalloc((size_t)(order * order), sizeof *normal);
    double *rows = xaligned((size_t)(bonds * rest), sizeof *rows);
    double *half = xaligned((size_t)(bonds * s->in), sizeof *half);
    struct matrix64 pair = matrix64_of(rows, bonds, rest);

    for (int64_t i = 0; i < t.i; i++) {
        take_rows(s, place, place + i * rest, rest, h);
        for (int64_t op = 0; op < near.o * near.p; op++) {
            pair_rows(&t, &near, op / near.p, op % near.p, rows);
            linalg_gemm64(1, pair, matrix64_of(h, rest, s->in), 0, matrix64_of(half, bonds, s->in));
            linalg_gemm64(1, matrix64_of(half, bonds * t.i, rest), matrix64_turn(pair), 1,
                          matrix64_of(normal + i * bonds * order, bonds * t.i, bonds));
        }
    }
    free(place);
    free(h);
    free(rows);
    free(half);
    neighbours_free(&near);
    return normal;
}

/* Scales N to a unit diagonal, by scale [order] from both sides. */
static void scale_normal(double *normal, int64_t order, double *scale)
{
    for (int64_t i = 0; i < order; i++)
        scale[i] = normal[i * order + i] > 0 ? 1 / sqrt(normal[i * order + i]) : 0;
    for (int64_t i = 0; i < order; i++)
        for (int64_t j = 0; j < order; j++)
            normal[i * order + j] *= scale[i] * scale[j];
}

/* Where N is singular, a basic solution. */
static void by_factor(const struct sweep *s, int k, const float *gradient, float *x)
{
    struct site t = site_of(s, k);
    int64_t order = t.a * t.b * t.i, rank;
    double *normal = normal_matrix(s, k), *scale = xmallocarray((size_t)order, sizeof *scale), *rows;
    int *pivot = xmallocarray((size_t)order, sizeof *pivot);

    scale_normal(normal, order, scale);
    rank = linalg_cholesky_pivoted(order, normal, dependent, pivot);
    rows = xaligned((size_t)(t.o * rank), sizeof *rows);
    for (int pass = 0; pass < 2; pass++) {  /* in, out */
        if (pass == 1) {
            linalg_solve64(rows, t.o, rank, normal, order, false);
            linalg_solve64(rows, t.o, rank, normal, order, true);
            memset(x, 0, (size_t)t.count * sizeof *x);
        }
        for (int64_t m = 0; m < rank; m++) {
            int64_t at = pivot[m], i = at / (t.a * t.b), a = at / t.b % t.a, b = at % t.b;

            for (int64_t o = 0; o < t.o; o++) {
                int64_t place = ((a * t.o + o) * t.i + i) * t.b + b;

                if (pass == 0)
                    rows[o * rank + m] = gradient[place] * scale[at];
                else
                    x[place] = (float)(rows[o * rank + m] * scale[at]);
            }
        }
    }
    free(normal);
    free(scale);
    free(pivot);
    free(rows);
}

/* Whether making N costs no more than some products with it. */
static bool is_small(const struct sweep *s, int k)
{
    struct site t = site_of(s, k);
    double bonds = (double)t.a * (double)t.b, order = bonds * (double)t.i, out = (double)s->out, in = (double)s->in;

    return order <= DIRECT
           && out / (double)t.o * bonds * in * (in + order) + order * order * order / 3 <= DIRECT_COST * out * in * in;
}

void als_solve(const struct sweep *s, int k, const float *gradient, float *step)
{
    if (is_small(s, k))
        by_factor(s, k, gradient, step);
    else
        by_gradients(s, k, gradient, step);
}

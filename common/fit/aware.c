/* aware.c - the best low-rank fit for the outputs of a layer, from one symmetric eigenproblem of the size of W's
 * shorter side.
 *
 * With W = Q A, Q orthonormal and A [side, in] (Q = 1 where W is wide), the leading eigenvectors Y of A H A' give
 * U = Q Y and V = U' W. That needs no inverse and no factor of H, which may be singular or, by rounding, slightly
 * indefinite. For a tall W, A = R D^-1 of a Cholesky factor D W'W D = R'R, with D the roots of H's diagonal, so that
 * columns that matter little lose their digits and not those that matter much. */
#include "fit/aware_internal.h"
#include "fit/moments_turn.h"
#include "base/memory.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BAND = 512, GRAM_ROWS = 192 };

/* Added to H, times its mean diagonal: above the rounding of H, so that where no input goes the plain error decides,
 * and far below what shows. */
static const double ridge = 1e-7, dependent = 1e-12;

/* A H A', or with W tall what stands for it. */
struct compressed {
    int64_t out, in, rows;       /* rows of A: min(out, in), or less where a tall W has a lower rank */
    const float *w;
    const struct moments *h;
    double lambda;               /* the ridge, absolute */
    double *a;                   /* [rows, in] */
    double *r, *scale;           /* of a tall W: the factor [in, in], D [in] */
    int *pivot;                  /* [in] */
    double *g;                   /* [rows, rows], the upper triangle */
};

static void compressed_free(struct compressed *c)
{
    free(c->a);
    free(c->r);
    free(c->scale);
    free(c->pivot);
    free(c->g);
}

static double mean_diagonal(const struct moments *h)
{
    double sum = 0;

    for (int64_t i = 0; i < h->n; i++)
        sum += moments_diagonal(h, i);
    return h->n ? sum / (double)h->n : 0;
}

/* Rows first..first+rows-1 of H + lambda in double: band [rows, n], narrow as well. */
static void weight_band(const struct compressed *c, int64_t first, int64_t rows, float *narrow, double *band)
{
    moments_band(c->h, first, rows, narrow);
    for (int64_t i = 0; i < rows * c->in; i++)
        band[i] = narrow[i];
    for (int64_t i = 0; i < rows; i++)
        band[i * c->in + first + i] += c->lambda;
}

/* g += the upper triangle of a symmetric x y', x and y [rows, width]. */
static void add_upper(const struct matrix64 x, const struct matrix64 y, double *g)
{
    for (int64_t i = 0; i < x.rows; i += GRAM_ROWS) {
        int64_t height = x.rows - i < GRAM_ROWS ? x.rows - i : GRAM_ROWS;
        struct matrix64 band = {x.data + i * x.stride, height, x.columns, x.stride, false};
        struct matrix64 rest = {y.data + i * y.stride, y.rows - i, y.columns, y.stride, false};
        struct matrix64 to = {g + i * x.rows + i, height, x.rows - i, x.rows, false};

        linalg_gemm64(1, band, matrix64_turn(rest), 1, to);
    }
}

/* g = a (H + lambda) a', a band of H at a time. */
static void weighted_gram(struct compressed *c)
{
    struct matrix64 a = matrix64_of(c->a, c->rows, c->in);
    int64_t height = c->in < 2 * BAND ? c->in : BAND;
    double *band, *product;
    float *narrow;

    c->g = xcalloc((size_t)(c->rows * c->rows + 1), sizeof *c->g);
    if (!c->h) {
        add_upper(a, a, c->g);
        return;
    }
    narrow = xaligned((size_t)(c->in * height), sizeof *narrow);
    band = xaligned((size_t)(c->in * height), sizeof *band);
    product = xaligned((size_t)(c->rows * height), sizeof *product);
    for (int64_t first = 0; first < c->in; first += height) {
        int64_t rows = c->in - first < height ? c->in - first : height;
        struct matrix64 columns = {c->a + first, c->rows, rows, c->in, false};

        weight_band(c, first, rows, narrow, band);
        linalg_gemm64(1, a, matrix64_turn(matrix64_of(band, rows, c->in)), 0, matrix64_of(product, c->rows, rows));
        add_upper(matrix64_of(product, c->rows, rows), columns, c->g);
    }
    free(narrow);
    free(band);
    free(product);
}

static void widen(struct compressed *c)
{
    c->rows = c->out;
    c->a = xaligned((size_t)(c->out * c->in), sizeof *c->a);
    for (int64_t i = 0; i < c->out * c->in; i++)
        c->a[i] = c->w[i];
}

/* A of a tall W. */
static void factor(struct compressed *c)
{
    int64_t n = c->in;

    c->scale = xmallocarray((size_t)n, sizeof *c->scale);
    c->pivot = xmallocarray((size_t)n, sizeof *c->pivot);
    c->r = xaligned((size_t)(n * n), sizeof *c->r);
    linalg_gram(matrix_turn(matrix_of(c->w, c->out, n)), c->r);
    for (int64_t i = 0; i < n; i++) {
        double d = c->h ? fmax(moments_diagonal(c->h, i), 0) + c->lambda : 1;

        c->scale[i] = d > 0 ? sqrt(d) : 1;
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            c->r[i * n + j] *= c->scale[i] * c->scale[j];
    c->rows = linalg_cholesky_pivoted(n, c->r, dependent, c->pivot);
    c->a = xaligned((size_t)(c->rows * n), sizeof *c->a);
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t j = 0; j < n; j++)
            c->a[i * n + c->pivot[j]] = j < i ? 0 : c->r[i * n + j] / c->scale[c->pivot[j]];
}

/* EX_DATAERR where W isn't finite. */
static int compress(struct compressed *c, const char *name)
{
    if (!isfinite(linalg_sum_squares(c->w, c->out * c->in)))
        return fail(EX_DATAERR, "'%s': holds values that are not finite", name);
    if (c->out <= c->in)
        widen(c);
    else
        factor(c);
    weighted_gram(c);
    for (int64_t i = 0; i < c->rows; i++)
        if (!isfinite(c->g[i * c->rows + i]))
            return fail(EX_DATAERR, "'%s': the moments of its input are too large for it", name);
    return EX_OK;
}

/* Columns of u that W doesn't define: random, to be made orthonormal. */
static void fill_columns(float *u, int64_t out, int64_t rank, int64_t first, struct random random)
{
    int64_t padded = (out + 3) / 4 * 4;
    float *values = xmallocarray((size_t)padded, sizeof *values);

    for (int64_t j = first; j < rank; j++) {
        random_normal(random, (uint64_t)(j * padded), padded, values);
        for (int64_t i = 0; i < out; i++)
            u[i * rank + j] = values[i] / sqrtf((float)out);
    }
    free(values);
}

/* u [out, rank] = W D R^-1 Y of a tall W; Y in the rows of g. */
static int tall_columns(struct compressed *c, const char *name, int64_t rank, float *u)
{
    int64_t known = rank < c->rows ? rank : c->rows;
    float *z = xcalloc((size_t)(rank * c->in), sizeof *z);
    struct random random = random_named(0, name);
    struct matrix left = matrix_of(u, c->out, rank);

    linalg_solve64(c->g, known, c->rows, c->r, c->in, true);
    for (int64_t i = 0; i < known; i++)
        for (int64_t j = 0; j < c->rows; j++)
            z[i * c->in + c->pivot[j]] = (float)(c->g[i * c->rows + j] * c->scale[c->pivot[j]]);
    linalg_gemm(1, matrix_of(c->w, c->out, c->in), matrix_turn(matrix_of(z, rank, c->in)), 0, left);
    free(z);
    fill_columns(u, c->out, rank, known, random);
    return linalg_orthonormalise(matrix_turn(left), random);
}

int aware_low_rank_norm(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name,
                        int64_t rank, float *u, float *v, double *error, double *norm)
{
    struct compressed c = {.out = out, .in = in, .w = w, .h = h, .lambda = h ? ridge * mean_diagonal(h) : 0};
    double *values = NULL, tail = 0, all = 0, plain;
    int rc = compress(&c, name);

    rank = out < rank ? out : rank;
    rank = in < rank ? in : rank;
    if (!rc) {
        values = xmallocarray((size_t)c.rows + 1, sizeof *values);
        rc = linalg_eigh_leading(c.rows, rank < c.rows ? rank : c.rows, c.g, values);
    }
    if (!rc && out > in)
        rc = tall_columns(&c, name, rank, u);
    for (int64_t i = 0; i < out && !rc && out <= in; i++)
        for (int64_t j = 0; j < rank; j++)
            u[i * rank + j] = (float)c.g[j * out + i];
    if (!rc) {
        linalg_gemm(1, matrix_turn(matrix_of(u, out, rank)), matrix_of(w, out, in), 0, matrix_of(v, rank, in));
        for (int64_t i = c.rows - 1; i >= 0; i--) {
            all += fmax(values[i], 0);
            tail = i >= rank ? all : tail;
        }
        plain = linalg_sum_squares(w, out * in);
        *norm = fmax(all - c.lambda * plain, 0);
        *error = fmax(tail - c.lambda * (plain - linalg_sum_squares(v, rank * in)), 0);
    }
    compressed_free(&c);
    free(values);
    return rc;
}

int aware_low_rank(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name, int64_t rank,
                   float *u, float *v, double *error)
{
    double norm;

    return aware_low_rank_norm(w, out, in, h, name, rank, u, v, error, &norm);
}

int aware_errors(const float *w, int64_t out, int64_t in, const struct moments *h, const char *name, double *error)
{
    struct compressed c = {.out = out, .in = in, .w = w, .h = h};
    int64_t side = out < in ? out : in;
    double *values = xcalloc((size_t)side + 1, sizeof *values);
    int rc = compress(&c, name);

    if (!rc)
        rc = linalg_eigenvalues(c.rows, c.g, values);
    error[side] = 0;
    for (int64_t i = side - 1; i >= 0 && !rc; i--)
        error[i] = error[i + 1] + (i < c.rows ? fmax(values[i], 0) : 0);
    compressed_free(&c);
    free(values);
    return rc;
}

/* quantize_cores.c - chains of cores rounded one after the other, from the input's side on.
 *
 * A core's rows run along its last axis longer than 1: its right bond, or the input's axis. What they see are the
 * moments of what comes from behind: R H R', with R [bond, o.., i..] the product of the cores behind and H averaged
 * over the part of the input that the cores before and the core itself take; for U V that is V H V', and exact.
 * Rounding V leaves an error that U can make up for in part: U <- U M with M = (V H V~') (V~ H V~')^-1. A bond may be
 * scaled on one side and back on the other: each of its indices weighs the same on both, in the norm of what it adds
 * to the output (square roots of singular values, where the bond is that of an SVD). */
#include "fit/quantize_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "compute/linalg.h"
#include "fit/moments_turn.h"
#include "fit/round.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Added to what is inverted and to what it is compared with, times the mean diagonal: where nothing is seen, M is 1. */
static const double ridge = 1e-5;

/* The product of the cores behind a bond. */
struct behind {
    int64_t bond, out, in;
    float *data;                 /* [bond, out, in] */
};

struct chain_rounding {
    struct tensor *core;
    int n_site;
    const bool *rounds;
    const struct view *view;
    struct dtype dtype;
    const char *name;
};

int core_round(struct tensor *core, struct dtype dtype, const char *name, struct difference *difference)
{
    struct tensor half;
    float *w;

    if (dtype_is_packed(dtype))
        return round_nearest(core, dtype, name, difference);
    half = tensor_new(dtype, core->rank, core->shape);
    w = xaligned((size_t)tensor_count(core), sizeof *w);
    tensor_get(core, w);
    tensor_set(&half, w);
    free(w);
    tensor_free(core);
    *core = half;
    return tensor_is_finite(core) ? EX_OK : fail(EX_DATAERR, "'%s': a number of its cores is not finite, or too large "
                                                 "for the dtype", name);
}

static float *core_floats(struct tensor *core)
{
    return (float *)(void *)core->data;
}

/* core [l, o, i, r] times behind [r, O, I]: [l, o O, i I]. */
static struct behind behind_grow(const struct tensor *core, const struct behind *b)
{
    int64_t l = core->shape[0], o = core->shape[1], i = core->shape[2], r = core->shape[3];
    struct behind made = {l, o * b->out, i * b->in, NULL};
    float *values = xaligned((size_t)(l * o * i * r), sizeof *values), *product;

    tensor_get(core, values);
    if (b->bond == 1 && b->out == 1 && b->in == 1 && b->data[0] == 1) {      /* the last core */
        made.data = values;
        return made;
    }
    product = xaligned((size_t)(l * o * i * b->out * b->in), sizeof *product);
    linalg_gemm(1, matrix_of(values, l * o * i, r), matrix_of(b->data, r, b->out * b->in), 0,
                matrix_of(product, l * o * i, b->out * b->in));
    free(values);
    made.data = xaligned((size_t)(l * made.out * made.in), sizeof *made.data);
    for (int64_t row = 0; row < l * o; row++)
        for (int64_t j = 0; j < i; j++)
            for (int64_t p = 0; p < b->out; p++)
                memcpy(made.data + ((row * b->out + p) * i + j) * b->in, product + ((row * i + j) * b->out + p) * b->in,
                       (size_t)b->in * sizeof *product);
    free(product);
    return made;
}

/* The moments of the last part of the input, averaged over the rest: those of the first n / part pieces of H's
 * diagonal. */
static struct moments moments_part(const struct moments *h, int64_t part)
{
    struct moments made = {.n = part, .tokens = h->tokens};
    double scale = (double)part / (double)h->n;

    made.packed = xaligned((size_t)(part * (part + 1) / 2), sizeof *made.packed);
    for (int64_t i = 0, at = 0; i < part; i++)
        for (int64_t j = 0; j <= i; j++, at++) {
            double sum = 0;

            for (int64_t first = 0; first < h->n; first += part)
                sum += h->packed[(first + i) * (first + i + 1) / 2 + first + j];
            made.packed[at] = (float)(sum * scale);
        }
    return made;
}

/* H as those behind a bond see it; to be freed unless it is the view's own. */
static struct moments moments_behind(const struct view *view, int64_t part)
{
    return part == view->h->n ? *view->h : moments_part(view->h, part);
}

static void moments_done(struct moments *h, const struct view *view)
{
    if (h->packed != view->h->packed)
        free(h->packed);
}

/* g [a.bond, b.bond] = a H b', bh = b H. */
static void gram(const struct behind *a, const struct behind *b, const float *bh, float *g)
{
    linalg_gemm(1, matrix_of(a->data, a->bond, a->out * a->in), matrix_turn(matrix_of(bh, b->bond, b->out * b->in)), 0,
                matrix_of(g, a->bond, b->bond));
}

/* b H, the caller's. */
static float *times_moments(const struct view *view, const struct behind *b)
{
    struct moments h = moments_behind(view, b->in);
    float *product = xaligned((size_t)(b->bond * b->out * b->in), sizeof *product);

    moments_times(&h, b->data, b->bond * b->out, product);
    moments_done(&h, view);
    return product;
}

/* Scales the bond before core k, which is known to be rounded as core k - 1 is, and what the truth has behind it. */
static void balance(struct chain_rounding *c, int k, const struct behind *stored, struct behind *truth)
{
    struct tensor *left = &c->core[k - 1], *right = &c->core[k];
    int64_t bond = right->shape[0], rows = tensor_count(left) / bond, length = tensor_count(right) / bond;
    struct behind with = behind_grow(right, stored);
    float *product = times_moments(c->view, &with), *u = core_floats(left), *v = core_floats(right);

    for (int64_t j = 0; j < bond; j++) {
        int64_t count = with.out * with.in;
        double before = 0, behind = 0, scale;

        for (int64_t i = 0; i < rows; i++)
            before += (double)u[i * bond + j] * u[i * bond + j];
        for (int64_t i = 0; i < count; i++)
            behind += (double)product[j * count + i] * with.data[j * count + i];
        scale = before > 0 && behind > 0 ? pow(behind / before, 0.25) : 1;
        for (int64_t i = 0; i < rows; i++)
            u[i * bond + j] *= (float)scale;
        for (int64_t i = 0; i < length; i++)
            v[j * length + i] /= (float)scale;
        for (int64_t i = 0; i < count; i++)
            truth->data[j * count + i] /= (float)scale;
    }
    free(product);
    free(with.data);
}

/* The least-squares M for core k, and core <- core M. */
static void refit(struct tensor *core, const struct behind *truth, const struct behind *stored, const float *product)
{
    int64_t n = stored->bond, rows = tensor_count(core) / n;
    float *g = xaligned((size_t)(2 * n * n), sizeof *g), *cross = g + n * n, *old, *m = g;
    double *a = xaligned((size_t)(2 * n * n), sizeof *a), *b = a + n * n, trace = 0;

    gram(stored, stored, product, g);
    gram(truth, stored, product, cross);
    for (int64_t i = 0; i < n; i++)
        trace += g[i * n + i];
    for (int64_t i = 0; i < n * n; i++) {
        double more = i % (n + 1) ? 0 : ridge * trace / (double)n;

        a[i] = ((double)g[i] + g[i % n * n + i / n]) / 2 + more;
        b[i] = cross[i] + more;
    }
    if (trace > 0 && linalg_cholesky(n, a)) {
        linalg_solve64(b, n, n, a, n, false);
        linalg_solve64(b, n, n, a, n, true);
        for (int64_t i = 0; i < n * n; i++)
            m[i] = (float)b[i];
        old = xaligned((size_t)(rows * n), sizeof *old);
        memcpy(old, core->data, (size_t)(rows * n) * sizeof *old);
        linalg_gemm(1, matrix_of(old, rows, n), matrix_of(m, n, n), 0, matrix_of(core_floats(core), rows, n));
        free(old);
    }
    free(a);
    free(g);
}

static struct moments moments_identity(int64_t n)
{
    struct moments made = {.n = n, .tokens = 1, .packed = xcalloc((size_t)(n * (n + 1) / 2), sizeof *made.packed)};

    for (int64_t i = 0; i < n; i++)
        made.packed[i * (i + 1) / 2 + i] = 1;
    return made;
}

/* What the rows of core k see; to be freed unless it is the view's own. product = stored H. */
static struct moments moments_of_rows(const struct chain_rounding *c, int k, const struct behind *stored,
                                      const float *product)
{
    const struct tensor *core = &c->core[k];
    struct moments made = {.n = tensor_row_length(core), .tokens = c->view->h->tokens};
    float *g;

    if (core->shape[3] == 1)
        return k == c->n_site - 1 && core->shape[2] > 1 ? moments_behind(c->view, core->shape[2])
                                                        : moments_identity(made.n);
    g = xaligned((size_t)(made.n * made.n), sizeof *g);
    gram(stored, stored, product, g);
    made.packed = xaligned((size_t)(made.n * (made.n + 1) / 2), sizeof *made.packed);
    for (int64_t i = 0, at = 0; i < made.n; i++)
        for (int64_t j = 0; j <= i; j++, at++)
            made.packed[at] = (g[i * made.n + j] + g[j * made.n + i]) / 2;
    free(g);
    return made;
}

static int round_core(struct chain_rounding *c, int k, const struct behind *stored, const float *product)
{
    struct tensor *core = &c->core[k], packed = {0};
    struct moments h;
    struct feedback *own = NULL;
    struct compensated result;
    struct difference unused = {0};
    int rc = EX_OK;

    if (!dtype_is_packed(c->dtype))
        return core_round(core, c->dtype, c->name, &unused);
    h = moments_of_rows(c, k, stored, product);
    if (h.packed != c->view->h->packed)
        rc = feedback_new_blocks(&h, 0, feedback_block(c->dtype), &own);
    if (!rc)
        rc = compensate(core_floats(core), own ? own : c->view->feedback, c->dtype, core->rank, core->shape, c->name,
                        &packed, &result);
    if (!rc) {
        tensor_free(core);
        *core = packed;
    }
    feedback_free(own);
    moments_done(&h, c->view);
    return rc;
}

/* Core k, and the bond before it; *truth and *stored grow by it. */
static int round_site(struct chain_rounding *c, int k, struct behind *truth, struct behind *stored)
{
    bool this = c->rounds[k];
    float *product = k < c->n_site - 1 ? times_moments(c->view, stored) : NULL;
    struct behind grown = {0};
    int rc = EX_OK;

    if (k > 0)
        grown = behind_grow(&c->core[k], truth);
    if (this && product)
        refit(&c->core[k], truth, stored, product);
    if (this && k > 0 && c->rounds[k - 1])
        balance(c, k, stored, &grown);
    if (this)
        rc = round_core(c, k, stored, product);
    free(product);
    free(truth->data);
    *truth = grown;
    if (!rc && k > 0) {
        grown = behind_grow(&c->core[k], stored);
        free(stored->data);
        *stored = grown;
    }
    return rc;
}

static struct behind behind_nothing(void)
{
    struct behind b = {1, 1, 1, xmallocarray(1, sizeof *b.data)};

    b.data[0] = 1;
    return b;
}

int chain_round(struct chain *chain, const bool *rounds, struct dtype dtype, const struct view *view, const char *name)
{
    struct chain_rounding c = {chain->core, chain->n_site, rounds, view, dtype, name};
    struct behind truth, stored;
    struct difference unused = {0};
    int rc = EX_OK;

    if (!view) {
        for (int k = 0; k < chain->n_site && !rc; k++)
            if (rounds[k])
                rc = core_round(&chain->core[k], dtype, name, &unused);
        return rc;
    }
    truth = behind_nothing();
    stored = behind_nothing();
    for (int k = chain->n_site - 1; k >= 0 && !rc; k--)
        rc = round_site(&c, k, &truth, &stored);
    free(truth.data);
    free(stored.data);
    return rc;
}

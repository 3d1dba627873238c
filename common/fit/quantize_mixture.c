/* quantize_mixture.c - a matrix as codes, or as codes and a low-rank product of rounded cores. */
#include "fit/quantize_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "compute/linalg.h"
#include "fit/aware.h"
#include "fit/round.h"

#include <stdlib.h>
#include <string.h>

void mixture_free(struct mixture *mixture)
{
    tensor_free(&mixture->q);
    tensor_free(&mixture->u);
    tensor_free(&mixture->v);
    *mixture = (struct mixture){0};
}

double weighted_error(const struct view *view, const float *d, int64_t rows, int64_t in)
{
    return view ? moments_error(view->h, d, rows) : linalg_sum_squares(d, rows * in);
}

int mixture_round(const struct rounded_matrix *matrix, const float *w, const struct quantization *how,
                  struct mixture *mixture)
{
    const int64_t shape[] = {1, matrix->out, matrix->in, 1};
    struct compensated result;
    struct difference difference = {0};
    int rc;

    *mixture = (struct mixture){0};
    if (matrix->view) {
        rc = compensate(w, matrix->view->feedback, how->dtype, 4, shape, matrix->name, &mixture->q, &result);
        if (!rc)
            mixture->error = result.error, mixture->norm = result.norm;
        return rc;
    }
    mixture->q = tensor_new(DTYPE(F32), 4, shape);
    memcpy(mixture->q.data, w, (size_t)mixture->q.bytes);
    if ((rc = round_nearest(&mixture->q, how->dtype, matrix->name, &difference)))
        mixture_free(mixture);
    mixture->error = difference.squares;
    mixture->norm = difference.norm;
    return rc;
}

struct tensor tensor_copy(const struct tensor *tensor)
{
    struct tensor copy = tensor_new(tensor->dtype, tensor->rank, tensor->shape);

    memcpy(copy.data, tensor->data, (size_t)tensor->bytes);
    return copy;
}

/* d -= U V. */
static void subtract_product(float *d, const struct rounded_matrix *matrix, const struct chain *uv)
{
    int64_t chi = uv->core[1].shape[0];
    float *u = xaligned((size_t)(matrix->out * chi), sizeof *u), *v = xaligned((size_t)(chi * matrix->in), sizeof *v);

    tensor_get(&uv->core[0], u);
    tensor_get(&uv->core[1], v);
    linalg_gemm(-1, matrix_of(u, matrix->out, chi), matrix_of(v, chi, matrix->in), 1,
                matrix_of(d, matrix->out, matrix->in));
    free(u);
    free(v);
}


static void subtract_codes(float *d, const struct tensor *q)
{
    int64_t rows = tensor_rows(q), length = tensor_row_length(q), step = most(1, (1 << 20) / length);
    float *values = xaligned((size_t)(least(step, rows) * length), sizeof *values);

    for (int64_t first = 0; first < rows; first += step) {
        int64_t count = least(step, rows - first) * length;

        tensor_get_rows(q, first, least(step, rows - first), values);
        for (int64_t i = 0; i < count; i++)
            d[first * length + i] -= values[i];
    }
    free(values);
}

static struct dtype residual_dtype(const struct quantization *how)
{
    enum { GROUP = 64 };         /* beside trellis codes */
    struct dtype groups = {.kind = DTYPE_GROUP, .bits = how->residual_bits, .zero = ZERO_NONE,
                           .group = how->dtype.kind == DTYPE_GROUP ? how->dtype.group : GROUP};

    return how->residual_bits == 16 ? DTYPE(F16) : groups;
}

int64_t mixture_residual_bytes(const struct quantization *how, int64_t out, int64_t in)
{
    int64_t chi = least(how->residual_chi, least(out, in));
    struct dtype dtype = residual_dtype(how);

    return chi ? dtype_payload(dtype, 4, (int64_t[]){1, out, 1, chi}) + dtype_payload(dtype, 4,
                                                                                      (int64_t[]){chi, 1, in, 1}) : 0;
}

/* uv, its cores freed before, becomes the fit of d as it is stored. */
static int fit_product(const struct rounded_matrix *matrix, const float *d, const struct quantization *how,
                       struct chain *uv)
{
    int64_t chi = least(how->residual_chi, least(matrix->out, matrix->in));
    double unused;
    int rc;

    tensor_free(&uv->core[0]);
    tensor_free(&uv->core[1]);
    uv->core[0] = tensor_new(DTYPE(F32), 4, (int64_t[]){1, matrix->out, 1, chi});
    uv->core[1] = tensor_new(DTYPE(F32), 4, (int64_t[]){chi, 1, matrix->in, 1});
    rc = aware_low_rank(d, matrix->out, matrix->in, matrix->view ? matrix->view->h : NULL, matrix->name, chi,
                        (float *)(void *)uv->core[0].data, (float *)(void *)uv->core[1].data, &unused);
    return rc ? rc : chain_round(uv, (bool[]){true, true}, residual_dtype(how), matrix->view, matrix->name);
}

/* True, and the pair copied, where it is better. */
static bool keep_better(struct mixture *best, const struct tensor *q, const struct chain *uv, double error)
{
    double norm = best->norm;

    if (best->q.data && !(error < best->error))
        return false;
    mixture_free(best);
    *best = (struct mixture){tensor_copy(q), tensor_copy(&uv->core[0]), tensor_copy(&uv->core[1]), error, norm};
    return true;
}

/* Codes for W - U V, from the second time on; then U V for W - Q, all but the last time; both kept where better. */
static int alternate(const struct rounded_matrix *matrix, const float *w, const struct quantization *how,
                     struct chain *uv, float *d, struct mixture *best)
{
    size_t bytes = (size_t)(matrix->out * matrix->in) * sizeof *d;
    bool better = true;
    int rc = EX_OK;

    for (int i = 0; i <= how->alternations && better && !rc; i++) {
        struct mixture codes;

        memcpy(d, w, bytes);
        if (i > 0)
            subtract_product(d, matrix, uv);
        if ((rc = mixture_round(matrix, d, how, &codes)))
            return rc;
        better = i == 0 || keep_better(best, &codes.q, uv, codes.error);
        if (i < how->alternations) {
            memcpy(d, w, bytes);
            subtract_codes(d, &codes.q);
            if (!(rc = fit_product(matrix, d, how, uv))) {
                subtract_product(d, matrix, uv);
                better |= keep_better(best, &codes.q, uv, weighted_error(matrix->view, d, matrix->out, matrix->in));
            }
        }
        mixture_free(&codes);
    }
    return rc;
}

int mixture_fit(const struct rounded_matrix *matrix, const float *w, const struct quantization *how,
                struct mixture *mixture)
{
    struct tensor core[2] = {0};
    struct chain uv = {2, core};
    float *d = xaligned((size_t)(matrix->out * matrix->in), sizeof *d);
    int rc;

    *mixture = (struct mixture){.norm = weighted_error(matrix->view, w, matrix->out, matrix->in)};
    rc = alternate(matrix, w, how, &uv, d, mixture);
    free(d);
    tensor_free(&core[0]);
    tensor_free(&core[1]);
    if (rc)
        mixture_free(mixture);
    return rc;
}

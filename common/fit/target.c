/* target.c - the sequential target of a layer behind a compressed prefix, and the held-out error that decides whether
 * it is used. */
#include "fit/aware.h"
#include "base/memory.h"
#include "base/number.h"
#include "compute/linalg.h"

#include <stdlib.h>

enum { ROWS = 256 };

const double aware_damping = .01;

bool aware_has_reference(const struct moment_set *set)
{
    return set && set->cross && set->held_cross && set->held.packed;
}

/* The upper factor of H + lambda. */
static int damped_factor(const struct moments *h, double damping, const char *name, double **factor)
{
    int64_t n = h->n;
    double mean = 0, *full = xaligned((size_t)(n * n), sizeof *full);

    moments_full64(h, full);
    for (int64_t i = 0; i < n; i++)
        mean += full[i * n + i] / (double)n;
    mean = mean > 0 ? mean : 1;          /* of inputs that are always zero */
    for (int64_t i = 0; i < n; i++)
        full[i * n + i] += damping * mean;
    if (!linalg_cholesky(n, full)) {
        free(full);
        return fail(EX_DATAERR, "'%s': moments with a damping of %g can't be inverted", name, damping);
    }
    *factor = full;
    return EX_OK;
}

/* In bands of rows: each is read before it is written, so w may be target. */
int aware_target(const float *w, int64_t out, const struct moment_set *set, double damping, float *target)
{
    int64_t n = set->h.n;
    float *product = xaligned((size_t)(least(ROWS, out) * n), sizeof *product);
    double *factor = NULL, *rows = xaligned((size_t)(least(ROWS, out) * n), sizeof *rows);
    int rc = damped_factor(&set->h, damping, set->name, &factor);

    for (int64_t first = 0; first < out && !rc; first += ROWS) {
        int64_t count = least(ROWS, out - first);

        linalg_gemm(1, matrix_of(w + first * n, count, n), matrix_of(set->cross, n, n), 0,
                    matrix_of(product, count, n));
        for (int64_t i = 0; i < count * n; i++)
            rows[i] = product[i];
        linalg_solve64(rows, count, n, factor, n, false);
        linalg_solve64(rows, count, n, factor, n, true);
        for (int64_t i = 0; i < count * n; i++)
            target[first * n + i] = (float)rows[i];
    }
    free(factor);
    free(product);
    free(rows);
    return rc;
}

/* tr(W C W'') */
static double cross_term(const float *w, const float *fitted, int64_t out, const float *cross, int64_t n)
{
    float *product = xaligned((size_t)(least(ROWS, out) * n), sizeof *product);
    double sum = 0;

    for (int64_t first = 0; first < out; first += ROWS) {
        int64_t count = least(ROWS, out - first);

        linalg_gemm(1, matrix_of(w + first * n, count, n), matrix_of(cross, n, n), 0, matrix_of(product, count, n));
        for (int64_t i = 0; i < count * n; i++)
            sum += (double)product[i] * fitted[first * n + i];
    }
    free(product);
    return sum;
}

double aware_held_out(const float *w, const float *fitted, int64_t out, const struct moment_set *set)
{
    return moments_error(&set->held, fitted, out) - 2 * cross_term(w, fitted, out, set->held_cross, set->held.n);
}

/* linalg_cholesky.c - the Cholesky factor of a large matrix, in place, in tiles fixed by its order. */
#include "compute/linalg.h"
#include "base/number.h"
#include "base/parallel.h"

#include <cblas.h>
#include <lapacke.h>
#include <assert.h>
#include <limits.h>

enum { STEP = 128, TILE = 256 };

/* Rows first..first+size-1 of r are final; what is behind them isn't yet. */
struct step {
    int64_t n, first, size, after, tiles;
    double *a;
};

/* r[step, tile] = r[step, step]'^-1 a[step, tile] */
static void solve_tile(void *context, int64_t item, int thread)
{
    const struct step *s = context;
    int64_t column = s->after + item * TILE;

    (void)thread;
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, (int)s->size,
                (int)least(TILE, s->n - column), 1, s->a + s->first * s->n + s->first, (int)s->n,
                s->a + s->first * s->n + column, (int)s->n);
}

/* a[i, j] -= r[step, i]' r[step, j] for a pair of tiles, i <= j */
static void update_tile(void *context, int64_t item, int thread)
{
    const struct step *s = context;
    int64_t row = 0, i, j;

    (void)thread;
    while (item >= s->tiles - row)
        item -= s->tiles - row++;
    i = s->after + row * TILE;
    j = i + item * TILE;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)least(TILE, s->n - i), (int)least(TILE, s->n - j),
                (int)s->size, -1, s->a + s->first * s->n + i, (int)s->n, s->a + s->first * s->n + j, (int)s->n, 1,
                s->a + i * s->n + j, (int)s->n);
}

bool linalg_cholesky(int64_t n, double *a)
{
    assert(n <= INT_MAX);
    for (int64_t first = 0; first < n; first += STEP) {
        struct step s = {.n = n, .first = first, .size = least(STEP, n - first), .a = a};

        s.after = first + s.size;
        s.tiles = divide_up(n - s.after, TILE);
        if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)s.size, a + first * n + first, (lapack_int)n))
            return false;
        parallel_for(s.tiles, solve_tile, &s);
        parallel_for(s.tiles * (s.tiles + 1) / 2, update_tile, &s);
    }
    return true;
}

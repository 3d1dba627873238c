/* compensate_trellis.c - trellis codes with feedback: tile by tile of 16 columns, the error of each made up for by
 * the columns that are still to come, as compensate_feedback() does it with single columns. */
#include "fit/compensate_internal.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "compute/trellis.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The deviation of the values of all states, and, by rate in half bits, that of the values for numbers of deviation 1
 * which gave the least error on normal numbers: as rate-distortion theory has it, less than 1 for a low rate; more
 * for a high one, where the ends of the range count. */
static const double deviation = TRELLIS_SPREAD / TRELLIS_ONE;
static const double spread[] = {[2] = .94, [3] = 1, [4] = 1.04, [5] = 1.08, [6] = 1.1, [7] = 1.13, [8] = 1.14};

enum { BAND = 1 << 22 };         /* numbers whose product with H is made at once */

struct trellis_fit {
    const float *w;              /* [rows, n] */
    const struct feedback *feedback;     /* NULL: none */
    struct tensor *to;
    struct trellis_layout layout;
    struct trellis_search *search;
    float *scale;                /* [rows] as stored */
    float *error;                /* [n, rows] W - W', the columns in the order of the feedback */
    float *shift;                /* [TRELLIS_TILE, rows] what errors before the block make of it */
    int64_t first, count, column;        /* the block in that order; its first column */
    char *room;
    size_t room_bytes;
};

static uint16_t *scales_of(const struct trellis_fit *f)
{
    return (uint16_t *)(void *)(f->to->data + f->layout.scale);
}

/* Half bits per weight. */
static int rate_of(struct dtype dtype)
{
    return 2 * dtype.bits / dtype.step;
}

static void first_scale(void *context, int64_t row, int thread)
{
    struct trellis_fit *f = context;
    int64_t n = f->layout.length;
    double sum = 0;

    (void)thread;
    for (int64_t i = 0; i < n; i++)
        sum += (double)f->w[row * n + i] * f->w[row * n + i];
    scales_of(f)[row] = half_from_float((float)(sqrt(sum / (double)n) / deviation * spread[rate_of(f->to->dtype)]));
}

/* False where one is too large. */
static bool read_scales(struct trellis_fit *f)
{
    bool good = true;

    for (int64_t row = 0; row < f->layout.rows; row++) {
        f->scale[row] = half_to_float(scales_of(f)[row]);
        good = good && isfinite(f->scale[row]);
    }
    return good;
}

/* shift [width] of one row: S, what the columns before the block ask of each of its columns, times the inverse of the
 * block's own triangle of the factor. */
static void solve_shift(const struct trellis_fit *f, int64_t row, int width, float *shift)
{
    for (int j = 0; j < width; j++) {
        const float *u = f->feedback->factor + (f->first + j) * f->layout.length + f->first;

        shift[j] = f->shift[j * f->layout.rows + row];
        for (int i = 0; i < j; i++)
            shift[j] -= u[i] * shift[i];
    }
}

static void encode_tile(void *context, int64_t item, int thread)
{
    struct trellis_fit *f = context;
    struct trellis_tile tile = trellis_tile(f->to->dtype, &f->layout, item, f->column / TRELLIS_TILE);
    int64_t n = f->layout.length, top = item * TRELLIS_TILE;
    float x[TRELLIS_WEIGHTS], value[TRELLIS_WEIGHTS + 1], shift[TRELLIS_TILE] = {0};
    uint32_t state[TRELLIS_WEIGHTS];

    for (int r = 0; r < tile.height; r++) {
        float inverse = inverse_scale(f->scale[top + r]);

        if (f->feedback)
            solve_shift(f, top + r, tile.width, shift);
        for (int j = 0; j < tile.width; j++)
            x[j * tile.height + r] = (f->w[(top + r) * n + f->column + j] + shift[j]) * inverse;
    }
    trellis_search(f->search, x, tile.count, f->room + (size_t)thread * f->room_bytes, state);
    trellis_pack(f->to->dtype, tile.steps, state, f->to->data + tile.at);
    trellis_values(f->to->dtype, tile.steps, state, value);
    for (int j = 0; f->feedback && j < tile.width; j++)
        for (int r = 0; r < tile.height; r++)
            f->error[(f->first + j) * f->layout.rows + top + r]
                = f->w[(top + r) * n + f->column + j] - f->scale[top + r] / TRELLIS_ONE * value[j * tile.height + r];
}

/* Block by block in the order of the feedback; without, from left to right. */
static void encode(struct trellis_fit *f)
{
    int64_t n = f->layout.length, rows = f->layout.rows;

    for (f->first = 0; f->first < n; f->first += f->count) {
        f->column = f->feedback ? f->feedback->order[f->first] : f->first;
        f->count = least(TRELLIS_TILE, n - f->column);
        if (f->feedback)
            linalg_gemm(1, matrix_columns(matrix_of(f->feedback->factor + f->first * n, f->count, n), 0, f->first),
                        matrix_of(f->error, f->first, rows), 0, matrix_of(f->shift, f->count, rows));
        parallel_for(f->layout.tile_rows, encode_tile, f);
    }
}

/* Rows first..first+rows-1 of W, those of W' in units of their scales, and these times H. */
struct refitting {
    struct trellis_fit *f;
    int64_t first;
    const float *q, *product;
};

/* The scale of least tr(D H D') for the codes: w H q / q H q. */
static void refit_row(void *context, int64_t item, int thread)
{
    const struct refitting *p = context;
    int64_t n = p->f->layout.length, row = p->first + item;
    const float *w = p->f->w + row * n, *q = p->q + item * n, *product = p->product + item * n;
    double common = 0, square = 0;
    float scale;

    (void)thread;
    for (int64_t i = 0; i < n; i++) {
        common += (double)w[i] * product[i];
        square += (double)q[i] * product[i];
    }
    scale = square > 0 ? p->f->scale[row] * (float)(common / square) : 0;
    if (scale > 0 && isfinite(half_to_float(half_from_float(scale))))
        scales_of(p->f)[row] = half_from_float(scale);
}

static void refit_scales(struct trellis_fit *f, const struct moments *h)
{
    int64_t n = f->layout.length, rows = f->layout.rows, band = least(rows, BAND / n + 1);
    float *q = xaligned((size_t)(band * n), sizeof *q), *product = xaligned((size_t)(band * n), sizeof *product);

    for (int64_t first = 0; first < rows; first += band) {
        int64_t count = least(band, rows - first);
        struct refitting p = {f, first, q, h ? product : q};

        tensor_get_rows(f->to, first, count, q);
        if (h)
            moments_times(h, q, count, product);
        parallel_for(count, refit_row, &p);
    }
    free(q);
    free(product);
}

static struct compensated measure(struct trellis_fit *f, const struct moments *h)
{
    int64_t rows = f->layout.rows, count = rows * f->layout.length;

    tensor_get(f->to, f->error);                 /* from here on [rows, n] */
    for (int64_t i = 0; i < count; i++)
        f->error[i] = f->w[i] - f->error[i];
    return h ? (struct compensated){moments_error(h, f->error, rows), moments_error(h, f->w, rows)}
             : (struct compensated){linalg_sum_squares(f->error, count), linalg_sum_squares(f->w, count)};
}

static int fit(struct trellis_fit *f, const char *name, struct compensated *result)
{
    const struct moments *h = f->feedback ? f->feedback->h : NULL;

    if (!isfinite(linalg_sum_squares(f->w, f->layout.rows * f->layout.length)))
        return fail(EX_DATAERR, "'%s': a value is not finite", name);
    parallel_for(f->layout.rows, first_scale, f);
    if (!read_scales(f))
        return fail(EX_DATAERR, "'%s': a scale is too large for f16", name);
    encode(f);
    refit_scales(f, h);
    *result = measure(f, h);
    return EX_OK;
}

int compensate_trellis(const float *w, const struct feedback *feedback, struct dtype dtype, int rank,
                       const int64_t *shape, const char *name, struct tensor *to, struct compensated *result)
{
    struct trellis_fit f = {.w = w, .feedback = feedback, .to = to};
    int rc;

    assert(!feedback || feedback->block == TRELLIS_TILE);
    *to = tensor_new(dtype, rank, shape);
    trellis_layout(dtype, rank, shape, &f.layout);
    f.search = trellis_search_new(dtype, NULL);
    f.room_bytes = (trellis_search_room(f.search) + 63) / 64 * 64;
    f.room = xaligned((size_t)parallel_threads(), f.room_bytes);
    f.scale = xaligned((size_t)f.layout.rows, sizeof *f.scale);
    f.error = xaligned((size_t)(f.layout.rows * f.layout.length), sizeof *f.error);
    f.shift = xaligned((size_t)(TRELLIS_TILE * f.layout.rows), sizeof *f.shift);
    rc = fit(&f, name, result);
    trellis_search_free(f.search);
    free(f.room);
    free(f.scale);
    free(f.error);
    free(f.shift);
    if (rc)
        tensor_free(to);
    return rc;
}

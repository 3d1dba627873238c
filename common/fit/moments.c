/* moments.c - second moments in memory: both triangles, the error that they give to a change, records of a file. */
#include "fit/moments.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"

#include <stdlib.h>

enum {
    TILE = 64,                   /* columns of full that are written together */
    COLUMNS = 256,               /* of a band that are, and rows of one in a product */
    BAND = 128,                  /* rows of H in double at a time */
    BAND_BYTES = 16 << 20,       /* of rows of D in double */
    BAND_LEAST = 64,             /* of these rows */
};

struct full {
    const struct moments *h;
    float *single;
    double *wide;                /* one of both */
};

static void put(const struct full *f, int64_t i, int64_t j, float value)
{
    if (f->single)
        f->single[i * f->h->n + j] = value;
    else
        f->wide[i * f->h->n + j] = value;
}

/* Rows of a tile: left of the diagonal from the triangle's own rows, right of it tile by tile from those below. */
static void full_rows(void *context, int64_t item, int thread)
{
    const struct full *f = context;
    const float *packed = f->h->packed;
    int64_t n = f->h->n, from = item * TILE, to = least(from + TILE, n);

    (void)thread;
    for (int64_t i = from; i < to; i++)
        for (int64_t j = 0; j <= i; j++)
            put(f, i, j, packed[i * (i + 1) / 2 + j]);
    for (int64_t tile = from; tile < n; tile += TILE)
        for (int64_t i = from; i < to; i++)
            for (int64_t j = most(tile, i + 1); j < least(tile + TILE, n); j++)
                put(f, i, j, packed[j * (j + 1) / 2 + i]);
}

void moments_full(const struct moments *h, float *full)
{
    parallel_for(divide_up(h->n, TILE), full_rows, &(struct full){.h = h, .single = full});
}

void moments_full64(const struct moments *h, double *full)
{
    parallel_for(divide_up(h->n, TILE), full_rows, &(struct full){.h = h, .wide = full});
}

struct band {
    const struct moments *h;
    int64_t first, rows;
    float *to;
};

/* Columns of the band: left of the diagonal they are rows of the triangle, right of it pieces of later rows. */
static void band_columns(void *context, int64_t item, int thread)
{
    const struct band *b = context;
    const float *packed = b->h->packed;
    int64_t n = b->h->n, from = item * COLUMNS, to = least(from + COLUMNS, n);

    (void)thread;
    for (int64_t j = from; j < to; j++)
        for (int64_t i = b->first; i < b->first + b->rows; i++)
            b->to[(i - b->first) * n + j] = j <= i ? packed[i * (i + 1) / 2 + j] : packed[j * (j + 1) / 2 + i];
}

void moments_band(const struct moments *h, int64_t first, int64_t rows, float *to)
{
    parallel_for(divide_up(h->n, COLUMNS), band_columns, &(struct band){h, first, rows, to});
}

void moments_times(const struct moments *h, const float *x, int64_t rows, float *y)
{
    int64_t n = h->n;
    float *band = xaligned((size_t)(least(COLUMNS, n) * n), sizeof *band);
    struct matrix all = matrix_of(y, rows, n);

    for (int64_t first = 0; first < n; first += COLUMNS) {
        int64_t count = least(COLUMNS, n - first);

        moments_band(h, first, count, band);
        linalg_gemm(1, matrix_of(x, rows, n), matrix_turn(matrix_of(band, count, n)), 0,
                    matrix_columns(all, first, count));
    }
    free(band);
}

/* tr(D H D') = sum of d[r, i] (D L')[r, i], where L is the lower triangle of H with its entries off the diagonal
 * doubled. In double throughout: D often lies where H is small, and what is left of large terms is the result. */
struct error {
    const struct moments *h;
    const float *d;
    int64_t first, count;        /* rows of H at hand */
    double *l;                   /* [BAND, n] */
    double *wide;                /* rows of D */
    double *product;             /* [rows, BAND] */
    double *sum;                 /* [rows] */
};

static void widen_row(void *context, int64_t r, int thread)
{
    const struct error *e = context;

    (void)thread;
    for (int64_t i = 0; i < e->h->n; i++)
        e->wide[r * e->h->n + i] = e->d[r * e->h->n + i];
}

static void band_row(void *context, int64_t b, int thread)
{
    const struct error *e = context;
    int64_t i = e->first + b, last = e->first + e->count;
    const float *row = e->h->packed + i * (i + 1) / 2;
    double *l = e->l + b * e->h->n;

    (void)thread;
    for (int64_t j = 0; j < i; j++)
        l[j] = 2 * (double)row[j];
    l[i] = row[i];
    for (int64_t j = i + 1; j < last; j++)
        l[j] = 0;
}

static void sum_row(void *context, int64_t r, int thread)
{
    const struct error *e = context;
    double sum = 0;

    (void)thread;
    for (int64_t b = 0; b < e->count; b++)
        sum += e->product[r * BAND + b] * e->wide[r * e->h->n + e->first + b];
    e->sum[r] += sum;
}

/* The sum over some rows of D that are there in double. */
static double error_of_rows(struct error *e, int64_t rows)
{
    int64_t n = e->h->n;
    double sum = 0;

    parallel_for(rows, widen_row, e);
    for (int64_t r = 0; r < rows; r++)
        e->sum[r] = 0;
    for (e->first = 0; e->first < n; e->first += BAND) {
        struct matrix64 d = {e->wide, rows, least(e->first + BAND, n), n, false};
        struct matrix64 product = {e->product, rows, least(BAND, n - e->first), BAND, false};

        e->count = product.columns;
        parallel_for(e->count, band_row, e);
        linalg_gemm64(1, d, matrix64_turn((struct matrix64){e->l, e->count, d.columns, n, false}), 0, product);
        parallel_for(rows, sum_row, e);
    }
    for (int64_t r = 0; r < rows; r++)
        sum += e->sum[r];
    return sum;
}

double moments_error(const struct moments *h, const float *d, int64_t rows)
{
    int64_t step = least(most(BAND_BYTES / (h->n * (int64_t)sizeof(double)), BAND_LEAST), rows);
    struct error e = {.h = h};
    double sum = 0;

    if (rows < 1)
        return 0;
    e.l = xaligned((size_t)(BAND * h->n), sizeof *e.l);
    e.wide = xaligned((size_t)(step * h->n), sizeof *e.wide);
    e.product = xaligned((size_t)(step * BAND), sizeof *e.product);
    e.sum = xmallocarray((size_t)step, sizeof *e.sum);
    for (int64_t row = 0; row < rows; row += step) {
        e.d = d + row * h->n;
        sum += error_of_rows(&e, least(step, rows - row));
    }
    free(e.l);
    free(e.wide);
    free(e.product);
    free(e.sum);
    return sum > 0 ? sum : 0;
}

/* A record of the set, of n numbers a side; where packed, of one triangle. */
static int put_part(struct writer *writer, const struct moment_set *set, const char *suffix, const float *data,
                    int64_t tokens, bool packed)
{
    int64_t n = set->h.n, count = packed ? n * (n + 1) / 2 : n * n;
    struct record record = {.kind = RECORD_OTHER, .n_term = 1, .n_site = 1, .dtype = DTYPE(U8)};
    struct json *shape = json_make_array();
    int rc;

    record.name = xasprintf("%s%s", set->name, suffix);
    record.bytes = count * (int64_t)sizeof *data;
    record.map = json_make_object();
    for (int axis = 0; axis < (packed ? 1 : 2); axis++)
        json_append(shape, json_make_int(packed ? count : n));
    json_put(record.map, "kind", json_make_string("moments"));
    json_put(record.map, "name", json_make_string(record.name));
    json_put(record.map, "dtype", json_make_string("f32"));
    json_put(record.map, "shape", shape);
    json_put(record.map, "bytes", json_make_int(record.bytes));
    json_put(record.map, "width", json_make_int(n));
    json_put(record.map, "tokens", json_make_int(tokens));
    if (!*suffix)
        json_put(record.map, "weights", json_make_strings((const char *const *)set->weight, set->n_weight));
    rc = writer_put(writer, &record, data);
    record_free(&record);
    return rc;
}

int moments_write(struct writer *writer, const struct moment_set *set)
{
    const struct moments *h = &set->h, *held = &set->held;
    int rc = put_part(writer, set, "", h->packed, h->tokens, true);

    if (!rc && set->cross)
        rc = put_part(writer, set, ".cross", set->cross, h->tokens, false);
    if (!rc && held->packed)
        rc = put_part(writer, set, ".held", held->packed, held->tokens, true);
    if (!rc && set->held_cross)
        rc = put_part(writer, set, ".held.cross", set->held_cross, held->tokens, false);
    return rc;
}

void moment_set_free(struct moment_set *set)
{
    for (int i = 0; i < set->n_weight; i++)
        free(set->weight[i]);
    free(set->weight);
    free(set->name);
    free(set->h.packed);
    free(set->cross);
    free(set->held.packed);
    free(set->held_cross);
    *set = (struct moment_set){0};
}

/* linalg.c - views, and products in tiles fixed by the shapes. */
#include "compute/linalg.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <cblas.h>
#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    TILES = 16,              /* a product is cut into about as many tiles as this */
    TILE_LEAST = 128,        /* shorter edges waste the kernels' time in packing */
    CHUNK_LEAST = 1024,      /* likewise along the summed index */
    PARTIAL_MOST = 1 << 22,  /* elements of partial sums kept */
    GRAM_TILE = 192, GRAM_DEPTH = 256,
    SUM_BLOCK = 1 << 16,
};

struct matrix matrix_of(const float *data, int64_t rows, int64_t columns)
{
    return (struct matrix){(float *)data, rows, columns, columns > 0 ? columns : 1, false};
}

struct matrix64 matrix64_of(const double *data, int64_t rows, int64_t columns)
{
    return (struct matrix64){(double *)data, rows, columns, columns > 0 ? columns : 1, false};
}

struct matrix matrix_turn(struct matrix a)
{
    return (struct matrix){a.data, a.columns, a.rows, a.stride, !a.turned};
}

struct matrix64 matrix64_turn(struct matrix64 a)
{
    return (struct matrix64){a.data, a.columns, a.rows, a.stride, !a.turned};
}

struct matrix matrix_rows(struct matrix a, int64_t first, int64_t rows)
{
    assert(first >= 0 && rows >= 0 && first + rows <= a.rows);
    a.data += a.turned ? first : first * a.stride;
    a.rows = rows;
    return a;
}

struct matrix matrix_columns(struct matrix a, int64_t first, int64_t columns)
{
    return matrix_turn(matrix_rows(matrix_turn(a), first, columns));
}

/* Before main: parallel_for() is the only source of threads. */
__attribute__((constructor)) static void set_one_thread(void)
{
    openblas_set_num_threads(1);
}

/* One product of either width; a, b, c are row-major with c never turned. */
struct product {
    int64_t m, n, k;
    int64_t a_stride, b_stride, c_stride;
    bool a_turned, b_turned, wide;          /* wide: double */
    const void *a, *b;
    void *c, *partial;                      /* partial [chunks - 1, m, n], or NULL */
    double alpha, beta;
    int64_t tile_m, tile_n, tiles_n, tiles, chunk, chunks;
};

/* How a product is cut: a function of m, n, k alone. */
static void product_cut(struct product *p)
{
    int64_t tiles_m = 1, tiles_n = 1;

    while (tiles_m * tiles_n < TILES) {
        bool tall = p->m / tiles_m >= p->n / tiles_n;

        if ((tall ? p->m / tiles_m : p->n / tiles_n) < 2 * TILE_LEAST)
            break;
        *(tall ? &tiles_m : &tiles_n) *= 2;
    }
    /* Whole multiples of 16 keep the kernels off their edge cases. */
    p->tile_m = ((p->m + tiles_m - 1) / tiles_m + 15) / 16 * 16;
    p->tile_n = ((p->n + tiles_n - 1) / tiles_n + 15) / 16 * 16;
    tiles_m = (p->m + p->tile_m - 1) / p->tile_m;
    p->tiles_n = (p->n + p->tile_n - 1) / p->tile_n;
    p->tiles = tiles_m * p->tiles_n;
    p->chunks = 1;
    while (p->tiles * p->chunks < TILES / 2 && p->k / p->chunks >= 2 * CHUNK_LEAST
           && 2 * p->chunks * p->m * p->n <= PARTIAL_MOST)
        p->chunks *= 2;
    p->chunk = (p->k + p->chunks - 1) / p->chunks;
}

static const void *element(const struct product *p, const void *base, int64_t index)
{
    return (const char *)base + index * (int64_t)(p->wide ? sizeof(double) : sizeof(float));
}

static void product_item(void *context, int64_t item, int thread)
{
    const struct product *p = context;
    int64_t chunk = item / p->tiles, tile = item % p->tiles;
    int64_t i = tile / p->tiles_n * p->tile_m, j = tile % p->tiles_n * p->tile_n, l = chunk * p->chunk;
    int m = (int)(p->m - i < p->tile_m ? p->m - i : p->tile_m);
    int n = (int)(p->n - j < p->tile_n ? p->n - j : p->tile_n);
    int k = (int)(p->k - l < p->chunk ? p->k - l : p->chunk);
    const void *a = element(p, p->a, p->a_turned ? l * p->a_stride + i : i * p->a_stride + l);
    const void *b = element(p, p->b, p->b_turned ? j * p->b_stride + l : l * p->b_stride + j);
    /* The first chunk goes to c itself, the others are added later in their order. */
    void *c = (void *)element(p, chunk ? p->partial : p->c,
                              chunk ? (chunk - 1) * p->m * p->n + i * p->n + j : i * p->c_stride + j);
    int c_stride = (int)(chunk ? p->n : p->c_stride);
    double beta = chunk ? 0 : p->beta;
    enum CBLAS_TRANSPOSE ta = p->a_turned ? CblasTrans : CblasNoTrans, tb = p->b_turned ? CblasTrans : CblasNoTrans;

    (void)thread;
    if (p->wide)
        cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, p->alpha, a, (int)p->a_stride, b, (int)p->b_stride, beta, c,
                    c_stride);
    else
        cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, (float)p->alpha, a, (int)p->a_stride, b, (int)p->b_stride,
                    (float)beta, c, c_stride);
}

/* Adds the partial sums of one row. */
static void product_row(void *context, int64_t i, int thread)
{
    const struct product *p = context;

    (void)thread;
    for (int64_t chunk = 0; chunk < p->chunks - 1; chunk++)
        for (int64_t j = 0; j < p->n; j++)
            if (p->wide)
                ((double *)p->c)[i * p->c_stride + j] += ((double *)p->partial)[(chunk * p->m + i) * p->n + j];
            else
                ((float *)p->c)[i * p->c_stride + j] += ((float *)p->partial)[(chunk * p->m + i) * p->n + j];
}

static void product_clear(struct product *p)
{
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++)
            if (p->wide)
                ((double *)p->c)[i * p->c_stride + j] = p->beta ? p->beta * ((double *)p->c)[i * p->c_stride + j] : 0;
            else
                ((float *)p->c)[i * p->c_stride + j]
                    = p->beta ? (float)p->beta * ((float *)p->c)[i * p->c_stride + j] : 0;
}

static void product_run(struct product *p)
{
    assert(p->a_stride <= INT_MAX && p->b_stride <= INT_MAX && p->c_stride <= INT_MAX);
    if (p->m <= 0 || p->n <= 0)
        return;
    if (p->k <= 0) {
        product_clear(p);
        return;
    }
    product_cut(p);
    if (p->chunks > 1)
        p->partial = xaligned((size_t)((p->chunks - 1) * p->m * p->n), p->wide ? sizeof(double) : sizeof(float));
    parallel_for(p->tiles * p->chunks, product_item, p);
    if (p->chunks > 1)
        parallel_for(p->m, product_row, p);
    free(p->partial);
}

void linalg_gemm(float alpha, struct matrix a, struct matrix b, float beta, struct matrix c)
{
    struct product p;

    if (c.turned) {                         /* c' = b' a' */
        linalg_gemm(alpha, matrix_turn(b), matrix_turn(a), beta, matrix_turn(c));
        return;
    }
    assert(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows);
    p = (struct product){.m = c.rows, .n = c.columns, .k = a.columns, .alpha = alpha, .beta = beta,
                         .a = a.data, .a_stride = a.stride, .a_turned = a.turned,
                         .b = b.data, .b_stride = b.stride, .b_turned = b.turned, .c = c.data, .c_stride = c.stride};
    product_run(&p);
}

void linalg_gemm64(double alpha, struct matrix64 a, struct matrix64 b, double beta, struct matrix64 c)
{
    struct product p;

    if (c.turned) {
        linalg_gemm64(alpha, matrix64_turn(b), matrix64_turn(a), beta, matrix64_turn(c));
        return;
    }
    assert(a.rows == c.rows && b.columns == c.columns && a.columns == b.rows);
    p = (struct product){.m = c.rows, .n = c.columns, .k = a.columns, .alpha = alpha, .beta = beta, .wide = true,
                         .a = a.data, .a_stride = a.stride, .a_turned = a.turned,
                         .b = b.data, .b_stride = b.stride, .b_turned = b.turned, .c = c.data, .c_stride = c.stride};
    product_run(&p);
}

struct gram {
    struct matrix a;
    double *g, *partial;                    /* partial [chunks - 1, rows, rows] */
    double *space;                          /* [threads, 2, GRAM_TILE * GRAM_DEPTH] */
    int64_t pairs, chunk, chunks;
};

/* Tile number pair of the lower triangle: its row and column. */
static void gram_pair(int64_t pair, int64_t *row, int64_t *column)
{
    for (*row = 0; pair > *row; ++*row)
        pair -= *row + 1;
    *column = pair;
}

/* Part of a in double, kept in a's own order; its stride is the number of columns, or of rows where turned. */
static void widen(struct matrix a, double *out)
{
    int64_t lines = a.turned ? a.columns : a.rows, length = a.turned ? a.rows : a.columns;

    for (int64_t i = 0; i < lines; i++)
        for (int64_t j = 0; j < length; j++)
            out[i * length + j] = a.data[i * a.stride + j];
}

static void gram_item(void *context, int64_t item, int thread)
{
    const struct gram *p = context;
    int64_t d = p->a.rows, chunk = item / p->pairs, i, j, end = (chunk + 1) * p->chunk;
    double *left = p->space + (int64_t)thread * 2 * GRAM_TILE * GRAM_DEPTH, *right = left + GRAM_TILE * GRAM_DEPTH;
    double *out = chunk ? p->partial + (chunk - 1) * d * d : p->g;
    int m, n;

    gram_pair(item % p->pairs, &i, &j);
    i *= GRAM_TILE;
    j *= GRAM_TILE;
    m = (int)(d - i < GRAM_TILE ? d - i : GRAM_TILE);
    n = (int)(d - j < GRAM_TILE ? d - j : GRAM_TILE);
    end = end < p->a.columns ? end : p->a.columns;
    for (int64_t l = chunk * p->chunk; l < end; l += GRAM_DEPTH) {
        int k = (int)(end - l < GRAM_DEPTH ? end - l : GRAM_DEPTH);
        struct matrix slice = matrix_columns(p->a, l, k);
        double beta = l > chunk * p->chunk;

        widen(matrix_rows(slice, i, m), left);
        if (i != j)
            widen(matrix_rows(slice, j, n), right);
        cblas_dgemm(CblasRowMajor, p->a.turned ? CblasTrans : CblasNoTrans, p->a.turned ? CblasNoTrans : CblasTrans,
                    m, n, k, 1, left, p->a.turned ? m : k, i == j ? left : right, p->a.turned ? n : k, beta,
                    out + i * d + j, (int)d);
    }
}

static void gram_row(void *context, int64_t i, int thread)
{
    const struct gram *p = context;
    int64_t d = p->a.rows;

    (void)thread;
    for (int64_t chunk = 0; chunk < p->chunks - 1; chunk++)
        for (int64_t j = 0; j <= i; j++)
            p->g[i * d + j] += p->partial[(chunk * d + i) * d + j];
    for (int64_t j = 0; j < i; j++)
        p->g[j * d + i] = p->g[i * d + j];
}

void linalg_gram(struct matrix a, double *g)
{
    struct gram p = {.a = a, .g = g, .chunks = 1};
    int64_t tiles = (a.rows + GRAM_TILE - 1) / GRAM_TILE;

    assert(a.rows <= INT_MAX && a.stride <= INT_MAX);
    if (a.columns == 0)
        memset(g, 0, (size_t)(a.rows * a.rows) * sizeof *g);
    if (a.columns == 0 || a.rows == 0)
        return;
    p.pairs = tiles * (tiles + 1) / 2;
    while (p.pairs * p.chunks < TILES / 2 && a.columns / p.chunks >= 2 * GRAM_DEPTH)
        p.chunks *= 2;
    p.chunk = (a.columns + p.chunks - 1) / p.chunks;
    p.partial = p.chunks > 1 ? xaligned((size_t)((p.chunks - 1) * a.rows * a.rows), sizeof *g) : NULL;
    p.space = xaligned((size_t)parallel_threads(), 2 * GRAM_TILE * GRAM_DEPTH * sizeof *g);
    parallel_for(p.pairs * p.chunks, gram_item, &p);
    parallel_for(a.rows, gram_row, &p);
    free(p.partial);
    free(p.space);
}

struct sum {
    const float *values;
    int64_t count;
    double *sums;
};

static void sum_item(void *context, int64_t item, int thread)
{
    const struct sum *p = context;
    int64_t first = item * SUM_BLOCK, count = p->count - first < SUM_BLOCK ? p->count - first : SUM_BLOCK;
    const float *values = p->values + first;
    double lane[16] = {0}, sum = 0;
    int64_t i = 0;

    (void)thread;
    for (; i + 16 <= count; i += 16)        /* independent lanes, so that the compiler may use vectors */
        for (int j = 0; j < 16; j++)
            lane[j] += (double)values[i + j] * values[i + j];
    for (; i < count; i++)
        sum += (double)values[i] * values[i];
    for (int j = 0; j < 16; j++)
        sum += lane[j];
    p->sums[item] = sum;
}

double linalg_sum_squares(const float *values, int64_t count)
{
    int64_t blocks = (count + SUM_BLOCK - 1) / SUM_BLOCK;
    struct sum p = {values, count, xmallocarray((size_t)blocks, sizeof(double))};
    double sum = 0;

    parallel_for(blocks, sum_item, &p);
    for (int64_t i = 0; i < blocks; i++)
        sum += p.sums[i];
    free(p.sums);
    return sum;
}

/* contract.c - multiplies chains of cores out into W, in bands of rows. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/linalg.h"
#include "operator/operator.h"

#include <stdlib.h>
#include <string.h>

static float *core_floats(const struct tensor *core)
{
    float *values = xaligned((size_t)tensor_count(core), sizeof *values);

    tensor_get(core, values);
    return values;
}

bool chain_is_low_rank(const struct chain *chain)
{
    return chain->n_site == 2 && chain->core[0].shape[2] == 1 && chain->core[1].shape[1] == 1;
}

/* The product of all cores but the first: [chi, (o1 i1), (o2 i2), ...]. From the left: what stands so far is
 * [rows, bond], the next core [bond, (o i bond')]. */
static float *multiply_rest(const struct chain *chain)
{
    const struct tensor *core = &chain->core[1];
    float *left = core_floats(core);
    int64_t rows = core->shape[0] * core->shape[1] * core->shape[2];

    for (int s = 2; s < chain->n_site; s++) {
        const int64_t *shape = chain->core[s].shape;
        int64_t columns = shape[1] * shape[2] * shape[3];
        float *next = core_floats(&chain->core[s]), *product = xaligned((size_t)(rows * columns), sizeof *product);

        linalg_gemm(1, matrix_of(left, rows, shape[0]), matrix_of(next, shape[0], columns), 0,
                    matrix_of(product, rows, columns));
        free(left);
        free(next);
        left = product;
        rows *= shape[1] * shape[2];
    }
    return left;
}

static int64_t common_multiple(int64_t a, int64_t b)
{
    int64_t x = a, y = b;

    while (y) {
        int64_t rest = x % y;

        x = y;
        y = rest;
    }
    return a / x * b;
}

void contraction_begin(struct contraction *c, const struct operator *op)
{
    *c = (struct contraction){.op = op, .band = op->output.block ? op->out : 1,
                              .left = xcalloc((size_t)op->n_term, sizeof *c->left),
                              .rest = xcalloc((size_t)op->n_term, sizeof *c->rest)};
    for (int t = 0; t < op->n_term; t++) {
        const struct chain *chain = &op->term[t];

        if (chain->n_site == 1 || !op->out || !op->in)
            continue;
        c->left[t] = core_floats(&chain->core[0]);
        c->rest[t] = multiply_rest(chain);
        if (!chain_is_low_rank(chain))               /* an o_0 has all its rows at once */
            c->band = common_multiple(c->band, op->out / chain->core[0].shape[1]);
    }
}

void contraction_end(struct contraction *c)
{
    for (int t = 0; t < c->op->n_term; t++) {
        free(c->left[t]);
        free(c->rest[t]);
    }
    free(c->left);
    free(c->rest);
    *c = (struct contraction){0};
}

struct placing {
    const struct chain *chain;
    const float *product;        /* [(o0 i0), (o1 i1), ...] of the o0 at hand */
    float *w;
    int64_t in;
    bool add;
};

/* Digits of a row index, first most significant. */
static void split_row(const struct chain *chain, int64_t row, int64_t *digit)
{
    for (int s = chain->n_site - 1; s > 0; s--) {
        digit[s] = row % chain->core[s].shape[1];
        row /= chain->core[s].shape[1];
    }
    digit[0] = row;
}

/* One row of W out of the product in site order: the offset of (o, i) is the sum over sites of a part fixed by the
 * row and a part fixed by the column, so the columns run like an odometer. */
static void place_row(void *context, int64_t row, int thread)
{
    const struct placing *p = context;
    const struct chain *chain = p->chain;
    int n = chain->n_site;
    int64_t *digit = xcalloc((size_t)n, sizeof *digit), *stride = xcalloc((size_t)n, sizeof *stride);
    int64_t base = 0, step = 1;

    (void)thread;
    split_row(chain, row, digit);
    for (int s = n - 1; s >= 0; s--) {
        stride[s] = step;
        base += digit[s] * chain->core[s].shape[2] * step;
        step *= chain->core[s].shape[1] * chain->core[s].shape[2];
        digit[s] = 0;
    }
    for (int64_t i = 0, offset = base; i < p->in; i++) {
        float *w = p->w + row * p->in + i;
        int s = n - 1;

        *w = p->add ? *w + p->product[offset] : p->product[offset];
        for (; s >= 0; s--) {
            offset += stride[s];
            if (++digit[s] < chain->core[s].shape[2])
                break;
            offset -= stride[s] * digit[s];
            digit[s] = 0;
        }
    }
    free(digit);
    free(stride);
}

static void chain_rows(const struct contraction *c, int term, int64_t first, int64_t rows, float *w)
{
    const struct chain *chain = &c->op->term[term];
    const int64_t *head = chain->core[0].shape;
    int64_t in = c->op->in, below = c->op->out / head[1], below_in = in / head[2];
    struct matrix left = matrix_rows(matrix_of(c->left[term], head[1] * head[2], head[3]), first / below * head[2],
                                     rows / below * head[2]);
    struct matrix rest = matrix_of(c->rest[term], head[3], below * below_in);

    if (chain_is_low_rank(chain)) {
        linalg_gemm(1, left, rest, term ? 1 : 0, matrix_of(w, rows, in));
    } else {
        float *product = xaligned((size_t)(rows * in), sizeof *product);
        struct placing p = {chain, product, w, in, term > 0};

        linalg_gemm(1, left, rest, 0, matrix_of(product, left.rows, rest.columns));
        parallel_for(rows, place_row, &p);
        free(product);
    }
}

struct reading {
    const struct tensor *core;
    int64_t first, rows, in;
    float *w;
};

/* A piece of a matrix in one core; its rows need not be rows of the payload, which run along the last axis longer
 * than 1. */
enum { PIECE = 16 };

static void read_piece(void *context, int64_t item, int thread)
{
    const struct reading *r = context;
    int64_t at = item * PIECE, rows = r->rows - at < PIECE ? r->rows - at : PIECE;

    (void)thread;
    tensor_get_rows(r->core, r->first + at, rows, r->w + at * r->in);
}

static void read_rows(const struct tensor *core, const struct reading *r)
{
    if (tensor_row_length(core) == r->in && tensor_rows(core) >= r->first + r->rows)
        parallel_for((r->rows + PIECE - 1) / PIECE, read_piece, (void *)(uintptr_t)r);
    else {                                           /* one column: all of it is one row of the payload */
        float *column = xaligned((size_t)tensor_count(core), sizeof *column);

        tensor_get(core, column);
        memcpy(r->w, column + r->first, (size_t)r->rows * sizeof *column);
        free(column);
    }
}

static void core_rows(const struct contraction *c, int term, int64_t first, int64_t rows, float *w)
{
    struct reading r = {&c->op->term[term].core[0], first, rows, c->op->in, w};

    if (term)
        r.w = xaligned((size_t)(rows * r.in), sizeof *w);
    read_rows(r.core, &r);
    for (int64_t i = 0; term && i < rows * r.in; i++)
        w[i] += r.w[i];
    if (term)
        free(r.w);
}

void contraction_rows(const struct contraction *c, int64_t first, int64_t rows, float *w)
{
    if (rows == 0 || c->op->in == 0)
        return;
    for (int t = 0; t < c->op->n_term; t++)
        if (c->op->term[t].n_site == 1)
            core_rows(c, t, first, rows, w);
        else
            chain_rows(c, t, first, rows, w);
    transform_rows_inverse(c->op->input, w, rows, c->op->in);
    transform_columns_inverse(c->op->output, c->op->out, w, rows, c->op->in);
}

/* Rows of about this many numbers at a time, in whole bands. */
enum { FLOATS = 1 << 21 };

int64_t contraction_step(const struct contraction *c)
{
    int64_t rows = FLOATS / (c->op->in ? c->op->in : 1) / c->band * c->band;

    return rows > c->band ? rows : c->band;
}

void operator_dense(const struct operator *op, float *w)
{
    struct contraction c;
    int64_t step;

    contraction_begin(&c, op);
    step = contraction_step(&c);
    memory_expect(4.0 * (double)op->in * ((double)op->out + (double)step));
    for (int64_t first = 0; first < op->out; first += step)
        contraction_rows(&c, first, op->out - first < step ? op->out - first : step, w + first * op->in);
    contraction_end(&c);
}

int operator_contract(struct operator *op, struct dtype dtype)
{
    struct tensor matrix = tensor_new(dtype, 2, (int64_t[]){op->out, op->in});
    struct contraction c;
    struct operator dense;
    int64_t step;
    float *w;

    contraction_begin(&c, op);
    step = contraction_step(&c);
    memory_expect((double)matrix.bytes + 8.0 * (double)step * (double)op->in);
    w = xaligned((size_t)(step * op->in), sizeof *w);
    for (int64_t first = 0; first < op->out; first += step) {
        int64_t rows = op->out - first < step ? op->out - first : step;

        contraction_rows(&c, first, rows, w);
        tensor_set_elements(&matrix, first * op->in, rows * op->in, w);
    }
    free(w);
    contraction_end(&c);
    if (!tensor_is_finite(&matrix)) {
        tensor_free(&matrix);
        return fail(EX_DATAERR, "'%s': a number is not finite, or too large for the dtype", op->name);
    }
    dense = operator_from_matrix(op->name, &matrix);
    operator_free(op);
    *op = dense;
    return EX_OK;
}

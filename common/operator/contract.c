/* contract.c - multiplies chains of cores out into W. */
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

/* The product of all cores of a chain as one array in site order: [(o0 i0), (o1 i1), ..., (o_n-1 i_n-1)]. From the
 * left: what stands so far is [rows, chi], the next core [chi, (o i chi')]. */
static float *multiply_out(const struct chain *chain)
{
    float *left = core_floats(&chain->core[0]);
    int64_t rows = chain->core[0].shape[1] * chain->core[0].shape[2];

    for (int s = 1; s < chain->n_site; s++) {
        const int64_t *shape = chain->core[s].shape;
        int64_t columns = shape[1] * shape[2] * shape[3];
        float *core = core_floats(&chain->core[s]), *product = xaligned((size_t)(rows * columns), sizeof *product);

        linalg_gemm(1, matrix_of(left, rows, shape[0]), matrix_of(core, shape[0], columns), 0,
                    matrix_of(product, rows, columns));
        free(left);
        free(core);
        left = product;
        rows *= shape[1] * shape[2];
    }
    return left;
}

struct placing {
    const struct chain *chain;
    const float *product;
    float *w;
    int64_t in;
    bool add;
};

/* Digits of an index, first most significant. */
static void split_index(const struct chain *chain, int axis, int64_t index, int64_t *digit)
{
    for (int s = chain->n_site - 1; s >= 0; s--) {
        digit[s] = index % chain->core[s].shape[axis];
        index /= chain->core[s].shape[axis];
    }
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
    split_index(chain, 1, row, digit);
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

/* (out x 1)(1 x in): the product is W itself. */
static bool is_low_rank(const struct chain *chain)
{
    return chain->n_site == 2 && chain->core[0].shape[2] == 1 && chain->core[1].shape[1] == 1;
}

static void add_chain(const struct operator *op, int term, float *w)
{
    const struct chain *chain = &op->term[term];

    if (chain->n_site == 1 && term == 0) {
        tensor_get(&chain->core[0], w);
    } else if (is_low_rank(chain)) {
        float *u = core_floats(&chain->core[0]), *v = core_floats(&chain->core[1]);
        int64_t chi = chain->core[1].shape[0];

        linalg_gemm(1, matrix_of(u, op->out, chi), matrix_of(v, chi, op->in), term ? 1 : 0,
                    matrix_of(w, op->out, op->in));
        free(u);
        free(v);
    } else {
        struct placing p = {chain, multiply_out(chain), w, op->in, term > 0};

        parallel_for(op->out, place_row, &p);
        free((float *)(uintptr_t)p.product);
    }
}

void operator_dense(const struct operator *op, float *w)
{
    for (int t = 0; t < op->n_term; t++)
        add_chain(op, t, w);
}

/* Rows of W need not be rows of the payload: those run along the last axis longer than 1. */
void operator_rows(const struct operator *op, int64_t first, int64_t rows, float *w)
{
    const struct tensor *core = &op->term[0].core[0];

    if (tensor_row_length(core) == op->in)
        tensor_get_rows(core, first, rows, w);
    else {                                       /* one column: all of it is one row of the payload */
        float *column = xaligned((size_t)op->out, sizeof *column);

        tensor_get_rows(core, 0, tensor_rows(core), column);
        memcpy(w, column + first, (size_t)rows * sizeof *w);
        free(column);
    }
}

void operator_contract(struct operator *op, struct dtype dtype)
{
    struct tensor matrix = tensor_new(dtype, 2, (int64_t[]){op->out, op->in});
    float *w = dtype.kind == DTYPE_F32 ? (float *)(void *)matrix.data
                                       : xaligned((size_t)(op->out * op->in), sizeof *w);
    struct operator dense;

    operator_dense(op, w);
    if (dtype.kind != DTYPE_F32) {
        tensor_set(&matrix, w);
        free(w);
    }
    dense = operator_from_matrix(op->name, &matrix);
    operator_free(op);
    *op = dense;
}

/* apply_gather.c - rows of W by index, for embeddings. */
#include "base/memory.h"
#include "base/number.h"
#include "operator/apply_internal.h"

#include <stdlib.h>

/* Floats of a workspace. */
enum { FLOATS = 1 << 20 };

struct gathering {
    const struct device *device;
    const int32_t *index;
    int64_t n, in;
    float *y;
    int64_t stride;
    bool add;
};

static void gather_matrix(const struct placed *w, const struct gathering *g)
{
    const struct device *device = g->device;
    float *rows, *sum;

    if (!g->add) {
        device->gather(w, g->index, g->n, g->y, g->stride);
        return;
    }
    rows = device->allocate((size_t)(2 * g->n * g->in) * sizeof *rows);
    sum = rows + g->n * g->in;
    device->gather(w, g->index, g->n, rows, g->in);
    device->copy(sum, g->in, g->y, g->stride, g->n, g->in);
    device->add_scaled(sum, rows, 1, g->n * g->in);
    device->copy(g->y, g->stride, sum, g->in, g->n, g->in);
    device->release(rows);
}

/* Rows of the left factor times the right one, of which some rows at a time are there, turned: a product is one with
 * rows. */
static void gather_low_rank(struct placed *const *w, const struct gathering *g)
{
    const struct device *device = g->device;
    int64_t chi = w[1]->rows, step = FLOATS / g->in + 1 < chi ? FLOATS / g->in + 1 : chi;
    float *left = device->allocate((size_t)(g->n * chi + 2 * step * g->in) * sizeof *left);
    float *right = left + g->n * chi, *turned = right + step * g->in;
    int32_t *row = xmallocarray((size_t)step, sizeof *row);

    device->gather(w[0], g->index, g->n, left, chi);
    for (int64_t first = 0; first < chi; first += step) {
        int64_t rows = chi - first < step ? chi - first : step;

        for (int64_t r = 0; r < rows; r++)
            row[r] = (int32_t)(first + r);
        device->gather(w[1], row, rows, right, g->in);
        device->permute(turned, right, 2, (int64_t[]){rows, g->in}, (int[]){1, 0});
        device->gemm(1, left + first, chi, turned, rows, g->add || first ? 1 : 0, g->y, g->stride, g->n, g->in, rows);
    }
    free(row);
    device->release(left);
}

/* Floats of the largest slice of a core at one o, and of the largest product of such slices. */
static void chain_space(const struct sites *sites, int64_t *slice, int64_t *state)
{
    *slice = *state = 0;
    for (int s = 0; s < sites->n_site; s++) {
        const int64_t *size = sites->site[s].size;
        int64_t of_slice = size[LEFT] * size[IN] * size[RIGHT];
        int64_t of_state = sites_product(sites, IN, 0, s + 1) * size[RIGHT];

        *slice = *slice > of_slice ? *slice : of_slice;
        *state = *state > of_state ? *state : of_state;
    }
}

/* y [in]: the product of the slices that the row's digits pick: so far [i_0..i_s-1, bond]. */
static void chain_row(const struct sites *sites, int64_t row, float *y, bool add, float *slice, float *state,
                      float *next)
{
    int64_t below = sites->out;

    for (int s = 0; s < sites->n_site; s++) {
        const int64_t *size = sites->site[s].size;
        int64_t columns = size[IN] * size[RIGHT];
        bool last = s == sites->n_site - 1;
        float *swap = state;

        below /= size[OUT];
        site_slice(sites, s, row / below % size[OUT], 1, order_append, s ? slice : state);
        if (!s)
            continue;
        sites->device->gemm(1, state, size[LEFT], slice, size[LEFT], last && add ? 1 : 0, last ? y : next, columns,
                            sites_product(sites, IN, 0, s), columns, size[LEFT]);
        state = next;
        next = swap;
    }
}

static void gather_chain(const struct sites *sites, const struct gathering *g)
{
    int64_t slice, state;
    float *space;

    chain_space(sites, &slice, &state);
    space = g->device->allocate((size_t)(slice + 2 * state) * sizeof *space);
    for (int64_t i = 0; i < g->n; i++)
        chain_row(sites, g->index[i], g->y + i * g->stride, g->add, space, space + slice, space + slice + state);
    g->device->release(space);
}

static void gather_zeros(const struct gathering *g)
{
    float *zeros = xcalloc((size_t)g->in, sizeof *zeros);

    for (int64_t i = 0; i < g->n; i++)
        g->device->upload(g->y + i * g->stride, zeros, (size_t)g->in * sizeof *zeros);
    free(zeros);
}

/* Rows that are looked up together: a workspace's of the widest matrix that is made of them. */
static int64_t rows_together(const struct applied *applied)
{
    int64_t width = applied->output.block ? most(applied->in, applied->out) : applied->in;

    for (int t = 0; t < applied->n_term; t++) {
        const struct term *term = &applied->term[t];

        if (term->kind == TERM_LOW_RANK && term->w[1]->rows > width)
            width = term->w[1]->rows;
    }
    return FLOATS / width + 1;
}

/* Rows of what the terms give, behind the input's turn. */
static void gather_terms(const struct applied *applied, struct gathering g)
{
    if (!applied->n_term)
        gather_zeros(&g);
    for (int t = 0; t < applied->n_term; t++) {
        const struct term *term = &applied->term[t];

        if (term->kind == TERM_MATRIX)
            gather_matrix(term->w[0], &g);
        else if (term->kind == TERM_LOW_RANK)
            gather_low_rank(term->w, &g);
        else
            gather_chain(&term->sites, &g);
        g.add = true;
    }
}

/* Row o of T' Z is the sum over all rows of Z with the numbers of T e_o. */
static void gather_turned(const struct applied *applied, const struct gathering *g, int64_t rows)
{
    const struct device *device = g->device;
    int64_t out = applied->out, in = g->in, step = least(rows, out);
    float *unit = xcalloc((size_t)(g->n * out), sizeof *unit);
    float *left = device->allocate((size_t)(g->n * out + 2 * step * in) * sizeof *left);
    float *right = left + g->n * out, *turned = right + step * in;
    int32_t *row = xmallocarray((size_t)step, sizeof *row);

    for (int64_t i = 0; i < g->n; i++)
        unit[i * out + g->index[i]] = 1;
    device->upload(left, unit, (size_t)(g->n * out) * sizeof *left);
    device->hadamard(left, out, left, out, &applied->turn_out, false, g->n, out);
    for (int64_t first = 0; first < out; first += step) {
        int64_t count = least(out - first, step);

        for (int64_t r = 0; r < count; r++)
            row[r] = (int32_t)(first + r);
        gather_terms(applied, (struct gathering){device, row, count, in, right, in, false});
        device->permute(turned, right, 2, (int64_t[]){count, in}, (int[]){1, 0});
        device->gemm(1, left + first, out, turned, count, first ? 1 : 0, g->y, g->stride, g->n, in, count);
    }
    free(row);
    free(unit);
    device->release(left);
}

void apply_gather(const struct applied *applied, const int32_t *index, int64_t n, float *y, int64_t stride)
{
    int64_t rows = applied->in ? rows_together(applied) : n;

    for (int64_t first = 0; first < n && applied->in; first += rows) {
        struct gathering g = {applied->device, index + first, least(n - first, rows), applied->in, y + first * stride,
                              stride, false};

        if (applied->output.block)
            gather_turned(applied, &g, rows);
        else
            gather_terms(applied, g);
        if (applied->input.block)
            applied->device->hadamard(g.y, stride, g.y, stride, &applied->turn_in, true, g.n, applied->in);
    }
}

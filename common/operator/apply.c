/* apply.c - places operators on a device and multiplies with them: terms that are matrices or low rank here, other
 * chains in apply_sweep.c and apply_rebuild.c. */
#include "base/memory.h"
#include "base/number.h"
#include "operator/apply_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has_numbers(const struct chain *chain)
{
    for (int s = 0; s < chain->n_site; s++)
        if (tensor_count(&chain->core[s]) == 0)
            return false;
    return true;
}

/* The class that trains a core of a term that is a matrix or low rank; 0 where none of those wanted does. */
static unsigned class_of(const struct tensor *core, bool alone, unsigned train)
{
    if (dtype_is_packed(core->dtype) && train & TRAIN_SCALES)
        return TRAIN_SCALES;
    if (alone)
        return dtype_is_packed(core->dtype) ? 0 : train & TRAIN_MATRICES;
    return train & TRAIN_CORES;
}

static struct placed *place_core(const struct device *device, struct tensor *core, unsigned class,
                                 enum activations activations)
{
    if (!class)
        return device->place(core, activations);
    if (class != TRAIN_SCALES && dtype_is_packed(core->dtype)) {
        struct tensor wide = tensor_new(DTYPE(F32), core->rank, core->shape);

        tensor_get(core, (float *)(void *)wide.data);
        tensor_free(core);
        *core = wide;
    }
    return device->place_trained(core);
}

static struct term place_term(const struct device *device, struct chain *chain, enum activations activations,
                              unsigned train)
{
    struct term term = {.kind = TERM_MATRIX};

    if (chain->n_site > 1 && !chain_is_low_rank(chain)) {
        term.kind = TERM_CHAIN;
        term.train[0] = train & TRAIN_CORES;
        term.sites = sites_place(device, chain);
        return term;
    }
    term.kind = chain->n_site == 1 ? TERM_MATRIX : TERM_LOW_RANK;
    for (int f = 0; f < chain->n_site; f++) {
        term.train[f] = class_of(&chain->core[f], chain->n_site == 1, train);
        term.w[f] = place_core(device, &chain->core[f], term.train[f], activations);
    }
    return term;
}

static struct applied *place(const struct device *device, struct operator *op, enum activations activations,
                             unsigned train)
{
    struct applied *applied = xcalloc(1, sizeof *applied);

    *applied = (struct applied){.device = device, .out = op->out, .in = op->in, .input = op->input,
                                .output = op->output, .term = xcalloc((size_t)op->n_term, sizeof *applied->term),
                                .turn_in = transform_place(device, op->input, op->in),
                                .turn_out = transform_place(device, op->output, op->out)};
    for (int t = 0; t < op->n_term; t++)
        if (has_numbers(&op->term[t]))
            applied->term[applied->n_term++] = place_term(device, &op->term[t], activations, train);
    operator_free(op);
    return applied;
}

struct applied *apply_place(const struct device *device, struct operator *op, enum activations activations)
{
    return place(device, op, activations, 0);
}

struct applied *apply_place_trained(const struct device *device, struct operator *op, unsigned train)
{
    return place(device, op, ACTIVATIONS_F32, train);
}

void apply_free(struct applied *applied)
{
    for (int t = 0; applied && t < applied->n_term; t++) {
        struct term *term = &applied->term[t];

        applied->device->displace(term->w[0]);
        applied->device->displace(term->w[1]);
        sites_free(&term->sites);
    }
    if (applied) {
        transform_displace(applied->device, &applied->turn_in);
        transform_displace(applied->device, &applied->turn_out);
        free(applied->term);
    }
    free(applied);
}

int64_t apply_out(const struct applied *applied)
{
    return applied->out;
}

int64_t apply_in(const struct applied *applied)
{
    return applied->in;
}

int64_t apply_bytes(const struct applied *applied)
{
    int64_t sum = transform_bytes(applied->input, applied->in) + transform_bytes(applied->output, applied->out);

    for (int t = 0; t < applied->n_term; t++) {
        const struct term *term = &applied->term[t];

        for (int f = 0; f < 2; f++)
            sum += term->w[f] ? term->w[f]->bytes : 0;
        for (int s = 0; s < term->sites.n_site; s++) {
            const int64_t *size = term->sites.site[s].size;

            sum += size[LEFT] * size[OUT] * size[IN] * size[RIGHT] * (int64_t)sizeof(float);
        }
    }
    return sum;
}

int64_t apply_work(const struct applied *applied, int64_t n)
{
    double sum = transform_work(applied->input, applied->in) + transform_work(applied->output, applied->out);

    for (int t = 0; t < applied->n_term; t++) {
        const struct term *term = &applied->term[t];

        for (int f = 0; f < 2; f++)
            sum += term->w[f] ? (double)term->w[f]->rows * (double)term->w[f]->columns : 0;
        sum += term->kind == TERM_CHAIN ? sites_work(&term->sites, n) : 0;
    }
    return sum < 0x1p62 ? (int64_t)ceil(sum) : INT64_MAX;
}

/* The first term that is a matrix; it goes into the call that all operators share. */
static int leading_term(const struct applied *applied)
{
    int t = 0;

    while (t < applied->n_term && applied->term[t].kind != TERM_MATRIX)
        t++;
    return t;
}

int64_t apply_hidden(const struct application *application, int count)
{
    int64_t sum = 0;

    for (int a = 0; a < count; a++)
        for (int t = 0; t < application[a].w->n_term; t++)
            if (application[a].w->term[t].kind == TERM_LOW_RANK)
                sum += application[a].w->term[t].w[1]->rows;
    return sum;
}

/* Products of one input, collected; more than these take another call. */
enum { PRODUCTS = 32 };

struct collection {
    const struct device *device;
    const float *x;
    int64_t x_stride, n;
    int count;
    struct product product[PRODUCTS];
};

static void collection_multiply(struct collection *c)
{
    if (c->count)
        c->device->multiply(c->product, c->count, c->x, c->x_stride, c->n);
    c->count = 0;
}

static void collect(struct collection *c, const struct placed *w, float *y, int64_t stride, bool add)
{
    if (c->count == PRODUCTS)
        collection_multiply(c);
    c->product[c->count++] = (struct product){w, y, stride, add};
}

/* What multiplies x itself: each operator's first matrix, and the second factors of low-rank terms. */
static void first_products(const struct application *application, int count, int64_t row, float *hidden,
                           struct collection *c)
{
    for (int a = 0; a < count; a++) {
        const struct application *at = &application[a];
        int leading = leading_term(at->w);

        for (int t = 0; t < at->w->n_term; t++) {
            const struct term *term = &at->w->term[t];

            if (t == leading)
                collect(c, term->w[0], at->y + row * at->stride, at->stride, at->add);
            if (term->kind == TERM_LOW_RANK) {
                collect(c, term->w[1], hidden, term->w[1]->rows, false);
                hidden += c->n * term->w[1]->rows;
            }
        }
    }
    collection_multiply(c);
}

/* Everything else that isn't a general chain: one product a call, since they share y. */
static void second_products(const struct application *at, int64_t row, const float **hidden, const struct collection *c)
{
    int leading = leading_term(at->w);
    bool add = at->add || leading < at->w->n_term;

    for (int t = 0; t < at->w->n_term; t++) {
        const struct term *term = &at->w->term[t];
        struct product product = {term->w[0], at->y + row * at->stride, at->stride, add};

        if (t == leading || term->kind == TERM_CHAIN)
            continue;
        if (term->kind == TERM_LOW_RANK) {
            c->device->multiply(&product, 1, *hidden, term->w[1]->rows, c->n);
            *hidden += c->n * term->w[1]->rows;
        } else
            c->device->multiply(&product, 1, c->x, c->x_stride, c->n);
        add = true;
    }
}

static void apply_chains(const struct application *at, const float *x, int64_t x_stride, int64_t n)
{
    bool add = at->add;

    for (int t = 0; t < at->w->n_term; t++)
        add = add || at->w->term[t].kind != TERM_CHAIN;
    for (int t = 0; t < at->w->n_term; t++)
        if (at->w->term[t].kind == TERM_CHAIN) {
            sites_apply(&at->w->term[t].sites, at->y, at->stride, add, x, x_stride, n);
            add = true;
        }
}

/* W = 0: no terms, or no columns. */
static void apply_nothing(const struct application *at, int64_t n)
{
    float *zeros;

    if (at->w->n_term || at->add)
        return;
    zeros = xcalloc((size_t)at->w->out, sizeof *zeros);
    for (int64_t row = 0; row < n; row++)
        at->w->device->upload(at->y + row * at->stride, zeros, (size_t)at->w->out * sizeof *zeros);
    free(zeros);
}

/* Floats between factors, or of a turned input or output, at a time. */
enum { HIDDEN = 1 << 23 };

/* Operators that take x as it is. kept, where it isn't NULL, is where all that lies between factors stays. */
static void apply_straight(const struct application *application, int count, const float *x, int64_t x_stride,
                           int64_t n, float *kept)
{
    int64_t width = apply_hidden(application, count), rows = least(width && !kept ? HIDDEN / width + 1 : n, n);
    const struct device *device = application->w->device;
    float *hidden = kept;

    if (width && !kept)
        hidden = device->allocate((size_t)(rows * width) * sizeof *hidden);
    for (int64_t row = 0; row < n; row += rows) {
        struct collection c = {.device = device, .x = x + row * x_stride, .x_stride = x_stride,
                               .n = least(n - row, rows)};
        const float *at = hidden;

        first_products(application, count, row, hidden, &c);
        for (int a = 0; a < count; a++)
            second_products(&application[a], row, &at, &c);
    }
    if (!kept)
        device->release(hidden);
    for (int a = 0; a < count; a++) {
        apply_chains(&application[a], x, x_stride, n);
        apply_nothing(&application[a], n);
    }
}

/* y = T' y of each row. */
static void turn_output(const struct application *at, int64_t n)
{
    at->w->device->hadamard(at->y, at->stride, at->y, at->stride, &at->w->turn_out, true, n, at->w->out);
}

/* An operator whose turned output is added to y: it is made beside. */
static void apply_beside(const struct application *at, const float *x, int64_t x_stride, int64_t n, float *kept)
{
    const struct device *device = at->w->device;
    int64_t out = at->w->out;
    struct application beside = {at->w, device->allocate((size_t)(n * out) * sizeof *beside.y), out, false};

    apply_straight(&beside, 1, x, x_stride, n, kept);
    turn_output(&beside, n);
    for (int64_t row = 0; row < n; row++)
        device->add_scaled(at->y + row * at->stride, beside.y + row * out, 1, out);
    device->release(beside.y);
}

/* Operators that take x as it is, in the order of apply_alike(): a call that all share, but for those beside y. */
static void apply_and_turn(const struct application *application, int count, const float *x, int64_t x_stride,
                           int64_t n, float *kept)
{
    int shared = 0;

    while (shared < count && !(application[shared].add && application[shared].w->output.block))
        shared++;
    if (shared)
        apply_straight(application, shared, x, x_stride, n, kept);
    if (kept)
        kept += n * apply_hidden(application, shared);
    for (int a = 0; a < count; a++) {
        const struct application *at = &application[a];

        if (a >= shared && at->add)
            apply_beside(at, x, x_stride, n, kept);
        else if (a >= shared)
            apply_straight(at, 1, x, x_stride, n, kept);
        if (at->w->output.block && !at->add)
            turn_output(at, n);
        if (kept && a >= shared)
            kept += n * apply_hidden(at, 1);
    }
}

/* Rows to turn at a time. */
static int64_t rows_together(const struct application *application, int count, int64_t n)
{
    int64_t width = application->w->input.block ? application->w->in : 0;

    for (int a = 0; a < count; a++)
        if (application[a].add && application[a].w->output.block)
            width = most(width, application[a].w->out);
    return width ? least(HIDDEN / width + 1, n) : n;
}

/* Operators of one input transform, or of none. Of what is kept, the turned input comes first. */
static void apply_turned(struct application *application, int count, const float *x, int64_t x_stride, int64_t n,
                         float *kept)
{
    const struct applied *w = application->w;
    int64_t step = kept ? n : rows_together(application, count, n);
    float *turned = NULL;

    if (w->input.block)
        turned = kept ? kept : w->device->allocate((size_t)(step * w->in) * sizeof *turned);
    for (int64_t row = 0; row < n; row += step) {
        int64_t rows = least(n - row, step);
        const float *at = x + row * x_stride;

        if (turned)
            w->device->hadamard(turned, w->in, at, x_stride, &w->turn_in, false, rows, w->in);
        apply_and_turn(application, count, turned ? turned : at, turned ? w->in : x_stride, rows,
                       kept && turned ? kept + n * w->in : kept);
        for (int a = 0; a < count; a++)
            application[a].y += rows * application[a].stride;
    }
    if (!kept)
        w->device->release(turned);
}

int apply_alike(struct application *first, int count)
{
    const struct transform input = first->w->input;
    int alike = 0;

    for (int turned = 0; turned < 2; turned++)
        for (int a = alike; a < count; a++)
            if (transform_same(first[a].w->input, input) && (first[a].w->output.block > 0) == turned) {
                struct application other = first[alike];

                first[alike++] = first[a];
                first[a] = other;
            }
    return alike;
}

int64_t apply_kept(const struct application *application, int count)
{
    int64_t floats = apply_hidden(application, count);

    for (int a = 0; a < count; a++) {
        bool first = application[a].w->input.block != 0;

        for (int b = 0; b < a; b++)
            first = first && !transform_same(application[a].w->input, application[b].w->input);
        floats += first ? application[a].w->in : 0;
    }
    return floats;
}

void apply_keep(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n,
                float *kept)
{
    struct application *all, *next;

    if (n == 0 || count == 0)
        return;
    all = next = xmallocarray((size_t)count, sizeof *all);
    memcpy(all, application, (size_t)count * sizeof *all);
    while (next < all + count) {                     /* those that share the transform of the next one */
        int alike = apply_alike(next, (int)(all + count - next));
        int64_t floats = kept ? n * apply_kept(next, alike) : 0;

        apply_turned(next, alike, x, x_stride, n, kept);
        kept = kept ? kept + floats : NULL;
        next += alike;
    }
    free(all);
}

void apply(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n)
{
    apply_keep(application, count, x, x_stride, n, NULL);
}

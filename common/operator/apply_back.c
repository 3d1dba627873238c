/* apply_back.c - the backward pass of operators: gradients of their input and of what is trained of them. */
#include "base/memory.h"
#include "operator/apply_internal.h"

#include <stdlib.h>
#include <string.h>

static void see_factor(struct term *term, int t, int f, void (*see)(void *context, const struct trainable *trainable),
                       const struct device *device, void *context)
{
    for (int which = 0; which < NUMBERS; which++) {
        struct trainable trainable = {(enum train)term->train[f], t, f, (enum numbers)which, NULL, 0,
                                      &term->gradient[f][which]};

        trainable.values = device->numbers(term->w[f], (enum numbers)which, &trainable.count);
        if (trainable.values)
            see(context, &trainable);
    }
}

void apply_trainable(struct applied *applied, void (*see)(void *context, const struct trainable *trainable),
                     void *context)
{
    for (int t = 0; t < applied->n_term; t++) {
        struct term *term = &applied->term[t];

        for (int f = 0; f < 2; f++)
            if (term->w[f] && term->train[f])
                see_factor(term, t, f, see, applied->device, context);
        for (int s = 0; s < term->sites.n_site && term->train[0]; s++) {
            struct site *site = &term->sites.site[s];
            const int64_t *size = site->size;

            see(context, &(struct trainable){TRAIN_CORES, t, s, NUMBERS_VALUES, site->w,
                                             size[LEFT] * size[OUT] * size[IN] * size[RIGHT], &site->gradient});
        }
    }
}

void apply_download(const struct applied *applied, const struct trainable *trainable, const float *from, float *host)
{
    const struct device *device = applied->device;
    const struct term *term = &applied->term[trainable->term];
    size_t bytes = (size_t)trainable->count * sizeof *host;
    float *stored;

    if (term->kind != TERM_CHAIN) {
        device->download(host, from, bytes);
        return;
    }
    stored = device->allocate(bytes);
    site_stored(&term->sites, trainable->site, stored, from);
    device->download(host, stored, bytes);
    device->release(stored);
}

/* Rows of one operator on their way back. */
struct back {
    const struct device *device;
    const float *dy, *x;
    int64_t stride, x_stride, n;
    float *dx;                   /* contiguous */
    bool add;
};

static void gradient_of(const struct term *term, int f, const struct back *b, const float *dy, int64_t dy_stride,
                        const float *x, int64_t x_stride)
{
    if (term->train[f])
        b->device->multiply_gradient(term->w[f], term->gradient[f], dy, dy_stride, x, x_stride, b->n);
}

/* y = h u', h = x v'. hidden: h, dhidden: room for its gradient. */
static void back_low_rank(const struct term *term, const struct back *b, const float *hidden, float *dhidden)
{
    int64_t chi = term->w[1]->rows;

    gradient_of(term, 0, b, b->dy, b->stride, hidden, chi);
    b->device->multiply_back(term->w[0], b->dy, b->stride, dhidden, chi, false, b->n);
    gradient_of(term, 1, b, dhidden, chi, b->x, b->x_stride);
    b->device->multiply_back(term->w[1], dhidden, chi, b->dx, term->w[1]->columns, b->add, b->n);
}

/* All terms of one operator; hidden moves behind what they kept. */
static void back_terms(const struct applied *w, struct back *b, const float **hidden, float *dhidden)
{
    int64_t in = w->in;

    for (int t = 0; t < w->n_term; t++) {
        const struct term *term = &w->term[t];

        if (term->kind == TERM_MATRIX) {
            gradient_of(term, 0, b, b->dy, b->stride, b->x, b->x_stride);
            b->device->multiply_back(term->w[0], b->dy, b->stride, b->dx, in, b->add, b->n);
        } else if (term->kind == TERM_LOW_RANK) {
            back_low_rank(term, b, *hidden, dhidden);
            *hidden += b->n * term->w[1]->rows;
        } else
            sites_back(&term->sites, b->dy, b->stride, b->x, b->x_stride, b->n, b->dx, b->add);
        b->add = true;
    }
}

/* dy of an operator's terms: turned as its output is turned back. Where that takes memory, it is the caller's. */
static float *turn_dy(const struct application *at, struct back *b)
{
    const struct applied *w = at->w;
    float *turned = NULL;

    b->dy = at->y;
    b->stride = at->stride;
    if (w->output.block) {
        turned = w->device->allocate((size_t)(b->n * w->out) * sizeof *turned);
        w->device->hadamard(turned, w->out, at->y, at->stride, &w->turn_out, false, b->n, w->out);
        b->dy = turned;
        b->stride = w->out;
    }
    return turned;
}

/* Operators of one input transform: dx of their turned input. False where they have no terms, and dx wasn't touched. */
static bool back_straight(const struct application *application, int count, const float *x, int64_t x_stride,
                          int64_t n, const float *hidden, float *dx, bool add)
{
    const struct device *device = application->w->device;
    struct back b = {.device = device, .x = x, .x_stride = x_stride, .n = n, .dx = dx, .add = add};
    int64_t width = apply_hidden(application, count);
    float *dhidden = width ? device->allocate((size_t)(n * width) * sizeof *dhidden) : NULL;

    for (int a = 0; a < count; a++) {
        float *turned = turn_dy(&application[a], &b);

        back_terms(application[a].w, &b, &hidden, dhidden);
        device->release(turned);
    }
    device->release(dhidden);
    return b.add;
}

/* The transform's inverse is its transpose. */
static void back_turned(const struct application *application, int count, int64_t n, const float *kept, float *dx,
                        bool add)
{
    const struct applied *w = application->w;
    int64_t in = w->in;
    float *turned = w->device->allocate((size_t)(n * in) * sizeof *turned), *to = add ? turned : dx;

    if (!back_straight(application, count, kept, in, n, kept + n * in, turned, false))
        w->device->clear(turned, n * in);
    w->device->hadamard(to, in, turned, in, &w->turn_in, true, n, in);
    if (add)
        w->device->add_scaled(dx, turned, 1, n * in);
    w->device->release(turned);
}

void apply_back(const struct application *application, int count, const float *x, int64_t x_stride, int64_t n,
                const float *kept, float *dx, bool add)
{
    struct application *all, *next;

    if (n == 0 || count == 0)
        return;
    all = next = xmallocarray((size_t)count, sizeof *all);
    memcpy(all, application, (size_t)count * sizeof *all);
    while (next < all + count) {
        int alike = apply_alike(next, (int)(all + count - next));

        if (next->w->input.block) {
            back_turned(next, alike, n, kept, dx, add);
            add = true;
        } else
            add = back_straight(next, alike, x, x_stride, n, kept, dx, add);
        kept += n * apply_kept(next, alike);
        next += alike;
    }
    if (!add)
        all->w->device->clear(dx, n * all->w->in);
    free(all);
}

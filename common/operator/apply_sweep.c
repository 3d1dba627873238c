/* apply_sweep.c - general chains on a device: contracted with the input core by core.
 *
 * Where n columns enter core k from the left, the state is [n, o_0..o_k-1, i_k+1..i_last, i_k, bond]: one product with
 * the core as a matrix [(o_k bond'), (i_k bond)] replaces (i_k, bond) by (o_k, bond'), and one permutation brings i_k+1
 * to the end. From the right likewise. The bond stays innermost, so what is moved is moved in runs of it. */
#include "base/memory.h"
#include "operator/apply_internal.h"

#include <stdlib.h>

static const int order_stored[4] = {LEFT, OUT, IN, RIGHT}, order_from_left[4] = {OUT, RIGHT, IN, LEFT},
                 order_from_right[4] = {OUT, LEFT, IN, RIGHT};
const int order_append[4] = {OUT, IN, RIGHT, LEFT};

int64_t sites_product(const struct sites *sites, int axis, int from, int to)
{
    int64_t product = 1;

    for (int s = from; s < to; s++)
        product *= sites->site[s].size[axis];
    return product;
}

static int64_t site_count(const struct site *site)
{
    return site->size[LEFT] * site->size[OUT] * site->size[IN] * site->size[RIGHT];
}

static void reorder(const struct device *device, float *to, const int *want, const float *from, const int *have,
                    const int64_t *size)
{
    int64_t shape[4];
    int axes[4];

    for (int a = 0; a < 4; a++) {
        shape[a] = size[have[a]];
        for (int b = 0; b < 4; b++)
            if (have[b] == want[a])
                axes[a] = b;
    }
    device->permute(to, from, 4, shape, axes);
}

static const int *site_order(const struct sites *sites)
{
    return sites->from_left ? order_from_left : order_from_right;
}

void site_stored(const struct sites *sites, int s, float *to, const float *from)
{
    reorder(sites->device, to, order_stored, from, site_order(sites), sites->site[s].size);
}

/* In both orders o is the outermost axis. */
void site_slice(const struct sites *sites, int s, int64_t first, int64_t count, const int *order, float *to)
{
    const struct site *site = &sites->site[s];
    int64_t size[4] = {site->size[LEFT], count, site->size[IN], site->size[RIGHT]};

    reorder(sites->device, to, order, site->w + first * (site_count(site) / site->size[OUT]), site_order(sites), size);
}

/* What is done before product number step, of n columns, or after the last: a permutation. */
struct turn {
    int64_t shape[5];
    int axes[5];
    bool moves;
};

static bool moves(const struct turn *turn)
{
    int last = -1;

    for (int a = 0; a < 5; a++)
        if (turn->shape[turn->axes[a]] > 1) {
            if (turn->axes[a] < last)
                return true;
            last = turn->axes[a];
        }
    return false;
}

static int site_of(const struct sites *sites, int step)
{
    return sites->from_left ? step : sites->n_site - 1 - step;
}

static struct turn turn_at(const struct sites *sites, int step, int64_t n)
{
    int count = sites->n_site, k = site_of(sites, step);
    struct turn turn = {.shape = {n, 1, 1, 1, 1}, .axes = {0, 1, 2, 3, 4}};

    if (sites->from_left && step < count)
        turn = (struct turn){{n * sites_product(sites, OUT, 0, k ? k - 1 : 0), sites->site[k].size[IN],
                              sites_product(sites, IN, k + 1, count), k ? sites->site[k - 1].size[OUT] : 1,
                              sites->site[k].size[LEFT]}, {0, 3, 2, 1, 4}, false};
    else if (!sites->from_left && step > 0)
        turn = (struct turn){{n, sites_product(sites, OUT, k + 2, count) * sites_product(sites, IN, 0, k + 1),
                              sites->site[k + 1].size[OUT], sites->site[k + 1].size[LEFT], 1}, {0, 2, 1, 3, 4}, false};
    turn.moves = moves(&turn);
    return turn;
}

/* Product number step: state [rows, columns] to [rows, outputs]. */
struct contracting {
    const float *w;
    int64_t rows, columns, outputs;
};

static struct contracting contracting_at(const struct sites *sites, int step, int64_t n)
{
    int k = site_of(sites, step), count = sites->n_site;
    const int64_t *size = sites->site[k].size;
    int64_t before = sites_product(sites, sites->from_left ? OUT : IN, 0, k);
    int64_t after = sites_product(sites, sites->from_left ? IN : OUT, k + 1, count);

    return (struct contracting){sites->site[k].w, n * before * after, size[IN] * size[sites->from_left ? LEFT : RIGHT],
                                size[OUT] * size[sites->from_left ? RIGHT : LEFT]};
}

static struct cost sweep_cost(const struct sites *sites, int64_t *state)
{
    struct cost cost = {0};

    *state = sites->out > sites->in ? sites->out : sites->in;
    for (int step = 0; step <= sites->n_site; step++) {
        struct turn turn = turn_at(sites, step, 1);
        const int64_t *shape = turn.shape;

        if (turn.moves)
            cost.moved += (double)(shape[0] * shape[1] * shape[2] * shape[3] * shape[4]);
        if (step < sites->n_site) {
            struct contracting c = contracting_at(sites, step, 1);
            int64_t larger = c.rows * (c.columns > c.outputs ? c.columns : c.outputs);

            cost.work += (double)c.rows * (double)c.columns * (double)c.outputs;
            *state = *state > larger ? *state : larger;
        }
    }
    return cost;
}

void sites_turn(struct sites *sites)
{
    const int *have = site_order(sites);

    sites->from_left = !sites->from_left;
    for (int s = 0; s < sites->n_site; s++) {
        struct site *site = &sites->site[s];
        float *w = sites->device->allocate((size_t)site_count(site) * sizeof *w);

        reorder(sites->device, w, site_order(sites), site->w, have, site->size);
        sites->device->release(site->w);
        site->w = w;
    }
    sites->sweep = sweep_cost(sites, &sites->state);
}

static void plan(struct sites *sites)
{
    struct sites other = *sites;
    double more;

    sites->sweep = sweep_cost(sites, &sites->state);
    other.from_left = !sites->from_left;
    if (cost_total(sweep_cost(&other, &other.state)) < cost_total(sites->sweep))
        sites_turn(sites);
    sites->rebuilding = rebuilding_plan(sites);
    more = cost_total(sites->sweep) - (double)sites->out * (double)sites->in;
    sites->rebuild_from = INT64_MAX;
    if (more > 0 && cost_total(sites->rebuilding.cost) / more < 0x1p62)
        sites->rebuild_from = (int64_t)(cost_total(sites->rebuilding.cost) / more) + 1;
}

struct sites sites_place(const struct device *device, const struct chain *chain)
{
    struct sites sites = {.device = device, .n_site = chain->n_site, .out = 1, .in = 1, .from_left = true,
                          .site = xcalloc((size_t)chain->n_site, sizeof *sites.site)};

    for (int s = 0; s < chain->n_site; s++) {
        const struct tensor *core = &chain->core[s];
        struct site *site = &sites.site[s];
        size_t count = (size_t)tensor_count(core);
        float *values = xaligned(count, sizeof *values), *stored = device->allocate(count * sizeof *stored);

        for (int a = 0; a < 4; a++)
            site->size[a] = core->shape[a];
        sites.out *= site->size[OUT];
        sites.in *= site->size[IN];
        tensor_get(core, values);
        device->upload(stored, values, count * sizeof *stored);
        site->w = device->allocate(count * sizeof *stored);
        reorder(device, site->w, order_from_left, stored, order_stored, site->size);
        device->release(stored);
        free(values);
    }
    plan(&sites);
    return sites;
}

void sites_free(struct sites *sites)
{
    for (int s = 0; s < sites->n_site; s++)
        sites->device->release(sites->site[s].w);
    free(sites->site);
    *sites = (struct sites){0};
}

double sites_work(const struct sites *sites, int64_t n)
{
    if (n < sites->rebuild_from)
        return sites->sweep.work;
    return sites->rebuilding.cost.work / (double)n + (double)sites->out * (double)sites->in;
}

static float *other_buffer(float *const *buffer, const float *state)
{
    return state == buffer[0] ? buffer[1] : buffer[0];
}

/* x [n, in], y [n, out], both contiguous. */
static void sweep(const struct sites *sites, float *y, bool add, const float *x, int64_t n, float *const *buffer)
{
    int count = sites->n_site;
    bool turned = turn_at(sites, count, n).moves;        /* the last thing that is done is a permutation */
    const float *state = x;

    for (int step = 0; step <= count; step++) {
        struct turn turn = turn_at(sites, step, n);

        if (turn.moves) {
            float *to = step == count && !add ? y : other_buffer(buffer, state);

            sites->device->permute(to, state, 5, turn.shape, turn.axes);
            state = to;
        }
        if (step < count) {
            struct contracting c = contracting_at(sites, step, n);
            float *to = step == count - 1 && !turned ? y : other_buffer(buffer, state);

            sites->device->gemm(1, state, c.columns, c.w, c.columns, to == y && add ? 1 : 0, to, c.outputs, c.rows,
                                c.outputs, c.columns);
            state = to;
        }
    }
    if (state != y)
        sites->device->add_scaled(y, state, 1, n * sites->out);
}

/* Floats of a state at a time: what stays in the caches costs less to move, and large n need no more memory. */
enum { STATE = 1 << 20 };

static void sweep_parts(const struct sites *sites, float *y, int64_t stride, bool add, const float *x, int64_t x_stride,
                        int64_t n)
{
    const struct device *device = sites->device;
    int64_t rows = STATE / sites->state + 1 < n ? STATE / sites->state + 1 : n;
    int64_t size = (rows * sites->state + 15) / 16 * 16;
    bool gathered = n > 1 && x_stride != sites->in, scattered = n > 1 && stride != sites->out;
    float *space = device->allocate((size_t)(size * (2 + gathered + scattered)) * sizeof *space);
    float *buffer[2] = {space, space + size}, *whole_x = space + 2 * size, *whole_y = space + (2 + gathered) * size;

    for (int64_t row = 0; row < n; row += rows) {
        int64_t part = n - row < rows ? n - row : rows;
        const float *from = x + row * x_stride;
        float *to = y + row * stride;

        if (gathered)
            device->copy(whole_x, sites->in, from, x_stride, part, sites->in);
        if (scattered && add)
            device->copy(whole_y, sites->out, to, stride, part, sites->out);
        sweep(sites, scattered ? whole_y : to, add, gathered ? whole_x : from, part, buffer);
        if (scattered)
            device->copy(to, stride, whole_y, sites->out, part, sites->out);
    }
    device->release(space);
}

void sites_apply(const struct sites *sites, float *y, int64_t stride, bool add, const float *x, int64_t x_stride,
                 int64_t n)
{
    if (n < sites->rebuild_from)
        sweep_parts(sites, y, stride, add, x, x_stride, n);
    else
        rebuild(sites, y, stride, add, x, x_stride, n);
}

/* ---- backwards ---- */

/* Floats of the states that enter the products, of one column. */
static int64_t kept_floats(const struct sites *sites)
{
    int64_t sum = 0;

    for (int step = 0; step < sites->n_site; step++) {
        struct contracting c = contracting_at(sites, step, 1);

        sum += c.rows * c.columns;
    }
    return sum;
}

/* What enters product number step goes to kept, one after the other. */
static void sweep_keep(const struct sites *sites, const float *x, int64_t n, float *kept, float *const *buffer)
{
    const float *state = x;

    for (int step = 0; step < sites->n_site; step++) {
        struct turn turn = turn_at(sites, step, n);
        struct contracting c = contracting_at(sites, step, n);
        float *to = other_buffer(buffer, state);

        if (turn.moves)
            sites->device->permute(kept, state, 5, turn.shape, turn.axes);
        else
            sites->device->copy(kept, c.columns, state, c.columns, c.rows, c.columns);
        if (step < sites->n_site - 1)
            sites->device->gemm(1, kept, c.columns, c.w, c.columns, 0, to, c.outputs, c.rows, c.outputs, c.columns);
        state = to;
        kept += c.rows * c.columns;
    }
}

static void turn_back(const struct sites *sites, const struct turn *turn, float *to, const float *from)
{
    int64_t shape[5];
    int axes[5];

    for (int a = 0; a < 5; a++) {
        shape[a] = turn->shape[turn->axes[a]];
        axes[turn->axes[a]] = a;
    }
    sites->device->permute(to, from, 5, shape, axes);
}

/* From dy [n, out] to dx [n, in], one of the buffers, which is returned; kept ends where the last state does. */
static const float *sweep_back(const struct sites *sites, const float *dy, int64_t n, const float *kept_end,
                               float *const *buffer)
{
    const struct device *device = sites->device;
    const float *state = dy;

    for (int step = sites->n_site; step >= 0; step--) {
        struct turn turn = turn_at(sites, step, n);

        if (step < sites->n_site) {
            struct contracting c = contracting_at(sites, step, n);
            const struct site *site = &sites->site[site_of(sites, step)];
            float *to = other_buffer(buffer, state);

            kept_end -= c.rows * c.columns;
            if (site->gradient)
                device->gemm_gradient(site->gradient, c.columns, state, c.outputs, kept_end, c.columns, c.rows,
                                      c.outputs, c.columns);
            device->gemm_back(state, c.outputs, c.w, c.columns, 0, to, c.columns, c.rows, c.outputs, c.columns);
            state = to;
        }
        if (turn.moves) {
            float *to = other_buffer(buffer, state);

            turn_back(sites, &turn, to, state);
            state = to;
        }
    }
    return state;
}

void sites_back(const struct sites *sites, const float *dy, int64_t dy_stride, const float *x, int64_t x_stride,
                int64_t n, float *dx, bool add)
{
    const struct device *device = sites->device;
    int64_t rows = STATE / sites->state + 1 < n ? STATE / sites->state + 1 : n, in = sites->in, out = sites->out;
    int64_t size = (rows * sites->state + 15) / 16 * 16, kept = kept_floats(sites);
    float *space = device->allocate((size_t)(size * 2 + rows * (kept + in + out)) * sizeof *space);
    float *buffer[2] = {space, space + size}, *states = space + 2 * size, *whole_x = states + rows * kept;

    for (int64_t row = 0; row < n; row += rows) {
        int64_t part = n - row < rows ? n - row : rows;
        const float *result;

        device->copy(whole_x, in, x + row * x_stride, x_stride, part, in);
        device->copy(whole_x + rows * in, out, dy + row * dy_stride, dy_stride, part, out);
        sweep_keep(sites, whole_x, part, states, buffer);
        result = sweep_back(sites, whole_x + rows * in, part, states + part * kept, buffer);
        if (add)
            device->add_scaled(dx + row * in, result, 1, part * in);
        else
            device->copy(dx + row * in, in, result, in, part, in);
    }
    device->release(space);
}

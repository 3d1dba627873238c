/* apply_rebuild.c - general chains on a device: W rebuilt tile by tile.
 *
 * The chain is split in two parts, L [(o_l i_l), chi] and R [(o_r i_r), chi], each the product of its cores. A tile of
 * W is the rows (o_l, o_r) of a slice of either: L R' = [(o_l i_l), (o_r i_r)] with its middle axes exchanged. A part
 * that is one large core is never copied whole, since slices are cut along the o of its first core. */
#include "operator/apply_internal.h"

#include <math.h>

/* Floats: of a tile and of a slice of a part, as they are aimed at, and what can't be made smaller may have. */
enum { TILE = 1 << 20, SLICE = 1 << 21, MOST = 1 << 22 };

struct part {
    int from, to;                /* cores */
    int64_t digits, rows;        /* the first core's o; rows (o) that each has */
    int64_t columns, bond;       /* i of the part; chi where the two parts meet */
};

static struct part part_of(const struct sites *sites, int from, int to)
{
    const struct site *first = &sites->site[from];

    return (struct part){from, to, first->size[OUT], sites_product(sites, OUT, from + 1, to),
                         sites_product(sites, IN, from, to),
                         from ? first->size[LEFT] : sites->site[to - 1].size[RIGHT]};
}

static int64_t part_floats(const struct part *part, int64_t digits)
{
    return digits * part->rows * part->columns * part->bond;
}

/* The product with core s: so far [left, out, in, bond], with it [left, out o, in i, bond']. */
struct joining {
    int64_t left, out, in, bond;
};

static struct joining joining_at(const struct sites *sites, const struct part *part, int s, int64_t digits)
{
    return (struct joining){sites->site[part->from].size[LEFT], digits * sites_product(sites, OUT, part->from + 1, s),
                            sites_product(sites, IN, part->from, s), sites->site[s].size[LEFT]};
}

static int64_t site_width(const struct site *site)
{
    return site->size[OUT] * site->size[IN] * site->size[RIGHT];
}

/* What making these digits of a part costs. *space: floats of each of two buffers; *core: of the largest core that is
 * joined. */
static struct cost part_cost(const struct sites *sites, const struct part *part, int64_t digits, double *space,
                             double *core)
{
    struct cost cost = {.moved = (double)(digits * site_width(&sites->site[part->from]) / part->digits)
                               * (double)sites->site[part->from].size[LEFT]};

    *space = part->to - part->from > 1 ? cost.moved : 0;
    *core = 0;
    for (int s = part->from + 1; s < part->to; s++) {
        struct joining j = joining_at(sites, part, s, digits);
        double width = (double)site_width(&sites->site[s]);
        double product = (double)j.left * (double)j.out * (double)j.in * width;

        cost.work += product * (double)j.bond;
        cost.moved += product + width * (double)j.bond;
        *space = fmax(*space, product);
        *core = fmax(*core, width * (double)j.bond);
    }
    return cost;
}

/* Joins cores one after the other; the last permutation brings the bond that faces the other part to the end. */
static void part_join(const struct sites *sites, const struct part *part, int64_t digits, float *to, float *product,
                      float *joined, float *core)
{
    const struct device *device = sites->device;

    for (int s = part->from + 1; s < part->to; s++) {
        static const int along[] = {0, 1, 3, 2, 4, 5}, last_right[] = {1, 3, 2, 4, 0, 5};
        struct joining j = joining_at(sites, part, s, digits);
        const int64_t *size = sites->site[s].size;
        int64_t width = site_width(&sites->site[s]), rows = j.left * j.out * j.in;
        bool last = s == part->to - 1;

        site_slice(sites, s, 0, size[OUT], order_append, core);
        device->gemm(1, product, j.bond, core, j.bond, 0, joined, width, rows, width, j.bond);
        device->permute(last ? to : product, joined, 6,
                        (int64_t[]){j.left, j.out, j.in, size[OUT], size[IN], size[RIGHT]},
                        last && part->from ? last_right : along);
    }
}

/* to [(o i), bond]: these digits of the part. */
static void part_make(const struct sites *sites, const struct part *part, int64_t first, int64_t digits, float *to)
{
    static const int whole[] = {LEFT, OUT, IN, RIGHT}, right[] = {OUT, IN, LEFT, RIGHT};
    double space, core;
    float *buffer;

    if (part->to - part->from == 1) {
        site_slice(sites, part->from, first, digits, part->from ? right : order_append, to);
        return;
    }
    part_cost(sites, part, digits, &space, &core);
    buffer = sites->device->allocate((size_t)(2 * space + core) * sizeof *buffer);
    site_slice(sites, part->from, first, digits, whole, buffer);
    part_join(sites, part, digits, to, buffer, buffer + (int64_t)space, buffer + 2 * (int64_t)space);
    sites->device->release(buffer);
}

/* The most digits that keep slice and tile small, at least one; false where that one is too large. */
static bool cut(const struct sites *sites, const struct part *part, int64_t tile, int64_t *digits)
{
    double space, core;
    int64_t slices = SLICE / part_floats(part, 1), tiles = TILE / tile;

    part_cost(sites, part, 1, &space, &core);
    if (part_floats(part, 1) > MOST || tile > MOST || space + core > MOST)
        return false;
    if (part->to - part->from > 1 && slices > SLICE / space)
        slices = (int64_t)(SLICE / space);
    *digits = slices < tiles ? slices : tiles;
    *digits = *digits < 1 ? 1 : *digits < part->digits ? *digits : part->digits;
    return true;
}

struct rebuilding rebuilding_at(const struct sites *sites, int split)
{
    struct part left = part_of(sites, 0, split), right = part_of(sites, split, sites->n_site);
    struct rebuilding r = {.split = split, .cost = {INFINITY, 0}};
    struct cost once, slice;
    double space, core, w = (double)sites->out * (double)sites->in, times;

    if (!cut(sites, &right, right.rows * sites->in, &r.right)
        || !cut(sites, &left, left.rows * r.right * right.rows * sites->in, &r.left))
        return r;
    times = ceil((double)right.digits / (double)r.right);
    slice = part_cost(sites, &right, r.right, &space, &core);
    once = part_cost(sites, &left, left.digits, &space, &core);
    r.left_whole = part_floats(&left, left.digits) <= SLICE && space + core <= SLICE;
    if (!r.left_whole) {
        once = part_cost(sites, &left, r.left, &space, &core);
        once.work *= times * ceil((double)left.digits / (double)r.left);
        once.moved *= times * ceil((double)left.digits / (double)r.left);
    }
    r.cost.work = once.work + times * slice.work + w * (double)left.bond;
    r.cost.moved = once.moved + times * slice.moved + w;
    return r;
}

struct rebuilding rebuilding_plan(const struct sites *sites)
{
    struct rebuilding best = rebuilding_at(sites, 1);

    for (int split = 2; split < sites->n_site; split++) {
        struct rebuilding other = rebuilding_at(sites, split);

        if (cost_total(other.cost) < cost_total(best.cost))
            best = other;
    }
    return best;
}

/* What is under way: slices of both parts, and the buffers of a tile. */
struct rebuild {
    const struct sites *sites;
    struct part left, right;
    int64_t left_digits, right_first, right_digits;
    float *l, *r, *product, *tile;
    float *y;
    const float *x;
    int64_t stride, x_stride, n;
    bool add;
};

/* The tile of L's digits first.. and the slice of R, and its products. Rows of W are contiguous only as far as R is
 * whole. */
static void multiply_tile(const struct rebuild *b, const float *l, int64_t first, int64_t digits)
{
    const struct device *device = b->sites->device;
    int64_t rows_l = digits * b->left.rows, rows_r = b->right_digits * b->right.rows, in = b->sites->in;
    int64_t below = b->right.digits * b->right.rows;     /* rows of W per row of L */
    int64_t run = rows_r == below ? rows_l * rows_r : rows_r, bond = b->left.bond;
    float *y = b->y + first * b->left.rows * below + b->right_first * b->right.rows;
    const float *tile = b->product;

    device->gemm(1, l, bond, b->r, bond, 0, b->product, rows_r * b->right.columns, rows_l * b->left.columns,
                 rows_r * b->right.columns, bond);
    if (b->left.columns > 1 && rows_r > 1) {
        device->permute(b->tile, b->product, 4, (int64_t[]){rows_l, b->left.columns, rows_r, b->right.columns},
                        (int[]){0, 2, 1, 3});
        tile = b->tile;
    }
    for (int64_t row = 0; row < rows_l * rows_r; row += run)
        device->gemm(1, b->x, b->x_stride, tile + row * in, in, b->add ? 1 : 0, y + row / rows_r * below, b->stride,
                     b->n, run, in);
}

static void multiply_slice(const struct rebuild *b)
{
    bool whole = b->sites->rebuilding.left_whole;

    for (int64_t first = 0; first < b->left.digits; first += b->left_digits) {
        int64_t rest = b->left.digits - first, digits = rest < b->left_digits ? rest : b->left_digits;

        if (!whole)
            part_make(b->sites, &b->left, first, digits, b->l);
        multiply_tile(b, b->l + (whole ? part_floats(&b->left, first) : 0), first, digits);
    }
}

void rebuild(const struct sites *sites, float *y, int64_t stride, bool add, const float *x, int64_t x_stride,
             int64_t n)
{
    const struct rebuilding *plan = &sites->rebuilding;
    struct rebuild b = {.sites = sites, .left = part_of(sites, 0, plan->split), .left_digits = plan->left,
                        .right = part_of(sites, plan->split, sites->n_site), .y = y, .x = x, .stride = stride,
                        .x_stride = x_stride, .n = n, .add = add};
    int64_t l = part_floats(&b.left, plan->left_whole ? b.left.digits : plan->left);
    int64_t r = part_floats(&b.right, plan->right);
    int64_t tile = plan->left * b.left.rows * plan->right * b.right.rows * sites->in;

    b.l = sites->device->allocate((size_t)(l + r + 2 * tile) * sizeof *b.l);
    b.r = b.l + l;
    b.product = b.r + r;
    b.tile = b.product + tile;
    if (plan->left_whole)
        part_make(sites, &b.left, 0, b.left.digits, b.l);
    for (int64_t first = 0; first < b.right.digits; first += plan->right) {
        b.right_first = first;
        b.right_digits = b.right.digits - first < plan->right ? b.right.digits - first : plan->right;
        part_make(sites, &b.right, first, b.right_digits, b.r);
        multiply_slice(&b);
    }
    sites->device->release(b.l);
}

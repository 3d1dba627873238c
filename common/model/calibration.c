/* calibration.c - sums of x x', in f32 products of some thousand tokens that are added up in double. */
#include "model/calibration.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "compute/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE_LEAST = 64, TILE_MOST = 512, TILE_STEP = 16 };       /* rows of H that are made together */

/* Where the moments of a part stand in a stream, and which matrices see its input. */
static const struct {
    const char *name, *weight[4];
} parts[PARTS] = {
    [PART_QKV] = {"self_attn.qkv", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}},
    [PART_O] = {"self_attn.o", {"self_attn.o_proj"}},
    [PART_GATEUP] = {"mlp.gateup", {"mlp.gate_proj", "mlp.up_proj"}},
    [PART_DOWN] = {"mlp.down", {"mlp.down_proj"}},
};

static const enum block_part stream_order[PARTS] = {PART_DOWN, PART_GATEUP, PART_O, PART_QKV};

static bool is_wanted(const struct calibration *calibration, enum block_part part)
{
    return calibration->options.part == PARTS || calibration->options.part == part;
}

static int64_t packed_count(int64_t n)
{
    return n * (n + 1) / 2;
}

/* ---- products ---- */

struct addition {
    double *sum;
    const float *tile;           /* [rows, columns] */
    int64_t first, columns;      /* number of the first row */
    bool packed;                 /* sum is the lower triangle; else [.., columns] */
};

static void add_row(void *context, int64_t r, int thread)
{
    const struct addition *a = context;
    int64_t i = a->first + r, count = a->packed ? i + 1 : a->columns;
    double *sum = a->sum + (a->packed ? packed_count(i) : i * a->columns);
    const float *tile = a->tile + r * a->columns;

    (void)thread;
    for (int64_t j = 0; j < count; j++)
        sum[j] += tile[j];
}

/* sum += a b' over tokens from..from+n-1 of a and b, which lie transposed [width, of stride tokens]; where packed, a is
 * b, and only the tiles that reach into the lower triangle are made. */
static void add_product(const struct calibration *c, const float *a, const float *b, int64_t width, int64_t stride,
                        int64_t from, int64_t n, bool packed, double *sum)
{
    int64_t tile = divide_up(least(most(width / 8, TILE_LEAST), TILE_MOST), TILE_STEP) * TILE_STEP;

    for (int64_t first = 0; first < width && n > 0; first += tile) {
        int64_t rows = least(tile, width - first), columns = packed ? first + rows : width;

        c->device->gemm(1, a + first * stride + from, stride, b + from, stride, 0, c->tile, columns, rows, columns, n);
        c->device->download(c->host, c->tile, (size_t)(rows * columns) * sizeof *c->host);
        parallel_for(rows, add_row, &(struct addition){sum, c->host, first, columns, packed});
    }
}

/* Room for n tokens transposed, and for a tile's product. */
static void ensure(struct calibration *c, int64_t width, int64_t n)
{
    size_t turned = (size_t)(width * n), tile = (size_t)(width * (TILE_MOST + TILE_STEP));

    if (turned > c->turned_floats) {
        for (int i = 0; i < 2; i++) {
            c->device->release(c->turned[i]);
            c->turned[i] = i == 0 || c->options.reference ? c->device->allocate(turned * sizeof(float)) : NULL;
        }
        c->turned_floats = turned;
    }
    if (tile > c->tile_floats) {
        c->device->release(c->tile);
        free(c->host);
        c->tile = c->device->allocate(tile * sizeof(float));
        c->host = xaligned(tile, sizeof *c->host);
        c->tile_floats = tile;
    }
}

/* The inputs of rows first..first+n-1 in the model. */
static void see(void *context, enum block_part part, int64_t first, const float *x, int64_t n)
{
    struct calibration *c = context;
    struct moment_sums *s = &c->sums[part];
    int64_t width = part_width(c->config, part), shape[2] = {n, width};
    int64_t fit = least(most(c->options.rows - c->options.held - first, 0), n), held = n - fit;
    static const int axes[2] = {1, 0};

    if (!is_wanted(c, part))
        return;
    ensure(c, width, n);
    c->device->permute(c->turned[0], x, 2, shape, axes);
    add_product(c, c->turned[0], c->turned[0], width, n, 0, fit, true, s->h);
    add_product(c, c->turned[0], c->turned[0], width, n, fit, held, true, s->held);
    if (!c->options.reference)
        return;
    c->device->permute(c->turned[1], c->seen[part] + (first - c->reference.first) * width, 2, shape, axes);
    add_product(c, c->turned[1], c->turned[0], width, n, 0, fit, false, s->cross);
    add_product(c, c->turned[1], c->turned[0], width, n, fit, held, false, s->held_cross);
}

/* The same in the reference: kept until the model's come. */
static void see_reference(void *context, enum block_part part, int64_t first, const float *x, int64_t n)
{
    struct calibration *c = context;
    int64_t width = part_width(c->config, part);

    if (is_wanted(c, part))
        c->device->copy(c->seen[part] + (first - c->reference.first) * width, width, x, width, n, width);
}

/* Ends the program at once where the sums don't fit into memory, and not behind the first block. */
static void expect_memory(const struct calibration *c)
{
    double numbers = 0, sets = c->options.held ? 2 : 1;

    for (enum block_part part = 0; part < PARTS; part++) {
        double n = (double)part_width(c->config, part), packed = n * (n + 1) / 2;

        if (is_wanted(c, part))
            numbers += sets * (packed + (c->options.reference ? n * n : 0));
    }
    memory_expect(numbers * sizeof(double));
}

void calibration_begin(struct calibration *calibration, const struct device *device, const struct config *config,
                       const struct calibration_options *options)
{
    *calibration = (struct calibration){.device = device, .config = config, .options = *options};
    calibration->tap = (struct tap){.see = see, .context = calibration, .last = PARTS};
    calibration->reference = (struct tap){.see = see_reference, .context = calibration, .last = PARTS};
    expect_memory(calibration);
    for (enum block_part part = 0; part < PARTS; part++) {
        struct moment_sums *s = &calibration->sums[part];
        int64_t n = part_width(config, part);
        size_t packed = (size_t)packed_count(n), whole = (size_t)(n * n);

        if (!is_wanted(calibration, part))
            continue;
        s->h = xcalloc(packed, sizeof *s->h);
        s->held = options->held ? xcalloc(packed, sizeof *s->held) : NULL;
        if (!options->reference)
            continue;
        calibration->seen[part] = device->allocate((size_t)(PASS_ROWS * n) * sizeof(float));
        s->cross = xcalloc(whole, sizeof *s->cross);
        s->held_cross = options->held ? xcalloc(whole, sizeof *s->held_cross) : NULL;
    }
}

void calibration_end(struct calibration *calibration)
{
    const struct device *device = calibration->device;

    for (enum block_part part = 0; part < PARTS && device; part++) {
        struct moment_sums *s = &calibration->sums[part];

        device->release(calibration->seen[part]);
        free(s->h);
        free(s->held);
        free(s->cross);
        free(s->held_cross);
    }
    for (int i = 0; i < 2 && device; i++)
        device->release(calibration->turned[i]);
    if (device)
        device->release(calibration->tile);
    free(calibration->host);
    *calibration = (struct calibration){0};
}

/* ---- results ---- */

struct averaging {
    double *sum;
    float *mean;
    int64_t count, tokens;
};

enum { PIECE = 1 << 16 };

/* The sums are 0 again. */
static void average_piece(void *context, int64_t item, int thread)
{
    const struct averaging *a = context;
    int64_t from = item * PIECE, to = least(from + PIECE, a->count);

    (void)thread;
    for (int64_t i = from; i < to; i++) {
        a->mean[i] = (float)(a->sum[i] / (double)a->tokens);
        a->sum[i] = 0;
    }
}

/* The mean of what was summed up over tokens, the caller's; NULL where nothing was. */
static float *average(double *sum, int64_t count, int64_t tokens)
{
    float *mean;

    if (!sum)
        return NULL;
    mean = xaligned((size_t)count, sizeof *mean);
    parallel_for(divide_up(count, PIECE), average_piece, &(struct averaging){sum, mean, count, tokens});
    return mean;
}

static void make_set(struct calibration *c, enum block_part part, int64_t layer, struct moment_set *set)
{
    struct moment_sums *s = &c->sums[part];
    int64_t n = part_width(c->config, part), held = c->options.held, fit = c->options.rows - held;

    *set = (struct moment_set){.name = xasprintf("model.layers.%lld.%s", (long long)layer, parts[part].name)};
    set->weight = xcalloc(4, sizeof *set->weight);
    for (; parts[part].weight[set->n_weight]; set->n_weight++)
        set->weight[set->n_weight] = xasprintf("model.layers.%lld.%s.weight", (long long)layer,
                                               parts[part].weight[set->n_weight]);
    set->h = (struct moments){n, fit, average(s->h, packed_count(n), fit)};
    set->cross = average(s->cross, n * n, fit);
    set->held = (struct moments){n, held, average(s->held, packed_count(n), held)};
    set->held_cross = average(s->held_cross, n * n, held);
}

static bool is_finite(const float *values, int64_t count)
{
    return !values || isfinite(linalg_sum_squares(values, count));
}

static int check_set(const struct moment_set *set)
{
    int64_t n = set->h.n, packed = packed_count(n);

    if (is_finite(set->h.packed, packed) && is_finite(set->cross, n * n) && is_finite(set->held.packed, packed)
        && is_finite(set->held_cross, n * n))
        return EX_OK;
    return fail(EX_DATAERR, "'%s': the model's activations there are not finite", set->name);
}

int calibration_write(struct calibration *calibration, int64_t layer, struct writer *writer)
{
    int rc = EX_OK;

    for (int i = 0; i < PARTS && !rc; i++) {
        struct moment_set set;

        if (!is_wanted(calibration, stream_order[i]))
            continue;
        make_set(calibration, stream_order[i], layer, &set);
        if (!(rc = check_set(&set)))
            rc = moments_write(writer, &set);
        moment_set_free(&set);
    }
    return rc;
}

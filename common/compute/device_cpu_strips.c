/* device_cpu_strips.c - trellis-coded matrices on the CPU device: laid out in strips, and their rows. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"
#include "tensor/trellis.h"

#include <string.h>

_Static_assert((int)STRIP_TILE == (int)TRELLIS_TILE && (int)TILE == (int)TRELLIS_TILE, "strips are rows of tiles");

struct laying {
    const struct tensor *from;
    struct trellis_layout layout;
    struct strips *to;
    unsigned char *data;
};

/* A tile, and behind it its first bytes once more: also several times, where it has less. */
static void lay_tile(const struct laying *p, int64_t row, int64_t column, unsigned char *to)
{
    struct trellis_tile tile = trellis_tile(p->from->dtype, &p->layout, row, column);
    const unsigned char *from = p->from->data + tile.at;
    int bytes = tile.width * p->to->column_bytes;

    for (int i = 0; i < bytes + STRIP_BEHIND; i++)
        to[i] = from[i % bytes];
}

static void lay_strip(void *context, int64_t strip, int thread)
{
    const struct laying *p = context;
    const struct strips *w = p->to;
    unsigned char *to = p->data + strip * w->strip_bytes;
    const uint16_t *half = (const void *)(p->from->data + p->layout.scale);

    (void)thread;
    memset(to, 0, (size_t)w->strip_bytes);
    for (int r = 0; r < TILE; r++) {
        float scale = half_to_float(half[strip * TILE + r]) / TRELLIS_ONE;

        memcpy(to + r * (int64_t)sizeof scale, &scale, sizeof scale);
    }
    for (int64_t t = 0; t < p->layout.tile_columns; t++)
        lay_tile(p, strip, t, to + STRIP_HEAD + t * w->tile_bytes);
}

/* Where the windows of a column's rows begin, one after the other and as vectors take them. */
static void find_windows(struct strips *w, struct dtype dtype)
{
    w->spare = dtype.state > 15;
    for (int r = 0; r < TILE; r++) {
        int bit = r / dtype.step * dtype.bits, from = r / 2 * 2 / dtype.step * dtype.bits / 8;

        w->byte[r] = bit / 8;
        w->shift[r] = bit % 8;
        w->factor[2 * r] = w->factor[2 * r + 1]
            = (uint16_t)(trellis_factor(dtype, r % dtype.step) << (w->spare ? 0 : 15 - dtype.state));
        for (int i = 0; i < 4; i++) {            /* an even row's four bytes are column c, an odd one's c + 2 */
            w->pick[4 * r + i] = (unsigned char)(from + i + r % 2 * 2 * (int)w->column_bytes);
            w->bit[4 * r + i] = (unsigned char)(bit - 8 * from + i % 2 * 8 + i / 2 * 32);
        }
    }
    for (int k = 0; k < TRELLIS_LEVELS; k++)
        w->level[k] = (unsigned char)((trellis_level[k] + STRIP_CENTRE) / 2);
}

bool cpu_place_strips(struct cpu_matrix *matrix, struct tensor *tensor)
{
    struct strips *w = &matrix->strips;
    struct laying p = {.from = tensor, .to = w};
    int64_t strips;

    trellis_layout(tensor->dtype, tensor->rank, tensor->shape, &p.layout);
    if (p.layout.rows % TILE)
        return false;
    strips = p.layout.rows / TILE;
    w->column_bytes = TILE / tensor->dtype.step * tensor->dtype.bits / 8;
    find_windows(w, tensor->dtype);
    w->tile_bytes = STRIP_TILE * w->column_bytes + STRIP_BEHIND;
    w->tiles = (p.layout.length + BLOCK - 1) / BLOCK * 2;
    w->strip_bytes = (STRIP_HEAD + w->tiles * w->tile_bytes + STRIP_LOAD + 63) / 64 * 64;
    matrix->layout = LAYOUT_STRIPS;
    matrix->tile_data = p.data = xaligned((size_t)strips, (size_t)w->strip_bytes);
    w->data = p.data;
    matrix->placed.bytes = strips * w->strip_bytes;
    parallel_for(strips, lay_strip, &p);
    tensor_free(tensor);
    return true;
}

void cpu_set_strips(const struct cpu_matrix *matrix, const float *scale)
{
    const struct strips *w = &matrix->strips;

    if (!matrix->scale || matrix->layout != LAYOUT_STRIPS)
        return;
    for (int64_t row = 0; row < matrix->placed.rows; row++) {
        float part = (scale ? scale[row] : 1) / TRELLIS_ONE;

        memcpy(matrix->tile_data + row / TILE * w->strip_bytes + row % TILE * (int64_t)sizeof part, &part, sizeof part);
    }
}

void cpu_gather_strip(const struct strips *w, int64_t row, int64_t columns, float *y)
{
    const unsigned char *strip = w->data + row / TILE * w->strip_bytes;
    int r = (int)(row % TILE);
    float scale;

    memcpy(&scale, strip + r * (int64_t)sizeof scale, sizeof scale);
    for (int64_t k = 0; k < columns; k++) {
        const unsigned char *column = strip + STRIP_HEAD + k / STRIP_TILE * w->tile_bytes
                                      + k % STRIP_TILE * w->column_bytes;
        uint32_t h;

        memcpy(&h, column + w->byte[r], sizeof h);
        h = (h >> w->shift[r]) * w->factor[2 * r];
        y[k] = scale * (float)(2 * w->level[h >> w->spare >> 8 & 127] - STRIP_CENTRE);
    }
}

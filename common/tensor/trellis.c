/* trellis.c - trellis codes unpacked. */
#include "tensor/trellis.h"
#include "base/memory.h"

#include <string.h>

const uint16_t trellis_factors[9][TRELLIS_STATES][2] = {
    [2] = {{0x77}, {0xe7}, {0x1d1}, {0x3af}, {0x765}, {0x10c7}, {0x1f5b}, {0x3e03}, {0x851d}},
    [3] = {{0xa5, 0x1f}, {0x185, 0xbf}, {0x26d, 0x79}, {0x515, 0xe9}, {0xe23, 0x651}, {0x9bb, 0x619}, {0x83b, 0x2711},
           {0x2c27, 0x103d}, {0xa863, 0x4231}},
    [4] = {{0x45}, {0x87}, {0x107}, {0x20d}, {0xbdb}, {0x17c5}, {0x2f7b}, {0x2173}, {0x4123}},
    [5] = {{0x4d, 0xbb}, {0x167, 0xf}, {0x135, 0x383}, {0x65b, 0x56d}, {0x61b, 0xf83}, {0x1f1b, 0x176d},
           {0x3c0f, 0x1d23}, {0x798f, 0x2297}, {0x59af, 0x6b39}},
    [6] = {{0x61}, {0x3d}, {0x83}, {0x107}, {0xa09}, {0xbed}, {0x37eb}, {0x5039}, {0x6097}},
    [7] = {{0x2f, 0xd3}, {0x75, 0x15b}, {0x6b, 0x2a5}, {0x213, 0x3d}, {0x54b, 0x607}, {0x1213, 0x3d}, {0x2b05, 0x415},
           {0x196b, 0x50c5}, {0x33d, 0x39d3}},
    [8] = {{0x79}, {0x61}, {0x3d}, {0x85}, {0xf9}, {0x1df7}, {0xbed}, {0x77dd}, {0x1093}},
};

/* The odd numbers nearest to 96 times the normal quantiles of (i + 1/2) / 128. */
const int16_t trellis_level[TRELLIS_LEVELS] = {
    -255, -217, -199, -185, -173, -165, -157, -151, -145, -139, -133, -129, -125, -121, -117, -113, -109, -105,
    -101, -99, -95, -93, -89, -87, -83, -81, -79, -75, -73, -71, -69, -65, -63, -61, -59, -57, -55, -53, -51, -47,
    -45, -43, -41, -39, -37, -35, -33, -31, -29, -27, -25, -23, -21, -19, -17, -17, -15, -13, -11, -9, -7, -5, -3,
    -1, 1, 3, 5, 7, 9, 11, 13, 15, 17, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 51, 53, 55,
    57, 59, 61, 63, 65, 69, 71, 73, 75, 79, 81, 83, 87, 89, 93, 95, 99, 101, 105, 109, 113, 117, 121, 125, 129, 133,
    139, 145, 151, 157, 165, 173, 185, 199, 217, 255,
};

static int64_t steps_of(struct dtype dtype, int64_t count)
{
    return (count + dtype.step - 1) / dtype.step;
}

static int64_t tile_bytes(struct dtype dtype, int64_t height, int64_t width)
{
    return (steps_of(dtype, height * width) * dtype.bits + 7) / 8;
}

/* Bytes of a row of tiles; length is at most INT64_MAX / 16, a whole tile has 128 bytes at most. */
static int64_t row_bytes(struct dtype dtype, int64_t height, int64_t length)
{
    return length / TRELLIS_TILE * tile_bytes(dtype, height, TRELLIS_TILE)
           + tile_bytes(dtype, height, length % TRELLIS_TILE);
}

bool trellis_layout(struct dtype dtype, int rank, const int64_t *shape, struct trellis_layout *layout)
{
    struct trellis_layout l = {0};
    int64_t scales;

    if (!dtype_rows(rank, shape, &l.rows, &l.length))
        return false;
    l.tile_rows = l.rows / TRELLIS_TILE + (l.rows % TRELLIS_TILE != 0);
    l.tile_columns = (l.length + TRELLIS_TILE - 1) / TRELLIS_TILE;
    l.row_bytes = row_bytes(dtype, TRELLIS_TILE, l.length);
    if (!size_multiply(l.rows / TRELLIS_TILE, l.row_bytes, &l.codes)
        || !size_add(l.codes, row_bytes(dtype, l.rows % TRELLIS_TILE, l.length), &l.codes)
        || !size_multiply(l.rows, 2, &scales) || !size_add(l.codes, l.rows ? (64 - l.codes % 64) % 64 : 0, &l.scale)
        || !size_add(l.scale, scales, &l.total))
        return false;
    *layout = l;
    return true;
}

static int edge(int64_t size, int64_t tile)
{
    int64_t left = size - tile * TRELLIS_TILE;

    return (int)(left < TRELLIS_TILE ? left : TRELLIS_TILE);
}

struct trellis_tile trellis_tile(struct dtype dtype, const struct trellis_layout *layout, int64_t row, int64_t column)
{
    struct trellis_tile tile = {.height = edge(layout->rows, row), .width = edge(layout->length, column)};

    tile.count = tile.height * tile.width;
    tile.steps = (int)steps_of(dtype, tile.count);
    tile.at = row * layout->row_bytes + column * tile_bytes(dtype, tile.height, TRELLIS_TILE);
    return tile;
}

/* Codes of steps, rolled through a window that ends with a whole code at or behind the state's last bit. */
void trellis_states(struct dtype dtype, int steps, const unsigned char *packed, uint32_t *state)
{
    unsigned char code[TRELLIS_WEIGHTS + TRELLIS_STATE_MOST];
    int codes = (dtype.state + dtype.bits - 1) / dtype.bits;
    uint32_t mask = (1u << dtype.state) - 1, window = 0;

    if (!steps)
        return;
    codes_unpack(dtype.bits, steps, steps, packed, code);
    for (int i = 0; i < codes; i++)
        code[steps + i] = code[i % steps];
    for (int i = 0; i < codes; i++)
        window |= (uint32_t)code[i] << i * dtype.bits;
    for (int t = 0; t < steps; t++) {
        state[t] = window & mask;
        window = window >> dtype.bits | (uint32_t)code[t + codes] << (codes - 1) * dtype.bits;
    }
}

void trellis_pack(struct dtype dtype, int steps, const uint32_t *state, unsigned char *packed)
{
    unsigned char code[TRELLIS_WEIGHTS];

    for (int t = 0; t < steps; t++)
        code[t] = (unsigned char)(state[t] & ((1u << dtype.bits) - 1));
    codes_pack(dtype.bits, steps, steps, code, packed);
}

void trellis_values(struct dtype dtype, int steps, const uint32_t *state, float *value)
{
    for (int v = 0; v < dtype.step; v++)
        for (int t = 0; t < steps; t++)
            value[t * dtype.step + v] = (float)trellis_value(dtype, state[t], v);
}

/* Rows from..to-1 of one tile into out, whose rows are stride apart. */
static void get_tile(const struct tensor *tensor, const struct trellis_tile *tile, const float *scale, int from, int to,
                     float *out, int64_t stride)
{
    uint32_t state[TRELLIS_WEIGHTS];
    float value[TRELLIS_WEIGHTS + 1];            /* the last step of an odd number has one too many */

    trellis_states(tensor->dtype, tile->steps, tensor->data + tile->at, state);
    trellis_values(tensor->dtype, tile->steps, state, value);
    for (int row = from; row < to; row++)
        for (int column = 0; column < tile->width; column++)
            out[(row - from) * stride + column] = scale[row] * value[column * tile->height + row];
}

static void get_rows(const struct tensor *tensor, bool scaled, int64_t first, int64_t rows, float *out)
{
    struct trellis_layout l;
    const uint16_t *half;
    float scale[TRELLIS_TILE];

    trellis_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    half = (const void *)(tensor->data + l.scale);
    for (int64_t row = first / TRELLIS_TILE; row * TRELLIS_TILE < first + rows; row++) {
        int64_t top = row * TRELLIS_TILE, end = first + rows - top;
        int from = (int)(first > top ? first - top : 0), to = (int)(end < TRELLIS_TILE ? end : TRELLIS_TILE);

        for (int r = from; r < to; r++)
            scale[r] = (scaled ? half_to_float(half[top + r]) : 1) / TRELLIS_ONE;
        for (int64_t column = 0; column < l.tile_columns; column++) {
            struct trellis_tile tile = trellis_tile(tensor->dtype, &l, row, column);

            get_tile(tensor, &tile, scale, from, to, out + (top + from - first) * l.length + column * TRELLIS_TILE,
                     l.length);
        }
    }
}

void trellis_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out)
{
    get_rows(tensor, true, first, rows, out);
}

void trellis_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit)
{
    get_rows(tensor, false, first, rows, unit);
}

void trellis_get_scales(const struct tensor *tensor, float *scale)
{
    struct trellis_layout l;
    const uint16_t *half;

    trellis_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    half = (const void *)(tensor->data + l.scale);
    for (int64_t row = 0; row < l.rows; row++)
        scale[row] = half_to_float(half[row]);
}

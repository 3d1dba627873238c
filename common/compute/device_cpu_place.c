/* device_cpu_place.c - matrices moved onto the CPU device: plain ones stay as they are, packed ones are interleaved. */
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/device_cpu.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct tensor as_f32(struct tensor *tensor)
{
    struct tensor wide = tensor_new(DTYPE(F32), tensor->rank, tensor->shape);

    tensor_get(tensor, (float *)(void *)wide.data);
    tensor_free(tensor);
    return wide;
}

struct repacking {
    const struct tensor *from;
    struct group_layout layout;
    struct cpu_matrix *to;
    int64_t columns;             /* whole blocks */
    unsigned char *space;        /* [threads][TILE * columns + groups] */
};

/* One plane of `width` bits, the bits of the codes from `shift` on: byte i of vector v holds w[8 / width * v + f]. */
static void pack_plane(const unsigned char *codes, int64_t columns, int width, int shift, unsigned char *out)
{
    int per = 8 / width, mask = (1 << width) - 1;

    for (int v = 0; v < width; v++)
        for (int r = 0; r < TILE; r++)
            for (int c = 0; c < 4; c++) {
                const unsigned char *at = codes + r * columns + 4 * per * v + c;
                int byte = 0;

                for (int f = 0; f < per; f++)
                    byte |= (at[4 * f] >> shift & mask) << width * f;
                out[v * 64 + 4 * r + c] = (unsigned char)byte;
            }
}

static void pack_block(int bits, const unsigned char *codes, int64_t columns, unsigned char *out)
{
    int low = bits == 8 ? 8 : bits >= 4 ? 4 : 2;

    pack_plane(codes, columns, low, 0, out);
    if (bits > low)
        pack_plane(codes, columns, bits - low, low, out + low * 64);
}

/* The factors of row r of a tile, one plane: [supers] halves. */
static void copy_factors(const struct tiles *w, int64_t supers, const unsigned char *factor, unsigned char *tile)
{
    for (int64_t super = 0; super < supers; super++)
        memcpy(tile + super * w->super_bytes, factor + super * 2, 2);
}

/* Integers of so many bits, or f16 where 0: one per group, to every group's head. */
static void copy_numbers(const struct tiles *w, int bits, int64_t groups, const unsigned char *in,
                         unsigned char *integers, int r, unsigned char *head)
{
    if (bits)
        codes_unpack(bits, groups, groups, in, integers);
    for (int64_t g = 0; g < groups; g++, head += w->group_bytes)
        if (bits)
            head[r] = integers[g];
        else
            memcpy(head + r * 2, in + g * 2, 2);
}

static void copy_scales(const struct repacking *p, int64_t row, int r, unsigned char *tile, unsigned char *integers)
{
    const struct group_layout *l = &p->layout;
    const struct tiles *w = &p->to->tiles;
    const unsigned char *data = p->from->data, *zero = data + l->zero + row * l->zero_bytes;
    unsigned char *head = tile + w->factor_bytes;
    int bits = p->from->dtype.scale_bits, width = bits ? 1 : 2;

    copy_factors(w, l->supers, data + l->scale_factor + row * l->supers * 2, tile + r * 2);
    copy_factors(w, l->minimum_supers, data + l->minimum_factor + row * l->minimum_supers * 2, tile + (TILE + r) * 2);
    copy_numbers(w, bits, l->groups, data + l->scale + row * l->scale_bytes, integers, r, head);
    if (w->zero == ZERO_MIN)
        copy_numbers(w, bits, l->groups, zero, integers, r, head + TILE * width);
    else if (w->zero == ZERO_INT)
        copy_numbers(w, w->bits, l->groups, zero, integers, r, head + TILE * width);
}

static int64_t block_offset(const struct tiles *w, int64_t block)
{
    return w->factor_bytes + block / w->group_blocks * w->group_bytes + w->head
           + block % w->group_blocks * w->bits * 64;
}

static void repack_tile(void *context, int64_t item, int thread)
{
    const struct repacking *p = context;
    const struct group_layout *l = &p->layout;
    const struct tiles *w = &p->to->tiles;
    unsigned char *tile = p->to->tile_data + item * w->tile_bytes;
    unsigned char *codes = p->space + thread * (TILE * p->columns + l->groups), *integers = codes + TILE * p->columns;

    memset(tile, 0, (size_t)w->tile_bytes);
    memset(codes, 0, (size_t)(TILE * p->columns));
    for (int r = 0; r < TILE && item * TILE + r < l->rows; r++) {
        int64_t row = item * TILE + r;

        codes_unpack(w->bits, l->length, l->group, p->from->data + row * l->code_bytes, codes + r * p->columns);
        copy_scales(p, row, r, tile, integers);
    }
    for (int64_t k = 0; k < w->blocks; k++)
        pack_block(w->bits, codes + k * BLOCK, p->columns, tile + block_offset(w, k));
}

static void repack(struct cpu_matrix *matrix, struct tensor *tensor, const struct group_layout *layout)
{
    struct tiles *w = &matrix->tiles;
    int64_t count = (layout->rows + TILE - 1) / TILE, number;
    struct repacking p = {tensor, *layout, matrix, 0, NULL};

    w->bits = tensor->dtype.bits;
    w->zero = tensor->dtype.zero;
    w->blocks = (layout->length + BLOCK - 1) / BLOCK;
    w->group_blocks = layout->groups == 1 ? w->blocks : layout->group / BLOCK;
    w->super_bytes = !layout->supers ? 0 : TILE * (layout->minimum_supers ? 4 : 2);
    w->factor_bytes = layout->supers * w->super_bytes;
    number = layout->supers ? 1 : 2;
    w->head = TILE * (number + (w->zero == ZERO_MIN ? number : w->zero == ZERO_INT ? 1 : 0));
    w->group_bytes = w->head + w->group_blocks * w->bits * 64;
    w->tile_bytes = (w->factor_bytes + w->blocks * w->bits * 64 + layout->groups * w->head + 63) / 64 * 64;
    p.columns = w->blocks * BLOCK;
    p.space = xmallocarray((size_t)parallel_threads(), (size_t)(TILE * p.columns + layout->groups));
    matrix->layout = LAYOUT_TILES;
    matrix->tile_data = xaligned((size_t)count, (size_t)w->tile_bytes);
    w->data = matrix->tile_data;
    matrix->placed.bytes = count * w->tile_bytes;
    parallel_for(count, repack_tile, &p);
    free(p.space);
    tensor_free(tensor);
}

static void place_plain(struct cpu_matrix *matrix, struct tensor plain)
{
    matrix->tensor = plain;
    matrix->layout = LAYOUT_ROWS;
    matrix->kind = plain.dtype.kind;
    matrix->placed.bytes = plain.bytes;
}

/* Groups of whole blocks; false for others. */
static bool place_tiles(struct cpu_matrix *matrix, struct tensor *tensor)
{
    struct group_layout layout;

    group_layout(tensor->dtype, tensor->rank, tensor->shape, &layout);
    if (layout.groups != 1 && layout.group % BLOCK)
        return false;
    repack(matrix, tensor, &layout);
    return true;
}

static void place_packed(struct cpu_matrix *matrix, struct tensor *tensor)
{
    bool group = tensor->dtype.kind == DTYPE_GROUP;

    if (tensor_row_length(tensor) != matrix->placed.columns || tensor_count(tensor) == 0)
        place_plain(matrix, as_f32(tensor));     /* one column: its groups run down the rows */
    else if (!(group ? place_tiles(matrix, tensor) : cpu_place_strips(matrix, tensor))) {
        matrix->layout = LAYOUT_STORED;
        matrix->tensor = *tensor;
        matrix->placed.bytes = tensor->bytes;
    }
}

struct placed *cpu_place(struct tensor *tensor, enum activations activations)
{
    struct cpu_matrix *matrix = xcalloc(1, sizeof *matrix);
    int64_t count = tensor_count(tensor);
    int64_t rows = tensor->rank == 2 ? tensor->shape[0] : tensor->shape[0] * tensor->shape[1];

    assert(dtype_is_real(tensor->dtype) && (tensor->rank == 2 || tensor->rank == 4));
    matrix->placed = (struct placed){.rows = rows, .columns = rows ? count / rows : 0, .dtype = tensor->dtype,
                                     .activations = activations};
    if (dtype_is_packed(tensor->dtype))
        place_packed(matrix, tensor);
    else
        place_plain(matrix, tensor->dtype.kind == DTYPE_F64 ? as_f32(tensor) : *tensor);
    *tensor = (struct tensor){0};
    return &matrix->placed;
}

void cpu_displace(struct placed *placed)
{
    struct cpu_matrix *matrix = (struct cpu_matrix *)placed;

    if (!matrix)
        return;
    tensor_free(&matrix->tensor);
    free(matrix->tile_data);
    free(matrix->scale);
    free(matrix->minimum);
    free(matrix);
}

const unsigned char *cpu_row(const struct cpu_matrix *w, int64_t row)
{
    return w->tensor.data + row * w->placed.columns * dtype_size(w->tensor.dtype);
}

struct gathering {
    const struct kernels *kernels;
    const struct cpu_matrix *w;
    const int32_t *index;
    float *y;
    int64_t stride;
};

static int plane_code(const unsigned char *plane, int width, int r, int j, int c)
{
    int per = 8 / width;

    return plane[j / per * 64 + 4 * r + c] >> width * (j % per) & ((1 << width) - 1);
}

/* Scale and minimum of row r in a group. */
static void group_numbers(const struct tiles *w, const unsigned char *tile, int64_t group, int r, float *scale,
                          float *minimum)
{
    const unsigned char *head = tile + w->factor_bytes + group * w->group_bytes;
    const uint16_t *half = (const void *)(w->super_bytes ? tile + group / SUPER_GROUPS * w->super_bytes : head);

    *scale = half_to_float(half[r]) * (w->super_bytes ? head[r] : 1);
    *minimum = w->zero != ZERO_MIN ? 0 : half_to_float(half[TILE + r]) * (w->super_bytes ? head[TILE + r] : 1);
}

/* One row of the tiles, rounded as the reference rounds. */
static void gather_tile_row(const struct tiles *w, int64_t row, int64_t columns, float *y)
{
    const unsigned char *tile = w->data + row / TILE * w->tile_bytes;
    int r = (int)(row % TILE), low = w->bits == 8 ? 8 : w->bits >= 4 ? 4 : 2;
    int64_t zeros = w->factor_bytes + TILE * (w->super_bytes ? 1 : 2) + r;      /* in a group, of zero points */

    for (int64_t k = 0; k < columns; k++) {
        const unsigned char *block = tile + block_offset(w, k / BLOCK);
        int64_t group = k / BLOCK / w->group_blocks;
        int j = (int)(k % BLOCK) / 4, c = (int)k % 4, code = plane_code(block, low, r, j, c);
        float scale, minimum;

        group_numbers(w, tile, group, r, &scale, &minimum);
        if (w->bits > low)
            code |= plane_code(block + low * 64, w->bits - low, r, j, c) << low;
        if (w->zero == ZERO_MIN)
            y[k] = scale * (float)code + minimum;
        else
            y[k] = scale * (float)(code - (w->zero == ZERO_INT ? tile[zeros + group * w->group_bytes]
                                                               : 1 << (w->bits - 1)));
    }
}

static void gather_row(void *context, int64_t i, int thread)
{
    const struct gathering *p = context;
    float *y = p->y + i * p->stride, panel[PANEL_MOST];

    (void)thread;
    if (p->w->layout == LAYOUT_TILES)
        gather_tile_row(&p->w->tiles, p->index[i], p->w->placed.columns, y);
    else if (p->w->layout == LAYOUT_STRIPS)
        cpu_gather_strip(&p->w->strips, p->index[i], p->w->placed.columns, y);
    else if (tensor_row_length(&p->w->tensor) == p->w->placed.columns)
        cpu_unpack(p->w, p->index[i], 1, y);
    else {                       /* one column: to the tensor, its elements are one row */
        p->kernels->panel_rows(p->w->kind, cpu_row(p->w, p->index[i]), 1, 1, 1, panel);
        y[0] = panel[0];
    }
}

void cpu_gather(const struct placed *w, const int32_t *index, int64_t n, float *y, int64_t stride)
{
    struct gathering p = {cpu_kernels(), (const struct cpu_matrix *)w, index, y, stride};

    cpu_set_strips(p.w, p.w->scale);
    if (n * w->columns >= 1 << 14)
        parallel_for(n, gather_row, &p);
    else
        for (int64_t i = 0; i < n; i++)
            gather_row(&p, i, 0);
}

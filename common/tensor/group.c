/* group.c - rows of group formats: packed codes, scales and minima. */
#include "base/memory.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

void codes_pack(int bits, int64_t length, int64_t group, const unsigned char *codes, unsigned char *packed)
{
    for (int64_t first = 0; first < length; first += group) {
        int64_t count = length - first < group ? length - first : group;
        unsigned buffer = 0;
        int filled = 0;

        for (int64_t i = 0; i < count; i++) {
            buffer |= (unsigned)codes[first + i] << filled;
            for (filled += bits; filled >= 8; filled -= 8, buffer >>= 8)
                *packed++ = (unsigned char)buffer;
        }
        if (filled)
            *packed++ = (unsigned char)buffer;
    }
}

void codes_unpack(int bits, int64_t length, int64_t group, const unsigned char *packed, unsigned char *codes)
{
    for (int64_t first = 0; first < length; first += group) {
        int64_t count = length - first < group ? length - first : group;
        unsigned buffer = 0;
        int filled = 0;

        for (int64_t i = 0; i < count; i++) {
            if (filled < bits) {
                buffer |= (unsigned)*packed++ << filled;
                filled += 8;
            }
            codes[first + i] = (unsigned char)(buffer & ((1u << bits) - 1));
            buffer >>= bits;
            filled -= bits;
        }
    }
}

struct group_row group_row_new(const struct group_layout *layout)
{
    size_t groups = (size_t)layout->groups, supers = (size_t)layout->supers;
    uint16_t *space = xcalloc(2 * (groups + supers) + (size_t)(layout->length + 1) / 2, sizeof *space);

    return (struct group_row){.scale = space, .zero = space + groups, .scale_factor = space + 2 * groups,
                              .minimum_factor = space + 2 * groups + supers,
                              .codes = (unsigned char *)(space + 2 * (groups + supers))};
}

void group_row_free(struct group_row *row)
{
    free(row->scale);            /* all of it, see group_row_new() */
    *row = (struct group_row){0};
}

static void put_integers(int bits, int64_t count, const uint16_t *in, unsigned char *packed)
{
    unsigned char *bytes = xmalloc((size_t)count);

    for (int64_t i = 0; i < count; i++)
        bytes[i] = (unsigned char)in[i];
    codes_pack(bits, count, count, bytes, packed);
    free(bytes);
}

static void put_halves(int64_t count, const uint16_t *in, unsigned char *out)
{
    if (count)
        memcpy(out, in, (size_t)count * sizeof *in);
}

/* One number per group: f16, or integers of so many bits. */
static void put_numbers(int bits, int64_t count, const uint16_t *in, unsigned char *out)
{
    if (bits)
        put_integers(bits, count, in, out);
    else
        put_halves(count, in, out);
}

void tensor_put_row(struct tensor *tensor, const struct group_layout *layout, int64_t index,
                    const struct group_row *row)
{
    const struct group_layout *l = layout;
    struct dtype dtype = tensor->dtype;
    unsigned char *zero = tensor->data + l->zero + index * l->zero_bytes;

    codes_pack(dtype.bits, l->length, l->group, row->codes, tensor->data + index * l->code_bytes);
    put_numbers(dtype.scale_bits, l->groups, row->scale, tensor->data + l->scale + index * l->scale_bytes);
    if (dtype.zero == ZERO_MIN)
        put_numbers(dtype.scale_bits, l->groups, row->zero, zero);
    else if (dtype.zero == ZERO_INT)
        put_integers(dtype.bits, l->groups, row->zero, zero);
    put_halves(l->supers, row->scale_factor, tensor->data + l->scale_factor + index * l->supers * 2);
    put_halves(l->minimum_supers, row->minimum_factor,
               tensor->data + l->minimum_factor + index * l->minimum_supers * 2);
}

/* Room for one row while it's read. */
struct space {
    float *scale, *minimum;      /* [groups] */
    unsigned char *codes;        /* [length] */
    unsigned char *integers;     /* [groups] */
};

/* out [groups]: f16 numbers, or factors times integers of so many bits. */
static void get_numbers(int bits, int64_t groups, const unsigned char *plane, const unsigned char *factors,
                        unsigned char *integers, float *out)
{
    const uint16_t *half = (const void *)plane, *factor = (const void *)factors;

    if (!bits) {
        for (int64_t g = 0; g < groups; g++)
            out[g] = half_to_float(half[g]);
        return;
    }
    codes_unpack(bits, groups, groups, plane, integers);
    for (int64_t g = 0; g < groups; g++)
        out[g] = half_to_float(factor[g / SUPER_GROUPS]) * (float)integers[g];
}

/* The zero points of a row (int), or where the code's range is centred (none); 0 where the format has minima. */
static void get_offsets(const struct tensor *tensor, const struct group_layout *l, int64_t row, unsigned char *offset)
{
    struct dtype dtype = tensor->dtype;

    if (dtype.zero == ZERO_INT)
        codes_unpack(dtype.bits, l->groups, l->groups, tensor->data + l->zero + row * l->zero_bytes, offset);
    else
        memset(offset, dtype.zero == ZERO_NONE ? 1 << (dtype.bits - 1) : 0, (size_t)l->groups);
}

static void get_units(const struct tensor *tensor, const struct group_layout *l, int64_t row, const struct space *s,
                      float *unit)
{
    codes_unpack(tensor->dtype.bits, l->length, l->group, tensor->data + row * l->code_bytes, s->codes);
    get_offsets(tensor, l, row, s->integers);
    for (int64_t g = 0; g < l->groups; g++) {
        int64_t first = g * l->group, last = first + l->group < l->length ? first + l->group : l->length;

        for (int64_t i = first; i < last; i++)
            unit[i] = (float)((int)s->codes[i] - s->integers[g]);
    }
}

static void get_scales(const struct tensor *tensor, const struct group_layout *l, int64_t row, const struct space *s,
                       float *scale, float *minimum)
{
    const unsigned char *data = tensor->data;
    int bits = tensor->dtype.scale_bits;

    get_numbers(bits, l->groups, data + l->scale + row * l->scale_bytes, data + l->scale_factor + row * l->supers * 2,
                s->integers, scale);
    if (minimum)
        get_numbers(bits, l->groups, data + l->zero + row * l->zero_bytes,
                    data + l->minimum_factor + row * l->minimum_supers * 2, s->integers, minimum);
}

/* scale * unit, and the minimum where there is one. */
static void get_row(const struct tensor *tensor, const struct group_layout *l, int64_t row, const struct space *s,
                    float *out)
{
    bool minima = tensor->dtype.zero == ZERO_MIN;

    get_scales(tensor, l, row, s, s->scale, minima ? s->minimum : NULL);
    get_units(tensor, l, row, s, out);
    for (int64_t g = 0; g < l->groups; g++) {
        int64_t first = g * l->group, last = first + l->group < l->length ? first + l->group : l->length;
        float step = s->scale[g];

        if (minima)
            for (int64_t i = first; i < last; i++)
                out[i] = step * out[i] + s->minimum[g];
        else
            for (int64_t i = first; i < last; i++)
                out[i] = step * out[i];
    }
}

static struct space space_new(const struct group_layout *l)
{
    struct space s = {.scale = xmalloc((size_t)l->groups * (2 * sizeof(float) + 1) + (size_t)l->length + 1)};

    s.minimum = s.scale + l->groups;
    s.codes = (unsigned char *)(s.minimum + l->groups);
    s.integers = s.codes + l->length;
    return s;
}

void group_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out)
{
    struct group_layout l;
    struct space s;

    group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    s = space_new(&l);
    for (int64_t row = 0; row < rows; row++)
        get_row(tensor, &l, first + row, &s, out + row * l.length);
    free(s.scale);
}

void group_get_units(const struct tensor *tensor, int64_t first, int64_t rows, float *unit)
{
    struct group_layout l;
    struct space s;

    group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    s = space_new(&l);
    for (int64_t row = 0; row < rows; row++)
        get_units(tensor, &l, first + row, &s, unit + row * l.length);
    free(s.scale);
}

void group_get_scales(const struct tensor *tensor, float *scale, float *minimum)
{
    struct group_layout l;
    struct space s;

    group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    s = space_new(&l);
    for (int64_t row = 0; row < l.rows; row++)
        get_scales(tensor, &l, row, &s, scale + row * l.groups, minimum ? minimum + row * l.groups : NULL);
    free(s.scale);
}

void tensor_get_codes(const struct tensor *tensor, const struct group_layout *l, int64_t index, struct group_row *row)
{
    unsigned char *zero;

    codes_unpack(tensor->dtype.bits, l->length, l->group, tensor->data + index * l->code_bytes, row->codes);
    if (tensor->dtype.zero != ZERO_INT)
        return;
    zero = xmalloc((size_t)l->groups);
    codes_unpack(tensor->dtype.bits, l->groups, l->groups, tensor->data + l->zero + index * l->zero_bytes, zero);
    for (int64_t g = 0; g < l->groups; g++)
        row->zero[g] = zero[g];
    free(zero);
}

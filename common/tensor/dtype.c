/* dtype.c - names and sizes of the number formats. */
#include "tensor/dtype.h"
#include "base/memory.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int size;
} plain[] = {
    [DTYPE_F32] = {"f32", 4}, [DTYPE_F16] = {"f16", 2}, [DTYPE_BF16] = {"bf16", 2}, [DTYPE_F64] = {"f64", 8},
    [DTYPE_U8] = {"u8", 1}, [DTYPE_I8] = {"i8", 1}, [DTYPE_I16] = {"i16", 2}, [DTYPE_I32] = {"i32", 4},
    [DTYPE_I64] = {"i64", 8}, [DTYPE_BOOL] = {"bool", 1},
};

const char *const dtype_float_names[] = {"f32", "f16", "bf16", NULL};
const char *const dtype_zero_names[] = {"none", "int", "min", NULL};

static bool bits_known(int bits)
{
    return (bits >= 2 && bits <= 6) || bits == 8;
}

static bool parse_group(const char *name, struct dtype *dtype)
{
    int bits = 0, used = 0, group = 0, tail = 0;
    char offset[8] = "", again[DTYPE_NAME];

    if (sscanf(name, "q%1d-%n", &bits, &used) != 1 || !used || !bits_known(bits))
        return false;
    if (!strncmp(name + used, "row-", 4))
        tail = 4;
    else if (sscanf(name + used, "%9d-%n", &group, &tail) != 1 || !tail || group < 1)
        return false;
    snprintf(offset, sizeof offset, "%s", name + used + tail);
    for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++)
        if (!strcmp(offset, dtype_zero_names[zero])) {
            *dtype = (struct dtype){DTYPE_GROUP, bits, group, (enum dtype_zero)zero};
            return !strcmp(dtype_name(*dtype, again), name);     /* one spelling only */
        }
    return false;
}

bool dtype_parse(const char *name, struct dtype *dtype)
{
    for (int kind = 0; kind < DTYPE_GROUP; kind++)
        if (!strcmp(name, plain[kind].name)) {
            *dtype = (struct dtype){.kind = (enum dtype_kind)kind};
            return true;
        }
    return parse_group(name, dtype);
}

const char *dtype_name(struct dtype dtype, char buffer[DTYPE_NAME])
{
    if (dtype.kind != DTYPE_GROUP)
        return plain[dtype.kind].name;
    if (dtype.group == GROUP_ROW)
        snprintf(buffer, DTYPE_NAME, "q%d-row-%s", dtype.bits, dtype_zero_names[dtype.zero]);
    else
        snprintf(buffer, DTYPE_NAME, "q%d-%d-%s", dtype.bits, dtype.group, dtype_zero_names[dtype.zero]);
    return buffer;
}

bool dtype_same(struct dtype a, struct dtype b)
{
    return a.kind == b.kind && (a.kind != DTYPE_GROUP || (a.bits == b.bits && a.group == b.group && a.zero == b.zero));
}

bool dtype_is_real(struct dtype dtype)
{
    return dtype.kind <= DTYPE_F64 || dtype.kind == DTYPE_GROUP;
}

int dtype_size(struct dtype dtype)
{
    return dtype.kind == DTYPE_GROUP ? 0 : plain[dtype.kind].size;
}

/* An empty tensor has no bytes that bound its other axes: those are bounded here, or loops over empty rows never
 * end. */
#define EMPTY_MOST ((int64_t)1 << 24)

static bool empty_good(int rank, const int64_t *shape)
{
    int64_t product = 1;
    bool empty = false;

    for (int axis = 0; axis < rank; axis++) {
        empty = empty || shape[axis] == 0;
        if (shape[axis] < 0 || !size_multiply(product, shape[axis] ? shape[axis] : 1, &product))
            return false;
    }
    return !empty || product <= EMPTY_MOST;
}

int64_t dtype_payload(struct dtype dtype, int rank, const int64_t *shape)
{
    int64_t bytes = dtype_size(dtype);
    struct group_layout layout;

    if (!empty_good(rank, shape))
        return -1;
    if (dtype.kind == DTYPE_GROUP)
        return group_layout(dtype, rank, shape, &layout) ? layout.total : -1;
    for (int axis = 0; axis < rank; axis++)
        if (!size_multiply(bytes, shape[axis], &bytes))
            return -1;
    return bytes;
}

static bool round_up(int64_t *offset)
{
    int64_t sum;

    if (!size_add(*offset, 63, &sum))
        return false;
    *offset = sum / 64 * 64;
    return true;
}

bool group_layout(struct dtype dtype, int rank, const int64_t *shape, struct group_layout *layout)
{
    struct group_layout l = {.rows = 1, .length = 1};
    int axis = rank - 1;
    int64_t tail, codes, scales, zeros;

    while (axis > 0 && shape[axis] == 1)
        axis--;
    if (axis >= 0)
        l.length = shape[axis];
    for (int a = 0; a < axis; a++)
        if (!size_multiply(l.rows, shape[a], &l.rows))
            return false;
    if (l.length < 0 || l.length > INT64_MAX / 16)
        return false;
    l.group = dtype.group == GROUP_ROW ? (l.length ? l.length : 1) : dtype.group;
    l.groups = (l.length + l.group - 1) / l.group;
    tail = l.length - (l.groups ? l.groups - 1 : 0) * l.group;
    l.code_bytes = (l.groups ? l.groups - 1 : 0) * ((l.group * dtype.bits + 7) / 8) + (tail * dtype.bits + 7) / 8;
    l.zero_bytes = dtype.zero == ZERO_MIN ? 2 * l.groups : dtype.zero == ZERO_INT ? (l.groups * dtype.bits + 7) / 8 : 0;
    if (!size_multiply(l.rows, l.code_bytes, &codes) || !size_multiply(l.rows, 2 * l.groups, &scales)
        || !size_multiply(l.rows, l.zero_bytes, &zeros))
        return false;
    l.scale = codes;
    if (!round_up(&l.scale) || !size_add(l.scale, scales, &l.zero))
        return false;
    if (zeros && !round_up(&l.zero))
        return false;
    if (!size_add(l.zero, zeros, &l.total))
        return false;
    *layout = l;
    return true;
}

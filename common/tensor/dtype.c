/* dtype.c - names and sizes of the number formats. */
#include "tensor/trellis.h"
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

/* ZERO, or ZERO-s6, ZERO-s8. */
static bool parse_offset(const char *text, struct dtype *dtype)
{
    for (int zero = ZERO_NONE; zero <= ZERO_MIN; zero++) {
        size_t length = strlen(dtype_zero_names[zero]);

        if (strncmp(text, dtype_zero_names[zero], length) != 0)
            continue;
        dtype->zero = (enum dtype_zero)zero;
        dtype->scale_bits = !strcmp(text + length, "-s6") ? 6 : !strcmp(text + length, "-s8") ? 8 : 0;
        return dtype->scale_bits || !text[length];
    }
    return false;
}

static bool parse_group(const char *name, struct dtype *dtype)
{
    struct dtype group = {.kind = DTYPE_GROUP};
    int used = 0, tail = 0;
    char again[DTYPE_NAME];

    if (sscanf(name, "q%1d-%n", &group.bits, &used) != 1 || !used || !bits_known(group.bits))
        return false;
    if (!strncmp(name + used, "row-", 4))
        tail = 4;
    else if (sscanf(name + used, "%9d-%n", &group.group, &tail) != 1 || !tail || group.group < 1)
        return false;
    if (!parse_offset(name + used + tail, &group) || strcmp(dtype_name(group, again), name) != 0)
        return false;                            /* one spelling only */
    *dtype = group;
    return true;
}

bool dtype_trellis(int half_bits, int state, struct dtype *dtype)
{
    bool whole = half_bits % 2 == 0;

    if (half_bits < 2 || half_bits > 8 || state < TRELLIS_STATE_LEAST || state > TRELLIS_STATE_MOST)
        return false;
    *dtype = (struct dtype){.kind = DTYPE_TRELLIS, .bits = whole ? half_bits / 2 : half_bits, .step = whole ? 1 : 2,
                            .state = state};
    return true;
}

static bool parse_trellis(const char *name, struct dtype *dtype)
{
    struct dtype trellis;
    char again[DTYPE_NAME];

    for (int half_bits = 2; half_bits <= 8; half_bits++)
        for (int state = TRELLIS_STATE_LEAST; state <= TRELLIS_STATE_MOST; state++)
            if (dtype_trellis(half_bits, state, &trellis) && !strcmp(dtype_name(trellis, again), name)) {
                *dtype = trellis;
                return true;
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
    return parse_group(name, dtype) || parse_trellis(name, dtype);
}

const char *dtype_name(struct dtype dtype, char buffer[DTYPE_NAME])
{
    if (!dtype_is_packed(dtype))
        return plain[dtype.kind].name;
    if (dtype.kind == DTYPE_TRELLIS)
        snprintf(buffer, DTYPE_NAME, "t%d%s-%d", dtype.bits / dtype.step, dtype.bits % dtype.step ? ".5" : "",
                 dtype.state);
    else if (dtype.group == GROUP_ROW)
        snprintf(buffer, DTYPE_NAME, "q%d-row-%s", dtype.bits, dtype_zero_names[dtype.zero]);
    else
        snprintf(buffer, DTYPE_NAME, "q%d-%d-%s", dtype.bits, dtype.group, dtype_zero_names[dtype.zero]);
    if (dtype.scale_bits)
        snprintf(buffer + strlen(buffer), DTYPE_NAME - strlen(buffer), "-s%d", dtype.scale_bits);
    return buffer;
}

bool dtype_same(struct dtype a, struct dtype b)
{
    if (a.kind != b.kind || !dtype_is_packed(a))
        return a.kind == b.kind;
    return a.bits == b.bits && (a.kind == DTYPE_TRELLIS ? a.step == b.step && a.state == b.state
                                : a.group == b.group && a.zero == b.zero && a.scale_bits == b.scale_bits);
}

bool dtype_is_packed(struct dtype dtype)
{
    return dtype.kind == DTYPE_GROUP || dtype.kind == DTYPE_TRELLIS;
}

bool dtype_is_real(struct dtype dtype)
{
    return dtype.kind <= DTYPE_F64 || dtype_is_packed(dtype);
}

int dtype_size(struct dtype dtype)
{
    return dtype_is_packed(dtype) ? 0 : plain[dtype.kind].size;
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
    struct trellis_layout trellis;

    if (!empty_good(rank, shape))
        return -1;
    if (dtype.kind == DTYPE_GROUP)
        return group_layout(dtype, rank, shape, &layout) ? layout.total : -1;
    if (dtype.kind == DTYPE_TRELLIS)
        return trellis_layout(dtype, rank, shape, &trellis) ? trellis.total : -1;
    for (int axis = 0; axis < rank; axis++)
        if (!size_multiply(bytes, shape[axis], &bytes))
            return -1;
    return bytes;
}

/* *start: where a plane of rows * bytes starts that comes after *end; *end: its end. An empty plane starts where the
 * last one ends, without a gap. */
static bool add_plane(int64_t rows, int64_t bytes, int64_t *start, int64_t *end)
{
    int64_t size, gap = (64 - *end % 64) % 64;

    if (!size_multiply(rows, bytes, &size) || (size && !size_add(*end, gap, end)))
        return false;
    *start = *end;
    return size_add(*end, size, end);
}

static bool add_planes(struct group_layout *l)
{
    int64_t codes;

    l->total = 0;
    return add_plane(l->rows, l->code_bytes, &codes, &l->total)
           && add_plane(l->rows, l->scale_bytes, &l->scale, &l->total)
           && add_plane(l->rows, l->zero_bytes, &l->zero, &l->total)
           && add_plane(l->rows, 2 * l->supers, &l->scale_factor, &l->total)
           && add_plane(l->rows, 2 * l->minimum_supers, &l->minimum_factor, &l->total);
}

static int64_t packed_bytes(int64_t count, int bits)
{
    return (count * bits + 7) / 8;
}

bool dtype_rows(int rank, const int64_t *shape, int64_t *rows, int64_t *length)
{
    int axis = rank - 1;

    while (axis > 0 && shape[axis] == 1)
        axis--;
    *length = axis >= 0 ? shape[axis] : 1;
    *rows = 1;
    for (int a = 0; a < axis; a++)
        if (!size_multiply(*rows, shape[a], rows))
            return false;
    return *length >= 0 && *length <= INT64_MAX / 16;
}

bool group_layout(struct dtype dtype, int rank, const int64_t *shape, struct group_layout *layout)
{
    struct group_layout l = {0};
    int64_t whole;

    if (!dtype_rows(rank, shape, &l.rows, &l.length))
        return false;
    l.group = dtype.group == GROUP_ROW ? (l.length ? l.length : 1) : dtype.group;
    l.groups = (l.length + l.group - 1) / l.group;
    l.supers = dtype.scale_bits ? (l.groups + SUPER_GROUPS - 1) / SUPER_GROUPS : 0;
    l.minimum_supers = dtype.zero == ZERO_MIN ? l.supers : 0;
    whole = l.groups ? l.groups - 1 : 0;
    l.code_bytes = whole * packed_bytes(l.group, dtype.bits) + packed_bytes(l.length - whole * l.group, dtype.bits);
    l.scale_bytes = packed_bytes(l.groups, dtype.scale_bits ? dtype.scale_bits : 16);
    l.zero_bytes = dtype.zero == ZERO_MIN   ? l.scale_bytes
                   : dtype.zero == ZERO_INT ? packed_bytes(l.groups, dtype.bits) : 0;
    if (!add_planes(&l))
        return false;
    *layout = l;
    return true;
}

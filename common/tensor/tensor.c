/* tensor.c - payloads in memory and their conversion to and from f32. */
#include "tensor/trellis.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void clear_gaps(struct tensor *tensor)
{
    struct group_layout l;

    group_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    const int64_t end[] = {l.rows * l.code_bytes, l.scale + l.rows * l.scale_bytes, l.zero + l.rows * l.zero_bytes,
                           l.scale_factor + l.rows * l.supers * 2};
    const int64_t start[] = {l.scale, l.zero, l.scale_factor, l.minimum_factor};

    for (int plane = 0; plane < 4; plane++)
        memset(tensor->data + end[plane], 0, (size_t)(start[plane] - end[plane]));
}

static void clear_trellis_gap(struct tensor *tensor)
{
    struct trellis_layout l;

    trellis_layout(tensor->dtype, tensor->rank, tensor->shape, &l);
    memset(tensor->data + l.codes, 0, (size_t)(l.scale - l.codes));
}

struct tensor tensor_new(struct dtype dtype, int rank, const int64_t *shape)
{
    struct tensor tensor = {.dtype = dtype, .rank = rank, .bytes = dtype_payload(dtype, rank, shape)};

    assert(rank >= 0 && rank <= TENSOR_RANK && tensor.bytes >= 0);
    memcpy(tensor.shape, shape, (size_t)rank * sizeof *shape);
    tensor.data = xaligned((size_t)tensor.bytes, 1);
    if (dtype.kind == DTYPE_GROUP)
        clear_gaps(&tensor);
    else if (dtype.kind == DTYPE_TRELLIS)
        clear_trellis_gap(&tensor);
    return tensor;
}

void tensor_free(struct tensor *tensor)
{
    free(tensor->data);
    *tensor = (struct tensor){0};
}

void tensor_hash(const struct tensor *tensor, struct hash *hash)
{
    char buffer[DTYPE_NAME];
    const char *name = dtype_name(tensor->dtype, buffer);

    hash_update(hash, name, strlen(name) + 1);
    hash_update(hash, tensor->shape, (size_t)tensor->rank * sizeof *tensor->shape);
    hash_update(hash, tensor->data, (size_t)tensor->bytes);
}

int64_t tensor_count(const struct tensor *tensor)
{
    int64_t count = 1;

    for (int axis = 0; axis < tensor->rank; axis++)
        count *= tensor->shape[axis];
    return count;
}

static int row_axis(const struct tensor *tensor)
{
    int axis = tensor->rank - 1;

    while (axis > 0 && tensor->shape[axis] == 1)
        axis--;
    return axis;
}

int64_t tensor_row_length(const struct tensor *tensor)
{
    return tensor->rank ? tensor->shape[row_axis(tensor)] : 1;
}

int64_t tensor_rows(const struct tensor *tensor)
{
    int64_t rows = 1;

    for (int axis = 0; axis < row_axis(tensor); axis++)
        rows *= tensor->shape[axis];
    return rows;
}

float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, mantissa = half & 1023u, bits;
    float value;

    if (exponent == 0) {
        value = (float)mantissa * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t half_from_float(float value)
{
    uint32_t bits, sign, rest;
    int shift = 13;

    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (bits >> 13 & 0x1ffu));
    if (bits >= 0x477ff000u)                     /* 65520: the least that rounds to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x33000000u)                      /* below half of the least subnormal */
        return (uint16_t)sign;
    if (bits < 0x38800000u) {                    /* subnormal: the exponent goes into the shift */
        shift = 126 - (int)(bits >> 23);
        bits = (bits & 0x7fffffu) | 0x800000u;
    } else
        bits -= 112u << 23;
    rest = bits & ((1u << shift) - 1);
    bits >>= shift;
    if (rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && bits & 1))
        bits++;
    return (uint16_t)(sign | bits);
}

float bfloat_to_float(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;

    memcpy(&result, &bits, sizeof result);
    return result;
}

uint16_t bfloat_from_float(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("f16c,avx")))
static int64_t halves_to_floats(const uint16_t *in, int64_t count, float *out)
{
    int64_t i = 0;

    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i))));
    return i;
}

__attribute__((target("f16c,avx")))
static int64_t halves_from_floats(const float *in, int64_t count, uint16_t *out)
{
    int64_t i = 0;

    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}

static bool have_f16c(void)
{
    return __builtin_cpu_supports("f16c");
}
#else
static int64_t halves_to_floats(const uint16_t *in, int64_t count, float *out)
{
    (void)in, (void)count, (void)out;
    return 0;
}

static int64_t halves_from_floats(const float *in, int64_t count, uint16_t *out)
{
    (void)in, (void)count, (void)out;
    return 0;
}

static bool have_f16c(void)
{
    return false;
}
#endif

static void plain_to_float(enum dtype_kind kind, const unsigned char *in, int64_t count, float *out)
{
    const uint16_t *half = (const void *)in;
    int64_t i = 0;

    switch (kind) {
    case DTYPE_F32:
        memcpy(out, in, (size_t)count * 4);
        break;
    case DTYPE_F16:
        for (i = have_f16c() ? halves_to_floats(half, count, out) : 0; i < count; i++)
            out[i] = half_to_float(half[i]);
        break;
    case DTYPE_BF16:
        for (; i < count; i++)
            out[i] = bfloat_to_float(half[i]);
        break;
    case DTYPE_F64:
        for (; i < count; i++)
            out[i] = (float)((const double *)(const void *)in)[i];
        break;
    default:
        assert(!"a real dtype");
    }
}

void tensor_get_rows(const struct tensor *tensor, int64_t first, int64_t rows, float *out)
{
    int64_t length = tensor_row_length(tensor);

    assert(dtype_is_real(tensor->dtype));
    if (tensor->dtype.kind == DTYPE_GROUP)
        group_get_rows(tensor, first, rows, out);
    else if (tensor->dtype.kind == DTYPE_TRELLIS)
        trellis_get_rows(tensor, first, rows, out);
    else
        plain_to_float(tensor->dtype.kind, tensor->data + first * length * dtype_size(tensor->dtype),
                       rows * length, out);
}

void tensor_set_elements(struct tensor *tensor, int64_t first, int64_t count, const float *in)
{
    unsigned char *at = tensor->data + first * dtype_size(tensor->dtype);
    uint16_t *half = (void *)at;
    int64_t i = 0;

    switch (tensor->dtype.kind) {
    case DTYPE_F32:
        memcpy(at, in, (size_t)count * 4);
        break;
    case DTYPE_F16:
        for (i = have_f16c() ? halves_from_floats(in, count, half) : 0; i < count; i++)
            half[i] = half_from_float(in[i]);
        break;
    case DTYPE_BF16:
        for (; i < count; i++)
            half[i] = bfloat_from_float(in[i]);
        break;
    default:
        assert(!"f32, f16 or bf16");
    }
}

void tensor_set_rows(struct tensor *tensor, int64_t first, int64_t rows, const float *in)
{
    int64_t length = tensor_row_length(tensor);

    tensor_set_elements(tensor, first * length, rows * length, in);
}

bool tensor_is_finite(const struct tensor *tensor)
{
    const uint32_t *word = (const void *)tensor->data;
    const uint16_t *half = (const void *)tensor->data;
    uint16_t exponent = tensor->dtype.kind == DTYPE_F16 ? 0x7c00 : 0x7f80;
    int64_t count = tensor_count(tensor), bad = 0;

    if (tensor->dtype.kind == DTYPE_F32)
        for (int64_t i = 0; i < count; i++)
            bad += (word[i] & 0x7f800000u) == 0x7f800000u;
    else
        for (int64_t i = 0; i < count; i++)
            bad += (half[i] & exponent) == exponent;
    return bad == 0;
}

struct conversion {
    const struct tensor *from;
    struct tensor *to;
    const float *in;
    float *out;
    int64_t rows, length, block;
};

static void convert_block(void *context, int64_t item, int thread)
{
    struct conversion *c = context;
    int64_t first = item * c->block, rows = c->rows - first < c->block ? c->rows - first : c->block;

    (void)thread;
    if (c->out)
        tensor_get_rows(c->from, first, rows, c->out + first * c->length);
    else
        tensor_set_rows(c->to, first, rows, c->in + first * c->length);
}

static void convert(struct conversion *c, const struct tensor *tensor)
{
    c->rows = tensor_rows(tensor);
    c->length = tensor_row_length(tensor);
    c->block = c->length > 65536 ? 1 : 65536 / (c->length ? c->length : 1) + 1;
    if (tensor->dtype.kind == DTYPE_TRELLIS)
        c->block = (c->block + TRELLIS_TILE - 1) / TRELLIS_TILE * TRELLIS_TILE;          /* no tile is unpacked twice */
    parallel_for((c->rows + c->block - 1) / c->block, convert_block, c);
}

void tensor_get(const struct tensor *tensor, float *out)
{
    convert(&(struct conversion){.from = tensor, .out = out}, tensor);
}

void tensor_set(struct tensor *tensor, const float *in)
{
    convert(&(struct conversion){.to = tensor, .in = in}, tensor);
}

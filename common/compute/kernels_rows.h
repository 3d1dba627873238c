/* kernels_rows.h - what is done to one row of numbers. See kernels_vector.h. */

#include <float.h>

/* exp(x + rest) for a rest below an ulp or so of x. Relative error about 1e-7 with x itself exact; 0 below -104,
 * infinite from 89 on; NaN stays. Reduction by multiples of ln 2 in two parts (Cody, Waite), Taylor's polynomial of
 * degree 7 (error below 6e-9 at ln 2 / 2), and 2^n in two factors, for subnormal results. */
INLINE vf vf_exp(vf x, vf rest)
{
    vf n, p;
    vi whole, half;

    x = vf_min(vf_set(89), vf_max(vf_set(-104), x));
    n = vf_round(x * 1.44269504088896341f);
    x = vf_fma(n, vf_set(-0.693359375f), x);
    x = vf_fma(n, vf_set(2.12194440e-4f), x) + rest;
    p = vf_fma(x, vf_set(1.0f / 5040), vf_set(1.0f / 720));
    p = vf_fma(p, x, vf_set(1.0f / 120));
    p = vf_fma(p, x, vf_set(1.0f / 24));
    p = vf_fma(p, x, vf_set(1.0f / 6));
    p = vf_fma(p, x, vf_set(0.5f));
    p = vf_fma(p, x, vf_set(1));
    p = vf_fma(p, x, vf_set(1));
    whole = __builtin_convertvector(n, vi);
    half = whole >> 1;
    return p * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}

/* What rounding lost in difference = x - y; 0 where exp(difference) is 0 anyway, or x infinite. */
INLINE vf vf_rest(vf x, vf difference, float y)
{
    return vf_select(difference > -104, (x - difference) - y, (vf){0});
}

static float exponentials(float *x, int64_t count, float most)
{
    vf sum = {0};
    int64_t j = 0;

    for (; j + LANES <= count; j += LANES) {
        vf value = vf_exp(vf_load(x + j) - most, (vf){0});

        sum += value;
        vf_store(x + j, value);
    }
    if (j < count) {
        float part[LANES];
        float total = vf_sum(sum);

        vf_store(part, vf_exp(vf_load_part(x + j, count - j) - most, (vf){0}));
        for (int i = 0; i < count - j; i++)
            total += x[j + i] = part[i];
        return total;
    }
    return vf_sum(sum);
}

static float largest(const float *x, int64_t count)
{
    vf most = vf_set(-INFINITY);
    int64_t j = 0;
    float best;

    for (; j + LANES <= count; j += LANES)
        most = vf_max(most, vf_load(x + j));
    best = vf_largest(most);
    for (; j < count; j++)
        best = x[j] > best ? x[j] : best;
    return best;
}

static void round_block(const float *x, int8_t *codes, float *scale, float *sum)
{
    typedef int8_t vb __attribute__((vector_size(LANES)));
    const uint32_t *word = (const void *)x;
    uint32_t most = 0;
    vi total = {0};
    float magnitude, step;

    for (int j = 0; j < BLOCK; j++) {            /* as integers: in their order infinity and NaN come last */
        uint32_t bits = word[j] & 0x7fffffffu;

        most = bits > most ? bits : most;
    }
    memcpy(&magnitude, &most, sizeof magnitude);
    step = magnitude / 127;
    if (most >= 0x7f800000u || step < FLT_MIN) {
        memset(codes, 0, BLOCK);
        *sum = 0;
        *scale = most >= 0x7f800000u ? NAN : 0;
        return;
    }
    for (int j = 0; j < BLOCK; j += LANES) {
        vi code = __builtin_convertvector(vf_round(vf_load(x + j) / step), vi);
        vb narrow = __builtin_convertvector(code, vb);

        total += code;
        memcpy(codes + j, &narrow, sizeof narrow);
    }
    *sum = vf_sum(vf_of(total));
    *scale = step;
}

static void round_row(const float *x, int64_t columns, int64_t blocks, int8_t *codes, float *scale, float *sum)
{
    for (int64_t k = 0; k < blocks; k++) {
        int64_t left = columns - k * BLOCK;
        _Alignas(64) float part[BLOCK] = {0};

        memcpy(part, x + k * BLOCK, (size_t)(left < BLOCK ? left : BLOCK) * sizeof *x);
        round_block(part, codes + k * BLOCK, scale + k, sum + k);
    }
}

static void rms_norm(float *y, const float *x, const float *weight, int64_t d, double epsilon)
{
    double lane[LANES] = {0}, sum = 0;
    int64_t j = 0;
    float factor;

    for (; j + LANES <= d; j += LANES)
        for (int i = 0; i < LANES; i++)
            lane[i] += (double)x[j + i] * (double)x[j + i];
    for (; j < d; j++)
        sum += (double)x[j] * (double)x[j];
    for (int i = 0; i < LANES; i++)
        sum += lane[i];
    factor = (float)(1 / sqrt(sum / (double)d + epsilon));
    for (j = 0; j < d; j++)
        y[j] = x[j] * factor * weight[j];
}

static void rope(float *x, int64_t n_head, int64_t head_dim, const float *restrict cosine, const float *restrict sine)
{
    int64_t half = head_dim / 2;

    for (int64_t h = 0; h < n_head; h++) {
        float *restrict a = x + h * head_dim, *restrict b = a + half;

        for (int64_t j = 0; j < half; j++) {
            float left = a[j], right = b[j];

            a[j] = left * cosine[j] - right * sine[j];
            b[j] = right * cosine[j] + left * sine[j];
        }
    }
}

/* Sums and differences of lanes that lie 1, 2, 4, ... apart, below width. */
INLINE vf vf_hadamard(vf v, int64_t width)
{
    UNROLL
    for (int h = 1; h < LANES; h *= 2)
        if (h < width) {
            vi lanes = vi_lanes(), flip = ((lanes & h) != 0) << 31;

            v = __builtin_shuffle(v, lanes ^ h) + (vf)((vi)v ^ flip);
        }
    return v;
}

/* The fast transform: each sum is of the same two numbers with any instruction set, so the bytes are, too. */
static void hadamard_block(float *y, int64_t block)
{
    for (int64_t h = LANES; h < block; h *= 2)
        for (int64_t i = 0; i < block; i += 2 * h)
            for (int64_t j = i; j < i + h; j += LANES) {
                vf a = vf_load(y + j), b = vf_load(y + j + h);

                vf_store(y + j, a + b);
                vf_store(y + j + h, a - b);
            }
}

/* Rows k..k+SUMS-1 of Hartley's matrix times the lines of a span, in chunks of 32 of these, so that rounding doesn't
 * add up; the last rows may be one row more than once. */
enum { SUMS = 4, MIX_CHUNK = 32 };

INLINE void hartley_sums(vf sum[SUMS], const float *line, const float *hartley, int64_t mix, int64_t k)
{
    const float *row[SUMS];

    for (int s = 0; s < SUMS; s++) {
        row[s] = hartley + (k + s < mix ? k + s : k) * mix;
        sum[s] = (vf){0};
    }
    for (int64_t first = 0; first < mix; first += MIX_CHUNK) {
        int64_t end = mix - first < MIX_CHUNK ? mix : first + MIX_CHUNK;
        vf part[SUMS] = {0};

        for (int64_t l = first; l < end; l++)
            UNROLL
            for (int s = 0; s < SUMS; s++)
                part[s] += vf_load(line + l * LANES) * row[s][l];
        UNROLL
        for (int s = 0; s < SUMS; s++)
            sum[s] += part[s];
    }
}

/* Sums over the blocks of a span, LANES numbers of all of them at a time: also the same bytes with any instruction
 * set. */
static void hartley_mix(float *y, const float *hartley, int64_t block, int64_t mix)
{
    float line[HADAMARD_MIX * LANES], part[LANES];

    for (int64_t j = 0; j < block; j += LANES) {
        int64_t width = block - j < LANES ? block - j : LANES;

        for (int64_t l = 0; l < mix; l++)
            vf_store(line + l * LANES, vf_load_part(y + l * block + j, width));
        for (int64_t k = 0; k < mix; k += SUMS) {
            vf sum[SUMS];

            hartley_sums(sum, line, hartley, mix, k);
            for (int64_t s = 0; s < SUMS && k + s < mix; s++) {
                vf_store(part, sum[s]);
                memcpy(y + (k + s) * block + j, part, (size_t)width * sizeof *y);
            }
        }
    }
}

static void hadamard(float *y, const float *x, const struct hadamard *turn, bool inverse, int64_t d)
{
    const float *sign = turn->sign;
    int64_t block = turn->block, span = block < LANES ? LANES : block, j;
    float factor = 1 / sqrtf((float)block);

    for (int64_t first = 0; first + LANES <= d; first += span) {
        for (j = first; j < first + span; j += LANES) {
            vf v = vf_load(x + j) * factor;

            vf_store(y + j, vf_hadamard(inverse ? v : v * vf_load(sign + j), block));
        }
        hadamard_block(y + first, block);
    }
    if ((j = d / LANES * LANES) < d) {               /* blocks of less than LANES */
        vf v = vf_load_part(x + j, d - j) * factor;
        float part[LANES];

        vf_store(part, vf_hadamard(inverse ? v : v * vf_load_part(sign + j, d - j), block));
        memcpy(y + j, part, (size_t)(d - j) * sizeof *y);
    }
    for (j = 0; turn->mix > 1 && j < d; j += block * turn->mix)
        hartley_mix(y + j, turn->hartley, block, turn->mix);
    for (j = 0; inverse && j < d; j++)
        y[j] *= sign[j];
}

static void silu_multiply(float *gate, const float *up, int64_t count)
{
    int64_t j = 0;

    for (; j + LANES <= count; j += LANES) {
        vf x = vf_load(gate + j);

        vf_store(gate + j, x / (1 + vf_exp(-x, (vf){0})) * vf_load(up + j));
    }
    if (j < count) {
        vf x = vf_load_part(gate + j, count - j);
        float part[LANES];

        vf_store(part, x / (1 + vf_exp(-x, (vf){0})) * vf_load_part(up + j, count - j));
        memcpy(gate + j, part, (size_t)(count - j) * sizeof *gate);
    }
}

static void add_scaled(float *x, const float *y, float factor, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        x[j] += factor * y[j];
}

static void scale_row(float *x, float factor, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        x[j] *= factor;
}

/* Sums run in f32 within a chunk, lane by lane, and over chunks in double: 32 terms per lane lose no more than exp
 * does. */
enum { CHUNK = 32 * LANES };

/* The first of the largest of x; -1 where one is NaN. */
static int64_t first_largest(const float *x, int64_t d)
{
    int64_t chunk = 0, j;
    float most = -INFINITY;
    vi same = ~(vi){0};

    for (int64_t first = 0; first < d; first += CHUNK) {
        int64_t end = d - first < CHUNK ? d : first + CHUNK;
        vf best = vf_set(-INFINITY);
        float value;

        for (j = first; j + LANES <= end; j += LANES) {
            vf line = vf_load(x + j);

            best = vf_max(best, line);
            same &= line == line;
        }
        value = vf_largest(best);
        for (; j < end; j++) {
            if (isnan(x[j]))
                return -1;
            value = x[j] > value ? x[j] : value;
        }
        if (value > most) {
            most = value;
            chunk = first;
        }
    }
    for (int i = 0; i < LANES; i++)
        if (!same[i])
            return -1;
    for (j = chunk; j < d && x[j] != most; j++)
        ;
    return d ? j : -1;
}

static double log_sum_exp(const float *x, int64_t d, int32_t *argmax)
{
    int64_t best = first_largest(x, d), j = 0;
    double sum = 0;
    float most;

    if (argmax)
        *argmax = (int32_t)best;
    if (best < 0)
        return d ? (double)NAN : -INFINITY;
    most = x[best];
    if (isinf(most))
        return most;
    while (j + LANES <= d) {
        int64_t end = d - j < CHUNK ? d : j + CHUNK;
        vf part = {0};

        for (; j + LANES <= end; j += LANES) {
            vf line = vf_load(x + j), difference = line - most;

            part += vf_exp(difference, vf_rest(line, difference, most));
        }
        sum += vf_sum_double(part);
    }
    for (; j < d; j++)
        sum += exp((double)x[j] - most);
    return most + log(sum);
}

/* exp(p - p_lse) * ((p - q) - (p_lse - q_lse)), constants in two parts of f32; 0 where the first factor is. */
INLINE vf divergence_terms(vf p, vf q, float lse, float lse_rest, float constant, float constant_rest)
{
    vf shifted = p - lse, difference = p - q;
    vf weight = vf_exp(shifted, vf_rest(p, shifted, lse) - lse_rest);
    vf term = weight * ((difference - constant) - constant_rest);

    return vf_select(weight == 0, (vf){0}, term);
}

static double divergence(const float *p, double p_lse, const float *q, double q_lse, int64_t d)
{
    float lse = (float)p_lse, lse_rest = (float)(p_lse - lse);
    float constant = (float)(p_lse - q_lse), constant_rest = (float)(p_lse - q_lse - constant);
    double sum = 0;
    int64_t j = 0;

    while (j + LANES <= d) {
        int64_t end = d - j < CHUNK ? d : j + CHUNK;
        vf part = {0};

        for (; j + LANES <= end; j += LANES)
            part += divergence_terms(vf_load(p + j), vf_load(q + j), lse, lse_rest, constant, constant_rest);
        sum += vf_sum_double(part);
    }
    for (; j < d; j++) {
        double left = p[j] - p_lse, weight = exp(left);

        sum += weight != 0 ? weight * (left - (q[j] - q_lse)) : 0;
    }
    return sum;
}

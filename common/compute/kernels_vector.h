/* kernels_vector.h - vectors of LANES floats for the kernels: gcc's vector types, and what they lack. Included once
 * by each kernels_*.c, after KERNELS_LEVEL (0: any processor, 2: AVX2, 512: AVX-512 with VNNI) and its target options
 * are set. */
#include "compute/kernels.h"
#include "tensor/tensor.h"

#include <math.h>
#include <string.h>

#if KERNELS_LEVEL == 512
enum { LANES = 16, TOKENS = 12, INT8_TOKENS = 8 };
#elif KERNELS_LEVEL == 2
enum { LANES = 8, TOKENS = 6, INT8_TOKENS = 4 };
#else
enum { LANES = 4, TOKENS = 4, INT8_TOKENS = 4 };
#endif
enum { PANEL = 2 * LANES };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline, unused))
#if defined(__SANITIZE_ADDRESS__)
#define UNROLL                   /* unrolled, the checks take minutes to compile */
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE vf vf_load(const float *x)
{
    vf v;

    memcpy(&v, x, sizeof v);
    return v;
}

INLINE void vf_store(float *x, vf v)
{
    memcpy(x, &v, sizeof v);
}

INLINE vi vi_load(const void *x)
{
    vi v;

    memcpy(&v, x, sizeof v);
    return v;
}

INLINE vf vf_set(float x)
{
    return x - (vf){0};
}

INLINE vi vi_set(int32_t x)
{
    return x - (vi){0};
}

INLINE vf vf_of(vi v)
{
    return __builtin_convertvector(v, vf);
}

/* 0, 1, 2, ... */
INLINE vi vi_lanes(void)
{
#if KERNELS_LEVEL == 512
    return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif KERNELS_LEVEL == 2
    return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vi){0, 1, 2, 3};
#endif
}

/* Lane by lane: a where the mask is -1, b where it is 0. */
INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* The first count (< LANES) of x, then zeros. */
INLINE vf vf_load_part(const float *x, int64_t count)
{
    float part[LANES] = {0};

    memcpy(part, x, (size_t)count * sizeof *x);
    return vf_load(part);
}

INLINE float vf_sum(vf v)
{
    float x[LANES];

    vf_store(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            x[i] += x[i + width];
    return x[0];
}

INLINE double vf_sum_double(vf v)
{
    double sum = 0;

    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

INLINE float vf_largest(vf v)
{
    float most = v[0];

    for (int i = 1; i < LANES; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

INLINE vf vf_from_bfloat(const uint16_t *x)
{
    typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
    vh v;

    memcpy(&v, x, sizeof v);
    return (vf)(__builtin_convertvector(v, vi) << 16);
}

#if KERNELS_LEVEL == 512
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where either is NaN. */
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

INLINE vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, 8);           /* to nearest, ties to even, no exception */
}

INLINE vf vf_from_half(const uint16_t *x)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)x));
}

/* One byte per lane. */
INLINE vf vf_from_bytes(const unsigned char *x)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i_u *)x)));
}

/* sum + the four products of bytes in each lane: w unsigned, x signed (the same in all lanes). */
INLINE vi vi_dot(vi sum, vi w, int32_t x)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
}
#elif KERNELS_LEVEL == 2
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

INLINE vf vf_round(vf a)
{
    return _mm256_round_ps(a, 8);
}

INLINE vf vf_from_half(const uint16_t *x)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)x));
}

INLINE vf vf_from_bytes(const unsigned char *x)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)x)));
}

/* By even and odd bytes as 16 bits: vpmaddubsw would saturate. */
INLINE vi vi_dot(vi sum, vi w, int32_t x)
{
    __m256i q = _mm256_set1_epi32(x), odd = _mm256_srai_epi16(q, 8);
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
    __m256i low = _mm256_and_si256((__m256i)w, _mm256_set1_epi16(255)), high = _mm256_srli_epi16((__m256i)w, 8);

    return sum + (vi)_mm256_madd_epi16(low, even) + (vi)_mm256_madd_epi16(high, odd);
}
#else
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

INLINE vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}

INLINE vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}

/* For magnitudes below 2^22: adding 1.5 2^23 leaves no bits behind the point. */
INLINE vf vf_round(vf a)
{
    return a + 12582912.0f - 12582912.0f;
}

INLINE vf vf_from_half(const uint16_t *x)
{
    float v[LANES];

    for (int i = 0; i < LANES; i++)
        v[i] = half_to_float(x[i]);
    return vf_load(v);
}

INLINE vf vf_from_bytes(const unsigned char *x)
{
    float v[LANES];

    for (int i = 0; i < LANES; i++)
        v[i] = x[i];
    return vf_load(v);
}

INLINE vi vi_dot(vi sum, vi w, int32_t x)
{
    for (int c = 0; c < 4; c++)
        sum += (w >> 8 * c & 255) * (int32_t)(int8_t)(x >> 8 * c);
    return sum;
}
#endif

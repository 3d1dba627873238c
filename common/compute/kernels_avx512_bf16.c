/* kernels_avx512_bf16.c - products of bf16, for AVX-512 with BF16. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")
#include <immintrin.h>
#define KERNELS_LEVEL 512
#include "compute/kernels_vector.h"

INLINE __m512 dot_pairs(__m512 sum, const float *x, __m512i line)
{
    int32_t pair;

    memcpy(&pair, x, sizeof pair);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)line);
}

/* m x (vectors * LANES) sums in registers, as gemm_tile() of kernels_gemm.h has them. */
INLINE void pair_tile(const int m, const int vectors, int rows, int64_t k, const float *x, const float *w,
                      int64_t w_step, float beta, float *y, int64_t y_stride)
{
    __m512 sum[TOKENS][2];

    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = _mm512_setzero_ps();
    for (; k > 0; k--, x += m, w += w_step) {
        __m512i line[2];

        UNROLL for (int v = 0; v < vectors; v++)
            line[v] = _mm512_loadu_si512(w + v * LANES);
        UNROLL for (int i = 0; i < m; i++)
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] = dot_pairs(sum[i][v], x + i, line[v]);
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *out = y + i * y_stride + v * LANES;
            int used = rows - v * LANES;
            __mmask16 mask = used >= LANES ? 0xffff : (__mmask16)((1u << (used > 0 ? used : 0)) - 1);

            if (beta != 0)
                sum[i][v] = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_maskz_loadu_ps(mask, out), sum[i][v]);
            _mm512_mask_storeu_ps(out, mask, sum[i][v]);
        }
}

#define PAIR_TILE(m)                                                                                                  \
    case m:                                                                                                           \
        if (rows > LANES)                                                                                             \
            pair_tile(m, 2, rows, k, x, w, w_step, beta, y, y_stride);                                                \
        else                                                                                                          \
            pair_tile(m, 1, rows, k, x, w, w_step, beta, y, y_stride);                                                \
        break;

static void gemm_pairs(int m, int rows, int64_t k, const float *x, const float *w, int64_t w_step, float beta, float *y,
                       int64_t y_stride)
{
    switch (m) {
        PAIR_TILE(1) PAIR_TILE(2) PAIR_TILE(3) PAIR_TILE(4) PAIR_TILE(5) PAIR_TILE(6)
        PAIR_TILE(7) PAIR_TILE(8) PAIR_TILE(9) PAIR_TILE(10) PAIR_TILE(11) PAIR_TILE(12)
    }
}

static void make_pairs(float *lines, int width, int64_t k)
{
    for (int64_t j = 0; j < k; j += 2)
        for (int i = 0; i < width; i += LANES) {
            __mmask16 mask = width - i >= LANES ? 0xffff : (__mmask16)((1u << (width - i)) - 1);
            const float *first = lines + j * width + i;
            __m512 low = _mm512_maskz_loadu_ps(mask, first);
            __m512 high = j + 1 < k ? _mm512_maskz_loadu_ps(mask, first + width) : _mm512_setzero_ps();
            __m512i a = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
            __m512i b = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));

            _mm512_mask_storeu_epi32(lines + j / 2 * width + i, mask, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
        }
}

const struct pair_kernels pair_kernels_avx512 = {.tokens = TOKENS, .panel = PANEL, .gemm = gemm_pairs,
                                                 .make = make_pairs};
#else
typedef int no_kernels;           /* an empty file is not C */
#endif

/* kernels_gemm.h - the tile of a matrix product, and the panels of w it reads. See kernels_vector.h. */

/* M x (VECTORS * LANES) sums in registers. Element (i, k) of x lies at x[i * x_row + k * x_step]. */
INLINE void gemm_tile(const int m, const int vectors, int rows, int64_t k, const float *x, int64_t x_row,
                      int64_t x_step, const float *w, int64_t w_step, float beta, float *y, int64_t y_stride)
{
    vf sum[TOKENS][2];

    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = (vf){0};
    for (; k > 0; k--, x += x_step, w += w_step) {
        vf line[2];

        UNROLL for (int v = 0; v < vectors; v++)
            line[v] = vf_load(w + v * LANES);
        UNROLL for (int i = 0; i < m; i++) {
            vf factor = vf_set(x[i * x_row]);

            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] = vf_fma(factor, line[v], sum[i][v]);
        }
    }
    if (rows < vectors * LANES) {
        for (int i = 0; i < m; i++)
            for (int r = 0; r < rows; r++) {
                float *out = y + i * y_stride + r;

                *out = sum[i][r / LANES][r % LANES] + (beta != 0 ? beta * *out : 0);
            }
        return;
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *out = y + i * y_stride + v * LANES;

            vf_store(out, beta != 0 ? vf_fma(vf_set(beta), vf_load(out), sum[i][v]) : sum[i][v]);
        }
}

#define GEMM_TURNED(m)                                                                                                \
    case m:                                                                                                           \
        if (rows > LANES)                                                                                             \
            gemm_tile(m, 2, rows, k, x, 1, x_step, w, w_step, beta, y, y_stride);                                     \
        else                                                                                                          \
            gemm_tile(m, 1, rows, k, x, 1, x_step, w, w_step, beta, y, y_stride);                                     \
        break;

static void gemm_turned(int m, int rows, int64_t k, const float *x, int64_t x_step, const float *w, int64_t w_step,
                        float beta, float *y, int64_t y_stride)
{
    switch (m) {
        GEMM_TURNED(1) GEMM_TURNED(2) GEMM_TURNED(3) GEMM_TURNED(4)
#if KERNELS_LEVEL > 0
        GEMM_TURNED(5) GEMM_TURNED(6)
#endif
#if KERNELS_LEVEL == 512
        GEMM_TURNED(7) GEMM_TURNED(8) GEMM_TURNED(9) GEMM_TURNED(10) GEMM_TURNED(11) GEMM_TURNED(12)
#endif
    }
}

static void gemm_packed(int m, int rows, int64_t k, const float *x, const float *w, int64_t w_step, float beta,
                        float *y, int64_t y_stride)
{
    gemm_turned(m, rows, k, x, m, w, w_step, beta, y, y_stride);
}

#define GEMM_ROWS(m)                                                                                                  \
    case m:                                                                                                           \
        if (rows > LANES)                                                                                             \
            gemm_tile(m, 2, rows, k, x, x_stride, 1, w, w_step, beta, y, y_stride);                                   \
        else                                                                                                          \
            gemm_tile(m, 1, rows, k, x, x_stride, 1, w, w_step, beta, y, y_stride);                                   \
        break;

static void gemm_rows(int m, int rows, int64_t k, const float *x, int64_t x_stride, const float *w, int64_t w_step,
                      float beta, float *y, int64_t y_stride)
{
    switch (m) {
        GEMM_ROWS(1) GEMM_ROWS(2)
#if KERNELS_LEVEL > 0
        GEMM_ROWS(3)
#endif
#if KERNELS_LEVEL == 512
        GEMM_ROWS(4) GEMM_ROWS(5) GEMM_ROWS(6)
#endif
    }
}

/* Four rows of four, turned. */
INLINE void turn_four(const float *x, int64_t x_stride, float factor, float *out, int64_t out_stride)
{
    typedef float v4 __attribute__((vector_size(16)));
    typedef int32_t i4 __attribute__((vector_size(16)));
    v4 a[4], b[4];

    UNROLL for (int i = 0; i < 4; i++)
        memcpy(&a[i], x + i * x_stride, sizeof a[i]);
    UNROLL for (int i = 0; i < 2; i++) {
        b[i] = __builtin_shuffle(a[2 * i], a[2 * i + 1], (i4){0, 4, 1, 5});
        b[i + 2] = __builtin_shuffle(a[2 * i], a[2 * i + 1], (i4){2, 6, 3, 7});
    }
    UNROLL for (int i = 0; i < 4; i++) {
        v4 line = __builtin_shuffle(b[i / 2 * 2], b[i / 2 * 2 + 1], i % 2 ? (i4){2, 3, 6, 7} : (i4){0, 1, 4, 5});

        line *= factor;
        memcpy(out + i * out_stride, &line, sizeof line);
    }
}

static void pack(const float *x, int64_t x_stride, int m, int64_t k, float factor, float *out)
{
    int64_t whole = k / 4 * 4;
    int i = 0;

    for (; i + 4 <= m; i += 4) {
        const float *from = x + i * x_stride;

        for (int64_t j = 0; j < whole; j += 4)
            turn_four(from + j, x_stride, factor, out + j * m + i, m);
        for (int64_t j = whole; j < k; j++)
            for (int r = 0; r < 4; r++)
                out[j * m + i + r] = from[r * x_stride + j] * factor;
    }
    for (; i < m; i++)
        for (int64_t j = 0; j < k; j++)
            out[j * m + i] = x[i * x_stride + j] * factor;
}

INLINE float element(const enum dtype_kind kind, const void *w, int64_t index)
{
    return kind == DTYPE_F32 ? ((const float *)w)[index]
         : kind == DTYPE_F16 ? half_to_float(((const uint16_t *)w)[index])
                             : bfloat_to_float(((const uint16_t *)w)[index]);
}

INLINE vf load_of(const enum dtype_kind kind, const void *w, int64_t index)
{
    return kind == DTYPE_F32 ? vf_load((const float *)w + index)
         : kind == DTYPE_F16 ? vf_from_half((const uint16_t *)w + index)
                             : vf_from_bfloat((const uint16_t *)w + index);
}

#if KERNELS_LEVEL > 0
INLINE __m256 load_eight(const enum dtype_kind kind, const void *w, int64_t index)
{
    const uint16_t *half = (const uint16_t *)w + index;

    return kind == DTYPE_F32 ? _mm256_loadu_ps((const float *)w + index)
         : kind == DTYPE_F16 ? _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)half))
                             : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(
                                   _mm_loadu_si128((const __m128i_u *)half)), 16));
}

/* out [8][out_stride]: eight rows of eight, turned. */
INLINE void turn_eight(const enum dtype_kind kind, const void *w, int64_t index, int64_t stride, float *out)
{
    __m256 a[8], b[8];

    UNROLL for (int i = 0; i < 8; i++)
        a[i] = load_eight(kind, w, index + i * stride);
    UNROLL for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4)
        UNROLL for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
        }
    UNROLL for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * PANEL, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4) * PANEL, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#else
INLINE void turn_eight(const enum dtype_kind kind, const void *w, int64_t index, int64_t stride, float *out)
{
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            out[j * PANEL + i] = element(kind, w, index + i * stride + j);
}
#endif

INLINE void panel_of(const enum dtype_kind kind, const void *w, int64_t stride, int rows, int64_t k, float *panel)
{
    int whole = rows / 8 * 8;
    int64_t first = k / 8 * 8;

    for (int r = 0; r < whole; r += 8)
        for (int64_t j = 0; j < first; j += 8)
            turn_eight(kind, w, r * stride + j, stride, panel + j * PANEL + r);
    for (int r = 0; r < rows; r++)
        for (int64_t j = r < whole ? first : 0; j < k; j++)
            panel[j * PANEL + r] = element(kind, w, r * stride + j);
    for (int64_t j = 0; rows < PANEL && j < k; j++)
        memset(panel + j * PANEL + rows, 0, (size_t)(PANEL - rows) * sizeof *panel);
}

static void panel_rows(enum dtype_kind kind, const void *w, int64_t stride, int rows, int64_t k, float *panel)
{
    if (kind == DTYPE_F32)
        panel_of(DTYPE_F32, w, stride, rows, k, panel);
    else if (kind == DTYPE_F16)
        panel_of(DTYPE_F16, w, stride, rows, k, panel);
    else
        panel_of(DTYPE_BF16, w, stride, rows, k, panel);
}

INLINE void lines_of(const enum dtype_kind kind, const void *w, int64_t stride, int columns, int64_t k, float *panel)
{
    for (int64_t j = 0; j < k; j++, panel += PANEL) {
        if (columns == PANEL) {
            vf_store(panel, load_of(kind, w, j * stride));
            vf_store(panel + LANES, load_of(kind, w, j * stride + LANES));
        } else
            for (int c = 0; c < PANEL; c++)
                panel[c] = c < columns ? element(kind, w, j * stride + c) : 0;
    }
}

static void panel_lines(enum dtype_kind kind, const void *w, int64_t stride, int columns, int64_t k, float *panel)
{
    if (kind == DTYPE_F32)
        lines_of(DTYPE_F32, w, stride, columns, k, panel);
    else if (kind == DTYPE_F16)
        lines_of(DTYPE_F16, w, stride, columns, k, panel);
    else
        lines_of(DTYPE_BF16, w, stride, columns, k, panel);
}

/* out [n][rows] (out_stride) += for R rows of w and T of x. */
INLINE void dense_rows(const enum dtype_kind kind, const int r, const int t, const void *w, int64_t stride,
                       int64_t columns, const float *x, int64_t x_stride, float *out, int64_t out_stride)
{
    vf sum[4][4];
    int64_t j = 0;

    UNROLL for (int a = 0; a < r; a++)
        UNROLL for (int b = 0; b < t; b++)
            sum[a][b] = (vf){0};
    for (; j + LANES <= columns; j += LANES) {
        vf part[4];

        UNROLL for (int b = 0; b < t; b++)
            part[b] = vf_load(x + b * x_stride + j);
        UNROLL for (int a = 0; a < r; a++) {
            vf line = load_of(kind, w, a * stride + j);

            if (r > 1)           /* rows are short streams: the next four, into the second-level cache */
                __builtin_prefetch((const char *)w + ((a + r) * stride + j) * (kind == DTYPE_F32 ? 4 : 2), 0, 2);
            UNROLL for (int b = 0; b < t; b++)
                sum[a][b] = vf_fma(line, part[b], sum[a][b]);
        }
    }
    for (int a = 0; a < r; a++)
        for (int b = 0; b < t; b++) {
            float total = vf_sum(sum[a][b]);

            for (int64_t i = j; i < columns; i++)
                total += element(kind, w, a * stride + i) * x[b * x_stride + i];
            out[b * out_stride + a] = total;
        }
}

INLINE void dense_tokens(const enum dtype_kind kind, const int t, const void *w, int64_t stride, int64_t rows,
                         int64_t columns, const float *x, int64_t x_stride, float *out, int64_t out_stride)
{
    int size = kind == DTYPE_F32 ? 4 : 2;
    const int at_once = t == 4 && LANES < 16 ? 2 : 4;
    int64_t row = 0;

    for (; row + at_once <= rows; row += at_once)
        dense_rows(kind, at_once, t, (const char *)w + row * stride * size, stride, columns, x, x_stride, out + row,
                   out_stride);
    for (; row < rows; row++)
        dense_rows(kind, 1, t, (const char *)w + row * stride * size, stride, columns, x, x_stride, out + row,
                   out_stride);
}

INLINE void dense_of(const enum dtype_kind kind, const void *w, int64_t stride, int64_t rows, int64_t columns,
                     const float *x, int64_t x_stride, int64_t n, float *out, int64_t out_stride)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        dense_tokens(kind, 4, w, stride, rows, columns, x + i * x_stride, x_stride, out + i * out_stride, out_stride);
    for (; i + 2 <= n; i += 2)
        dense_tokens(kind, 2, w, stride, rows, columns, x + i * x_stride, x_stride, out + i * out_stride, out_stride);
    for (; i < n; i++)
        dense_tokens(kind, 1, w, stride, rows, columns, x + i * x_stride, x_stride, out + i * out_stride, out_stride);
}

static void dense(enum dtype_kind kind, const void *w, int64_t stride, int64_t rows, int64_t columns, const float *x,
                  int64_t x_stride, int64_t n, float *out, int64_t out_stride)
{
    if (kind == DTYPE_F32)
        dense_of(DTYPE_F32, w, stride, rows, columns, x, x_stride, n, out, out_stride);
    else if (kind == DTYPE_F16)
        dense_of(DTYPE_F16, w, stride, rows, columns, x, x_stride, n, out, out_stride);
    else
        dense_of(DTYPE_BF16, w, stride, rows, columns, x, x_stride, n, out, out_stride);
}

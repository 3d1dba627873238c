/* kernels_strips.h - products with trellis-coded matrices, see struct strips: decoded in registers, 16 rows of a column
 * at a time. The sum of a product's four bytes times x is what vpdpbusd does, so rounded x needs no value of its own.
 * See kernels_vector.h. */

/* The products of states and factors in a column of a tile, for the lanes that start at row `row`. */
INLINE vi strip_products(const struct strips *w, const unsigned char *column, int row)
{
    vi factor = vi_load(w->factor + row), shift = vi_load(w->shift + row), state;
#if KERNELS_LEVEL == 512
    __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i_u *)column));

    state = (vi)_mm512_shuffle_epi8(bytes, (__m512i)vi_load(w->pick + 4 * row));
    state = (vi)_mm512_srlv_epi32((__m512i)state, (__m512i)shift);
#elif KERNELS_LEVEL == 2
    __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i_u *)column));

    state = (vi)_mm256_shuffle_epi8(bytes, (__m256i)vi_load(w->pick + 4 * row));
    state = (vi)_mm256_srlv_epi32((__m256i)state, (__m256i)shift);
#else
    for (int r = 0; r < LANES; r++) {
        uint32_t window;

        memcpy(&window, column + w->pick[4 * (row + r)], sizeof window);
        state[r] = (int32_t)(window >> shift[r]);
    }
#endif
    return (state & w->mask) * factor;
}

/* What strip_add() takes: AVX2 has the bytes added in pairs, the portable code all four. */
INLINE vi strip_sums(vi product)
{
#if KERNELS_LEVEL == 512
    return product;
#elif KERNELS_LEVEL == 2
    return (vi)_mm256_maddubs_epi16((__m256i)product, _mm256_set1_epi8(1));
#else
    product = (product & 0x00ff00ff) + (product >> 8 & 0x00ff00ff);
    return (product & 0xffff) + (product >> 16);
#endif
}

/* sum + x times the four bytes; `spread` is x in the form that strip_spread() gives. */
INLINE vi strip_add(vi sum, vi sums, int32_t spread)
{
#if KERNELS_LEVEL == 512
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)sums, _mm512_set1_epi32(spread));
#elif KERNELS_LEVEL == 2
    return sum + (vi)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi32(spread));
#else
    return sum + sums * spread;
#endif
}

INLINE int32_t strip_spread(int8_t x)
{
#if KERNELS_LEVEL == 512
    return (int32_t)((uint8_t)x * 0x01010101u);
#elif KERNELS_LEVEL == 2
    return (int32_t)((uint16_t)x * 0x00010001u);
#else
    return x;
#endif
}

/* A block of x, each number in all bytes (or halves) of a lane. */
INLINE void spread_block(const int8_t *codes, int32_t *spread)
{
    UNROLL for (int c = 0; c < BLOCK; c++)
        spread[c] = strip_spread(codes[c]);
}

INLINE const unsigned char *strip_tile(const struct strips *w, int64_t strip, int64_t tile)
{
    return w->data + strip * w->strip_bytes + STRIP_HEAD + tile * w->tile_bytes;
}

INLINE vf strip_scale(const struct strips *w, int64_t strip, int row)
{
    return vf_load((const float *)(const void *)(w->data + strip * w->strip_bytes) + row);
}

/* out [t][16]. Of each block the sum of bytes * x is exact, also in f32: below 2^24. */
INLINE void strip_int8_lanes(const int t, const struct strips *w, int64_t strip, int row, const struct rounded *x,
                             int64_t first, float *out)
{
    const unsigned char *tile = strip_tile(w, strip, 0);
    const int8_t *codes = x->codes + first * x->blocks * BLOCK;
    const float *scale = x->scale + first * x->blocks, *total = x->sum + first * x->blocks;
    int32_t spread[INT8_TOKENS][BLOCK];
    vf sum[INT8_TOKENS], rows = strip_scale(w, strip, row);

    UNROLL for (int b = 0; b < t; b++)
        sum[b] = (vf){0};
    for (int64_t k = 0; k < x->blocks; k++, codes += BLOCK) {
        vi dot[INT8_TOKENS][2];

        UNROLL for (int b = 0; b < t; b++) {
            spread_block(codes + b * x->blocks * BLOCK, spread[b]);
            dot[b][0] = dot[b][1] = (vi){0};
        }
        for (int half = 0; half < 2; half++, tile += w->tile_bytes)
            UNROLL for (int c = 0; c < STRIP_TILE; c++) {
                vi sums = strip_sums(strip_products(w, tile + c * w->column_bytes, row));

                UNROLL for (int b = 0; b < t; b++)
                    dot[b][c & 1] = strip_add(dot[b][c & 1], sums, spread[b][half * STRIP_TILE + c]);
            }
        UNROLL for (int b = 0; b < t; b++)
            sum[b] = vf_fma(vf_of(dot[b][0] + dot[b][1]) - STRIP_CENTRE * total[b * x->blocks + k],
                            vf_set(scale[b * x->blocks + k]), sum[b]);
    }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, sum[b] * rows);
}

INLINE void strip_int8_tokens(const int t, const struct strips *w, int64_t strip, const struct rounded *x,
                              int64_t first, float *out)
{
    for (int row = 0; row < TILE; row += LANES)
        strip_int8_lanes(t, w, strip, row, x, first, out);
}

static void strip_int8(const struct strips *w, int64_t strip, const struct rounded *x, int64_t first, int64_t n,
                       float *out)
{
    int64_t i = 0;

    for (; i + INT8_TOKENS <= n; i += INT8_TOKENS)
        strip_int8_tokens(INT8_TOKENS, w, strip, x, first + i, out + i * TILE);
    for (; i + 2 <= n; i += 2)
        strip_int8_tokens(2, w, strip, x, first + i, out + i * TILE);
    for (; i < n; i++)
        strip_int8_tokens(1, w, strip, x, first + i, out + i * TILE);
}

/* Values in units of the row's scale. */
INLINE vf strip_values(const struct strips *w, const unsigned char *column, int row)
{
    return vf_of(strip_add(vi_set(-STRIP_CENTRE), strip_sums(strip_products(w, column, row)), strip_spread(1)));
}

INLINE void strip_f32_lanes(const int t, const struct strips *w, int64_t strip, int row, const float *x,
                            int64_t x_stride, float *out)
{
    const unsigned char *tile = strip_tile(w, strip, 0);
    vf sum[4][2], rows = strip_scale(w, strip, row);

    UNROLL for (int b = 0; b < t; b++)
        sum[b][0] = sum[b][1] = (vf){0};
    for (int64_t k = 0; k < w->tiles; k++, x += STRIP_TILE, tile += w->tile_bytes)
        UNROLL for (int c = 0; c < STRIP_TILE; c++) {
            vf value = strip_values(w, tile + c * w->column_bytes, row);

            UNROLL for (int b = 0; b < t; b++)
                sum[b][c & 1] = vf_fma(value, vf_set(x[b * x_stride + c]), sum[b][c & 1]);
        }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, (sum[b][0] + sum[b][1]) * rows);
}

static void strip_f32(const struct strips *w, int64_t strip, const float *x, int64_t x_stride, int64_t n, float *out)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        for (int row = 0; row < TILE; row += LANES)
            strip_f32_lanes(4, w, strip, row, x + i * x_stride, x_stride, out + i * TILE);
    for (; i < n; i++)
        for (int row = 0; row < TILE; row += LANES)
            strip_f32_lanes(1, w, strip, row, x + i * x_stride, x_stride, out + i * TILE);
}

/* One vector of rows of a panel. */
INLINE void strip_panel_lanes(const struct strips *w, int64_t strip, int row, int64_t first, int64_t count,
                              float *panel)
{
    const unsigned char *tile = strip_tile(w, strip, 2 * first);
    vf rows = strip_scale(w, strip, row);

    for (int64_t k = 0; k < 2 * count; k++, panel += STRIP_TILE * PANEL, tile += w->tile_bytes)
        UNROLL for (int c = 0; c < STRIP_TILE; c++)
            vf_store(panel + c * PANEL, strip_values(w, tile + c * w->column_bytes, row) * rows);
}

static void panel_strips(const struct strips *w, int64_t strips, int64_t row, int64_t first, int64_t count,
                         float *panel)
{
    for (int v = 0; v < 2; v++, row += LANES, panel += LANES)
        if (row / TILE < strips)
            strip_panel_lanes(w, row / TILE, (int)(row % TILE), first, count, panel);
        else
            for (int64_t k = 0; k < count * BLOCK; k++)
                vf_store(panel + k * PANEL, (vf){0});
}

/* kernels_strips.h - products with trellis-coded matrices, see struct strips: decoded in registers, 16 rows of four
 * columns at a time, to vectors of bytes like those of groups (byte 4 r + c is row r, column c). Windows become words,
 * columns c and c + 2 of a row side by side in one vector, c + 1 and c + 3 in another. See kernels_vector.h. */

#if KERNELS_LEVEL > 0
typedef uint16_t words __attribute__((vector_size(sizeof(vi))));
#endif

#if KERNELS_LEVEL == 512 && defined(__AVX512VBMI__)
/* Words of rows, of a column and the second one after it; odd: of those one further. */
INLINE vi strip_words(const struct strips *w, const unsigned char *column, int row, int odd)
{
    __m256i_u near;
    __m512i bytes;

    memcpy(&near, column + odd * w->column_bytes, sizeof near);  /* half a vector seldom crosses a line of the cache */
    bytes = _mm512_permutexvar_epi8((__m512i)vi_load(w->pick + 4 * row), _mm512_castsi256_si512(near));
    bytes = _mm512_multishift_epi64_epi8((__m512i)vi_load(w->bit + 4 * row), bytes);
    return (vi)_mm512_mullo_epi16(bytes, (__m512i)vi_load(w->factor + 2 * row));
}

INLINE vi strip_levels(const struct strips *w, vi index)
{
    return (vi)_mm512_permutex2var_epi8((__m512i)vi_load(w->level), (__m512i)index, (__m512i)vi_load(w->level + 64));
}
#elif KERNELS_LEVEL > 0
#if KERNELS_LEVEL == 512
#define OF(name) _mm512_##name
#define HALVES(x) _mm512_broadcast_i32x4(x)
#else
#define OF(name) _mm256_##name
#define HALVES(x) _mm256_broadcastsi128_si256(x)
#endif
typedef __typeof__(OF(set1_epi8)(0)) wide;

/* The window of each row in the lower half of its lane, in the upper what is there. */
INLINE wide strip_windows(const struct strips *w, const unsigned char *column, int row)
{
    wide pick = (wide)(vi_load(w->byte + row) * 0x01010101 + 0x03020100);
    wide bytes = OF(shuffle_epi8)(HALVES(_mm_loadu_si128((const __m128i_u *)column)), pick);

    return OF(srlv_epi32)(bytes, (wide)vi_load(w->shift + row));
}

INLINE vi strip_words(const struct strips *w, const unsigned char *column, int row, int odd)
{
    const unsigned char *first = column + odd * w->column_bytes;
    vi low = (vi)strip_windows(w, first, row), high = (vi)strip_windows(w, first + 2 * w->column_bytes, row);

    return (vi)OF(mullo_epi16)((wide)((low & 0xffff) | high << 16), (wide)vi_load(w->factor + 2 * row));
}

/* The bytes that `table`, 16 of them, has at the lower half of each index. */
INLINE vi strip_sixteen(const unsigned char *table, vi nibble)
{
    return (vi)OF(shuffle_epi8)(HALVES(_mm_loadu_si128((const __m128i_u *)(const void *)table)), (wide)nibble);
}

/* 255 in the bytes whose bit 6 is set. */
INLINE vi strip_masks(vi bits)
{
    bits = bits >> 6 & 0x01010101;
    return (bits << 8) - bits;
}

/* Levels are their own mirror image, level[127 - k] = 255 - level[k]: four tables of 16 for the upper half of them. */
INLINE vi strip_levels(const struct strips *w, vi index)
{
    vi lower = ~strip_masks(index), nibble, four, two;

    index ^= lower;
    nibble = index & 0x0f0f0f0f;
    four = strip_masks(index << 2);
    two = strip_masks(index << 1);
    two = (strip_sixteen(w->level + 64, nibble) & ~two & ~four) | (strip_sixteen(w->level + 96, nibble) & two & ~four)
        | (strip_sixteen(w->level + 80, nibble) & ~two & four) | (strip_sixteen(w->level + 112, nibble) & two & four);
    return two ^ lower;
}
#undef OF
#undef HALVES
#endif

/* Four columns from `column` on, for the lanes that start at row `row`. */
INLINE vi strip_codes(const int spare, const struct strips *w, const unsigned char *column, int row)
{
#if KERNELS_LEVEL > 0
    words even = (words)strip_words(w, column, row, 0), odd = (words)strip_words(w, column, row, 1);

    return strip_levels(w, (vi)(even >> (8 + spare) | (odd >> spare & 0xff00)));
#else
    vi codes = {0};

    for (int r = 0; r < LANES; r++) {
        uint32_t line = 0;

        for (int c = 0; c < 4; c++) {
            uint32_t h;

            memcpy(&h, column + c * w->column_bytes + w->byte[row + r], sizeof h);
            h = (h >> w->shift[row + r]) * w->factor[2 * (row + r)];
            line |= (uint32_t)w->level[h >> spare >> 8 & 127] << 8 * c;
        }
        codes[r] = (int32_t)line;
    }
    return codes;
#endif
}

INLINE const unsigned char *strip_tile(const struct strips *w, int64_t strip, int64_t tile)
{
    return w->data + strip * w->strip_bytes + STRIP_HEAD + tile * w->tile_bytes;
}

INLINE vf strip_scale(const struct strips *w, int64_t strip, int row)
{
    return vf_load((const float *)(const void *)(w->data + strip * w->strip_bytes) + row);
}

/* out [t][16]. Of each block the sum of code * x is exact, and so is twice that less 255 times the sum of x. */
INLINE void strip_int8_lanes(const int spare, const int t, const struct strips *w, int64_t strip, int row,
                             const struct rounded *x, int64_t first, float *out)
{
    const unsigned char *tile = strip_tile(w, strip, 0);
    const int8_t *codes = x->codes + first * x->blocks * BLOCK;
    const float *scale = x->scale + first * x->blocks, *total = x->sum + first * x->blocks;
    vf sum[INT8_TOKENS], rows = strip_scale(w, strip, row);

    UNROLL for (int b = 0; b < t; b++)
        sum[b] = (vf){0};
    for (int64_t k = 0; k < x->blocks; k++, codes += BLOCK, tile += 2 * w->tile_bytes) {
        vi dot[INT8_TOKENS];

        UNROLL for (int b = 0; b < t; b++)
            dot[b] = (vi){0};
        UNROLL for (int j = 0; j < 8; j++) {
            vi line = strip_codes(spare, w, tile + j / 4 * w->tile_bytes + j % 4 * 4 * w->column_bytes, row);

            UNROLL for (int b = 0; b < t; b++) {
                int32_t four;

                memcpy(&four, codes + b * x->blocks * BLOCK + 4 * j, sizeof four);
                dot[b] = vi_dot(dot[b], line, four);
            }
        }
        UNROLL for (int b = 0; b < t; b++)
            sum[b] = vf_fma(vf_fma(vf_of(dot[b]), vf_set(2), vf_set(-STRIP_CENTRE * total[b * x->blocks + k])),
                            vf_set(scale[b * x->blocks + k]), sum[b]);
    }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, sum[b] * rows);
}

INLINE void strip_int8_tokens(const int spare, const int t, const struct strips *w, int64_t strip,
                              const struct rounded *x, int64_t first, float *out)
{
    for (int row = 0; row < TILE; row += LANES)
        strip_int8_lanes(spare, t, w, strip, row, x, first, out);
}

INLINE void strip_int8_all(const int spare, const struct strips *w, int64_t strip, const struct rounded *x,
                           int64_t first, int64_t n, float *out)
{
    int64_t i = 0;

    for (; i + INT8_TOKENS <= n; i += INT8_TOKENS)
        strip_int8_tokens(spare, INT8_TOKENS, w, strip, x, first + i, out + i * TILE);
    for (; i + 2 <= n; i += 2)
        strip_int8_tokens(spare, 2, w, strip, x, first + i, out + i * TILE);
    for (; i < n; i++)
        strip_int8_tokens(spare, 1, w, strip, x, first + i, out + i * TILE);
}

static void strip_int8(const struct strips *w, int64_t strip, const struct rounded *x, int64_t first, int64_t n,
                       float *out)
{
    if (w->spare)
        strip_int8_all(1, w, strip, x, first, n, out);
    else
        strip_int8_all(0, w, strip, x, first, n, out);
}

/* Column c (0..3) of a vector of codes, in units of the row's scale; exact. */
INLINE vf strip_values(vi line, int c)
{
    return vf_fma(vf_of(line >> 8 * c & 255), vf_set(2), vf_set(-STRIP_CENTRE));
}

INLINE void strip_f32_lanes(const int spare, const int t, const struct strips *w, int64_t strip, int row,
                            const float *x, int64_t x_stride, float *out)
{
    const unsigned char *tile = strip_tile(w, strip, 0);
    vf sum[4][2], rows = strip_scale(w, strip, row);

    UNROLL for (int b = 0; b < t; b++)
        sum[b][0] = sum[b][1] = (vf){0};
    for (int64_t k = 0; k < w->tiles; k++, x += STRIP_TILE, tile += w->tile_bytes)
        UNROLL for (int j = 0; j < STRIP_TILE; j += 4) {
            vi line = strip_codes(spare, w, tile + j * w->column_bytes, row);

            UNROLL for (int c = 0; c < 4; c++) {
                vf value = strip_values(line, c);

                UNROLL for (int b = 0; b < t; b++)
                    sum[b][c & 1] = vf_fma(value, vf_set(x[b * x_stride + j + c]), sum[b][c & 1]);
            }
        }
    UNROLL for (int b = 0; b < t; b++)
        vf_store(out + b * TILE + row, (sum[b][0] + sum[b][1]) * rows);
}

INLINE void strip_f32_all(const int spare, const struct strips *w, int64_t strip, const float *x, int64_t x_stride,
                          int64_t n, float *out)
{
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        for (int row = 0; row < TILE; row += LANES)
            strip_f32_lanes(spare, 4, w, strip, row, x + i * x_stride, x_stride, out + i * TILE);
    for (; i < n; i++)
        for (int row = 0; row < TILE; row += LANES)
            strip_f32_lanes(spare, 1, w, strip, row, x + i * x_stride, x_stride, out + i * TILE);
}

static void strip_f32(const struct strips *w, int64_t strip, const float *x, int64_t x_stride, int64_t n, float *out)
{
    if (w->spare)
        strip_f32_all(1, w, strip, x, x_stride, n, out);
    else
        strip_f32_all(0, w, strip, x, x_stride, n, out);
}

/* One vector of rows of a panel. */
INLINE void strip_panel_lanes(const int spare, const struct strips *w, int64_t strip, int row, int64_t first,
                              int64_t count, float *panel)
{
    const unsigned char *tile = strip_tile(w, strip, 2 * first);
    vf rows = strip_scale(w, strip, row);

    for (int64_t k = 0; k < 2 * count; k++, panel += STRIP_TILE * PANEL, tile += w->tile_bytes)
        UNROLL for (int j = 0; j < STRIP_TILE; j += 4) {
            vi line = strip_codes(spare, w, tile + j * w->column_bytes, row);

            UNROLL for (int c = 0; c < 4; c++)
                vf_store(panel + (j + c) * PANEL, strip_values(line, c) * rows);
        }
}

static void panel_strips(const struct strips *w, int64_t strips, int64_t row, int64_t first, int64_t count,
                         float *panel)
{
    for (int v = 0; v < 2; v++, row += LANES, panel += LANES) {
        int64_t strip = row / TILE;

        if (strip >= strips)
            for (int64_t k = 0; k < count * BLOCK; k++)
                vf_store(panel + k * PANEL, (vf){0});
        else if (w->spare)
            strip_panel_lanes(1, w, strip, (int)(row % TILE), first, count, panel);
        else
            strip_panel_lanes(0, w, strip, (int)(row % TILE), first, count, panel);
    }
}

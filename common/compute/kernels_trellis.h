/* kernels_trellis.h - one step of Viterbi's search over the states of a trellis, from the last step to the first. All
 * instruction sets give the same costs and choices: 16-bit integers, and the first of equal ones. */

INLINE int16_t saturated(int32_t x)
{
    return (int16_t)(x < INT16_MIN ? INT16_MIN : x > INT16_MAX ? INT16_MAX : x);
}

INLINE int32_t half_product(int16_t a, int16_t b)
{
    return (a * b + 0x4000) >> 15;
}

/* (x - value)^2 - x^2 of a state's one or two values. */
INLINE int16_t distance(const struct trellis_step *t, int s, bool two)
{
    int16_t d = saturated(t->square[s] - half_product(t->value[0][s], t->x[0]));

    return two ? saturated(d - half_product(t->value[1][s], t->x[1])) : d;
}

/* From overlap `first` on. */
static void trellis_level(const struct trellis_step *t, int first)
{
    for (int p = first; p < 1 << (t->state - t->bits); p++)
        t->ahead[p] = saturated(t->ahead[p] + t->level);
}

/* For overlaps from `first` on. */
static int16_t trellis_rest(const struct trellis_step *t, int first, bool two)
{
    int overlaps = 1 << (t->state - t->bits);
    int16_t least = INT16_MAX;

    for (int p = first; p < overlaps; p++) {
        int best = INT16_MAX, choice = 0;

        for (int j = 0; j < 1 << t->bits; j++) {
            int s = j * overlaps + p, cost = saturated(t->ahead[s >> t->bits] + distance(t, s, two));
            bool less = cost < best;

            choice = less ? j : choice;
            best = less ? cost : best;
        }
        t->cost[p] = (int16_t)best;
        t->choice[p] = (unsigned char)choice;
        least = best < least ? (int16_t)best : least;
    }
    return least;
}

#if KERNELS_LEVEL == 512
enum { COSTS = 32 };
typedef __m512i vc;

/* ahead[i / 2^bits] of 32 states. */
INLINE vc costs_ahead(const int16_t *ahead, int bits)
{
    const __m512i lane = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                                          15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);

    if (bits >= 5)
        return _mm512_set1_epi16(*ahead);
    if (bits == 1)
        return _mm512_permutexvar_epi16(_mm512_srli_epi16(lane, 1),
                                        _mm512_castsi256_si512(_mm256_loadu_si256((const void *)ahead)));
    return _mm512_permutexvar_epi16(_mm512_srli_epi16(lane, (unsigned)bits),
                                    _mm512_castsi128_si512(_mm_loadu_si128((const void *)ahead)));
}

INLINE vc costs_set(int16_t x)
{
    return _mm512_set1_epi16(x);
}

INLINE vc costs_distance(const struct trellis_step *t, int s, bool two)
{
    vc d = _mm512_subs_epi16(_mm512_loadu_si512(t->square + s),
                             _mm512_mulhrs_epi16(_mm512_loadu_si512(t->value[0] + s), costs_set(t->x[0])));

    return two ? _mm512_subs_epi16(d, _mm512_mulhrs_epi16(_mm512_loadu_si512(t->value[1] + s), costs_set(t->x[1]))) : d;
}

INLINE void costs_choose(vc ahead, vc distance, int j, vc *best, vc *choice)
{
    vc cost = _mm512_adds_epi16(ahead, distance);
    __mmask32 less = _mm512_cmplt_epi16_mask(cost, *best);

    *best = _mm512_min_epi16(cost, *best);
    *choice = _mm512_mask_mov_epi16(*choice, less, costs_set((int16_t)j));
}

INLINE void costs_store(const struct trellis_step *t, int p, vc best, vc choice)
{
    _mm512_storeu_si512(t->cost + p, best);
    _mm256_storeu_si256((void *)(t->choice + p), _mm512_cvtepi16_epi8(choice));
}

INLINE vc costs_least(vc a, vc b)
{
    return _mm512_min_epi16(a, b);
}

INLINE void costs_add(int16_t *cost, vc level)
{
    _mm512_storeu_si512(cost, _mm512_adds_epi16(_mm512_loadu_si512(cost), level));
}
#elif KERNELS_LEVEL == 2
enum { COSTS = 16 };
typedef __m256i vc;

INLINE vc costs_ahead(const int16_t *ahead, int bits)
{
    const __m256i twos = _mm256_set_epi8(15, 14, 15, 14, 13, 12, 13, 12, 11, 10, 11, 10, 9, 8, 9, 8,
                                         7, 6, 7, 6, 5, 4, 5, 4, 3, 2, 3, 2, 1, 0, 1, 0);
    const __m256i fours = _mm256_set_epi8(7, 6, 7, 6, 7, 6, 7, 6, 5, 4, 5, 4, 5, 4, 5, 4,
                                          3, 2, 3, 2, 3, 2, 3, 2, 1, 0, 1, 0, 1, 0, 1, 0);
    int64_t four;

    if (bits >= 4)
        return _mm256_set1_epi16(*ahead);
    if (bits == 3)
        return _mm256_set_m128i(_mm_set1_epi16(ahead[1]), _mm_set1_epi16(ahead[0]));
    if (bits == 1)
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)ahead)), twos);
    memcpy(&four, ahead, sizeof four);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(four), fours);
}

INLINE vc costs_set(int16_t x)
{
    return _mm256_set1_epi16(x);
}

INLINE vc costs_load(const int16_t *x)
{
    return _mm256_loadu_si256((const void *)x);
}

INLINE vc costs_distance(const struct trellis_step *t, int s, bool two)
{
    vc d = _mm256_subs_epi16(costs_load(t->square + s),
                             _mm256_mulhrs_epi16(costs_load(t->value[0] + s), costs_set(t->x[0])));

    return two ? _mm256_subs_epi16(d, _mm256_mulhrs_epi16(costs_load(t->value[1] + s), costs_set(t->x[1]))) : d;
}

INLINE void costs_choose(vc ahead, vc distance, int j, vc *best, vc *choice)
{
    vc cost = _mm256_adds_epi16(ahead, distance);

    *choice = _mm256_blendv_epi8(*choice, costs_set((int16_t)j), _mm256_cmpgt_epi16(*best, cost));
    *best = _mm256_min_epi16(cost, *best);
}

INLINE void costs_store(const struct trellis_step *t, int p, vc best, vc choice)
{
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(choice), _mm256_extracti128_si256(choice, 1));

    _mm256_storeu_si256((void *)(t->cost + p), best);
    _mm_storeu_si128((void *)(t->choice + p), bytes);
}

INLINE vc costs_least(vc a, vc b)
{
    return _mm256_min_epi16(a, b);
}

INLINE void costs_add(int16_t *cost, vc level)
{
    _mm256_storeu_si256((void *)cost, _mm256_adds_epi16(costs_load(cost), level));
}
#endif

#if KERNELS_LEVEL
INLINE int16_t trellis_vectors(const struct trellis_step *step, int bits, bool two)
{
    const struct trellis_step copy = *step, *t = &copy;      /* in registers: what is stored can't be a part of it */
    int overlaps = 1 << (t->state - bits), whole = overlaps / COSTS * COSTS;
    vc least = costs_set(INT16_MAX);
    int16_t lane[COSTS], smallest;

    for (int p = 0; p < whole; p += COSTS)
        costs_add(t->ahead + p, costs_set(t->level));
    trellis_level(step, whole);
    smallest = trellis_rest(step, whole, two);
    for (int p = 0; p < whole; p += COSTS) {
        vc best = costs_set(INT16_MAX), choice = costs_set(0);

        UNROLL
        for (int j = 0; j < 1 << bits; j++) {
            int s = j * overlaps + p;

            costs_choose(costs_ahead(t->ahead + (s >> bits), bits), costs_distance(t, s, two), j, &best, &choice);
        }
        costs_store(t, p, best, choice);
        least = costs_least(least, best);
    }
    memcpy(lane, &least, sizeof lane);
    for (int i = 0; i < COSTS; i++)
        smallest = lane[i] < smallest ? lane[i] : smallest;
    return smallest;
}
#else
INLINE int16_t trellis_vectors(const struct trellis_step *t, int bits, bool two)
{
    (void)bits;
    trellis_level(t, 0);
    return trellis_rest(t, 0, two);
}
#endif

static int16_t trellis_step(const struct trellis_step *t)
{
    switch (t->value[1] ? -t->bits : t->bits) {
    case 1:
        return trellis_vectors(t, 1, false);
    case 2:
        return trellis_vectors(t, 2, false);
    case 3:
        return trellis_vectors(t, 3, false);
    case 4:
        return trellis_vectors(t, 4, false);
    case -3:
        return trellis_vectors(t, 3, true);
    case -5:
        return trellis_vectors(t, 5, true);
    default:
        return trellis_vectors(t, 7, true);
    }
}

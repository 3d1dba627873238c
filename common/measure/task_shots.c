/* task_shots.c - CPython's random.sample(), step by step. */
#include "measure/task_shots.h"

#include <stdlib.h>

enum { N = 624, M = 397 };

/* init_by_array({seed}) of the reference implementation, which is what CPython calls. */
void twister_seed(struct twister *twister, uint32_t seed)
{
    uint32_t *s = twister->state;
    int i = 1;

    s[0] = 19650218;
    for (int j = 1; j < N; j++)
        s[j] = 1812433253u * (s[j - 1] ^ (s[j - 1] >> 30)) + (uint32_t)j;
    for (int k = 0; k < N; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + seed;
        if (++i == N) {
            s[0] = s[N - 1];
            i = 1;
        }
    }
    for (int k = 0; k < N - 1; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i == N) {
            s[0] = s[N - 1];
            i = 1;
        }
    }
    s[0] = 0x80000000u;
    twister->next = N;
}

static void twist(struct twister *twister)
{
    uint32_t *s = twister->state;

    for (int k = 0; k < N; k++) {
        uint32_t y = (s[k] & 0x80000000u) | (s[(k + 1) % N] & 0x7fffffffu);

        s[k] = s[(k + M) % N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    twister->next = 0;
}

uint32_t twister_next(struct twister *twister)
{
    uint32_t y;

    if (twister->next == N)
        twist(twister);
    y = twister->state[twister->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* Random._randbelow(n), n from 1 to 2^32 - 1. */
static size_t below(struct twister *twister, size_t n)
{
    int bits = 64 - __builtin_clzll(n);
    size_t r;

    do
        r = twister_next(twister) >> (32 - bits);
    while (r >= n);
    return r;
}

static bool is_taken(const size_t *index, size_t count, size_t value)
{
    for (size_t i = 0; i < count; i++)
        if (index[i] == value)
            return true;
    return false;
}

void twister_sample(struct twister *twister, size_t n, size_t k, size_t *index)
{
    size_t small = 21, *pool;

    for (size_t power = 4; k > 5; power *= 4)            /* + 4 ** ceil(log(3 k, 4)) */
        if (power >= 3 * k) {
            small += power;
            break;
        }
    if (n > small) {
        for (size_t i = 0; i < k; i++)
            do
                index[i] = below(twister, n);
            while (is_taken(index, i, index[i]));
        return;
    }
    pool = xmallocarray(n, sizeof *pool);
    for (size_t i = 0; i < n; i++)
        pool[i] = i;
    for (size_t i = 0; i < k; i++) {
        size_t j = below(twister, n - i);

        index[i] = pool[j];
        pool[j] = pool[n - i - 1];
    }
    free(pool);
}

/* More than one copy of the document was among those drawn: draws anew from all others. */
static bool draw_anew(struct twister *twister, const struct documents *examples, size_t count,
                      const struct document *document, size_t *index)
{
    size_t *other = xmallocarray(examples->count, sizeof *other), others = 0;

    for (size_t i = 0; i < examples->count; i++)
        if (examples->item[i].identity != document->identity)
            other[others++] = i;
    if (others >= count) {
        twister_sample(twister, others, count, index);
        for (size_t i = 0; i < count; i++)
            index[i] = other[index[i]];
    }
    free(other);
    return others >= count;
}

bool shots_draw(struct twister *twister, const struct documents *examples, size_t count,
                const struct document *document, bool apart, size_t *index)
{
    size_t *drawn, kept = 0;

    if (count + apart > examples->count)
        return false;
    if (!apart) {
        twister_sample(twister, examples->count, count, index);
        return true;
    }
    drawn = xmallocarray(count + 1, sizeof *drawn);
    twister_sample(twister, examples->count, count + 1, drawn);
    for (size_t i = 0; i <= count && kept < count; i++)
        if (examples->item[drawn[i]].identity != document->identity)
            index[kept++] = drawn[i];
    free(drawn);
    return kept == count || draw_anew(twister, examples, count, document, index);
}

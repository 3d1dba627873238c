/* shape.c - shapes of matrix product operators: text, ranks, parameters, candidates. */
#include "fit/shape.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_factor(const char **text, int64_t *factor)
{
    char *end;

    if (**text < '0' || **text > '9')       /* strtoll would take signs and blanks */
        return false;
    *factor = strtoll(*text, &end, 10);
    *text = end;
    return *factor > 0 && *factor < INT64_MAX;
}

bool shape_parse(const char *text, struct mpo_shape *shape)
{
    int64_t out = 1, in = 1, all = 0;

    *shape = (struct mpo_shape){0};
    for (int k = 0; k < MPO_SITES; k++) {
        if (!parse_factor(&text, &shape->out[k]) || *text++ != 'x' || !parse_factor(&text, &shape->in[k]))
            return false;
        if (!size_multiply(out, shape->out[k], &out) || !size_multiply(in, shape->in[k], &in)
            || !size_multiply(out, in, &all))
            return false;
        shape->n_site = k + 1;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
    return false;
}

const char *shape_print(const struct mpo_shape *shape, char buffer[SHAPE_TEXT])
{
    int length = 0;

    for (int k = 0; k < shape->n_site; k++)
        length += snprintf(buffer + length, (size_t)(SHAPE_TEXT - length), "%s%lldx%lld", k ? "," : "",
                           (long long)shape->out[k], (long long)shape->in[k]);
    return buffer;
}

bool shape_fits(const struct mpo_shape *shape, int64_t out, int64_t in)
{
    int64_t product_out = 1, product_in = 1;

    for (int k = 0; k < shape->n_site; k++)
        if (!size_multiply(product_out, shape->out[k], &product_out)
            || !size_multiply(product_in, shape->in[k], &product_in))
            return false;
    return shape->n_site > 0 && product_out == out && product_in == in;
}

bool shape_same(const struct mpo_shape *a, const struct mpo_shape *b)
{
    size_t size = (size_t)a->n_site * sizeof a->out[0];

    return a->n_site == b->n_site && !memcmp(a->out, b->out, size) && !memcmp(a->in, b->in, size);
}

int64_t shape_rank(const struct mpo_shape *shape, int k)
{
    int64_t left = 1, right = 1;

    for (int j = 0; j < k; j++)
        left *= shape->out[j] * shape->in[j];
    for (int j = k; j < shape->n_site; j++)
        right *= shape->out[j] * shape->in[j];
    return left < right ? left : right;
}

bool shape_bonds(const struct mpo_shape *shape, int64_t chi, int64_t bond[MPO_SITES + 1])
{
    bool clipped = false;

    bond[0] = bond[shape->n_site] = 1;
    for (int k = 1; k < shape->n_site; k++) {
        int64_t rank = shape_rank(shape, k);

        clipped = clipped || chi > rank;
        bond[k] = chi < rank ? chi : rank;
    }
    return clipped;
}

int64_t shape_parameters(const struct mpo_shape *shape, int64_t chi)
{
    int64_t bond[MPO_SITES + 1], sum = 0;

    shape_bonds(shape, chi, bond);
    for (int k = 0; k < shape->n_site; k++) {
        int64_t count;

        if (!size_multiply(bond[k], shape->out[k] * shape->in[k], &count) || !size_multiply(count, bond[k + 1], &count)
            || !size_add(sum, count, &sum))
            return INT64_MAX;
    }
    return sum;
}

int64_t shape_chi(const struct mpo_shape *shape, int64_t budget)
{
    int64_t low = 0, high = 1;

    for (int k = 1; k < shape->n_site; k++)
        if (shape_rank(shape, k) > high)
            high = shape_rank(shape, k);
    while (low < high) {
        int64_t middle = high - (high - low) / 2;

        if (shape_parameters(shape, middle) <= budget)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* The divisor of number whose ratio to target is nearest to 1. */
static int64_t divisor_near(int64_t number, double target)
{
    int64_t best = 1;

    for (int64_t d = 1; d <= number / d; d++) {
        int64_t pair[2] = {d, number / d};

        for (int i = 0; i < 2 && number % d == 0; i++)
            if (fabs(log((double)pair[i] / target)) < fabs(log((double)best / target)))
                best = pair[i];
    }
    return best;
}

/* factor[0..parts-1], descending, near number^(1/parts) each. */
static void split(int64_t number, int parts, int64_t *factor)
{
    for (int k = 0; k < parts; k++) {
        factor[k] = divisor_near(number, pow((double)number, 1.0 / (parts - k)));
        number /= factor[k];
    }
    for (int k = 1; k < parts; k++)         /* sorted by insertion */
        for (int j = k; j > 0 && factor[j] > factor[j - 1]; j--) {
            int64_t swap = factor[j];

            factor[j] = factor[j - 1];
            factor[j - 1] = swap;
        }
}

static void add(const struct mpo_shape *shape, struct mpo_shape *list, int *count)
{
    for (int i = 0; i < *count; i++)
        if (shape_same(&list[i], shape))
            return;
    if (*count < SHAPE_CANDIDATES)
        list[(*count)++] = *shape;
}

static void add_two(int64_t out, int64_t in, int64_t o1, int64_t i1, struct mpo_shape *list, int *count)
{
    struct mpo_shape shape = {2, {o1, out / o1}, {i1, in / i1}};

    add(&shape, list, count);
}

static int candidates_two(int64_t out, int64_t in, struct mpo_shape *list)
{
    double side = sqrt((double)out * (double)in), tall = (double)out / (double)in;
    int64_t o1 = divisor_near(out, sqrt((double)out));
    int count = 0;

    add_two(out, in, out, 1, list, &count);
    add_two(out, in, o1, divisor_near(in, side / (double)o1), list, &count);
    /* Near the matrix grouping, but with sides more alike, which leaves room for more bonds. */
    if (tall > 1)
        add_two(out, in, divisor_near(out, side), 1, list, &count);
    else
        add_two(out, in, out, divisor_near(in, side / (double)out), list, &count);
    /* Crossed: the larger factor of one index beside the smaller one of the other. */
    o1 = divisor_near(out, pow((double)out, 1.0 / 3));
    add_two(out, in, o1, divisor_near(in, side / (double)o1), list, &count);
    o1 = divisor_near(out, pow((double)out, 2.0 / 3));
    add_two(out, in, o1, divisor_near(in, side / (double)o1), list, &count);
    return count;
}

int shape_candidates(int64_t out, int64_t in, int n_site, struct mpo_shape candidate[SHAPE_CANDIDATES])
{
    struct mpo_shape blank = {.n_site = n_site}, shape;
    int64_t factor[MPO_SITES];
    int count = 0, half = n_site / 2;

    if (n_site == 2)
        return candidates_two(out, in, candidate);
    for (int k = 0; k < n_site; k++)
        blank.out[k] = blank.in[k] = 1;
    /* Rows first, then columns, each cut into like parts; then whole rows first; then columns last. */
    int rows[3] = {half > 0 ? half : 1, 1, n_site > 1 ? n_site - 1 : 1};

    for (int i = 0; i < 3; i++) {
        shape = blank;
        split(out, rows[i], shape.out);
        if (n_site > rows[i])
            split(in, n_site - rows[i], shape.in + rows[i]);
        else
            shape.in[0] = in;
        add(&shape, candidate, &count);
    }
    shape = blank;
    split(out, n_site, shape.out);
    split(in, n_site, factor);
    for (int k = 0; k < n_site; k++)        /* crossed: the sites come out about equally large */
        shape.in[k] = factor[n_site - 1 - k];
    add(&shape, candidate, &count);
    return count;
}

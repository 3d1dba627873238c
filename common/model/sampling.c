/* sampling.c - temperature, top-k, top-p, and the draw. */
#include "model/sampling.h"
#include "base/memory.h"
#include "base/random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t token;
};

void sampler_begin(struct sampler *sampler, const struct sampling *sampling, int64_t n)
{
    *sampler = (struct sampler){.sampling = *sampling, .n = n};
    if (!sampling->temperature)
        return;
    sampler->logits = xmallocarray((size_t)n, sizeof *sampler->logits);
    sampler->work = xmallocarray((size_t)n, sizeof *sampler->work);
    sampler->candidate = xmallocarray((size_t)n, sizeof *sampler->candidate);
}

void sampler_end(struct sampler *sampler)
{
    free(sampler->logits);
    free(sampler->work);
    free(sampler->candidate);
    *sampler = (struct sampler){0};
}

/* The first of the largest; -1 where one is NaN or all are -infinity. */
static int32_t largest(const float *x, int64_t n)
{
    int32_t best = -1;
    float most = -INFINITY;

    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i]))
            return -1;
        if (x[i] > most) {
            most = x[i];
            best = (int32_t)i;
        }
    }
    return best;
}

/* Hoare's selection. */
float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t left = 0, right = n - 1, target = k - 1;

    while (left < right) {
        float pivot = x[left + (right - left) / 2];
        int64_t i = left, j = right;

        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i <= j) {
                float swap = x[i];

                x[i++] = x[j];
                x[j--] = swap;
            }
        }
        if (target <= j)
            right = j;
        else if (target >= i)
            left = i;
        else
            break;
    }
    return x[target];
}

/* The least likely first; of equal ones those with the higher id, so that the lower stay. */
static int compare(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit < y->logit ? -1 : 1;
    return (x->token < y->token) - (x->token > y->token);
}

/* Sets the least likely tokens to -infinity, as many as sum to no more than (1 - p) total. Only those with at least
 * (1 - p) / n of it need sorting: the others together can't exceed 1 - p. */
static void keep_nucleus(struct sampler *sampler, float *x, float top, double total)
{
    double out = (1 - sampler->sampling.top_p) * total, least = out / (double)sampler->n, sum = 0;
    int64_t count = 0;

    for (int64_t i = 0; i < sampler->n; i++) {
        double p = exp((double)x[i] - top);

        if (p >= least)
            sampler->candidate[count++] = (struct candidate){x[i], (int32_t)i};
        else {
            sum += p;
            x[i] = -INFINITY;
        }
    }
    qsort(sampler->candidate, (size_t)count, sizeof *sampler->candidate, compare);
    for (int64_t i = 0; i < count - 1; i++) {
        sum += exp((double)sampler->candidate[i].logit - top);
        if (sum > out)
            break;
        x[sampler->candidate[i].token] = -INFINITY;
    }
}

static double sum_exp(const float *x, int64_t n, float top)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    return sum;
}

/* Uniform in [0, 1), 53 bits of block number position. */
static double uniform(const struct sampling *sampling, int64_t position)
{
    struct random random = random_named(sampling->seed, "sampling");
    uint32_t word[4];

    random.stream += sampling->sequence;
    random_block(random, (uint64_t)position, word);
    return (double)((uint64_t)word[0] << 21 | word[1] >> 11) * 0x1p-53;
}

/* The token in whose part of [0, total) the point lies; the last one possible where rounding leaves none. */
static int32_t draw(const float *x, int64_t n, float top, double point)
{
    int32_t token = -1;

    for (int64_t i = 0; i < n; i++) {
        double p = exp((double)x[i] - top);

        if (!(p > 0))
            continue;
        token = (int32_t)i;
        if ((point -= p) < 0)
            break;
    }
    return token;
}

int32_t sample(struct sampler *sampler, float *logits, int64_t position)
{
    const struct sampling *sampling = &sampler->sampling;
    int32_t best = largest(logits, sampler->n);
    int64_t n = sampler->n;
    float top;

    if (best < 0 || !isfinite(logits[best]) || !sampling->temperature)
        return best < 0 || !isfinite(logits[best]) ? -1 : best;
    for (int64_t i = 0; i < n; i++)
        logits[i] = (float)(logits[i] / sampling->temperature);
    top = logits[best];
    if (!isfinite(top))          /* a temperature so low that it overflows */
        return best;
    if (sampling->top_k && sampling->top_k < n) {
        float least;

        memcpy(sampler->work, logits, (size_t)n * sizeof *logits);
        least = kth_largest(sampler->work, n, sampling->top_k);
        for (int64_t i = 0; i < n; i++)
            if (logits[i] < least)
                logits[i] = -INFINITY;
    }
    if (sampling->top_p < 1)
        keep_nucleus(sampler, logits, top, sum_exp(logits, n, top));
    return draw(logits, n, top, uniform(sampling, position) * sum_exp(logits, n, top));
}

int32_t sample_from(struct sampler *sampler, const struct device *device, const float *logits, int64_t position)
{
    if (!sampler->sampling.temperature) {
        int32_t best;

        device->log_sum_exp(logits, 1, sampler->n, NULL, &best);
        return best;
    }
    device->download(sampler->logits, logits, (size_t)sampler->n * sizeof *logits);
    return sample(sampler, sampler->logits, position);
}

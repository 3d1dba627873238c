/* sampling.h - the next token from its logits.
 *
 * Temperature, top-k and top-p are applied as transformers defines and orders them: logits are divided by the
 * temperature; those below the k-th largest fall out (equal ones stay); then the least likely tokens whose
 * probabilities sum to no more than 1 - p; the rest is drawn from. */
#ifndef MODEL_SAMPLING_H
#define MODEL_SAMPLING_H

#include "compute/device.h"

#include <stdint.h>

struct sampling {
    double temperature;          /* 0: the most likely token always, of equal ones the first */
    int64_t top_k;               /* 0: all */
    double top_p;                /* 1: all */
    uint64_t seed;
    uint64_t sequence;           /* number of the prompt: each has random numbers of its own */
};

/* Draws tokens of one vocabulary. {0} is not one: begin it. */
struct sampler {
    struct sampling sampling;
    int64_t n;                   /* vocab_size */
    float *logits, *work;        /* host, [n] */
    struct candidate *candidate; /* [n] */
};

void sampler_begin(struct sampler *sampler, const struct sampling *sampling, int64_t n);
void sampler_end(struct sampler *sampler);

/* The token at a position of its sequence from logits [n] (host, overwritten); the same for equal logits, seed,
 * sequence and position. -1 where a logit is NaN or the largest isn't finite. */
int32_t sample(struct sampler *sampler, float *logits, int64_t position);

/* The same from logits on a device; downloaded only where the temperature isn't 0. -1 where a logit is NaN. */
int32_t sample_from(struct sampler *sampler, const struct device *device, const float *logits, int64_t position);

/* The k-th largest (k from 1) of x [n], none of them NaN, which is put into another order. */
float kth_largest(float *x, int64_t n, int64_t k);

#endif

/* rotary.c - frequencies and angles of rotary embeddings. */
#include "model/rotary.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <math.h>
#include <stdlib.h>

static const double pi = 3.14159265358979323846;

/* Slow dimensions are divided by the factor, fast ones stay, those between are mixed (Llama 3.1). */
static float llama3_frequency(const struct rope_scaling *rope, float frequency)
{
    float context = (float)rope->original_max_position, factor = (float)rope->factor;
    float length = 1 / frequency * (float)(2 * pi);
    float low = (float)((double)rope->original_max_position / rope->low_frequency_factor);
    float high = (float)((double)rope->original_max_position / rope->high_frequency_factor);
    float smooth;

    if (length > low)
        return frequency / factor;
    if (length < high)
        return frequency;
    smooth = (1 / length * context - (float)rope->low_frequency_factor)
        / (float)(rope->high_frequency_factor - rope->low_frequency_factor);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

/* The dimension that turns so many times over the original context. */
static double yarn_dimension(const struct config *config, double turns)
{
    return (double)config->head_dim * log((double)config->rope.original_max_position / (turns * 2 * pi))
        / (2 * log(config->rope_theta));
}

/* YaRN (arXiv 2309.00071): as llama3, but mixed linearly in the dimension's number. */
static float yarn_frequency(const struct config *config, int64_t j, float power)
{
    const struct rope_scaling *rope = &config->rope;
    double low = yarn_dimension(config, rope->beta_fast), high = yarn_dimension(config, rope->beta_slow);
    float ramp;

    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)config->head_dim - 1);
    if (low == high)
        high += 0.001;
    ramp = fminf(fmaxf(((float)j - (float)low) / (float)(high - low), 0), 1);
    ramp = 1 - ramp;
    return 1 / ((float)rope->factor * power) * (1 - ramp) + 1 / power * ramp;
}

/* frequency [head_dim / 2]: radians from one position to the next. */
static void rotary_frequencies(const struct config *config, float *frequency)
{
    for (int64_t j = 0; j < config->head_dim / 2; j++) {
        float exponent = (float)(2 * j) / (float)config->head_dim;
        float power = (float)pow((float)config->rope_theta, exponent);

        frequency[j] = 1 / power;
        if (config->rope.kind == ROPE_LINEAR)
            frequency[j] /= (float)config->rope.factor;
        else if (config->rope.kind == ROPE_LLAMA3)
            frequency[j] = llama3_frequency(&config->rope, frequency[j]);
        else if (config->rope.kind == ROPE_YARN)
            frequency[j] = yarn_frequency(config, j, power);
    }
}

struct tables {
    int64_t half;
    const float *frequency;
    float factor, *cosine, *sine;
};

static void table_row(void *context, int64_t position, int thread)
{
    const struct tables *t = context;

    (void)thread;
    for (int64_t j = 0; j < t->half; j++) {
        float angle = (float)position * t->frequency[j];

        t->cosine[position * t->half + j] = (float)cos(angle) * t->factor;
        t->sine[position * t->half + j] = (float)sin(angle) * t->factor;
    }
}

void rotary_tables(const struct config *config, int64_t positions, float *cosine, float *sine)
{
    float *frequency = xmallocarray((size_t)config->head_dim / 2, sizeof *frequency);
    struct tables tables = {.half = config->head_dim / 2, .frequency = frequency, .cosine = cosine, .sine = sine,
                            .factor = (float)config->rope.attention_factor};

    rotary_frequencies(config, frequency);
    parallel_for(positions, table_row, &tables);
    free(frequency);
}

/* device_train.h - gradients against finite differences in double, for the tests of what training adds. */
#ifndef DEVICE_TRAIN_H
#define DEVICE_TRAIN_H

#include "device_check.h"

/* What is differentiated: a number that depends on all of x. */
struct objective {
    double (*value)(const struct objective *objective, const double *x);
    const void *context;
};

static inline double *doubles(const float *x, int64_t count)
{
    double *y = xmallocarray((size_t)count + 1, sizeof *y);

    for (int64_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}

/* Central differences: off by some h^2, and by the value's rounding over h. gradient went through f32. */
static inline void check_gradient(struct objective objective, const float *at, const float *gradient, int64_t count,
                                  const char *what)
{
    double *x = doubles(at, count), error = 0, size = 0, value;
    const double h = 1e-5;

    for (int64_t i = 0; i < count; i++) {
        double middle = x[i], high, slope;

        x[i] = middle + h;
        high = objective.value(&objective, x);
        x[i] = middle - h;
        slope = (high - objective.value(&objective, x)) / (2 * h);
        x[i] = middle;
        error += (slope - (double)gradient[i]) * (slope - (double)gradient[i]);
        size += slope * slope;
    }
    value = sqrt(error / (size > 0 ? size : 1));
    CHECK_AT_MOST(value, 2e-6, what);
    free(x);
}

#endif

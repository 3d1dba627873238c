/* kernels_back.h - what training does to one row of numbers. See kernels_vector.h; after kernels_rows.h. */

/* As device_reference.h has it: dx = f (w dy) - x f^3 / d sum(w dy x). */
static void rms_norm_back(float *dx, bool add, float *dweight, const float *dy, const float *x, const float *weight,
                          int64_t d, double epsilon)
{
    double squares[LANES] = {0}, dots[LANES] = {0}, square = 0, dot = 0, f;
    float factor, back;
    int64_t j = 0;

    for (; j + LANES <= d; j += LANES)
        for (int i = 0; i < LANES; i++) {
            squares[i] += (double)x[j + i] * (double)x[j + i];
            dots[i] += (double)(weight[j + i] * dy[j + i]) * (double)x[j + i];
        }
    for (; j < d; j++) {
        square += (double)x[j] * (double)x[j];
        dot += (double)(weight[j] * dy[j]) * (double)x[j];
    }
    for (int i = 0; i < LANES; i++) {
        square += squares[i];
        dot += dots[i];
    }
    f = 1 / sqrt(square / (double)d + epsilon);
    factor = (float)f;
    back = (float)(f * f * f / (double)d * dot);
    for (j = 0; dweight && j < d; j++)
        dweight[j] += dy[j] * x[j] * factor;
    for (j = 0; j < d; j++) {
        float change = factor * weight[j] * dy[j] - back * x[j];

        dx[j] = add ? dx[j] + change : change;
    }
}

INLINE void silu_back(vf *gate, vf *up, vf dy)
{
    vf x = *gate, logistic = 1 / (1 + vf_exp(-x, (vf){0}));

    *gate = dy * *up * logistic * (1 + x * (1 - logistic));
    *up = dy * x * logistic;
}

static void silu_multiply_back(float *gate, float *up, const float *dy, int64_t count)
{
    int64_t j = 0;

    for (; j + LANES <= count; j += LANES) {
        vf a = vf_load(gate + j), b = vf_load(up + j);

        silu_back(&a, &b, vf_load(dy + j));
        vf_store(gate + j, a);
        vf_store(up + j, b);
    }
    if (j < count) {
        vf a = vf_load_part(gate + j, count - j), b = vf_load_part(up + j, count - j);
        float part[LANES];

        silu_back(&a, &b, vf_load_part(dy + j, count - j));
        vf_store(part, a);
        memcpy(gate + j, part, (size_t)(count - j) * sizeof *gate);
        vf_store(part, b);
        memcpy(up + j, part, (size_t)(count - j) * sizeof *up);
    }
}

/* exp(x - lse), lse in two parts of f32. */
INLINE vf probabilities(vf x, float lse, float lse_rest)
{
    vf shifted = x - lse;

    return vf_exp(shifted, vf_rest(x, shifted, lse) - lse_rest);
}

static void loss_row(float *x, double lse, const float *t, double t_lse, float student, float teacher, int64_t d)
{
    float head = (float)lse, rest = (float)(lse - head), t_head = (float)t_lse, t_rest = (float)(t_lse - t_head);
    int64_t j = 0;

    for (; j + LANES <= d; j += LANES) {
        vf p = student * probabilities(vf_load(x + j), head, rest);

        vf_store(x + j, t ? p - teacher * probabilities(vf_load(t + j), t_head, t_rest) : p);
    }
    for (; j < d; j++)
        x[j] = (float)(student * exp(x[j] - lse) - (t ? teacher * exp(t[j] - t_lse) : 0));
}

static void adamw(float *x, const float *dx, float *mean, float *square, const struct adamw *step, double first,
                  double second, int64_t count)
{
    float factor = (float)step->factor, beta1 = (float)step->beta1, beta2 = (float)step->beta2;
    float new1 = (float)(1 - step->beta1), new2 = (float)(1 - step->beta2);
    float keep = (float)(1 - step->rate * step->decay);
    float rate = (float)(step->rate / first), root = (float)(1 / sqrt(second)), epsilon = (float)step->epsilon;

    for (int64_t j = 0; j < count; j++) {
        float g = dx[j] * factor;

        mean[j] = beta1 * mean[j] + new1 * g;
        square[j] = beta2 * square[j] + new2 * g * g;
        x[j] = keep * x[j] - rate * mean[j] / (sqrtf(square[j]) * root + epsilon);
    }
}

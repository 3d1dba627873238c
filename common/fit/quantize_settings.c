/* quantize_settings.c - quantization as plans and histories say it. */
#include "fit/quantize.h"

void quantization_set(struct quantization *how, const struct plan_line *line)
{
    how->dtype.bits = line->bits;
    if (line->has_group)
        how->dtype.group = line->group;
    if (line->has_zero)
        how->dtype.zero = line->zero;
    how->dtype.scale_bits = line->scale_bits;
    how->rotate = line->rotate;
    how->residual_chi = line->residual_chi;
    if (line->residual_bits)
        how->residual_bits = line->residual_bits;
}

void quantization_history(struct json *history, const struct plan_line *line)
{
    json_put(history, "bits", json_make_int(line->bits));
    json_put(history, "group", line->group == GROUP_ROW ? json_make_string("row") : json_make_int(line->group));
    json_put(history, "zero", json_make_string(dtype_zero_names[line->zero]));
    if (line->scale_bits)
        json_put(history, "scale_bits", json_make_int(line->scale_bits));
    if (line->rotate)
        json_put(history, "rotate", line->rotate == ROTATE_FULL ? json_make_string("full")
                                                                : json_make_int(line->rotate));
    if (line->residual_chi) {
        json_put(history, "residual_chi", json_make_int(line->residual_chi));
        json_put(history, "residual_bits", json_make_int(line->residual_bits));
    }
}

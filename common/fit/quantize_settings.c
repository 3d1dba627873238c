/* quantize_settings.c - quantization as plans and histories say it. */
#include "fit/quantize.h"

/* State of a trellis where none is given. */
enum { TRELLIS_STATE = 12 };

static void set_groups(struct dtype *dtype, const struct plan_line *line)
{
    dtype->bits = line->bits;
    if (line->has_group)
        dtype->group = line->group;
    if (line->has_zero)
        dtype->zero = line->zero;
    dtype->scale_bits = line->scale_bits;
}

void quantization_set(struct quantization *how, const struct plan_line *line)
{
    if (line->trellis)
        dtype_trellis(line->rate, line->state ? line->state : TRELLIS_STATE, &how->dtype);
    else
        set_groups(&how->dtype, line);
    how->rotate = line->rotate;
    how->residual_chi = line->residual_chi;
    if (line->residual_bits)
        how->residual_bits = line->residual_bits;
}

void quantization_history(struct json *history, const struct plan_line *line)
{
    if (line->trellis) {
        json_put(history, "code", json_make_string("trellis"));
        json_put(history, "rate", json_make_number(line->rate / 2.));
        json_put(history, "state", json_make_int(line->state));
    } else {
        json_put(history, "bits", json_make_int(line->bits));
        json_put(history, "group", line->group == GROUP_ROW ? json_make_string("row") : json_make_int(line->group));
        json_put(history, "zero", json_make_string(dtype_zero_names[line->zero]));
    }
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

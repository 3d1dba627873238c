/* quantize_fold.c - the turn of o_proj's input folded into v_proj. */
#include "fit/quantize.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

static const char output_tail[] = ".self_attn.o_proj.weight", values_tail[] = ".self_attn.v_proj.weight";

/* The name of the v_proj that belongs to an o_proj, the caller's; NULL for other matrices. */
static char *values_of(const char *name)
{
    size_t length = strlen(name), stem = length - (sizeof output_tail - 1);

    if (length < sizeof output_tail || strcmp(name + stem, output_tail) != 0)
        return NULL;
    return xasprintf("%.*s%s", (int)stem, name, values_tail);
}

static bool possible(const struct fold *fold, const struct operator *op, const struct quantization *how)
{
    return fold->head_dim && op->in == fold->width && operator_is_dense(op)
           && quantize_turn(how, fold->head_dim).block;
}

int fold_prepare(struct fold *fold, const struct operator *op, bool (*wanted)(const char *name),
                 struct quantization *how)
{
    char *values;

    if (fold->values && !strcmp(fold->values, op->name)) {
        how->fold_output = fold->turn;
        how->fold_size = fold->head_dim;
        return EX_OK;
    }
    if (!(values = values_of(op->name)))
        return EX_OK;
    if (fold->values) {
        free(values);
        return fold_end(fold);
    }
    if (how->rotate && possible(fold, op, how) && wanted(values)) {
        how->fold_input = fold->head_dim;
        fold->values = values;
        return EX_OK;
    }
    if (how->rotate)
        note("'%s': its turn can't be folded into '%s', it is stored", op->name, values);
    free(values);
    return EX_OK;
}

void fold_note(struct fold *fold, const struct quantization *how, const struct quantized *result)
{
    if (how->fold_input && result->done) {
        fold->turn = result->input;
    } else if (how->fold_input || how->fold_output.block) {      /* kept as it is, or come true */
        fold->done += how->fold_output.block > 0;
        fold_free(fold);
    }
}

int fold_end(const struct fold *fold)
{
    return fold->values ? fail(EX_DATAERR, "'%s' is missing: the turn of o_proj's input can't be folded into it",
                               fold->values) : EX_OK;
}

void fold_free(struct fold *fold)
{
    free(fold->values);
    fold->values = NULL;
}

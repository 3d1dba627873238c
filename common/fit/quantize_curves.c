/* quantize_curves.c - all settings of one operator tried, a line for each. */
#include "base/memory.h"
#include "base/number.h"
#include "fit/curve.h"
#include "fit/quantize_internal.h"

#include <stdlib.h>
#include <string.h>

static struct operator operator_copy(const struct operator *op)
{
    struct operator copy = *op;

    copy.name = xstrdup(op->name);
    copy.term = xcalloc((size_t)op->n_term, sizeof *copy.term);
    for (int t = 0; t < op->n_term; t++) {
        copy.term[t].n_site = op->term[t].n_site;
        copy.term[t].core = xcalloc((size_t)op->term[t].n_site, sizeof *copy.term[t].core);
        for (int s = 0; s < op->term[t].n_site; s++)
            copy.term[t].core[s] = tensor_copy(&op->term[t].core[s]);
    }
    return copy;
}

struct trial {
    const struct operator *op;
    struct quantization how;
    const char *plan;            /* the setting as a plan says it */
    struct views *views;
    struct output *output;
    double norm;                 /* below 0: no setting has been done */
};

/* Whether a setting means something for the operator that the ones without it don't. */
static bool applies(const struct trial *t)
{
    if (t->how.rotate && (operator_is_turned(t->op) || !quantize_turn(&t->how, t->op->in).block))
        return false;
    return !t->how.residual_chi || (operator_is_matrix(t->op) && t->how.residual_chi <= least(t->op->out, t->op->in));
}

static int try_setting(struct trial *t)
{
    struct operator op;
    struct quantized result;
    struct curve_point point;
    int rc;

    if (!applies(t))
        return EX_OK;
    op = operator_copy(t->op);
    rc = quantize_operator(&op, &t->how, t->views, &result);
    if (!rc && result.done) {
        t->norm = result.norm;
        point = (struct curve_point){(char *)(uintptr_t)t->plan, operator_bytes(&op), operator_parameters(&op),
                                     result.error};
        rc = curve_write(t->output, op.name, op.out, op.in, result.norm, &point);
    }
    operator_free(&op);
    return rc;
}

/* The operator as it is now: one more setting where there are others, otherwise what stays. */
static int write_kept(const struct trial *t)
{
    const struct operator *op = t->op;
    const struct curve_point kept = {(char *)(uintptr_t)"", operator_bytes(op), operator_parameters(op), 0};
    int rc = EX_OK;

    if (t->norm >= 0)
        return curve_write(t->output, op->name, op->out, op->in, t->norm, &kept);
    for (int term = 0; term < op->n_term; term++)
        for (int site = 0; site < op->term[term].n_site && !rc; site++) {
            struct record record = record_core(op->name, term, op->n_term, site, op->term[term].n_site,
                                               &op->term[term].core[site]);

            rc = curve_write_fixed(t->output, &record);
            record_free(&record);
        }
    return rc;
}

/* Combination number of the lists' values, the first list's changing first; the plan's text leaves out what is 0. */
static void combine(int64_t number, const struct setting_list *list, int n_list, struct plan_line *line,
                    struct text *text)
{
    for (int i = 0; i < n_list; i++) {
        const char *value = list[i].count ? list[i].value[number % list[i].count] : NULL;

        if (!value)
            continue;
        number /= list[i].count;
        plan_set(line, list[i].key, value);
        if (strcmp(value, "0") != 0 && (line->residual_chi || strcmp(list[i].key, "residual_bits") != 0))
            text_format(text, "%s%s=%s", text->length ? " " : "", list[i].key, value);
    }
}

int quantize_curves(const struct operator *op, const struct quantization *how, const struct setting_list *lists,
                    int n_list, struct views *views, struct output *output)
{
    struct trial t = {.op = op, .how = *how, .views = views, .output = output, .norm = -1};
    int64_t combinations = 1;
    int rc = EX_OK;

    for (int i = 0; i < n_list; i++)
        combinations *= most(lists[i].count, 1);
    for (int64_t i = 0; i < combinations && !rc; i++) {
        struct plan_line line = {0};
        struct text text = {0};

        combine(i, lists, n_list, &line, &text);
        quantization_set(&t.how, &line);
        t.plan = text.data;
        rc = try_setting(&t);
        text_free(&text);
    }
    return rc ? rc : write_kept(&t);
}

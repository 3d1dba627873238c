/* allot_print.c - what was chosen, as a plan. */
#include "fit/allot.h"

#include <string.h>

static const char *const unit_names[] = {"bpw", "%", " bytes"};      /* in the order of enum allot_unit */

/* The name as a glob that matches nothing else. */
static int print_name(struct text *text, const char *name)
{
    if (name[strcspn(name, "# \t\r\n\v\f")])
        return fail(EX_DATAERR, "'%s': a name with blanks or '#' can't stand in a plan", name);
    for (; *name; name++) {
        if (strchr("*?[\\", *name))
            text_append(text, "\\", 1);
        text_append(text, name, 1);
    }
    return EX_OK;
}

int allot_print(const struct allotment *a, struct text *text)
{
    struct allot_totals totals = allot_totals(a);
    int rc = EX_OK;

    text_format(text, "# budget: %.10g%s%s\n", a->budget.amount, unit_names[a->budget.unit],
                a->budget.whole ? " of the whole model" : "");
    text_format(text, "# %lld bytes, %.4f bits per parameter; %lld numbers, %.3f %% of %lld\n", (long long)totals.bytes,
                totals.bpw, (long long)totals.parameters, totals.percent, (long long)a->original);
    text_format(text, "# sum of relative squared errors: %.6g; as weighted: %.6g\n", totals.error, totals.weighted);
    for (int m = 0; m < a->n_matrix && !rc; m++) {
        const struct allot_matrix *matrix = &a->matrix[m];
        const char *plan = matrix->point[matrix->chosen].plan;

        if (!(rc = print_name(text, matrix->curve->name)))
            text_format(text, " %s\n", *plan ? plan : "# as it is");
    }
    return rc;
}

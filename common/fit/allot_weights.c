/* allot_weights.c - how much the model minds an error of each matrix, from measured sensitivities. */
#include "base/json.h"
#include "fit/allot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BY_MATRIX, BY_BLOCK, BY_KIND, N_BY };

static const char *const by_names[N_BY] = {"matrix", "block", "kind"};

/* Sums for the slope of KL over the loss of a unit that a matrix belongs to: x the loss, y the KL. */
struct slope {
    double xy, xx;
};

struct weighing {
    struct allotment *allotment;
    const char *path;
    struct json *first;          /* line */
    struct slope (*slope)[N_BY]; /* of each matrix */
    bool other_norms;
};

static int by_name(const void *name, const void *matrix)
{
    return strcmp(name, ((const struct allot_matrix *)matrix)->curve->name);
}

static const struct allot_matrix *find(const struct weighing *w, const struct json *entry)
{
    const char *name = json_as_string(json_at(entry, "name"), "");

    return bsearch(name, w->allotment->matrix, (size_t)w->allotment->n_matrix, sizeof *w->allotment->matrix, by_name);
}

/* error / norm of an entry of "matrices"; -1 where it has none. */
static double relative(const struct json *entry)
{
    double error = json_as_real(json_at(entry, "error"), -1), norm = json_as_real(json_at(entry, "norm"), -1);

    if (!json_as_string(json_at(entry, "name"), NULL) || !(error >= 0 && norm >= 0 && isfinite(error / 2 + norm / 2)))
        return -1;
    return norm > 0 ? error / norm : 0;
}

static int take_matrices(struct weighing *w, const struct json *matrices, int by, double kl, int64_t line)
{
    double sum = 0;

    for (size_t i = 0; i < json_count(matrices); i++) {
        double one = relative(json_item(matrices, i));

        if (one < 0)
            return bad_line(w->path, line, "entry %zu of \"matrices\" has no name, error and norm", i);
        sum += allot_loss(one);
    }
    for (size_t i = 0; i < json_count(matrices); i++) {
        const struct json *entry = json_item(matrices, i);
        const struct allot_matrix *matrix = find(w, entry);
        double norm = json_as_real(json_at(entry, "norm"), 0);

        if (!matrix)
            continue;
        w->slope[matrix - w->allotment->matrix][by].xy += kl * sum;
        w->slope[matrix - w->allotment->matrix][by].xx += sum * sum;
        w->other_norms |= fabs(norm - matrix->curve->norm) > 1e-2 * fmax(norm, matrix->curve->norm);
    }
    return EX_OK;
}

/* Lines that were measured on different things can't be weighed against each other. */
static int compare(struct weighing *w, const struct json *value, int64_t line)
{
    static const char *const alike[] = {"model", "moments", "data"};

    if (!w->first)
        w->first = json_clone(value);
    for (size_t i = 0; i < sizeof alike / sizeof *alike; i++) {
        const struct json *one = json_at(w->first, alike[i]), *other = json_at(value, alike[i]);

        if (!one != !other || (one && !json_same(one, other)))
            return bad_line(w->path, line, "the line is of another \"%s\" than those before it", alike[i]);
    }
    return EX_OK;
}

static int take_line(void *context, const struct json *value, int64_t line)
{
    struct weighing *w = context;
    const char *by = json_as_string(json_at(value, "by"), "");
    struct json *matrices = json_at(value, "matrices");
    double kl = json_as_real(json_at(value, "kl"), -1);
    int kind = 0, rc;

    while (kind < N_BY && strcmp(by, by_names[kind]))
        kind++;
    if (kind == N_BY || json_kind(matrices) != JSON_KIND_ARRAY
        || json_kind(json_at(value, "model")) != JSON_KIND_OBJECT)
        return bad_line(w->path, line, "no line of `evaluate sensitivity`: \"by\", \"model\" or \"matrices\" is "
                        "missing");
    if (!isfinite(kl))
        return bad_line(w->path, line, "\"kl\" is not a number");
    rc = compare(w, value, line);
    return rc ? rc : take_matrices(w, matrices, kind, fmax(kl, 0), line);
}

/* What stands behind "model.layers.N."; of others the name. */
static const char *kind_of(const char *name)
{
    int64_t block;

    return record_section(name, &block) == SECTION_BLOCKS ? strchr(name + strlen("model.layers."), '.') + 1 : name;
}

/* The mean weight of the matrices that were measured: of those of a kind, or with NULL of all; NaN where none was. */
static double mean(const struct allotment *a, const bool *known, const char *kind)
{
    double sum = 0, count = 0;

    for (int m = 0; m < a->n_matrix; m++)
        if (known[m] && (!kind || !strcmp(kind_of(a->matrix[m].curve->name), kind))) {
            sum += a->matrix[m].weight;
            count++;
        }
    return sum / count;
}

static int set_weights(const struct weighing *w)
{
    struct allotment *a = w->allotment;
    bool *known = xcalloc((size_t)a->n_matrix, sizeof *known);
    int missing = 0;

    for (int m = 0; m < a->n_matrix; m++)
        for (int by = 0; by < N_BY && !known[m]; by++) {
            const struct slope *slope = &w->slope[m][by];

            if ((known[m] = slope->xx > 0))
                a->matrix[m].weight = slope->xy / slope->xx;
        }
    for (int m = 0; m < a->n_matrix; m++)
        if (!known[m]) {
            double of_kind = mean(a, known, kind_of(a->matrix[m].curve->name));

            a->matrix[m].weight = isnan(of_kind) ? mean(a, known, NULL) : of_kind;
            missing++;
        }
    free(known);
    if (missing == a->n_matrix)
        return fail(EX_DATAERR, "'%s': no line for any matrix of the curves", file_input_name(w->path));
    if (missing)
        note("'%s': no line for %d of %d matrices, which get the mean of their kind", file_input_name(w->path),
             missing, a->n_matrix);
    return EX_OK;
}

int allot_weigh(struct allotment *a, const char *path)
{
    struct weighing w = {.allotment = a, .path = path};
    int rc;

    w.slope = xcalloc((size_t)a->n_matrix, sizeof *w.slope);
    if (!(rc = json_lines(path, take_line, &w)) && !(rc = set_weights(&w)) && w.other_norms)
        note("'%s': norms differ from those of the curves: the moments were not the same", file_input_name(path));
    json_drop(w.first);
    free(w.slope);
    return rc;
}

/* summary.c - counts what a source holds. */
#include "operator/summary.h"
#include "base/memory.h"
#include "base/progress.h"
#include "operator/operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = {
    [RECORD_FILE] = "file", [RECORD_TENSOR] = "tensor", [RECORD_CORE] = "operator", [RECORD_OTHER] = "other",
};

static int64_t product(int rank, const int64_t *shape)
{
    int64_t n = 1;

    for (int axis = 0; axis < rank; axis++)
        if (!size_multiply(n, shape[axis], &n))
            return INT64_MAX;
    return n;
}

/* Counts stop at the largest number: a hostile stream may claim what no disk holds. */
static int64_t sum(int64_t a, int64_t b)
{
    return size_add(a, b, &a) ? a : INT64_MAX;
}

static struct weight *add_weight(struct summary *summary, const struct record *record)
{
    struct weight *w;

    if ((summary->n_weight & (summary->n_weight - 1)) == 0)
        summary->weight = xreallocarray(summary->weight, summary->n_weight ? 2 * summary->n_weight : 1, sizeof *w);
    w = &summary->weight[summary->n_weight++];
    *w = (struct weight){.name = xstrdup(record->name), .kind = record->kind, .rank = record->rank};
    memcpy(w->shape, record->shape, sizeof w->shape);
    if (record->kind == RECORD_CORE) {
        w->rank = 2;
        w->shape[0] = w->shape[1] = 1;
    }
    summary->n_file += record->kind == RECORD_FILE;
    return w;
}

/* A matrix in one piece, as a core. */
static bool is_whole(const struct record *record)
{
    return record->kind == RECORD_CORE && record->n_term == 1 && record->n_site == 1;
}

static void describe(struct weight *w, const struct record *record)
{
    int first = is_whole(record) ? 1 : 0, last = record->rank - first;      /* without the outer bonds */
    struct text text = {0};
    char buffer[DTYPE_NAME];

    if (w->description)
        text_format(&text, "%s%s", w->description, record->site ? " " : " + ");
    if (record->kind == RECORD_FILE || record->kind == RECORD_OTHER)
        text_format(&text, "%s", kinds[record->kind]);
    else
        text_format(&text, "%s ", dtype_name(record->dtype, buffer));
    for (int axis = first; axis < last && record->kind != RECORD_FILE; axis++)
        text_format(&text, "%s%lld", axis > first ? "x" : "", (long long)record->shape[axis]);
    free(w->description);
    w->description = text.data;
}

static void add_record(struct summary *summary, const struct record *record, const struct item *item)
{
    bool weights = record->kind == RECORD_TENSOR || record->kind == RECORD_CORE;
    struct weight *w = summary->n_weight ? &summary->weight[summary->n_weight - 1] : NULL;
    char buffer[DTYPE_NAME];

    if (record->kind != RECORD_CORE || !w || w->kind != RECORD_CORE || strcmp(w->name, record->name))
        w = add_weight(summary, record);
    if (record->kind == RECORD_CORE && operator_begins(record)) {
        w->stated_input = json_keep(json_at(record->map, "input"));
        w->stated_output = json_keep(json_at(record->map, "output"));
    }
    describe(w, record);
    w->cores++;
    w->bytes = sum(w->bytes, record->bytes);
    if (item && weights) {
        w->stored_bytes += item->stored_bytes;
        if (strcasecmp(item->stored, dtype_name(record->dtype, buffer)) && record->kind == RECORD_TENSOR)
            memcpy(w->stored, item->stored, sizeof w->stored);
    }
    if (!weights)
        return;
    if (record->kind == RECORD_CORE && record->term == 0) {
        if (!size_multiply(w->shape[0], record->shape[1], &w->shape[0])
            || !size_multiply(w->shape[1], record->shape[2], &w->shape[1]))
            w->shape[0] = w->shape[1] = INT64_MAX;           /* product() says the same */
    }
    w->stored_parameters = sum(w->stored_parameters, product(record->rank, record->shape));
}

static bool all_finite(const struct tensor *tensor)
{
    int64_t rows = tensor_rows(tensor), length = tensor_row_length(tensor);
    const double *wide = (const void *)tensor->data;
    float *row = xmallocarray((size_t)length, sizeof *row);
    bool finite = true;

    for (int64_t i = 0; tensor->dtype.kind == DTYPE_F64 && i < rows * length; i++)
        finite = finite && isfinite(wide[i]);            /* may exceed f32 */
    for (int64_t r = 0; tensor->dtype.kind != DTYPE_F64 && r < rows && finite; r++) {
        tensor_get_rows(tensor, r, 1, row);
        for (int64_t i = 0; i < length; i++)
            finite = finite && isfinite(row[i]);
    }
    free(row);
    return finite;
}

static int ignore(void *context, const void *data, size_t size)
{
    (void)context, (void)data, (void)size;
    return EX_OK;
}

static int verify_record(struct source *source, const struct record *record)
{
    struct tensor tensor;
    int rc;

    if (record->kind == RECORD_FILE || record->kind == RECORD_OTHER || !dtype_is_real(record->dtype))
        return source_each(source, record, ignore, NULL);
    if ((rc = source_load(source, record, &tensor)))
        return rc;
    if (!all_finite(&tensor))
        rc = fail(EX_DATAERR, "'%s': '%s': a number is not finite", source->name, record->name);
    tensor_free(&tensor);
    return rc;
}

/* The transforms, whose widths are known once all cores were there. */
static int read_transforms(struct weight *w, const char *where)
{
    if (w->stated_input && !transform_parse(w->stated_input, w->shape[1], &w->input))
        return fail(EX_DATAERR, "'%s': '%s': bad 'input', which is no transform of %lld columns", where, w->name,
                    (long long)w->shape[1]);
    if (w->stated_output && !transform_parse(w->stated_output, w->shape[0], &w->output))
        return fail(EX_DATAERR, "'%s': '%s': bad 'output', which is no transform of %lld rows", where, w->name,
                    (long long)w->shape[0]);
    return EX_OK;
}

static void count_up(struct summary *summary)
{
    bool tied = json_as_bool(json_at(summary->config, "tie_word_embeddings"), false);

    for (size_t i = 0; i < summary->n_weight; i++) {
        struct weight *w = &summary->weight[i];
        bool weights = w->kind == RECORD_TENSOR || w->kind == RECORD_CORE;

        if (!weights)
            continue;
        w->parameters = tied && !strcmp(w->name, "lm_head.weight") ? 0 : product(w->rank, w->shape);
        summary->parameters = sum(summary->parameters, w->parameters);
        summary->stored_parameters = sum(summary->stored_parameters, w->stored_parameters);
        summary->payload_bytes = sum(summary->payload_bytes, w->bytes);
    }
}

int summary_take(struct summary *summary, struct source *source, bool verify)
{
    struct record record = {0};
    int rc;

    *summary = (struct summary){.format = source->is_model ? source->model.container->format : "stream",
                                .name = file_basename(source->name)};
    summary->config = json_clone(source->config);
    summary->history = json_clone(source->history);
    while (!(rc = source_next(source, &record)) && record.kind != RECORD_END) {
        progress_step(record.name);
        add_record(summary, &record, source_item(source));
        if (verify)
            rc = verify_record(source, &record);
        record_free(&record);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < summary->n_weight && !rc; i++)
        rc = read_transforms(&summary->weight[i], source->name);
    if (rc)
        return rc;
    summary->file_bytes = source->is_model ? source->model.file_bytes : source->reader.offset;
    count_up(summary);
    return EX_OK;
}

static struct json *weight_json(const struct weight *w)
{
    struct json *object = json_make_object(), *shape = json_make_array();

    for (int axis = 0; axis < w->rank; axis++)
        json_append(shape, json_make_int(w->shape[axis]));
    json_put(object, "name", json_make_string(w->name));
    json_put(object, "kind", json_make_string(kinds[w->kind]));
    json_put(object, "shape", shape);
    json_put(object, "cores", json_make_string(w->description));
    if (w->input.block)
        json_put(object, "input", transform_json(w->input));
    if (w->output.block)
        json_put(object, "output", transform_json(w->output));
    json_put(object, "parameters", json_make_int(w->parameters));
    json_put(object, "stored_parameters", json_make_int(w->stored_parameters));
    json_put(object, "bytes", json_make_int(w->bytes));
    if (w->stored_bytes)
        json_put(object, "stored_bytes", json_make_int(w->stored_bytes));
    if (w->stored[0])
        json_put(object, "stored", json_make_string(w->stored));
    return object;
}

struct json *summary_json(const struct summary *summary, bool totals_only)
{
    struct json *report = json_make_object(), *tensors;

    json_put(report, "name", json_make_string(summary->name));
    json_put(report, "format", json_make_string(summary->format));
    json_put(report, "parameters", json_make_int(summary->parameters));
    json_put(report, "stored_parameters", json_make_int(summary->stored_parameters));
    json_put(report, "payload_bytes", json_make_int(summary->payload_bytes));
    json_put(report, "file_bytes", json_make_int(summary->file_bytes));
    json_put(report, "config", summary->config ? json_clone(summary->config) : json_make_null());
    json_put(report, "history", json_clone(summary->history));
    if (totals_only)
        return report;
    tensors = json_make_array();
    for (size_t i = 0; i < summary->n_weight; i++)
        json_append(tensors, weight_json(&summary->weight[i]));
    json_put(report, "tensors", tensors);
    return report;
}

void summary_free(struct summary *summary)
{
    for (size_t i = 0; i < summary->n_weight; i++) {
        free(summary->weight[i].name);
        free(summary->weight[i].description);
        json_drop(summary->weight[i].stated_input);
        json_drop(summary->weight[i].stated_output);
    }
    free(summary->weight);
    free(summary->name);
    json_drop(summary->config);
    json_drop(summary->history);
    *summary = (struct summary){0};
}

/* filter.c - the loop over records that filters share. */
#include "operator/filter.h"
#include "base/options.h"
#include "base/progress.h"

static int change_operator(const struct filter *filter, struct source *source, const struct record *record,
                           struct writer *writer)
{
    struct operator op;
    int rc;

    progress_step(record->name);
    if ((rc = operator_read(source, record, &op)))
        return rc;
    if (!(rc = filter->change(filter->context, &op)) && !filter->leave)
        rc = operator_write(writer, &op);
    operator_free(&op);
    return rc;
}

static int change_tensor(const struct filter *filter, struct source *source, const struct record *record,
                         struct writer *writer)
{
    struct tensor tensor;
    struct record changed;
    int rc = source_load(source, record, &tensor);

    if (rc)
        return rc;
    if (!(rc = filter->change_tensor(filter->context, record->name, &tensor))) {
        changed = record_tensor(record->name, tensor.dtype, tensor.rank, tensor.shape);
        rc = writer_put(writer, &changed, tensor.data);
        record_free(&changed);
    }
    tensor_free(&tensor);
    return rc;
}

static int filter_records(const struct filter *filter, struct source *source, struct writer *writer)
{
    struct record record = {0};
    int rc = filter->begin ? filter->begin(filter->context, source) : EX_OK;

    while (!rc && !(rc = source_next(source, &record)) && record.kind != RECORD_END) {
        if (operator_begins(&record) && filter->wants(filter->context, &record))
            rc = change_operator(filter, source, &record, writer);
        else if (filter->wants_tensor && record.kind == RECORD_TENSOR && filter->wants_tensor(filter->context, &record))
            rc = change_tensor(filter, source, &record, writer);
        else if (filter->leave)
            rc = filter->leave(filter->context, &record);
        else
            rc = source_pass(source, &record, writer);
        record_free(&record);
    }
    if (!rc && filter->end)
        rc = filter->end(filter->context);
    return rc || filter->leave ? rc : writer_end(writer);
}

int filter_run(const struct filter *filter)
{
    struct source source = {0};
    struct writer writer = {.output.fd = -1};
    struct json *history = NULL, *entry = history_entry(filter->program, filter->options);
    const struct globs *match = &common_options.match;
    int rc = source_open(&source, common_options.input);

    if (match->count)
        json_put(filter->options, "match", json_make_strings(match->glob, match->count));
    if (!rc && !filter->leave) {
        history = source_history(&source);
        json_append(history, json_keep(entry));
        rc = writer_open(&writer, common_options.output, source.config, history);
    }
    if (!rc) {
        progress_start(filter->doing, source.is_model ? (int64_t)source.model.n_item : 0);
        rc = filter_records(filter, &source, &writer);
        progress_stop();
    }
    json_drop(history);
    json_drop(entry);
    writer_close(&writer);
    source_close(&source);
    return rc;
}

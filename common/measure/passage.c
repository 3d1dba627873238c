/* passage.c - from a text to windows of tokens. */
#include "measure/passage.h"
#include "base/file.h"
#include "base/memory.h"
#include "measure/corpus.h"
#include "measure/report.h"

int passage_one_stream(const char *const *paths, int count)
{
    int streams = 0;

    for (int i = 0; i < count; i++)
        streams += file_is_stdin(paths[i]);
    return streams > 1 ? fail(EX_USAGE, "standard input can be one operand only: it is read once") : EX_OK;
}

int passage_open(struct passage *passage, const char *path, const struct text_options *options)
{
    *passage = (struct passage){.path = path, .hf_rows = options->hf_rows};
    return corpus_read(path, &passage->raw);
}

int passage_tokenize(const struct passage *passage, struct tokenizer *tokenizer, const struct text_options *options,
                     struct ids *ids)
{
    struct text rows = {0};
    const struct text *text = &passage->raw;

    if (options->hf_rows) {
        corpus_join_rows(text->data, text->length, &rows);
        text = &rows;
    }
    tokenizer_encode(tokenizer, text->data, text->length, TOKENIZE_TEMPLATE, ids);
    text_free(&rows);
    if (options->limit_tokens && ids->count > (size_t)options->limit_tokens)
        ids->count = (size_t)options->limit_tokens;
    if (ids->count < 2)
        return fail(EX_DATAERR, "'%s': a text of %zu tokens: nothing to predict, 2 are needed",
                    file_input_name(passage->path), ids->count);
    return EX_OK;
}

int passage_context(int64_t asked, int64_t usual, int64_t max_position, int64_t *context)
{
    if (asked > max_position)
        return fail(EX_USAGE, "--context: %lld tokens, but the model takes %lld at most ('max_position_embeddings')",
                    (long long)asked, (long long)max_position);
    *context = asked ? asked : usual < max_position ? usual : max_position;
    if (*context < 2)
        return fail(EX_USAGE, "--context: %lld is too short, 2 tokens are needed", (long long)*context);
    if (!asked && *context < usual)
        note("context: %lld tokens, the model's maximum, instead of %lld", (long long)*context, (long long)usual);
    return EX_OK;
}

int passage_cut(struct passage *passage, int64_t max_position, const struct text_options *options)
{
    int rc = passage_context(options->context, CONTEXT_USUAL, max_position, &passage->context);

    if (rc)
        return rc;
    passage->stride = options->stride ? options->stride : passage->context;
    if (passage->stride > passage->context)
        return fail(EX_USAGE, "--stride: %lld is longer than the context, %lld tokens", (long long)passage->stride,
                    (long long)passage->context);
    windows_cut(&passage->windows, passage->ids.id, (int64_t)passage->ids.count, passage->context, passage->stride);
    return EX_OK;
}

void passage_report(struct json *report, const struct passage *passage)
{
    const struct windows *windows = &passage->windows;
    const struct window *last = &windows->window[windows->count - 1];
    int64_t left = (int64_t)passage->ids.count - last->start - last->n;

    json_put(report, "tokens", json_make_int(windows->scored));
    json_put(report, "windows", json_make_int(windows->count));
    json_put(report, "context", json_make_int(passage->context));
    json_put(report, "stride", json_make_int(passage->stride));
    json_put(report, "left_out", json_make_int(left));
    json_put(report, "hf_rows", json_make_bool(passage->hf_rows));
    report_data(report, passage->path, passage->raw.data, passage->raw.length);
}

void passage_close(struct passage *passage)
{
    text_free(&passage->raw);
    ids_free(&passage->ids);
    windows_free(&passage->windows);
}

/* rolling.c - lm-evaluation-harness's wikitext: the likelihood of whole documents. */
#include "base/file.h"
#include "base/memory.h"
#include "measure/corpus.h"
#include "measure/passage.h"
#include "measure/perplexity.h"
#include "measure/report.h"
#include "model/chat_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct rolling {
    struct subject subject;
    struct text raw;
    struct pages pages;
    struct ids *ids;             /* of each page, behind the prefix token */
    struct windows windows;
    struct sums nll, words, bytes;       /* by page: the same sum by tokens, words, bytes */
    int64_t context;
};

/* What stands before the first token: the tokenizer's BOS, or its EOS. */
static int find_prefix(const struct subject *subject, int32_t *prefix)
{
    char *bos, *eos;
    int rc = special_tokens(&subject->loader, subject->tokenizer, &bos, &eos);

    *prefix = bos ? tokenizer_id(subject->tokenizer, bos) : -1;
    if (*prefix < 0 && eos)
        *prefix = tokenizer_id(subject->tokenizer, eos);
    if (!rc && *prefix < 0)
        rc = fail(EX_DATAERR, "'%s': no BOS or EOS token to begin a document with", loader_name(&subject->loader));
    free(bos);
    free(eos);
    return rc;
}

/* A page that begins with the text of the prefix gets nothing from the tokenizer's template, as lm-eval has it. */
static enum tokenize manner(const struct subject *subject, int32_t prefix, const struct text *text)
{
    const char *token = tokenizer_token(subject->tokenizer, prefix);
    size_t length = token ? strlen(token) : 0;

    return length && text->length >= length && !memcmp(text->data, token, length) ? TOKENIZE_PLAIN : TOKENIZE_TEMPLATE;
}

static int tokenize_pages(struct rolling *rolling, const char *path)
{
    const struct subject *subject = &rolling->subject;
    size_t count = rolling->pages.count;
    int32_t prefix;
    int rc = find_prefix(subject, &prefix);

    rolling->ids = xcalloc(count, sizeof *rolling->ids);
    for (size_t i = 0; i < count && !rc; i++) {
        struct ids *ids = &rolling->ids[i];
        struct text text = {0};

        wikitext_detokenize(rolling->pages.page[i].data, rolling->pages.page[i].length, &text);
        ids_append(ids, prefix);
        tokenizer_encode(subject->tokenizer, text.data, text.length, manner(subject, prefix, &text), ids);
        windows_roll(&rolling->windows, ids->id, (int64_t)ids->count, rolling->context);
        text_free(&text);
    }
    if (!rc && !rolling->windows.count)
        rc = fail(EX_DATAERR, "'%s': no tokens: nothing to predict", file_input_name(path));
    return rc;
}

static int read_pages(struct rolling *rolling, const char *path, int64_t limit)
{
    struct pages *pages = &rolling->pages;
    int rc;

    if ((rc = corpus_read(path, &rolling->raw))
        || (rc = pages_split(rolling->raw.data, rolling->raw.length, file_input_name(path), pages)))
        return rc;
    while (limit >= 0 && pages->count > (size_t)limit)
        text_free(&pages->page[--pages->count]);
    return EX_OK;
}

static int score(struct rolling *rolling)
{
    int64_t count = (int64_t)rolling->pages.count;
    int rc;

    if ((rc = subject_nll(&rolling->subject, &rolling->windows, &rolling->nll)))
        return rc;
    sums_begin(&rolling->words, count);
    sums_begin(&rolling->bytes, count);
    for (int64_t i = 0; i < count; i++) {
        const struct text *page = &rolling->pages.page[i];

        rolling->words.sum[i] = rolling->bytes.sum[i] = rolling->nll.sum[i];
        rolling->words.count[i] = wikitext_words(page->data, page->length);
        rolling->bytes.count[i] = (int64_t)page->length;
    }
    return EX_OK;
}

static struct json *make_report(const struct rolling *rolling, const char *path, const struct stopwatch *stopwatch)
{
    double word = exp(sums_mean(&rolling->words)), error = word * sums_error(&rolling->words);
    double byte = sums_mean(&rolling->bytes);
    struct json *report = report_start("wikitext");
    char *about = error_text(error);

    json_put(report, "word_perplexity", json_make_number(word));
    json_put(report, "word_perplexity_standard_error", json_make_number(error));
    json_put(report, "byte_perplexity", json_make_number(exp(byte)));
    json_put(report, "bits_per_byte", json_make_number(byte / log(2)));
    json_put(report, "perplexity", json_make_number(exp(sums_mean(&rolling->nll))));
    json_put(report, "nll", json_make_number(sums_mean(&rolling->nll)));
    json_put(report, "standard_error", json_make_number(sums_error(&rolling->nll)));
    json_put(report, "tokens", json_make_int(sums_count(&rolling->nll)));
    json_put(report, "words", json_make_int(sums_count(&rolling->words)));
    json_put(report, "bytes", json_make_int(sums_count(&rolling->bytes)));
    json_put(report, "documents", json_make_int((int64_t)rolling->pages.count));
    json_put(report, "windows", json_make_int(rolling->windows.count));
    json_put(report, "context", json_make_int(rolling->context));
    report_data(report, path, rolling->raw.data, rolling->raw.length);
    report_model(report, "model", &rolling->subject.loader);
    report_finish(report, &rolling->subject.loader, stopwatch, rolling->windows.fed);
    note("word perplexity %.4f%s, %.4f bits per byte on %zu documents", word, about, byte / log(2),
         rolling->pages.count);
    free(about);
    return report;
}

static void rolling_close(struct rolling *rolling)
{
    for (size_t i = 0; i < rolling->pages.count && rolling->ids; i++)
        ids_free(&rolling->ids[i]);
    free(rolling->ids);
    pages_free(&rolling->pages);
    text_free(&rolling->raw);
    windows_free(&rolling->windows);
    sums_free(&rolling->nll);
    sums_free(&rolling->words);
    sums_free(&rolling->bytes);
    subject_close(&rolling->subject);
}

int rolling_run(const struct measure *measure, const char *model, const char *text,
                const struct rolling_options *options, struct json **report)
{
    struct stopwatch stopwatch;
    struct rolling rolling = {.subject.hidden.fd = -1};
    int rc = passage_one_stream((const char *const[]){model, text}, 2);

    *report = NULL;
    stopwatch_start(&stopwatch);
    if (!rc && !(rc = read_pages(&rolling, text, options->limit))
        && !(rc = subject_open(&rolling.subject, measure, model))
        && !(rc = passage_context(options->context, rolling.subject.loader.config.max_position,
                                  rolling.subject.loader.config.max_position, &rolling.context))
        && !(rc = tokenize_pages(&rolling, text))
        && !(rc = subject_run(&rolling.subject, &rolling.windows, measure->memory))
        && !(rc = score(&rolling)))
        *report = make_report(&rolling, text, &stopwatch);
    rolling_close(&rolling);
    return rc;
}

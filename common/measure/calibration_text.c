/* calibration_text.c - texts and conversations as windows of tokens. */
#include "measure/calibration_text.h"
#include "base/file.h"
#include "base/number.h"
#include "base/random.h"
#include "measure/corpus.h"
#include "measure/passage.h"
#include "measure/report.h"
#include "model/chat_model.h"
#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>

/* JSON lines on their way into tokens. */
struct documents {
    const struct calibration_text_options *options;
    const struct loader *loader;
    struct tokenizer *tokenizer;
    const char *name, *unit;     /* of the file; "line", "item", NULL: one text */
    struct chat_model chat;      /* opened when the first conversation comes */
    bool chat_opened;
    int64_t enough;              /* tokens; more documents aren't looked at */
    int32_t separator;           /* between documents; -1: none */
    struct ids *ids;
};

static int write_conversation(struct documents *documents, const struct json *messages, const char *where,
                              struct text *text)
{
    char *written = json_write(messages, 0);
    struct conversation conversation;
    int rc = conversation_read(written, strlen(written), where, &conversation);

    free(written);
    if (rc)
        return rc;
    if (!documents->chat_opened) {
        rc = chat_model_open(&documents->chat, documents->loader, documents->tokenizer, documents->options->template);
        documents->chat_opened = !rc;
        documents->chat.chat.date = chat_text_date(&documents->chat.chat, documents->options->date);
    }
    if (!rc)
        rc = chat_write(&documents->chat.chat, conversation.messages, conversation.count, false, text);
    conversation_free(&conversation);
    return rc;
}

static int take_line(void *context, const struct json *line, int64_t number)
{
    struct documents *documents = context;
    struct ids *ids = documents->ids;
    const struct json *plain = json_at(line, "text");
    struct json *messages = json_kind(plain) == JSON_KIND_STRING ? NULL : conversation_of_line(line);
    char *where = xasprintf("%s, %s %lld", documents->name, documents->unit, (long long)number);
    struct text text = {0};
    int rc = EX_OK;

    text_append(&text, "", 0);
    if (json_kind(plain) == JSON_KIND_STRING)
        text_append(&text, json_as_string(plain, ""), json_as_length(plain));
    else if (messages)
        rc = write_conversation(documents, messages, where, &text);
    else
        rc = fail(EX_DATAERR, "%s: expected \"text\", \"messages\", \"conversations\" or \"instruction\"", where);
    if (!rc && ids->count && documents->separator >= 0 && ids->id[ids->count - 1] != documents->separator)
        ids_append(ids, documents->separator);
    if (!rc)
        tokenizer_encode(documents->tokenizer, text.data, text.length, messages ? TOKENIZE_PLAIN : TOKENIZE_TEMPLATE,
                         ids);
    json_drop(messages);
    text_free(&text);
    free(where);
    return rc ? rc : (int64_t)ids->count >= documents->enough ? JSON_ENOUGH : EX_OK;
}

static int tokenize_documents(struct calibration_text *text, const char *name, struct documents *documents)
{
    char *bos, *eos;
    int rc = special_tokens(documents->loader, documents->tokenizer, &bos, &eos);

    documents->separator = eos ? tokenizer_id(documents->tokenizer, eos) : -1;
    free(bos);
    free(eos);
    if (!rc)
        rc = json_text_documents(text->raw.data, text->raw.length, name, take_line, documents);
    text->date = documents->chat_opened ? documents->chat.chat.date : NULL;
    if (documents->chat_opened)
        chat_model_close(&documents->chat);
    return rc;
}

static int tokenize(struct calibration_text *text, const char *path, const struct loader *loader,
                    const struct calibration_text_options *options)
{
    const char *name = file_input_name(path);
    const struct text *raw = &text->raw;
    struct documents documents = {.options = options, .loader = loader, .name = name,
                                  .unit = json_text_unit(raw->data, raw->length), .ids = &text->ids};
    int rc = loader_tokenizer(loader, &documents.tokenizer);

    /* Without a seed, the first ones are all that is needed. */
    documents.enough = options->drawn ? INT64_MAX : options->sequences * text->context;
    if (!rc && documents.unit)
        rc = tokenize_documents(text, name, &documents);
    else if (!rc)
        tokenizer_encode(documents.tokenizer, raw->data, raw->length, TOKENIZE_TEMPLATE, &text->ids);
    tokenizer_close(documents.tokenizer);
    if (!rc && !documents.chat_opened && (options->template || options->date))
        rc = fail(EX_USAGE, "--%s: no conversations in '%s'", options->template ? "template" : "date", name);
    if (!rc && !text->ids.count)
        rc = fail(EX_DATAERR, "'%s': a text without tokens", name);
    return rc;
}

static uint64_t random_below(struct random random, uint64_t number, uint64_t limit)
{
    uint32_t word[4];

    random_block(random, number, word);
    return ((uint64_t)word[0] << 32 | word[1]) % limit;
}

/* The numbers of the windows, in the order in which they are used: the first ones, or drawn without putting back. */
static int64_t *choose(const struct calibration_text_options *options, int64_t there, int64_t count)
{
    struct random random = random_named(options->seed, "calibration windows");
    int64_t *number = xmallocarray((size_t)there, sizeof *number);

    for (int64_t i = 0; i < there; i++)
        number[i] = i;
    for (int64_t i = 0; i < count && options->drawn; i++) {
        int64_t other = i + (int64_t)random_below(random, (uint64_t)i, (uint64_t)(there - i)), kept = number[i];

        number[i] = number[other];
        number[other] = kept;
    }
    return number;
}

static void cut(struct calibration_text *text, const char *path, const struct calibration_text_options *options)
{
    int64_t tokens = (int64_t)text->ids.count, whole = tokens / text->context, there, *number;

    /* A shorter one at the end is better than nothing. */
    there = whole < options->sequences ? divide_up(tokens, text->context) : whole;
    text->count = least(there, options->sequences);
    if (whole < options->sequences)
        note("'%s': %lld tokens, not the %lld of %lld sequences of %lld: all are used", file_input_name(path),
             (long long)tokens, (long long)(options->sequences * text->context), (long long)options->sequences,
             (long long)text->context);
    number = choose(options, there, text->count);
    text->sequence = xcalloc((size_t)text->count, sizeof *text->sequence);
    for (int64_t s = 0; s < text->count; s++) {
        int64_t first = number[s] * text->context;

        text->sequence[s] = (struct sequence){text->ids.id + first, least(text->context, tokens - first), -1};
    }
    free(number);
}

int calibration_text_open(struct calibration_text *text, const char *path, const struct loader *loader,
                          const struct calibration_text_options *options)
{
    int rc;

    *text = (struct calibration_text){0};
    if (!(rc = passage_context(options->context, CONTEXT_USUAL, loader->config.max_position, &text->context))
        && !(rc = corpus_read(path, &text->raw)) && !(rc = tokenize(text, path, loader, options)))
        cut(text, path, options);
    return rc;
}

struct json *calibration_text_history(const struct calibration_text *text, const char *path,
                                      const struct calibration_text_options *options)
{
    struct json *about = json_make_object();

    report_data(about, path, text->raw.data, text->raw.length);
    json_put(about, "context", json_make_int(text->context));
    json_put(about, "sequences", json_make_int(text->count));
    json_put(about, "tokens", json_make_int(sequences_rows(text->sequence, text->count)));
    if (options->drawn)
        json_put(about, "seed", json_make_int((int64_t)options->seed));
    if (options->template)
        json_put(about, "template", json_make_string(options->template));
    if (text->date)
        json_put(about, "date", json_make_string(text->date));
    return about;
}

void calibration_text_close(struct calibration_text *text)
{
    text_free(&text->raw);
    ids_free(&text->ids);
    free(text->sequence);
    *text = (struct calibration_text){0};
}

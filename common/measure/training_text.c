/* training_text.c - documents as tokens, windows as micro-batches. */
#include "measure/training_text.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/number.h"
#include "base/random.h"
#include "measure/corpus.h"
#include "measure/evaluation_files.h"
#include "measure/report.h"
#include "model/chat_model.h"
#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>

/* Files on their way into tokens. */
struct reading {
    struct training_text *text;
    const struct training_text_options *options;
    const struct loader *loader;
    struct tokenizer *tokenizer;
    const char *name, *unit;     /* of the file at hand; what it consists of, "line" or "item" */
    int64_t taken;               /* of these */
    struct chat_model chat;      /* opened when the first conversation comes */
    bool chat_opened;
    bool documents;              /* a file had lines or items */
    int32_t end;                 /* of text; -1: none */
};

/* Tokens from `first` on are a new document, all of which counts, or nothing yet. */
static void mark(struct training_text *text, size_t first, bool counts)
{
    if (text->ids.count > text->capacity) {
        text->capacity = text->ids.count * 2;
        text->counts = xreallocarray(text->counts, text->capacity, 1);
        text->begins = xreallocarray(text->begins, text->capacity, 1);
    }
    if (first == text->ids.count)
        return;
    memset(text->counts + first, counts, text->ids.count - first);
    memset(text->begins + first, 0, text->ids.count - first);
    text->begins[first] = 1;
    text->documents++;
}

/* A text whose end is known ends with that token. */
static void add_plain(struct reading *r, const char *data, size_t length, int32_t end)
{
    struct ids *ids = &r->text->ids;
    size_t first = ids->count;

    tokenizer_encode(r->tokenizer, data, length, TOKENIZE_TEMPLATE, ids);
    if (end >= 0 && ids->count > first && ids->id[ids->count - 1] != end)
        ids_append(ids, end);
    mark(r->text, first, true);
}

/* Tokens that the first `count` messages, and with prompt the header of an answer, have in common with a document. */
static int common_tokens(struct reading *r, const struct conversation *c, int count, bool prompt, size_t first,
                         size_t *common)
{
    const struct ids *ids = &r->text->ids;
    struct text part = {0};
    struct ids begin = {0};
    int rc = EX_OK;

    text_append(&part, "", 0);
    if (count)
        rc = chat_write(&r->chat.chat, c->messages, count, prompt, &part);
    if (!rc)
        tokenizer_encode(r->tokenizer, part.data, part.length, TOKENIZE_PLAIN, &begin);
    *common = 0;
    while (*common < begin.count && first + *common < ids->count && begin.id[*common] == ids->id[first + *common])
        ++*common;
    text_free(&part);
    ids_free(&begin);
    return rc;
}

/* A token counts where the next one is an answer's. */
static int mark_answers(struct reading *r, const struct conversation *c, size_t first)
{
    int rc = EX_OK;

    for (int i = 0; i < c->count && !rc; i++) {
        size_t from, to;

        if (strcmp(c->messages[i].role, "assistant"))
            continue;
        if (!(rc = common_tokens(r, c, i, true, first, &from))
            && !(rc = common_tokens(r, c, i + 1, false, first, &to)))
            for (size_t k = from ? from : 1; k < to; k++)
                r->text->counts[first + k - 1] = 1;
    }
    return rc;
}

static int add_conversation(struct reading *r, const struct json *messages, const char *where)
{
    char *written = json_write(messages, 0);
    size_t first = r->text->ids.count;
    struct conversation c;
    struct text text = {0};
    int rc = conversation_read(written, strlen(written), where, &c);

    free(written);
    if (rc)
        return rc;
    if (!r->chat_opened) {
        rc = chat_model_open(&r->chat, r->loader, r->tokenizer, r->options->template);
        r->chat_opened = !rc;
        r->chat.chat.date = chat_text_date(&r->chat.chat, r->options->date);
    }
    if (!rc && !(rc = chat_write(&r->chat.chat, c.messages, c.count, false, &text))) {
        tokenizer_encode(r->tokenizer, text.data, text.length, TOKENIZE_PLAIN, &r->text->ids);
        mark(r->text, first, r->options->whole);
        rc = r->options->whole ? EX_OK : mark_answers(r, &c, first);
    }
    conversation_free(&c);
    text_free(&text);
    return rc;
}

static int take_line(void *context, const struct json *line, int64_t number)
{
    struct reading *r = context;
    const struct json *plain = json_at(line, "text");
    bool is_plain = json_kind(plain) == JSON_KIND_STRING;
    struct json *messages = is_plain ? NULL : conversation_of_line(line);
    char *where = xasprintf("%s, %s %lld", r->name, r->unit, (long long)number);
    int rc = EX_OK;

    if (r->options->limit && r->taken++ == r->options->limit)
        rc = JSON_ENOUGH;
    else if (is_plain)
        add_plain(r, json_as_string(plain, ""), json_as_length(plain), r->end);
    else if (messages)
        rc = add_conversation(r, messages, where);
    else
        rc = fail(EX_DATAERR, "%s: expected \"text\", \"messages\", \"conversations\" or \"instruction\"", where);
    json_drop(messages);
    free(where);
    return rc;
}

static int take_documents(struct reading *r, const struct text *raw)
{
    if (!(r->unit = json_text_unit(raw->data, raw->length)))
        return add_plain(r, raw->data, raw->length, -1), EX_OK;
    r->documents = true;
    return json_text_documents(raw->data, raw->length, r->name, take_line, r);
}

static int read_file(struct reading *r, const char *path, struct json *list)
{
    struct json *about = json_make_object();
    struct text raw = {0};
    size_t first = r->text->ids.count;
    int rc;

    r->name = file_input_name(path);
    r->taken = 0;
    if (!(rc = corpus_read(path, &raw))
        && (r->options->measured || !(rc = evaluation_refuse(r->name, raw.data, raw.length)))) {
        report_data(about, path, raw.data, raw.length);
        json_append(list, json_keep(json_at(about, "data")));
        rc = take_documents(r, &raw);
        if (!rc && r->text->ids.count == first)
            rc = fail(EX_DATAERR, "'%s': a text without tokens", r->name);
    }
    text_free(&raw);
    json_drop(about);
    return rc;
}

/* The option that has nothing to act on. */
static const char *idle_option(const struct reading *r)
{
    const struct training_text_options *o = r->options;

    if (o->measured)
        return NULL;
    if (!r->chat_opened && (o->template || o->date || o->whole))
        return o->template ? "template" : o->date ? "date" : "all";
    return o->limit && !r->documents ? "limit" : NULL;
}

static int read_files(struct reading *r, const char *const *paths, int count)
{
    struct training_text *text = r->text;
    struct json *list = json_make_array();
    char *bos, *eos;
    int rc = special_tokens(r->loader, r->tokenizer, &bos, &eos);

    r->end = !rc && eos ? tokenizer_id(r->tokenizer, eos) : -1;
    for (int i = 0; i < count && !rc; i++)
        rc = read_file(r, paths[i], list);
    if (!rc && !memchr(text->counts, 1, text->ids.count))
        rc = fail(EX_DATAERR, "'%s': no answer in any conversation: nothing to learn", r->name);
    if (!rc && idle_option(r))
        rc = fail(EX_USAGE, "--%s: no %s in '%s'", idle_option(r), r->documents ? "conversations" : "JSON documents",
                  r->name);
    json_put(text->about, "data", list);
    free(bos);
    free(eos);
    return rc;
}

/* Of what the model is to learn: the tokens, where documents begin, and what counts. */
static uint64_t hash_tokens(const struct training_text *text)
{
    struct hash *hash = hash_new();
    uint64_t value;

    hash_update(hash, text->ids.id, text->ids.count * sizeof *text->ids.id);
    hash_update(hash, text->begins, text->ids.count);
    hash_update(hash, text->counts, text->ids.count);
    value = hash_value(hash);
    hash_free(hash);
    return value;
}

static void describe(const struct reading *r)
{
    const struct training_text_options *options = r->options;
    const struct training_text *text = r->text;
    char hash[HASH_TEXT];

    json_put(text->about, "context", json_make_int(text->context));
    json_put(text->about, "tokens", json_make_int((int64_t)text->ids.count));
    json_put(text->about, "documents", json_make_int(text->documents));
    json_put(text->about, "hash", json_make_string(hash_text(hash_tokens(text), hash)));
    json_put(text->about, "seed", json_make_int((int64_t)options->seed));
    if (r->chat_opened)
        json_put(text->about, "counted", json_make_string(options->whole ? "all" : "answers"));
    if (options->template)
        json_put(text->about, "template", json_make_string(options->template));
    if (options->limit)
        json_put(text->about, "limit", json_make_int(options->limit));
    if (r->chat_opened && r->chat.chat.date)
        json_put(text->about, "date", json_make_string(r->chat.chat.date));
}

int training_text_open(struct training_text *text, const char *const *paths, int count, const struct loader *loader,
                       const struct training_text_options *options)
{
    struct reading r = {.text = text, .options = options, .loader = loader};
    int rc;

    *text = (struct training_text){.context = options->context, .seed = options->seed, .pass = -1,
                                   .about = json_make_object()};
    if (!(rc = loader_tokenizer(loader, &r.tokenizer)) && !(rc = read_files(&r, paths, count)))
        describe(&r);
    text->windows = divide_up((int64_t)text->ids.count, text->context);
    if (r.chat_opened)
        chat_model_close(&r.chat);
    tokenizer_close(r.tokenizer);
    return rc;
}

/* ---- windows ---- */

static void shuffle(struct training_text *text, int64_t pass)
{
    char *name = xasprintf("pass %lld over the windows", (long long)pass);
    struct random random = random_named(text->seed, name);

    free(name);
    if (!text->order)
        text->order = xmallocarray((size_t)text->windows, sizeof *text->order);
    for (int64_t i = 0; i < text->windows; i++)
        text->order[i] = i;
    for (int64_t i = 0; i + 1 < text->windows; i++) {
        uint32_t word[4];
        int64_t other, kept = text->order[i];

        random_block(random, (uint64_t)i, word);
        other = i + (int64_t)(((uint64_t)word[0] << 32 | word[1]) % (uint64_t)(text->windows - i));
        text->order[i] = text->order[other];
        text->order[other] = kept;
    }
    text->pass = pass;
}

int64_t training_text_tokens(const struct training_text *text, int64_t window)
{
    return least(text->context, (int64_t)text->ids.count - window * text->context);
}

/* Appends a window, a sequence for each piece of a document. */
static void add_window(const struct training_text *text, int64_t window, struct micro_batch *batch, int32_t *token,
                       unsigned char *counts, int64_t *length, int64_t *total)
{
    int64_t first = window * text->context, n = training_text_tokens(text, window);

    for (int64_t k = 0; k < n; k++, ++*total) {
        if (k == 0 || text->begins[first + k])
            length[batch->sequences++] = 0;
        length[batch->sequences - 1]++;
        token[*total] = text->ids.id[first + k];
        counts[*total] = text->counts[first + k];
    }
}

int64_t training_text_window(struct training_text *text, int64_t number)
{
    if (number / text->windows != text->pass)
        shuffle(text, number / text->windows);
    return text->order[number % text->windows];
}

struct micro_batch training_text_batch(struct training_text *text, int64_t first, int64_t count)
{
    size_t most_tokens = (size_t)(count * text->context);
    int32_t *token = xmallocarray(most_tokens, sizeof *token);
    unsigned char *counts = xmallocarray(most_tokens, 1);
    int64_t *length = xmallocarray(most_tokens, sizeof *length), total = 0;
    struct micro_batch batch = {.token = token, .length = length, .counts = counts};

    for (int64_t i = first; i < first + count; i++)
        add_window(text, training_text_window(text, i), &batch, token, counts, length, &total);
    return batch;
}

void training_batch_free(struct micro_batch *batch)
{
    free((void *)batch->token);
    free((void *)batch->length);
    free((void *)batch->counts);
    *batch = (struct micro_batch){0};
}

void training_text_close(struct training_text *text)
{
    ids_free(&text->ids);
    free(text->counts);
    free(text->begins);
    free(text->order);
    json_drop(text->about);
    *text = (struct training_text){0};
}

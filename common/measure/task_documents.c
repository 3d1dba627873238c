/* task_documents.c - JSON records to documents. */
#include "measure/task_documents.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "text/case.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 1 << 30, CHOICES = 64, ALIASES = 4096 };

/* A record, and where it stands. */
struct record_place {
    const struct json *json;
    const char *path;
    long long number;            /* line, or with whole the number of the record, from 1 */
    bool whole;
};

static int bad(const struct record_place *place, const char *format, ...) PRINTF_LIKE(2, 3);

static int bad(const struct record_place *place, const char *format, ...)
{
    va_list args;
    int rc;

    va_start(args, format);
    rc = fail_in(EX_DATAERR, xasprintf("'%s', %s %lld", place->path, place->whole ? "record" : "line", place->number),
                 format, args);
    va_end(args);
    return rc;
}

struct document *documents_add(struct documents *documents)
{
    struct document *document;

    if (documents->count == documents->capacity) {
        documents->capacity = documents->capacity ? 2 * documents->capacity : 64;
        documents->item = xreallocarray(documents->item, documents->capacity, sizeof *documents->item);
    }
    document = &documents->item[documents->count++];
    *document = (struct document){0};
    return document;
}

void document_choice(struct document *document, const char *text, size_t length)
{
    document->choice = xreallocarray(document->choice, (size_t)document->choices + 1, sizeof *document->choice);
    document->choice[document->choices++] = xstrndup(text, length);
}

void documents_free(struct documents *documents)
{
    for (size_t i = 0; i < documents->count; i++) {
        struct document *document = &documents->item[i];

        for (int c = 0; c < document->choices; c++)
            free(document->choice[c]);
        free(document->choice);
        free(document->query);
    }
    free(documents->item);
    *documents = (struct documents){0};
}

static int check_text(const struct record_place *place, const char *field, const struct json *value, const char **text)
{
    if (!(*text = json_as_string(value, NULL)))
        return bad(place, "'%s': expected a string, found %s", field, value ? "something else" : "nothing");
    if (strlen(*text) != json_as_length(value))
        return bad(place, "'%s' has a NUL character in it", field);
    if (json_as_length(value) > DOCUMENT_LIMIT)
        return bad(place, "'%s' has %zu bytes, more than %d", field, json_as_length(value), DOCUMENT_LIMIT);
    return EX_OK;
}

static int get_text(const struct record_place *place, const char *field, const char **text)
{
    return check_text(place, field, json_at(place->json, field), text);
}

/* The array's item as a text. */
static int get_item(const struct record_place *place, const char *field, const struct json *array, size_t index,
                    const char **text)
{
    return check_text(place, field, json_item(array, index), text);
}

static int get_array(const struct record_place *place, const struct json *object, const char *field, size_t least,
                     size_t most, const struct json **array)
{
    *array = json_at(object, field);
    if (json_kind(*array) != JSON_KIND_ARRAY)
        return bad(place, "'%s': expected an array, found %s", field, *array ? "something else" : "nothing");
    if (json_count(*array) < least || json_count(*array) > most)
        return bad(place, "'%s': expected %zu to %zu items, found %zu", field, least, most, json_count(*array));
    return EX_OK;
}

/* A number of a choice: an integer, or digits in a string. */
static int get_label(const struct record_place *place, const char *field, int choices, int *label)
{
    const struct json *value = json_at(place->json, field);
    const char *digits = json_as_string(value, "");
    char *end;
    int64_t number = *digits ? strtoll(digits, &end, 10) : json_as_int(value, -1);

    if ((*digits && *end) || number < 0 || number >= choices)
        return bad(place, "'%s': expected the number of one of %d choices", field, choices);
    *label = (int)number;
    return EX_OK;
}

static int get_bool(const struct record_place *place, const char *field, bool *value)
{
    const struct json *found = json_at(place->json, field);
    int64_t number = json_as_int(found, -1);

    if (json_kind(found) != JSON_KIND_BOOL && number != 0 && number != 1)
        return bad(place, "'%s': expected true or false, found %s", field, found ? "something else" : "nothing");
    *value = json_as_bool(found, number == 1);
    return EX_OK;
}

/* What HellaSwag's texts from WikiHow need: " [title]" becomes ". ", other brackets go, two spaces become one, once. */
static void clean(const char *data, size_t length, struct text *out)
{
    struct text open = {0};
    const char *end = NULL;      /* of the line, or the next ']' in it */

    unicode_strip(data, length, &open);
    for (const char *c = open.data; *c; c++)
        if (!strncmp(c, " [title]", 8)) {
            text_append(out, ". ", 2);
            c += 7;
        } else {
            text_append(out, c, 1);
        }
    text_append(out, "", 0);
    open.length = 0;
    text_append(&open, "", 0);
    for (const char *c = out->data ? out->data : ""; *c; c++)
        if (*c == '[' && *(end = end > c ? end : c + strcspn(c, "]\n")) == ']')
            c = end;
        else
            text_append(&open, c, 1);
    out->length = 0;
    for (size_t i = 0; i < open.length; i++) {
        text_append(out, open.data + i, 1);
        i += open.data[i] == ' ' && i + 1 < open.length && open.data[i + 1] == ' ';
    }
    text_append(out, "", 0);
    text_free(&open);
}

static int hellaswag_query(const struct record_place *place, struct document *document)
{
    const char *activity, *first, *second;
    struct text text = {0}, cleaned = {0};
    int rc;

    if ((rc = get_text(place, "activity_label", &activity)) || (rc = get_text(place, "ctx_a", &first))
        || (rc = get_text(place, "ctx_b", &second)))
        return rc;
    text_format(&text, "%s: %s ", activity, first);
    unicode_capitalize(second, strlen(second), &text);
    clean(text.data, text.length, &cleaned);
    document->query = xstrndup(cleaned.data, cleaned.length);
    text_free(&text);
    text_free(&cleaned);
    return EX_OK;
}

/* The official form, or one that has been cleaned. */
static int make_hellaswag(const struct record_place *place, struct document *document)
{
    bool official = json_at(place->json, "ctx_a") || json_at(place->json, "ctx_b");
    const struct json *endings;
    const char *text;
    int rc;

    if ((rc = official ? hellaswag_query(place, document) : get_text(place, "ctx", &text))
        || (rc = get_array(place, place->json, "endings", 2, CHOICES, &endings)))
        return rc;
    if (!official)
        document->query = xstrdup(text);
    for (size_t i = 0; i < json_count(endings); i++) {
        struct text cleaned = {0};

        if ((rc = get_item(place, "endings", endings, i, &text)))
            return rc;
        if (official)
            clean(text, strlen(text), &cleaned);
        document_choice(document, official ? cleaned.data : text, official ? cleaned.length : strlen(text));
        text_free(&cleaned);
    }
    return get_label(place, "label", document->choices, &document->gold);
}

/* lm-evaluation-harness uses SuperGLUE's copy, whose passages begin with the title. */
static int make_boolq(const struct record_place *place, struct document *document)
{
    const char *question, *passage, *title = NULL;
    bool yes = false;
    int rc;

    if ((rc = get_text(place, "question", &question)) || (rc = get_text(place, "passage", &passage))
        || (rc = json_at(place->json, "title") ? get_text(place, "title", &title) : EX_OK)
        || (rc = get_bool(place, json_at(place->json, "label") ? "label" : "answer", &yes)))
        return rc;
    document->query = xasprintf("%s%s%s\nQuestion: %s?\nAnswer:", title ? title : "", title ? " -- " : "", passage,
                                question);
    document_choice(document, "no", 2);
    document_choice(document, "yes", 3);
    document->gold = yes;
    return EX_OK;
}

static int add_aliases(const struct record_place *place, const struct json *object, const char *field,
                       struct document *document)
{
    const struct json *aliases;
    const char *alias;
    int rc = get_array(place, object, field, 1, ALIASES, &aliases);

    for (size_t i = 0; i < json_count(aliases) && !rc; i++)
        if (!(rc = get_item(place, field, aliases, i, &alias)))
            document_choice(document, alias, strlen(alias));
    return rc;
}

/* The official form has white space around questions, which the data set that lm-evaluation-harness loads has not. */
static int make_triviaqa(const struct record_place *place, struct document *document)
{
    bool official = json_at(place->json, "Question"), asked = json_at(place->json, "context");
    const struct json *answer = json_at(place->json, "Answer");
    struct text stripped = {0};
    const char *question;
    int rc = get_text(place, official ? "Question" : asked ? "context" : "question", &question);

    if (rc)
        return rc;
    if (official)
        unicode_strip(question, strlen(question), &stripped);
    document->query = asked ? xstrdup(question) :
                      xasprintf("Question: %s?\nAnswer:", official ? stripped.data : question);
    text_free(&stripped);
    return official ? add_aliases(place, answer, "Aliases", document) :
                      add_aliases(place, place->json, asked ? "aliases" : "answers", document);
}

static int make_gsm8k(const struct record_place *place, struct document *document)
{
    const char *question, *answer;
    int rc;

    if ((rc = get_text(place, "question", &question)) || (rc = get_text(place, "answer", &answer)))
        return rc;
    if (!*answer)
        return bad(place, "'answer' is empty");
    document->query = xasprintf("Question: %s\nAnswer:", question);
    document_choice(document, answer, strlen(answer));
    return EX_OK;
}

static int make_document(enum task_kind kind, const struct record_place *place, struct documents *documents)
{
    static int (*const make[])(const struct record_place *, struct document *) = {
        [TASK_HELLASWAG] = make_hellaswag, [TASK_BOOLQ] = make_boolq, [TASK_TRIVIAQA] = make_triviaqa,
        [TASK_GSM8K] = make_gsm8k,
    };
    struct document *document;
    char *text;

    if (json_kind(place->json) != JSON_KIND_OBJECT)
        return bad(place, "expected a JSON object");
    document = documents_add(documents);
    text = json_write(place->json, 0);
    document->identity = hash_of(text, strlen(text));
    free(text);
    return make[kind](place, document);
}

/* Lines on their way to documents. */
struct lines {
    enum task_kind kind;
    const char *path;
    int64_t limit;
    struct documents *documents;
};

static int take_line(void *context, const struct json *value, int64_t number)
{
    const struct lines *lines = context;
    struct record_place place = {.json = value, .path = lines->path, .number = number};
    int rc = make_document(lines->kind, &place, lines->documents);

    return rc ? rc : lines->documents->count == (size_t)lines->limit ? JSON_ENOUGH : EX_OK;
}

static int read_lines(enum task_kind kind, const char *path, const struct text *text, int64_t limit,
                      struct documents *documents)
{
    struct lines lines = {kind, path, limit, documents};

    return json_text_lines(text->data, text->length, path, take_line, &lines);
}

/* TriviaQA's own files are one object. */
static int read_whole(const char *path, const struct text *text, int64_t limit, struct documents *documents)
{
    struct json *json = json_parse(text->data, text->length, path);
    const struct json *data = json_at(json, "Data");
    int rc = EX_OK;

    if (!json)
        return EX_DATAERR;
    if (json_kind(data) != JSON_KIND_ARRAY)
        rc = fail(EX_DATAERR, "'%s': 'Data': expected an array", path);
    for (size_t i = 0; i < json_count(data) && !rc && (limit < 0 || i < (size_t)limit); i++) {
        struct record_place place = {json_item(data, i), path, (long long)i + 1, true};

        rc = make_document(TASK_TRIVIAQA, &place, documents);
    }
    json_drop(json);
    return rc;
}

/* A file of several lines of which the first is no complete value. */
static bool is_whole(enum task_kind kind, const struct text *text)
{
    size_t first = strcspn(text->data, "\r\n");

    return kind == TASK_TRIVIAQA && (memmem(text->data, first, "\"Data\"", 6) || strspn(text->data, "{ \t") >= first);
}

int documents_read(enum task_kind kind, const char *path, int64_t limit, struct documents *documents, struct text *raw)
{
    struct text text = {0};
    int rc = file_read(path, FILE_LIMIT, &text);

    if (!rc && raw)
        text_append(raw, text.data ? text.data : "", text.length);
    if (!rc && !text.length)
        rc = fail(EX_DATAERR, "'%s' is empty", path);
    if (!rc)
        rc = kind == TASK_MMLU ? documents_csv(path, &text, limit, documents) :
             is_whole(kind, &text) ? read_whole(path, &text, limit, documents) :
             read_lines(kind, path, &text, limit, documents);
    if (!rc && !documents->count)
        rc = fail(EX_DATAERR, "'%s' has no documents", path);
    text_free(&text);
    return rc;
}

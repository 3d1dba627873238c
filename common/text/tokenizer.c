/* tokenizer.c - opening, the order of the parts, and what callers ask. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

void ids_append(struct ids *ids, int32_t id)
{
    if (ids->count == ids->capacity) {
        ids->capacity = ids->capacity ? ids->capacity * 2 : 64;
        ids->id = xreallocarray(ids->id, ids->capacity, sizeof *ids->id);
    }
    ids->id[ids->count++] = id;
}

bool ids_contain(const struct ids *ids, int32_t id)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->id[i] == id)
            return true;
    return false;
}

void ids_free(struct ids *ids)
{
    free(ids->id);
    *ids = (struct ids){0};
}

/* ---- reading parts ---- */

int refuse(const struct tokenizer *t, const char *format, ...)
{
    va_list args;
    int rc;

    va_start(args, format);
    rc = fail_in(EX_DATAERR, xasprintf("tokenizer.json of '%s'", t->where), format, args);
    va_end(args);
    return rc;
}

static bool in_words(const char *word, const char *const *words)
{
    while (*words && strcmp(word, *words))
        words++;
    return *words;
}

int part_check(const struct tokenizer *t, const struct json *part, const char *what, const char *const *known)
{
    if (json_kind(part) != JSON_KIND_OBJECT)
        return refuse(t, "%s: expected an object", what);
    for (void *m = json_first(part); m; m = json_following(part, m))
        if (strcmp(json_key(m), "type") && !in_words(json_key(m), known))
            return refuse(t, "%s: member '%.80s' is not supported", what, json_key(m));
    return EX_OK;
}

int part_bool(const struct tokenizer *t, const struct json *part, const char *what, const char *name, bool otherwise,
              bool *value)
{
    const struct json *member = json_at(part, name);

    *value = json_as_bool(member, otherwise);
    if (json_kind(member) > JSON_KIND_BOOL)
        return refuse(t, "%s: member '%s': expected true or false", what, name);
    return EX_OK;
}

struct walk_parts {
    const char *what, *list;
    int (*take)(struct tokenizer *t, const struct json *part, const char *type);
    int count;
};

static int walk_parts(struct tokenizer *t, const struct json *part, struct walk_parts *walk, int depth)
{
    const char *type = json_as_string(json_at(part, "type"), NULL);
    const struct json *list;
    int rc;

    if (!type)
        return refuse(t, "%s: expected an object with a type", walk->what);
    if (strcmp(type, "Sequence")) {
        if (++walk->count > MAX_STEPS / 4)
            return refuse(t, "%s: more than %d steps", walk->what, MAX_STEPS / 4);
        return walk->take(t, part, type);
    }
    if (depth == MAX_DEPTH)
        return refuse(t, "%s: Sequences nested more than %d deep", walk->what, MAX_DEPTH);
    if ((rc = part_check(t, part, "Sequence", (const char *const[]){walk->list, NULL})))
        return rc;
    list = json_at(part, walk->list);
    if (json_kind(list) != JSON_KIND_ARRAY)
        return refuse(t, "%s: Sequence without a list '%s'", walk->what, walk->list);
    for (size_t i = 0; i < json_count(list); i++)
        if ((rc = walk_parts(t, json_item(list, i), walk, depth + 1)))
            return rc;
    return EX_OK;
}

int part_each(struct tokenizer *t, const struct json *part, const char *what, const char *list,
              int (*take)(struct tokenizer *t, const struct json *part, const char *type))
{
    struct walk_parts walk = {what, list, take, 0};

    return json_kind(part) <= JSON_KIND_NULL ? EX_OK : walk_parts(t, part, &walk, 0);
}

/* ---- opening ---- */

static int check_top(const struct tokenizer *t, const struct json *top)
{
    static const char *const known[] = {"version", "truncation", "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model", NULL};
    const struct json *version = json_at(top, "version");

    if (json_kind(top) != JSON_KIND_OBJECT)
        return refuse(t, "expected an object");
    if (version && strcmp(json_as_string(version, ""), "1.0"))
        return refuse(t, "version: expected '1.0', found '%.40s'", json_as_string(version, "something else"));
    for (void *m = json_first(top); m; m = json_following(top, m))
        if (!in_words(json_key(m), known))
            note("tokenizer.json of '%s': member '%.80s' is not known, and left out", t->where, json_key(m));
    if (json_kind(json_at(top, "truncation")) > JSON_KIND_NULL)
        note("tokenizer.json of '%s': its truncation is left out", t->where);
    if (json_kind(json_at(top, "padding")) > JSON_KIND_NULL)
        note("tokenizer.json of '%s': its padding is left out", t->where);
    return EX_OK;
}

/* In this order: the model's vocabulary first, and normalizers before the added tokens that they act on. */
static int open_parts(struct tokenizer *t, const struct json *top)
{
    int rc;

    if ((rc = check_top(t, top)) || (rc = bpe_open(t, json_at(top, "model"))) ||
        (rc = normalizers_open(t, json_at(top, "normalizer"))) ||
        (rc = added_open(t, json_at(top, "added_tokens"))))
        return rc;
    t->size = t->bpe.vocab.size > t->added_texts.size ? t->bpe.vocab.size : t->added_texts.size;
    if ((rc = splits_open(t, json_at(top, "pre_tokenizer"))) ||
        (rc = post_open(t, json_at(top, "post_processor"))))
        return rc;
    return decoders_open(t, json_at(top, "decoder"));
}

int tokenizer_open(const char *json, size_t length, const char *where, struct tokenizer **tokenizer)
{
    char *what = xasprintf("tokenizer.json of '%s'", where);
    struct json *top = json_parse(json, length, what);
    struct tokenizer *t;
    int rc;

    free(what);
    *tokenizer = NULL;
    if (!top)
        return EX_DATAERR;
    t = xcalloc(1, sizeof *t);
    t->where = xstrdup(where);
    rc = open_parts(t, top);
    json_drop(top);
    if (rc)
        tokenizer_close(t);
    else
        *tokenizer = t;
    return rc;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_free(&t->bpe);
    added_free(t);
    normalizers_free(t);
    splits_free(t);
    decoders_free(t);
    ids_free(&t->before);
    ids_free(&t->behind);
    text_free(&t->repaired);
    text_free(&t->normalized[0]);
    text_free(&t->normalized[1]);
    free(t->where);
    free(t);
}

/* ---- questions ---- */

int32_t tokenizer_size(const struct tokenizer *t)
{
    return t->size;
}

const char *tokenizer_token(const struct tokenizer *t, int32_t id)
{
    const struct added *added = added_of(t, id);

    return added ? added->content : vocab_text(&t->bpe.vocab, id);
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
    int32_t id = vocab_find(&t->added_texts, token, strlen(token));

    return id >= 0 ? id : vocab_find(&t->bpe.vocab, token, strlen(token));
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    const struct added *added = added_of(t, id);

    return added && added->special;
}

/* ---- encoding ---- */

/* A part of the text between added tokens that are found before the normalizers. */
static void encode_section(struct tokenizer *t, const char *text, size_t length, bool first, struct ids *ids)
{
    struct search search = {0};
    struct found found;
    size_t from = 0;

    normalize(t, &text, &length);
    while (added_next(t, &t->normal, text, length, &search, &found)) {
        if (from < found.start)
            split_encode(t, text + from, found.start - from, first && !from, ids);
        ids_append(ids, found.id);
        from = found.end;
    }
    if (from < length)
        split_encode(t, text + from, length - from, first && !from, ids);
}

void tokenizer_encode(struct tokenizer *t, const char *text, size_t length, enum tokenize how, struct ids *ids)
{
    struct search search = {0};
    struct found found;
    size_t from = 0;

    if (!utf8_is_valid(text, length)) {
        t->repaired.length = 0;
        utf8_repair(text, length, &t->repaired);
        text = t->repaired.data;
        length = t->repaired.length;
    }
    for (size_t i = 0; i < t->before.count && how == TOKENIZE_TEMPLATE; i++)
        ids_append(ids, t->before.id[i]);
    while (added_next(t, &t->raw, text, length, &search, &found)) {
        if (from < found.start)
            encode_section(t, text + from, found.start - from, !from, ids);
        ids_append(ids, found.id);
        from = found.end;
    }
    if (from < length)
        encode_section(t, text + from, length - from, !from, ids);
    for (size_t i = 0; i < t->behind.count && how == TOKENIZE_TEMPLATE; i++)
        ids_append(ids, t->behind.id[i]);
}

/* tokenizer_post.c - post-processors: the tokens that go before and behind a text. */
#include "text/tokenizer_internal.h"

#include <string.h>

/* The ids of a step; around the text, an outer post-processor's further out. */
static int add_ids(struct tokenizer *t, const struct json *list, struct ids *ids)
{
    for (size_t i = 0; i < json_count(list); i++) {
        int64_t id = json_as_int(json_item(list, i), -1);

        if (id < 0 || id >= t->size)
            return refuse(t, "post_processor: expected an id from 0 to %d, found %lld", t->size - 1, (long long)id);
        ids_append(ids, (int32_t)id);
    }
    return EX_OK;
}

/* Puts the ids of a processor around those of the ones before it. */
static void wrap(struct tokenizer *t, struct ids *before, const struct ids *behind)
{
    for (size_t i = 0; i < t->before.count; i++)
        ids_append(before, t->before.id[i]);
    ids_free(&t->before);
    t->before = *before;
    for (size_t i = 0; i < behind->count; i++)
        ids_append(&t->behind, behind->id[i]);
}

static int read_template(struct tokenizer *t, const struct json *part, struct ids *before, struct ids *behind)
{
    const struct json *single = json_at(part, "single"), *special = json_at(part, "special_tokens");
    bool text = false;
    int rc;

    for (size_t i = 0; i < json_count(single); i++) {
        const struct json *step = json_item(single, i), *sequence = json_at(step, "Sequence");
        const char *name = json_as_string(json_at(json_at(step, "SpecialToken"), "id"), NULL);
        const struct json *token = name ? json_at(special, name) : NULL;

        if (sequence && !strcmp(json_as_string(json_at(sequence, "id"), ""), "A") && !text)
            text = true;
        else if (sequence)
            return refuse(t, "post_processor 'TemplateProcessing': expected one text, A, in 'single'");
        else if (!token || json_kind(json_at(token, "ids")) != JSON_KIND_ARRAY)
            return refuse(t, "post_processor 'TemplateProcessing': no special token '%.80s'", name ? name : "?");
        else if ((rc = add_ids(t, json_at(token, "ids"), text ? behind : before)))
            return rc;
    }
    return text ? EX_OK : refuse(t, "post_processor 'TemplateProcessing': no text in 'single'");
}

static int take_template(struct tokenizer *t, const struct json *part)
{
    static const char *const known[] = {"single", "pair", "special_tokens", NULL};
    struct ids before = {0}, behind = {0};
    int rc = part_check(t, part, "post_processor 'TemplateProcessing'", known);

    if (!rc)
        rc = read_template(t, part, &before, &behind);
    if (rc)
        ids_free(&before);
    else
        wrap(t, &before, &behind);
    ids_free(&behind);
    return rc;
}

static int take(struct tokenizer *t, const struct json *part, const char *type)
{
    static const char *const offsets[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};

    if (!strcmp(type, "TemplateProcessing"))
        return take_template(t, part);
    /* Moves the offsets of tokens in the text, which nobody asks for here. */
    if (!strcmp(type, "ByteLevel"))
        return part_check(t, part, "post_processor 'ByteLevel'", offsets);
    return refuse(t, "post_processor '%.80s' is not supported", type);
}

int post_open(struct tokenizer *t, const struct json *part)
{
    return part_each(t, part, "post_processor", "processors", take);
}

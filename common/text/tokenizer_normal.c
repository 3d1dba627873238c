/* tokenizer_normal.c - normalizers: Prepend, Replace, NFC, NFD, NFKC, NFKD. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum { GROWTH_MOST = 4096 };

static void keep_content(const struct json *value, struct normalizer *n)
{
    n->length = json_as_length(value);
    n->content = xmalloc(n->length + 1);
    memcpy(n->content, json_as_string(value, ""), n->length);
}

static int take(struct tokenizer *t, const struct json *part, const char *type)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    struct normalizer *n = &t->normalizer[t->n_normalizer];
    char *what = NULL;
    int rc = -1;

    for (int i = 0; i < 4; i++)
        if (!strcmp(type, forms[i])) {
            n->kind = NORMAL_FORM;
            n->form = (enum normal_form)i;
            rc = part_check(t, part, forms[i], (const char *const[]){NULL});
        }
    if (!strcmp(type, "Prepend")) {
        n->kind = NORMAL_PREPEND;
        rc = part_check(t, part, "normalizer 'Prepend'", (const char *const[]){"prepend", NULL});
        if (!rc && json_kind(json_at(part, "prepend")) != JSON_KIND_STRING)
            rc = refuse(t, "normalizer 'Prepend': expected a string 'prepend'");
        keep_content(json_at(part, "prepend"), n);
    } else if (!strcmp(type, "Replace")) {
        n->kind = NORMAL_REPLACE;
        what = "normalizer 'Replace'";
        rc = part_check(t, part, what, (const char *const[]){"pattern", "content", NULL});
        if (!rc && json_kind(json_at(part, "content")) != JSON_KIND_STRING)
            rc = refuse(t, "%s: expected a string 'content'", what);
        keep_content(json_at(part, "content"), n);
        if (!rc)
            rc = pattern_open(t, json_at(part, "pattern"), what, &n->pattern);
    }
    t->n_normalizer++;
    return rc < 0 ? refuse(t, "normalizer '%.80s' is not supported", type) : rc;
}

/* Steps that replace each character by a long text, one behind the other, could fill any memory. */
static int check_growth(struct tokenizer *t)
{
    double growth = 1;

    for (int i = 0; i < t->n_normalizer; i++)
        if (t->normalizer[i].kind == NORMAL_REPLACE)
            growth *= (double)t->normalizer[i].length + 1;
    return growth <= GROWTH_MOST ? EX_OK : refuse(t, "its normalizers can make a text %.3g times as long, expected %d "
                                                  "times at most", growth, GROWTH_MOST);
}

int normalizers_open(struct tokenizer *t, const struct json *part)
{
    int rc = part_each(t, part, "normalizer", "normalizers", take);

    return rc ? rc : check_growth(t);
}

void normalizers_free(struct tokenizer *t)
{
    for (int i = 0; i < t->n_normalizer; i++) {
        pattern_free(&t->normalizer[i].pattern);
        free(t->normalizer[i].content);
    }
}

static void apply(const struct normalizer *n, const char *text, size_t length, struct text *out)
{
    switch (n->kind) {
    case NORMAL_PREPEND:
        if (length)
            text_append(out, n->content, n->length);
        text_append(out, text, length);
        break;
    case NORMAL_REPLACE:
        pattern_replace(&n->pattern, n->content, n->length, text, length, out);
        break;
    case NORMAL_FORM:
        unicode_normalize(n->form, text, length, out);
        break;
    }
}

void normalize(struct tokenizer *t, const char **text, size_t *length)
{
    for (int i = 0; i < t->n_normalizer; i++) {
        struct text *to = &t->normalized[i % 2];

        to->length = 0;
        text_append(to, "", 0);
        apply(&t->normalizer[i], *text, *length, to);
        *text = to->data;
        *length = to->length;
    }
}

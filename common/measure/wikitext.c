/* wikitext.c - WikiText's rows and articles, and its tokenization undone, as its users in Python have them. */
#include "base/json.h"
#include "measure/corpus.h"
#include "text/case.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

/* The part of data[*from..*to) that is left without white space at its ends. */
static void strip(const char *data, size_t *from, size_t *to)
{
    *from += unicode_space_before(data + *from, *to - *from);
    *to -= unicode_space_behind(data + *from, *to - *from);
}

static bool is_blank(const char *data, size_t length)
{
    return unicode_space_before(data, length) == length;
}

void corpus_join_rows(const char *data, size_t length, struct text *joined)
{
    for (size_t at = 0; at < length;) {
        const char *feed = memchr(data + at, '\n', length - at);
        size_t size = (feed ? (size_t)(feed - data) + 1 : length) - at;

        text_append(joined, "\n\n", at ? 2 : 0);
        text_append(joined, data + at, is_blank(data + at, size) ? 0 : size);
        at += size;
    }
}

int64_t wikitext_words(const char *page, size_t length)
{
    int64_t words = 1;

    for (size_t at = 0; at < length;) {
        size_t space = unicode_space_before(page + at, length - at);
        uint32_t c;
        int size = utf8_decode(page + at, length - at, &c);

        words += space > 0;
        at += space ? space : size ? (size_t)size : 1;
    }
    return words;
}

/* str.replace(from, to). */
static void replace(struct text *text, const char *from, const char *to)
{
    struct text out = {0};
    size_t at = 0, size = strlen(from);
    const char *hit;

    text_append(&out, "", 0);
    while (at < text->length && (hit = memmem(text->data + at, text->length - at, from, size))) {
        text_append(&out, text->data + at, (size_t)(hit - text->data) - at);
        text_append(&out, to, strlen(to));
        at = (size_t)(hit - text->data) + size;
    }
    text_append(&out, text->data + at, text->length - at);
    text_free(text);
    *text = out;
}

/* re.sub(OPEN \s* ([^CLOSE]*?) \s* CLOSE, OPEN \1 CLOSE): no white space within brackets or quotes. From each OPEN that
 * isn't within the match before, the match reaches to the next CLOSE. */
static void tighten(struct text *text, char open, char close)
{
    struct text out = {0};
    size_t at = 0;
    const char *first, *last;

    text_append(&out, "", 0);
    while (at < text->length && (first = memchr(text->data + at, open, text->length - at))
           && (last = memchr(first + 1, close, text->length - (size_t)(first + 1 - text->data)))) {
        size_t from = (size_t)(first - text->data) + 1, to = (size_t)(last - text->data);

        text_append(&out, text->data + at, from - at);
        at = to;
        strip(text->data, &from, &to);
        text_append(&out, text->data + from, to - from);
        text_append(&out, &close, 1);
        at++;
    }
    text_append(&out, text->data + at, text->length - at);
    text_free(text);
    *text = out;
}

/* re.sub("/' [0-9]/", "/'[0-9]/"): the task has the slashes of another language in its expression, and the class itself
 * in what it puts there. */
static void replace_slashed(struct text *text)
{
    struct text out = {0};
    size_t at = 0;

    text_append(&out, "", 0);
    while (at < text->length) {
        const char *p = text->data + at;
        bool hit = text->length - at >= 5 && !memcmp(p, "/' ", 3) && p[3] >= '0' && p[3] <= '9' && p[4] == '/';

        text_append(&out, hit ? "/'[0-9]/" : p, hit ? 8 : 1);
        at += hit ? 5 : 1;
    }
    text_free(text);
    *text = out;
}

void wikitext_detokenize(const char *page, size_t length, struct text *text)
{
    static const char *const before[][2] = {
        {" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."},
        {" : ", ": "}, {" ; ", "; "}, {" . ", ". "}, {" ! ", "! "}, {" ? ", "? "}, {" , ", ", "},
    }, *const after[][2] = {
        {"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" \u00b0 ", "\u00b0"}, {" \n", "\n"}, {"\n ", "\n"},
        {" N ", " 1 "}, {" 's", "'s"},
    };
    struct text work = {0};

    text_append(&work, page, length);
    replace(&work, "s '", "s'");
    replace_slashed(&work);
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        replace(&work, before[i][0], before[i][1]);
    tighten(&work, '(', ')');
    tighten(&work, '[', ']');
    tighten(&work, '{', '}');
    tighten(&work, '"', '"');
    tighten(&work, '\'', '\'');
    for (size_t i = 0; i < sizeof after / sizeof *after; i++)
        replace(&work, after[i][0], after[i][1]);
    text_append(text, work.data, work.length);
    text_free(&work);
}

static void add_page(struct pages *pages, const char *data, size_t length)
{
    struct text *page;

    pages->page = xreallocarray(pages->page, pages->count + 1, sizeof *pages->page);
    page = &pages->page[pages->count++];
    *page = (struct text){0};
    text_append(page, data, length);
}

void pages_free(struct pages *pages)
{
    for (size_t i = 0; i < pages->count; i++)
        text_free(&pages->page[i]);
    free(pages->page);
    *pages = (struct pages){0};
}

/* Whether a line is an article's ` = Title = ` and not the ` = = Title = = ` of a section. */
static bool is_title(const char *data, size_t length)
{
    struct text line = {0};
    size_t from = 0, to;
    bool title;

    text_append(&line, data, length);
    replace(&line, "= = =", "===");
    replace(&line, "= =", "==");
    to = line.length;
    strip(line.data, &from, &to);
    title = to - from >= 2 && !memcmp(line.data + from, "= ", 2) && !memcmp(line.data + to - 2, " =", 2);
    text_free(&line);
    return title;
}

/* The line feed before the next article's title belongs to neither page. */
static void split_articles(const char *data, size_t length, struct pages *pages)
{
    size_t first = 0, at = 0;

    for (;;) {
        const char *feed = at < length ? memchr(data + at, '\n', length - at) : NULL;
        size_t end = feed ? (size_t)(feed - data) : length;

        if (is_title(data + at, end - at)) {
            if (at > first && !is_blank(data + first, at - 1 - first))
                add_page(pages, data + first, at - 1 - first);
            first = at;
        }
        if (!feed)
            break;
        at = end + 1;
    }
    add_page(pages, data + first, length - first);
}

static int split_lines(const char *data, size_t length, const char *name, struct pages *pages)
{
    size_t at = 0;

    for (int64_t number = 1; at < length; number++) {
        const char *feed = memchr(data + at, '\n', length - at);
        size_t size = (feed ? (size_t)(feed - data) : length) - at;
        char *what = xasprintf("%s, line %lld", name, (long long)number);
        struct json *line = is_blank(data + at, size) ? json_make_null() : json_parse(data + at, size, what);
        const char *page = json_as_string(json_at(line, "page"), NULL);
        int rc = EX_OK;

        if (page)
            add_page(pages, page, json_as_length(json_at(line, "page")));
        else if (!line)
            rc = EX_DATAERR;
        else if (json_kind(line) != JSON_KIND_NULL)
            rc = fail(EX_DATAERR, "'%s': no string \"page\"", what);
        free(what);
        json_drop(line);
        if (rc)
            return rc;
        at += size + 1;
    }
    return EX_OK;
}

int pages_split(const char *data, size_t length, const char *name, struct pages *pages)
{
    int rc = EX_OK;

    *pages = (struct pages){0};
    if (length && data[0] == '{')
        rc = split_lines(data, length, name, pages);
    else
        split_articles(data, length, pages);
    if (rc)
        pages_free(pages);
    return rc;
}

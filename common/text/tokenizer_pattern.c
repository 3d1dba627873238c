/* tokenizer_pattern.c - what Split and Replace look for: literal text, or expressions in Oniguruma's dialect (Ruby's),
 * which are rewritten for PCRE2.
 *
 * Only what means the same after rewriting is taken; the rest is refused. Where they differ: \s and \w by Unicode's own
 * definitions, \p{Han} a script without its extensions, \v a single character, ^ and $ at every line. */
#include "text/tokenizer_internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* ---- rewriting ---- */

struct rewrite {
    const struct tokenizer *t;
    const char *what, *text;     /* the expression, terminated */
    size_t at;
    bool in_class;
    struct text out;
};

static int refuse_construct(const struct rewrite *r, const char *construct)
{
    return refuse(r->t, "%s: '%s' in the expression '%.400s' is not supported", r->what, construct, r->text);
}

static void put(struct rewrite *r, const char *text)
{
    text_append(&r->out, text, strlen(text));
}

/* \p{...}: general categories (one or two letters), or scripts. */
static int property(struct rewrite *r)
{
    const char *open = r->text + r->at + 2, *name = open + 1, *close = strchr(open, '}');
    size_t length;

    if (*open != '{' || !close)
        return refuse_construct(r, "\\p");
    name += *name == '^';
    length = (size_t)(close - name);
    text_append(&r->out, r->text + r->at, (size_t)(name - r->text) - r->at);
    if (length > 2 && strncmp(name, "Any}", 4))
        put(r, "sc:");
    text_append(&r->out, name, length + 1);
    r->at = (size_t)(close + 1 - r->text);
    return EX_OK;
}

/* \uHHHH and \xHH; a byte above 7F would be part of a character. */
static int hexadecimal(struct rewrite *r)
{
    const char *digits = r->text + r->at + 2;
    size_t count = digits[-1] == 'u' ? 4 : 2;

    if (*digits == '{')
        count = strspn(digits + 1, "0123456789abcdefABCDEF") + 2;
    else if (strspn(digits, "0123456789abcdefABCDEF") < count || (count == 2 && *digits > '7'))
        return refuse_construct(r, "\\x");
    if (*digits == '{' && (count < 3 || digits[count - 1] != '}'))
        return refuse_construct(r, "\\x");
    text_append(&r->out, "\\x{", 3);
    text_append(&r->out, digits + (*digits == '{'), *digits == '{' ? count - 2 : count);
    put(r, "}");
    r->at += 2 + count;
    return EX_OK;
}

/* Outside of brackets Oniguruma goes by an old table for Latin-1, which has the raised digits and fractions too. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define RAISED "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

static int escape(struct rewrite *r)
{
    const char c = r->text[r->at + 1], same[] = {'\\', c, '\0'};

    if (c == 'p' || c == 'P')
        return property(r);
    if (c == 'x' || c == 'u')
        return hexadecimal(r);
    if (c == 's')
        put(r, "\\p{White_Space}");
    else if (c == 'S')
        put(r, "\\P{White_Space}");
    else if (c == 'w')
        put(r, r->in_class ? WORD : "[" WORD RAISED "]");
    else if (c == 'W' && !r->in_class)
        put(r, "[^" WORD RAISED "]");
    else if (c == 'v')
        put(r, "\\x0b");
    else if (c && (strchr("dDnrtfae", c) || ispunct((unsigned char)c) || (!r->in_class && strchr("AzZ", c))))
        put(r, same);
    else
        return refuse_construct(r, same);
    r->at += 2;
    return EX_OK;
}

static int in_class(struct rewrite *r)
{
    const char *here = r->text + r->at;

    if (*here == '[')
        return refuse_construct(r, "[ in []");
    if (!strncmp(here, "&&", 2))
        return refuse_construct(r, "&&");
    r->in_class = *here != ']';
    text_append(&r->out, here, 1);
    r->at++;
    return EX_OK;
}

static int group(struct rewrite *r)
{
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    const char *here = r->text + r->at;

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strncmp(here, kinds[i], strlen(kinds[i]))) {
            put(r, kinds[i]);
            r->at += strlen(kinds[i]);
            return EX_OK;
        }
    if (!r->at && !strncmp(here, "(?i)", 4)) {
        put(r, "(?i)");
        r->at += 4;
        return EX_OK;
    }
    if (here[1] == '?' || here[1] == '*')
        return refuse_construct(r, "(?");
    put(r, "(");
    r->at++;
    return EX_OK;
}

/* {n,m}: in Ruby a + behind it repeats, and {,m} begins at 0. */
static int braces(struct rewrite *r)
{
    const char *here = r->text + r->at, *close = here + 1 + strspn(here + 1, "0123456789,");

    if (here[1] == ',' || (*close == '}' && close[1] == '+'))
        return refuse_construct(r, "{");
    put(r, "{");
    r->at++;
    return EX_OK;
}

static int rewrite_one(struct rewrite *r)
{
    const char *here = r->text + r->at;

    if (*here == '\\')
        return escape(r);
    if (r->in_class)
        return in_class(r);
    if (*here == '(')
        return group(r);
    if (*here == '{')
        return braces(r);
    if (*here == '[') {
        const size_t begin = here[1] == '^' ? 2 : 1;

        if (here[begin] == ']')
            return refuse_construct(r, "[]");
        text_append(&r->out, here, begin);
        r->at += begin;
        r->in_class = true;
        return EX_OK;
    }
    text_append(&r->out, here, 1);
    r->at++;
    return EX_OK;
}

int pattern_expression(const struct tokenizer *t, const char *expression, const char *what, struct pattern *pattern)
{
    struct rewrite r = {.t = t, .what = what, .text = expression};
    int rc = EX_OK;

    put(&r, "(*LF)(?m)");
    while (!rc && r.text[r.at])
        rc = rewrite_one(&r);
    if (!rc) {
        char *where = xasprintf("tokenizer.json of '%s'", t->where);

        rc = regex_compile(r.out.data, r.out.length, where, what, &pattern->regex);
        free(where);
    }
    text_free(&r.out);
    return rc;
}

int pattern_open(const struct tokenizer *t, const struct json *value, const char *what, struct pattern *pattern)
{
    const struct json *literal = json_at(value, "String"), *expression = json_at(value, "Regex");
    const struct json *text = literal ? literal : expression;

    if (json_count(value) != 1 || json_kind(text) != JSON_KIND_STRING || !json_as_length(text))
        return refuse(t, "%s: expected a pattern {\"String\": ...} or {\"Regex\": ...}, not empty", what);
    if (literal) {
        pattern->length = json_as_length(text);
        pattern->literal = xmalloc(pattern->length);
        memcpy(pattern->literal, json_as_string(text, ""), pattern->length);
        return EX_OK;
    }
    if (strlen(json_as_string(text, "")) != json_as_length(text))
        return refuse(t, "%s: the expression has a NUL byte", what);
    return pattern_expression(t, json_as_string(text, ""), what, pattern);
}

void pattern_free(struct pattern *pattern)
{
    regex_free(pattern->regex);
    free(pattern->literal);
}

/* ---- searching ---- */

bool pattern_find(const struct pattern *pattern, const char *text, size_t length, size_t from, size_t *start,
                  size_t *end)
{
    const char *found;

    if (pattern->regex)
        return regex_find(pattern->regex, text, length, from, start, end, 1);
    if (pattern->length == 1)
        found = memchr(text + from, pattern->literal[0], length - from);
    else
        found = memmem(text + from, length - from, pattern->literal, pattern->length);
    if (!found)
        return false;
    *start = (size_t)(found - text);
    *end = *start + pattern->length;
    return true;
}

/* No empty match right behind another match. */
bool pattern_walk(const struct pattern *pattern, const char *text, size_t length, struct walk *walk, size_t *start,
                  size_t *end)
{
    while (walk->at <= length) {
        uint32_t point;

        if (!pattern_find(pattern, text, length, walk->at, start, end))
            return false;
        if (*start != *end || !walk->some || walk->last != *end) {
            walk->at = walk->last = *end;
            walk->some = true;
            return true;
        }
        walk->at += walk->at < length ? (size_t)utf8_decode(text + walk->at, length - walk->at, &point) : 1;
    }
    return false;
}

void pattern_replace(const struct pattern *pattern, const char *content, size_t content_length, const char *text,
                     size_t length, struct text *out)
{
    struct walk walk = {0};
    size_t from = 0, start, end;

    while (pattern_walk(pattern, text, length, &walk, &start, &end)) {
        text_append(out, text + from, start - from);
        text_append(out, content, content_length);
        from = end;
    }
    text_append(out, text + from, length - from);
}

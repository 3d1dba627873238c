/* case.c - letters' cases by utf8proc, white space as Python sees it. */
#include "text/case.h"
#include "text/unicode.h"

#include <utf8proc.h>

enum { SIGMA = 0x3a3, FINAL_SIGMA = 0x3c2, DOTTED_I = 0x130, DOT_ABOVE = 0x307 };

static bool is_letter(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);

    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

/* str.isspace(): White_Space, and the separators of ASCII. */
static bool is_space(uint32_t c)
{
    return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

static void append(uint32_t c, struct text *text)
{
    char bytes[4];

    text_append(text, bytes, (size_t)utf8_encode(c, bytes));
}

/* The next character; a byte that isn't part of UTF-8 counts as U+FFFD. */
static size_t next(const char *data, size_t length, uint32_t *c)
{
    int n = utf8_decode(data, length, c);

    if (!n)
        *c = 0xfffd;
    return n ? (size_t)n : 1;
}

/* A sigma behind a letter and before none is a final one. */
static bool is_final(bool after_letter, const char *data, size_t length)
{
    uint32_t c;

    return after_letter && !(length && (next(data, length, &c), is_letter(c)));
}

static void lower(const char *data, size_t length, bool after_letter, struct text *text)
{
    for (size_t at = 0, n; at < length; at += n) {
        uint32_t c;

        n = next(data + at, length - at, &c);
        if (c == SIGMA && is_final(after_letter, data + at + n, length - at - n))
            append(FINAL_SIGMA, text);
        else
            append(c == DOTTED_I ? 'i' : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c), text);
        if (c == DOTTED_I)
            append(DOT_ABOVE, text);
        after_letter = is_letter(c);
    }
}

void unicode_lower(const char *data, size_t length, struct text *text)
{
    lower(data, length, false, text);
}

void unicode_capitalize(const char *data, size_t length, struct text *text)
{
    uint32_t c;
    size_t n;

    if (!length)
        return;
    n = next(data, length, &c);
    append((uint32_t)utf8proc_totitle((utf8proc_int32_t)c), text);
    lower(data + n, length - n, is_letter(c), text);
}

size_t unicode_space_before(const char *data, size_t length)
{
    size_t at = 0, n;
    uint32_t c;

    for (; at < length; at += n) {
        n = next(data + at, length - at, &c);
        if (!is_space(c))
            break;
    }
    return at;
}

size_t unicode_space_behind(const char *data, size_t length)
{
    size_t end = 0;

    for (size_t at = 0, n; at < length; at += n) {
        uint32_t c;

        n = next(data + at, length - at, &c);
        if (!is_space(c))
            end = at + n;
    }
    return length - end;
}

void unicode_strip(const char *data, size_t length, struct text *text)
{
    size_t before = unicode_space_before(data, length);
    size_t behind = before == length ? 0 : unicode_space_behind(data, length);

    text_append(text, data + before, length - before - behind);
}

size_t unicode_count(const char *data, size_t length)
{
    size_t count = 0;

    for (size_t at = 0; at < length; at++)
        count += (data[at] & 0xc0) != 0x80;
    return count;
}

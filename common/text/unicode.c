/* unicode.c - UTF-8 by the table of well-formed sequences (Unicode, table 3-7), and the wrapper around utf8proc. */
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Bytes of the well-formed sequence at s; otherwise 0, and in *part the bytes (1 to 3) that are no part of any, with
 * *open where they end at the end of the data and more could complete them. */
static int sequence(const unsigned char *s, size_t length, int *part, bool *open)
{
    unsigned char low = 0x80, high = 0xBF;
    int size;

    *part = 1;
    *open = false;
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xC2 || s[0] > 0xF4)
        return 0;
    size = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    if (s[0] == 0xE0)
        low = 0xA0;
    else if (s[0] == 0xED)
        high = 0x9F;
    else if (s[0] == 0xF0)
        low = 0x90;
    else if (s[0] == 0xF4)
        high = 0x8F;
    for (; *part < size; ++*part, low = 0x80, high = 0xBF) {
        if ((size_t)*part == length) {
            *open = true;
            return 0;
        }
        if (s[*part] < low || s[*part] > high)
            return 0;
    }
    return size;
}

int utf8_decode(const char *data, size_t length, uint32_t *code_point)
{
    const unsigned char *s = (const unsigned char *)data;
    int part, size;
    bool open;

    if (!length || !(size = sequence(s, length, &part, &open)))
        return 0;
    *code_point = size == 1 ? s[0] : s[0] & (0x7F >> size);
    for (int i = 1; i < size; i++)
        *code_point = *code_point << 6 | (s[i] & 0x3F);
    return size;
}

int utf8_encode(uint32_t code_point, char bytes[4])
{
    int size = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;

    for (int i = size - 1; i > 0; i--, code_point >>= 6)
        bytes[i] = (char)(0x80 | (code_point & 0x3F));
    bytes[0] = (char)(size == 1 ? code_point : ((0xF00u >> size) & 0xFF) | code_point);
    return size;
}

/* The first byte at or behind from that isn't ASCII. */
static size_t skip_ascii(const char *data, size_t length, size_t from)
{
    uint64_t word;

    for (; from + sizeof word <= length; from += sizeof word) {
        memcpy(&word, data + from, sizeof word);
        if (word & 0x8080808080808080u)
            break;
    }
    while (from < length && !(data[from] & 0x80))
        from++;
    return from;
}

bool utf8_is_valid(const char *data, size_t length)
{
    int part, size;
    bool open;

    for (size_t i = skip_ascii(data, length, 0); i < length; i = skip_ascii(data, length, i + (size_t)size))
        if (!(size = sequence((const unsigned char *)data + i, length - i, &part, &open)))
            return false;
    return true;
}

static size_t repair(const char *data, size_t length, bool whole, struct text *text)
{
    size_t from = 0, i = 0;
    int part, size;
    bool open;

    while ((i = skip_ascii(data, length, i)) < length) {
        if ((size = sequence((const unsigned char *)data + i, length - i, &part, &open))) {
            i += (size_t)size;
            continue;
        }
        text_append(text, data + from, i - from);
        if (open && !whole)
            return i;
        text_append(text, "\xEF\xBF\xBD", 3);
        from = i += (size_t)part;
    }
    text_append(text, data + from, length - from);
    return length;
}

void utf8_repair(const char *data, size_t length, struct text *text)
{
    repair(data, length, true, text);
}

size_t utf8_repair_begun(const char *data, size_t length, struct text *text)
{
    return repair(data, length, false, text);
}

/* ---- normal forms ---- */

/* Text below U+0300 (Latin) is in form C as it stands, ASCII in any form. */
static bool is_normal(enum normal_form form, const char *data, size_t length)
{
    const unsigned char limit = form == FORM_NFC ? 0xCC : 0x80;

    for (size_t i = 0; i < length; i++)
        if ((unsigned char)data[i] >= limit)
            return false;
    return true;
}

struct mark {
    int32_t code_point;
    int class;
    size_t place;
};

static int by_class(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;

    return x->class != y->class ? (x->class < y->class ? -1 : 1) : x->place < y->place ? -1 : x->place > y->place;
}

/* Canonical order: each run of marks sorted by combining class, equal ones as they came. utf8proc_decompose() swaps
 * neighbours, which takes n^2 steps for a long run. */
static void order_marks(int32_t *points, size_t count)
{
    struct mark *marks = NULL;

    for (size_t i = 0, end; i < count; i = end + 1) {
        bool sorted = true;
        int last = 0;

        for (end = i; end < count; end++) {
            int class = utf8proc_get_property(points[end])->combining_class;

            if (!class)
                break;
            sorted = sorted && class >= last;
            last = class;
        }
        if (sorted)
            continue;
        marks = xreallocarray(marks, end - i, sizeof *marks);
        for (size_t k = i; k < end; k++)
            marks[k - i] = (struct mark){points[k], utf8proc_get_property(points[k])->combining_class, k};
        qsort(marks, end - i, sizeof *marks, by_class);
        for (size_t k = i; k < end; k++)
            points[k] = marks[k - i].code_point;
    }
    free(marks);
}

/* Composes in place; the number left. U+11A7, which composes with nothing, is kept out: utf8proc 2.8 takes it for the
 * first of the trailing jamo, which begin behind it, and drops it. */
static size_t compose(int32_t *points, size_t count, utf8proc_option_t options)
{
    enum { BEFORE_TRAILING_JAMO = 0x11A7 };
    size_t made = 0;

    for (size_t i = 0, end; i < count; i = end + 1) {
        size_t size;

        for (end = i; end < count && points[end] != BEFORE_TRAILING_JAMO; end++)
            continue;
        size = (size_t)utf8proc_normalize_utf32(points + i, (utf8proc_ssize_t)(end - i), options);
        memmove(points + made, points + i, size * sizeof *points);
        made += size;
        if (end < count)
            points[made++] = BEFORE_TRAILING_JAMO;
    }
    return made;
}

void unicode_normalize(enum normal_form form, const char *data, size_t length, struct text *text)
{
    const bool composed = form == FORM_NFC || form == FORM_NFKC, compatible = form == FORM_NFKC || form == FORM_NFKD;
    const utf8proc_option_t options = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                      (compatible ? UTF8PROC_COMPAT : 0);
    enum { LONGEST = 32 };       /* code points that one stands for: 18 at most */
    int32_t *points;
    size_t count = 0, capacity;
    uint32_t point;

    if (is_normal(form, data, length)) {
        text_append(text, data, length);
        return;
    }
    capacity = length + LONGEST;
    points = xmallocarray(capacity, sizeof *points);
    for (size_t i = 0; i < length; i += (size_t)utf8_decode(data + i, length - i, &point)) {
        int size, class = 0;

        if (!utf8_decode(data + i, length - i, &point))
            die(EX_SOFTWARE, "normal form of a text that is not UTF-8");
        if (capacity - count < LONGEST)
            points = xreallocarray(points, capacity *= 2, sizeof *points);
        size = (int)utf8proc_decompose_char((int32_t)point, points + count, LONGEST, options, &class);
        if (size < 0 || size > LONGEST)
            die(EX_SOFTWARE, "normal form of U+%04X: %s", (unsigned)point, utf8proc_errmsg(size));
        count += (size_t)size;
    }
    order_marks(points, count);
    if (composed)
        count = compose(points, count, options);
    for (size_t i = 0; i < count; i++) {
        char bytes[4];

        text_append(text, bytes, (size_t)utf8_encode((uint32_t)points[i], bytes));
    }
    free(points);
}

void unicode_nfc(const char *data, size_t length, struct text *text)
{
    unicode_normalize(FORM_NFC, data, length, text);
}

/* ---- classes ---- */

bool unicode_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

bool unicode_is_number(uint32_t c)
{
    utf8proc_category_t category;

    if (c < 0x80)
        return c >= '0' && c <= '9';
    category = utf8proc_category((int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

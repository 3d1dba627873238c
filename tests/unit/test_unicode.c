/* test_unicode.c - UTF-8, repair as Python does it, normal forms, expressions. */
#include "base/error.h"
#include "check.h"
#include "text/regex.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

static void test_every_character(void)
{
    char bytes[4];
    uint32_t point;

    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c < 0xE000)
            continue;
        const int size = utf8_encode(c, bytes);

        assert_int_equal(utf8_decode(bytes, (size_t)size, &point), size);
        assert_int_equal(point, c);
        assert_int_equal(utf8_decode(bytes, (size_t)size - 1, &point), 0);
    }
    assert_int_equal(utf8_decode("\xed\xa0\x80", 3, &point), 0);         /* a surrogate */
    assert_int_equal(utf8_decode("\xc0\x80", 2, &point), 0);             /* too long a form */
    assert_int_equal(utf8_decode("\xf4\x90\x80\x80", 4, &point), 0);     /* above U+10FFFF */
}

static void check_repaired(const char *data, const char *expected)
{
    struct text text = {0};

    utf8_repair(data, strlen(data), &text);
    assert_string_equal(text.data, expected);
    assert_int_equal(utf8_is_valid(data, strlen(data)), !strcmp(data, expected));
    text_free(&text);
}

#define BAD "\xef\xbf\xbd"

static void test_repair(void)
{
    struct text text = {0};

    check_repaired("plain, \xc3\xa9, \xf0\x9f\x98\x80", "plain, \xc3\xa9, \xf0\x9f\x98\x80");
    check_repaired("a\xff\xfe" "b", "a" BAD BAD "b");
    check_repaired("\xe2\x96x", BAD "x");                                /* one for a part that began well */
    check_repaired("\xf0\x9f\x98", BAD);
    check_repaired("\xed\xa0\x80", BAD BAD BAD);
    check_repaired("\xe0\x80\xaf", BAD BAD BAD);
    assert_int_equal(utf8_repair_begun("ab\xe2\x96", 4, &text), 2);
    assert_string_equal(text.data, "ab");
    text_free(&text);
}

static void check_form(enum normal_form form, const char *data, const char *expected)
{
    struct text text = {0};

    unicode_normalize(form, data, strlen(data), &text);
    assert_string_equal(text.data, expected);
    text_free(&text);
}

static void test_forms(void)
{
    struct text text = {0}, marks = {0};

    check_form(FORM_NFC, "e\xcc\x81x", "\xc3\xa9x");
    check_form(FORM_NFD, "\xc3\xa9", "e\xcc\x81");
    check_form(FORM_NFKC, "\xef\xac\x81", "fi");
    check_form(FORM_NFC, "\xef\xac\x81", "\xef\xac\x81");
    check_form(FORM_NFC, "a\xcc\x95\xcc\x80", "\xc3\xa0\xcc\x95");       /* marks in order of class, then composed */
    check_form(FORM_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81");
    check_form(FORM_NFC, "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa7x", "\xea\xb0\x80\xe1\x86\xa7x");    /* U+11A7 stays */
    check_form(FORM_NFKD, "\xef\xb7\xba",
        "\xd8\xb5\xd9\x84\xd9\x89 \xd8\xa7\xd9\x84\xd9\x84\xd9\x87 \xd8\xb9\xd9\x84\xd9\x8a\xd9\x87 "
               "\xd9\x88\xd8\xb3\xd9\x84\xd9\x85");                      /* 18 characters of one */
    /* A long run of marks the wrong way round takes no n^2 steps. */
    for (int i = 0; i < 200000; i++)
        text_append(&marks, i % 2 ? "\xcc\x96" : "\xcc\x80", 2);
    unicode_nfc(marks.data, marks.length, &text);
    assert_int_equal(text.length, marks.length);
    assert_memory_equal(text.data, "\xcc\x96\xcc\x96\xcc\x96", 6);
    text_free(&text);
    text_free(&marks);
}

static void test_regex(void)
{
    struct regex *regex;
    size_t start[3], end[3];
    char message[512];

    assert_int_equal(regex_compile("(\\p{L})(x)?", 11, "here", "it", &regex), EX_OK);
    assert_true(regex_find(regex, "1\xc3\xa9", 3, 0, start, end, 3));
    assert_int_equal(start[0], 1);
    assert_int_equal(end[1], 3);
    assert_true(start[2] == (size_t)-1);
    assert_false(regex_find(regex, "1\xc3\xa9", 3, 3, start, end, 3));
    regex_free(regex);
    error_capture(message, sizeof message);
    assert_int_equal(regex_compile("(", 1, "here", "it", &regex), EX_DATAERR);
    assert_non_null(strstr(message, "here: it: missing closing parenthesis"));
    /* Backtracking without end is given up, once with a message. */
    assert_int_equal(regex_compile("(a+)+$", 6, "here", "it", &regex), EX_OK);
    message[0] = '\0';
    assert_false(regex_find(regex, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 41, 0, start, end, 1));
    assert_non_null(strstr(message, "taken as not matching"));
    error_capture(NULL, 0);
    regex_free(regex);
}

CHECK_MAIN({"every character goes to UTF-8 and back", test_every_character},
           {"ill-formed bytes are repaired as Python does", test_repair},
           {"normal forms", test_forms},
           {"expressions: matches, groups, errors, limits", test_regex})

/* case.h - what Python's str does to a text: lower(), capitalize(), strip(), len(). A byte that isn't part of
 * UTF-8 is a character, no letter and no space. */
#ifndef TEXT_CASE_H
#define TEXT_CASE_H

#include "base/memory.h"

/* Appends the text in lower case; U+0130 and the final sigma come out as Unicode's SpecialCasing has them. */
void unicode_lower(const char *data, size_t length, struct text *text);

/* Appends the text with its first character in title case and all others in lower case. */
void unicode_capitalize(const char *data, size_t length, struct text *text);

/* Bytes of white space (str.isspace()) at the beginning, and at the end: both are length where there is no more. */
size_t unicode_space_before(const char *data, size_t length);
size_t unicode_space_behind(const char *data, size_t length);

/* Appends the text without the white space around it. */
void unicode_strip(const char *data, size_t length, struct text *text);

/* Code points. */
size_t unicode_count(const char *data, size_t length);

#endif

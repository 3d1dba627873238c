/* unicode.h - UTF-8, normal forms, classes of characters. The door to utf8proc. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the well-formed UTF-8 sequence at data (1 to 4) and its code point; 0 where it isn't one. */
int utf8_decode(const char *data, size_t length, uint32_t *code_point);

/* Writes a code point (below 0x110000, no surrogate); the number of bytes. */
int utf8_encode(uint32_t code_point, char bytes[4]);

bool utf8_is_valid(const char *data, size_t length);

/* Appends data with each maximal ill-formed part replaced by U+FFFD, as Python's errors="replace" does. */
void utf8_repair(const char *data, size_t length, struct text *text);

/* The same for data that comes in pieces: an ill-formed part at the end that more bytes could complete is left out. The
 * number of bytes used, all but at most 3. */
size_t utf8_repair_begun(const char *data, size_t length, struct text *text);

enum normal_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };

/* Appends valid UTF-8 in a normal form. O(n log n), also for long runs of combining marks. */
void unicode_normalize(enum normal_form form, const char *data, size_t length, struct text *text);

/* The same in normal form C. */
void unicode_nfc(const char *data, size_t length, struct text *text);

bool unicode_is_space(uint32_t code_point);              /* White_Space */
bool unicode_is_number(uint32_t code_point);             /* categories Nd, Nl, No */

#endif

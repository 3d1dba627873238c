/* regex.h - regular expressions over UTF-8, with Unicode properties, compiled (PCRE2 with JIT). The door to PCRE2. */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

struct regex;

/* Compiles; where and what name the expression in messages. EX_DATAERR after a message. The caller frees. */
int regex_compile(const char *expression, size_t length, const char *where, const char *what, struct regex **regex);
void regex_free(struct regex *regex);                    /* NULL is allowed */

/* A match at or after from in text, which must be UTF-8 (invalid text is our bug: exit 70; looked at where from is 0,
 * so that a scan from match to match stays linear): its ends in start and end. start[0], end[0] are the whole, others
 * the groups, up to count of them; a group that didn't take part has start (size_t)-1. False where there is no match.
 * An expression that needs too much backtracking doesn't match, and says so once. Not thread-safe on one regex. */
bool regex_find(struct regex *regex, const char *text, size_t length, size_t from, size_t *start, size_t *end,
                int count);

#endif

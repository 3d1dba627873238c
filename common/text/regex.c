/* regex.c - the wrapper around PCRE2. */
#include "text/regex.h"
#include "base/error.h"
#include "base/memory.h"
#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { JIT_STACK_FIRST = 64 << 10, JIT_STACK_LAST = 8 << 20, MATCH_LIMIT = 10000000, HEAP_LIMIT_KIB = 256 << 10 };

struct regex {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;      /* NULL: no JIT on this processor */
    char *name;                  /* for messages */
    bool told;                   /* that a match was given up */
};

static void *need(void *made)
{
    if (!made)
        die(EX_OSERR, "no memory left for a regular expression");
    return made;
}

int regex_compile(const char *expression, size_t length, const char *where, const char *what, struct regex **regex)
{
    struct regex *new;
    pcre2_code *code;
    PCRE2_SIZE at;
    int error;
    unsigned char reason[256];

    *regex = NULL;
    if (!utf8_is_valid(expression, length))
        return fail(EX_DATAERR, "%s: %s is not UTF-8", where, what);
    code = pcre2_compile((PCRE2_SPTR)expression, length,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C, &error, &at, NULL);
    if (!code) {
        pcre2_get_error_message(error, reason, sizeof reason);
        return fail(EX_DATAERR, "%s: %s: %s at byte %zu of '%.*s'", where, what, reason, (size_t)at,
                    (int)(length < 400 ? length : 400), expression);
    }
    new = xcalloc(1, sizeof *new);
    new->code = code;
    new->name = xasprintf("%s: %s", where, what);
    new->match = need(pcre2_match_data_create_from_pattern(code, NULL));
    new->context = need(pcre2_match_context_create(NULL));
    pcre2_set_heap_limit(new->context, HEAP_LIMIT_KIB);
    if (!pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) &&
        (new->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_LAST, NULL)))
        pcre2_jit_stack_assign(new->context, NULL, new->stack);
    *regex = new;
    return EX_OK;
}

void regex_free(struct regex *regex)
{
    if (!regex)
        return;
    pcre2_match_data_free(regex->match);
    pcre2_match_context_free(regex->context);
    pcre2_jit_stack_free(regex->stack);
    pcre2_code_free(regex->code);
    free(regex->name);
    free(regex);
}

static int match(struct regex *regex, const char *text, size_t length, size_t from)
{
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    const size_t limit = length < UINT32_MAX / 16 ? MATCH_LIMIT + 8 * length : UINT32_MAX;

    /* To go back over all of the text once isn't too much. */
    pcre2_set_match_limit(regex->context, (uint32_t)limit);
    if (regex->stack)
        found = pcre2_jit_match(regex->code, (PCRE2_SPTR)text, length, from, 0, regex->match, regex->context);
    /* The interpreter's stack is on the heap. */
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(regex->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            regex->match, regex->context);
    return found;
}

bool regex_find(struct regex *regex, const char *text, size_t length, size_t from, size_t *start, size_t *end,
                int count)
{
    const PCRE2_SIZE *ends;
    int found;

    if (!from && !utf8_is_valid(text, length))
        die(EX_SOFTWARE, "%s: a text that is not UTF-8", regex->name);
    found = match(regex, text, length, from);
    if (found < 0) {
        if (found != PCRE2_ERROR_NOMATCH && !regex->told) {
            unsigned char reason[256];

            pcre2_get_error_message(found, reason, sizeof reason);
            warn("%s: taken as not matching: %s", regex->name, reason);
            regex->told = true;
        }
        return false;
    }
    ends = pcre2_get_ovector_pointer(regex->match);
    for (int i = 0; i < count; i++) {
        start[i] = i < found ? ends[2 * i] : (size_t)-1;
        end[i] = i < found ? ends[2 * i + 1] : (size_t)-1;
    }
    return true;
}

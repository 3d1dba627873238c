/* memory.h - checked allocation: sizes can't overflow, and where no memory is left the program ends with 71. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Like malloc, calloc, realloc, strdup, strndup, asprintf; never NULL. The caller frees. */
void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xmallocarray(size_t count, size_t size);
void *xreallocarray(void *old, size_t count, size_t size);
char *xstrdup(const char *text);
char *xstrndup(const char *text, size_t length);
char *xasprintf(const char *format, ...) PRINTF_LIKE(1, 2);

/* count * size bytes at a multiple of 64, for payloads and kernels; free() releases them. More than the machine's
 * memory is refused at once: the kernel would promise it, and kill somebody later. */
void *xaligned(size_t count, size_t size);

/* Ends the program with 71 where bytes, the sum of what a step is about to allocate, exceed the machine's memory. */
void memory_expect(double bytes);

/* The bytes that this process may have: the machine's memory, or less where the limit of its address space (ulimit -v)
 * or of its control group says so. */
double memory_limit(void);

/* a * b and a + b for sizes read from files: false where the result would exceed INT64_MAX or an operand is
 * negative. */
bool size_multiply(int64_t a, int64_t b, int64_t *product);
bool size_add(int64_t a, int64_t b, int64_t *sum);

/* A growing string of bytes. {0} is an empty one; data is always terminated once something was appended. */
struct text {
    char *data;
    size_t length, capacity;
};

void text_append(struct text *text, const void *data, size_t length);
void text_format(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);
void text_free(struct text *text);

#endif

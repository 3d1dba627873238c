/* memory.c - checked allocators and the growing string. */
#include "base/memory.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static void *checked(void *block, size_t count, size_t size)
{
    if (!block)
        die(EX_OSERR, "out of memory: %zu x %zu bytes were asked for", count, size);
    return block;
}

void *xmalloc(size_t size)
{
    return checked(malloc(size ? size : 1), 1, size);
}

void *xcalloc(size_t count, size_t size)
{
    return checked(calloc(count ? count : 1, size ? size : 1), count, size);
}

void *xmallocarray(size_t count, size_t size)
{
    return xreallocarray(NULL, count, size);
}

void *xreallocarray(void *old, size_t count, size_t size)
{
    return checked(reallocarray(old, count ? count : 1, size ? size : 1), count, size);
}

char *xstrdup(const char *text)
{
    return checked(strdup(text), strlen(text) + 1, 1);
}

char *xstrndup(const char *text, size_t length)
{
    return checked(strndup(text, length), length + 1, 1);
}

char *xasprintf(const char *format, ...)
{
    va_list args;
    char *text = NULL;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return checked(text, 1, strlen(format));
}

/* From this size on a block is a mapping of its own and asks for huge pages, which come with fewer faults; a
 * kernel without them ignores it. */
enum { LARGE = 2 << 20 };

/* Left to itself the C library raises that size as blocks are freed, and then large aligned blocks riddle its
 * heap: memory that was freed stays resident. */
__attribute__((constructor)) static void map_large_blocks(void)
{
    mallopt(M_MMAP_THRESHOLD, LARGE);
}

void *xaligned(size_t count, size_t size)
{
    size_t bytes = 0;
    void *block = NULL;

    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - LARGE
        || (bytes >= LARGE && bytes / (size_t)sysconf(_SC_PAGESIZE) >= (size_t)sysconf(_SC_PHYS_PAGES)))
        return checked(NULL, count, size);
    bytes = (bytes + 63) / 64 * 64;
    if (posix_memalign(&block, bytes < LARGE ? 64 : LARGE, bytes ? bytes : 64))
        block = NULL;
    if (block && bytes >= LARGE)
        madvise(block, bytes / LARGE * LARGE, MADV_HUGEPAGE);
    return checked(block, count, size);
}

double memory_limit(void)
{
    double bytes = (double)sysconf(_SC_PAGESIZE) * (double)sysconf(_SC_PHYS_PAGES), group;
    FILE *file = fopen("/sys/fs/cgroup/memory.max", "re");
    struct rlimit limit;

    if (file && fscanf(file, "%lf", &group) == 1 && group < bytes)
        bytes = group;
    if (file)
        fclose(file);
    if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur != RLIM_INFINITY && (double)limit.rlim_cur < bytes)
        bytes = (double)limit.rlim_cur;
    return bytes;
}

void memory_expect(double bytes)
{
    if (bytes > (double)sysconf(_SC_PAGESIZE) * (double)sysconf(_SC_PHYS_PAGES))
        die(EX_OSERR, "out of memory: %.0f MiB would be needed", bytes / 0x1p20);
}

bool size_multiply(int64_t a, int64_t b, int64_t *product)
{
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, product);
}

bool size_add(int64_t a, int64_t b, int64_t *sum)
{
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, sum);
}

static void text_reserve(struct text *text, size_t more)
{
    size_t need = text->length + more + 1;

    if (need <= text->capacity)
        return;
    text->capacity = need > 2 * text->capacity ? need : 2 * text->capacity;
    text->data = xreallocarray(text->data, text->capacity, 1);
}

void text_append(struct text *text, const void *data, size_t length)
{
    text_reserve(text, length);
    if (length)
        memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void text_format(struct text *text, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0)
        die(EX_SOFTWARE, "cannot format '%s'", format);
    text_reserve(text, (size_t)length);
    va_start(args, format);
    vsnprintf(text->data + text->length, (size_t)length + 1, format, args);
    va_end(args);
    text->length += (size_t)length;
}

void text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}

/* error.c - formats messages and sends them to stderr or to a test's buffer. */
#include "base/error.h"
#include "base/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum verbosity error_verbosity = NORMAL;

static const char *program = "lapidary";
static char *captured;
static size_t captured_size;

void error_program(const char *name)
{
    program = name;
}

const char *error_program_name(void)
{
    return program;
}

void error_capture(char *buffer, size_t size)
{
    captured = buffer;
    captured_size = size;
    if (buffer && size)
        buffer[0] = '\0';
}

/* One write per message, so that messages of filters in one pipe don't mix within a line. */
static void say(const char *format, va_list args)
{
    char text[2048];
    int error = errno, used = snprintf(text, sizeof text, "%s: ", program);
    size_t length = strlen(format);

    used += vsnprintf(text + used, sizeof text - (size_t)used, format, args);
    if (used > (int)sizeof text - 1)
        used = (int)sizeof text - 1;
    if (length && format[length - 1] == ':')
        snprintf(text + used, sizeof text - (size_t)used, " %s", strerror(error));
    for (char *c = text; *c; c++)        /* names and paths may hold line feeds and worse: one message is one line */
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    progress_clear();
    if (captured)
        snprintf(captured, captured_size, "%s", text);
    else
        fprintf(stderr, "%s\n", text);
    errno = error;
}

void warn(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
}

int fail(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
    return code;
}

int fail_in(int code, char *where, const char *format, va_list args)
{
    char reason[1024];

    vsnprintf(reason, sizeof reason, format, args);
    fail(code, "%s: %s", where, reason);
    free(where);
    return code;
}

void die(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
    exit(code);
}

void note(const char *format, ...)
{
    va_list args;

    if (error_verbosity < NORMAL)
        return;
    va_start(args, format);
    say(format, args);
    va_end(args);
}

void inform(const char *format, ...)
{
    va_list args;

    if (error_verbosity < VERBOSE)
        return;
    va_start(args, format);
    say(format, args);
    va_end(args);
}

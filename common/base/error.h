/* error.h - the one way to report: `prog: what 'file': reason` on stderr, and a sysexits code.
 *
 * A format that ends in ':' gets " strerror(errno)" appended. Messages are lower case, without a full stop;
 * numbers come as expected and found. Exit codes: 64 usage, 65 bad or truncated data, 66 no input,
 * 69 not available, 70 our bug, 71 system, 73 can't create, 74 I/O.
 *
 * Library functions return EX_OK or the code the program should exit with, after one message by fail() at the place
 * that knows the reason. die() is for main's file, the option parser and the checked allocators only. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>
#include <sysexits.h>

#define PRINTF_LIKE(at, first) __attribute__((format(printf, at, first)))

enum verbosity { QUIET = -1, NORMAL = 0, VERBOSE = 1 };

extern enum verbosity error_verbosity;

/* The program's name as it stands before each message; borrowed, must outlive the process. */
void error_program(const char *name);
const char *error_program_name(void);

/* Prints a message. */
void warn(const char *format, ...) PRINTF_LIKE(1, 2);

/* Prints a message and returns code: `return fail(EX_DATAERR, ...)`. */
int fail(int code, const char *format, ...) PRINTF_LIKE(2, 3);

/* The same in two parts, "WHERE: message", for readers that say where in their input they are; where is freed. */
int fail_in(int code, char *where, const char *format, va_list args);

/* Prints a message and exits with code. */
_Noreturn void die(int code, const char *format, ...) PRINTF_LIKE(2, 3);

/* Prints a message unless --quiet was given: what was done otherwise than asked, and why. */
void note(const char *format, ...) PRINTF_LIKE(1, 2);

/* Prints a message when --verbose was given. */
void inform(const char *format, ...) PRINTF_LIKE(1, 2);

/* Sends messages into buffer (size bytes, always terminated, the latest message only) instead of stderr, for tests
 * that read them; NULL goes back to stderr. */
void error_capture(char *buffer, size_t size);

#endif

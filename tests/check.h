/* check.h - unit tests: cmocka's assertions under a TAP printer.
 *
 *     static void test_something(void) { assert_int_equal(1, 1); CHECK_CLOSE(error, bound, "relative error"); }
 *     CHECK_MAIN({"something holds", test_something}, ...)
 *
 * A failed assertion fails its test, and one failed test fails the program. check_skip("no CUDA device") ends a
 * test as skipped. Each program runs in a scratch directory of its own, removed at the end. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* cmocka's fail() clashes with base/error.h; fail_msg() says more anyway. */
#undef fail
#undef fail_msg
#define fail_msg(message, ...)                                                   \
    do {                                                                         \
        print_error("ERROR: " message "\n", ##__VA_ARGS__);                      \
        _fail(__FILE__, __LINE__);                                               \
    } while (0)

struct check_test {
    const char *name;
    void (*run)(void);
};

/* Runs the tests; the exit status. */
int check_run(const struct check_test *tests, int count);

/* Ends the running test as skipped. */
_Noreturn void check_skip(const char *reason);

/* Fails unless value <= bound; NaN fails. Prints both. */
void check_at_most(double value, double bound, const char *what, const char *file, int line);
#define CHECK_AT_MOST(value, bound, what) check_at_most(value, bound, what, __FILE__, __LINE__)

/* |a - b|_F / |b|_F over n floats, in double. */
double check_relative(const float *a, const float *b, int64_t n);

#define CHECK_MAIN(...)                                                          \
    int main(void)                                                               \
    {                                                                            \
        static const struct check_test tests[] = {__VA_ARGS__};                  \
        return check_run(tests, (int)(sizeof tests / sizeof *tests));            \
    }

#endif

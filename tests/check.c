/* check.c - runs tests one by one through cmocka and prints TAP.
 *
 * An assertion of cmocka jumps back into cmocka's own runner, so each test goes through it as a group of one. What the
 * test and cmocka say meanwhile is held back and shown, without cmocka's ceremony, only where the test failed. */
#include "check.h"

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What runs now; name is NULL between tests. */
static struct {
    const char *name, *skipped;
    int number, held, out, err;          /* file descriptors: what is held back, and the real stdout and stderr */
    jmp_buf skip;
} current;

static char scratch[4096];
static pid_t owner;

/* A sanitizer's last words come without a call of ours behind them: there stderr stays open. */
#ifdef __SANITIZE_ADDRESS__
enum { HOLD_STDERR = 0 };
#else
enum { HOLD_STDERR = 1 };
#endif

static void hold(void)
{
    fflush(NULL);
    if (ftruncate(current.held, 0) || lseek(current.held, 0, SEEK_SET) < 0 ||
        dup2(current.held, STDOUT_FILENO) < 0 || (HOLD_STDERR && dup2(current.held, STDERR_FILENO) < 0))
        abort();
}

static void release(void)
{
    fflush(NULL);
    if (dup2(current.out, STDOUT_FILENO) < 0 || dup2(current.err, STDERR_FILENO) < 0)
        abort();
}

static bool is_ceremony(const char *line)
{
    static const char *const starts[] = {"1..1\n", "ok 1 - ", "not ok 1 - ", "# not ok - "};

    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (!strncmp(line, starts[i], strlen(starts[i])))
            return true;
    return false;
}

/* Shows what was held back as diagnostics, on stderr where prove lets it through. */
static void show(void)
{
    char line[4096];
    FILE *file = fdopen(dup(current.held), "r");

    if (!file)
        return;
    rewind(file);
    while (fgets(line, sizeof line, file))
        if (!is_ceremony(line))
            fprintf(stderr, "%s%s", line[0] == '#' ? "" : "# ", line);
    fclose(file);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

static void leave_scratch(void)
{
    if (getpid() == owner && *scratch && !chdir("/"))
        nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* A test that ends the whole program has failed, whatever exit status it asked for. */
static void died(void)
{
    if (!current.name || getpid() != owner)
        return;
    release();
    printf("not ok %d - %s\nBail out! the test ended the program\n", current.number, current.name);
    fflush(stdout);
    show();
    leave_scratch();
    _exit(EXIT_FAILURE);
}

/* Makes and enters the scratch directory; TOP keeps the name of the directory that the program was started in. */
static void enter_scratch(void)
{
    const char *base = getenv("TMPDIR");
    char *top = getcwd(NULL, 0);

    snprintf(scratch, sizeof scratch, "%s/check.XXXXXX", base && *base ? base : "/tmp");
    if (!top || setenv("TOP", top, 0) || !mkdtemp(scratch) || chdir(scratch)) {
        perror("check: cannot enter a scratch directory");
        exit(EXIT_FAILURE);
    }
    free(top);
}

static void prepare(void)
{
    FILE *held = tmpfile();

    owner = getpid();
    current.out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    current.err = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    current.held = held ? fileno(held) : -1;
    if (current.out < 0 || current.err < 0 || current.held < 0) {
        perror("check: cannot hold output back");
        exit(EXIT_FAILURE);
    }
    enter_scratch();
    atexit(leave_scratch);
    atexit(died);
}

static void run_current(void **state)
{
    const struct check_test *test = *state;

    if (!setjmp(current.skip))
        test->run();
}

static bool run_one(const struct check_test *test, int number)
{
    const struct CMUnitTest group[] = {{test->name, run_current, NULL, NULL, (void *)(uintptr_t)test}};
    bool good;

    current.number = number;
    current.name = test->name;
    current.skipped = NULL;
    hold();
    good = !cmocka_run_group_tests(group, NULL, NULL);
    release();
    current.name = NULL;
    printf("%s %d - %s%s%s\n", good ? "ok" : "not ok", number, test->name, current.skipped ? " # SKIP " : "",
           current.skipped ? current.skipped : "");
    fflush(stdout);
    if (!good)
        show();
    return good;
}

int check_run(const struct check_test *tests, int count)
{
    int failed = 0;

    prepare();
    cmocka_set_message_output(CM_OUTPUT_TAP);          /* says the least, and all of it on stdout */
    printf("1..%d\n", count);
    for (int i = 0; i < count; i++)
        failed += !run_one(&tests[i], i + 1);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

_Noreturn void check_skip(const char *reason)
{
    current.skipped = reason;
    longjmp(current.skip, 1);
}

void check_at_most(double value, double bound, const char *what, const char *file, int line)
{
    char complaint[256];

    snprintf(complaint, sizeof complaint, "%s: %.9g, at most %.9g is allowed", what, value, bound);
    _assert_true(value <= bound, complaint, file, line);          /* false for NaN */
}

double check_relative(const float *a, const float *b, int64_t n)
{
    double difference = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : difference > 0 ? INFINITY : sqrt(difference);
}

/* progress.c - draws the progress line. */
#include "base/progress.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/options.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const char *what;
    int64_t total, done;
    double began, drawn;
    bool active;
} line;

static bool feeds_pipe(void)
{
    struct stat about;

    return !common_options.output && !fstat(STDOUT_FILENO, &about) && S_ISFIFO(about.st_mode);
}

void progress_start(const char *what, int64_t total)
{
    line.what = what;
    line.total = total;
    line.done = 0;
    line.began = clock_seconds();
    line.drawn = 0;
    line.active = error_verbosity >= NORMAL && isatty(STDERR_FILENO) && !feeds_pipe();
}

void progress_step(const char *label)
{
    double now;

    line.done++;
    if (!line.active || (now = clock_seconds()) - line.drawn < 0.1)
        return;
    line.drawn = now;
    if (line.total)
        fprintf(stderr, "\r%s: %s %lld/%lld, %.0f s: %.50s\033[K", error_program_name(), line.what,
                (long long)line.done, (long long)line.total, now - line.began, label);
    else
        fprintf(stderr, "\r%s: %s %lld, %.0f s: %.50s\033[K", error_program_name(), line.what, (long long)line.done,
                now - line.began, label);
    fflush(stderr);
}

void progress_clear(void)
{
    if (line.active && line.drawn > 0)
        fprintf(stderr, "\r\033[K");
    line.drawn = 0;
}

void progress_stop(void)
{
    progress_clear();
    line.active = false;
}

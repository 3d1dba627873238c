/* sensitivity_lines.c - a file of JSON lines that is appended to, and known again after a kill. */
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "measure/sensitivity_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Members that say what was measured. */
static const char *const identity[] = {"unit", "by", "plan", "tokens", "windows", "context", "stride", "hf_rows",
                                       "data", "model", "moments", "activations"};

/* These members as text; the caller frees. */
static char *key_of(const struct json *line)
{
    struct json *key = json_make_array();
    char *text;

    for (size_t i = 0; i < sizeof identity / sizeof *identity; i++) {
        struct json *member = json_at(line, identity[i]);

        json_append(key, member ? json_keep(member) : json_make_null());
    }
    text = json_write(key, 0);
    json_drop(key);
    return text;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int take_line(void *context, const struct json *value, int64_t line)
{
    struct lines *lines = context;

    if (json_kind(value) != JSON_KIND_OBJECT)
        return bad_line(lines->path, line, "not an object");
    if (!(lines->n_key & (lines->n_key - 1)))            /* full: at powers of two */
        lines->key = xreallocarray(lines->key, 2 * lines->n_key + 1, sizeof *lines->key);
    lines->key[lines->n_key++] = key_of(value);
    return EX_OK;
}

/* Cuts off what a killed run left behind the last line feed. */
static int drop_torn(struct lines *lines)
{
    struct text text = {0};
    size_t whole;
    int rc = file_read(lines->path, (size_t)1 << 30, &text);

    for (whole = text.length; whole && text.data[whole - 1] != '\n';)
        whole--;
    if (!rc && whole < text.length) {
        note("'%s': the last line was not finished, dropped", lines->path);
        if (ftruncate(lines->fd, (off_t)whole))
            rc = fail(EX_IOERR, "cannot write '%s':", lines->path);
    }
    text_free(&text);
    return rc;
}

int lines_open(struct lines *lines, const char *path)
{
    struct stat about;
    int rc = EX_OK;

    *lines = (struct lines){.path = file_is_stdin(path) ? NULL : path, .fd = STDOUT_FILENO};
    if (!lines->path)
        return EX_OK;
    lines->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (lines->fd < 0 || fstat(lines->fd, &about))
        return fail(EX_CANTCREAT, "cannot open '%s':", path);
    if (!S_ISREG(about.st_mode))
        return EX_OK;
    if (flock(lines->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        return fail(EX_CANTCREAT, "cannot open '%s': another process is writing it", path);
    if (!(rc = drop_torn(lines)) && !(rc = json_lines(path, take_line, lines)) && lines->n_key)
        qsort(lines->key, lines->n_key, sizeof *lines->key, by_text);
    return rc;
}

bool lines_have(const struct lines *lines, const struct json *line)
{
    char *key = key_of(line);
    bool have = lines->n_key && bsearch(&key, lines->key, lines->n_key, sizeof key, by_text);

    free(key);
    return have;
}

int lines_write(struct lines *lines, const struct json *line)
{
    char *text = json_write(line, 0), *whole = xasprintf("%s\n", text);
    int rc = file_write(lines->fd, lines->path ? lines->path : "standard output", whole, strlen(whole));

    free(whole);
    free(text);
    return rc;
}

int lines_close(struct lines *lines, bool sync)
{
    int rc = EX_OK;

    if (lines->path && lines->fd >= 0) {
        if (sync && fsync(lines->fd) && errno != EINVAL)
            rc = fail(EX_IOERR, "cannot write '%s':", lines->path);
        close(lines->fd);
    }
    for (size_t i = 0; i < lines->n_key; i++)
        free(lines->key[i]);
    free(lines->key);
    *lines = (struct lines){.fd = -1};
    return rc;
}

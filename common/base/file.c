/* file.c - reads and writes that are whole, and outputs that get their name only when they are. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int file_open(const char *path, int *fd, int64_t *size)
{
    struct stat about;

    if ((*fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return fail(EX_NOINPUT, "cannot open '%s':", path);
    if (fstat(*fd, &about) == 0 && S_ISDIR(about.st_mode))
        errno = EISDIR;
    else if (fstat(*fd, &about) == 0) {
        *size = S_ISREG(about.st_mode) ? about.st_size : -1;
        return EX_OK;
    }
    fail(EX_NOINPUT, "cannot open '%s':", path);
    close(*fd);
    *fd = -1;
    return EX_NOINPUT;
}

bool file_is_stdin(const char *path)
{
    return !path || !strcmp(path, "-");
}

bool file_same(const char *a, const char *b)
{
    return file_is_stdin(a) || file_is_stdin(b) ? file_is_stdin(a) && file_is_stdin(b) : !strcmp(a, b);
}

const char *file_input_name(const char *path)
{
    return file_is_stdin(path) ? "standard input" : path;
}

int file_read(const char *path, size_t limit, struct text *text)
{
    const char *name = file_input_name(path);
    int fd = STDIN_FILENO;
    int64_t size = 0;
    char block[65536];
    ssize_t got = 0;
    int rc = file_is_stdin(path) ? EX_OK : file_open(path, &fd, &size);

    if (rc)
        return rc;
    text_append(text, "", 0);
    while ((got = read(fd, block, sizeof block)) > 0 || (got < 0 && errno == EINTR)) {
        if (got > 0)
            text_append(text, block, (size_t)got);
        if (text->length > limit) {
            rc = fail(EX_DATAERR, "'%s': longer than %zu bytes", name, limit);
            break;
        }
    }
    if (got < 0)
        rc = fail(EX_IOERR, "cannot read '%s':", name);
    if (fd != STDIN_FILENO)
        close(fd);
    return rc;
}

int file_read_at(int fd, const char *path, void *data, size_t size, int64_t offset)
{
    unsigned char *to = data;

    while (size) {
        ssize_t got = pread(fd, to, size, offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(EX_IOERR, "cannot read '%s':", path);
        if (got == 0)
            return fail(EX_DATAERR, "'%s': ends at byte %lld, %zu bytes too early", path, (long long)offset, size);
        to += got;
        size -= (size_t)got;
        offset += got;
    }
    return EX_OK;
}

char *file_basename(const char *path)
{
    char *copy = xstrdup(path), *name = xstrdup(basename(copy));

    free(copy);
    return name;
}

char *file_join(const char *directory, const char *name)
{
    return xasprintf("%s/%s", directory, name);
}

char *file_directory(const char *path)
{
    char *copy = xstrdup(path), *name = xstrdup(dirname(copy));

    free(copy);
    return name;
}

/* True where the locked file is still the one at part: another writer may have published it meanwhile. (A file
 * system that knows no locks goes without.) */
static bool still_there(const struct output *output)
{
    struct stat here, there;

    return !fstat(output->fd, &here) && !lstat(output->part, &there) && here.st_ino == there.st_ino
        && here.st_dev == there.st_dev;
}

static int lock_part(struct output *output)
{
    for (;;) {
        output->fd = open(output->part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (output->fd < 0)
            return fail(EX_CANTCREAT, "cannot create '%s':", output->path);
        if (flock(output->fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
            close(output->fd);           /* not ours to remove */
            output->fd = -1;
            return fail(EX_CANTCREAT, "cannot create '%s': another process is writing it", output->path);
        }
        if (still_there(output))
            return EX_OK;
        close(output->fd);
    }
}

static int open_part(struct output *output)
{
    char *directory = file_directory(output->path), *name = file_basename(output->path);
    int rc;

    output->part = xasprintf("%s/.%s.part", directory, name);
    if (!(rc = lock_part(output))) {
        file_fleeting(output->part);
        if (ftruncate(output->fd, 0))
            rc = fail(EX_IOERR, "cannot write '%s':", output->path);
    }
    free(directory);
    free(name);
    return rc;
}

int output_open(struct output *output, const char *path, bool binary)
{
    struct stat about;
    char *target;

    *output = (struct output){.fd = -1};
    if (!path || !strcmp(path, "-")) {
        if (binary && isatty(STDOUT_FILENO))
            return fail(EX_USAGE, "binary data is not written to a terminal: use a pipe or -o FILE");
        output->fd = STDOUT_FILENO;
        return EX_OK;
    }
    if (!*path || path[strlen(path) - 1] == '/')
        return fail(EX_CANTCREAT, "cannot create '%s': not a name for a file", path);
    target = lstat(path, &about) || !S_ISLNK(about.st_mode) ? NULL : realpath(path, NULL);
    output->path = target ? target : xstrdup(path);
    if (stat(path, &about) || S_ISREG(about.st_mode))
        return open_part(output);
    output->fd = open(path, O_WRONLY | O_CLOEXEC);
    return output->fd < 0 ? fail(EX_CANTCREAT, "cannot open '%s':", path) : EX_OK;
}

int output_try(const char *path, bool binary)
{
    struct output output;
    struct stat about;
    int rc;

    if (path && !stat(path, &about) && !S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode))
        return EX_OK;
    rc = output_open(&output, path, binary);
    output_close(&output);
    return rc;
}

static const char *output_name(const struct output *output)
{
    return output->path ? output->path : "standard output";
}

int file_write(int fd, const char *path, const void *data, size_t size)
{
    const char *from = data;

    while (size) {
        ssize_t put = write(fd, from, size);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return fail(EX_IOERR, "cannot write '%s':", path);
        from += put;
        size -= (size_t)put;
    }
    return EX_OK;
}

int output_write(struct output *output, const void *data, size_t size)
{
    return file_write(output->fd, output_name(output), data, size);
}

int directory_sync(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || (fsync(fd) && errno != EINVAL) ? fail(EX_IOERR, "cannot sync '%s':", path) : EX_OK;

    if (fd >= 0)
        close(fd);
    return rc;
}

int output_commit(struct output *output)
{
    char *directory = NULL;
    int rc = EX_OK, fd = output->fd;

    if (output->part && fsync(fd))
        return fail(EX_IOERR, "cannot write '%s':", output->path);
    if (output->part && rename(output->part, output->path))
        return fail(EX_CANTCREAT, "cannot rename '%s' to '%s':", output->part, output->path);
    if (output->part) {
        directory = file_directory(output->path);
        rc = directory_sync(directory);
        free(directory);
        file_lasting(output->part);
        free(output->part);
        output->part = NULL;
    }
    output->fd = -1;
    if (close(fd))
        rc = fail(EX_IOERR, "cannot write '%s':", output_name(output));
    return rc;
}

void output_close(struct output *output)
{
    if (output->fd >= 0 && output->part) {
        unlink(output->part);
        file_lasting(output->part);
    }
    if (output->fd >= 0 && output->path)
        close(output->fd);
    free(output->part);
    free(output->path);
    *output = (struct output){.fd = -1};
}

int directory_empty(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int rc = EX_OK;

    if (!directory)
        return errno == ENOENT ? EX_OK : fail(EX_CANTCREAT, "cannot open '%s':", path);
    while (!rc && (entry = readdir(directory)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && unlinkat(dirfd(directory), entry->d_name, 0))
            rc = fail(EX_CANTCREAT, "cannot remove '%s/%s':", path, entry->d_name);
    closedir(directory);
    return rc;
}

int directory_remove(const char *path)
{
    int rc = directory_empty(path);

    return rc || !rmdir(path) || errno == ENOENT ? rc : fail(EX_CANTCREAT, "cannot remove '%s':", path);
}

/* Written by the program, read by the signal handler: an entry is set before it counts, and signals wait
 * meanwhile. */
static struct {
    char *path[64];
    int count;
} fleeting;

/* directory_remove() with system calls only, as a signal handler must. */
static void sweep(const char *path)
{
    _Alignas(struct dirent64) char buffer[4096];
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    long got;

    while (fd >= 0 && (got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < got;) {
            const struct dirent64 *entry = (const void *)(buffer + at);

            unlinkat(fd, entry->d_name, 0);      /* fails for . and .. */
            at += entry->d_reclen;
        }
    if (fd >= 0)
        close(fd);
    rmdir(path);
}

static void remove_fleeting(int signal)
{
    for (int i = fleeting.count - 1; i >= 0; i--)
        if (unlink(fleeting.path[i]) && errno == EISDIR)
            sweep(fleeting.path[i]);
    raise(signal);                       /* with the default action again, by SA_RESETHAND */
}

static const int deadly[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU};

enum { N_DEADLY = sizeof deadly / sizeof *deadly };

static void hold_signals(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (int i = 0; i < N_DEADLY; i++)
        sigaddset(&set, deadly[i]);
    sigprocmask(how, &set, NULL);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = remove_fleeting, .sa_flags = (int)SA_RESETHAND}, old;

    signal(SIGXFSZ, SIG_IGN);                    /* write() says EFBIG instead, like any other full disk */
    for (int i = 0; i < N_DEADLY; i++)
        if (!sigaction(deadly[i], NULL, &old) && old.sa_handler == SIG_DFL)
            sigaction(deadly[i], &action, NULL);
}

void file_fleeting(const char *path)
{
    if (fleeting.count == 0)
        catch_signals();
    hold_signals(SIG_BLOCK);
    if (fleeting.count < (int)(sizeof fleeting.path / sizeof *fleeting.path))
        fleeting.path[fleeting.count++] = xstrdup(path);
    hold_signals(SIG_UNBLOCK);
}

void file_lasting(const char *path)
{
    hold_signals(SIG_BLOCK);
    for (int i = fleeting.count - 1; i >= 0; i--)
        if (!strcmp(fleeting.path[i], path)) {
            free(fleeting.path[i]);
            fleeting.count--;
            memmove(fleeting.path + i, fleeting.path + i + 1, (size_t)(fleeting.count - i) * sizeof *fleeting.path);
            break;
        }
    hold_signals(SIG_UNBLOCK);
}

/* checkpoint_staging.c - makes, locks, publishes and removes directories under construction. */
#include "files/checkpoint_staging.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A directory of plain files, config.json among them, or an empty one: --force is not to empty somebody's home. */
static bool looks_like_model(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    struct stat about;
    bool config = false, files_only = directory != NULL, empty = true;

    while (directory && files_only && (entry = readdir(directory))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        empty = false;
        config = config || !strcmp(entry->d_name, "config.json");
        files_only = !fstatat(dirfd(directory), entry->d_name, &about, AT_SYMLINK_NOFOLLOW) && !S_ISDIR(about.st_mode);
    }
    if (directory)
        closedir(directory);
    return files_only && (config || empty);
}

static int check_place(const struct staging *staging)
{
    struct stat about;

    if (lstat(staging->path, &about))
        return errno == ENOENT ? EX_OK : fail(EX_CANTCREAT, "cannot create '%s':", staging->path);
    if (!staging->replace)
        return fail(EX_CANTCREAT, "cannot create '%s': it exists (--force replaces it)", staging->path);
    if (!S_ISDIR(about.st_mode) || !looks_like_model(staging->path))
        return fail(EX_CANTCREAT, "cannot replace '%s': it is not a model directory", staging->path);
    return EX_OK;
}

/* True where the locked directory is still the one at part: another writer may have published it meanwhile. */
static bool still_there(const struct staging *staging)
{
    struct stat here, there;

    return !fstat(staging->lock, &here) && !lstat(staging->part, &there) && here.st_ino == there.st_ino
        && here.st_dev == there.st_dev;
}

static int lock_part(struct staging *staging)
{
    for (;;) {
        if (mkdir(staging->part, 0777) && errno != EEXIST)
            return fail(EX_CANTCREAT, "cannot create '%s':", staging->path);
        staging->lock = open(staging->part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (staging->lock < 0 && errno == ENOENT)
            continue;
        if (staging->lock < 0)
            return fail(EX_CANTCREAT, "cannot create '%s':", staging->path);
        if (flock(staging->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
            return fail(EX_CANTCREAT, "cannot create '%s': another process is writing it", staging->path);
        if (still_there(staging))
            return EX_OK;
        close(staging->lock);
    }
}

int staging_open(struct staging *staging, const char *path, bool replace)
{
    char *parent = file_directory(path), *name = file_basename(path);
    int rc = EX_OK;

    *staging = (struct staging){.lock = -1, .replace = replace, .path = xstrdup(path)};
    for (size_t end = strlen(path); end > 1 && path[end - 1] == '/'; end--)
        staging->path[end - 1] = '\0';
    if (!name[0] || !strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "/"))
        rc = fail(EX_CANTCREAT, "cannot create '%s': not a name for a directory", path);
    if (!rc)
        rc = check_place(staging);
    if (!rc) {
        staging->part = xasprintf("%s/.%s.part", parent, name);
        if ((rc = lock_part(staging))) {
            free(staging->part);         /* not ours to remove */
            staging->part = NULL;
        } else {
            file_fleeting(staging->part);
            rc = directory_empty(staging->part);         /* what a killed program left */
        }
    }
    free(parent);
    free(name);
    return rc;
}

/* Where the two names can't be exchanged in one step (some network file systems). */
static int replace_in_steps(struct staging *staging, const char *aside)
{
    if (rename(staging->path, aside))
        return fail(EX_CANTCREAT, "cannot rename '%s':", staging->path);
    if (rename(staging->part, staging->path)) {
        int rc = fail(EX_CANTCREAT, "cannot rename '%s' to '%s':", staging->part, staging->path);

        if (rename(aside, staging->path))
            warn("cannot rename '%s' back to '%s':", aside, staging->path);
        return rc;
    }
    return directory_remove(aside);
}

static int publish(struct staging *staging)
{
    struct stat about;
    char *aside;
    int rc;

    if (lstat(staging->path, &about) && errno == ENOENT) {
        if (renameat2(AT_FDCWD, staging->part, AT_FDCWD, staging->path, RENAME_NOREPLACE) == 0
            || ((errno == EINVAL || errno == ENOSYS) && rename(staging->part, staging->path) == 0))
            return EX_OK;
        return fail(EX_CANTCREAT, "cannot rename '%s' to '%s':", staging->part, staging->path);
    }
    if ((rc = check_place(staging)))             /* it came, or changed, while we were writing */
        return rc;
    if (renameat2(AT_FDCWD, staging->part, AT_FDCWD, staging->path, RENAME_EXCHANGE) == 0)
        return directory_remove(staging->part);
    aside = xasprintf("%s.old", staging->part);
    rc = replace_in_steps(staging, aside);
    free(aside);
    return rc;
}

int staging_commit(struct staging *staging)
{
    char *parent = file_directory(staging->path);
    int rc = directory_sync(staging->part);

    if (!rc)
        rc = publish(staging);
    if (!rc) {
        file_lasting(staging->part);
        free(staging->part);
        staging->part = NULL;
        rc = directory_sync(parent);
    }
    free(parent);
    return rc;
}

void staging_close(struct staging *staging)
{
    if (staging->part) {
        directory_remove(staging->part);
        file_lasting(staging->part);
    }
    if (staging->path && staging->lock >= 0)
        close(staging->lock);
    free(staging->part);
    free(staging->path);
    *staging = (struct staging){.lock = -1};
}

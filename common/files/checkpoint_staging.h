/* checkpoint_staging.h - a directory that appears whole or not at all: it is made beside its place as `.NAME.part`,
 * locked against a second writer, and gets its name last. */
#ifndef FILES_CHECKPOINT_STAGING_H
#define FILES_CHECKPOINT_STAGING_H

#include <stdbool.h>

struct staging {
    char *path;                  /* the place */
    char *part;                  /* where files are written until staging_commit(); NULL before and after */
    int lock;                    /* an open file of part; -1: none */
    bool replace;                /* something may stand at the place */
};

/* Makes the directory, or takes over one that a killed program left. What stands at path is refused, and with replace
 * too unless it is empty or a model's directory: files only, config.json among them. EX_CANTCREAT after a message. */
int staging_open(struct staging *staging, const char *path, bool replace);

/* Syncs the directory (its files are already) and gives it its name; what stood there is removed afterwards. With
 * renameat2() the exchange is one step. EX_CANTCREAT, EX_IOERR; then the old one stands where it did. */
int staging_commit(struct staging *staging);

/* Removes what was not committed, and releases. */
void staging_close(struct staging *staging);

#endif

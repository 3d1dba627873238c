/* checkpoint.h - writes a model directory from records in stream order: safetensors, in shards, with the companion
 * files.
 *
 * Records that are all plain tensors give a directory as Hugging Face's programs write it, with the bytes of the
 * original config.json; anything else gives one of Lapidary's own (see files/directory.h and stream/FORMAT). The
 * directory appears whole or not at all. */
#ifndef FILES_CHECKPOINT_H
#define FILES_CHECKPOINT_H

#include "base/file.h"
#include "files/checkpoint_staging.h"
#include "files/directory.h"
#include "files/safetensors.h"
#include "stream/record.h"

struct checkpoint_options {
    const struct json *config;   /* the model's configuration; NULL where a config.json will come; borrowed */
    const struct json *history;  /* array; borrowed */
    int64_t shard_limit;         /* bytes of data per shard */
    bool replace;                /* a model that stands there may be replaced */
};

struct checkpoint {
    struct staging staging;
    struct checkpoint_options options;
    struct safetensors_writer shard;
    int64_t n_shard;             /* begun so far */
    struct json *maps;           /* records of the current shard that are not plain */
    struct json *where;          /* {name of a stored tensor: its shard's number} */
    bool own;                    /* some record was not plain */

    struct record *record;       /* being written; borrowed */
    struct plane plane[GROUP_PLANES];    /* of it, */
    int n_plane, next_plane;     /* how many, and the one to begin next */
    int64_t at;                  /* payload taken */
    struct output file;          /* of a companion being written; closed for config.json, which is kept in */
    struct text config_text;

    int64_t n_tensor, parameters;        /* weights and cores, and their elements; a code counts as one */
    int64_t data, bytes;         /* of tensors; of the files that hold them, known after checkpoint_commit() */
};

/* What checkpoint_close() may be called on before checkpoint_open(). */
#define CHECKPOINT_CLOSED ((struct checkpoint){.shard.fd = -1, .file.fd = -1, .staging.lock = -1})

/* Starts a directory at path. EX_CANTCREAT. */
int checkpoint_open(struct checkpoint *checkpoint, const char *path, const struct checkpoint_options *options);

/* A record (borrowed until checkpoint_finish()), then its payload in any number of pieces, then its end. EX_IOERR,
 * EX_CANTCREAT, EX_DATAERR. */
int checkpoint_begin(struct checkpoint *checkpoint, struct record *record);
int checkpoint_add(struct checkpoint *checkpoint, const void *data, size_t size);
int checkpoint_finish(struct checkpoint *checkpoint);

/* Writes config.json and index, syncs, gives the directory its name. EX_IOERR, EX_CANTCREAT, EX_DATAERR (no
 * configuration, or a config.json that says something else). */
int checkpoint_commit(struct checkpoint *checkpoint);

/* Releases; a directory that was not committed is removed. */
void checkpoint_close(struct checkpoint *checkpoint);

#endif

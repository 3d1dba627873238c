/* snapshot.h - the state of a training on disk, so that it goes on to the same bytes: what is trained, AdamW's moments,
 * steps done, and where the data is. Random numbers are counted, so seed and position are their state.
 *
 * A file: "LAPSNAP1", the length of a JSON text (8 bytes), the text {"about", "position", "device", "floats", "step",
 * "updates", "skipped"}; f32, all numbers of all that is trained in the device's order, then (but of what is done)
 * their two moments; XXH3 of all that. Little-endian. */
#ifndef TRAIN_SNAPSHOT_H
#define TRAIN_SNAPSHOT_H

#include "base/json.h"
#include "train/trainer.h"

/* Both between two steps, by all ranks; rank 0 writes and reads the file, which is the same for any number of ranks:
 * one that some have written others go on from.
 *
 * Writes it aside, syncs, renames. about says what is trained, on what and how; position is the caller's.
 * EX_CANTCREAT, EX_IOERR after a message: then path is as it was, and other ranks have EX_OK. */
int snapshot_write(const char *path, const struct trainer *trainer, const struct json *about,
                   const struct json *position);

/* The same of a training that is done: without moments. */
int snapshot_write_done(const char *path, const struct trainer *trainer, const struct json *about,
                        const struct json *position);

/* Brings the trainer to what was written; *position is the caller's. EX_USAGE after a message where about is another,
 * EX_DATAERR where the file is damaged, EX_NOINPUT, EX_IOERR, on all ranks: then the trainer is as it was. */
int snapshot_read(const char *path, struct trainer *trainer, const struct json *about, struct json **position);
int snapshot_read_done(const char *path, struct trainer *trainer, const struct json *about, struct json **position);

/* Whether a file of either kind is of this training, without a look at its numbers. EX_USAGE after a message where not;
 * a damaged one passes. */
int snapshot_belongs(const char *path, const struct device *device, const struct json *about);

#endif

/* safetensors.h - single safetensors files: the header read with suspicion, and a writer that learns of its tensors one
 * after the other.
 *
 *     8 bytes        length N of the header, little-endian
 *     N bytes        JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {text: text}}
 *     the rest       the tensors, without gaps; offsets count from here */
#ifndef FILES_SAFETENSORS_H
#define FILES_SAFETENSORS_H

#include "base/json.h"
#include "base/memory.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SAFETENSORS_HEADER = 100000000 };         /* the most bytes of a header, as the reference reader has it */

struct safetensors_entry {
    char *name;                  /* owned */
    char stored[16];             /* the dtype as the file names it */
    bool known;                  /* dtype is set: it is one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL */
    struct dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK];
    int64_t at, bytes;           /* in the file */
};

struct safetensors {
    struct safetensors_entry *entry;             /* in the order of the data */
    size_t n_entry;
    struct json *metadata;       /* object of texts, or NULL */
    int64_t header;              /* bytes before the data */
};

/* Reads the header of a file of size bytes; path is for messages. Refused with EX_DATAERR: a file shorter or longer
 * than its header says, a header that isn't such an object, sizes that don't match shape and dtype, tensors that
 * overlap, leave holes or have the same name. *file is the caller's, empty after an error. */
int safetensors_read(struct safetensors *file, int fd, const char *path, int64_t size);

/* Releases what it owns and zeroes. */
void safetensors_free(struct safetensors *file);

/* The name of a plain dtype in safetensors files: "BF16". */
const char *safetensors_dtype_name(struct dtype dtype);

/* Tensors whose name begins so are fillers that a writer needed; they mean nothing. */
#define SAFETENSORS_FILLER "_filler."

/* Writes a file at path, under that name from the start: its directory is one that isn't published yet. The data is
 * written first; the header is put in front of it at the end, padded to a multiple of 4096 bytes, so that file systems
 * that can move extents (ext4, xfs) or share them (btrfs, xfs) copy nothing. */
struct safetensors_writer {
    int fd;                      /* -1: closed */
    char *path;
    struct text entries;         /* the header's members so far */
    int64_t bytes;               /* of data so far */
    int64_t left;                /* of the current tensor */
    int64_t fillers;             /* so far, over all files of a checkpoint: they need names of their own */
};

/* EX_CANTCREAT. fillers in *writer is kept, everything else is set. */
int safetensors_create(struct safetensors_writer *writer, const char *path);

/* Begins a tensor of a plain dtype; then its bytes in any number of pieces. EX_IOERR. Where the data so far isn't a
 * multiple of the element size, a filler comes first: readers that map the file need their tensors aligned. */
int safetensors_begin(struct safetensors_writer *writer, const char *name, struct dtype dtype, int rank,
                      const int64_t *shape);
int safetensors_add(struct safetensors_writer *writer, const void *data, size_t size);

/* Writes the header with metadata (an object of texts), syncs, closes. EX_IOERR, EX_CANTCREAT. */
int safetensors_finish(struct safetensors_writer *writer, const struct json *metadata);

/* Closes what was not finished; the file stays for its directory's owner to remove. */
void safetensors_close(struct safetensors_writer *writer);

#endif

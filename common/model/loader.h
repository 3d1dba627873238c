/* loader.h - reads a model in stream order and puts its weights onto a device, part by part: companion files,
 * embedding, blocks ascending, final norm and head. A model that comes through a pipe is read once, and nothing but the
 * part at hand is in memory. */
#ifndef MODEL_LOADER_H
#define MODEL_LOADER_H

#include "compute/device.h"
#include "files/source.h"
#include "model/block.h"
#include "model/config.h"
#include "model/config_inventory.h"
#include "text/tokenizer.h"

struct companion {
    char *name;                  /* "tokenizer.json" */
    char *data;                  /* terminated */
    size_t length;
};

/* What was read so far; complete behind loader_head(). Bytes of a model on disk are those it takes in its files, bytes
 * of a stream those of its payloads. */
struct loader_sizes {
    int64_t parameters, linear_parameters;       /* of the original matrices; a tied head counts once */
    int64_t stored_parameters;                   /* numbers in the cores */
    int64_t linear_bytes, weight_bytes;
    int64_t file_bytes;          /* of the files that hold the weights; of a stream weight_bytes */
};

/* Where the tensors of a block go: their names behind "model.layers.N.", and members of struct block. */
extern const struct block_place {
    const char *name;
    size_t offset;
    bool matrix;                 /* struct applied *; otherwise float *, a vector */
} block_places[];

enum { BLOCK_PLACES = 18 };

struct loader {
    struct source source;
    struct config config;
    const struct device *device;
    enum activations activations;
    struct inventory inventory;
    struct companion *companion;
    size_t n_companion;
    struct record next;          /* read, and not yet taken */
    struct loader_sizes sizes;

    /* Set by who trains, behind loader_open(): which classes (bits of enum train) of this matrix are trained. NULL:
     * nothing is. */
    unsigned (*train)(void *context, const char *name);
    void *train_context;
    /* Likewise, by who tells models apart: the weights that are read go into it, their names too. NULL: they don't. */
    struct hash *hash;
};

/* Opens a model (NULL or "-": a stream on standard input) and reads its companion files; the configuration is checked,
 * and what the forward pass can't do is refused by the field's name. EX_NOINPUT, EX_DATAERR, EX_IOERR after a message:
 * then nothing is left to close. */
int loader_open(struct loader *loader, const char *path, const struct device *device, enum activations activations);

/* A companion file by name; NULL where the model has none. Borrowed. */
const struct companion *loader_companion(const struct loader *loader, const char *name);

/* The model's tokenizer, the caller's to close. EX_DATAERR after a message: none there, or not a good one, or one with
 * more ids than the model's vocabulary. */
int loader_tokenizer(const struct loader *loader, struct tokenizer **tokenizer);

/* The parts, each once and in this order; blocks 0..n_layer-1. They are the caller's. EX_DATAERR where a tensor is
 * missing or has another shape than the configuration says, EX_IOERR. */
int loader_embedding(struct loader *loader, struct applied **embedding);
int loader_block(struct loader *loader, int64_t layer, struct block *block);

/* Reads over what comes before a block, for who needs that block alone. EX_DATAERR, EX_IOERR. */
int loader_seek(struct loader *loader, int64_t layer);

/* Reads over the rest, so that a stream is verified to its end, for who needs no head. */
int loader_finish(struct loader *loader);

/* Reads to the end: everything is verified and complete then. The head of a tied model borrows the embedding; a head
 * that is stored nevertheless is not used. */
int loader_head(struct loader *loader, const struct applied *embedding, struct head *head);

/* Bytes that the weights take in their files at least, known before they are read; 0 of a pipe. */
int64_t loader_stored_bytes(const struct loader *loader);

/* The name of the model in messages and reports; borrowed. */
const char *loader_name(const struct loader *loader);

void loader_close(struct loader *loader);

#endif

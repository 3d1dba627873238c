/* model.h - a model on disk as a list of records in stream order, whatever its container: an HF directory (plain or
 * Lapidary's own), a GGUF file. Sees named tensors only; what they mean is for the rooms above. */
#ifndef FILES_MODEL_H
#define FILES_MODEL_H

#include "stream/record.h"

#include <stddef.h>
#include <stdint.h>

struct model;

/* One record of the model and where its payload lies; containers keep what they need in place[] and detail. */
struct item {
    struct record record;
    char stored[DTYPE_NAME];     /* the type as the file names it: "BF16", "Q4_1", "q4-64-min", ... */
    int64_t stored_bytes;        /* bytes it takes in the file */
    int file;                    /* index of an open file of the container, or -1: the bytes are in detail */
    int64_t place[GROUP_PLANES]; /* offsets in the file, by plane of the payload */
    void *detail;                /* the container's own; freed by its close */
};

struct container {
    const char *format;          /* "safetensors", "lapidary", "gguf" */
    /* Payload bytes [from, from + size) of an item, as the record's dtype says. EX_OK, EX_IOERR, EX_DATAERR. */
    int (*read)(const struct model *model, const struct item *item, int64_t from, size_t size, void *to);
    void (*close)(struct model *model);
};

struct model {
    const struct container *container;
    char *path, *name;           /* as given; its base name */
    struct json *config;         /* the content of the (original) config.json; an object */
    struct json *history;        /* array of entries, oldest first; empty for a foreign model */
    uint64_t identity;           /* XXH3 of config.json and the index (names, dtypes, shapes, sizes), not of weights */
    int64_t file_bytes;          /* bytes of the files that hold weights */
    struct item *item;           /* in stream order, strictly ascending */
    size_t n_item;
    void *state;                 /* the container's own */
};

/* Opens a directory or a GGUF file. EX_NOINPUT, EX_DATAERR after a message. */
int model_open(struct model *model, const char *path);

/* The containers' own doors, called by model_open(): fill everything but path, name and the order of items.
 * On an error nothing is left to close. */
int directory_open(struct model *model, const char *path);
int gguf_open(struct model *model, const char *path);

/* True where a file begins as a GGUF file does. */
bool gguf_recognises(const unsigned char *first, size_t size);

/* Appends an item made for a record (whose contents move into it); returns it for the container to fill. */
struct item *model_add(struct model *model, struct record *record);

/* A companion file that lies in memory (data is stolen, from malloc). */
void model_add_memory(struct model *model, const char *name, void *data, size_t size);

void model_close(struct model *model);

#endif

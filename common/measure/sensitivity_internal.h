/* sensitivity_internal.h - the parts of a sensitivity measurement: lines, compressed matrices, blocks. */
#ifndef MEASURE_SENSITIVITY_INTERNAL_H
#define MEASURE_SENSITIVITY_INTERNAL_H

#include "fit/quantize.h"
#include "measure/sensitivity.h"
#include "measure/windows.h"

/* The matrices of a block, in stream order. */
enum { PLACES = 7 };

struct place {
    const char *name;            /* behind "model.layers.N." */
    size_t offset;               /* in struct block */
};

extern const struct place places[PLACES];

/* The setting as a plan says it; the caller frees. */
char *setting_plan(const struct sensitivity_setting *setting);

/* The dense matrices of the model, those of one block in memory at a time, and their compressed forms. */
struct matrices {
    const char *path;            /* of the model; borrowed */
    struct source source;
    struct record next;          /* read, and not yet taken */
    bool open, pending;          /* whether the source is open, and next is set */
    int64_t block;               /* whose matrices these are; -1: none */
    struct operator op[PLACES];
    struct moments_file *moments;        /* NULL: none */
    struct views *views;         /* of the block's moments */
};

/* EX_NOINPUT, EX_DATAERR. path and moments (NULL: none) are borrowed. */
int matrices_open(struct matrices *matrices, const char *path, const char *moments);
void matrices_close(struct matrices *matrices);

/* What a setting makes of a matrix, the caller's; error and norm as in struct compensated. */
int matrices_compress(struct matrices *matrices, int64_t block, int place, const struct sensitivity_setting *setting,
                      struct operator *op, double *error, double *norm);

/* The blocks of the dense model, again and again: all on the device where they fit, or read anew. */
struct supply {
    const struct measure *measure;
    const char *path;            /* borrowed */
    int64_t n_layer, layer;      /* the layer of block */
    struct block *resident;      /* [n_layer]; NULL: they don't fit */
    struct loader loader;
    struct block block;          /* read last */
    bool open;
};

/* The block of this number, valid until the next call; ascending ones are read in one go. Errors are the loader's. */
int supply_block(struct supply *supply, int64_t layer, const struct block **block);
void supply_close(struct supply *supply);        /* {0} is allowed */

/* The output: lines that are there, and those that come. */
struct lines {
    const char *path;            /* NULL: standard output */
    int fd;
    char **key;                  /* sorted: what identifies each line that is there */
    size_t n_key;
};

/* EX_CANTCREAT, EX_IOERR; EX_DATAERR where a line is no JSON object. */
int lines_open(struct lines *lines, const char *path);

/* Whether a line with the same unit, setting, model, text and way of measuring is there. */
bool lines_have(const struct lines *lines, const struct json *line);

int lines_write(struct lines *lines, const struct json *line);   /* EX_IOERR */
int lines_close(struct lines *lines, bool sync);         /* EX_IOERR; {.fd = -1} is allowed */

#endif

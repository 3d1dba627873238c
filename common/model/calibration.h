/* calibration.h - second moments of what the matrices of a block see, summed up while a pass goes through the block. */
#ifndef MODEL_CALIBRATION_H
#define MODEL_CALIBRATION_H

#include "fit/moments.h"
#include "model/pass.h"

/* What is wanted, of each block. */
struct calibration_options {
    enum block_part part;              /* PARTS: the inputs of all of them */
    bool reference;              /* a reference model goes beside: cross moments, too */
    int64_t rows, held;          /* of all sequences, and those of them, at the end, that are held out */
};

/* Sums of products x_i x_j over tokens, in double. */
struct moment_sums {
    double *h, *held;                            /* [n (n + 1) / 2] */
    double *cross, *held_cross;                  /* [n, n] */
};

/* Some thousand tokens at a time are multiplied in f32, on the device, and the result is added up in double: within
 * 1e-6 of sums in double, relative to the norm. Takes 4 n (n + 1) bytes for each H of a part of width n and 8 n^2 for
 * each cross moment (655 MB for H alone of width 12800), with a reference 4 PASS_ROWS n of its inputs, and beside that
 * some 12000 n. n (n + 1) operations per token for each H, 2 n^2 for cross moments. Must not be moved. */
struct calibration {
    const struct device *device;
    const struct config *config; /* borrowed */
    struct calibration_options options;
    struct tap tap;              /* for the forward of the model; last is set so that the rows go through */
    struct tap reference;        /* for that of the reference, which goes first */

    struct moment_sums sums[PARTS];              /* private */
    float *seen[PARTS];          /* [PASS_ROWS, n] on the device: inputs in the reference */
    float *turned[2];            /* [n, rows]: inputs, of the model and of the reference, transposed; on the device */
    float *tile, *host;          /* of a product: on the device, and brought from there */
    size_t turned_floats, tile_floats;
};

void calibration_begin(struct calibration *calibration, const struct device *device, const struct config *config,
                       const struct calibration_options *options);

/* Writes what was summed up as the moments of a block, and starts again from 0. EX_DATAERR where it isn't finite, or
 * what the writer says, after a message. */
int calibration_write(struct calibration *calibration, int64_t layer, struct writer *writer);

void calibration_end(struct calibration *calibration);

#endif

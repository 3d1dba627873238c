/* sensitivity.h - how much a model minds that single matrices are compressed: the layer-sensitivity experiment. One
 * unit at a time is compressed, everything else stays as it is, and the changed model is held against the unchanged
 * one. */
#ifndef MEASURE_SENSITIVITY_H
#define MEASURE_SENSITIVITY_H

#include "measure/perplexity.h"
#include "tensor/dtype.h"

/* The unit; a kind is the matrices of the same place in all blocks. */
enum sensitivity_by { BY_MATRIX, BY_BLOCK, BY_KIND };

/* NULL-terminated: "matrix", "block", "kind". */
extern const char *const sensitivity_by_names[];

/* What is done to each matrix of a unit. */
struct sensitivity_setting {
    int64_t chi;                 /* its matrix SVD of this rank, cores in f16; 0: not that */
    double keep;                 /* the same, of the rank that keeps this part of the parameters; 0: not that */
    struct dtype dtype;          /* rounded to this group format where neither is given */
};

struct sensitivity_options {
    struct text_options text;
    enum sensitivity_by by;
    const struct sensitivity_setting *setting;
    int n_setting;
    const char *moments;         /* a moments file: fits for it, errors weighted by it; NULL: plain SVD and rounding */
};

/* Writes a line of JSON for each unit and setting to a file (appended) or with NULL to standard output as soon as it is
 * measured, in a fixed order:
 *
 *     {"task": "sensitivity", "unit", "by", "plan", "kl", "agreement", "perplexity", "perplexity_ratio", (each with
 *      _standard_error over windows), "reference_perplexity", "matrices": [{"name", "error", "norm",
 *      "relative_error"}], "tokens", "windows", ..., "data", "model", "moments"}
 *
 * unit is a matrix's name, "model.layers.3", or "mlp.down_proj.weight"; plan the setting as a plan says it; error and
 * norm squared, weighted by the moments where there are some. "model" has hashes of its history and of all its records,
 * which are read through for it. Lines of a file that are there already for the same unit, setting, model, text and
 * moments aren't measured again, and what stands behind its last line feed is dropped.
 *
 * The hidden states that enter a block are kept, so that a unit of block K costs the blocks from K on: these of all
 * settings and of the unchanged model together in measure->memory bytes, or in files. Blocks stay on the device where
 * they take at most as much, too, and are read again for each unit otherwise. model can't be standard input (EX_USAGE).
 * EX_NOINPUT, EX_DATAERR, EX_IOERR, EX_CANTCREAT after a message. */
int sensitivity_run(const struct measure *measure, const char *model, const char *text,
                    const struct sensitivity_options *options, const char *output);

#endif

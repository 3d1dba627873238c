/* filter.h - what every operator-to-operator program does: read records, change the operators it is for, pass the
 * rest on unchanged, end the stream only when all was well. */
#ifndef OPERATOR_FILTER_H
#define OPERATOR_FILTER_H

#include "operator/operator.h"

struct filter {
    const char *program;         /* for the history */
    const char *doing;           /* for the progress line: "decomposing" */
    struct json *options;        /* for the history: what affects content; stolen */
    /* Whether the operator that begins with record is to be changed. */
    bool (*wants)(void *context, const struct record *record);
    /* Changes it. EX_OK, or the exit code after a message. */
    int (*change)(void *context, struct operator *op);
    /* Where set: the same for plain tensors that begin no operator; the tensor may be replaced. */
    bool (*wants_tensor)(void *context, const struct record *record);
    int (*change_tensor)(void *context, const char *name, struct tensor *tensor);
    /* Where set, nothing is written: the filter only looks, change() at what it wants, leave() at all other records. */
    int (*leave)(void *context, const struct record *record);
    /* Where set: before the first record, and behind the last one, before the output is there. EX_OK or an exit
     * code. */
    int (*begin)(void *context, const struct source *source);
    int (*end)(void *context);
    void *context;
};

/* Runs the filter from common_options.input to common_options.output (with leave: to nowhere); the program's exit
 * code. Patterns of --match go into the history here. */
int filter_run(const struct filter *filter);

#endif

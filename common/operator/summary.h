/* summary.h - what a model or stream holds, counted: parameters, numbers stored, bytes. */
#ifndef OPERATOR_SUMMARY_H
#define OPERATOR_SUMMARY_H

#include "base/json.h"
#include "files/source.h"
#include "operator/transform.h"

struct weight {
    char *name;
    enum record_kind kind;       /* RECORD_CORE: an operator of several cores */
    int rank;
    int64_t shape[TENSOR_RANK];  /* of an operator: [out, in] */
    int64_t parameters;          /* elements of the tensor or of W; 0 of a file, and of a stored head that is tied */
    int64_t stored_parameters;   /* numbers in its cores */
    int64_t bytes;               /* of its payloads */
    int64_t stored_bytes;        /* in the file they come from; 0 for a stream */
    char stored[16];             /* the type there where it has another name: "Q4_1"; otherwise "" */
    char *description;           /* "f16 576x576", "f16 1x576x1x100 100x1x576x1" */
    int cores;
    struct transform input, output;
    struct json *stated_input, *stated_output;   /* what the first core says of them */
};

struct summary {
    const char *format;          /* "stream", or the container's */
    char *name;
    struct json *config, *history;
    struct weight *weight;
    size_t n_weight, n_file;     /* all of them; how many are companion files */
    int64_t parameters, stored_parameters, payload_bytes, file_bytes;    /* weights only; file_bytes of a stream: all */
};

/* Reads the source to its end. With verify every payload is read and numbers that are not finite are refused. The
 * strings are the summary's own. EX_DATAERR, EX_IOERR. */
int summary_take(struct summary *summary, struct source *source, bool verify);

/* {"name", "format", "parameters", "stored_parameters", "payload_bytes", "file_bytes", "config", "history",
 * and, unless totals_only, "tensors": [...]} */
struct json *summary_json(const struct summary *summary, bool totals_only);

void summary_free(struct summary *summary);

#endif

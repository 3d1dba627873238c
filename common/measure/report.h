/* report.h - what every result of a measurement says beside the result itself. */
#ifndef MEASURE_REPORT_H
#define MEASURE_REPORT_H

#include "base/json.h"
#include "model/loader.h"

/* Started when the measuring begins. */
struct stopwatch {
    double started;              /* seconds, of a steady clock */
};

void stopwatch_start(struct stopwatch *stopwatch);
double stopwatch_seconds(const struct stopwatch *stopwatch);

/* A new report {"task": task}; the caller's. */
struct json *report_start(const char *task);

/* Adds "data": {"name", "bytes", "hash"} of what was measured with: path's base name (NULL or "-": "standard input"),
 * the length and XXH3 of the bytes that came from there. */
void report_data(struct json *report, const char *path, const void *data, size_t length);

/* Adds "model": {"name", "format", "parameters", "stored_parameters", "bytes", "linear_bytes", "bpw_linear",
 * "bpw_model"} and "history" of a loader whose model was read to its end. bpw_linear: 8 x bytes of the linear layers'
 * payloads per parameter of theirs; bpw_model: 8 x file_bytes per parameter of the original, a tied head counted
 * once; bytes are file_bytes. key is "model" or "reference"; the history of the latter is "reference_history". */
void report_model(struct json *report, const char *key, const struct loader *loader);

/* Adds "device", "activations", "threads", "seconds" (all of it, loading too), "tokens_per_second" (of the tokens that
 * went through the model), "peak_memory" (bytes, VmHWM; null where the system doesn't say), "version". */
void report_finish(struct json *report, const struct loader *loader, const struct stopwatch *stopwatch, int64_t tokens);

/* Peak resident memory of this process in bytes (VmHWM); 0 where the system doesn't say. */
int64_t report_peak_memory(void);

#endif

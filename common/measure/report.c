/* report.c - sizes, speed and origin of what was measured. */
#include "measure/report.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/options.h"
#include "base/parallel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void stopwatch_start(struct stopwatch *stopwatch)
{
    stopwatch->started = clock_seconds();
}

double stopwatch_seconds(const struct stopwatch *stopwatch)
{
    return clock_seconds() - stopwatch->started;
}

struct json *report_start(const char *task)
{
    struct json *report = json_make_object();

    json_put(report, "task", json_make_string(task));
    return report;
}

void report_data(struct json *report, const char *path, const void *data, size_t length)
{
    struct json *about = json_make_object();
    char *name = file_is_stdin(path) ? xstrdup(file_input_name(path)) : file_basename(path);
    char hash[HASH_TEXT];

    json_put(about, "name", json_make_string(name));
    json_put(about, "bytes", json_make_int((int64_t)length));
    json_put(about, "hash", json_make_string(hash_text(hash_of(data, length), hash)));
    json_put(report, "data", about);
    free(name);
}

/* null where nothing is counted. */
static struct json *bits_per(int64_t bytes, int64_t parameters)
{
    return json_make_number(parameters ? 8.0 * (double)bytes / (double)parameters : NAN);
}

void report_model(struct json *report, const char *key, const struct loader *loader)
{
    const struct loader_sizes *sizes = &loader->sizes;
    const struct source *source = &loader->source;
    struct json *model = json_make_object();
    char *name = file_basename(loader_name(loader));

    json_put(model, "name", json_make_string(name));
    json_put(model, "format", json_make_string(source->is_model ? source->model.container->format : "stream"));
    json_put(model, "parameters", json_make_int(sizes->parameters));
    json_put(model, "stored_parameters", json_make_int(sizes->stored_parameters));
    json_put(model, "bytes", json_make_int(sizes->file_bytes));
    json_put(model, "linear_bytes", json_make_int(sizes->linear_bytes));
    json_put(model, "bpw_linear", bits_per(sizes->linear_bytes, sizes->linear_parameters));
    json_put(model, "bpw_model", bits_per(sizes->file_bytes, sizes->parameters));
    json_put(report, key, model);
    json_put(report, strcmp(key, "model") ? "reference_history" : "history", source_history(source));
    free(name);
}

int64_t report_peak_memory(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char line[256];
    long long kibibytes = 0;

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lld kB", &kibibytes) == 1)
            break;
    if (file)
        fclose(file);
    return (int64_t)kibibytes * 1024;
}

void report_finish(struct json *report, const struct loader *loader, const struct stopwatch *stopwatch, int64_t tokens)
{
    double seconds = stopwatch_seconds(stopwatch);
    int64_t peak = report_peak_memory();

    json_put(report, "device", json_make_string(loader->device->name));
    json_put(report, "activations", json_make_string(activations_names[loader->activations]));
    json_put(report, "threads", json_make_int(parallel_threads()));
    json_put(report, "seconds", json_make_number(seconds));
    json_put(report, "tokens_per_second", json_make_number((double)tokens / seconds));
    json_put(report, "peak_memory", peak ? json_make_int(peak) : json_make_null());
    json_put(report, "version", json_make_string(LAPIDARY_VERSION));
}

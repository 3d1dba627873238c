/* teacher_logits_write.c - a dense model over a training text, and the largest of its logits into a file. */
#include "base/memory.h"
#include "base/number.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "measure/healing_options.h"
#include "measure/passage.h"
#include "measure/teacher_logits.h"
#include "model/sampling.h"
#include "stream/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_SMALL = 1 << 15 };             /* ids that i16 has */
static const double LOG_LEAST = -1e4;    /* of log p: a probability of 0, and a number in f16 */

struct writing {
    const struct measure *measure;
    const struct teacher_options *options;
    struct loader loader;
    struct training_text text;
    struct writer writer;
    struct sequence *sequence;   /* pieces of documents, window by window */
    int64_t sequences;
    struct forward forward;
    struct hidden hidden;
    struct applied *embedding;
    struct head head;
    bool opened, run;

    /* The window at hand, so many rows of it so far. */
    int64_t rows;
    int32_t *id;                 /* [context, top] */
    float *log_p, *rest;         /* likewise, [context] */
    double left_out;             /* sum of all rests */

    /* Logits on their way to it. */
    float *host, *work;          /* [host_rows, vocab_size], [threads, vocab_size] */
    int64_t host_rows;
    double *lse;                 /* [host_rows] */
};

/* Of rows from work->rows on. */
static void choose(void *context, int64_t i, int thread)
{
    struct writing *w = context;
    int64_t d = w->loader.config.vocab_size, k = w->options->top, row = w->rows + i, equal = k, at = 0;
    const float *x = w->host + i * d;
    float *work = w->work + thread * d, *log_p = w->log_p + row * k, border;
    int32_t *id = w->id + row * k;
    double sum = 0;

    memcpy(work, x, (size_t)d * sizeof *x);
    border = kth_largest(work, d, k);
    for (int64_t j = 0; j < d; j++)
        equal -= x[j] > border;
    for (int64_t j = 0; j < d && at < k; j++)
        if (x[j] > border || (x[j] >= border && equal-- > 0)) {
            double left = (double)x[j] - w->lse[i];

            sum += exp(left);
            id[at] = (int32_t)j;
            log_p[at++] = (float)fmax(left, LOG_LEAST);
        }
    w->rest[row] = k < d ? (float)fmax(1 - sum, 0) : 0;
}

static int take_logits(void *context, int64_t first, int64_t n, const float *logits)
{
    struct writing *w = context;
    int64_t d = w->loader.config.vocab_size;

    (void)first;
    if (n > w->host_rows) {
        w->host_rows = n;
        w->host = xreallocarray(w->host, (size_t)(n * d), sizeof *w->host);
        w->lse = xreallocarray(w->lse, (size_t)n, sizeof *w->lse);
    }
    w->measure->device->log_sum_exp(logits, n, d, w->lse, NULL);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(w->lse[i]))
            return fail(EX_DATAERR, "'%s': its logits are not finite", loader_name(&w->loader));
    w->measure->device->download(w->host, logits, (size_t)(n * d) * sizeof *logits);
    parallel_for(n, choose, w);
    for (int64_t i = 0; i < n; i++)
        w->left_out += (double)w->rest[w->rows + i];
    w->rows += n;
    return EX_OK;
}

/* ---- the file ---- */

static int put(struct writing *w, int64_t window, const char *part, struct dtype dtype, int rank, const void *data)
{
    char *name = xasprintf("window.%010lld.%s", (long long)window, part);
    struct record record = record_tensor(name, dtype, rank, (int64_t[]){w->rows, w->options->top});
    int rc = writer_put(&w->writer, &record, data);

    record_free(&record);
    free(name);
    return rc;
}

static int put_ids(struct writing *w, int64_t window)
{
    int64_t count = w->rows * w->options->top;
    int16_t *small;
    int rc;

    if (w->loader.config.vocab_size > ID_SMALL)
        return put(w, window, "ids", DTYPE(I32), 2, w->id);
    small = xmallocarray((size_t)count + 1, sizeof *small);
    for (int64_t i = 0; i < count; i++)
        small[i] = (int16_t)w->id[i];
    rc = put(w, window, "ids", DTYPE(I16), 2, small);
    free(small);
    return rc;
}

static int put_window(struct writing *w, int64_t window)
{
    struct dtype dtype;
    struct tensor log_p;
    int rc = put_ids(w, window);

    dtype_parse(dtype_float_names[w->options->dtype], &dtype);
    log_p = tensor_new(dtype, 2, (int64_t[]){w->rows, w->options->top});
    tensor_set_elements(&log_p, 0, w->rows * w->options->top, w->log_p);
    if (!rc && !(rc = put(w, window, "log_p", dtype, 2, log_p.data)))
        rc = put(w, window, "rest", DTYPE(F32), 1, w->rest);
    tensor_free(&log_p);
    return rc;
}

/* The logits of what counts in a window, a run of rows after another. */
static int write_window(struct writing *w, int64_t window)
{
    const struct training_text *text = &w->text;
    int64_t begin = window * text->context, end = begin + training_text_tokens(text, window);
    int rc = EX_OK;

    w->rows = 0;
    for (int64_t i = begin, next; i < end && !rc; i = next) {
        for (next = i + 1; next < end && !text->counts[next] == !text->counts[i];)
            next++;
        if (text->counts[i])
            rc = pass_logits(&w->forward, &w->hidden, &w->head, i, next - i, take_logits, w);
    }
    return rc ? rc : put_window(w, window);
}

static int write_windows(struct writing *w)
{
    int64_t room = w->text.context, top = w->options->top;
    int rc = EX_OK;

    w->id = xmallocarray((size_t)(room * top), sizeof *w->id);
    w->log_p = xmallocarray((size_t)(room * top), sizeof *w->log_p);
    w->rest = xmallocarray((size_t)room, sizeof *w->rest);
    w->work = xmallocarray((size_t)(parallel_threads() * w->loader.config.vocab_size), sizeof *w->work);
    progress_start("windows", w->text.windows);
    for (int64_t window = 0; window < w->text.windows && !rc; window++) {
        rc = write_window(w, window);
        progress_step("logits");
    }
    progress_stop();
    return rc ? rc : writer_end(&w->writer);
}

static int open_writer(struct writing *w, const char *output)
{
    struct json *history = source_history(&w->loader.source), *about = json_clone(w->text.about);
    int rc;

    json_put(about, "measure", json_make_string("logits"));
    json_put(about, "top", json_make_int(w->options->top));
    json_put(about, "dtype", json_make_string(dtype_float_names[w->options->dtype]));
    json_put(about, "windows", json_make_int(w->text.windows));
    json_append(history, history_entry("evaluate", about));
    rc = writer_open(&w->writer, output, w->loader.source.config, history);
    json_drop(history);
    return rc;
}

/* ---- the model ---- */

static void list_sequences(struct writing *w)
{
    const struct training_text *text = &w->text;
    int64_t count = (int64_t)text->ids.count;

    w->sequence = xmallocarray((size_t)count, sizeof *w->sequence);
    for (int64_t i = 0; i < count; i++) {
        if (i % text->context == 0 || text->begins[i])
            w->sequence[w->sequences++] = (struct sequence){text->ids.id + i, 0, -1};
        w->sequence[w->sequences - 1].n++;
    }
}

static int open_model(struct writing *w, const char *model, const char *const *paths, int count)
{
    const struct teacher_options *o = w->options;
    struct training_text_options how = {.limit = o->limit, .whole = o->whole, .template = o->template, .date = o->date};
    const char **inputs = xmallocarray((size_t)count + 1, sizeof *inputs);
    int rc;

    inputs[0] = model;
    memcpy(inputs + 1, paths, (size_t)count * sizeof *paths);
    rc = passage_one_stream(inputs, count + 1);
    free(inputs);
    if (rc || (rc = loader_open(&w->loader, model, w->measure->device, w->measure->activations)))
        return rc;
    w->opened = true;
    if (o->top > w->loader.config.vocab_size)
        return fail(EX_USAGE, "--top: %lld, but '%s' has a vocabulary of %lld tokens", (long long)o->top,
                    loader_name(&w->loader), (long long)w->loader.config.vocab_size);
    if ((rc = passage_context(o->context, HEAL_CONTEXT, w->loader.config.max_position, &how.context)))
        return rc;
    return training_text_open(&w->text, paths, count, &w->loader, &how);
}

static int run_model(struct writing *w)
{
    int rc;

    list_sequences(w);
    forward_begin(&w->forward, w->measure->device, &w->loader.config);
    rc = pass_run(&w->loader, &w->forward, w->sequence, w->sequences, w->measure->memory, &w->hidden, &w->embedding,
                  &w->head);
    if (rc)
        forward_end(&w->forward);
    w->run = !rc;
    return rc;
}

static void end(struct writing *w)
{
    if (w->run) {
        head_free(&w->head, w->measure->device);
        apply_free(w->embedding);
        hidden_close(&w->hidden);
        forward_end(&w->forward);
    }
    writer_close(&w->writer);
    training_text_close(&w->text);
    if (w->opened)
        loader_close(&w->loader);
    free(w->sequence);
    free(w->id);
    free(w->log_p);
    free(w->rest);
    free(w->host);
    free(w->work);
    free(w->lse);
}

int teacher_logits_write(const struct measure *measure, const char *model, const char *const *paths, int count,
                         const struct teacher_options *options, const char *output)
{
    struct writing w = {.measure = measure, .options = options, .hidden.fd = -1, .writer.output.fd = -1};
    int64_t rows = 0;
    int rc = open_model(&w, model, paths, count);

    if (!rc && !(rc = open_writer(&w, output)) && !(rc = run_model(&w)) && !(rc = write_windows(&w))) {
        for (size_t i = 0; i < w.text.ids.count; i++)
            rows += w.text.counts[i] != 0;
        note("the top %lld logits of %lld tokens in %lld windows of %lld; other ids have %.4f of the probability",
             (long long)options->top, (long long)rows, (long long)w.text.windows, (long long)w.text.context,
             w.left_out / (double)rows);
    }
    end(&w);
    return rc;
}

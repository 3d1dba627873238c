/* sensitivity.c - one unit after the other compressed, and the model held against itself. */
#include "measure/sensitivity.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/options.h"
#include "measure/divergence.h"
#include "measure/passage.h"
#include "measure/report.h"
#include "measure/sensitivity_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const sensitivity_by_names[] = {"matrix", "block", "kind", NULL};

/* Matrices that are compressed together: these places of the blocks first..last. */
struct unit {
    int64_t first, last;
    unsigned places;             /* bit k: places[k] */
};

/* The model with a unit compressed in one way. */
struct trial {
    const struct sensitivity_setting *setting;
    struct subject subject;      /* what the dense model's is, but for the hidden states */
    struct json *line, *matrices;
};

struct experiment {
    const struct measure *measure;
    const struct sensitivity_options *options;
    struct subject dense;
    struct passage passage;
    struct sequence *sequence;
    struct pass pass;            /* its hidden states are those at hand */
    struct hidden entering;      /* the dense model's states before block at */
    int64_t at, memory;          /* of each set of hidden states */
    struct supply supply;
    struct matrices matrices;
    struct lines lines;
    struct json *common;         /* members that all lines have */
    struct trial *trial;         /* as many as settings */
    int64_t written, kept;
    bool begun;
};

static int through(struct experiment *e, struct hidden *hidden, const struct block *block, int64_t layer)
{
    e->pass.hidden = hidden;
    return pass_block(&e->pass, block, 1, layer);
}

static int copy_hidden(const struct hidden *from, struct hidden *to)
{
    float *rows = xaligned((size_t)(PASS_ROWS * from->width), sizeof *rows);
    int rc = EX_OK;

    for (int64_t first = 0; first < from->rows && !rc; first += PASS_ROWS) {
        int64_t n = from->rows - first < PASS_ROWS ? from->rows - first : PASS_ROWS;

        if (!(rc = hidden_read(from, first, n, rows)))
            rc = hidden_write(to, first, n, rows);
    }
    free(rows);
    return rc;
}

/* The next block, of the first pass; it stays where all of them fit. */
static int first_block(struct experiment *e, int64_t layer)
{
    struct supply *supply = &e->supply;
    struct block block;
    int rc = loader_block(&e->dense.loader, layer, &block);

    if (rc)
        return rc;
    if (layer == 0 && block_bytes(&block) <= e->measure->memory / supply->n_layer)
        supply->resident = xcalloc((size_t)supply->n_layer, sizeof *supply->resident);
    rc = through(e, &e->dense.hidden, &block, layer);
    if (supply->resident)
        supply->resident[layer] = block;
    else
        block_free(&block, e->measure->device);
    return rc;
}

/* The dense model: its last hidden states, and those that enter the first block. */
static int run_dense(struct experiment *e)
{
    struct loader *loader = &e->dense.loader;
    const struct windows *windows = &e->passage.windows;
    int64_t rows, width = loader->config.d_model;
    int rc;

    e->sequence = xmallocarray((size_t)windows->count, sizeof *e->sequence);
    for (int64_t w = 0; w < windows->count; w++)
        e->sequence[w] = (struct sequence){windows->window[w].token, windows->window[w].n - 1, -1};
    rows = sequences_rows(e->sequence, windows->count);
    forward_begin(&e->dense.forward, e->measure->device, &loader->config);
    e->dense.run = true;
    if ((rc = hidden_open(&e->dense.hidden, rows, width, e->memory))
        || (rc = hidden_open(&e->entering, rows, width, e->memory))
        || (rc = pass_begin(&e->pass, loader, &e->dense.forward, e->sequence, windows->count, &e->dense.hidden))
        || (rc = pass_embed(&e->pass, &e->dense.embedding))
        || (rc = copy_hidden(&e->dense.hidden, &e->entering)))
        return rc;
    for (int64_t layer = 0; layer < loader->config.n_layer && !rc; layer++)
        rc = first_block(e, layer);
    return rc ? rc : loader_head(loader, e->dense.embedding, &e->dense.head);
}

static int take_bytes(void *context, const void *data, size_t size)
{
    hash_update(context, data, size);
    return EX_OK;
}

/* XXH3 of all names and payloads: weights that were replaced in place have the old history. */
static int hash_records(const char *path, uint64_t *value)
{
    struct hash *hash = hash_new();
    struct source source;
    struct record record;
    int rc = source_open(&source, path);
    bool open = !rc;

    while (!rc && !(rc = source_next(&source, &record)) && record.kind != RECORD_END) {
        hash_update(hash, record.name, strlen(record.name));
        rc = source_each(&source, &record, take_bytes, hash);
        record_free(&record);
    }
    *value = hash_value(hash);
    hash_free(hash);
    if (open)
        source_close(&source);
    return rc;
}

static void put_hash(struct json *json, const char *key, uint64_t value)
{
    char hash[HASH_TEXT];

    json_put(json, key, json_make_string(hash_text(value, hash)));
}

/* Members of every line that say what was measured, and with what. */
static int make_common(struct experiment *e, const char *path)
{
    struct json *history = source_history(&e->dense.loader.source), *model = json_make_object();
    char *text = json_write(history, 0), *name = file_basename(loader_name(&e->dense.loader));
    uint64_t hash;
    int rc = hash_records(path, &hash);

    e->common = json_make_object();
    passage_report(e->common, &e->passage);
    json_put(model, "name", json_make_string(name));
    put_hash(model, "history_hash", hash_of(text, strlen(text)));
    put_hash(model, "hash", hash);
    json_put(e->common, "model", model);
    if (e->matrices.moments)
        json_put(e->common, "moments", moments_history(e->matrices.moments));
    json_put(e->common, "device", json_make_string(e->measure->device->name));
    json_put(e->common, "activations", json_make_string(activations_names[e->measure->activations]));
    json_put(e->common, "version", json_make_string(LAPIDARY_VERSION));
    free(text);
    free(name);
    json_drop(history);
    return rc;
}

static char *unit_name(const struct experiment *e, const struct unit *unit)
{
    int place = 0;

    while (!(unit->places >> place & 1))
        place++;
    if (e->options->by == BY_KIND)
        return xstrdup(places[place].name);
    if (e->options->by == BY_BLOCK)
        return xasprintf("model.layers.%lld", (long long)unit->first);
    return xasprintf("model.layers.%lld.%s", (long long)unit->first, places[place].name);
}

/* {"task", "unit", "by", "plan"}; the caller's. */
static struct json *start_line(const struct experiment *e, const struct unit *unit,
                               const struct sensitivity_setting *setting)
{
    struct json *line = report_start("sensitivity");
    char *name = unit_name(e, unit), *plan = setting_plan(setting);

    json_put(line, "unit", json_make_string(name));
    json_put(line, "by", json_make_string(sensitivity_by_names[e->options->by]));
    json_put(line, "plan", json_make_string(plan));
    free(name);
    free(plan);
    return line;
}

static void add_common(const struct experiment *e, struct json *line)
{
    for (void *m = json_first(e->common); m; m = json_following(e->common, m))
        json_put(line, json_key(m), json_keep(json_value(m)));
}

/* Compresses a matrix of the block, which then is the caller's to free, and tells of its error. */
static int compress(struct experiment *e, struct trial *trial, int64_t layer, int place, struct block *block)
{
    struct json *entry = json_make_object();
    struct operator op;
    double error = 0, norm = 0;
    int rc = matrices_compress(&e->matrices, layer, place, trial->setting, &op, &error, &norm);

    if (!rc) {
        json_put(entry, "name", json_make_string(op.name));
        json_put(entry, "error", json_make_number(error));
        json_put(entry, "norm", json_make_number(norm));
        json_put(entry, "relative_error", json_make_number(norm > 0 ? sqrt(error / norm) : 0));
        json_append(trial->matrices, json_keep(entry));
        *(struct applied **)(void *)((char *)block + places[place].offset)
            = apply_place(e->measure->device, &op, e->measure->activations);
    }
    json_drop(entry);
    return rc;
}

/* The block with the unit's matrices changed: the rest is the dense one's. */
static int changed_block(struct experiment *e, struct trial *trial, const struct unit *unit, int64_t layer,
                         const struct block *dense)
{
    struct block block = *dense;
    int rc = EX_OK;

    for (int place = 0; place < PLACES && !rc; place++)
        if (unit->places >> place & 1)
            rc = compress(e, trial, layer, place, &block);
    if (!rc)
        rc = through(e, &trial->subject.hidden, &block, layer);
    for (int place = 0; place < PLACES; place++) {
        struct applied *now = *(struct applied **)(void *)((char *)&block + places[place].offset);

        if (now != *(struct applied *const *)(const void *)((const char *)dense + places[place].offset))
            apply_free(now);
    }
    return rc;
}

static int run_trial(struct experiment *e, struct trial *trial, const struct unit *unit)
{
    const struct block *block;
    int rc = copy_hidden(&e->entering, &trial->subject.hidden);

    trial->matrices = json_make_array();
    for (int64_t layer = unit->first; layer < e->supply.n_layer && !rc; layer++) {
        if ((rc = supply_block(&e->supply, layer, &block)))
            break;
        rc = layer <= unit->last ? changed_block(e, trial, unit, layer, block)
                                 : through(e, &trial->subject.hidden, block, layer);
    }
    return rc;
}

static void put_mean(struct json *line, const char *name, double mean, double error)
{
    char *key = xasprintf("%s_standard_error", name);

    json_put(line, name, json_make_number(mean));
    json_put(line, key, json_make_number(error));
    free(key);
}

static int write_line(struct experiment *e, struct trial *trial, const struct divergence *d)
{
    double perplexity = exp(sums_mean(&d->sums[MODEL_NLL])), error, ratio = divergence_ratio(d, &error);
    struct json *line = trial->line;

    put_mean(line, "kl", sums_mean(&d->sums[KL]), sums_error(&d->sums[KL]));
    put_mean(line, "agreement", sums_mean(&d->sums[AGREEMENT]), sums_error(&d->sums[AGREEMENT]));
    put_mean(line, "perplexity", perplexity, perplexity * sums_error(&d->sums[MODEL_NLL]));
    put_mean(line, "perplexity_ratio", ratio, error);
    json_put(line, "reference_perplexity", json_make_number(exp(sums_mean(&d->sums[REFERENCE_NLL]))));
    json_put(line, "matrices", json_keep(trial->matrices));
    add_common(e, line);
    inform("%s, %s: KL %.6f, perplexity %.4f times", json_as_string(json_at(line, "unit"), ""),
           json_as_string(json_at(line, "plan"), ""), sums_mean(&d->sums[KL]), ratio);
    e->written++;
    return lines_write(&e->lines, line);
}

/* The settings of a unit that no line is there for; how many. */
static int pending(struct experiment *e, const struct unit *unit)
{
    int count = 0;

    for (int i = 0; i < e->options->n_setting; i++) {
        struct trial *trial = &e->trial[count];
        struct json *key;

        trial->setting = &e->options->setting[i];
        trial->line = start_line(e, unit, trial->setting);
        key = json_clone(trial->line);
        add_common(e, key);
        if (!lines_have(&e->lines, key)) {
            count++;
        } else {
            json_drop(trial->line);
            trial->line = NULL;
            e->kept++;
        }
        json_drop(key);
    }
    return count;
}

/* Each has a view of the dense model, workspace and hidden states of its own. */
static int open_trials(struct experiment *e)
{
    int n = e->options->n_setting, rc = EX_OK;

    for (int i = 0; i < n && !rc; i++) {
        struct subject *subject = &e->trial[i].subject;

        *subject = e->dense;
        subject->hidden = (struct hidden){.fd = -1};
        forward_begin(&subject->forward, e->measure->device, &e->dense.loader.config);
        rc = hidden_open(&subject->hidden, e->dense.hidden.rows, e->dense.hidden.width, e->memory);
    }
    return rc;
}

/* What all measurements stand on, once there is one to be made. */
static int begin(struct experiment *e)
{
    int rc = e->begun ? EX_OK : run_dense(e);

    if (!rc && !e->begun)
        rc = open_trials(e);
    e->begun = true;
    return rc;
}

static int measure_unit(struct experiment *e, const struct unit *unit)
{
    int count = pending(e, unit), rc = count ? begin(e) : EX_OK;
    struct divergence *d = xcalloc((size_t)count + 1, sizeof *d);
    const struct block *block;

    for (; count && e->at < unit->first && !rc; e->at++)
        if (!(rc = supply_block(&e->supply, e->at, &block)))
            rc = through(e, &e->entering, block, e->at);
    for (int i = 0; i < count && !rc; i++) {
        d[i].model = &e->trial[i].subject;
        rc = run_trial(e, &e->trial[i], unit);
    }
    if (!rc && count)
        rc = divergence_score(&e->dense, &e->passage.windows, d, count);
    for (int i = 0; i < count; i++) {
        if (!rc)
            rc = write_line(e, &e->trial[i], &d[i]);
        json_drop(e->trial[i].line);
        json_drop(e->trial[i].matrices);
        e->trial[i].line = e->trial[i].matrices = NULL;
        divergence_end(&d[i]);
    }
    free(d);
    return rc;
}

/* All units, by their first blocks. */
static int measure_all(struct experiment *e)
{
    int64_t n_layer = e->supply.n_layer;
    unsigned all = (1u << PLACES) - 1;
    int rc = EX_OK;

    if (e->options->by == BY_BLOCK)
        for (int64_t layer = 0; layer < n_layer && !rc; layer++)
            rc = measure_unit(e, &(struct unit){layer, layer, all});
    for (int place = 0; place < PLACES && !rc && e->options->by == BY_KIND; place++)
        rc = measure_unit(e, &(struct unit){0, n_layer - 1, 1u << place});
    for (int64_t i = 0; i < n_layer * PLACES && !rc && e->options->by == BY_MATRIX; i++)
        rc = measure_unit(e, &(struct unit){i / PLACES, i / PLACES, 1u << i % PLACES});
    return rc;
}

static void experiment_close(struct experiment *e)
{
    for (int i = 0; e->trial && i < e->options->n_setting; i++) {
        if (e->trial[i].subject.run)
            forward_end(&e->trial[i].subject.forward);
        hidden_close(&e->trial[i].subject.hidden);
    }
    free(e->trial);
    json_drop(e->common);
    matrices_close(&e->matrices);
    supply_close(&e->supply);
    pass_end(&e->pass);
    hidden_close(&e->entering);
    subject_close(&e->dense);
    passage_close(&e->passage);
    free(e->sequence);
}

static int run(struct experiment *e, const char *model, const char *text, const char *output)
{
    const char *const input[] = {text, e->options->moments};
    int rc = file_is_stdin(model) ? fail(EX_USAGE, "the model is read more than once: it can't be standard input")
                                  : passage_one_stream(input, e->options->moments ? 2 : 1);

    if (rc || (rc = passage_open(&e->passage, text, &e->options->text))
        || (rc = matrices_open(&e->matrices, model, e->options->moments))
        || (rc = subject_open(&e->dense, e->measure, model))
        || (rc = passage_tokenize(&e->passage, e->dense.tokenizer, &e->options->text, &e->passage.ids))
        || (rc = passage_cut(&e->passage, e->dense.loader.config.max_position, &e->options->text))
        || (rc = make_common(e, model)) || (rc = lines_open(&e->lines, output)))
        return rc;
    e->supply = (struct supply){.measure = e->measure, .path = model, .n_layer = e->dense.loader.config.n_layer};
    e->memory = e->measure->memory / (e->options->n_setting + 2);
    e->trial = xcalloc((size_t)e->options->n_setting, sizeof *e->trial);
    for (int i = 0; i < e->options->n_setting; i++)
        e->trial[i].subject.hidden.fd = -1;
    return measure_all(e);
}

int sensitivity_run(const struct measure *measure, const char *model, const char *text,
                    const struct sensitivity_options *options, const char *output)
{
    struct experiment e = {.measure = measure, .options = options, .dense.hidden.fd = -1, .entering.fd = -1,
                           .matrices.block = -1, .lines.fd = -1};
    int rc = run(&e, model, text, output), closed;

    if (!rc && e.kept)
        note("%lld lines written, %lld were there", (long long)e.written, (long long)e.kept);
    else if (!rc)
        note("%lld lines written", (long long)e.written);
    experiment_close(&e);
    closed = lines_close(&e.lines, !rc);
    return rc ? rc : closed;
}

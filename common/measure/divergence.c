/* divergence.c - two models on the same windows: both go through all blocks, one after the other, then their logits
 * stand side by side, chunk by chunk. */
#include "measure/divergence.h"
#include "base/memory.h"
#include "measure/passage.h"
#include "measure/perplexity.h"
#include "measure/report.h"

#include <math.h>
#include <stdlib.h>

struct scoring {
    struct subject *reference;
    struct divergence *divergence;
    int count;
    struct divergence *current;  /* whose logits come */
    const struct chunk *chunk;   /* of the reference, meanwhile */
};

/* Both models' logits of the same tokens. */
static int compare(struct subject *reference, struct divergence *d, const struct chunk *p, const struct chunk *q)
{
    const struct device *device = reference->measure->device;
    int64_t group = p->window->group, n = p->n;
    double *value = xmallocarray((size_t)n, 4 * sizeof *value), *kl = d->each + d->done;
    double *p_lse = value, *q_lse = value + n, *p_nll = value + 2 * n, *q_nll = value + 3 * n;
    int32_t *top = xmallocarray((size_t)n, 2 * sizeof *top);
    int rc = chunk_score(reference, p, p_lse, top, p_nll);

    if (!rc && !(rc = chunk_score(d->model, q, q_lse, top + n, q_nll))) {
        device->divergence(p->logits, p_lse, q->logits, q_lse, n, d->model->loader.config.vocab_size, kl);
        for (int64_t i = 0; i < n; i++) {
            if (!rc && !isfinite(kl[i]))
                rc = fail(EX_DATAERR, "the logits for token %lld of the text are not finite",
                          (long long)(p->window->start + p->first + i));
            d->sums[MODEL_NLL].sum[group] += q_nll[i];
            d->sums[REFERENCE_NLL].sum[group] += p_nll[i];
            d->sums[DIFFERENCE].sum[group] += q_nll[i] - p_nll[i];
            d->sums[KL].sum[group] += kl[i];
            d->sums[AGREEMENT].sum[group] += top[i] == top[n + i];
        }
        for (int i = 0; i < N_SUMS; i++)
            d->sums[i].count[group] += n;
        d->done += n;
    }
    free(value);
    free(top);
    return rc;
}

/* A model's logits of rows that are all, or some, of the chunk at hand. */
static int take_model(void *context, int64_t first, int64_t n, const float *logits)
{
    struct scoring *scoring = context;
    const struct chunk *p = scoring->chunk;
    int64_t past = first - p->row, vocab = scoring->reference->loader.config.vocab_size;
    struct chunk reference = {p->window, p->first + past, n, first, p->logits + past * vocab};
    struct chunk model = {p->window, p->first + past, n, first, logits};

    return compare(scoring->reference, scoring->current, &reference, &model);
}

static int take_reference(void *context, const struct chunk *chunk)
{
    struct scoring *scoring = context;
    int rc = EX_OK;

    scoring->chunk = chunk;
    for (int i = 0; i < scoring->count && !rc; i++) {
        struct subject *model = scoring->divergence[i].model;

        scoring->current = &scoring->divergence[i];
        rc = pass_logits(&model->forward, &model->hidden, &model->head, chunk->row, chunk->n, take_model, scoring);
    }
    return rc;
}

int divergence_score(struct subject *reference, const struct windows *windows, struct divergence *divergence,
                     int count)
{
    struct scoring scoring = {.reference = reference, .divergence = divergence, .count = count};

    for (int i = 0; i < count; i++) {
        for (int k = 0; k < N_SUMS; k++)
            sums_begin(&divergence[i].sums[k], windows->groups);
        divergence[i].each = xmallocarray((size_t)windows->scored, sizeof *divergence[i].each);
        divergence[i].done = 0;
    }
    return subject_each(reference, windows, take_reference, &scoring);
}

void divergence_end(struct divergence *divergence)
{
    for (int i = 0; i < N_SUMS; i++)
        sums_free(&divergence->sums[i]);
    free(divergence->each);
    *divergence = (struct divergence){0};
}

double divergence_ratio(const struct divergence *divergence, double *error)
{
    double ratio = exp(sums_mean(&divergence->sums[DIFFERENCE]));

    *error = ratio * sums_error(&divergence->sums[DIFFERENCE]);
    return ratio;
}

struct pair {
    struct subject model, reference;
    struct passage passage;
    struct divergence divergence;
};

static int compare_ids(const struct pair *pair, const struct ids *other)
{
    const struct ids *ids = &pair->passage.ids;
    size_t n = ids->count < other->count ? ids->count : other->count, at = 0;

    while (at < n && ids->id[at] == other->id[at])
        at++;
    if (ids->count == other->count && at == n)
        return EX_OK;
    if (at < n)
        return fail(EX_DATAERR, "the tokenizers differ: token %zu of the text is %ld for '%s', %ld for '%s'", at,
                    (long)ids->id[at], loader_name(&pair->model.loader), (long)other->id[at],
                    loader_name(&pair->reference.loader));
    return fail(EX_DATAERR, "the tokenizers differ: the text is %zu tokens for '%s', %zu for '%s'", ids->count,
                loader_name(&pair->model.loader), other->count, loader_name(&pair->reference.loader));
}

/* Tokens and windows that hold for both. */
static int prepare(struct pair *pair, const struct text_options *options)
{
    const struct config *model = &pair->model.loader.config, *reference = &pair->reference.loader.config;
    struct ids other = {0};
    int rc;

    if (model->vocab_size != reference->vocab_size)
        return fail(EX_DATAERR, "'%s' has a vocabulary of %lld, the reference '%s' of %lld: not to be compared",
                    loader_name(&pair->model.loader), (long long)model->vocab_size,
                    loader_name(&pair->reference.loader), (long long)reference->vocab_size);
    if (!(rc = passage_tokenize(&pair->passage, pair->model.tokenizer, options, &pair->passage.ids))
        && !(rc = passage_tokenize(&pair->passage, pair->reference.tokenizer, options, &other))
        && !(rc = compare_ids(pair, &other)))
        rc = passage_cut(&pair->passage, model->max_position < reference->max_position ? model->max_position :
                         reference->max_position, options);
    ids_free(&other);
    return rc;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Of n sorted values, linear between ranks. */
static double quantile(const double *sorted, int64_t n, double part)
{
    double place = part * (double)(n - 1);
    int64_t below = (int64_t)place, above = below + 1 < n ? below + 1 : below;

    return sorted[below] + (place - (double)below) * (sorted[above] - sorted[below]);
}

static void put_mean(struct json *report, const char *name, const struct sums *sums)
{
    char *error = xasprintf("%s_standard_error", name);

    json_put(report, name, json_make_number(sums_mean(sums)));
    json_put(report, error, json_make_number(sums_error(sums)));
    free(error);
}

static struct json *make_report(struct pair *pair, const struct stopwatch *stopwatch)
{
    const struct divergence *d = &pair->divergence;
    double perplexity = exp(sums_mean(&d->sums[MODEL_NLL])), before = exp(sums_mean(&d->sums[REFERENCE_NLL]));
    double error, ratio = divergence_ratio(d, &error);
    struct json *report = report_start("kl");
    char *about = error_text(error);
    int64_t n = d->done;

    qsort(d->each, (size_t)n, sizeof *d->each, ascending);
    put_mean(report, "kl", &d->sums[KL]);
    json_put(report, "kl_p99", json_make_number(quantile(d->each, n, 0.99)));
    json_put(report, "kl_max", json_make_number(d->each[n - 1]));
    put_mean(report, "agreement", &d->sums[AGREEMENT]);
    json_put(report, "perplexity", json_make_number(perplexity));
    json_put(report, "reference_perplexity", json_make_number(before));
    json_put(report, "perplexity_ratio", json_make_number(ratio));
    json_put(report, "perplexity_ratio_standard_error", json_make_number(error));
    json_put(report, "nll", json_make_number(sums_mean(&d->sums[MODEL_NLL])));
    json_put(report, "reference_nll", json_make_number(sums_mean(&d->sums[REFERENCE_NLL])));
    passage_report(report, &pair->passage);
    report_model(report, "model", &pair->model.loader);
    report_model(report, "reference", &pair->reference.loader);
    report_finish(report, &pair->model.loader, stopwatch, 2 * pair->passage.windows.fed);
    note("KL %.5f, the same token first for %.2f%%, perplexity %.4f against %.4f, %.4f%s times, on %lld tokens",
         sums_mean(&d->sums[KL]), 100 * sums_mean(&d->sums[AGREEMENT]), perplexity, before, ratio, about,
         (long long)n);
    free(about);
    return report;
}

static void pair_close(struct pair *pair)
{
    divergence_end(&pair->divergence);
    subject_close(&pair->model);
    subject_close(&pair->reference);
    passage_close(&pair->passage);
}

int divergence_run(const struct measure *measure, const char *model, const char *reference, const char *text,
                   const struct text_options *options, struct json **report)
{
    struct stopwatch stopwatch;
    struct pair pair = {.model.hidden.fd = -1, .reference.hidden.fd = -1, .divergence.model = &pair.model};
    int rc = passage_one_stream((const char *const[]){model, reference, text}, 3);

    *report = NULL;
    stopwatch_start(&stopwatch);
    if (!rc && !(rc = passage_open(&pair.passage, text, options))
        && !(rc = subject_open(&pair.reference, measure, reference))
        && !(rc = subject_open(&pair.model, measure, model))
        && !(rc = prepare(&pair, options))
        && !(rc = subject_run(&pair.reference, &pair.passage.windows, measure->memory / 2))
        && !(rc = subject_run(&pair.model, &pair.passage.windows, measure->memory / 2))
        && !(rc = divergence_score(&pair.reference, &pair.passage.windows, &pair.divergence, 1)))
        *report = make_report(&pair, &stopwatch);
    pair_close(&pair);
    return rc;
}

/* divergence.c - two models on the same windows: both go through all blocks, one after the other, then their logits
 * stand side by side, chunk by chunk. */
#include "base/memory.h"
#include "measure/passage.h"
#include "measure/perplexity.h"
#include "measure/report.h"

#include <math.h>
#include <stdlib.h>

enum { MODEL_NLL, REFERENCE_NLL, DIFFERENCE, KL, AGREEMENT, N_SUMS };

struct pair {
    struct subject model, reference;
    struct passage passage;
    struct sums sums[N_SUMS];    /* by window */
    double *each;                /* KL of every predicted token */
    int64_t done;
    const struct chunk *chunk;   /* of the reference, while the model's logits come */
};

/* Both models' logits of the same tokens. */
static int compare(struct pair *pair, const struct chunk *p, const struct chunk *q)
{
    const struct device *device = pair->reference.measure->device;
    int64_t group = p->window->group, n = p->n;
    double *value = xmallocarray((size_t)n, 4 * sizeof *value), *kl = pair->each + pair->done;
    double *p_lse = value, *q_lse = value + n, *p_nll = value + 2 * n, *q_nll = value + 3 * n;
    int32_t *top = xmallocarray((size_t)n, 2 * sizeof *top);
    int rc = chunk_score(&pair->reference, p, p_lse, top, p_nll);

    if (!rc && !(rc = chunk_score(&pair->model, q, q_lse, top + n, q_nll))) {
        device->divergence(p->logits, p_lse, q->logits, q_lse, n, pair->model.loader.config.vocab_size, kl);
        for (int64_t i = 0; i < n; i++) {
            if (!rc && !isfinite(kl[i]))
                rc = fail(EX_DATAERR, "the logits for token %lld of the text are not finite",
                          (long long)(p->window->start + p->first + i));
            pair->sums[MODEL_NLL].sum[group] += q_nll[i];
            pair->sums[REFERENCE_NLL].sum[group] += p_nll[i];
            pair->sums[DIFFERENCE].sum[group] += q_nll[i] - p_nll[i];
            pair->sums[KL].sum[group] += kl[i];
            pair->sums[AGREEMENT].sum[group] += top[i] == top[n + i];
        }
        for (int i = 0; i < N_SUMS; i++)
            pair->sums[i].count[group] += n;
        pair->done += n;
    }
    free(value);
    free(top);
    return rc;
}

/* The model's logits of rows that are all, or some, of the chunk at hand. */
static int take_model(void *context, int64_t first, int64_t n, const float *logits)
{
    struct pair *pair = context;
    const struct chunk *p = pair->chunk;
    int64_t past = first - p->row, vocab = pair->model.loader.config.vocab_size;
    struct chunk reference = {p->window, p->first + past, n, first, p->logits + past * vocab};
    struct chunk model = {p->window, p->first + past, n, first, logits};

    return compare(pair, &reference, &model);
}

static int take_reference(void *context, const struct chunk *chunk)
{
    struct pair *pair = context;

    pair->chunk = chunk;
    return pass_logits(&pair->model.forward, &pair->model.hidden, &pair->model.head, chunk->row, chunk->n, take_model,
                       pair);
}

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

static int score(struct pair *pair)
{
    int64_t groups = pair->passage.windows.groups;

    for (int i = 0; i < N_SUMS; i++)
        sums_begin(&pair->sums[i], groups);
    pair->each = xmallocarray((size_t)pair->passage.windows.scored, sizeof *pair->each);
    return subject_each(&pair->reference, &pair->passage.windows, take_reference, pair);
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
    double ratio = exp(sums_mean(&pair->sums[DIFFERENCE])), error = ratio * sums_error(&pair->sums[DIFFERENCE]);
    double perplexity = exp(sums_mean(&pair->sums[MODEL_NLL])), before = exp(sums_mean(&pair->sums[REFERENCE_NLL]));
    struct json *report = report_start("kl");
    char *about = error_text(error);
    int64_t n = pair->done;

    qsort(pair->each, (size_t)n, sizeof *pair->each, ascending);
    put_mean(report, "kl", &pair->sums[KL]);
    json_put(report, "kl_p99", json_make_number(quantile(pair->each, n, 0.99)));
    json_put(report, "kl_max", json_make_number(pair->each[n - 1]));
    put_mean(report, "agreement", &pair->sums[AGREEMENT]);
    json_put(report, "perplexity", json_make_number(perplexity));
    json_put(report, "reference_perplexity", json_make_number(before));
    json_put(report, "perplexity_ratio", json_make_number(ratio));
    json_put(report, "perplexity_ratio_standard_error", json_make_number(error));
    json_put(report, "nll", json_make_number(sums_mean(&pair->sums[MODEL_NLL])));
    json_put(report, "reference_nll", json_make_number(sums_mean(&pair->sums[REFERENCE_NLL])));
    passage_report(report, &pair->passage);
    report_model(report, "model", &pair->model.loader);
    report_model(report, "reference", &pair->reference.loader);
    report_finish(report, &pair->model.loader, stopwatch, 2 * pair->passage.windows.fed);
    note("KL %.5f, the same token first for %.2f%%, perplexity %.4f against %.4f, %.4f%s times, on %lld tokens",
         sums_mean(&pair->sums[KL]), 100 * sums_mean(&pair->sums[AGREEMENT]), perplexity, before, ratio, about,
         (long long)n);
    free(about);
    return report;
}

static void pair_close(struct pair *pair)
{
    free(pair->each);
    for (int i = 0; i < N_SUMS; i++)
        sums_free(&pair->sums[i]);
    subject_close(&pair->model);
    subject_close(&pair->reference);
    passage_close(&pair->passage);
}

int divergence_run(const struct measure *measure, const char *model, const char *reference, const char *text,
                   const struct text_options *options, struct json **report)
{
    struct stopwatch stopwatch;
    struct pair pair = {.model.hidden.fd = -1, .reference.hidden.fd = -1};
    int rc = passage_one_stream((const char *const[]){model, reference, text}, 3);

    *report = NULL;
    stopwatch_start(&stopwatch);
    if (!rc && !(rc = passage_open(&pair.passage, text, options))
        && !(rc = subject_open(&pair.reference, measure, reference))
        && !(rc = subject_open(&pair.model, measure, model))
        && !(rc = prepare(&pair, options))
        && !(rc = subject_run(&pair.reference, &pair.passage.windows, measure->memory / 2))
        && !(rc = subject_run(&pair.model, &pair.passage.windows, measure->memory / 2))
        && !(rc = score(&pair)))
        *report = make_report(&pair, &stopwatch);
    pair_close(&pair);
    return rc;
}

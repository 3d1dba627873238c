/* subject.c - a model goes through windows, and tells the logits of what they predict. */
#include "base/memory.h"
#include "base/progress.h"
#include "measure/windows.h"

#include <math.h>
#include <stdlib.h>

int subject_open(struct subject *subject, const struct measure *measure, const char *model)
{
    int rc;

    *subject = (struct subject){.measure = measure, .hidden.fd = -1};
    if ((rc = loader_open(&subject->loader, model, measure->device, measure->activations)))
        return rc;
    subject->opened = true;
    return loader_tokenizer(&subject->loader, &subject->tokenizer);
}

int subject_run(struct subject *subject, const struct windows *windows, int64_t memory)
{
    struct sequence *sequence = xmallocarray((size_t)windows->count, sizeof *sequence);
    int rc;

    for (int64_t w = 0; w < windows->count; w++)
        sequence[w] = (struct sequence){windows->window[w].token, windows->window[w].n - 1, -1};
    forward_begin(&subject->forward, subject->measure->device, &subject->loader.config);
    rc = pass_run(&subject->loader, &subject->forward, sequence, windows->count, memory, &subject->hidden,
                  &subject->embedding, &subject->head);
    if (rc)
        forward_end(&subject->forward);
    subject->run = !rc;
    free(sequence);
    return rc;
}

void subject_close(struct subject *subject)
{
    if (subject->run) {
        head_free(&subject->head, subject->measure->device);
        apply_free(subject->embedding);
        hidden_close(&subject->hidden);
        forward_end(&subject->forward);
    }
    tokenizer_close(subject->tokenizer);
    if (subject->opened)
        loader_close(&subject->loader);
    *subject = (struct subject){.hidden.fd = -1};
}

struct each {
    const struct window *window;
    int64_t row;                 /* of the hidden states: the window's first */
    int (*take)(void *context, const struct chunk *chunk);
    void *context;
};

static int take_logits(void *context, int64_t first, int64_t n, const float *logits)
{
    const struct each *each = context;
    struct chunk chunk = {each->window, first - each->row + 1, n, first, logits};

    return each->take(each->context, &chunk);
}

int subject_each(struct subject *subject, const struct windows *windows,
                 int (*take)(void *context, const struct chunk *chunk), void *context)
{
    struct each each = {.take = take, .context = context};
    int rc = EX_OK;

    progress_start("windows", windows->count);
    for (int64_t w = 0; w < windows->count && !rc; w++) {
        const struct window *window = each.window = &windows->window[w];

        rc = pass_logits(&subject->forward, &subject->hidden, &subject->head, each.row + window->from - 1,
                         window->n - window->from, take_logits, &each);
        each.row += window->n - 1;
        progress_step("scoring");
    }
    progress_stop();
    return rc;
}

int chunk_score(const struct subject *subject, const struct chunk *chunk, double *lse, int32_t *argmax, double *nll)
{
    const struct device *device = subject->measure->device;
    const struct window *window = chunk->window;
    int64_t vocab = subject->loader.config.vocab_size;

    device->log_sum_exp(chunk->logits, chunk->n, vocab, lse, argmax);
    for (int64_t i = 0; i < chunk->n; i++) {
        int64_t at = chunk->first + i;
        float logit;

        device->download(&logit, chunk->logits + i * vocab + window->token[at], sizeof logit);
        nll[i] = lse[i] - (double)logit;
        if (!isfinite(nll[i])) {
            char *where = window->of_document ? xasprintf("document %lld", (long long)window->group) :
                                                xstrdup("the text");
            int rc = fail(EX_DATAERR, "'%s': the logits for token %lld of %s are not finite",
                          loader_name(&subject->loader), (long long)(window->start + at), where);

            free(where);
            return rc;
        }
    }
    return EX_OK;
}

struct likelihood {
    const struct subject *subject;
    struct sums *nll;
};

static int add_chunk(void *context, const struct chunk *chunk)
{
    const struct likelihood *likelihood = context;
    int64_t group = chunk->window->group;
    double *lse = xmallocarray((size_t)chunk->n, 2 * sizeof *lse), *nll = lse + chunk->n;
    int rc = chunk_score(likelihood->subject, chunk, lse, NULL, nll);

    for (int64_t i = 0; i < chunk->n && !rc; i++)
        likelihood->nll->sum[group] += nll[i];
    likelihood->nll->count[group] += chunk->n;
    free(lse);
    return rc;
}

int subject_nll(struct subject *subject, const struct windows *windows, struct sums *nll)
{
    sums_begin(nll, windows->groups);
    return subject_each(subject, windows, add_chunk, &(struct likelihood){subject, nll});
}

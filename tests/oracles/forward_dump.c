/* forward_dump - runs a model on token ids, for tests/oracles/forward_oracle.py and by hand.
 *
 *     forward_dump logits  DEVICE MODEL IDS OUT [BYTES]  layer by layer: f32 logits of all tokens; hidden states above
 *                                                        so many BYTES (1 GiB) go to a file
 *     forward_dump network DEVICE MODEL IDS OUT          resident: f32 logits behind each sequence
 *     forward_dump greedy  DEVICE MODEL IDS OUT [N]      resident: N (64) most likely tokens that follow, a line each
 *
 * MODEL may be "-". IDS is a text file, a line of token ids for each sequence. THREADS in the environment: how many. */
#include "base/file.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/network.h"
#include "model/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    const struct device *device;
    const char *model;
    struct sequence *sequence;
    int count;
    FILE *out;
    int64_t number;              /* -1: not given */
};

static void add_line(struct job *job, const char *line)
{
    int32_t *token = NULL;
    char *end = NULL;
    int64_t n = 0;

    for (long id = strtol(line, &end, 10); end != line; id = strtol(line, &end, 10)) {
        token = xreallocarray(token, (size_t)n + 1, sizeof *token);
        token[n++] = (int32_t)id;
        line = end;
    }
    job->sequence = xreallocarray(job->sequence, (size_t)job->count + 1, sizeof *job->sequence);
    job->sequence[job->count++] = (struct sequence){.token = token, .n = n, .parent = -1};
}

static int read_ids(struct job *job, const char *path)
{
    struct text text = {0};
    int rc = file_read(path, 1 << 28, &text);
    char *rest = text.data, *line;

    while (!rc && (line = strsep(&rest, "\n")))
        if (*line)
            add_line(job, line);
    text_free(&text);
    return rc;
}

static int write_logits(const struct job *job, const float *logits, int64_t count)
{
    float *host = xmallocarray((size_t)count, sizeof *host);
    size_t put;

    job->device->download(host, logits, (size_t)count * sizeof *host);
    put = fwrite(host, sizeof *host, (size_t)count, job->out);
    free(host);
    return put == (size_t)count ? EX_OK : fail(EX_IOERR, "cannot write logits:");
}

struct taking {
    const struct job *job;
    int64_t vocab;
};

static int take_logits(void *context, int64_t first, int64_t n, const float *logits)
{
    const struct taking *taking = context;

    (void)first;
    return write_logits(taking->job, logits, n * taking->vocab);
}

static int run_logits(const struct job *job, struct loader *loader)
{
    struct taking taking = {.job = job, .vocab = loader->config.vocab_size};
    struct applied *embedding;
    struct forward forward;
    struct hidden hidden;
    struct head head;
    int64_t memory = job->number < 0 ? (int64_t)1 << 30 : job->number;
    int rc;

    forward_begin(&forward, job->device, &loader->config);
    if (!(rc = pass_run(loader, &forward, job->sequence, job->count, memory, &hidden, &embedding, &head))) {
        rc = pass_logits(&forward, &hidden, &head, 0, hidden.rows, take_logits, &taking);
        hidden_close(&hidden);
        head_free(&head, job->device);
        apply_free(embedding);
    }
    forward_end(&forward);
    return rc;
}

/* The logits behind all sequences, and the state to go on from. */
static float *advance_all(const struct job *job, struct network *network, struct cache *cache)
{
    struct advance *advance = xcalloc((size_t)job->count, sizeof *advance);
    float *logits = job->device->allocate((size_t)(job->count * network->config.vocab_size) * sizeof *logits);

    for (int i = 0; i < job->count; i++)
        advance[i] = (struct advance){&cache[i], job->sequence[i].token, job->sequence[i].n};
    network_advance(network, advance, job->count, logits);
    free(advance);
    return logits;
}

static int run_network(const struct job *job, struct network *network, struct cache *cache)
{
    float *logits = advance_all(job, network, cache);
    int rc = write_logits(job, logits, job->count * network->config.vocab_size);

    job->device->release(logits);
    return rc;
}

static int run_greedy(const struct job *job, struct network *network, struct cache *cache)
{
    int64_t steps = job->number < 0 ? 64 : job->number;
    float *logits = advance_all(job, network, cache);
    struct advance *advance = xcalloc((size_t)job->count, sizeof *advance);
    int32_t *next = xcalloc((size_t)(job->count * steps), sizeof *next);
    int32_t *best = xcalloc((size_t)job->count, sizeof *best);

    for (int64_t step = 0; step < steps; step++) {
        job->device->log_sum_exp(logits, job->count, network->config.vocab_size, NULL, best);
        for (int i = 0; i < job->count; i++) {
            next[i * steps + step] = best[i];
            advance[i] = (struct advance){&cache[i], &next[i * steps + step], 1};
        }
        if (step < steps - 1)
            network_advance(network, advance, job->count, logits);
    }
    for (int64_t i = 0; i < job->count * steps; i++)
        fprintf(job->out, "%d%c", next[i], i % steps == steps - 1 ? '\n' : ' ');
    job->device->release(logits);
    free(advance);
    free(next);
    free(best);
    return EX_OK;
}

static int run_resident(const struct job *job, struct loader *loader, const char *mode)
{
    struct cache *cache = xcalloc((size_t)job->count, sizeof *cache);
    struct network network;
    int rc = network_load(&network, loader);

    if (!rc && !strcmp(mode, "network"))
        rc = run_network(job, &network, cache);
    else if (!rc)
        rc = run_greedy(job, &network, cache);
    for (int i = 0; i < job->count; i++)
        cache_free(&cache[i], &network);
    network_free(&network);
    free(cache);
    return rc;
}

static int run(const struct job *job, const char *mode)
{
    struct loader loader;
    int rc = loader_open(&loader, job->model, job->device, ACTIVATIONS_F32);

    if (rc)
        return rc;
    rc = !strcmp(mode, "logits") ? run_logits(job, &loader) : run_resident(job, &loader, mode);
    loader_close(&loader);
    return rc;
}

int main(int argc, char **argv)
{
    struct job job = {.number = -1};
    int rc;

    error_program("forward_dump");
    if (argc < 6 || !(job.device = device_find(argv[2])))
        return fail(EX_USAGE, "usage: forward_dump logits|network|greedy DEVICE MODEL IDS OUT [NUMBER]");
    if (getenv("THREADS"))
        parallel_set(atoi(getenv("THREADS")));
    job.model = argv[3];
    if (argc > 6)
        job.number = strtoll(argv[6], NULL, 10);
    if ((rc = read_ids(&job, argv[4])))
        return rc;
    if (!(job.out = fopen(argv[5], "w")))
        return fail(EX_CANTCREAT, "cannot create '%s':", argv[5]);
    rc = run(&job, argv[1]);
    if (fclose(job.out) && !rc)
        rc = fail(EX_IOERR, "cannot write '%s':", argv[5]);
    for (int i = 0; i < job.count; i++)
        free((void *)job.sequence[i].token);
    free(job.sequence);
    return rc;
}

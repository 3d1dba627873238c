/* bench_prompt - how long a resident model takes for a prompt, logits of all positions.
 *
 *     bench_prompt [MODEL [TOKENS]]
 *
 * With MODEL: for each line on standard input, the seconds of one pass over TOKENS (512) tokens, so that prompt.py can
 * take turns with another program. Without: stories260K, the median of seven. THREADS in the environment: how many. */
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/network.h"

#include <stdio.h>
#include <stdlib.h>

struct prompt {
    struct network network;
    int32_t *token;
    int64_t n;
    struct span span;
    float *x, *logits;
};

static double run(struct prompt *p)
{
    struct forward *forward = &p->network.forward;
    double began = clock_seconds();

    embed(forward, p->network.embedding, p->token, p->n, p->x);
    for (int64_t layer = 0; layer < p->network.config.n_layer; layer++)
        block_forward(forward, &p->network.block[layer], layer, &p->span, 1, p->x, p->n);
    head_logits(forward, &p->network.head, p->x, p->n, p->logits);
    return clock_seconds() - began;
}

static float *rows(const struct prompt *p, int64_t width)
{
    return p->network.device->allocate((size_t)(p->n * width) * sizeof(float));
}

static int open_prompt(struct prompt *p, const char *model)
{
    const struct config *c = &p->network.config;
    struct loader loader;
    int rc = loader_open(&loader, model, &device_cpu, ACTIVATIONS_F32);

    if (rc)
        return rc;
    rc = network_load(&p->network, &loader);
    loader_close(&loader);
    if (rc)
        return rc;
    p->token = xmallocarray((size_t)p->n, sizeof *p->token);
    for (int64_t i = 0; i < p->n; i++)
        p->token[i] = (int32_t)(i * 7919 % c->vocab_size);
    p->x = rows(p, c->d_model);
    p->logits = rows(p, c->vocab_size);
    p->span = (struct span){.n = p->n, .k = rows(p, c->n_kv_head * c->head_dim)};
    p->span.v = rows(p, c->n_kv_head * c->head_dim);
    return EX_OK;
}

static void close_prompt(struct prompt *p)
{
    const struct device *device = p->network.device;

    device->release(p->x);
    device->release(p->logits);
    device->release(p->span.k);
    device->release(p->span.v);
    free(p->token);
    network_free(&p->network);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void run_alone(struct prompt *p)
{
    double took[7];

    for (int i = 0; i < 7; i++)
        took[i] = run(p);
    qsort(took, 7, sizeof *took, ascending);
    printf("prompt: stories260K, %lld tokens, logits of all: %.0f tokens/s\n", (long long)p->n, (double)p->n / took[3]);
}

int main(int argc, char **argv)
{
    const char *top = getenv("TOP");
    char *stories = file_join(top ? top : ".", "pipelines/models/stories260K");
    struct prompt prompt = {.n = argc > 2 ? strtoll(argv[2], NULL, 10) : 512};
    int rc;

    error_program("bench_prompt");
    if (getenv("THREADS"))
        parallel_set(atoi(getenv("THREADS")));
    rc = open_prompt(&prompt, argc > 1 ? argv[1] : stories);
    free(stories);
    if (rc)
        return rc;
    if (argc < 2)
        run_alone(&prompt);
    while (argc > 1 && getchar() != EOF) {
        printf("%.6f\n", run(&prompt));
        fflush(stdout);
    }
    close_prompt(&prompt);
    return EX_OK;
}

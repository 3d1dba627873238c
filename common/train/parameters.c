/* parameters.c - lists what is trained, and adds gradients of micro-batches. */
#include "train/parameters.h"
#include "base/memory.h"
#include "base/number.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

unsigned selection_classes(void *context, const char *name)
{
    const struct selection *selection = context;

    if (!strcmp(name, "model.embed_tokens.weight") || (selection->match && !globs_match(selection->match, name))
        || (selection->blocks && !strcmp(name, "lm_head.weight")))
        return 0;
    return selection->classes & (TRAIN_CORES | TRAIN_SCALES | TRAIN_MATRICES);
}

struct listing {
    struct parameters *parameters;
    const struct selection *selection;
    const char *name;
    struct applied *applied;
};

/* Of scales and minima their root mean square as it is now; all others have 1. */
static double unit_of(const struct parameters *p, unsigned class, const struct trainable *trainable)
{
    double squares = class == TRAIN_SCALES ? p->device->sum_squares(trainable->values, trainable->count) : 0;

    return squares > 0 && isfinite(squares) ? sqrt(squares / (double)trainable->count) : 1;
}

static void add(struct listing *l, unsigned class, const struct trainable *trainable)
{
    struct parameters *p = l->parameters;

    p->list = xreallocarray(p->list, (size_t)p->count + 1, sizeof *p->list);
    p->list[p->count++] = (struct parameter){.name = xstrdup(l->name), .class = class, .applied = l->applied,
                                             .trainable = *trainable, .first = p->floats,
                                             .unit = unit_of(p, class, trainable)};
    p->floats += divide_up(trainable->count, RANKS_LINE) * RANKS_LINE;
}

static void see(void *context, const struct trainable *trainable)
{
    add(context, trainable->train, trainable);
}

static void list_matrix(struct listing *l, const char *name, struct applied *applied)
{
    l->name = name;
    l->applied = applied;
    if (applied)
        apply_trainable(applied, see, l);
}

static void list_norm(struct listing *l, const char *name, float *weight, int64_t count, float **gradient)
{
    l->name = name;
    l->applied = NULL;
    if (weight && l->selection->classes & TRAIN_NORMS
        && (!l->selection->match || globs_match(l->selection->match, name)))
        add(l, TRAIN_NORMS, &(struct trainable){.values = weight, .count = count, .gradient = gradient});
}

/* Norms of a block, and where their gradients go. */
static const struct {
    const char *name;
    size_t weight, gradient;
    bool of_head;                /* [head_dim] */
} norms[] = {
    {"input_layernorm.weight", offsetof(struct block, input_norm), offsetof(struct block_gradients, input_norm), false},
    {"post_attention_layernorm.weight", offsetof(struct block, post_norm), offsetof(struct block_gradients, post_norm),
     false},
    {"self_attn.q_norm.weight", offsetof(struct block, q_norm), offsetof(struct block_gradients, q_norm), true},
    {"self_attn.k_norm.weight", offsetof(struct block, k_norm), offsetof(struct block_gradients, k_norm), true},
};

static void list_block(struct listing *l, struct network *network, int64_t layer)
{
    struct block *block = &network->block[layer];
    struct block_gradients *gradients = &l->parameters->block[layer];

    for (int i = 0; i < BLOCK_PLACES; i++) {
        const struct block_place *place = &block_places[i];
        char *name = xasprintf("model.layers.%lld.%s", (long long)layer, place->name);
        void *at = (char *)block + place->offset;

        if (place->matrix)
            list_matrix(l, name, *(struct applied **)at);
        for (size_t k = 0; k < sizeof norms / sizeof *norms; k++)
            if (!strcmp(norms[k].name, place->name))
                list_norm(l, name, *(float **)at, norms[k].of_head ? network->config.head_dim : network->config.d_model,
                          (float **)(void *)((char *)gradients + norms[k].gradient));
        free(name);
    }
}

static float *zeros(const struct device *device, int64_t floats)
{
    float *memory = device->allocate((size_t)floats * sizeof *memory);

    device->clear(memory, floats);
    return memory;
}

/* Into segments. */
static void cut(struct parameters *p)
{
    p->block_segment = xcalloc((size_t)p->n_layer + 2, sizeof *p->block_segment);
    for (int64_t block = 0; block <= p->n_layer; block++) {
        p->block_segment[block] = p->segments;
        for (int64_t first = p->block_first[block], n; first < p->block_first[block + 1]; first += n) {
            n = least(p->block_first[block + 1] - first, RANKS_FLOATS);
            p->segment = xreallocarray(p->segment, (size_t)p->segments + 1, sizeof *p->segment);
            p->segment[p->segments++] = (struct segment){.first = first, .count = n};
        }
    }
    p->block_segment[p->n_layer + 1] = p->segments;
}

bool parameters_find(struct parameters *parameters, struct network *network, const struct selection *selection)
{
    struct parameters *p = parameters;
    struct listing l = {.parameters = p, .selection = selection};

    *p = (struct parameters){.device = network->device, .n_layer = network->config.n_layer,
                             .first_layer = network->config.n_layer,
                             .block = xcalloc((size_t)network->config.n_layer, sizeof *p->block),
                             .block_first = xcalloc((size_t)network->config.n_layer + 2, sizeof *p->block_first)};
    for (int64_t layer = 0; layer < p->n_layer; layer++) {
        int before = p->count;

        p->block_first[layer] = p->floats;
        list_block(&l, network, layer);
        if (p->count > before && p->first_layer == p->n_layer)
            p->first_layer = layer;
    }
    p->block_first[p->n_layer] = p->floats;
    if (!selection->blocks)
        list_norm(&l, "model.norm.weight", network->head.norm, network->config.d_model, &p->head_norm);
    list_matrix(&l, "lm_head.weight", network->head.own);
    p->block_first[p->n_layer + 1] = p->floats;
    if (!p->count) {
        parameters_close(p);
        return false;
    }
    p->gradient = zeros(p->device, p->floats);
    for (int i = 0; i < p->count; i++)
        *p->list[i].trainable.gradient = p->gradient + p->list[i].first;
    cut(p);
    parameters_share(p, 0, 1, false);
    return true;
}

int parameters_open(struct parameters *parameters, struct network *network, const struct selection *selection)
{
    if (!parameters_find(parameters, network, selection))
        return fail(EX_USAGE, "nothing to train: the model has none of the numbers asked for");
    return EX_OK;
}

void parameters_share(struct parameters *p, int rank, int count, bool shard)
{
    p->moments = 0;
    for (int i = 0; i < p->segments; i++) {
        struct segment *s = &p->segment[i];
        int64_t first = shard ? ranks_part(s->count, rank, count) : 0;
        int64_t end = shard ? ranks_part(s->count, rank + 1, count) : s->count;

        s->mine = s->first + first;
        s->mine_count = end - first;
        s->moments = p->moments;
        p->moments += s->mine_count;
    }
}

bool parameters_stretch(const struct parameters *p, int64_t first, int64_t end, int *at, struct stretch *stretch)
{
    for (; *at < p->count; ++*at) {
        const struct parameter *one = &p->list[*at];
        int64_t from = most(first, one->first), to = least(end, one->first + one->trainable.count);

        if (from >= to)
            continue;
        *stretch = (struct stretch){one, from - one->first, to - from, from};
        return ++*at, true;
    }
    return false;
}

void parameters_close(struct parameters *parameters)
{
    struct parameters *p = parameters;

    if (!p->device)
        return;
    for (int i = 0; i < p->count; i++)
        free(p->list[i].name);
    for (size_t i = 0; i < sizeof p->level / sizeof *p->level; i++)
        p->device->release(p->level[i]);
    p->device->release(p->gradient);
    p->device->release(p->mean);
    p->device->release(p->square);
    free(p->list);
    free(p->block);
    free(p->block_first);
    free(p->block_segment);
    free(p->segment);
    *p = (struct parameters){0};
}

int64_t parameters_count(const struct parameters *parameters, unsigned classes)
{
    int64_t sum = 0;

    for (int i = 0; i < parameters->count; i++)
        if (parameters->list[i].class & classes)
            sum += parameters->list[i].trainable.count;
    return sum;
}

void parameters_clear(struct parameters *p)
{
    p->device->clear(p->gradient, p->floats);
}

void parameters_moments(struct parameters *p)
{
    if (p->mean)
        return;
    p->mean = zeros(p->device, most(p->moments, 1));
    p->square = zeros(p->device, most(p->moments, 1));
}

void parameters_copy(const struct device *device, float *y, const float *x, int64_t n)
{
    int64_t whole = n / RANKS_LINE * RANKS_LINE;

    device->copy(y, RANKS_LINE, x, RANKS_LINE, n / RANKS_LINE, RANKS_LINE);
    device->copy(y + whole, 1, x + whole, 1, n - whole, 1);
}

void parameters_carry(struct parameters *p)
{
    int i = 0;

    for (; p->full[i]; i++) {
        p->device->add_scaled(p->gradient, p->level[i], 1, p->floats);
        p->full[i] = false;
    }
    if (!p->level[i])
        p->level[i] = p->device->allocate((size_t)p->floats * sizeof *p->level[i]);
    parameters_copy(p->device, p->level[i], p->gradient, p->floats);
    p->full[i] = true;
    parameters_clear(p);
}

/* The last one would take the place of the first level that is free, and the sum goes up from there. */
void parameters_add(struct parameters *p, int64_t first, int64_t count)
{
    for (size_t i = 0; i < sizeof p->level / sizeof *p->level; i++)
        if (p->full[i])
            p->device->add_scaled(p->gradient + first, p->level[i] + first, 1, count);
}

void parameters_added(struct parameters *p)
{
    memset(p->full, 0, sizeof p->full);
}

void parameter_download(const struct parameters *p, const struct parameter *parameter, const float *from, float *host)
{
    if (parameter->applied)
        apply_download(parameter->applied, &parameter->trainable, from, host);
    else
        p->device->download(host, from, (size_t)parameter->trainable.count * sizeof *host);
}

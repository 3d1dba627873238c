/* network.c - a resident model, token by token. */
#include "model/network.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/progress.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { CACHE_LEAST = 64 };       /* tokens */

static int load_blocks(struct network *network, struct loader *loader)
{
    char label[32];
    int rc = EX_OK;

    for (int64_t layer = 0; layer < network->config.n_layer && !rc; layer++) {
        snprintf(label, sizeof label, "layer %lld", (long long)layer);
        progress_step(label);
        if (!(rc = loader_block(loader, layer, &network->block[layer])))
            network->bytes += block_bytes(&network->block[layer]);
    }
    return rc;
}

void network_begin(struct network *network, const struct loader *loader)
{
    *network = (struct network){.config = loader->config, .device = loader->device};
    forward_begin(&network->forward, network->device, &network->config);
    network->block = xcalloc((size_t)network->config.n_layer, sizeof *network->block);
}

int network_block(struct network *network, struct loader *loader, int64_t layer)
{
    int rc;

    for (int64_t i = 0; i < layer; i++)
        block_free(&network->block[i], network->device);
    network->bytes = 0;
    if ((rc = loader_seek(loader, layer)) || (rc = loader_block(loader, layer, &network->block[layer])))
        return rc;
    network->bytes = block_bytes(&network->block[layer]);
    return EX_OK;
}

int network_load(struct network *network, struct loader *loader)
{
    int rc;

    network_begin(network, loader);
    progress_start("loading", network->config.n_layer);
    if (!(rc = loader_embedding(loader, &network->embedding)) && !(rc = load_blocks(network, loader)))
        rc = loader_head(loader, network->embedding, &network->head);
    progress_stop();
    if (rc) {
        network_free(network);
        return rc;
    }
    network->bytes += apply_bytes(network->embedding) + network->config.d_model * (int64_t)sizeof(float);
    network->bytes += network->head.own ? apply_bytes(network->head.own) : 0;
    inform("'%s': weights take %lld bytes on device '%s'", loader_name(loader), (long long)network->bytes,
           network->device->name);
    return EX_OK;
}

void network_free(struct network *network)
{
    if (!network->device)
        return;
    for (int64_t layer = 0; layer < network->config.n_layer; layer++)
        block_free(&network->block[layer], network->device);
    free(network->block);
    head_free(&network->head, network->device);
    apply_free(network->embedding);
    forward_end(&network->forward);
    network->device->release(network->x);
    free(network->token);
    free(network->span);
    *network = (struct network){0};
}

void cache_free(struct cache *cache, const struct network *network)
{
    for (int64_t layer = 0; cache->k && layer < network->config.n_layer; layer++) {
        network->device->release(cache->k[layer]);
        network->device->release(cache->v[layer]);
    }
    free(cache->k);
    free(cache->v);
    *cache = (struct cache){0};
}

void cache_cut(struct cache *cache, int64_t n)
{
    assert(n >= 0 && n <= cache->n);
    cache->n = n;
}

/* A longer copy of rows of so many floats; the old one goes. */
static float *longer(const struct device *device, float *old, int64_t rows, int64_t capacity, int64_t width)
{
    float *grown = device->allocate((size_t)(capacity * width) * sizeof *grown);

    if (rows)
        device->copy(grown, width, old, width, rows, width);
    device->release(old);
    return grown;
}

static void cache_reserve(struct cache *cache, const struct network *network, int64_t n)
{
    const struct config *c = &network->config;
    int64_t capacity = cache->capacity ? 2 * cache->capacity : CACHE_LEAST, width = c->n_kv_head * c->head_dim;

    if (n <= cache->capacity)
        return;
    if (!cache->k) {
        cache->k = xcalloc((size_t)c->n_layer, sizeof *cache->k);
        cache->v = xcalloc((size_t)c->n_layer, sizeof *cache->v);
    }
    capacity = capacity < c->max_position ? capacity : c->max_position;
    capacity = capacity > n ? capacity : n;
    for (int64_t layer = 0; layer < c->n_layer; layer++) {
        cache->k[layer] = longer(network->device, cache->k[layer], cache->n, capacity, width);
        cache->v[layer] = longer(network->device, cache->v[layer], cache->n, capacity, width);
    }
    cache->capacity = capacity;
}

static void make_room(struct network *network, int64_t rows, int64_t spans)
{
    const struct device *device = network->device;

    if (rows > network->rows) {
        device->release(network->x);
        network->x = device->allocate((size_t)(rows * network->config.d_model) * sizeof *network->x);
        network->token = xreallocarray(network->token, (size_t)rows, sizeof *network->token);
        network->rows = rows;
    }
    if (spans > network->spans) {
        network->span = xreallocarray(network->span, (size_t)spans, sizeof *network->span);
        network->spans = spans;
    }
}

/* Tokens and spans of all sequences, and room for their keys and values; how many rows they are. */
static int64_t gather(struct network *network, const struct advance *advance, int count)
{
    int64_t rows = 0;

    for (int i = 0; i < count; i++)
        rows += advance[i].n;
    make_room(network, rows, count);
    rows = 0;
    for (int i = 0; i < count; i++) {
        struct cache *cache = advance[i].cache;

        assert(advance[i].n > 0);
        cache_reserve(cache, network, cache->n + advance[i].n);
        network->span[i] = (struct span){.first = rows, .n = advance[i].n, .past = cache->n};
        for (int64_t k = 0; k < advance[i].n; k++)
            network->token[rows++] = advance[i].token[k];
    }
    return rows;
}

/* The last row of each sequence moves to the front: row i's place is never behind that of the row that goes there. */
static void keep_last(struct network *network, int count)
{
    int64_t d_model = network->config.d_model;

    for (int i = 0; i < count; i++) {
        int64_t last = network->span[i].first + network->span[i].n - 1;

        if (last > i)
            network->device->copy(network->x + i * d_model, d_model, network->x + last * d_model, d_model, 1, d_model);
    }
}

void network_advance(struct network *network, const struct advance *advance, int count, float *logits)
{
    int64_t rows = gather(network, advance, count);

    embed(&network->forward, network->embedding, network->token, rows, network->x);
    for (int64_t layer = 0; layer < network->config.n_layer; layer++) {
        for (int i = 0; i < count; i++) {
            network->span[i].k = advance[i].cache->k[layer];
            network->span[i].v = advance[i].cache->v[layer];
        }
        block_forward(&network->forward, &network->block[layer], layer, network->span, count, network->x, rows);
    }
    for (int i = 0; i < count; i++)
        advance[i].cache->n += advance[i].n;
    keep_last(network, count);
    head_logits(&network->forward, &network->head, network->x, count, logits);
}

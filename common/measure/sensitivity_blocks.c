/* sensitivity_blocks.c - the blocks of a model, more than once. */
#include "measure/sensitivity_internal.h"

#include <stdlib.h>

static void forget(struct supply *supply)
{
    block_free(&supply->block, supply->measure->device);
    if (supply->open)
        loader_close(&supply->loader);
    supply->open = false;
}

static int reopen(struct supply *supply)
{
    struct applied *embedding;
    int rc;

    forget(supply);
    if ((rc = loader_open(&supply->loader, supply->path, supply->measure->device, supply->measure->activations)))
        return rc;
    supply->open = true;
    supply->layer = -1;
    rc = loader_embedding(&supply->loader, &embedding);
    apply_free(embedding);
    return rc;
}

int supply_block(struct supply *supply, int64_t layer, const struct block **block)
{
    int rc = EX_OK;

    *block = supply->resident ? &supply->resident[layer] : &supply->block;
    if (supply->resident || (supply->open && supply->layer == layer))
        return EX_OK;
    if (!supply->open || layer < supply->layer)
        rc = reopen(supply);
    while (!rc && supply->layer < layer) {
        block_free(&supply->block, supply->measure->device);
        rc = loader_block(&supply->loader, ++supply->layer, &supply->block);
    }
    return rc;
}

void supply_close(struct supply *supply)
{
    if (!supply->measure)
        return;
    forget(supply);
    for (int64_t layer = 0; supply->resident && layer < supply->n_layer; layer++)
        block_free(&supply->resident[layer], supply->measure->device);
    free(supply->resident);
    *supply = (struct supply){0};
}

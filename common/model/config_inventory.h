/* config_inventory.h - holds the records of a model against what its configuration promises: shapes while they come,
 * the missing ones at the end. */
#ifndef MODEL_CONFIG_INVENTORY_H
#define MODEL_CONFIG_INVENTORY_H

#include "model/config.h"
#include "stream/record.h"

struct inventory {
    const struct config *config; /* borrowed */
    bool *seen;                  /* by number of the expected tensor */
    int64_t out, in;             /* of the chain so far */
};

/* Starts an empty one. */
void inventory_open(struct inventory *inventory, const struct config *config);

/* Takes the next record in stream order (no payload needed; order and wholeness of chains are record_after()'s).
 * EX_DATAERR where a tensor or the product of a chain has another shape than expected, or a layer isn't of this
 * model. Other names that aren't expected pass; where names the input in messages. */
int inventory_take(struct inventory *inventory, const struct record *record, const char *where);

/* EX_DATAERR where a required tensor of this layer didn't come; where names the input. */
int inventory_layer_complete(const struct inventory *inventory, int64_t layer, const char *where);

/* EX_DATAERR where a required tensor didn't come: whole missing layers are named by number, single tensors by
 * name. */
int inventory_complete(struct inventory *inventory);

void inventory_close(struct inventory *inventory);

#endif

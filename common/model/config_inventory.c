/* config_inventory.c - what a model must have against what came. */
#include "model/config_inventory.h"
#include "base/error.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 3 };              /* missing tensors that are named; of the others only the number is said */

void inventory_open(struct inventory *inventory, const struct config *config)
{
    *inventory = (struct inventory){.config = config};
    inventory->seen = xcalloc((size_t)config_expected_count(config), sizeof *inventory->seen);
}

static char *shape_text(int rank, const int64_t *shape)
{
    struct text text = {0};

    text_append(&text, "[", 1);
    for (int axis = 0; axis < rank; axis++)
        text_format(&text, "%s%lld", axis ? "," : "", (long long)shape[axis]);
    text_append(&text, "]", 1);
    return text.data;
}

static int compare_shape(const char *where, const char *name, int rank, const int64_t *shape,
                         const struct expected *expected)
{
    char *got, *wanted;

    if (rank == expected->rank && !memcmp(shape, expected->shape, (size_t)rank * sizeof *shape))
        return EX_OK;
    got = shape_text(rank, shape);
    wanted = shape_text(expected->rank, expected->shape);
    fail(EX_DATAERR, "'%s': '%s': shape %s, expected %s by the configuration", where, name, got, wanted);
    free(got);
    free(wanted);
    return EX_DATAERR;
}

/* A core adds its part to the size of the matrix; with the last one of a chain the size is held against the
 * expected. */
static int take_core(struct inventory *inventory, const struct record *core, const char *where)
{
    struct expected expected;
    int64_t number = config_expects(inventory->config, core->name, &expected);
    int rc;

    if (core->site == 0)
        inventory->out = inventory->in = 1;
    if (!size_multiply(inventory->out, core->shape[1], &inventory->out)
        || !size_multiply(inventory->in, core->shape[2], &inventory->in))
        return fail(EX_DATAERR, "'%s': '%s': its cores make up too large a matrix", where, core->name);
    if (core->site < core->n_site - 1 || number < 0)
        return EX_OK;
    if ((rc = compare_shape(where, core->name, 2, (int64_t[]){inventory->out, inventory->in}, &expected)))
        return rc;
    inventory->seen[number] = core->term == core->n_term - 1;
    return EX_OK;
}

int inventory_take(struct inventory *inventory, const struct record *record, const char *where)
{
    struct expected expected;
    int64_t number, block;
    int rc;

    if (record->kind == RECORD_FILE)
        return EX_OK;
    if (record_section(record->name, &block) == SECTION_BLOCKS && block >= inventory->config->n_layer)
        return fail(EX_DATAERR, "'%s': '%s': the configuration has %lld layers only", where, record->name,
                    (long long)inventory->config->n_layer);
    if (record->kind == RECORD_CORE)
        return take_core(inventory, record, where);
    if (record->kind != RECORD_TENSOR || (number = config_expects(inventory->config, record->name, &expected)) < 0)
        return EX_OK;
    if ((rc = compare_shape(where, record->name, record->rank, record->shape, &expected)))
        return rc;
    inventory->seen[number] = true;
    return EX_OK;
}

static int64_t layer_slots(const struct config *config)
{
    return (config_expected_count(config) - 3) / config->n_layer;
}

/* Required tensors first..first+count-1 that didn't come: how many, the first ones by name. */
static int64_t list_missing(const struct inventory *inventory, int64_t first, int64_t count, struct text *names)
{
    int64_t missing = 0;

    for (int64_t i = first; i < first + count; i++) {
        struct expected expected;

        config_expected(inventory->config, i, &expected);
        if (inventory->seen[i] || !expected.required)
            continue;
        if (missing++ < NAMED)
            text_format(names, "%s'%s'", names->length ? ", " : "", expected.name);
    }
    if (missing > NAMED)
        text_format(names, " and %lld more", (long long)missing - NAMED);
    return missing;
}

int inventory_layer_complete(const struct inventory *inventory, int64_t layer, const char *where)
{
    int64_t slots = layer_slots(inventory->config), first = 1 + layer * slots;
    struct text names = {0};
    int rc = EX_OK;

    if (!memchr(inventory->seen + first, 1, (size_t)slots))
        rc = fail(EX_DATAERR, "'%s': layer %lld is missing; the configuration has %lld", where, (long long)layer,
                  (long long)inventory->config->n_layer);
    else if (list_missing(inventory, first, slots, &names))
        rc = fail(EX_DATAERR, "'%s': layer %lld is incomplete: missing %s", where, (long long)layer, names.data);
    text_free(&names);
    return rc;
}

/* The layers of which nothing came, as "3, 8-15"; their tensors count as named. NULL where there are none. */
static char *missing_layers(struct inventory *inventory)
{
    const struct config *config = inventory->config;
    int64_t slots = layer_slots(config), first = -1;
    struct text list = {0};

    for (int64_t layer = 0; layer <= config->n_layer; layer++) {
        bool *seen = inventory->seen + 1 + layer * slots;
        bool missing = layer < config->n_layer && !memchr(seen, 1, (size_t)slots);

        if (missing) {
            memset(seen, true, (size_t)slots);
            first = first < 0 ? layer : first;
        } else if (first >= 0) {
            text_format(&list, "%s%lld", list.length ? ", " : "", (long long)first);
            if (layer - 1 > first)
                text_format(&list, "-%lld", (long long)layer - 1);
            first = -1;
        }
    }
    return list.data;
}

int inventory_complete(struct inventory *inventory)
{
    char *layers = missing_layers(inventory);
    struct text names = {0};
    int64_t missing = list_missing(inventory, 0, config_expected_count(inventory->config), &names);

    if (layers || missing)
        fail(EX_DATAERR, "the model is incomplete: missing %s%s%s%s", layers ? "layers " : "", layers ? layers : "",
             layers && missing ? ", and " : "", missing ? names.data : "");
    text_free(&names);
    if (layers || missing) {
        free(layers);
        return EX_DATAERR;
    }
    return EX_OK;
}

void inventory_close(struct inventory *inventory)
{
    free(inventory->seen);
    *inventory = (struct inventory){0};
}

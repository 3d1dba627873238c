/* model.c - tells containers apart and keeps their items in stream order. */
#include "files/model.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct item *model_add(struct model *model, struct record *record)
{
    struct item *item;

    if ((model->n_item & (model->n_item - 1)) == 0)
        model->item = xreallocarray(model->item, model->n_item ? 2 * model->n_item : 1, sizeof *model->item);
    item = &model->item[model->n_item++];
    *item = (struct item){.record = *record, .file = -1, .stored_bytes = record->bytes};
    *record = (struct record){0};
    return item;
}

void model_add_memory(struct model *model, const char *name, void *data, size_t size)
{
    struct record record = record_file(name, (int64_t)size);

    model_add(model, &record)->detail = data;
}

static int compare_items(const void *a, const void *b)
{
    return record_compare(&((const struct item *)a)->record, &((const struct item *)b)->record);
}

static int sort_items(struct model *model)
{
    qsort(model->item, model->n_item, sizeof *model->item, compare_items);
    for (size_t i = 0; i <= model->n_item; i++) {
        const struct record *last = i ? &model->item[i - 1].record : &(struct record){0};
        const char *trouble = record_after(last, i < model->n_item ? &model->item[i].record : NULL);

        if (trouble)
            return fail(EX_DATAERR, "cannot read '%s': '%s': %s", model->path,
                        i < model->n_item ? model->item[i].record.name : last->name, trouble);
    }
    return EX_OK;
}

int model_open(struct model *model, const char *path)
{
    struct stat about;
    int rc;

    *model = (struct model){0};
    if (stat(path, &about))
        return fail(EX_NOINPUT, "cannot open '%s':", path);
    model->path = xstrdup(path);
    model->name = file_basename(path);
    model->history = json_make_array();
    rc = S_ISDIR(about.st_mode) ? directory_open(model, path) : gguf_open(model, path);
    if (!rc)
        rc = sort_items(model);
    if (rc)
        model_close(model);
    return rc;
}

void model_close(struct model *model)
{
    if (model->container)
        model->container->close(model);
    for (size_t i = 0; i < model->n_item; i++)
        record_free(&model->item[i].record);
    free(model->item);
    free(model->path);
    free(model->name);
    json_drop(model->config);
    json_drop(model->history);
    *model = (struct model){0};
}

/* checkpoint.c - records into shards, companion files, config.json and index. */
#include "files/checkpoint.h"
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int checkpoint_open(struct checkpoint *checkpoint, const char *path, const struct checkpoint_options *options)
{
    *checkpoint = (struct checkpoint){.options = *options, .shard.fd = -1, .file.fd = -1, .where = json_make_object(),
                                      .maps = json_make_array()};
    return staging_open(&checkpoint->staging, path, options->replace);
}

/* Names of shards are known once their number is. */
static char *shard_path(const struct checkpoint *checkpoint, int64_t number)
{
    return xasprintf("%s/shard-%05lld", checkpoint->staging.part, (long long)number);
}

static char *shard_name(const struct checkpoint *checkpoint, int64_t number)
{
    if (checkpoint->n_shard == 1)
        return xstrdup(DIRECTORY_SINGLE);
    return xasprintf("model-%05lld-of-%05lld.safetensors", (long long)number, (long long)checkpoint->n_shard);
}

/* True where the model was only read: nothing that its tensors don't tell themselves. */
static bool history_is_trivial(const struct json *history)
{
    for (size_t i = 0; i < json_count(history); i++)
        if (strcmp(json_as_string(json_at(json_item(history, i), "program"), ""), "extract-layer"))
            return false;
    return true;
}

static void put_text(struct json *metadata, const char *key, const struct json *value)
{
    char *text = json_write(value, 0);

    json_put(metadata, key, json_make_string(text));
    free(text);
}

static int finish_shard(struct checkpoint *checkpoint)
{
    struct json *metadata = json_make_object();
    int rc;

    json_put(metadata, "format", json_make_string("pt"));
    if (json_count(checkpoint->maps))
        put_text(metadata, DIRECTORY_LAPIDARY, checkpoint->maps);
    if (!history_is_trivial(checkpoint->options.history))
        put_text(metadata, DIRECTORY_HISTORY, checkpoint->options.history);
    checkpoint->data += checkpoint->shard.bytes;
    rc = safetensors_finish(&checkpoint->shard, metadata);
    json_drop(checkpoint->maps);
    checkpoint->maps = json_make_array();
    json_drop(metadata);
    return rc;
}

/* A shard with room for bytes more: a record is never cut, so a large one may exceed the limit alone. */
static int choose_shard(struct checkpoint *checkpoint, int64_t bytes)
{
    bool open = checkpoint->shard.fd >= 0;
    char *path;
    int rc = EX_OK;

    if (open && (!checkpoint->shard.bytes || bytes <= checkpoint->options.shard_limit - checkpoint->shard.bytes))
        return EX_OK;
    if (open)
        rc = finish_shard(checkpoint);
    if (rc)
        return rc;
    path = shard_path(checkpoint, ++checkpoint->n_shard);
    rc = safetensors_create(&checkpoint->shard, path);
    free(path);
    return rc;
}

static int begin_plane(struct checkpoint *checkpoint)
{
    const struct plane *plane = &checkpoint->plane[checkpoint->next_plane++];

    if (!strncmp(plane->name, SAFETENSORS_FILLER, sizeof SAFETENSORS_FILLER - 1)
        || !strcmp(plane->name, "__metadata__"))
        return fail(EX_DATAERR, "cannot write '%s': the name '%s' has a meaning of its own in safetensors files",
                    checkpoint->staging.path, plane->name);
    if (json_at(checkpoint->where, plane->name))
        return fail(EX_DATAERR, "cannot write '%s': '%s' is the name of two stored tensors", checkpoint->staging.path,
                    plane->name);
    json_put(checkpoint->where, plane->name, json_make_int(checkpoint->n_shard));
    return safetensors_begin(&checkpoint->shard, plane->name, plane->dtype, plane->rank, plane->shape);
}

static int begin_weight(struct checkpoint *checkpoint, struct record *record)
{
    int64_t elements = 1;
    int rc = choose_shard(checkpoint, record->bytes);

    if (rc)
        return rc;
    if (!directory_is_plain(record)) {
        checkpoint->own = true;
        json_append(checkpoint->maps, json_clone(record->map));
    }
    for (int axis = 0; axis < record->rank; axis++)
        elements *= record->shape[axis];         /* dtype_payload() has bounded the product */
    checkpoint->parameters += record->kind == RECORD_OTHER ? 0 : elements;
    checkpoint->n_tensor++;
    checkpoint->n_plane = directory_planes(record, checkpoint->plane);
    checkpoint->next_plane = 0;
    while (!rc && checkpoint->next_plane < checkpoint->n_plane && checkpoint->plane[checkpoint->next_plane].at == 0)
        rc = begin_plane(checkpoint);
    return rc;
}

static int begin_file(struct checkpoint *checkpoint, const struct record *record)
{
    size_t length = strlen(record->name), tail = strlen(".safetensors");
    char *path;
    int rc = EX_OK;

    if (!strcmp(record->name, DIRECTORY_CONFIG))
        return EX_OK;
    if (!strcmp(record->name, DIRECTORY_INDEX) || !strncmp(record->name, "shard-", 6)
        || (length >= tail && !strcmp(record->name + length - tail, ".safetensors")))
        return fail(EX_DATAERR, "cannot write '%s': a companion file '%s' would stand in the way of the weights",
                    checkpoint->staging.path, record->name);
    path = file_join(checkpoint->staging.part, record->name);
    rc = output_open(&checkpoint->file, path, false);
    free(path);
    return rc;
}

int checkpoint_begin(struct checkpoint *checkpoint, struct record *record)
{
    checkpoint->record = record;
    checkpoint->at = 0;
    return record->kind == RECORD_FILE ? begin_file(checkpoint, record) : begin_weight(checkpoint, record);
}

/* A piece of a weight's payload to the planes it belongs to; the padding between them is dropped. */
static int add_to_planes(struct checkpoint *checkpoint, const char *data, size_t size)
{
    int64_t from = checkpoint->at, end = from + (int64_t)size;
    int rc = EX_OK;

    for (int p = 0; p < checkpoint->n_plane && !rc; p++) {
        const struct plane *plane = &checkpoint->plane[p];
        int64_t first = plane->at > from ? plane->at : from;
        int64_t last = plane->at + plane->bytes < end ? plane->at + plane->bytes : end;

        if (first >= last)
            continue;
        while (!rc && checkpoint->next_plane <= p)
            rc = begin_plane(checkpoint);
        if (!rc)
            rc = safetensors_add(&checkpoint->shard, data + (first - from), (size_t)(last - first));
    }
    return rc;
}

int checkpoint_add(struct checkpoint *checkpoint, const void *data, size_t size)
{
    int rc = EX_OK;

    if (checkpoint->record->kind != RECORD_FILE)
        rc = add_to_planes(checkpoint, data, size);
    else if (checkpoint->file.fd >= 0)
        rc = output_write(&checkpoint->file, data, size);
    else
        text_append(&checkpoint->config_text, data, size);
    checkpoint->at += (int64_t)size;
    return rc;
}

int checkpoint_finish(struct checkpoint *checkpoint)
{
    int rc = EX_OK;

    if (checkpoint->at != checkpoint->record->bytes)
        return fail(EX_SOFTWARE, "'%s': %lld bytes, expected %lld", checkpoint->record->name, (long long)checkpoint->at,
                    (long long)checkpoint->record->bytes);
    /* Planes of no bytes. */
    while (checkpoint->record->kind != RECORD_FILE && !rc && checkpoint->next_plane < checkpoint->n_plane)
        rc = begin_plane(checkpoint);
    if (checkpoint->file.fd >= 0) {
        rc = output_commit(&checkpoint->file);
        output_close(&checkpoint->file);
    }
    checkpoint->record = NULL;
    return rc;
}

static int put_file(struct checkpoint *checkpoint, const char *name, const char *text)
{
    char *path = file_join(checkpoint->staging.part, name);
    struct output output;
    int rc = output_open(&output, path, false);

    if (!rc)
        rc = output_write(&output, text, strlen(text));
    if (!rc)
        rc = output_commit(&output);
    output_close(&output);
    free(path);
    return rc;
}

/* The config.json of Lapidary's own directories: a model_type that no other loader knows, so that none fills the
 * weights it doesn't find with random numbers. */
static char *wrap_config(const struct checkpoint *checkpoint, const struct json *config, const char *original)
{
    struct json *wrapped = json_make_object(), *architectures = json_make_array();
    char *text = json_document(config);

    json_append(architectures, json_make_string("LapidaryForCausalLM"));
    json_put(wrapped, "model_type", json_make_string(DIRECTORY_LAPIDARY));
    json_put(wrapped, "architectures", architectures);
    json_put(wrapped, "lapidary_version", json_make_int(DIRECTORY_VERSION));
    json_put(wrapped, "history",
             checkpoint->options.history ? json_clone(checkpoint->options.history) : json_make_array());
    json_put(wrapped, "original_config", json_clone(config));
    if (strcmp(text, original))          /* so that the original bytes come back */
        json_put(wrapped, "original_config_text", json_make_string(original));
    free(text);
    text = json_document(wrapped);
    json_drop(wrapped);
    return text;
}

static int write_config(struct checkpoint *checkpoint)
{
    struct text *came = &checkpoint->config_text;
    struct json *config = NULL;
    char *made;
    int rc = EX_OK;

    if (!came->length && !checkpoint->options.config)
        return fail(EX_DATAERR, "cannot write '%s': the streams hold no configuration", checkpoint->staging.path);
    if (!came->length) {
        made = json_document(checkpoint->options.config);
        text_append(came, made, strlen(made));
        free(made);
    }
    if (strlen(came->data) != came->length)
        rc = fail(EX_DATAERR, "cannot write '%s': config.json is not JSON text", checkpoint->staging.path);
    else if (!(config = json_parse(came->data, came->length, DIRECTORY_CONFIG)))
        rc = EX_DATAERR;
    else if (checkpoint->options.config && !json_same(config, checkpoint->options.config))
        rc = fail(EX_DATAERR, "cannot write '%s': config.json and the streams' headers tell of different models",
                  checkpoint->staging.path);
    else if (!checkpoint->own)
        rc = put_file(checkpoint, DIRECTORY_CONFIG, came->data);
    else {
        made = wrap_config(checkpoint, config, came->data);
        rc = put_file(checkpoint, DIRECTORY_CONFIG, made);
        free(made);
    }
    json_drop(config);
    return rc;
}

/* Gives the shards their names; more than one get an index. */
static int name_shards(struct checkpoint *checkpoint)
{
    struct json *index = json_make_object(), *map = json_make_object(), *metadata = json_make_object();
    struct stat about;
    int rc = EX_OK;

    for (int64_t n = 1; n <= checkpoint->n_shard && !rc; n++) {
        char *from = shard_path(checkpoint, n), *name = shard_name(checkpoint, n);
        char *to = file_join(checkpoint->staging.part, name);

        if (rename(from, to) || stat(to, &about))
            rc = fail(EX_CANTCREAT, "cannot rename '%s':", from);
        else
            checkpoint->bytes += about.st_size;
        free(from);
        free(name);
        free(to);
    }
    for (void *m = json_first(checkpoint->where); m; m = json_following(checkpoint->where, m)) {
        char *name = shard_name(checkpoint, json_as_int(json_value(m), 0));

        json_put(map, json_key(m), json_make_string(name));
        free(name);
    }
    json_put(metadata, "total_size", json_make_int(checkpoint->data));
    json_put(index, "metadata", metadata);
    json_put(index, "weight_map", map);
    if (!rc && checkpoint->n_shard > 1) {
        char *text = json_document(index);

        rc = put_file(checkpoint, DIRECTORY_INDEX, text);
        free(text);
    }
    json_drop(index);
    return rc;
}

int checkpoint_commit(struct checkpoint *checkpoint)
{
    /* A model without weights gets a file without tensors. */
    int rc = checkpoint->n_shard ? EX_OK : choose_shard(checkpoint, 0);

    if (!rc)
        rc = finish_shard(checkpoint);
    if (!rc)
        rc = name_shards(checkpoint);
    if (!rc)
        rc = write_config(checkpoint);
    return rc ? rc : staging_commit(&checkpoint->staging);
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    safetensors_close(&checkpoint->shard);
    output_close(&checkpoint->file);
    staging_close(&checkpoint->staging);
    json_drop(checkpoint->maps);
    json_drop(checkpoint->where);
    text_free(&checkpoint->config_text);
    *checkpoint = CHECKPOINT_CLOSED;
}

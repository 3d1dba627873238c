/* directory.c - opens model directories: config.json, shards of safetensors, companion files. Nothing is mapped into
 * memory, so a file that shrinks while it is read gives a message, not a signal. */
#include "files/directory.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "stream/writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_LIMIT = 16 << 20 };        /* bytes of a config.json */

static const char *const companions[] = {
    DIRECTORY_CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
};

static bool exists(const char *directory, const char *name)
{
    char *path = file_join(directory, name);
    struct stat about;
    bool there = !stat(path, &about) && S_ISREG(about.st_mode);

    free(path);
    return there;
}

static int add_file(struct directory *directory, const char *path, const char *name)
{
    struct open_file *file;
    int rc;

    directory->file = xreallocarray(directory->file, directory->n_file + 1, sizeof *directory->file);
    file = &directory->file[directory->n_file];
    *file = (struct open_file){.fd = -1, .path = file_join(path, name)};
    if ((rc = file_open(file->path, &file->fd, &file->size)))
        free(file->path);
    else
        directory->n_file++;
    return rc;
}

static int add_shard(struct directory *directory, const char *path, const char *name)
{
    struct open_file *file;
    int rc = add_file(directory, path, name);

    if (rc)
        return rc;
    file = &directory->file[directory->n_file - 1];
    directory->n_shard = directory->n_file;
    return safetensors_read(&file->shard, file->fd, file->path, file->size);
}

/* The shards of an index, each once, in the order in which it names them. */
static int add_shards(struct directory *directory, const char *path, const struct json *map)
{
    int rc = EX_OK;

    for (void *m = json_first(map); m && !rc; m = json_following(map, m)) {
        const char *name = json_as_string(json_value(m), NULL);
        bool known = false;

        if (!name || !name[0] || name[0] == '.' || strchr(name, '/'))
            return fail(EX_DATAERR, "cannot read '%s': the index names no file of this directory for '%.200s'", path,
                        json_key(m));
        for (size_t i = 0; i < directory->n_file && !known; i++)
            known = !strcmp(strrchr(directory->file[i].path, '/') + 1, name);
        if (!known)
            rc = add_shard(directory, path, name);
    }
    return rc;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct weight *)a)->entry->name, ((const struct weight *)b)->entry->name);
}

struct weight *directory_find(struct directory *directory, const char *name)
{
    struct safetensors_entry entry = {.name = (char *)(uintptr_t)name};
    struct weight key = {.entry = &entry};

    return bsearch(&key, directory->weight, directory->n_weight, sizeof key, compare_names);
}

/* One list of the weights of all shards, sorted by name; fillers are left out. */
static int collect_weights(struct directory *directory, const char *path)
{
    size_t total = 0;

    for (size_t f = 0; f < directory->n_shard; f++)
        total += directory->file[f].shard.n_entry;
    directory->weight = xcalloc(total + 1, sizeof *directory->weight);
    for (size_t f = 0; f < directory->n_shard; f++)
        for (size_t i = 0; i < directory->file[f].shard.n_entry; i++) {
            const struct safetensors_entry *entry = &directory->file[f].shard.entry[i];

            if (strncmp(entry->name, SAFETENSORS_FILLER, sizeof SAFETENSORS_FILLER - 1))
                directory->weight[directory->n_weight++] = (struct weight){.entry = entry, .file = (int)f};
        }
    qsort(directory->weight, directory->n_weight, sizeof *directory->weight, compare_names);
    for (size_t i = 1; i < directory->n_weight; i++)
        if (!compare_names(&directory->weight[i - 1], &directory->weight[i]))
            return fail(EX_DATAERR, "cannot read '%s': '%s' stands in two shards", path,
                        directory->weight[i].entry->name);
    return EX_OK;
}

/* Each weight must lie where the index says, and none beside it. */
static int check_index(struct directory *directory, const char *path, const struct json *map)
{
    size_t promised = 0;

    for (void *m = json_first(map); m; m = json_following(map, m)) {
        const struct weight *weight = directory_find(directory, json_key(m));
        const char *name = json_as_string(json_value(m), "");

        if (!strncmp(json_key(m), SAFETENSORS_FILLER, sizeof SAFETENSORS_FILLER - 1))
            continue;
        if (!weight || strcmp(strrchr(directory->file[weight->file].path, '/') + 1, name))
            return fail(EX_DATAERR, "cannot read '%s': '%.200s' is not in '%s', where the index says", path,
                        json_key(m),
                        name);
        promised++;
    }
    for (size_t i = 0; promised != directory->n_weight && i < directory->n_weight; i++)
        if (!json_at(map, directory->weight[i].entry->name))
            return fail(EX_DATAERR, "cannot read '%s': '%s' is not in the index", path,
                        directory->weight[i].entry->name);
    return EX_OK;
}

static int open_indexed(struct directory *directory, const char *path)
{
    char *name = file_join(path, DIRECTORY_INDEX);
    struct json *index = NULL;
    const struct json *map;
    int rc = json_load(name, &index);

    map = json_at(index, "weight_map");
    if (!rc && json_kind(map) != JSON_KIND_OBJECT)
        rc = fail(EX_DATAERR, "cannot read '%s': no 'weight_map' in it", name);
    if (!rc)
        rc = add_shards(directory, path, map);
    if (!rc)
        rc = collect_weights(directory, path);
    if (!rc)
        rc = check_index(directory, path, map);
    json_drop(index);
    free(name);
    return rc;
}

static int open_weights(struct directory *directory, const char *path)
{
    int rc;

    if (exists(path, DIRECTORY_SINGLE)) {
        rc = add_shard(directory, path, DIRECTORY_SINGLE);
        return rc ? rc : collect_weights(directory, path);
    }
    if (exists(path, DIRECTORY_INDEX))
        return open_indexed(directory, path);
    if (exists(path, "pytorch_model.bin") || exists(path, "pytorch_model.bin.index.json"))
        return fail(EX_DATAERR, "cannot read '%s': its weights are PyTorch pickles, which can run programs: "
                    "save them as safetensors first", path);
    return fail(EX_NOINPUT, "cannot open '%s': neither '%s' nor '%s' in it", path, DIRECTORY_SINGLE, DIRECTORY_INDEX);
}

static int add_tensors(struct model *model, struct directory *directory)
{
    for (size_t i = 0; i < directory->n_weight; i++) {
        const struct weight *weight = &directory->weight[i];
        const struct safetensors_entry *entry = weight->entry;
        struct record record;
        struct item *item;

        if (weight->used)
            continue;
        if (!entry->known)
            return fail(EX_DATAERR, "cannot read '%s': '%s': dtype %s is not supported",
                        directory->file[weight->file].path, entry->name, entry->stored);
        record = record_tensor(entry->name, entry->dtype, entry->rank, entry->shape);
        item = model_add(model, &record);
        item->file = weight->file;
        item->place[0] = entry->at;
        memcpy(item->stored, entry->stored, sizeof entry->stored);
    }
    return EX_OK;
}

/* config.json comes from elsewhere where the directory is Lapidary's. */
static int add_companions(struct model *model, struct directory *directory, bool lapidary)
{
    for (size_t i = lapidary; i < sizeof companions / sizeof *companions; i++) {
        struct record record;
        struct item *item;
        int rc;

        if (!exists(model->path, companions[i]))
            continue;
        if ((rc = add_file(directory, model->path, companions[i])))
            return rc;
        record = record_file(companions[i], directory->file[directory->n_file - 1].size);
        item = model_add(model, &record);
        item->file = (int)directory->n_file - 1;
        strcpy(item->stored, "file");
    }
    return EX_OK;
}

/* The same for every way of cutting the model into shards: the records' hashes are summed. */
static uint64_t identify(const struct model *model, const struct text *config)
{
    uint64_t parts[2] = {hash_of(config->data, config->length), 0};

    for (size_t i = 0; i < model->n_item; i++)
        if (model->item[i].record.kind != RECORD_FILE) {
            char *map = json_write(model->item[i].record.map, 0);

            parts[1] += hash_of(map, strlen(map));
            free(map);
        }
    return hash_of(parts, sizeof parts);
}

/* The history that a dense model of ours carries in its weights' metadata: the first shard that has one speaks. */
static int read_history(struct model *model, const struct directory *directory)
{
    for (size_t f = 0; f < directory->n_shard; f++) {
        const struct json *text = json_at(directory->file[f].shard.metadata, DIRECTORY_HISTORY);
        struct json *history;

        if (!text)
            continue;
        if (!(history = json_parse(json_as_string(text, ""), json_as_length(text), DIRECTORY_HISTORY)))
            return EX_DATAERR;
        if (!history_good(history)) {
            json_drop(history);
            return fail(EX_DATAERR, "cannot read '%s': its " DIRECTORY_HISTORY " is not an array of {program, version, "
                        "options}", directory->file[f].path);
        }
        json_drop(model->history);
        model->history = history;
        break;
    }
    return EX_OK;
}

static int read_payload(const struct model *model, const struct item *item, int64_t from, size_t size, void *to)
{
    const struct directory *directory = model->state;
    const struct open_file *file = &directory->file[item->file < 0 ? 0 : item->file];

    assert(from >= 0 && (int64_t)size <= item->record.bytes - from);
    if (item->file >= 0 && dtype_is_packed(item->record.dtype) && item->record.kind != RECORD_OTHER)
        return directory_read_planes(file, item, from, size, to);
    if (item->file >= 0)
        return file_read_at(file->fd, file->path, to, size, item->place[0] + from);
    memcpy(to, (const char *)item->detail + from, size);
    return EX_OK;
}

static void close_directory(struct model *model)
{
    struct directory *directory = model->state;

    for (size_t i = 0; i < directory->n_file; i++) {
        close(directory->file[i].fd);
        free(directory->file[i].path);
        safetensors_free(&directory->file[i].shard);
    }
    for (size_t i = 0; i < model->n_item; i++)
        free(model->item[i].detail);
    free(directory->weight);
    free(directory->file);
    free(directory);
    model->state = NULL;
}

static const struct container plain = {"safetensors", read_payload, close_directory};
static const struct container lapidary = {"lapidary", read_payload, close_directory};

static int load_config(const char *path, struct text *text, struct json **config)
{
    char *name = file_join(path, DIRECTORY_CONFIG);
    int rc = file_read(name, CONFIG_LIMIT, text);

    if (!rc && !(*config = json_parse(text->data, text->length, name)))
        rc = EX_DATAERR;
    if (!rc && json_kind(*config) != JSON_KIND_OBJECT)
        rc = fail(EX_DATAERR, "cannot read '%s': not an object", name);
    free(name);
    return rc;
}

/* Everything behind config.json. */
static int fill_model(struct model *model, struct directory *directory, const struct json *config)
{
    bool own = model->container == &lapidary;
    int rc = own ? directory_lapidary_config(model, config) : EX_OK;

    if (!rc)
        rc = open_weights(directory, model->path);
    for (size_t f = 0; own && !rc && f < directory->n_shard; f++)
        rc = directory_lapidary_records(model, directory, &directory->file[f]);
    if (!rc && !own)
        rc = read_history(model, directory);
    if (!rc)
        rc = add_tensors(model, directory);
    for (size_t f = 0; f < directory->n_shard; f++)
        model->file_bytes += directory->file[f].size;
    return rc ? rc : add_companions(model, directory, own);
}

int directory_open(struct model *model, const char *path)
{
    struct directory *directory = xcalloc(1, sizeof *directory);
    struct json *config = NULL;
    struct text text = {0};
    int rc = load_config(path, &text, &config);

    model->state = directory;
    model->container = &plain;
    if (!rc) {
        if (!strcmp(json_as_string(json_at(config, "model_type"), ""), DIRECTORY_LAPIDARY))
            model->container = &lapidary;
        else
            model->config = json_keep(config);
        rc = fill_model(model, directory, config);
    }
    if (!rc)
        model->identity = identify(model, &text);
    /* On an error, model_open() closes the container that is set. */
    free(directory->weight);
    directory->weight = NULL;
    directory->n_weight = 0;
    json_drop(config);
    text_free(&text);
    return rc;
}

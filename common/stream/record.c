/* record.c - maps of records: making, reading, ordering. */
#include "stream/record.h"
#include "base/error.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {
    [RECORD_END] = "end", [RECORD_FILE] = "file", [RECORD_TENSOR] = "tensor", [RECORD_CORE] = "core",
};

static void make_map(struct record *record)
{
    struct json *map = json_make_object(), *shape = json_make_array();
    char buffer[DTYPE_NAME];

    json_put(map, "kind", json_make_string(kind_names[record->kind]));
    json_put(map, "name", json_make_string(record->name));
    if (record->kind == RECORD_CORE) {
        struct json *term = json_make_array(), *site = json_make_array();

        json_append(term, json_make_int(record->term));
        json_append(term, json_make_int(record->n_term));
        json_append(site, json_make_int(record->site));
        json_append(site, json_make_int(record->n_site));
        json_put(map, "term", term);
        json_put(map, "site", site);
    }
    json_put(map, "dtype", json_make_string(dtype_name(record->dtype, buffer)));
    for (int axis = 0; axis < record->rank; axis++)
        json_append(shape, json_make_int(record->shape[axis]));
    json_put(map, "shape", shape);
    json_put(map, "bytes", json_make_int(record->bytes));
    record->map = map;
}

struct record record_tensor(const char *name, struct dtype dtype, int rank, const int64_t *shape)
{
    struct record record = {.kind = RECORD_TENSOR, .name = xstrdup(name), .n_term = 1, .n_site = 1, .dtype = dtype,
                            .rank = rank, .bytes = dtype_payload(dtype, rank, shape)};

    memcpy(record.shape, shape, (size_t)rank * sizeof *shape);
    make_map(&record);
    return record;
}

struct record record_core(const char *name, int term, int n_term, int site, int n_site, const struct tensor *core)
{
    struct record record = {.kind = RECORD_CORE, .name = xstrdup(name), .term = term, .n_term = n_term, .site = site,
                            .n_site = n_site, .dtype = core->dtype, .rank = core->rank, .bytes = core->bytes};

    memcpy(record.shape, core->shape, sizeof record.shape);
    make_map(&record);
    return record;
}

struct record record_file(const char *name, int64_t bytes)
{
    struct record record = {.kind = RECORD_FILE, .name = xstrdup(name), .n_term = 1, .n_site = 1, .dtype = DTYPE(U8),
                            .rank = 1, .shape = {bytes}, .bytes = bytes};

    make_map(&record);
    return record;
}

struct record record_copy(const struct record *record)
{
    struct record copy = *record;

    copy.name = xstrdup(record->name);
    copy.map = json_clone(record->map);
    copy.packed = NULL;
    copy.packed_size = 0;
    return copy;
}

/* A string that ends where C sees it end, or NULL. */
static const char *plain_string(const struct json *map, const char *key)
{
    const struct json *value = json_at(map, key);
    const char *text = json_as_string(value, NULL);

    return text && strlen(text) == json_as_length(value) ? text : NULL;
}

/* "term" and "site": [index, count]. */
static bool parse_pair(const struct json *map, const char *key, int *index, int *count)
{
    const struct json *pair = json_at(map, key);
    int64_t i = json_as_int(json_item(pair, 0), -1), n = json_as_int(json_item(pair, 1), -1);

    if (json_count(pair) != 2 || i < 0 || n < 1 || i >= n || n > 4096)
        return false;
    *index = (int)i;
    *count = (int)n;
    return true;
}

static bool parse_shape(const struct json *map, struct record *record)
{
    const struct json *shape = json_at(map, "shape");

    if (json_kind(shape) != JSON_KIND_ARRAY || json_count(shape) > TENSOR_RANK)
        return false;
    record->rank = (int)json_count(shape);
    for (int axis = 0; axis < record->rank; axis++)
        if ((record->shape[axis] = json_as_int(json_item(shape, (size_t)axis), -1)) < 0)
            return false;
    return true;
}

static char *parse_known(const struct json *map, struct record *record)
{
    const char *dtype = plain_string(map, "dtype");
    int64_t bytes;

    if (!dtype)
        return xstrdup("no dtype");
    if (!dtype_parse(dtype, &record->dtype))
        return xasprintf("unknown dtype '%.40s'", dtype);
    if (!parse_shape(map, record))
        return xstrdup("bad shape");
    if (record->kind == RECORD_FILE && (record->dtype.kind != DTYPE_U8 || record->rank != 1))
        return xstrdup("a file that is not one axis of u8");
    bytes = dtype_payload(record->dtype, record->rank, record->shape);
    if (bytes < 0 || bytes != record->bytes)
        return xasprintf("%lld bytes, expected %lld", (long long)record->bytes, (long long)bytes);
    if (record->kind == RECORD_CORE && (!parse_pair(map, "term", &record->term, &record->n_term)
                                        || !parse_pair(map, "site", &record->site, &record->n_site)))
        return xstrdup("bad term or site");
    if (record->kind == RECORD_CORE && (record->rank != 4 || !dtype_is_real(record->dtype)))
        return xstrdup("a core that is not four axes of numbers");
    for (int axis = 0; axis < record->rank && record->kind == RECORD_CORE; axis++)
        if (record->shape[axis] == 0)
            return xstrdup("a core with an axis of length 0");
    return NULL;
}

const char *record_name_trouble(const char *name)
{
    if (!name || !name[0])
        return "no name";
    if (strlen(name) > 1024)
        return "a name of more than 1024 bytes";
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < ' ')
            return "a name with control characters";
    return NULL;
}

static const char *name_trouble(const struct record *record)
{
    const char *trouble = record_name_trouble(record->name);

    if (!trouble && record->kind == RECORD_FILE && (strchr(record->name, '/') || record->name[0] == '.'))
        trouble = "a file name with '/' or a leading '.'";
    return trouble;
}

int record_parse(struct json *map, struct record *record, char **reason)
{
    const char *kind = plain_string(map, "kind"), *name = plain_string(map, "name");

    *record = (struct record){.kind = RECORD_OTHER, .n_term = 1, .n_site = 1, .dtype = DTYPE(U8), .map = map};
    record->name = name ? xstrdup(name) : NULL;
    record->bytes = json_as_int(json_at(map, "bytes"), -1);
    *reason = NULL;
    for (int k = RECORD_FILE; kind && k <= RECORD_CORE; k++)
        if (!strcmp(kind, kind_names[k]))
            record->kind = (enum record_kind)k;
    if (!kind)
        *reason = xstrdup("no kind");
    else if (name_trouble(record))
        *reason = xstrdup(name_trouble(record));
    else if (record->bytes < 0)
        *reason = xstrdup("no bytes");
    else if (record->kind != RECORD_OTHER)
        *reason = parse_known(map, record);
    return *reason ? EX_DATAERR : EX_OK;
}

void record_free(struct record *record)
{
    free(record->name);
    free(record->packed);
    json_drop(record->map);
    *record = (struct record){0};
}

/* The chain that last belongs to goes on: with its next core, or with the first core of the next term. */
static const char *chain_after(const struct record *last, const struct record *next)
{
    if (!next || next->kind != RECORD_CORE || strcmp(next->name, last->name))
        return "the cores before it are not all there";
    if (last->site < last->n_site - 1) {
        if (next->term != last->term || next->site != last->site + 1 || next->n_site != last->n_site)
            return "not the core that follows the one before it";
        return next->shape[0] == last->shape[3] ? NULL : "its bond doesn't join that of the core before it";
    }
    return next->term == last->term + 1 && next->site == 0 ? NULL : "not the core that follows the one before it";
}

const char *record_after(const struct record *last, const struct record *next)
{
    const char *trouble = NULL;

    if (last->name && last->kind == RECORD_CORE && (last->site < last->n_site - 1 || last->term < last->n_term - 1))
        trouble = chain_after(last, next);
    else if (next && last->name && (record_compare(last, next) >= 0 || !strcmp(last->name, next->name)))
        trouble = "twice, or against the order of streams";
    else if (next && next->kind == RECORD_CORE && (next->term || next->site))
        trouble = "the cores that come before it are missing";
    if (trouble || !next || next->kind != RECORD_CORE)
        return trouble;
    if (next->site == 0 && next->shape[0] != 1)
        return "the first bond of a term is not 1";
    if (next->site == next->n_site - 1 && next->shape[3] != 1)
        return "the last bond of a term is not 1";
    if (last->name && !strcmp(last->name, next->name) && last->n_term != next->n_term)
        return "another number of terms";
    return NULL;
}

void record_remember(struct record *last, const struct record *record)
{
    free(last->name);
    *last = *record;
    last->name = xstrdup(record->name);
    last->map = NULL;
    last->packed = NULL;
}

enum section record_section(const char *name, int64_t *block)
{
    static const char layers[] = "model.layers.";
    char *end = NULL;

    *block = -1;
    if (!strncmp(name, "model.embed_tokens.", 19))
        return SECTION_EMBEDDING;
    if (!strncmp(name, "model.norm.", 11))
        return SECTION_NORM;
    if (!strncmp(name, "lm_head.", 8))
        return SECTION_HEAD;
    if (!strncmp(name, layers, sizeof layers - 1) && name[sizeof layers - 1] >= '0' && name[sizeof layers - 1] <= '9') {
        long long number = strtoll(name + sizeof layers - 1, &end, 10);

        if (*end == '.' && number < 1000000) {
            *block = number;
            return SECTION_BLOCKS;
        }
    }
    return SECTION_OTHER;
}

int record_compare(const struct record *a, const struct record *b)
{
    int64_t block_a = -1, block_b = -1;
    int section_a = a->kind == RECORD_FILE ? SECTION_FILES : record_section(a->name, &block_a);
    int section_b = b->kind == RECORD_FILE ? SECTION_FILES : record_section(b->name, &block_b);
    int names;

    if (section_a != section_b)
        return section_a - section_b;
    if (block_a != block_b)
        return block_a < block_b ? -1 : 1;
    if ((names = strcmp(a->name, b->name)))
        return names;
    return a->term != b->term ? a->term - b->term : a->site - b->site;
}

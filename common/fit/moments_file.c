/* moments_file.c - reads a moments file, the sets of one block at a time, and believes nothing in it. */
#include "base/memory.h"
#include "compute/linalg.h"
#include "fit/moments.h"
#include "stream/reader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = 64, WEIGHTS = 64 };        /* the most of a block, and of a set */
enum { WIDTH = 1 << 24 };                /* the most, so that sizes don't overflow */

struct moments_file {
    char *path, *name;           /* name: without its folder; path NULL: standard input */
    struct reader reader;
    struct record next;          /* read, its payload not yet taken; RECORD_END at the end */
    bool opened;
    int64_t block;               /* of the sets; what lies before it was read over */
    struct moment_set set[SETS];
    int count;
};

static int bad(const struct moments_file *file, const char *format, ...) PRINTF_LIKE(2, 3);

/* One line for what is wrong with the record at hand. */
static int bad(const struct moments_file *file, const char *format, ...)
{
    char *where = xasprintf("'%s': '%.200s'", file->reader.where, file->next.name ? file->next.name : "end");
    va_list args;

    va_start(args, format);
    fail_in(EX_DATAERR, where, format, args);
    va_end(args);
    return EX_DATAERR;
}

static bool is_moments(const struct record *record)
{
    return record->kind == RECORD_OTHER && !strcmp(json_as_string(json_at(record->map, "kind"), ""), "moments");
}

/* The next record of moments; others are read over. */
static int advance(struct moments_file *file)
{
    int rc;

    do {
        record_free(&file->next);
        rc = reader_next(&file->reader, &file->next);
    } while (!rc && file->next.kind != RECORD_END && !is_moments(&file->next));
    return rc;
}

/* Frees the sets. */
static void drop(struct moments_file *file)
{
    while (file->count)
        moment_set_free(&file->set[--file->count]);
}

static void shut(struct moments_file *file)
{
    drop(file);
    record_free(&file->next);
    if (file->opened)
        reader_close(&file->reader);
    file->opened = false;
}

static int start(struct moments_file *file)
{
    int rc;

    file->opened = true;
    file->block = -1;
    rc = reader_open(&file->reader, file->path);
    return rc ? rc : advance(file);
}

int moments_open(struct moments_file **file, const char *path)
{
    struct moments_file *made = xcalloc(1, sizeof *made);
    int rc;

    made->path = file_is_stdin(path) ? NULL : xstrdup(path);
    made->name = made->path ? file_basename(path) : xstrdup(file_input_name(path));
    if ((rc = start(made))) {
        moments_close(made);
        made = NULL;
    }
    *file = made;
    return rc;
}

void moments_close(struct moments_file *file)
{
    if (!file)
        return;
    shut(file);
    free(file->path);
    free(file->name);
    free(file);
}

struct json *moments_history(const struct moments_file *file)
{
    const struct json *history = file->reader.history;
    size_t count = json_count(history);
    struct json *about = json_make_object();

    json_put(about, "name", json_make_string(file->name));
    json_put(about, "history", count ? json_clone(json_item(history, count - 1)) : json_make_null());
    return about;
}

/* The names of the matrices, of the record that begins a set. */
static int take_weights(struct moments_file *file, struct moment_set *set)
{
    const struct json *list = json_at(file->next.map, "weights");
    size_t count = json_kind(list) == JSON_KIND_ARRAY ? json_count(list) : 0;

    if (count < 1 || count > WEIGHTS)
        return bad(file, "%zu names in \"weights\", expected a list of 1 to %d", count, WEIGHTS);
    set->weight = xcalloc(count, sizeof *set->weight);
    for (size_t i = 0; i < count; i++) {
        const struct json *item = json_item(list, i);
        const char *name = json_as_string(item, NULL), *trouble = record_name_trouble(name);
        int64_t block = -1;

        if (trouble || strlen(name) != json_as_length(item))
            return bad(file, "weight %zu: %s", i, trouble ? trouble : "a name with control characters");
        record_section(name, &block);
        if (block != file->block)
            return bad(file, "'%.200s' is not a matrix of the same block", name);
        set->weight[set->n_weight++] = xstrdup(name);
    }
    return EX_OK;
}

/* Width and tokens, held against the payload's size and those of the set (none yet: of width 0). */
static int take_sizes(const struct moments_file *file, const struct moment_set *set, bool packed, int64_t *n,
                      int64_t *tokens)
{
    const struct record *record = &file->next;
    int64_t bytes;

    *n = json_as_int(json_at(record->map, "width"), -1);
    *tokens = json_as_int(json_at(record->map, "tokens"), -1);
    if (*n < 1 || *n > WIDTH)
        return bad(file, "\"width\" is %lld, expected 1 to %d", (long long)*n, WIDTH);
    if (set->h.n && *n != set->h.n)
        return bad(file, "width %lld, expected %lld", (long long)*n, (long long)set->h.n);
    if (*tokens < 1)
        return bad(file, "\"tokens\" is %lld, expected 1 or more", (long long)*tokens);
    bytes = (packed ? *n * (*n + 1) / 2 : *n * *n) * (int64_t)sizeof(float);
    if (strcmp(json_as_string(json_at(record->map, "dtype"), ""), "f32") || record->bytes != bytes)
        return bad(file, "%lld bytes, expected %lld of f32", (long long)record->bytes, (long long)bytes);
    return EX_OK;
}

/* The numbers of the record at hand, the caller's. Moments of what is there are at least 0 on the diagonal. */
static int take_numbers(struct moments_file *file, int64_t n, bool packed, float **numbers)
{
    struct tensor tensor;
    int rc = reader_load(&file->reader, &file->next, &tensor);

    *numbers = NULL;
    if (rc)
        return rc;
    *numbers = (float *)(void *)tensor.data;
    if (!isfinite(linalg_sum_squares(*numbers, packed ? n * (n + 1) / 2 : n * n)))
        return bad(file, "a number that isn't finite");
    for (int64_t i = 0; i < n && packed; i++) {
        float square = (*numbers)[i * (i + 1) / 2 + i];

        if (square < 0)
            return bad(file, "mean square %lld is %g, expected 0 or more", (long long)i, square);
    }
    return advance(file);
}

static int take_packed(struct moments_file *file, const struct moment_set *set, struct moments *to)
{
    int rc = to->packed ? bad(file, "twice") : take_sizes(file, set, true, &to->n, &to->tokens);

    return rc ? rc : take_numbers(file, to->n, true, &to->packed);
}

static int take_cross(struct moments_file *file, const struct moment_set *set, float **to)
{
    int64_t n, tokens;
    int rc = *to ? bad(file, "twice") : take_sizes(file, set, false, &n, &tokens);

    return rc ? rc : take_numbers(file, n, false, to);
}

/* The records that belong to the set that began. */
static int take_rest(struct moments_file *file, struct moment_set *set)
{
    size_t length = strlen(set->name);
    int rc = EX_OK;

    while (!rc && file->next.kind != RECORD_END && !strncmp(file->next.name, set->name, length)) {
        const char *suffix = file->next.name + length;

        if (!strcmp(suffix, ".cross"))
            rc = take_cross(file, set, &set->cross);
        else if (!strcmp(suffix, ".held"))
            rc = take_packed(file, set, &set->held);
        else if (!strcmp(suffix, ".held.cross"))
            rc = take_cross(file, set, &set->held_cross);
        else
            break;
    }
    return rc;
}

static int take_set(struct moments_file *file)
{
    struct moment_set *set = &file->set[file->count];
    int rc;

    if (file->count == SETS)
        return bad(file, "more than %d inputs of a block", SETS);
    file->count++;
    set->name = xstrdup(file->next.name);
    if ((rc = take_weights(file, set)) || (rc = take_packed(file, set, &set->h)))
        return rc;
    return take_rest(file, set);
}

/* The block of the record at hand; past all others at the end and where it belongs to none. */
static int64_t block_of_next(const struct moments_file *file)
{
    int64_t block = -1;

    if (file->next.kind != RECORD_END && record_section(file->next.name, &block) == SECTION_BLOCKS)
        return block;
    return INT64_MAX;
}

/* The sets of a block, read forwards: from the start again where it lies behind. */
static int go_to(struct moments_file *file, int64_t block)
{
    int rc = EX_OK;

    if (file->block == block)
        return EX_OK;
    if (block < file->block) {
        if (file->reader.size < 0)
            return fail(EX_DATAERR, "'%s': moments of block %lld are asked for behind those of a later one, and a pipe "
                        "can't be read twice", file->reader.where, (long long)block);
        shut(file);
        if ((rc = start(file)))
            return rc;
    }
    drop(file);
    while (!rc && block_of_next(file) < block)
        rc = advance(file);
    file->block = block;
    while (!rc && block_of_next(file) == block)
        rc = take_set(file);
    if (rc) {
        drop(file);
        file->block = INT64_MAX;             /* whatever is asked for next begins anew */
    }
    return rc;
}

int moments_find(struct moments_file *file, const char *weight, int64_t n, const struct moment_set **set)
{
    int64_t block = -1;
    int rc;

    *set = NULL;
    if (record_section(weight, &block) != SECTION_BLOCKS)
        return fail(EX_DATAERR, "'%s': no moments for '%s', which is in no block", file->reader.where, weight);
    if ((rc = go_to(file, block)))
        return rc;
    for (int s = 0; s < file->count && !*set; s++)
        for (int w = 0; w < file->set[s].n_weight; w++)
            if (!strcmp(file->set[s].weight[w], weight))
                *set = &file->set[s];
    if (!*set)
        return fail(EX_DATAERR, "'%s': no moments for '%s'", file->reader.where, weight);
    if ((*set)->h.n != n)
        return fail(EX_DATAERR, "'%s': moments of width %lld for '%s', expected %lld", file->reader.where,
                    (long long)(*set)->h.n, weight, (long long)n);
    return EX_OK;
}

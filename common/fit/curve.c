/* curve.c - error curves as JSON lines. */
#include "fit/curve.h"
#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CURVE_POINTS = 4096 };    /* the most settings, or cores, of one matrix */

static const int64_t count_most = (int64_t)1 << 44;      /* so that sums of cores don't overflow */

/* One line of a file. */
struct entry {
    char *name;
    int64_t line, out, in, original;
    double norm;
    struct curve_point point;
    bool fixed;
};

struct reading {
    const char *path;
    struct entry *entry;
    size_t count, capacity;
};

static int take_count(const struct reading *r, const struct json *value, const char *key, int64_t line, int64_t least,
                      int64_t *count)
{
    *count = json_as_int(json_at(value, key), -1);
    return *count >= least && *count <= count_most
               ? EX_OK : bad_line(r->path, line, "\"%s\" is %lld (-1: no whole number), expected %lld to %lld", key,
                                  (long long)*count, (long long)least, (long long)count_most);
}

static int take_square(const struct reading *r, const struct json *value, const char *key, int64_t line, double *square)
{
    *square = json_as_real(json_at(value, key), -1);
    return *square >= 0 && isfinite(*square)
               ? EX_OK : bad_line(r->path, line, "\"%s\" is %g (-1: no number), expected 0 or more", key, *square);
}

/* Words that can stand in a plan: printable, key=value, one blank between two. */
static bool is_plan(const char *plan)
{
    for (const char *word = plan; *plan; word = plan) {
        size_t length = strcspn(word, " "), key = strcspn(word, "=");

        for (size_t i = 0; i < length; i++)
            if (word[i] < '!' || word[i] > '~' || word[i] == '#')
                return false;
        if (!key || key + 1 >= length)
            return false;
        plan += length;
        if (*plan && !*++plan)           /* a blank, and nothing behind it */
            return false;
    }
    return true;
}

static int take_setting(const struct reading *r, const struct json *value, int64_t line, struct entry *entry)
{
    const struct json *plan = json_at(value, "plan");
    const char *text = json_as_string(plan, NULL);
    int rc;

    if (!text || strlen(text) != json_as_length(plan) || !is_plan(text))
        return bad_line(r->path, line, "\"plan\" is '%.100s', expected words key=value", text ? text : "");
    entry->point.plan = xstrdup(text);
    if ((rc = take_count(r, value, "out", line, 1, &entry->out))
        || (rc = take_count(r, value, "in", line, 1, &entry->in))
        || (rc = take_count(r, value, "parameters", line, 0, &entry->point.parameters))
        || (rc = take_square(r, value, "error", line, &entry->point.error))
        || (rc = take_square(r, value, "norm", line, &entry->norm)))
        return rc;
    if (size_multiply(entry->out, entry->in, &entry->original))
        return EX_OK;
    return bad_line(r->path, line, "out x in is %lld x %lld, too large", (long long)entry->out, (long long)entry->in);
}

/* A tensor is its own only core. */
static int take_fixed(const struct reading *r, const struct json *value, int64_t line, struct entry *entry)
{
    int64_t term = 0, site = 0;
    int rc;

    entry->fixed = true;
    if ((rc = take_count(r, value, "parameters", line, 0, &entry->original))
        || (rc = take_count(r, value, "stored_parameters", line, 0, &entry->point.parameters))
        || (json_at(value, "term") && (rc = take_count(r, value, "term", line, 0, &term)))
        || (json_at(value, "site") && (rc = take_count(r, value, "site", line, 0, &site))))
        return rc;
    entry->point.plan = xasprintf("%lld.%lld", (long long)term, (long long)site);
    if (term)
        entry->original = 1;             /* every term multiplies to the whole: the first one counts */
    return EX_OK;
}

static int take_line(void *context, const struct json *value, int64_t line)
{
    struct reading *r = context;
    const struct json *name = json_at(value, "name");
    const char *text = json_as_string(name, NULL), *trouble = text ? record_name_trouble(text) : "no string \"name\"";
    struct entry *entry;
    int rc;

    if (json_kind(value) != JSON_KIND_OBJECT)
        return bad_line(r->path, line, "not an object");
    if (trouble || strlen(text) != json_as_length(name))
        return bad_line(r->path, line, "%s", trouble ? trouble : "a name with control characters");
    if (r->count == r->capacity) {
        r->capacity = 2 * r->capacity + 64;
        r->entry = xreallocarray(r->entry, r->capacity, sizeof *r->entry);
    }
    entry = &r->entry[r->count++];
    *entry = (struct entry){.name = xstrdup(text), .line = line};
    if ((rc = take_count(r, value, "bytes", line, 0, &entry->point.bytes)))
        return rc;
    return json_as_bool(json_at(value, "fixed"), false) ? take_fixed(r, value, line, entry)
                                                        : take_setting(r, value, line, entry);
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : (x->line > y->line) - (x->line < y->line);
}

static int curve_by_name(const void *a, const void *b)
{
    return strcmp(((const struct curve *)a)->name, ((const struct curve *)b)->name);
}

static int by_bytes(const void *a, const void *b)
{
    const struct curve_point *x = a, *y = b;

    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->parameters != y->parameters)
        return x->parameters < y->parameters ? -1 : 1;
    if (x->error < y->error || x->error > y->error)
        return x->error < y->error ? -1 : 1;
    return strcmp(x->plan, y->plan);
}

/* Moves the entry's point into a list, unless the same is there. */
static int add_point(const struct reading *r, struct entry *entry, struct curve_point **list, int *count)
{
    const struct curve_point *point = &entry->point;

    for (int i = 0; i < *count; i++) {
        const struct curve_point *old = &(*list)[i];

        if (strcmp(old->plan, point->plan))
            continue;
        return !by_bytes(old, point) ? EX_OK : bad_line(r->path, entry->line, "'%s' with '%s' is there already, with "
                                                        "other numbers", entry->name, point->plan);
    }
    if (*count == CURVE_POINTS)
        return bad_line(r->path, entry->line, "'%s' has more than %d lines", entry->name, CURVE_POINTS);
    *list = xreallocarray(*list, (size_t)*count + 1, sizeof **list);
    (*list)[(*count)++] = *point;
    entry->point.plan = NULL;
    return EX_OK;
}

static int add_setting(const struct reading *r, struct entry *entry, struct curve *curve)
{
    if (!curve->n_point) {
        curve->out = entry->out;
        curve->in = entry->in;
        curve->norm = entry->norm;
    }
    if (entry->out != curve->out || entry->in != curve->in)
        return bad_line(r->path, entry->line, "'%s' is %lld x %lld here, %lld x %lld in other lines", entry->name,
                        (long long)entry->out, (long long)entry->in, (long long)curve->out, (long long)curve->in);
    if (fabs(entry->norm - curve->norm) > 1e-3 * fmax(entry->norm, curve->norm))
        return bad_line(r->path, entry->line, "the norm of '%s' is %.6g here, %.6g in other lines: other moments, or "
                        "another model", entry->name, entry->norm, curve->norm);
    return add_point(r, entry, &curve->point, &curve->n_point);
}

static int add_core(const struct reading *r, struct entry *entry, struct curve *curve)
{
    int before = curve->n_core, rc = add_point(r, entry, &curve->core, &curve->n_core);

    if (rc || curve->n_core == before)
        return rc;
    if (!before)
        curve->original = 1;
    return size_multiply(curve->original, entry->original, &curve->original)
               ? EX_OK : bad_line(r->path, entry->line, "'%s' has too many parameters", entry->name);
}

/* All lines of one matrix: of count entries from first on. */
static int add_group(const struct reading *r, struct curve *curve, size_t first, size_t count)
{
    int rc = EX_OK;

    for (size_t i = first; i < first + count && !rc; i++)
        rc = r->entry[i].fixed ? add_core(r, &r->entry[i], curve) : add_setting(r, &r->entry[i], curve);
    if (!rc && curve->n_core && curve->n_point && curve->original != curve->out * curve->in)
        rc = bad_line(r->path, r->entry[first].line, "'%s' has %lld parameters as a tensor, but is %lld x %lld as a "
                      "matrix", curve->name, (long long)curve->original, (long long)curve->out, (long long)curve->in);
    curve->fixed = !curve->n_point;
    if (!curve->n_core)
        curve->original = curve->out * curve->in;
    if (curve->n_point)
        qsort(curve->point, (size_t)curve->n_point, sizeof *curve->point, by_bytes);
    return rc;
}

static int add_all(const struct reading *r, struct curves *curves)
{
    int old = curves->n_curve, rc = EX_OK;
    size_t count;

    for (size_t first = 0; first < r->count && !rc; first += count) {
        struct curve key = {.name = r->entry[first].name};
        struct curve *curve = old ? bsearch(&key, curves->curve, (size_t)old, sizeof key, curve_by_name) : NULL;

        for (count = 1; first + count < r->count && !strcmp(r->entry[first + count].name, key.name);)
            count++;
        if (!curve) {
            if (!(curves->n_curve & (curves->n_curve - 1)))          /* full: at powers of two */
                curves->curve = xreallocarray(curves->curve, 2 * (size_t)curves->n_curve + 1, sizeof key);
            curve = &curves->curve[curves->n_curve++];
            *curve = (struct curve){.name = xstrdup(key.name)};
        }
        rc = add_group(r, curve, first, count);
    }
    if (curves->n_curve)
        qsort(curves->curve, (size_t)curves->n_curve, sizeof *curves->curve, curve_by_name);
    return rc;
}

int curves_read(struct curves *curves, const char *path)
{
    struct reading r = {.path = path};
    int rc = json_lines(path, take_line, &r);

    if (!rc && r.count) {
        qsort(r.entry, r.count, sizeof *r.entry, by_name);
        rc = add_all(&r, curves);
    }
    for (size_t i = 0; i < r.count; i++) {
        free(r.entry[i].name);
        free(r.entry[i].point.plan);
    }
    free(r.entry);
    return rc;
}

static void free_points(struct curve_point *point, int count)
{
    for (int i = 0; i < count; i++)
        free(point[i].plan);
    free(point);
}

void curves_free(struct curves *curves)
{
    for (int i = 0; i < curves->n_curve; i++) {
        free(curves->curve[i].name);
        free_points(curves->curve[i].point, curves->curve[i].n_point);
        free_points(curves->curve[i].core, curves->curve[i].n_core);
    }
    free(curves->curve);
    *curves = (struct curves){0};
}

bool curve_kept(const struct curve *curve, struct curve_point *kept)
{
    *kept = (struct curve_point){.plan = (char *)(uintptr_t)""};
    for (int i = 0; i < curve->n_core; i++) {
        kept->bytes += curve->core[i].bytes;
        kept->parameters += curve->core[i].parameters;
    }
    return curve->n_core > 0;
}

/* The object as a line; it is dropped. */
static int write_line(struct output *output, struct json *line)
{
    char *text = json_write(line, 0), *whole = xasprintf("%s\n", text);
    int rc = output_write(output, whole, strlen(whole));

    free(text);
    free(whole);
    json_drop(line);
    return rc;
}

int curve_write(struct output *output, const char *name, int64_t out, int64_t in, double norm,
                const struct curve_point *point)
{
    struct json *line = json_make_object();

    json_put(line, "name", json_make_string(name));
    json_put(line, "out", json_make_int(out));
    json_put(line, "in", json_make_int(in));
    json_put(line, "plan", json_make_string(point->plan));
    json_put(line, "bytes", json_make_int(point->bytes));
    json_put(line, "parameters", json_make_int(point->parameters));
    json_put(line, "error", json_make_number(point->error));
    json_put(line, "norm", json_make_number(norm));
    return write_line(output, line);
}

int curve_write_fixed(struct output *output, const struct record *record)
{
    bool core = record->kind == RECORD_CORE;
    struct json *line;
    int64_t numbers = 1;

    if (!core && record->kind != RECORD_TENSOR)
        return EX_OK;
    for (int i = 0; i < record->rank; i++)
        numbers *= record->shape[i];
    line = json_make_object();
    json_put(line, "name", json_make_string(record->name));
    if (core) {
        json_put(line, "term", json_make_int(record->term));
        json_put(line, "site", json_make_int(record->site));
    }
    json_put(line, "bytes", json_make_int(record->bytes));
    json_put(line, "parameters", json_make_int(core ? record->shape[1] * record->shape[2] : numbers));
    json_put(line, "stored_parameters", json_make_int(numbers));
    json_put(line, "fixed", json_make_bool(true));
    return write_line(output, line);
}

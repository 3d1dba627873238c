/* plan.c - reads plans. */
#include "fit/plan.h"
#include "fit/shape.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "operator/transform.h"
#include "tensor/trellis.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Each takes a value into its line; false where the value is bad. */
static bool whole(const char *value, long long least, long long most, long long *number)
{
    char *end;

    *number = strtoll(value, &end, 10);
    return end != value && !*end && *number >= least && *number <= most;
}

static bool real(const char *value, double most, double *number)
{
    char *end;

    *number = strtod(value, &end);
    return end != value && !*end && isfinite(*number) && *number >= 1e-6 && *number <= most;
}

static bool set_chi(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 1, 1 << 20, &number);

    line->chi = number;
    return good;
}

static bool set_keep(struct plan_line *line, const char *value)
{
    return real(value, 1, &line->keep);
}

static bool set_tolerance(struct plan_line *line, const char *value)
{
    return real(value, 1, &line->tolerance);
}

static bool set_sites(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 2, MPO_SITES, &number);

    line->sites = (int)number;
    return good;
}

static bool set_shape(struct plan_line *line, const char *value)
{
    struct mpo_shape shape;

    free(line->shape);
    line->shape = xstrdup(value);
    return !strcmp(value, "auto") || (shape_parse(value, &shape) && shape.n_site > 1);
}

static bool set_dtype(struct plan_line *line, const char *value)
{
    line->has_dtype = dtype_parse(value, &line->dtype);
    return line->has_dtype && line->dtype.kind <= DTYPE_BF16;
}

static bool set_bits(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 2, 8, &number) && number != 7;

    line->bits = (int)number;
    return good;
}

static bool set_group(struct plan_line *line, const char *value)
{
    long long number = GROUP_ROW;
    bool good = !strcmp(value, "row") || whole(value, 1, 1 << 20, &number);

    line->has_group = true;
    line->group = (int)number;
    return good;
}

static bool set_zero(struct plan_line *line, const char *value)
{
    for (int zero = 0; dtype_zero_names[zero]; zero++)
        if (!strcmp(value, dtype_zero_names[zero])) {
            line->has_zero = true;
            line->zero = (enum dtype_zero)zero;
            return true;
        }
    return false;
}

static bool set_scale_bits(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 0, 8, &number) && (number == 0 || number == 6 || number == 8);

    line->scale_bits = (int)number;
    return good;
}

static const char *const codes[] = {"scalar", "trellis"};

static bool set_code(struct plan_line *line, const char *value)
{
    line->trellis = !strcmp(value, codes[true]);
    return line->trellis || !strcmp(value, codes[false]);
}

static bool set_rate(struct plan_line *line, const char *value)
{
    static const char *const rates[] = {"1", "1.5", "2", "2.5", "3", "3.5", "4", NULL};

    for (int i = 0; rates[i]; i++)
        if (!strcmp(value, rates[i])) {
            line->rate = i + 2;
            return true;
        }
    return false;
}

static bool set_state(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, TRELLIS_STATE_LEAST, TRELLIS_STATE_MOST, &number);

    line->state = (int)number;
    return good;
}

static bool set_rotate(struct plan_line *line, const char *value)
{
    long long number = ROTATE_FULL;
    bool good = !strcmp(value, "full") || (whole(value, 0, TRANSFORM_BLOCK_MOST, &number) && number != 1
                                           && !(number & (number - 1)));

    line->rotate = number;
    return good;
}

static bool set_residual_chi(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 0, 1 << 20, &number);

    line->residual_chi = number;
    return good;
}

static bool set_residual_bits(struct plan_line *line, const char *value)
{
    long long number;
    bool good = whole(value, 2, 16, &number) && number != 7 && (number <= 8 || number == 16);

    line->residual_bits = (int)number;
    return good;
}

static const char widths[] = "2, 3, 4, 5, 6 or 8";

static const struct {
    const char *key;
    bool (*set)(struct plan_line *line, const char *value);
    const char *expected;
    enum { UNORDERED, ORDERED, FROM_0 } order;     /* numbers; which are 0 where they aren't given */
} keys[] = {
    {"chi", set_chi, "1 or more", ORDERED},
    {"keep", set_keep, "above 0, to 1", ORDERED},
    {"tolerance", set_tolerance, "above 0, to 1", ORDERED},
    {"sites", set_sites, "2 to 16", ORDERED},
    {"shape", set_shape, "auto, or 2 to 16 sites like 20x256,640x16", UNORDERED},
    {"dtype", set_dtype, "f32, f16 or bf16", UNORDERED},
    {"bits", set_bits, widths, ORDERED},
    {"group", set_group, "1 or more, or row", ORDERED},
    {"zero", set_zero, "none, int or min", UNORDERED},
    {"scale_bits", set_scale_bits, "0, 6 or 8", FROM_0},
    {"code", set_code, "scalar or trellis", UNORDERED},
    {"rate", set_rate, "1, 1.5, 2, 2.5, 3, 3.5 or 4", ORDERED},
    {"state", set_state, "8 to 16", ORDERED},
    {"rotate", set_rotate, "0, a power of two from 2 to 65536, or full", FROM_0},
    {"residual_chi", set_residual_chi, "0 or more", FROM_0},
    {"residual_bits", set_residual_bits, "2, 3, 4, 5, 6, 8 or 16", ORDERED},
};

enum { N_KEY = sizeof keys / sizeof *keys };

static int find_key(const char *key)
{
    int k = 0;

    while (k < N_KEY && strcmp(key, keys[k].key) != 0)
        k++;
    return k;
}

const char *plan_set(struct plan_line *line, const char *key, const char *value)
{
    int k = find_key(key);

    line->given |= 1u << k;
    return keys[k].set(line, value) ? NULL : keys[k].expected;
}

bool plan_is_ordered(const char *key, double *absent)
{
    int k = find_key(key);

    if (k == N_KEY || keys[k].order == UNORDERED)
        return false;
    *absent = keys[k].order == FROM_0 ? 0 : NAN;
    return true;
}

static int parse_pair(struct plan_line *line, char *pair, const char *path, int number)
{
    char *value = strchr(pair, '=');
    const char *expected;
    int k;

    if (!value)
        return fail(EX_DATAERR, "'%s', line %d: '%s' is not key=value", path, number, pair);
    *value++ = '\0';
    if ((k = find_key(pair)) == N_KEY)
        return fail(EX_DATAERR, "'%s', line %d: unknown key '%s'", path, number, pair);
    if (line->given & 1u << k)
        return fail(EX_DATAERR, "'%s', line %d: %s stands twice", path, number, pair);
    if ((expected = plan_set(line, pair, value)))
        return fail(EX_DATAERR, "'%s', line %d: %s is '%s', expected %s", path, number, pair, value, expected);
    return EX_OK;
}

/* What a trellis has no use for, and what nothing else has. */
static const char *misplaced(const struct plan_line *line)
{
    if (!line->trellis)
        return line->rate || line->state ? "rate and state go with code=trellis" : NULL;
    if (!line->rate)
        return "code=trellis without a rate";
    return line->bits || line->has_group || line->has_zero || line->scale_bits
               ? "bits, group, zero and scale_bits don't go with code=trellis" : NULL;
}

static int parse_line(struct plan *plan, char *text, const char *path, int number)
{
    char *rest = NULL, *word;
    struct plan_line *line;
    struct mpo_shape shape;
    int rc = EX_OK;

    text[strcspn(text, "#")] = '\0';
    if (!(word = strtok_r(text, " \t\r", &rest)))
        return EX_OK;
    plan->line = xreallocarray(plan->line, (size_t)plan->n_line + 1, sizeof *plan->line);
    line = &plan->line[plan->n_line++];
    *line = (struct plan_line){.glob = xstrdup(word)};
    while (!rc && (word = strtok_r(NULL, " \t\r", &rest)))
        rc = parse_pair(line, word, path, number);
    if (!rc && (line->chi > 0) + (line->keep > 0) + (line->tolerance > 0) > 1)
        rc = fail(EX_DATAERR, "'%s', line %d: more than one of chi, keep and tolerance", path, number);
    if (!rc && misplaced(line))
        rc = fail(EX_DATAERR, "'%s', line %d: %s", path, number, misplaced(line));
    if (!rc && line->sites && line->shape && shape_parse(line->shape, &shape) && shape.n_site != line->sites)
        rc = fail(EX_DATAERR, "'%s', line %d: shape %s has %d sites, sites says %d", path, number, line->shape,
                  shape.n_site, line->sites);
    return rc;
}

int plan_read(struct plan *plan, const char *path)
{
    struct text text = {0};
    char *line, *rest;
    int rc = file_read(path, 1 << 24, &text);

    *plan = (struct plan){0};
    if (!rc) {
        plan->name = file_basename(path);
        plan->hash = hash_of(text.data, text.length);
    }
    if (!rc && strlen(text.data) != text.length)
        rc = fail(EX_DATAERR, "'%s': not a text file", path);
    rest = text.data;
    for (int number = 1; !rc && (line = strsep(&rest, "\n")); number++)
        rc = parse_line(plan, line, path, number);
    text_free(&text);
    if (rc)
        plan_free(plan);
    return rc;
}

const struct plan_line *plan_find(const struct plan *plan, const char *name)
{
    for (int i = 0; i < plan->n_line; i++)
        if (!fnmatch(plan->line[i].glob, name, 0))
            return &plan->line[i];
    return NULL;
}

struct json *plan_history(const struct plan *plan)
{
    struct json *entry = json_make_object();
    char hash[HASH_TEXT];

    json_put(entry, "name", json_make_string(plan->name));
    json_put(entry, "hash", json_make_string(hash_text(plan->hash, hash)));
    return entry;
}

void plan_free(struct plan *plan)
{
    for (int i = 0; i < plan->n_line; i++) {
        free(plan->line[i].glob);
        free(plan->line[i].shape);
    }
    free(plan->line);
    free(plan->name);
    *plan = (struct plan){0};
}

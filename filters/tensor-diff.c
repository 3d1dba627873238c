/* tensor-diff - compare the weights of two models or streams. */
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/progress.h"
#include "files/source.h"
#include "operator/difference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_JSON = 1, KEY_FILES };
enum { SAME = 0, DIFFERENT = 1 };

static struct {
    const char *a, *b;
    double tolerance;
    bool json, files;
} options;

static const struct argp_option table[] = {
    {"tolerance", 't', "E", 0, "a relative error of up to E counts as the same (default: 0, equal values)", 0},
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {"files", KEY_FILES, NULL, 0, "compare companion files too, byte by byte", 0},
    {0},
};

static error_t parse(int key, char *value, struct argp_state *state)
{
    (void)state;
    switch (key) {
    case 't':
        options.tolerance = option_real("--tolerance", value, 0, 1e6);
        return 0;
    case KEY_JSON:
        options.json = true;
        return 0;
    case KEY_FILES:
        options.files = true;
        return 0;
    case ARGP_KEY_ARG:
        if (!options.a)
            options.a = value;
        else if (!options.b)
            options.b = value;
        else
            return ARGP_ERR_UNKNOWN;
        return 0;
    case ARGP_KEY_END:
        if (!options.b)
            die(EX_USAGE, "two models are needed: tensor-diff A B");
        if (!strcmp(options.a, "-") && !strcmp(options.b, "-"))
            die(EX_USAGE, "standard input can be one of the two only");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct program program = {
    .name = "tensor-diff",
    .operands = "A B",
    .purpose = "Compare the weights of two models or tensor streams: relative Frobenius error and worst element per "
               "tensor.",
    .details = "A and B are directories, GGUF files, streams, or '-' for one of them; A is the reference. Compressed "
               "weights are compared by the matrices that their cores give. Exit status: 0 same, 1 different, "
               "64 and more trouble.",
    .example = "  extract-layer model | quantize --bits 8 | tensor-diff -t 0.02 model -",
    .table = table,
    .parse = parse,
    .common = OPTION_THREADS,
};

/* One side: the record that is due. */
struct side {
    struct source source;
    struct record record;
};

static struct {
    struct json *tensors;
    struct difference all;       /* norm and squares of all tensors */
    int64_t same, different;
} report;

static int advance(struct side *side)
{
    int rc;

    do {
        record_free(&side->record);
        rc = source_next(&side->source, &side->record);
    } while (!rc && ((side->record.kind == RECORD_FILE && !options.files) || side->record.kind == RECORD_OTHER));
    return rc;
}

static void tell(const char *name, const char *verdict, struct json *details)
{
    if (options.json) {
        struct json *entry = details ? details : json_make_object();

        json_put(entry, "name", json_make_string(name));
        json_put(entry, "verdict", json_make_string(verdict));
        json_append(report.tensors, entry);
    } else if (!details)
        printf("%-56s %s\n", name, verdict);
}

static struct json *difference_json(const struct difference *d, int64_t columns)
{
    struct json *entry = json_make_object(), *at = json_make_array();

    json_append(at, json_make_int(d->worst / columns));
    json_append(at, json_make_int(d->worst % columns));
    json_put(entry, "error", json_make_number(difference_error(d)));
    json_put(entry, "norm", json_make_number(sqrt(d->norm)));
    json_put(entry, "difference", json_make_number(sqrt(d->squares)));
    json_put(entry, "unequal", json_make_int(d->unequal));
    json_put(entry, "worst", at);
    return entry;
}

static void tell_difference(const char *name, const struct difference *d, int64_t columns)
{
    double error = difference_error(d);
    bool same = !d->unequal || (isfinite(d->norm) && options.tolerance > 0 && error <= options.tolerance);

    difference_join(&report.all, d);
    report.same += same;
    report.different += !same;
    if (!options.json) {
        if (d->unequal)
            printf("%-56s error %.6g, worst at [%lld,%lld]: %.9g, %.9g\n", name, error, (long long)(d->worst / columns),
                   (long long)(d->worst % columns), (double)d->worst_a, (double)d->worst_b);
        return;
    }
    tell(name, same ? "same" : "different", difference_json(d, columns));
}

/* f64 is compared in f32: equal there is not yet equal. Both are of one size. */
static void note_below_f32(struct difference *d, const struct tensor *a, const struct tensor *b)
{
    const double *x = (const void *)a->data, *y = (const void *)b->data;

    if (d->unequal || a->dtype.kind != DTYPE_F64 || b->dtype.kind != DTYPE_F64)
        return;
    for (int64_t i = 0; i < tensor_count(a); i++)
        if (x[i] != y[i] && memcmp(x + i, y + i, sizeof *x)) {
            d->squares += (x[i] - y[i]) * (x[i] - y[i]);
            if (d->unequal++ == 0) {
                d->worst = i;
                d->worst_a = (float)x[i];
                d->worst_b = (float)y[i];
            }
        }
}

static int compare_operators(struct side *a, struct side *b)
{
    struct operator one, other = {0};
    int rc = operator_read(&a->source, &a->record, &one);

    if (!rc && !(rc = operator_read(&b->source, &b->record, &other))) {
        if (one.out == other.out && one.in == other.in) {
            struct difference d = operator_difference(&one, &other);

            if (operator_is_dense(&one) && operator_is_dense(&other))
                note_below_f32(&d, &one.term[0].core[0], &other.term[0].core[0]);
            tell_difference(one.name, &d, one.in ? one.in : 1);
        } else {
            report.different++;
            tell(one.name, "of another size", NULL);
        }
    }
    operator_free(&one);
    operator_free(&other);
    return rc;
}

static bool same_size(const struct record *a, const struct record *b)
{
    return a->rank == b->rank && !memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape);
}

static void compare_tensors(const struct record *record, const struct tensor *a, const struct tensor *b)
{
    bool real = dtype_is_real(a->dtype) && dtype_is_real(b->dtype);

    if (real) {
        int64_t count = tensor_count(a);
        float *values = xaligned((size_t)(2 * count), sizeof *values);
        struct difference d = {0};

        tensor_get(a, values);
        tensor_get(b, values + count);
        difference_add(&d, values, values + count, count, 0);
        note_below_f32(&d, a, b);
        tell_difference(record->name, &d, tensor_row_length(a) ? tensor_row_length(a) : 1);
        free(values);
    } else if (dtype_same(a->dtype, b->dtype) && !memcmp(a->data, b->data, (size_t)a->bytes)) {
        report.same++;
        tell(record->name, "same", options.json ? json_make_object() : NULL);
    } else {
        report.different++;
        tell(record->name, "different", NULL);
    }
}

static int compare_plain(struct side *a, struct side *b)
{
    struct tensor one = {0}, other = {0};
    int rc;

    if (!same_size(&a->record, &b->record) || a->record.kind != b->record.kind) {
        report.different++;
        tell(a->record.name, "of another size", NULL);
        return EX_OK;
    }
    if (!(rc = source_load(&a->source, &a->record, &one)) && !(rc = source_load(&b->source, &b->record, &other)))
        compare_tensors(&a->record, &one, &other);
    tensor_free(&one);
    tensor_free(&other);
    return rc;
}

/* Both sides come in the same order, so a merge finds what belongs together. Cores count by their operator's name. */
static int compare_next(struct side *a, struct side *b)
{
    struct record key_a = a->record, key_b = b->record;
    int order, rc;

    key_a.term = key_a.site = key_b.term = key_b.site = 0;
    order = key_a.kind == RECORD_END ? 1 : key_b.kind == RECORD_END ? -1 : record_compare(&key_a, &key_b);
    if (order) {
        struct side *alone = order < 0 ? a : b;

        if (alone->record.term == 0 && alone->record.site == 0) {
            report.different++;
            tell(alone->record.name, order < 0 ? "only in the first" : "only in the second", NULL);
        }
        return advance(alone);
    }
    rc = operator_begins(&a->record) && operator_begins(&b->record) ? compare_operators(a, b) : compare_plain(a, b);
    progress_step(a->record.name);
    return rc || (rc = advance(a)) ? rc : advance(b);
}

static void print_report(void)
{
    double error = difference_error(&report.all);
    struct json *object;
    char *text;

    if (!options.json) {
        printf("%lld tensors the same, %lld different, relative error %.6g\n", (long long)report.same,
               (long long)report.different, error);
        return;
    }
    object = json_make_object();
    json_put(object, "same", json_make_int(report.same));
    json_put(object, "different", json_make_int(report.different));
    json_put(object, "error", json_make_number(error));
    json_put(object, "tensors", json_keep(report.tensors));
    text = json_write(object, 1);
    puts(text);
    free(text);
    json_drop(object);
}

int main(int argc, char **argv)
{
    struct side a = {0}, b = {0};
    int rc;

    options_parse(&program, argc, argv);
    report.tensors = json_make_array();
    if (!(rc = source_open(&a.source, options.a)) && !(rc = source_open(&b.source, options.b))
        && !(rc = advance(&a)) && !(rc = advance(&b))) {
        progress_start("comparing", 0);
        while (!rc && (a.record.kind != RECORD_END || b.record.kind != RECORD_END))
            rc = compare_next(&a, &b);
        progress_stop();
    }
    if (!rc)
        print_report();
    json_drop(report.tensors);
    record_free(&a.record);
    record_free(&b.record);
    source_close(&a.source);
    source_close(&b.source);
    return rc ? rc : report.different ? DIFFERENT : SAME;
}

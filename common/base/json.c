/* json.c - the wrapper around jansson, and the writer that keeps reals short. */
#include "base/json.h"
#include "base/file.h"
#include "base/memory.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRAP(value) ((struct json *)(value))
#define UNWRAP(value) ((json_t *)(uintptr_t)(value))

struct json *json_parse(const char *text, size_t length, const char *what)
{
    json_error_t error;
    json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);

    if (!value)
        warn("cannot parse '%s': line %d, column %d: %s", what, error.line, error.column, error.text);
    return WRAP(value);
}

int json_load(const char *path, struct json **value)
{
    struct text text = {0};
    int rc = file_read(path, (size_t)1 << 30, &text);

    *value = NULL;
    if (!rc && !(*value = json_parse(text.data, text.length, path)))
        rc = EX_DATAERR;
    text_free(&text);
    return rc;
}

int json_text_lines(const char *text, size_t length, const char *name,
                    int (*take)(void *context, const struct json *value, int64_t line), void *context)
{
    size_t at = 0, size;
    int rc = EX_OK;

    for (int64_t line = 1; !rc && at < length; line++, at += size + 1) {
        const char *start = text + at, *feed = memchr(start, '\n', length - at);
        char *what = xasprintf("%s, line %lld", name, (long long)line);
        struct json *value = NULL;

        size = feed ? (size_t)(feed - start) : length - at;
        if (strspn(start, " \t\r") != size)
            rc = (value = json_parse(start, size, what)) ? take(context, value, line) : EX_DATAERR;
        json_drop(value);
        free(what);
    }
    return rc == JSON_ENOUGH ? EX_OK : rc;
}

/* Where the item at `at` ends: at the comma or bracket behind it, or at end. Whether it is JSON its parser says. */
static const char *item_end(const char *at, const char *end)
{
    bool quoted = false;
    int64_t depth = 0;

    for (; at < end; at++) {
        if (quoted && *at == '\\' && at + 1 < end)
            at++;
        else if (*at == '"')
            quoted = !quoted;
        else if (!quoted && (*at == '{' || *at == '['))
            depth++;
        else if (!quoted && !depth && memchr(",]}", *at, 3))
            return at;
        else if (!quoted && (*at == '}' || *at == ']'))
            depth--;
    }
    return at;
}

static const char *skip_blank(const char *at, const char *end)
{
    while (at < end && memchr(" \t\r\n", *at, 4))
        at++;
    return at;
}

int json_text_items(const char *text, size_t length, const char *name,
                    int (*take)(void *context, const struct json *value, int64_t item), void *context)
{
    const char *end = text + length, *at = skip_blank(text, end);
    bool more = true;
    int rc = EX_OK;

    if (at == end || *at != '[')
        return fail(EX_DATAERR, "'%s': expected an array", name);
    if ((at = skip_blank(at + 1, end)) < end && *at == ']')
        more = false;
    for (int64_t item = 1; !rc && more; item++) {
        const char *behind = item_end(at, end);
        char *what = xasprintf("%s, item %lld", name, (long long)item);
        struct json *value = json_parse(at, (size_t)(behind - at), what);

        rc = value ? take(context, value, item) : EX_DATAERR;
        if (!rc && (behind == end || (*behind != ',' && *behind != ']')))
            rc = fail(EX_DATAERR, "%s: expected ',' or ']' behind it", what);
        more = behind < end && *behind == ',';
        at = more ? behind + 1 : behind;
        json_drop(value);
        free(what);
    }
    if (!rc && skip_blank(at + 1, end) < end)
        rc = fail(EX_DATAERR, "'%s': bytes behind the array", name);
    return rc == JSON_ENOUGH ? EX_OK : rc;
}

const char *json_text_unit(const char *text, size_t length)
{
    const char *end = text + length, *at = skip_blank(text, end);

    if (at < end && *at == '{')
        return "line";
    return at < end && *at == '[' && (at = skip_blank(at + 1, end)) < end && *at == '{' ? "item" : NULL;
}

int json_text_documents(const char *text, size_t length, const char *name,
                        int (*take)(void *context, const struct json *value, int64_t number), void *context)
{
    const char *unit = json_text_unit(text, length);

    return (unit && !strcmp(unit, "item") ? json_text_items : json_text_lines)(text, length, name, take, context);
}

int json_lines(const char *path, int (*take)(void *context, const struct json *value, int64_t line), void *context)
{
    struct text text = {0};
    int rc = file_read(path, (size_t)1 << 30, &text);

    if (!rc)
        rc = json_text_lines(text.data, text.length, file_input_name(path), take, context);
    text_free(&text);
    return rc;
}

int bad_line(const char *path, int64_t line, const char *format, ...)
{
    va_list args;
    int rc;

    va_start(args, format);
    rc = fail_in(EX_DATAERR, xasprintf("'%s', line %lld", file_input_name(path), (long long)line), format, args);
    va_end(args);
    return rc;
}

static void write_string(struct text *out, const json_t *value)
{
    char *quoted = json_dumps(value, JSON_ENCODE_ANY);

    if (!quoted)
        die(EX_SOFTWARE, "cannot write a JSON string");
    text_append(out, quoted, strlen(quoted));
    free(quoted);
}

static void write_real(struct text *out, double value)
{
    char digits[40];

    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    text_format(out, "%s%s", digits, strpbrk(digits, ".e") ? "" : ".0");
}

static void write_break(struct text *out, int indent, int level)
{
    if (indent)
        text_format(out, "\n%*s", indent * level, "");
}

/* Depth is bounded: by jansson's parser (2048) or by the code that built the value. */
static void write_value(struct text *out, const json_t *value, int indent, int level)
{
    const char *separator = "";

    if (!value) {
        text_format(out, "null");
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        text_append(out, "{", 1);
        for (void *m = json_first(WRAP(value)); m; m = json_following(WRAP(value), m)) {
            json_t *key = json_stringn(json_key(m), json_object_iter_key_len(m));

            text_format(out, "%s", separator);
            write_break(out, indent, level + 1);
            write_string(out, key);
            text_format(out, indent ? ": " : ":");
            write_value(out, UNWRAP(json_value(m)), indent, level + 1);
            json_decref(key);
            separator = ",";
        }
        if (*separator)
            write_break(out, indent, level);
        text_append(out, "}", 1);
        break;
    case JSON_ARRAY:
        text_append(out, "[", 1);
        for (size_t i = 0; i < json_array_size(value); i++) {
            text_format(out, "%s", separator);
            write_break(out, indent, level + 1);
            write_value(out, json_array_get(value, i), indent, level + 1);
            separator = ",";
        }
        if (*separator)
            write_break(out, indent, level);
        text_append(out, "]", 1);
        break;
    case JSON_STRING:
        write_string(out, value);
        break;
    case JSON_INTEGER:
        text_format(out, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        write_real(out, json_real_value(value));
        break;
    default:
        text_format(out, "%s", json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
    }
}

char *json_write(const struct json *value, int indent)
{
    struct text out = {0};

    write_value(&out, UNWRAP(value), indent, 0);
    return out.data;
}

char *json_document(const struct json *value)
{
    struct text out = {0};

    write_value(&out, UNWRAP(value), 2, 0);
    text_append(&out, "\n", 1);
    return out.data;
}

struct json *json_keep(struct json *value)
{
    return WRAP(json_incref(UNWRAP(value)));
}

void json_drop(struct json *value)
{
    json_decref(UNWRAP(value));
}

static struct json *made(json_t *value)
{
    if (!value)
        die(EX_OSERR, "out of memory for a JSON value");
    return WRAP(value);
}

struct json *json_clone(const struct json *value)
{
    return value ? made(json_deep_copy(UNWRAP(value))) : NULL;
}

bool json_same(const struct json *a, const struct json *b)
{
    return json_equal(UNWRAP(a), UNWRAP(b));
}

struct json *json_make_null(void)
{
    return made(json_null());
}

struct json *json_make_bool(bool value)
{
    return made(json_boolean(value));
}

struct json *json_make_int(int64_t value)
{
    return made(json_integer(value));
}

struct json *json_make_real(double value)
{
    return isfinite(value) ? made(json_real(value)) : NULL;
}

struct json *json_make_number(double value)
{
    return isfinite(value) ? made(json_real(value)) : json_make_null();
}

struct json *json_make_string(const char *text)
{
    json_t *value = json_string(text);

    return made(value ? value : json_string("?"));
}

struct json *json_make_stringn(const char *text, size_t length)
{
    return WRAP(json_stringn(text, length));
}

struct json *json_make_array(void)
{
    return made(json_array());
}

struct json *json_make_object(void)
{
    return made(json_object());
}

struct json *json_make_strings(const char *const *text, int count)
{
    struct json *array = json_make_array();

    for (int i = 0; i < count; i++)
        json_append(array, json_make_string(text[i]));
    return array;
}

enum json_kind json_kind(const struct json *value)
{
    if (!value)
        return JSON_NOTHING;
    switch (json_typeof(UNWRAP(value))) {
    case JSON_OBJECT:
        return JSON_KIND_OBJECT;
    case JSON_ARRAY:
        return JSON_KIND_ARRAY;
    case JSON_STRING:
        return JSON_KIND_STRING;
    case JSON_INTEGER:
        return JSON_KIND_INT;
    case JSON_REAL:
        return JSON_KIND_REAL;
    case JSON_NULL:
        return JSON_KIND_NULL;
    default:
        return JSON_KIND_BOOL;
    }
}

struct json *json_at(const struct json *object, const char *key)
{
    return WRAP(json_object_get(UNWRAP(object), key));
}

struct json *json_item(const struct json *array, size_t index)
{
    return WRAP(json_array_get(UNWRAP(array), index));
}

size_t json_count(const struct json *value)
{
    return json_array_size(UNWRAP(value)) + json_object_size(UNWRAP(value));
}

void *json_first(const struct json *object)
{
    return json_object_iter(UNWRAP(object));
}

void *json_following(const struct json *object, void *member)
{
    return json_object_iter_next(UNWRAP(object), member);
}

const char *json_key(void *member)
{
    return json_object_iter_key(member);
}

struct json *json_value(void *member)
{
    return WRAP(json_object_iter_value(member));
}

int64_t json_as_int(const struct json *value, int64_t otherwise)
{
    return json_is_integer(UNWRAP(value)) ? json_integer_value(UNWRAP(value)) : otherwise;
}

double json_as_real(const struct json *value, double otherwise)
{
    return json_is_number(UNWRAP(value)) ? json_number_value(UNWRAP(value)) : otherwise;
}

bool json_as_bool(const struct json *value, bool otherwise)
{
    return json_is_boolean(UNWRAP(value)) ? json_is_true(UNWRAP(value)) : otherwise;
}

const char *json_as_string(const struct json *value, const char *otherwise)
{
    return json_is_string(UNWRAP(value)) ? json_string_value(UNWRAP(value)) : otherwise;
}

size_t json_as_length(const struct json *value)
{
    return json_string_length(UNWRAP(value));
}

void json_put(struct json *object, const char *key, struct json *value)
{
    if (json_object_set_new(UNWRAP(object), key, UNWRAP(value)))
        die(EX_SOFTWARE, "cannot add '%s' to a JSON object", key);
}

void json_append(struct json *array, struct json *value)
{
    if (json_array_append_new(UNWRAP(array), UNWRAP(value)))
        die(EX_SOFTWARE, "cannot add to a JSON array");
}

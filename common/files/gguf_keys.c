/* gguf_keys.c - finds keys and tensors of a parsed header, and gives the values of keys in the type that is asked
 * for. */
#include "files/gguf_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_name[GGUF_TYPES] = {
    [GGUF_U8] = "u8", [GGUF_I8] = "i8", [GGUF_U16] = "u16", [GGUF_I16] = "i16", [GGUF_U32] = "u32", [GGUF_I32] = "i32",
    [GGUF_F32] = "f32", [GGUF_BOOL] = "bool", [GGUF_STRING] = "string", [GGUF_ARRAY] = "array", [GGUF_U64] = "u64",
    [GGUF_I64] = "i64", [GGUF_F64] = "f64",
};

int gguf_fail(const struct gguf *gguf, const char *format, ...)
{
    char *where = xasprintf("cannot read '%s'", gguf->path);
    va_list args;

    va_start(args, format);
    fail_in(EX_DATAERR, where, format, args);
    va_end(args);
    return EX_DATAERR;
}

const char *gguf_show(struct gguf_string string, char buffer[84])
{
    size_t length = string.length < 80 ? string.length : 80;

    for (size_t i = 0; i < length; i++)
        buffer[i] = string.data[i] >= ' ' && string.data[i] <= '~' ? string.data[i] : '?';
    strcpy(buffer + length, length < string.length ? "..." : "");
    return buffer;
}

/* Both arrays are of structures that begin with their name. */
static int compare_name(const void *name, const void *entry)
{
    return strcmp(name, *(char *const *)entry);
}

const struct gguf_key *gguf_find(const struct gguf *g, const char *name)
{
    return g->n_key ? bsearch(name, g->key, (size_t)g->n_key, sizeof *g->key, compare_name) : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
    return g->n_tensor ? bsearch(name, g->tensor, (size_t)g->n_tensor, sizeof *g->tensor, compare_name) : NULL;
}

static int wrong_type(const struct gguf *g, const struct gguf_key *key, const char *expected)
{
    bool array = key->type == GGUF_ARRAY;

    return gguf_fail(g, "key '%s': found type %s%s%s, expected %s", key->name, type_name[key->type],
                     array ? " of " : "", array ? type_name[key->item] : "", expected);
}

/* An integer of any width; false for other types and what exceeds 63 bits. */
static bool integer(const struct gguf *g, enum gguf_type type, int64_t at, int64_t *value)
{
    switch (type) {
    case GGUF_U8:
        *value = (int64_t)gguf_number(g, at, 1);
        return true;
    case GGUF_I8:
        *value = (int8_t)gguf_number(g, at, 1);
        return true;
    case GGUF_U16:
        *value = (int64_t)gguf_number(g, at, 2);
        return true;
    case GGUF_I16:
        *value = (int16_t)gguf_number(g, at, 2);
        return true;
    case GGUF_U32:
        *value = (int64_t)gguf_number(g, at, 4);
        return true;
    case GGUF_I32:
        *value = (int32_t)gguf_number(g, at, 4);
        return true;
    case GGUF_U64:
    case GGUF_I64:
        *value = (int64_t)gguf_number(g, at, 8);
        return type == GGUF_I64 || *value >= 0;
    default:
        return false;
    }
}

int gguf_int(const struct gguf *g, const char *name, int64_t least, int64_t most, int64_t *value)
{
    const struct gguf_key *key = gguf_find(g, name);
    int64_t found = 0;

    if (!key)
        return EX_OK;
    if (!integer(g, key->type, key->at, &found))
        return wrong_type(g, key, "an integer");
    if (found < least || found > most)
        return gguf_fail(g, "key '%s': found %lld, expected %lld to %lld", name, (long long)found, (long long)least,
                         (long long)most);
    *value = found;
    return EX_OK;
}

static float float_at(const struct gguf *g, int64_t at)
{
    uint32_t bits = (uint32_t)gguf_number(g, at, 4);
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The double whose shortest decimal form is the shortest one that rounds to value: 0.22, not 0.2199999988079071. */
static double shortest(float value)
{
    char digits[32];

    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value)
            break;
    }
    return strtod(digits, NULL);
}

int gguf_real(const struct gguf *g, const char *name, double *value)
{
    const struct gguf_key *key = gguf_find(g, name);
    int64_t whole = 0;
    double found = 0;

    if (!key)
        return EX_OK;
    if (key->type == GGUF_F32)
        found = isfinite(float_at(g, key->at)) ? shortest(float_at(g, key->at)) : INFINITY;
    else if (key->type == GGUF_F64) {
        uint64_t bits = gguf_number(g, key->at, 8);

        memcpy(&found, &bits, sizeof found);
    } else if (integer(g, key->type, key->at, &whole))
        found = (double)whole;
    else
        return wrong_type(g, key, "a number");
    if (!isfinite(found))
        return gguf_fail(g, "key '%s': found a number that is not finite", name);
    *value = found;
    return EX_OK;
}

int gguf_bool(const struct gguf *g, const char *name, bool *value)
{
    const struct gguf_key *key = gguf_find(g, name);

    if (!key)
        return EX_OK;
    if (key->type != GGUF_BOOL)
        return wrong_type(g, key, "bool");
    *value = gguf_number(g, key->at, 1) != 0;
    return EX_OK;
}

int gguf_text(const struct gguf *g, const char *name, struct gguf_string *value)
{
    const struct gguf_key *key = gguf_find(g, name);

    if (!key)
        return EX_OK;
    if (key->type != GGUF_STRING)
        return wrong_type(g, key, "string");
    *value = (struct gguf_string){g->header.data + key->at, (size_t)key->count};
    return EX_OK;
}

int gguf_array(const struct gguf *g, const char *name, enum gguf_type item, enum gguf_type other,
               const struct gguf_key **key)
{
    *key = gguf_find(g, name);
    if (*key && ((*key)->type != GGUF_ARRAY || ((*key)->item != item && (*key)->item != other))) {
        char expected[32];

        snprintf(expected, sizeof expected, "array of %s", type_name[item]);
        return wrong_type(g, *key, expected);
    }
    return EX_OK;
}

struct gguf_string *gguf_strings(const struct gguf *g, const struct gguf_key *key)
{
    struct gguf_string *list = xmallocarray((size_t)key->count, sizeof *list);
    int64_t at = key->at;

    for (int64_t i = 0; i < key->count; i++) {
        size_t length = (size_t)gguf_number(g, at, 8);       /* within the header: the parser went this way */

        list[i] = (struct gguf_string){g->header.data + at + 8, length};
        at += 8 + (int64_t)length;
    }
    return list;
}

int64_t gguf_int_item(const struct gguf *g, const struct gguf_key *key, int64_t index)
{
    int64_t value = 0;

    integer(g, key->item, key->at + 4 * index, &value);
    return value;
}

float gguf_real_item(const struct gguf *g, const struct gguf_key *key, int64_t index)
{
    return float_at(g, key->at + 4 * index);
}

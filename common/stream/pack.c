/* pack.c - msgpack by msgpack-c, behind a scanner that trusts no count. */
#include "stream/pack.h"
#include "base/error.h"

#include <math.h>
#include <msgpack.h>
#include <string.h>

static int append(void *data, const char *bytes, size_t size)
{
    text_append(data, bytes, size);
    return 0;
}

static bool pack_value(msgpack_packer *packer, const struct json *value, int depth)
{
    bool good = true;
    size_t length;

    if ((json_kind(value) == JSON_KIND_OBJECT || json_kind(value) == JSON_KIND_ARRAY) && depth > PACK_DEPTH)
        return false;
    switch (json_kind(value)) {
    case JSON_KIND_OBJECT:
        msgpack_pack_map(packer, json_count(value));
        for (void *m = json_first(value); m && good; m = json_following(value, m)) {
            length = strlen(json_key(m));
            msgpack_pack_str(packer, length);
            msgpack_pack_str_body(packer, json_key(m), length);
            good = pack_value(packer, json_value(m), depth + 1);
        }
        break;
    case JSON_KIND_ARRAY:
        msgpack_pack_array(packer, json_count(value));
        for (size_t i = 0; i < json_count(value) && good; i++)
            good = pack_value(packer, json_item(value, i), depth + 1);
        break;
    case JSON_KIND_STRING:
        msgpack_pack_str(packer, json_as_length(value));
        msgpack_pack_str_body(packer, json_as_string(value, ""), json_as_length(value));
        break;
    case JSON_KIND_INT:
        msgpack_pack_int64(packer, json_as_int(value, 0));
        break;
    case JSON_KIND_REAL:
        msgpack_pack_double(packer, json_as_real(value, 0));
        break;
    case JSON_KIND_BOOL:
        json_as_bool(value, false) ? msgpack_pack_true(packer) : msgpack_pack_false(packer);
        break;
    default:
        msgpack_pack_nil(packer);
    }
    return good;
}

int pack_write(const struct json *value, struct text *out)
{
    size_t before = out->length;
    msgpack_packer packer;

    msgpack_packer_init(&packer, out, append);
    if (!pack_value(&packer, value, 1) || out->length - before > PACK_LIMIT)
        return fail(EX_DATAERR, "a map is larger than %d bytes or deeper than %d levels", PACK_LIMIT, PACK_DEPTH);
    return EX_OK;
}

static struct json *unpack_value(const msgpack_object *object, const char **reason);

static struct json *unpack_map(const msgpack_object_map *map, const char **reason)
{
    struct json *result = json_make_object();

    for (uint32_t i = 0; i < map->size; i++) {
        const msgpack_object *key = &map->ptr[i].key;
        struct json *value = NULL;
        char *name = NULL;

        if (key->type != MSGPACK_OBJECT_STR || !key->via.str.size || memchr(key->via.str.ptr, '\0', key->via.str.size))
            *reason = "a key is not a string, or empty";
        else if (name = xstrndup(key->via.str.ptr, key->via.str.size), json_at(result, name))
            *reason = "a key stands twice";
        else if ((value = json_make_stringn(name, strlen(name))))
            json_drop(value), value = unpack_value(&map->ptr[i].val, reason);
        else
            *reason = "a key is not UTF-8";
        if (value)
            json_put(result, name, value);
        free(name);
        if (!value) {
            json_drop(result);
            return NULL;
        }
    }
    return result;
}

static struct json *unpack_array(const msgpack_object_array *array, const char **reason)
{
    struct json *result = json_make_array();

    for (uint32_t i = 0; i < array->size; i++) {
        struct json *value = unpack_value(&array->ptr[i], reason);

        if (!value) {
            json_drop(result);
            return NULL;
        }
        json_append(result, value);
    }
    return result;
}

static struct json *unpack_value(const msgpack_object *object, const char **reason)
{
    struct json *value = NULL;

    switch (object->type) {
    case MSGPACK_OBJECT_NIL:
        return json_make_null();
    case MSGPACK_OBJECT_BOOLEAN:
        return json_make_bool(object->via.boolean);
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        if (object->via.u64 <= INT64_MAX)
            return json_make_int((int64_t)object->via.u64);
        *reason = "an integer exceeds 63 bits";
        return NULL;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return json_make_int(object->via.i64);
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        if (!(value = json_make_real(object->via.f64)))
            *reason = "a number is not finite";
        return value;
    case MSGPACK_OBJECT_STR:
        if (!(value = json_make_stringn(object->via.str.ptr, object->via.str.size)))
            *reason = "a string is not UTF-8";
        return value;
    case MSGPACK_OBJECT_ARRAY:
        return unpack_array(&object->via.array, reason);
    case MSGPACK_OBJECT_MAP:
        return unpack_map(&object->via.map, reason);
    default:
        *reason = "a bin or ext object stands inside a map";
        return NULL;
    }
}

struct json *pack_read(const void *data, size_t size, const char **reason)
{
    struct pack_scan scan = {0};
    msgpack_zone zone;
    msgpack_object object;
    struct json *value = NULL;
    size_t used = 0;

    *reason = "not a msgpack object";
    if (pack_scan(&scan, data, size) != PACK_DONE || scan.at != size || !msgpack_zone_init(&zone, 4096))
        return NULL;
    if (msgpack_unpack(data, size, &used, &zone, &object) == MSGPACK_UNPACK_SUCCESS && used == size)
        value = unpack_value(&object, reason);
    msgpack_zone_destroy(&zone);
    return value;
}

static uint64_t big_endian(const unsigned char *bytes, int count)
{
    uint64_t value = 0;

    for (int i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* What a first byte announces: bytes of its length field, bytes of its body, objects inside. */
struct head {
    int field;
    uint64_t body, children;
    bool good;
};

static struct head head_of(unsigned char first)
{
    static const unsigned char scalar[16] = {[0x0a] = 4, [0x0b] = 8, [0x0c] = 1, [0x0d] = 2, [0x0e] = 4, [0x0f] = 8};

    if (first <= 0x7f || first >= 0xe0 || first == 0xc0 || first == 0xc2 || first == 0xc3)
        return (struct head){.good = true};
    if (first <= 0x8f)
        return (struct head){.children = 2 * (uint64_t)(first & 15), .good = true};
    if (first <= 0x9f)
        return (struct head){.children = first & 15, .good = true};
    if (first <= 0xbf)
        return (struct head){.body = first & 31, .good = true};
    if (first >= 0xca && first <= 0xcf)
        return (struct head){.body = scalar[first & 15], .good = true};
    if (first >= 0xd0 && first <= 0xd3)
        return (struct head){.body = 1u << (first & 3), .good = true};
    if (first >= 0xd9 && first <= 0xdb)
        return (struct head){.field = 1 << (first - 0xd9), .good = true};
    if (first >= 0xdc && first <= 0xdf)
        return (struct head){.field = first & 1 ? 4 : 2, .good = true};
    return (struct head){.good = false};         /* bin, ext, 0xc1 */
}

enum pack_state pack_scan(struct pack_scan *scan, const unsigned char *data, size_t size)
{
    if (scan->at == 0 && scan->depth == 0)
        scan->left[scan->depth = 1] = 1;
    while (scan->depth) {
        struct head head;

        if (scan->left[scan->depth] == 0) {
            scan->depth--;
            continue;
        }
        if (scan->at >= size)
            return PACK_MORE;
        head = head_of(data[scan->at]);
        if (!head.good)
            return PACK_BAD;
        if (size - scan->at < 1 + (size_t)head.field)
            return PACK_MORE;
        if (head.field && data[scan->at] <= 0xdb)
            head.body = big_endian(data + scan->at + 1, head.field);
        else if (head.field)
            head.children = (data[scan->at] >= 0xde ? 2 : 1) * big_endian(data + scan->at + 1, head.field);
        /* Each object takes a byte at least: more of them than bytes may follow is a lie. */
        if (head.body > PACK_LIMIT || head.children > PACK_LIMIT
            || scan->at + 1 + (size_t)head.field + head.body + head.children > PACK_LIMIT)
            return PACK_BAD;
        if (size - scan->at < 1 + (size_t)head.field + head.body)
            return PACK_MORE;
        scan->at += 1 + (size_t)head.field + head.body;
        scan->left[scan->depth]--;
        if (head.children) {
            if (scan->depth > PACK_DEPTH)
                return PACK_BAD;
            scan->left[++scan->depth] = head.children;
        }
    }
    return PACK_DONE;
}

/* pack.h - JSON trees as msgpack bytes and back. The door to msgpack-c.
 *
 * Only maps of moderate size go through here: payloads never do. */
#ifndef STREAM_PACK_H
#define STREAM_PACK_H

#include "base/json.h"
#include "base/memory.h"

enum { PACK_LIMIT = 16 << 20 };      /* bytes of a map */
enum { PACK_DEPTH = 16 };            /* levels of maps and arrays in each other */

/* Appends value as msgpack, in the shortest encodings. EX_OK, or EX_DATAERR where it exceeds PACK_LIMIT or
 * PACK_DEPTH. */
int pack_write(const struct json *value, struct text *out);

/* Reads the object that fills data[0..size-1] exactly. NULL where it is no valid msgpack, holds what JSON can't
 * (bin, ext, keys that aren't strings, integers over INT64_MAX, strings that aren't UTF-8), or names a key twice;
 * *reason says which. */
struct json *pack_read(const void *data, size_t size, const char **reason);

/* Finds the end of an object while its bytes come in: counts are checked against PACK_LIMIT before anything is
 * stored. */
struct pack_scan {
    size_t at;                       /* bytes scanned */
    int depth;
    uint64_t left[PACK_DEPTH + 2];   /* objects still to come, per level */
};

enum pack_state { PACK_MORE, PACK_DONE, PACK_BAD };

/* Scans on in data[0..size-1] (all bytes from the object's first one). PACK_MORE: not whole yet; PACK_DONE: it
 * ends at scan->at; PACK_BAD: too deep, too large, a forbidden type. Start with {0}. */
enum pack_state pack_scan(struct pack_scan *scan, const unsigned char *data, size_t size);

#endif

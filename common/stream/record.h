/* record.h - what stands before each payload of a stream, and the order in which records come.
 *
 * A record is a companion file, a plain tensor, or one core of an operator (see operator/operator.h). A matrix in
 * one piece is a plain tensor. Kinds that this version doesn't know are carried through unread. */
#ifndef STREAM_RECORD_H
#define STREAM_RECORD_H

#include "base/json.h"
#include "tensor/tensor.h"

#include <stdint.h>

enum record_kind { RECORD_END, RECORD_FILE, RECORD_TENSOR, RECORD_CORE, RECORD_OTHER };

struct record {
    enum record_kind kind;
    char *name;                  /* of the weight or file; owned */
    int term, n_term;            /* RECORD_CORE: which term of how many, */
    int site, n_site;            /* and which core of how many in its chain; otherwise 0, 1, 0, 1 */
    struct dtype dtype;          /* RECORD_FILE and RECORD_OTHER: u8 */
    int rank;
    int64_t shape[TENSOR_RANK];  /* of a core: [chi_left, d_out, d_in, chi_right] */
    int64_t bytes;               /* of the payload */
    struct json *map;            /* the whole map as it was read or will be written; owned */

    char *packed;                /* the map as msgpack; owned, NULL until it is read or written */
    size_t packed_size;
    uint64_t checksum;           /* of map and payload, once known */
    int64_t index, offset;       /* where it was read: number and byte in the stream */
};

/* A record for a tensor, core or file of these sizes, with its map made; shape is copied. */
struct record record_tensor(const char *name, struct dtype dtype, int rank, const int64_t *shape);
struct record record_core(const char *name, int term, int n_term, int site, int n_site, const struct tensor *core);
struct record record_file(const char *name, int64_t bytes);

/* A copy, the caller's. */
struct record record_copy(const struct record *record);

/* Fills a record from its map (stolen). EX_OK, or EX_DATAERR with *reason (the caller's to free) where a member is
 * missing or wrong: unknown dtype, a size that doesn't match dtype and shape, term and site out of range. */
int record_parse(struct json *map, struct record *record, char **reason);

/* What makes a name unfit for streams, messages and file lists ("no name", "a name with control characters"), or
 * NULL. */
const char *record_name_trouble(const char *name);

/* Releases what it owns and zeroes. */
void record_free(struct record *record);

/* The fixed order: companion files; embedding; blocks ascending; final norm; head; anything else. Within a section by
 * name, then by term and site. Negative, 0, positive as a comes before, is, or comes after b. Since the order is
 * strict, a name can't stand twice. */
int record_compare(const struct record *a, const struct record *b);

/* Why next may not come after last: order, completeness and bonds of chains; NULL where it may. last without a
 * name stands for the beginning, next NULL for the end. */
const char *record_after(const struct record *last, const struct record *next);

/* Keeps in last what record_after() needs of record; last->name is freed and owned. */
void record_remember(struct record *last, const struct record *record);

enum section { SECTION_FILES, SECTION_EMBEDDING, SECTION_BLOCKS, SECTION_NORM, SECTION_HEAD, SECTION_OTHER };

/* The section of a weight's name, and its block in SECTION_BLOCKS (otherwise -1). */
enum section record_section(const char *name, int64_t *block);

#endif

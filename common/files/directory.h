/* directory.h - what the two halves of the directory reader share: the weights of all shards, by name. Private to them.
 *
 * A directory of Lapidary's own differs from a Hugging Face one in two places: its config.json has model_type
 * "lapidary" and holds the original configuration and the history; and each shard's metadata has a member "lapidary",
 * the JSON text of an array of record maps, one for each record that is not a plain tensor. The payload of such a
 * record lies in tensors named after it (see directory_planes()). */
#ifndef FILES_DIRECTORY_H
#define FILES_DIRECTORY_H

#include "files/model.h"
#include "files/safetensors.h"

#define DIRECTORY_CONFIG "config.json"
#define DIRECTORY_SINGLE "model.safetensors"
#define DIRECTORY_INDEX "model.safetensors.index.json"
#define DIRECTORY_LAPIDARY "lapidary"            /* model_type, and the member of a shard's metadata */
#define DIRECTORY_HISTORY "lapidary_history"     /* member of a plain shard's metadata */
enum { DIRECTORY_VERSION = 1 };

struct open_file {
    int fd;
    char *path;                  /* for messages */
    int64_t size;
    struct safetensors shard;    /* of a file of weights; empty of a companion file */
};

struct weight {
    const struct safetensors_entry *entry;       /* borrowed from its shard */
    int file;
    bool used;                   /* it is part of an item */
};

struct directory {
    struct open_file *file;      /* the n_shard first ones hold weights */
    size_t n_file, n_shard;
    struct weight *weight;       /* of all shards, by name; valid while the model is being opened */
    size_t n_weight;
};

/* The weight of this name; NULL where there is none. */
struct weight *directory_find(struct directory *directory, const char *name);

/* One stored tensor of a record's payload. */
struct plane {
    char name[1152];
    struct dtype dtype;
    int rank;
    int64_t shape[TENSOR_RANK];
    int64_t at, bytes;           /* in the record's payload */
};

/* Names, shapes and places of the stored tensors of a record, in the order of its payload; how many: 1 to
 * GROUP_PLANES.
 *     plain dtypes        BASE             as the record's dtype and shape
 *     group formats       BASE.codes       U8 [rows, code_bytes]
 *                         BASE.scale       F16 [rows, groups]
 *                         BASE.zero_point  U8 [rows, zero_bytes] (offset int), or BASE.minimum F16 [rows, groups] (min)
 *       with scale_bits   BASE.codes, BASE.zero_point as above, BASE.scale and BASE.minimum U8 [rows, scale_bytes]
 *                         BASE.scale_factor, BASE.minimum_factor F16 [rows, supers]
 *     all else            BASE             U8 [bytes]
 * BASE is the record's name, of a core followed by `.TERM.SITE`. */
int directory_planes(const struct record *record, struct plane planes[GROUP_PLANES]);

/* True where the record needs no map beside it: a tensor of a plain dtype with no further attributes. */
bool directory_is_plain(const struct record *record);

/* Reads a Lapidary config.json (already parsed): history and the original configuration, also as the companion file. */
int directory_lapidary_config(struct model *model, const struct json *config);

/* Adds the records that one shard's metadata lists, and marks their weights as used. */
int directory_lapidary_records(struct model *model, struct directory *directory, const struct open_file *shard);

/* Payload bytes [from, from + size) of a record in several planes. */
int directory_read_planes(const struct open_file *file, const struct item *item, int64_t from, size_t size, void *to);

#endif

/* gguf_internal.h - what the parts of the GGUF container share; for common/files/gguf*.c only.
 *
 *     gguf_parse.c      bytes of the header -> keys and tensor entries, every length checked before it is used
 *     gguf_keys.c       values of keys
 *     gguf_blocks.c     the element types, and block formats -> f32
 *     gguf_config.c     keys -> the model's sizes, config.json, generation_config.json
 *     gguf_tensors.c    tensor entries -> items under Hugging Face names
 *     gguf_vocab.c      keys -> vocabulary and merges
 *     gguf_tokenizer.c  vocabulary -> tokenizer.json, tokenizer_config.json
 *     gguf.c            the container: opens by calling these in turn, reads payloads
 *
 * Functions that return int give EX_OK, or EX_DATAERR (EX_IOERR where the disk fails) after one message. */
#ifndef FILES_GGUF_INTERNAL_H
#define FILES_GGUF_INTERNAL_H

#include "base/memory.h"
#include "files/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- the header (gguf_parse.c, gguf_keys.c) ---- */

enum gguf_type { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING,
                 GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES };

struct gguf_key {
    char *name;                  /* printable ASCII */
    enum gguf_type type;         /* GGUF_ARRAY: of items of type item, which is neither GGUF_ARRAY */
    enum gguf_type item;
    int64_t count;               /* items of an array, bytes of a string, otherwise 1 */
    int64_t at;                  /* in the header: the value, the string's first byte, the array's first item */
};

struct gguf_tensor {
    char *name;                  /* printable ASCII */
    const struct gguf_format *format;
    int rank;                    /* 1..4 */
    int64_t shape[4];            /* row-major, as everywhere here: the reverse of the order in the file */
    int64_t offset, bytes;       /* in the file; inside it, and disjoint from all others */
};

struct gguf {
    int fd;
    const char *path;            /* borrowed */
    int64_t size;                /* of the file */
    struct text header;          /* the bytes read so far; whole after gguf_parse() */
    int64_t at;                  /* the parser's place; after gguf_parse() the end of the header */
    int64_t alignment;
    struct gguf_key *key;        /* sorted by name */
    int64_t n_key;
    struct gguf_tensor *tensor;  /* sorted by name */
    int64_t n_tensor;
};

/* Bytes within the header, not terminated. */
struct gguf_string {
    const char *data;
    size_t length;
};

/* `cannot read 'x.gguf': ...`; returns EX_DATAERR. */
int gguf_fail(const struct gguf *gguf, const char *format, ...) PRINTF_LIKE(2, 3);

/* A string from the file made fit for a message: at most 80 bytes, '?' for what isn't printable ASCII. */
const char *gguf_show(struct gguf_string string, char buffer[84]);

/* Reads the header through fd: keys and tensors, sorted; refuses what is malformed, big-endian, split, duplicate,
 * truncated or overlapping. Fills all but fd, path and size. gguf_free() releases, also after an error. */
int gguf_parse(struct gguf *gguf);
void gguf_free(struct gguf *gguf);

/* An unsigned little-endian number of 1 to 8 bytes in the header. */
uint64_t gguf_number(const struct gguf *gguf, int64_t at, int bytes);

const struct gguf_key *gguf_find(const struct gguf *gguf, const char *name);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name);

/* The value of a key. Where it is absent *value stays as it was, and that is EX_OK; another type is an error.
 * Integers of any width are taken; reals that are f32 come as the shortest decimal that rounds to them, as a
 * config.json has it. */
int gguf_int(const struct gguf *gguf, const char *name, int64_t least, int64_t most, int64_t *value);
int gguf_real(const struct gguf *gguf, const char *name, double *value);
int gguf_bool(const struct gguf *gguf, const char *name, bool *value);
int gguf_text(const struct gguf *gguf, const char *name, struct gguf_string *value);

/* An array with items of one of two types; *key is NULL where it is absent. */
int gguf_array(const struct gguf *gguf, const char *name, enum gguf_type item, enum gguf_type other,
               const struct gguf_key **key);

/* The items of an array of strings; the caller frees the list, the bytes belong to the header. */
struct gguf_string *gguf_strings(const struct gguf *gguf, const struct gguf_key *key);

/* Item index of an array of I32 or U32, of F32. */
int64_t gguf_int_item(const struct gguf *gguf, const struct gguf_key *key, int64_t index);
float gguf_real_item(const struct gguf *gguf, const struct gguf_key *key, int64_t index);

/* ---- element types (gguf_blocks.c) ---- */

struct gguf_format {
    int id;                      /* in the file */
    const char *name;            /* "Q4_1" */
    int elements, bytes;         /* of a block; 0, 0 where this reader knows no more than the name */
    struct dtype dtype;          /* of the payload that readers get */
    /* count blocks -> out [count * elements] f32, bit for bit as the Python package gguf has it; NULL where the
     * payload is the bytes of the file. */
    void (*decode)(const unsigned char *block, int64_t count, float *out);
};

enum { GGUF_BLOCK_ELEMENTS = 256, GGUF_BLOCK_BYTES = 210 };      /* the most of any format */

/* The format with an id; NULL where there is none. */
const struct gguf_format *gguf_format(uint32_t id);

/* ---- sizes and configuration (gguf_config.c) ---- */

struct gguf_architecture {
    const char *name;            /* general.architecture */
    const char *model_type, *class;
    bool permuted;               /* rows of q and k in pairs (2j, 2j+1) instead of halves (j, j + head_dim/2) */
    bool output_bias;            /* with biases of q, k and v comes one of o */
    bool qk_norm;
    bool multipliers;            /* Granite's four */
};

struct gguf_plan {
    const struct gguf_architecture *architecture;
    int64_t vocab, hidden, inner, layers, heads, kv_heads, head_dim, context;
    bool attention_bias, mlp_bias, tied;
};

/* Reads and checks the sizes. */
int gguf_plan(const struct gguf *gguf, struct gguf_plan *plan);

/* Adds config.json and generation_config.json, and sets model->config. */
int gguf_config(const struct gguf *gguf, const struct gguf_plan *plan, struct model *model);

/* `ARCHITECTURE.suffix`, written to buffer. */
const char *gguf_key_name(const struct gguf_plan *plan, const char *suffix, char buffer[128]);

/* The special tokens' ids, -1 where there is none. SentencePiece models without these keys mean 1, 2 and 0. */
struct gguf_special {
    int64_t bos, eos, unknown, pad, eot;
};

int gguf_special(const struct gguf *gguf, struct gguf_special *special);

/* ---- tensors (gguf_tensors.c) ---- */

/* Adds an item for each tensor, under its Hugging Face name, its shape checked against the plan; refuses unknown,
 * missing and undecodable ones. In each item place[] is {offset in the file, id of the format, head_dim where rows
 * of heads have to be put back into halves, otherwise 0}. */
int gguf_tensors(const struct gguf *gguf, const struct gguf_plan *plan, struct model *model);

/* ---- tokenizer (gguf_vocab.c, gguf_tokenizer.c) ---- */

enum gguf_token { GGUF_NORMAL = 1, GGUF_UNKNOWN = 2, GGUF_CONTROL = 3, GGUF_USER = 4, GGUF_UNUSED = 5, GGUF_BYTE = 6 };

struct gguf_merge {
    uint32_t left, right;        /* ids */
};

struct gguf_vocab {
    int64_t size;                /* 0: the file has no tokenizer */
    bool byte_level;             /* BPE over GPT-2's byte alphabet; otherwise SentencePiece BPE with byte fallback */
    struct gguf_string *token;   /* [size], UTF-8 without NUL, all different; owned, the bytes are the header's */
    unsigned char *kind;         /* [size] of enum gguf_token; owned */
    struct gguf_merge *merge;    /* [merges], best first; owned */
    int64_t merges;
    struct gguf_special special;
};

/* Reads the vocabulary and the merges, or derives these from the scores; checks them. gguf_vocab_free() releases,
 * also after an error. */
int gguf_vocab(const struct gguf *gguf, struct gguf_vocab *vocab);
void gguf_vocab_free(struct gguf_vocab *vocab);

/* Adds tokenizer.json and tokenizer_config.json, where the file has a tokenizer. */
int gguf_tokenizer(const struct gguf *gguf, const struct gguf_plan *plan, struct model *model);

#endif

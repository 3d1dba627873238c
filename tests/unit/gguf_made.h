/* gguf_made.h - small GGUF files for test_gguf.c and test_gguf_bad.c, made byte by byte. */
#ifndef TESTS_GGUF_MADE_H
#define TESTS_GGUF_MADE_H

#include "files/gguf_internal.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A GGUF file in the making: its sections, and what to leave out. */
struct made {
    struct text keys, infos, data;
    uint64_t n_keys, n_tensors;
    uint32_t version;            /* 0: 3 */
    const char *skip;            /* a key or tensor that add functions leave out */
};

static inline void put(struct text *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        char byte = (char)(value >> 8 * i);

        text_append(to, &byte, 1);
    }
}

static inline void put_string(struct text *to, const char *string)
{
    put(to, strlen(string), 8);
    text_append(to, string, strlen(string));
}

static inline bool begin_key(struct made *made, const char *name, enum gguf_type type)
{
    if (made->skip && !strcmp(made->skip, name))
        return false;
    put_string(&made->keys, name);
    put(&made->keys, type, 4);
    made->n_keys++;
    return true;
}

static inline void key_number(struct made *made, const char *name, enum gguf_type type, uint64_t value, int bytes)
{
    if (begin_key(made, name, type))
        put(&made->keys, value, bytes);
}

static inline void key_u32(struct made *made, const char *name, uint32_t value)
{
    key_number(made, name, GGUF_U32, value, 4);
}

static inline void key_f32(struct made *made, const char *name, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    key_number(made, name, GGUF_F32, bits, 4);
}

static inline void key_string(struct made *made, const char *name, const char *value)
{
    if (begin_key(made, name, GGUF_STRING))
        put_string(&made->keys, value);
}

static inline void key_strings(struct made *made, const char *name, const char *const *values, int count)
{
    if (!begin_key(made, name, GGUF_ARRAY))
        return;
    put(&made->keys, GGUF_STRING, 4);
    put(&made->keys, (uint64_t)count, 8);
    for (int i = 0; i < count; i++)
        put_string(&made->keys, values[i]);
}

static inline void key_array(struct made *made, const char *name, enum gguf_type item, const void *values, int count)
{
    if (!begin_key(made, name, GGUF_ARRAY))
        return;
    put(&made->keys, item, 4);
    put(&made->keys, (uint64_t)count, 8);
    text_append(&made->keys, values, 4 * (size_t)count);
}

/* An entry as it stands, with dims in the file's order; offset -1: where the data has come to. */
static inline void entry(struct made *made, const char *name, uint32_t type, int rank, const uint64_t *dims,
                         int64_t offset)
{
    put_string(&made->infos, name);
    put(&made->infos, (uint64_t)rank, 4);
    for (int i = 0; i < rank; i++)
        put(&made->infos, dims[i], 8);
    put(&made->infos, type, 4);
    put(&made->infos, offset < 0 ? made->data.length : (uint64_t)offset, 8);
    made->n_tensors++;
}

/* A matrix [rows, columns], or a vector [rows] where columns is 0, with the format's blocks made from the row's
 * number. */
static inline void tensor(struct made *made, const char *name, uint32_t type, uint64_t rows, uint64_t columns)
{
    const struct gguf_format *format = gguf_format(type);
    uint64_t dims[2] = {columns ? columns : rows, rows};
    uint64_t blocks = (columns ? columns : 1) / (uint64_t)format->elements;

    if (made->skip && !strcmp(made->skip, name))
        return;
    entry(made, name, type, columns ? 2 : 1, dims, -1);
    for (uint64_t row = 0; row < rows; row++)
        for (uint64_t i = 0; i < blocks; i++) {
            if (format->decode) {
                put(&made->data, 0x3c00, 2);     /* a scale of 1 */
                for (int byte = 2; byte < format->bytes; byte++)
                    put(&made->data, row, 1);
            } else if (type == 0) {
                float value = (float)row;

                text_append(&made->data, &value, sizeof value);
            } else
                put(&made->data, row, format->bytes);
        }
    while (made->data.length % 32)
        put(&made->data, 0, 1);
}

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
       Q6_K = 14, IQ4_NL = 20 };

enum { VOCAB = 8 };

static const char *const tokens[VOCAB] = {"<|end|>", "a", "b", "\xc4\xa0", "ab", "\xc4\xa0""ab", "<think>", "\"\\"};
static const char *const merges[] = {"a b", "\xc4\xa0 ab"};
static const int32_t kinds[VOCAB] = {3, 1, 1, 1, 1, 1, 4, 1};

/* Sizes of a model of one block: hidden 32, two heads of 16 over one key-value head. */
static inline void fill_sizes(struct made *made, const char *architecture)
{
    const struct {
        const char *suffix;
        uint32_t value;
    } sizes[] = {
        {"embedding_length", 32}, {"feed_forward_length", 32}, {"block_count", 1}, {"context_length", 64},
        {"attention.head_count", 2}, {"attention.head_count_kv", 1}, {"rope.dimension_count", 16},
    };
    char name[128];

    key_string(made, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(name, sizeof name, "%s.%s", architecture, sizes[i].suffix);
        key_u32(made, name, sizes[i].value);
    }
    snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", architecture);
    key_f32(made, name, 1e-5f);
}

/* Its byte-level tokenizer. */
static inline void fill_tokenizer(struct made *made)
{
    key_string(made, "tokenizer.ggml.model", "gpt2");
    key_string(made, "tokenizer.ggml.pre", "smollm");
    key_strings(made, "tokenizer.ggml.tokens", tokens, VOCAB);
    key_strings(made, "tokenizer.ggml.merges", merges, 2);
    key_array(made, "tokenizer.ggml.token_type", GGUF_I32, kinds, VOCAB);
    key_u32(made, "tokenizer.ggml.eos_token_id", 0);
}

/* Its weights. */
static inline void fill_tensors(struct made *made)
{
    tensor(made, "token_embd.weight", F16, VOCAB, 32);
    tensor(made, "output_norm.weight", F32, 32, 0);
    tensor(made, "blk.0.attn_norm.weight", F32, 32, 0);
    tensor(made, "blk.0.attn_q.weight", Q8_0, 32, 32);
    tensor(made, "blk.0.attn_k.weight", F32, 16, 32);
    tensor(made, "blk.0.attn_v.weight", Q5_0, 16, 32);
    tensor(made, "blk.0.attn_output.weight", Q4_0, 32, 32);
    tensor(made, "blk.0.ffn_norm.weight", F32, 32, 0);
    tensor(made, "blk.0.ffn_gate.weight", Q4_0, 32, 32);
    tensor(made, "blk.0.ffn_up.weight", Q4_1, 32, 32);
    tensor(made, "blk.0.ffn_down.weight", Q8_0, 32, 32);
}

static inline void fill(struct made *made, const char *architecture)
{
    fill_sizes(made, architecture);
    fill_tokenizer(made);
    fill_tensors(made);
}

/* The file's bytes; releases made. */
static inline struct text finish(struct made *made)
{
    struct text file = {0};

    text_append(&file, "GGUF", 4);
    put(&file, made->version ? made->version : 3, 4);
    put(&file, made->n_tensors, 8);
    put(&file, made->n_keys, 8);
    text_append(&file, made->keys.data, made->keys.length);
    text_append(&file, made->infos.data, made->infos.length);
    while (file.length % 32)
        put(&file, 0, 1);
    text_append(&file, made->data.data, made->data.length);
    text_free(&made->keys);
    text_free(&made->infos);
    text_free(&made->data);
    return file;
}

static inline void save(const void *data, size_t size)
{
    FILE *file = fopen("x.gguf", "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static char message[4096];

/* Opens what was made; the message, if any, is in message. */
static inline int open_made(struct made *made, struct model *model)
{
    struct text file = finish(made);
    int rc;

    save(file.data, file.length);
    text_free(&file);
    error_capture(message, sizeof message);
    rc = model_open(model, "x.gguf");
    error_capture(NULL, 0);
    return rc;
}

#endif

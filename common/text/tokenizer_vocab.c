/* tokenizer_vocab.c - texts by id, ids by text (open addressing, linear probing). */
#include "base/hash.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static size_t slot_of(const struct vocab *vocab, const char *text, size_t length)
{
    size_t slot = hash_of(text, length) & vocab->mask;

    for (; vocab->slot[slot] >= 0; slot = (slot + 1) & vocab->mask) {
        int32_t id = vocab->slot[slot];

        if (vocab->length[id] == length && !memcmp(vocab->texts.data + vocab->at[id], text, length))
            break;
    }
    return slot;
}

static void grow_table(struct vocab *vocab)
{
    size_t size = vocab->slot ? 2 * (vocab->mask + 1) : 1024;

    free(vocab->slot);
    vocab->slot = xmallocarray(size, sizeof *vocab->slot);
    memset(vocab->slot, 0xFF, size * sizeof *vocab->slot);
    vocab->mask = size - 1;
    for (int32_t id = 0; id < vocab->size; id++)
        if (vocab->at[id] != NO_TEXT)
            vocab->slot[slot_of(vocab, vocab->texts.data + vocab->at[id], vocab->length[id])] = id;
}

static void grow_ids(struct vocab *vocab, int32_t id)
{
    if (id >= vocab->capacity) {
        int32_t capacity = vocab->capacity * 2 > id + 1 ? vocab->capacity * 2 : id + 1 + id / 2;

        vocab->at = xreallocarray(vocab->at, (size_t)capacity, sizeof *vocab->at);
        vocab->length = xreallocarray(vocab->length, (size_t)capacity, sizeof *vocab->length);
        vocab->capacity = capacity;
    }
    for (; vocab->size <= id; vocab->size++)
        vocab->at[vocab->size] = NO_TEXT;
}

bool vocab_add(struct vocab *vocab, const char *text, size_t length, int32_t id)
{
    size_t slot;

    if (!vocab->slot || vocab->count * 2 > vocab->mask)
        grow_table(vocab);
    slot = slot_of(vocab, text, length);
    if (vocab->slot[slot] >= 0 || (id < vocab->size && vocab->at[id] != NO_TEXT))
        return false;
    grow_ids(vocab, id);
    vocab->at[id] = vocab->texts.length;
    vocab->length[id] = (uint32_t)length;
    text_append(&vocab->texts, text, length);
    text_append(&vocab->texts, "", 1);
    vocab->slot[slot] = id;
    vocab->count++;
    return true;
}

int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length)
{
    return vocab->slot ? vocab->slot[slot_of(vocab, text, length)] : -1;
}

const char *vocab_text(const struct vocab *vocab, int32_t id)
{
    return id < 0 || id >= vocab->size || vocab->at[id] == NO_TEXT ? NULL : vocab->texts.data + vocab->at[id];
}

void vocab_free(struct vocab *vocab)
{
    text_free(&vocab->texts);
    free(vocab->at);
    free(vocab->length);
    free(vocab->slot);
    *vocab = (struct vocab){0};
}

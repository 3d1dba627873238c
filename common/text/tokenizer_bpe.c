/* tokenizer_bpe.c - byte pair encoding (Sennrich, Haddow, Birch 2016): a word's characters, merged by rank.
 *
 * The pairs that can be merged wait in a heap ordered by rank, then place, so a word of n characters takes O(n log n):
 * SentencePiece's models take a whole text for one word. Words that came before are kept with their ids. */
#include "base/hash.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NO_PAIR UINT64_MAX
enum { CACHE_SLOTS = 1 << 16, CACHE_WORD = 64, CACHE_TEXTS = 8 << 20 };

/* ---- bytes as characters ---- */

/* Printable Latin-1 stands for itself, the others for U+0100 and on (GPT-2's encoder.py). */
static bool stands_for_itself(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

uint32_t byte_character(int byte)
{
    if (stands_for_itself(byte))
        return (uint32_t)byte;
    /* The others are 0 to 32, 127 to 160 and 173, in this order. */
    return 256u + (uint32_t)(byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

int character_byte(uint32_t character)
{
    if (character < 256)
        return stands_for_itself((int)character) ? (int)character : -1;
    if (character > 256 + 67)
        return -1;
    character -= 256;
    return (int)(character <= 32 ? character : character < 67 ? character - 33 + 127 : 173);
}

void map_bytes(const char *data, size_t length, struct text *text)
{
    char bytes[4];

    for (size_t i = 0; i < length; i++) {
        size_t size = (size_t)utf8_encode(byte_character((unsigned char)data[i]), bytes);

        text_append(text, bytes, size);
    }
}

/* ---- opening ---- */

static size_t merge_slot(const struct bpe *bpe, uint64_t pair)
{
    size_t slot = (pair * 0x9E3779B97F4A7C15u) >> 20 & bpe->merge_mask;

    while (bpe->merge[slot].pair != pair && bpe->merge[slot].pair != NO_PAIR)
        slot = (slot + 1) & bpe->merge_mask;
    return slot;
}

static const struct merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct merge *merge = &bpe->merge[merge_slot(bpe, (uint64_t)left << 32 | (uint32_t)right)];

    return merge->pair == NO_PAIR ? NULL : merge;
}

static int read_vocab(struct tokenizer *t, const struct json *vocab)
{
    if (json_kind(vocab) != JSON_KIND_OBJECT)
        return refuse(t, "model: expected an object 'vocab'");
    for (void *m = json_first(vocab); m; m = json_following(vocab, m)) {
        int64_t id = json_as_int(json_value(m), -1);

        if (id < 0 || id >= MAX_ID)
            return refuse(t, "vocab: '%.80s': expected an id from 0 to %d", json_key(m), MAX_ID - 1);
        if (!vocab_add(&t->bpe.vocab, json_key(m), strlen(json_key(m)), (int32_t)id))
            return refuse(t, "vocab: '%.80s' and '%.80s' have the same id %lld", vocab_text(&t->bpe.vocab, (int32_t)id),
                          json_key(m), (long long)id);
    }
    return EX_OK;
}

/* Both ways to write a merge: ["a", "b"] and "a b". */
static bool merge_parts(const struct json *merge, const char *part[2], size_t length[2])
{
    const char *text = json_as_string(merge, NULL), *space;

    if (json_kind(merge) == JSON_KIND_ARRAY && json_count(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            part[i] = json_as_string(json_item(merge, i), NULL);
            length[i] = json_as_length(json_item(merge, i));
        }
        return part[0] && part[1];
    }
    if (!text || !(space = strchr(text, ' ')) || strchr(space + 1, ' '))
        return false;
    part[0] = text;
    part[1] = space + 1;
    length[0] = (size_t)(space - text);
    length[1] = json_as_length(merge) - length[0] - 1;
    return true;
}

static int add_merge(struct tokenizer *t, const struct json *merge, uint32_t rank, struct text *whole)
{
    struct bpe *bpe = &t->bpe;
    const char *part[2];
    size_t length[2];
    int32_t id[2], result;
    struct merge *slot;

    if (!merge_parts(merge, part, length))
        return refuse(t, "merge %u: expected two tokens", rank);
    whole->length = 0;
    for (int i = 0; i < 2; i++) {
        id[i] = vocab_find(&bpe->vocab, part[i], length[i]);
        if (id[i] < 0)
            return refuse(t, "merge %u: '%.80s' is not in the vocabulary", rank, part[i]);
        text_append(whole, part[i], length[i]);
    }
    if ((result = vocab_find(&bpe->vocab, whole->data, whole->length)) < 0)
        return refuse(t, "merge %u: '%.80s' is not in the vocabulary", rank, whole->data);
    slot = &bpe->merge[merge_slot(bpe, (uint64_t)id[0] << 32 | (uint32_t)id[1])];
    *slot = (struct merge){(uint64_t)id[0] << 32 | (uint32_t)id[1], rank, result};
    bpe->result[rank] = result;
    return EX_OK;
}

static int read_merges(struct tokenizer *t, const struct json *merges)
{
    struct bpe *bpe = &t->bpe;
    struct text whole = {0};
    size_t count = json_count(merges), size = 64, first = 0;
    int rc = EX_OK;

    if (json_kind(merges) != JSON_KIND_ARRAY || count > UINT32_MAX / 4)
        return refuse(t, "model: expected a list 'merges'");
    while (size < 2 * count)
        size *= 2;
    bpe->merge = xmallocarray(size, sizeof *bpe->merge);
    bpe->merge_mask = size - 1;
    bpe->result = xmallocarray(count + 1, sizeof *bpe->result);
    for (size_t i = 0; i < size; i++)
        bpe->merge[i].pair = NO_PAIR;
    /* Of a pair that stands twice the later rank counts. Old files may begin with the first line of a merges.txt. */
    if (!strncmp(json_as_string(json_item(merges, 0), ""), "#version", 8))
        first = 1;
    for (size_t i = first; i < count && !rc; i++)
        rc = add_merge(t, json_item(merges, i), (uint32_t)(i - first), &whole);
    text_free(&whole);
    return rc;
}

/* Ids of single characters and of byte tokens. */
static void find_characters(struct bpe *bpe)
{
    char text[8];

    for (uint32_t c = 0; c < sizeof bpe->character / sizeof *bpe->character; c++)
        bpe->character[c] = vocab_find(&bpe->vocab, text, (size_t)utf8_encode(c, text));
    for (int byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        bpe->byte[byte] = vocab_find(&bpe->vocab, text, 6);
    }
}

static int read_options(struct tokenizer *t, const struct json *model)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    struct bpe *bpe = &t->bpe;
    const struct json *unknown = json_at(model, "unk_token"), *dropout = json_at(model, "dropout");
    int rc;

    for (int i = 0; i < 2; i++) {
        const struct json *affix = json_at(model, affixes[i]);

        if (json_kind(affix) > JSON_KIND_NULL && strcmp(json_as_string(affix, "x"), ""))
            return refuse(t, "model: '%s' is not supported", affixes[i]);
    }
    if (json_kind(dropout) > JSON_KIND_NULL && json_as_real(dropout, 1) != 0)
        return refuse(t, "model: 'dropout' is not supported");
    if ((rc = part_bool(t, model, "model", "fuse_unk", false, &bpe->fuse_unknown)) ||
        (rc = part_bool(t, model, "model", "byte_fallback", false, &bpe->byte_fallback)) ||
        (rc = part_bool(t, model, "model", "ignore_merges", false, &bpe->ignore_merges)))
        return rc;
    bpe->unknown = -1;
    if (json_kind(unknown) > JSON_KIND_NULL) {
        const char *text = json_as_string(unknown, "");

        bpe->unknown = vocab_find(&bpe->vocab, text, json_as_length(unknown));
        if (bpe->unknown < 0)
            return refuse(t, "model: 'unk_token': '%.80s' is not in the vocabulary", text);
    }
    return EX_OK;
}

int bpe_open(struct tokenizer *t, const struct json *model)
{
    static const char *const known[] = {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                        "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges", NULL};
    /* Files from before the type was written have a vocabulary and merges. */
    const char *type = json_as_string(json_at(model, "type"), json_at(model, "merges") ? "BPE" : "");
    int rc;

    if (json_kind(model) != JSON_KIND_OBJECT)
        return refuse(t, "expected an object 'model'");
    if (strcmp(type, "BPE"))
        return refuse(t, "model '%.80s' is not supported", type);
    if ((rc = part_check(t, model, "model", known)) || (rc = read_vocab(t, json_at(model, "vocab"))) ||
        (rc = read_merges(t, json_at(model, "merges"))) || (rc = read_options(t, model)))
        return rc;
    find_characters(&t->bpe);
    t->bpe.cache = xcalloc(CACHE_SLOTS, sizeof *t->bpe.cache);
    return EX_OK;
}

void bpe_free(struct bpe *bpe)
{
    vocab_free(&bpe->vocab);
    free(bpe->merge);
    free(bpe->result);
    free(bpe->symbol);
    free(bpe->heap);
    text_free(&bpe->mapped);
    free(bpe->cache);
    text_free(&bpe->cache_texts);
    ids_free(&bpe->cache_ids);
}

/* ---- characters ---- */

static size_t add_symbol(struct bpe *bpe, size_t count, int32_t id)
{
    if (count == bpe->symbol_capacity) {
        if (count >= INT32_MAX / 2)
            die(EX_DATAERR, "a word of more than %d characters can't be tokenized", INT32_MAX / 2);
        bpe->symbol_capacity = count ? count * 2 : 256;
        bpe->symbol = xreallocarray(bpe->symbol, bpe->symbol_capacity, sizeof *bpe->symbol);
    }
    bpe->symbol[count] = (struct symbol){id, (int32_t)count - 1, (int32_t)count + 1};
    return count + 1;
}

/* The bytes of a character that isn't in the vocabulary as tokens, if all of them are; otherwise false. */
static bool fall_back(struct bpe *bpe, const char *character, int size, size_t *count)
{
    if (!bpe->byte_fallback)
        return false;
    for (int i = 0; i < size; i++)
        if (bpe->byte[(unsigned char)character[i]] < 0)
            return false;
    for (int i = 0; i < size; i++)
        *count = add_symbol(bpe, *count, bpe->byte[(unsigned char)character[i]]);
    return true;
}

/* The symbols of a word. An unknown character waits until the next known one (where unknown ones in a row may be one
 * token), and so comes behind byte tokens: as tokenizers has it. */
static size_t read_characters(struct bpe *bpe, const char *word, size_t length)
{
    size_t count = 0;
    bool waiting = false;
    uint32_t point = 0;

    for (size_t i = 0, size; i < length; i += size) {
        int32_t id;

        if (!(size = (size_t)utf8_decode(word + i, length - i, &point)))
            die(EX_SOFTWARE, "a word that is not UTF-8");
        if (point < sizeof bpe->character / sizeof *bpe->character)
            id = bpe->character[point];
        else
            id = vocab_find(&bpe->vocab, word + i, size);
        if (id >= 0) {
            if (waiting)
                count = add_symbol(bpe, count, bpe->unknown);
            waiting = false;
            count = add_symbol(bpe, count, id);
        } else if (!fall_back(bpe, word + i, (int)size, &count) && bpe->unknown >= 0) {
            if (waiting && !bpe->fuse_unknown)
                count = add_symbol(bpe, count, bpe->unknown);
            waiting = true;
        }
    }
    if (waiting)
        count = add_symbol(bpe, count, bpe->unknown);
    if (count)
        bpe->symbol[count - 1].next = -1;
    return count;
}

/* ---- merging ---- */

static void heap_push(struct bpe *bpe, uint64_t entry)
{
    size_t at = bpe->heap_count++;

    if (at == bpe->heap_capacity) {
        bpe->heap_capacity = at ? at * 2 : 256;
        bpe->heap = xreallocarray(bpe->heap, bpe->heap_capacity, sizeof *bpe->heap);
    }
    for (; at && bpe->heap[(at - 1) / 4] > entry; at = (at - 1) / 4)
        bpe->heap[at] = bpe->heap[(at - 1) / 4];
    bpe->heap[at] = entry;
}

static uint64_t heap_pop(struct bpe *bpe)
{
    const uint64_t top = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    size_t at = 0, child;

    while ((child = 4 * at + 1) < bpe->heap_count) {
        const size_t behind = child + 4 < bpe->heap_count ? child + 4 : bpe->heap_count;
        size_t least = child;

        while (++child < behind)
            if (bpe->heap[child] < bpe->heap[least])
                least = child;
        if (bpe->heap[least] >= last)
            break;
        bpe->heap[at] = bpe->heap[least];
        at = least;
    }
    bpe->heap[at] = last;
    return top;
}

/* Looks whether the symbol at left and the next one are a pair to merge. */
static void offer(struct bpe *bpe, int32_t left)
{
    const int32_t right = left < 0 ? -1 : bpe->symbol[left].next;
    const struct merge *merge = right < 0 ? NULL : find_merge(bpe, bpe->symbol[left].id, bpe->symbol[right].id);

    if (merge)
        heap_push(bpe, (uint64_t)merge->rank << 32 | (uint32_t)left);
}

static void merge_at(struct bpe *bpe, int32_t left, int32_t result)
{
    struct symbol *symbol = bpe->symbol;
    const int32_t right = symbol[left].next;

    symbol[left].id = result;
    symbol[left].next = symbol[right].next;
    symbol[right].id = -1;
    if (symbol[right].next >= 0)
        symbol[symbol[right].next].previous = left;
    offer(bpe, symbol[left].previous);
    offer(bpe, left);
}

/* An entry of the heap is out of date where its pair has gone. Like in tokenizers a pair counts as the same where what
 * it makes is the same token, whichever its parts and rank are now. */
static void merge_word(struct bpe *bpe, const char *word, size_t length, struct ids *ids)
{
    const size_t count = read_characters(bpe, word, length);

    bpe->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++)
        offer(bpe, (int32_t)i);
    while (bpe->heap_count) {
        const uint64_t entry = heap_pop(bpe);
        const int32_t left = (int32_t)(uint32_t)entry;
        const struct symbol *symbol = &bpe->symbol[left];
        const struct merge *now = NULL;

        if (symbol->id >= 0 && symbol->next >= 0)
            now = find_merge(bpe, symbol->id, bpe->symbol[symbol->next].id);
        if (now && now->result == bpe->result[entry >> 32])
            merge_at(bpe, left, now->result);
    }
    for (int32_t i = count ? 0 : -1; i >= 0; i = bpe->symbol[i].next)
        ids_append(ids, bpe->symbol[i].id);
}

/* ---- words ---- */

static void encode_new(struct bpe *bpe, const char *word, size_t length, bool bytes, struct ids *ids)
{
    int32_t id;

    if (bytes) {
        bpe->mapped.length = 0;
        map_bytes(word, length, &bpe->mapped);
        word = bpe->mapped.data;
        length = bpe->mapped.length;
    }
    if (bpe->ignore_merges && (id = vocab_find(&bpe->vocab, word, length)) >= 0)
        ids_append(ids, id);
    else
        merge_word(bpe, word, length, ids);
}

/* When it is full it begins anew. */
static void remember(struct bpe *bpe, struct cached *slot, uint64_t hash, const char *word, size_t length,
                     const int32_t *id, size_t count)
{
    if (bpe->cache_count > CACHE_SLOTS / 4 * 3 || bpe->cache_texts.length > CACHE_TEXTS) {
        memset(bpe->cache, 0, CACHE_SLOTS * sizeof *bpe->cache);
        bpe->cache_count = bpe->cache_texts.length = bpe->cache_ids.count = 0;
        slot = &bpe->cache[hash % CACHE_SLOTS];
    }
    *slot = (struct cached){hash, (uint32_t)bpe->cache_texts.length, (uint32_t)bpe->cache_ids.count, (uint16_t)length,
                            (uint16_t)count};
    text_append(&bpe->cache_texts, word, length);
    for (size_t i = 0; i < count; i++)
        ids_append(&bpe->cache_ids, id[i]);
    bpe->cache_count++;
}

void bpe_encode(struct bpe *bpe, const char *word, size_t length, bool bytes, struct ids *ids)
{
    const size_t before = ids->count;
    uint64_t hash;
    size_t at;

    if (!length)
        return;
    if (length > CACHE_WORD) {
        encode_new(bpe, word, length, bytes, ids);
        return;
    }
    hash = hash_of(word, length);
    for (at = hash % CACHE_SLOTS; bpe->cache[at].length; at = (at + 1) % CACHE_SLOTS) {
        const struct cached *slot = &bpe->cache[at];

        if (slot->hash != hash || slot->length != length ||
            memcmp(bpe->cache_texts.data + slot->text, word, length))
            continue;
        for (size_t i = 0; i < slot->count; i++)
            ids_append(ids, bpe->cache_ids.id[slot->id + i]);
        return;
    }
    encode_new(bpe, word, length, bytes, ids);
    remember(bpe, &bpe->cache[at], hash, word, length, ids->id + before, ids->count - before);
}

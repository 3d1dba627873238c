/* gguf_vocab.c - the vocabulary of a GGUF file and its merges, as they stand there or as the scores imply them. */
#include "files/gguf_internal.h"
#include "base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* No piece of a real vocabulary is longer; deriving merges takes the square of it. */
enum { TOKEN_MOST = 4096 };

#define VOCAB_MOST ((int64_t)1 << 24)

/* ---- finding a token by its bytes ---- */

/* Open addressing over the tokens' hashes: slots hold id + 1, 0 is free; at most half of them are taken. */
struct index {
    const struct gguf_string *token;
    uint32_t *slot;
    size_t mask;
};

static size_t find_slot(const struct index *index, const char *data, size_t length)
{
    size_t at = (size_t)hash_of(data, length) & index->mask;

    while (index->slot[at]) {
        const struct gguf_string *token = &index->token[index->slot[at] - 1];

        if (token->length == length && !memcmp(token->data, data, length))
            break;
        at = (at + 1) & index->mask;
    }
    return at;
}

/* The id, or -1. */
static int64_t find_token(const struct index *index, const char *data, size_t length)
{
    return (int64_t)index->slot[find_slot(index, data, length)] - 1;
}

static int make_index(const struct gguf *g, const struct gguf_vocab *vocab, struct index *index)
{
    size_t slots = 16;

    while (slots < 2 * (size_t)vocab->size)
        slots *= 2;
    *index = (struct index){vocab->token, xcalloc(slots, sizeof *index->slot), slots - 1};
    for (int64_t i = 0; i < vocab->size; i++) {
        size_t at = find_slot(index, vocab->token[i].data, vocab->token[i].length);
        char shown[84];

        if (index->slot[at])
            return gguf_fail(g, "key 'tokenizer.ggml.tokens': found '%s' as token %lld and token %lld",
                             gguf_show(vocab->token[i], shown), (long long)index->slot[at] - 1, (long long)i);
        index->slot[at] = (uint32_t)i + 1;
    }
    return EX_OK;
}

/* ---- merges ---- */

/* "left right": the space is the first one behind the first character, since a piece may begin with one. */
static int stated_merges(const struct gguf *g, const struct index *index, const struct gguf_key *key,
                         struct gguf_vocab *vocab)
{
    struct gguf_string *line = gguf_strings(g, key);
    int rc = EX_OK;

    vocab->merge = xmallocarray((size_t)key->count, sizeof *vocab->merge);
    for (int64_t i = 0; i < key->count && !rc; i++) {
        const char *space = line[i].length > 1 ? memchr(line[i].data + 1, ' ', line[i].length - 1) : NULL;
        size_t cut = space ? (size_t)(space - line[i].data) : 0, rest = space ? line[i].length - cut - 1 : 0;
        char joined[2 * TOKEN_MOST], shown[84];
        int64_t left = -1, right = -1, whole = -1;

        if (cut && rest && cut <= TOKEN_MOST && rest <= TOKEN_MOST) {
            memcpy(joined, line[i].data, cut);
            memcpy(joined + cut, space + 1, rest);
            left = find_token(index, line[i].data, cut);
            right = find_token(index, space + 1, rest);
            whole = find_token(index, joined, cut + rest);
        }
        if (left < 0 || right < 0 || whole < 0)
            rc = gguf_fail(g, "key 'tokenizer.ggml.merges': found '%s' as item %lld, expected two tokens of a third",
                           gguf_show(line[i], shown), (long long)i);
        else
            vocab->merge[vocab->merges++] = (struct gguf_merge){(uint32_t)left, (uint32_t)right};
    }
    free(line);
    return rc;
}

struct candidate {
    float score;                 /* of the whole */
    uint32_t left_length, right_length;      /* characters */
    uint32_t whole, left, right; /* ids */
};

/* Best first, as transformers orders them: score, length of the left part, length of the right part, all descending;
 * then the order of the vocabulary. The order is strict, so qsort's being unstable does no harm. */
static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *s = a, *t = b;

    if (s->score != t->score)
        return s->score > t->score ? -1 : 1;
    if (s->left_length != t->left_length)
        return s->left_length > t->left_length ? -1 : 1;
    if (s->right_length != t->right_length)
        return s->right_length > t->right_length ? -1 : 1;
    return s->whole < t->whole ? -1 : s->whole > t->whole;
}

static bool starts_character(char byte)
{
    return ((unsigned char)byte & 0xc0) != 0x80;
}

struct candidates {
    struct candidate *at;
    size_t count, capacity;
};

/* Each cut of a token into two tokens. */
static void cut_token(const struct index *index, uint32_t whole, float score, struct candidates *list)
{
    struct gguf_string token = index->token[whole];
    uint32_t length = 0, left_length = 0;

    for (size_t i = 0; i < token.length; i++)
        length += starts_character(token.data[i]);
    for (size_t cut = 1; cut < token.length; cut++) {
        int64_t left, right;

        if (!starts_character(token.data[cut]))
            continue;
        left_length++;
        if ((left = find_token(index, token.data, cut)) < 0 ||
            (right = find_token(index, token.data + cut, token.length - cut)) < 0)
            continue;
        if (list->count == list->capacity) {
            list->capacity = list->capacity ? 2 * list->capacity : 1024;
            list->at = xreallocarray(list->at, list->capacity, sizeof *list->at);
        }
        list->at[list->count++] = (struct candidate){score, left_length, length - left_length, whole, (uint32_t)left,
                                                     (uint32_t)right};
    }
}

static int derived_merges(const struct gguf *g, const struct index *index, struct gguf_vocab *vocab)
{
    const struct gguf_key *scores = NULL;
    struct candidates list = {0};
    int rc = gguf_array(g, "tokenizer.ggml.scores", GGUF_F32, GGUF_F32, &scores);

    if (rc)
        return rc;
    if (!scores || scores->count != vocab->size)
        return gguf_fail(g, "key 'tokenizer.ggml.scores': found %lld scores, expected %lld", scores ?
                         (long long)scores->count : 0, (long long)vocab->size);
    for (int64_t i = 0; i < vocab->size && !rc; i++) {
        float score = gguf_real_item(g, scores, i);

        if (isnan(score))
            rc = gguf_fail(g, "key 'tokenizer.ggml.scores': found NaN as item %lld", (long long)i);
        else
            cut_token(index, (uint32_t)i, score, &list);
    }
    if (list.count)
        qsort(list.at, list.count, sizeof *list.at, compare_candidates);
    vocab->merge = xmallocarray(list.count, sizeof *vocab->merge);
    for (size_t i = 0; i < list.count; i++)
        vocab->merge[i] = (struct gguf_merge){list.at[i].left, list.at[i].right};
    vocab->merges = (int64_t)list.count;
    free(list.at);
    return rc;
}

/* ---- the whole ---- */

/* Whether the file has a tokenizer, and which. */
static int take_model(const struct gguf *g, struct gguf_vocab *vocab, bool *present)
{
    struct gguf_string model = {"none", 4};
    char shown[84];
    int rc = gguf_text(g, "tokenizer.ggml.model", &model);

    *present = model.length != 4 || memcmp(model.data, "none", 4);
    if (rc || !*present)
        return rc;
    vocab->byte_level = model.length == 4 && !memcmp(model.data, "gpt2", 4);
    if (!vocab->byte_level && (model.length != 5 || memcmp(model.data, "llama", 5)))
        return gguf_fail(g, "key 'tokenizer.ggml.model': '%s' is not supported, expected gpt2 or llama",
                         gguf_show(model, shown));
    return EX_OK;
}

static int take_tokens(const struct gguf *g, struct gguf_vocab *vocab)
{
    const struct gguf_key *tokens = NULL;
    int rc = gguf_array(g, "tokenizer.ggml.tokens", GGUF_STRING, GGUF_STRING, &tokens);

    if (rc)
        return rc;
    if (!tokens || tokens->count < 1 || tokens->count > VOCAB_MOST)
        return gguf_fail(g, "key 'tokenizer.ggml.tokens': found %lld tokens, expected 1 to %lld",
                         tokens ? (long long)tokens->count : 0, (long long)VOCAB_MOST);
    vocab->size = tokens->count;
    vocab->token = gguf_strings(g, tokens);
    for (int64_t i = 0; i < vocab->size; i++) {
        struct gguf_string token = vocab->token[i];
        struct json *text;

        if (token.length > TOKEN_MOST)
            return gguf_fail(g, "key 'tokenizer.ggml.tokens': found %zu bytes in token %lld, expected %d at most",
                             token.length, (long long)i, TOKEN_MOST);
        text = memchr(token.data, '\0', token.length) ? NULL : json_make_stringn(token.data, token.length);
        if (!text)
            return gguf_fail(g, "key 'tokenizer.ggml.tokens': expected token %lld to be UTF-8 without NUL",
                             (long long)i);
        json_drop(text);
    }
    return EX_OK;
}

static int take_kinds(const struct gguf *g, struct gguf_vocab *vocab)
{
    const struct gguf_key *kinds = NULL;
    int rc = gguf_array(g, "tokenizer.ggml.token_type", GGUF_I32, GGUF_U32, &kinds);

    if (rc)
        return rc;
    if (kinds && kinds->count != vocab->size)
        return gguf_fail(g, "key 'tokenizer.ggml.token_type': found %lld types, expected %lld", (long long)kinds->count,
                         (long long)vocab->size);
    vocab->kind = xmalloc((size_t)vocab->size);
    for (int64_t i = 0; i < vocab->size; i++) {
        int64_t kind = kinds ? gguf_int_item(g, kinds, i) : GGUF_NORMAL;

        if (kind < 0 || kind > GGUF_BYTE)
            return gguf_fail(g, "key 'tokenizer.ggml.token_type': found %lld as item %lld, expected 0 to %d",
                             (long long)kind, (long long)i, GGUF_BYTE);
        vocab->kind[i] = (unsigned char)(kind ? kind : GGUF_NORMAL);     /* 0: "undefined" */
    }
    return EX_OK;
}

/* The special tokens lie within the vocabulary. Where the file has no types of tokens, these at least are special. */
static int take_special(const struct gguf *g, struct gguf_vocab *vocab)
{
    bool typed = gguf_find(g, "tokenizer.ggml.token_type") != NULL;
    struct gguf_special *special = &vocab->special;
    int rc = gguf_special(g, special);
    const struct {
        const char *name;
        int64_t id;
    } ids[] = {
        {"unknown", special->unknown}, {"bos", special->bos}, {"eos", special->eos}, {"padding", special->pad},
        {"eot", special->eot},
    };

    for (size_t i = 0; i < sizeof ids / sizeof *ids && !rc; i++)
        if (ids[i].id >= vocab->size)
            rc = gguf_fail(g, "key 'tokenizer.ggml.%s_token_id': found %lld, expected less than %lld", ids[i].name,
                           (long long)ids[i].id, (long long)vocab->size);
        else if (ids[i].id >= 0 && !typed)
            vocab->kind[ids[i].id] = GGUF_CONTROL;
    return rc;
}

int gguf_vocab(const struct gguf *g, struct gguf_vocab *vocab)
{
    const struct gguf_key *merges = NULL;
    struct index index = {0};
    bool present = false;
    int rc = take_model(g, vocab, &present);

    if (rc || !present)
        return rc;
    if (!(rc = take_tokens(g, vocab)) && !(rc = take_kinds(g, vocab)) && !(rc = take_special(g, vocab)) &&
        !(rc = make_index(g, vocab, &index)) &&
        !(rc = gguf_array(g, "tokenizer.ggml.merges", GGUF_STRING, GGUF_STRING, &merges))) {
        if (merges)
            rc = stated_merges(g, &index, merges, vocab);
        else if (vocab->byte_level)
            rc = gguf_fail(g, "key 'tokenizer.ggml.merges' is missing");
        else
            rc = derived_merges(g, &index, vocab);
    }
    free(index.slot);
    return rc;
}

void gguf_vocab_free(struct gguf_vocab *vocab)
{
    free(vocab->token);
    free(vocab->kind);
    free(vocab->merge);
    *vocab = (struct gguf_vocab){0};
}

/* tokenizer_added.c - added tokens: their list, and the search for the longest one at the leftmost place. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- tries ---- */

#define EDGE(node, byte) (((uint64_t)(node) << 8 | (byte)) + 1)

static size_t edge_slot(const struct trie *trie, uint64_t edge)
{
    size_t slot = (edge * 0x9E3779B97F4A7C15u) >> 20 & trie->mask;

    while (trie->edge[slot] && trie->edge[slot] != edge)
        slot = (slot + 1) & trie->mask;
    return slot;
}

static void grow_edges(struct trie *trie)
{
    struct trie old = *trie;
    const size_t size = old.edge ? 2 * (old.mask + 1) : 256;

    trie->mask = size - 1;
    trie->edge = xcalloc(size, sizeof *trie->edge);
    trie->child = xcalloc(size, sizeof *trie->child);
    for (size_t i = 0; old.edge && i <= old.mask; i++)
        if (old.edge[i]) {
            const size_t slot = edge_slot(trie, old.edge[i]);

            trie->edge[slot] = old.edge[i];
            trie->child[slot] = old.child[i];
        }
    free(old.edge);
    free(old.child);
}

static uint32_t add_node(struct trie *trie)
{
    if (trie->nodes == trie->capacity) {
        trie->capacity = trie->capacity ? trie->capacity * 2 : 256;
        trie->value = xreallocarray(trie->value, trie->capacity, sizeof *trie->value);
    }
    trie->value[trie->nodes] = -1;
    return (uint32_t)trie->nodes++;
}

/* False where the string is there already. */
static bool trie_add(struct trie *trie, const char *text, size_t length, int32_t value)
{
    uint32_t node = 0;

    if (!trie->nodes)
        add_node(trie);
    trie->first[(unsigned char)text[0]] = true;
    for (size_t i = 0; i < length; i++) {
        const uint64_t edge = EDGE(node, (unsigned char)text[i]);
        size_t slot;

        if (!trie->edge || trie->count * 2 > trie->mask)
            grow_edges(trie);
        slot = edge_slot(trie, edge);
        if (!trie->edge[slot]) {
            trie->edge[slot] = edge;
            trie->child[slot] = add_node(trie);
            trie->count++;
        }
        node = trie->child[slot];
    }
    if (trie->value[node] >= 0)
        return false;
    trie->value[node] = value;
    return true;
}

/* The value of the longest string that text begins with, and its length; -1: none does. */
static int32_t trie_longest(const struct trie *trie, const char *text, size_t length, size_t *longest)
{
    int32_t value = -1;
    uint32_t node = 0;

    for (size_t i = 0; i < length; i++) {
        const size_t slot = edge_slot(trie, EDGE(node, (unsigned char)text[i]));

        if (!trie->edge[slot])
            break;
        node = trie->child[slot];
        if (trie->value[node] >= 0) {
            value = trie->value[node];
            *longest = i + 1;
        }
    }
    return value;
}

static void trie_free(struct trie *trie)
{
    free(trie->edge);
    free(trie->child);
    free(trie->value);
}

/* ---- the list ---- */

const struct added *added_of(const struct tokenizer *t, int32_t id)
{
    return id < 0 || id >= t->added_texts.size || t->added_at[id] < 0 ? NULL : &t->added[t->added_at[id]];
}

static int read_token(const struct tokenizer *t, const struct json *entry, struct added *added)
{
    static const char *const known[] = {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special",
                                        NULL};
    const struct json *content = json_at(entry, "content");
    const char *text = json_as_string(content, "");
    int rc;

    if ((rc = part_check(t, entry, "added_tokens", known)))
        return rc;
    if (json_kind(content) != JSON_KIND_STRING || strlen(text) != json_as_length(content) ||
        strlen(text) > MAX_ADDED)
        return refuse(t, "added_tokens: expected a content without NUL, of at most %d bytes", MAX_ADDED);
    if ((rc = part_bool(t, entry, text, "single_word", false, &added->single_word)) ||
        (rc = part_bool(t, entry, text, "lstrip", false, &added->lstrip)) ||
        (rc = part_bool(t, entry, text, "rstrip", false, &added->rstrip)) ||
        (rc = part_bool(t, entry, text, "normalized", true, &added->normalized)) ||
        (rc = part_bool(t, entry, text, "special", false, &added->special)))
        return rc;
    added->content = xstrdup(text);
    return EX_OK;
}

/* The id: that of the vocabulary, or the next free one, which the file should have too. */
static int give_id(struct tokenizer *t, const struct json *entry, struct added *added, int32_t *next)
{
    const int64_t told = json_as_int(json_at(entry, "id"), -1);

    added->id = vocab_find(&t->bpe.vocab, added->content, strlen(added->content));
    if (added->id < 0) {
        added->id = (*next)++;
        if (added->id >= MAX_ID)
            return refuse(t, "added_tokens: '%.80s' would have the id %d", added->content, added->id);
        if (vocab_text(&t->bpe.vocab, added->id))
            return refuse(t, "added_tokens: '%.80s' would have the id %d of '%.80s'", added->content, added->id,
                          vocab_text(&t->bpe.vocab, added->id));
    }
    if (told < 0 || told >= MAX_ID)
        return refuse(t, "added_tokens: '%.80s': expected an id from 0 to %d", added->content, MAX_ID - 1);
    if (told != added->id)
        note("tokenizer.json of '%s': added token '%.80s' has the id %d, not %lld", t->where, added->content, added->id,
             (long long)told);
    return EX_OK;
}

/* What is looked for: the content, normalized where the token is. */
static int index_token(struct tokenizer *t, struct added *added)
{
    const char *text = added->content;
    size_t length = strlen(text);

    if (added->normalized)
        normalize(t, &text, &length);
    if (!length || length > MAX_ADDED)
        return refuse(t, "added_tokens: '%.80s': the normalizers make %zu bytes of it, expected 1 to %d",
                      added->content, length, MAX_ADDED);
    added->pattern = xstrndup(text, length);
    added->pattern_length = strlen(added->pattern);
    if (!trie_add(added->normalized ? &t->normal : &t->raw, added->pattern, added->pattern_length,
                  (int32_t)(added - t->added)))
        return refuse(t, "added_tokens: '%.80s' is the same as another one", added->content);
    if (added->single_word && !t->word) {
        struct pattern pattern = {0};
        int rc = pattern_expression(t, "[\\w\\x{200C}\\x{200D}]", "single_word", &pattern);

        t->word = pattern.regex;
        return rc;
    }
    return EX_OK;
}

static int take_token(struct tokenizer *t, const struct json *entry, int32_t *next)
{
    struct added *added = &t->added[t->n_added];
    int rc;

    *added = (struct added){0};
    t->n_added++;
    if ((rc = read_token(t, entry, added)))
        return rc;
    if (!added->content[0]) {
        t->n_added--;
        free(added->content);
        return EX_OK;
    }
    if (vocab_find(&t->added_texts, added->content, strlen(added->content)) >= 0)
        return refuse(t, "added_tokens: '%.80s' stands twice", added->content);
    if ((rc = give_id(t, entry, added, next)))
        return rc;
    vocab_add(&t->added_texts, added->content, strlen(added->content), added->id);
    return index_token(t, added);
}

int added_open(struct tokenizer *t, const struct json *list)
{
    int32_t next = (int32_t)t->bpe.vocab.count;
    size_t count = json_count(list);
    int rc = EX_OK;

    if (json_kind(list) > JSON_KIND_NULL && json_kind(list) != JSON_KIND_ARRAY)
        return refuse(t, "expected a list 'added_tokens'");
    if (count > MAX_ID)
        return refuse(t, "added_tokens: found %zu, expected at most %d", count, MAX_ID);
    t->added = xmallocarray(count + 1, sizeof *t->added);
    for (size_t i = 0; i < count && !rc; i++)
        rc = take_token(t, json_item(list, i), &next);
    if (rc)
        return rc;
    t->added_at = xmallocarray((size_t)t->added_texts.size + 1, sizeof *t->added_at);
    memset(t->added_at, 0xFF, ((size_t)t->added_texts.size + 1) * sizeof *t->added_at);
    for (int32_t i = 0; i < t->n_added; i++)
        t->added_at[t->added[i].id] = i;
    return EX_OK;
}

void added_free(struct tokenizer *t)
{
    for (int32_t i = 0; i < t->n_added; i++) {
        free(t->added[i].content);
        free(t->added[i].pattern);
    }
    free(t->added);
    free(t->added_at);
    vocab_free(&t->added_texts);
    trie_free(&t->raw);
    trie_free(&t->normal);
    regex_free(t->word);
}

/* ---- the search ---- */

/* The place of the character that ends at end. */
static size_t character_before(const char *text, size_t end)
{
    do
        end--;
    while (end && (text[end] & 0xC0) == 0x80);
    return end;
}

static bool is_word(struct tokenizer *t, const char *text, size_t length, size_t at)
{
    uint32_t point;
    size_t start, end;
    int size = utf8_decode(text + at, length - at, &point);

    return regex_find(t->word, text + at, (size_t)size, 0, &start, &end, 1);
}

static size_t spaces_before(const char *text, size_t floor, size_t end)
{
    while (end > floor) {
        const size_t before = character_before(text, end);
        uint32_t point = 0;

        utf8_decode(text + before, end - before, &point);
        if (!unicode_is_space(point))
            break;
        end = before;
    }
    return end;
}

static size_t spaces_behind(const char *text, size_t length, size_t at)
{
    uint32_t point;
    int size;

    while ((size = utf8_decode(text + at, length - at, &point)) && unicode_is_space(point))
        at += (size_t)size;
    return at;
}

/* A token that may only be a whole word isn't taken in another one, and the search goes on behind it. Tokens may be
 * spaces themselves: those that another one took along aren't found again, nor looked at again. */
bool added_next(struct tokenizer *t, const struct trie *trie, const char *text, size_t length, struct search *search,
                struct found *found)
{
    size_t size = 0;

    for (size_t at = search->at; trie->nodes && at < length; at++) {
        const struct added *added;
        int32_t which;

        if (!trie->first[(unsigned char)text[at]] ||
            (which = trie_longest(trie, text + at, length - at, &size)) < 0)
            continue;
        added = &t->added[which];
        search->at = at + size;
        if (added->single_word && ((at && is_word(t, text, length, character_before(text, at))) ||
                                   (search->at < length && is_word(t, text, length, search->at)))) {
            at = search->at - 1;
            continue;
        }
        *found = (struct found){at, search->at, added->id};
        if (added->lstrip)
            found->start = at > search->floor ? spaces_before(text, search->floor, at) : search->floor;
        if (added->rstrip)
            found->end = search->spaces = spaces_behind(text, length, search->at > search->spaces ? search->at :
                                                                       search->spaces);
        if (found->start >= found->end) {
            at = search->at - 1;
            continue;
        }
        search->floor = found->end;
        return true;
    }
    search->at = length;
    return false;
}

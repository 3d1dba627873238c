/* tokenizer_split.c - pre-tokenizers: Sequence, ByteLevel, Digits, Split, Metaspace, WhitespaceSplit.
 *
 * Each becomes one or more steps; a piece of text goes through a step at a time, and each piece that a step makes goes
 * on to the next step at once, so that no list of pieces is kept. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

/* GPT-2's expression. */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static struct split *add(struct tokenizer *t, enum split_kind kind)
{
    struct split *split = &t->split[t->n_split++];

    split->kind = kind;
    return split;
}

static int take_byte_level(struct tokenizer *t, const struct json *part)
{
    static const char *const known[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    const char *what = "pre_tokenizer 'ByteLevel'";
    bool space, expression;
    int rc;

    if ((rc = part_check(t, part, what, known)) ||
        (rc = part_bool(t, part, what, "add_prefix_space", true, &space)) ||
        (rc = part_bool(t, part, what, "use_regex", true, &expression)))
        return rc;
    if (space)
        add(t, SPLIT_PREFIX);
    if (expression && (rc = pattern_expression(t, GPT2, what, &add(t, SPLIT_CUT)->pattern)))
        return rc;
    add(t, SPLIT_BYTES);
    return EX_OK;
}

static int take_digits(struct tokenizer *t, const struct json *part)
{
    const char *what = "pre_tokenizer 'Digits'";
    bool single;
    int rc;

    if ((rc = part_check(t, part, what, (const char *const[]){"individual_digits", NULL})) ||
        (rc = part_bool(t, part, what, "individual_digits", false, &single)))
        return rc;
    *add(t, SPLIT_CUT) = (struct split){.kind = SPLIT_CUT, .find = FIND_NUMBER,
                                        .behavior = single ? CUT_ISOLATED : CUT_CONTIGUOUS};
    return EX_OK;
}

static int take_split(struct tokenizer *t, const struct json *part)
{
    static const char *const known[] = {"pattern", "behavior", "invert", NULL};
    static const char *const behaviors[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                            "MergedWithNext"};
    const char *what = "pre_tokenizer 'Split'", *behavior = json_as_string(json_at(part, "behavior"), "");
    struct split *split = add(t, SPLIT_CUT);
    int i = 0, rc;

    if ((rc = part_check(t, part, what, known)) || (rc = part_bool(t, part, what, "invert", false, &split->invert)))
        return rc;
    while (i < 5 && strcmp(behavior, behaviors[i]))
        i++;
    if (i == 5)
        return refuse(t, "%s: behavior '%.80s' is not supported", what, behavior);
    split->behavior = (enum behavior)i;
    return pattern_open(t, json_at(part, "pattern"), what, &split->pattern);
}

/* Whether a piece begins where the text does (scheme "first") can't be told behind normalizers that take characters
 * away: those that replace one character by others are fine. */
static bool keeps_beginning(const struct tokenizer *t)
{
    for (int i = 0; i < t->n_normalizer; i++) {
        const struct pattern *pattern = &t->normalizer[i].pattern;
        uint32_t point;

        if (t->normalizer[i].kind != NORMAL_REPLACE || pattern->regex || !t->normalizer[i].length ||
            (size_t)utf8_decode(pattern->literal, pattern->length, &point) != pattern->length)
            return false;
    }
    return true;
}

static int read_metaspace(struct tokenizer *t, const struct json *part, struct split *split, bool *cut)
{
    static const char *const known[] = {"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep", NULL};
    static const char *const schemes[] = {"always", "first", "never"};
    const char *what = "pre_tokenizer 'Metaspace'", *scheme = json_as_string(json_at(part, "prepend_scheme"), "always");
    const char *replacement = json_as_string(json_at(part, "replacement"), "");
    uint32_t point;
    bool prefix;
    int i = 0, rc;

    if ((rc = part_check(t, part, what, known)) || (rc = part_bool(t, part, what, "split", true, cut)) ||
        (rc = part_bool(t, part, what, "add_prefix_space", true, &prefix)))
        return rc;
    while (i < 3 && strcmp(scheme, schemes[i]))
        i++;
    if (i == 3 || (!prefix && json_at(part, "prepend_scheme") && i != PREPEND_NEVER))
        return refuse(t, "%s: prepend_scheme '%.80s' is not supported%s", what, scheme,
                      prefix ? "" : " without add_prefix_space");
    split->prepend = prefix ? (enum prepend)i : PREPEND_NEVER;
    if (split->prepend == PREPEND_FIRST && !keeps_beginning(t))
        return refuse(t, "%s: prepend_scheme 'first' is not supported behind these normalizers", what);
    split->replacement_length = utf8_decode(replacement, strlen(replacement), &point);
    if (!split->replacement_length || replacement[split->replacement_length])
        return refuse(t, "%s: expected one character as 'replacement'", what);
    memcpy(split->replacement, replacement, (size_t)split->replacement_length);
    return EX_OK;
}

static int take_metaspace(struct tokenizer *t, const struct json *part)
{
    struct split *spaces = add(t, SPLIT_METASPACE), *words;
    bool cut;
    int rc = read_metaspace(t, part, spaces, &cut);

    if (rc || !cut)
        return rc;
    words = add(t, SPLIT_CUT);
    words->behavior = CUT_NEXT;
    words->pattern.literal = xstrndup(spaces->replacement, (size_t)spaces->replacement_length);
    words->pattern.length = (size_t)spaces->replacement_length;
    return EX_OK;
}

static int take(struct tokenizer *t, const struct json *part, const char *type)
{
    if (!strcmp(type, "ByteLevel"))
        return take_byte_level(t, part);
    if (!strcmp(type, "Digits"))
        return take_digits(t, part);
    if (!strcmp(type, "Split"))
        return take_split(t, part);
    if (!strcmp(type, "Metaspace"))
        return take_metaspace(t, part);
    if (!strcmp(type, "WhitespaceSplit")) {
        *add(t, SPLIT_CUT) = (struct split){.kind = SPLIT_CUT, .find = FIND_SPACE, .behavior = CUT_REMOVED};
        return part_check(t, part, "pre_tokenizer 'WhitespaceSplit'", (const char *const[]){NULL});
    }
    return refuse(t, "pre_tokenizer '%.80s' is not supported", type);
}

int splits_open(struct tokenizer *t, const struct json *part)
{
    int rc = part_each(t, part, "pre_tokenizer", "pretokenizers", take);

    /* As the last step the mapping of bytes is left to the model, which keeps words by their bytes. */
    if (!rc && t->n_split && t->split[t->n_split - 1].kind == SPLIT_BYTES) {
        t->byte_level = true;
        t->n_split--;
    }
    return rc;
}

void splits_free(struct tokenizer *t)
{
    for (int i = 0; i < t->n_split; i++) {
        pattern_free(&t->split[i].pattern);
        text_free(&t->split[i].made);
    }
}

/* ---- cutting ---- */

static bool find_character(enum find find, const char *text, size_t length, struct walk *walk, size_t *start,
                           size_t *end)
{
    uint32_t point = 0;

    for (size_t i = walk->at, size; i < length; i += size) {
        if (!(text[i] & 0x80)) {
            point = (unsigned char)text[i];
            size = 1;
        } else if (!(size = (size_t)utf8_decode(text + i, length - i, &point)))
            die(EX_SOFTWARE, "a piece of text that is not UTF-8");
        if (find == FIND_NUMBER ? !unicode_is_number(point) : !unicode_is_space(point))
            continue;
        *start = i;
        *end = walk->at = i + size;
        return true;
    }
    return false;
}

/* A stretch of text that waits for what comes behind it. */
struct stretch {
    size_t start, end;
    bool some, match;
};

struct cutting {
    struct tokenizer *t;
    int step;
    const char *text;
    bool first;
    struct ids *ids;
    struct stretch held;
};

static void step_on(struct tokenizer *t, int step, const char *text, size_t length, bool first, struct ids *ids);

static void pass_held(struct cutting *c)
{
    if (c->held.some && c->held.end > c->held.start)
        step_on(c->t, c->step + 1, c->text + c->held.start, c->held.end - c->held.start, c->first && !c->held.start,
                c->ids);
    c->held.some = false;
}

/* The next stretch, which is a match or lies between matches: joined with the one before, or passed on behind it. */
static void add_stretch(struct cutting *c, size_t start, size_t end, bool match)
{
    const struct split *split = &c->t->split[c->step];
    bool join = false;

    switch (split->behavior) {
    case CUT_REMOVED:
        if (match)
            return;
        break;
    case CUT_CONTIGUOUS:
        join = c->held.some && c->held.match == match;
        break;
    case CUT_PREVIOUS:
        join = c->held.some && match && !c->held.match;
        break;
    case CUT_NEXT:
        join = c->held.some && c->held.match && !match;
        break;
    case CUT_ISOLATED:
        break;
    }
    if (!join) {
        pass_held(c);
        c->held.start = start;
    }
    c->held.end = end;
    c->held.some = true;
    c->held.match = match;
}

static void cut(struct tokenizer *t, int step, const char *text, size_t length, bool first, struct ids *ids)
{
    struct split *split = &t->split[step];
    struct cutting c = {t, step, text, first, ids, {0}};
    struct walk walk = {0};
    size_t from = 0, start, end;

    while (split->find == FIND_PATTERN ? pattern_walk(&split->pattern, text, length, &walk, &start, &end)
                                       : find_character(split->find, text, length, &walk, &start, &end)) {
        if (from != start)
            add_stretch(&c, from, start, split->invert);
        add_stretch(&c, start, end, !split->invert);
        from = end;
    }
    if (from != length)
        add_stretch(&c, from, length, split->invert);
    pass_held(&c);
}

/* ---- steps that write text ---- */

static void put_spaces(struct split *split, const char *text, size_t length, bool first)
{
    const size_t size = (size_t)split->replacement_length;
    const char *space;

    split->made.length = 0;
    /* A space becomes the replacement, so that text begins with it too. */
    if ((split->prepend == PREPEND_ALWAYS || (split->prepend == PREPEND_FIRST && first)) && text[0] != ' ' &&
        (length < size || memcmp(text, split->replacement, size)))
        text_append(&split->made, split->replacement, size);
    while ((space = memchr(text, ' ', length))) {
        text_append(&split->made, text, (size_t)(space - text));
        text_append(&split->made, split->replacement, size);
        length -= (size_t)(space + 1 - text);
        text = space + 1;
    }
    text_append(&split->made, text, length);
}

static void step_on(struct tokenizer *t, int step, const char *text, size_t length, bool first, struct ids *ids)
{
    struct split *split = &t->split[step];

    if (step == t->n_split) {
        bpe_encode(&t->bpe, text, length, t->byte_level, ids);
        return;
    }
    switch (split->kind) {
    case SPLIT_CUT:
        cut(t, step, text, length, first, ids);
        return;
    case SPLIT_PREFIX:
        if (text[0] == ' ')
            break;
        split->made.length = 0;
        text_append(&split->made, " ", 1);
        text_append(&split->made, text, length);
        text = split->made.data;
        length = split->made.length;
        break;
    case SPLIT_METASPACE:
        put_spaces(split, text, length, first);
        text = split->made.data;
        length = split->made.length;
        break;
    case SPLIT_BYTES:
        split->made.length = 0;
        map_bytes(text, length, &split->made);
        text = split->made.data;
        length = split->made.length;
        break;
    }
    step_on(t, step + 1, text, length, first, ids);
}

void split_encode(struct tokenizer *t, const char *text, size_t length, bool first, struct ids *ids)
{
    step_on(t, 0, text, length, first, ids);
}

/* tokenizer_decode.c - decoders: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence.
 *
 * Tokens go through the steps one by one, each step passing on what is sure; so decoding piece by piece and decoding
 * all at once are the same code. Steps that would need the whole text first are refused. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

static int take_replace(struct tokenizer *t, const struct json *part, struct decoder *d)
{
    const char *what = "decoder 'Replace'";
    const struct json *content = json_at(part, "content");
    int rc = part_check(t, part, what, (const char *const[]){"pattern", "content", NULL});

    if (!rc && json_kind(content) != JSON_KIND_STRING)
        rc = refuse(t, "%s: expected a string 'content'", what);
    if (rc)
        return rc;
    d->length = json_as_length(content);
    d->content = xmalloc(d->length + 1);
    memcpy(d->content, json_as_string(content, ""), d->length);
    if (d->fused)
        return refuse(t, "%s is not supported behind steps that join the tokens", what);
    return pattern_open(t, json_at(part, "pattern"), what, &d->pattern);
}

/* A member that is one character. */
static int take_character(const struct tokenizer *t, const struct json *part, const char *what, const char *name,
                          struct decoder *d)
{
    uint32_t point;

    d->content = xstrdup(json_as_string(json_at(part, name), ""));
    d->length = strlen(d->content);
    if (!d->length || (size_t)utf8_decode(d->content, d->length, &point) != d->length)
        return refuse(t, "%s: expected one character as '%s'", what, name);
    return EX_OK;
}

static int take_strip(struct tokenizer *t, const struct json *part, struct decoder *d)
{
    const char *what = "decoder 'Strip'";
    int rc = part_check(t, part, what, (const char *const[]){"content", "start", "stop", NULL});

    d->start = json_as_int(json_at(part, "start"), -1);
    d->stop = json_as_int(json_at(part, "stop"), -1);
    if (rc || (rc = take_character(t, part, what, "content", d)))
        return rc;
    if (d->start < 0 || d->stop < 0)
        return refuse(t, "%s: expected 'start' and 'stop' of 0 or more", what);
    if (d->fused && d->stop)
        return refuse(t, "%s with 'stop' is not supported behind steps that join the tokens", what);
    return EX_OK;
}

static int take_metaspace(struct tokenizer *t, const struct json *part, struct decoder *d)
{
    static const char *const known[] = {"replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep", NULL};
    const char *what = "decoder 'Metaspace'", *scheme = json_as_string(json_at(part, "prepend_scheme"), "always");
    bool prefix;
    int rc;

    if ((rc = part_check(t, part, what, known)) || (rc = part_bool(t, part, what, "add_prefix_space", true, &prefix)) ||
        (rc = take_character(t, part, what, "replacement", d)))
        return rc;
    if ((strcmp(scheme, "always") && strcmp(scheme, "first") && strcmp(scheme, "never")) ||
        (!prefix && json_at(part, "prepend_scheme") && strcmp(scheme, "never")))
        return refuse(t, "%s: prepend_scheme '%.80s' is not supported%s", what, scheme,
                      prefix ? "" : " without add_prefix_space");
    d->drop_first = prefix && strcmp(scheme, "never");
    return EX_OK;
}

static int take(struct tokenizer *t, const struct json *part, const char *type)
{
    static const char *const offsets[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    static const char *const names[] = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
    const struct decoder *before = t->n_decoder ? &t->decoder[t->n_decoder - 1] : NULL;
    struct decoder *d = &t->decoder[t->n_decoder++];
    int i = 0;

    while (i < 6 && strcmp(type, names[i]))
        i++;
    if (i == 6)
        return refuse(t, "decoder '%.80s' is not supported", type);
    d->kind = DECODE_BYTE_LEVEL + (enum decode)i;
    d->fused = before && (before->fused || before->kind == DECODE_FUSE || before->kind == DECODE_BYTE_LEVEL);
    switch (d->kind) {
    case DECODE_REPLACE:
        return take_replace(t, part, d);
    case DECODE_STRIP:
        return take_strip(t, part, d);
    case DECODE_METASPACE:
        return take_metaspace(t, part, d);
    case DECODE_BYTE_LEVEL:
        if (d->fused)
            return refuse(t, "decoder 'ByteLevel' is not supported behind steps that join the tokens");
        return part_check(t, part, "decoder 'ByteLevel'", offsets);
    default:
        if (d->fused && d->kind == DECODE_BYTE_FALLBACK)
            return refuse(t, "decoder 'ByteFallback' is not supported behind steps that join the tokens");
        return part_check(t, part, type, (const char *const[]){NULL});
    }
}

int decoders_open(struct tokenizer *t, const struct json *part)
{
    int rc = part_each(t, part, "decoder", "decoders", take);

    /* Without a decoder the tokens stand with spaces between them. */
    if (!rc && json_kind(part) <= JSON_KIND_NULL)
        t->decoder[t->n_decoder++].kind = DECODE_SPACES;
    return rc;
}

void decoders_free(struct tokenizer *t)
{
    for (int i = 0; i < t->n_decoder; i++) {
        pattern_free(&t->decoder[i].pattern);
        free(t->decoder[i].content);
    }
}

/* ---- steps ---- */

struct decoder_state {
    struct text held;            /* bytes that may yet become characters */
    struct text made;            /* text that the step wrote */
    int64_t left;                /* Strip of joined tokens: how many may still go, and the first token is begun */
    bool begun;
};

/* A run of steps on one token. */
struct decoding_at {
    struct decoding *decoding;
    struct text *text;
};

static void pass(const struct decoding_at *to, int step, const char *token, size_t length);

/* Bytes of a token, by its characters; where one of them stands for no byte, the token as it is. */
static void put_bytes(const char *token, size_t length, struct text *held)
{
    const size_t before = held->length;
    uint32_t point = 0;

    for (size_t i = 0; i < length;) {
        int byte;

        i += (size_t)utf8_decode(token + i, length - i, &point);
        if ((byte = character_byte(point)) < 0) {
            held->length = before;
            text_append(held, token, length);
            return;
        }
        text_append(held, &(char){(char)byte}, 1);
    }
}

static void byte_level(const struct decoding_at *to, int step, const char *token, size_t length)
{
    struct decoder_state *state = &to->decoding->state[step];
    size_t used;

    text_append(&state->held, "", 0);
    put_bytes(token, length, &state->held);
    state->made.length = 0;
    text_append(&state->made, "", 0);
    used = utf8_repair_begun(state->held.data, state->held.length, &state->made);
    state->held.length -= used;
    memmove(state->held.data, state->held.data + used, state->held.length);
    pass(to, step + 1, state->made.data, state->made.length);
}

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of a token <0xNN>, or -1. */
static int byte_token(const char *token, size_t length)
{
    if (length != 6 || memcmp(token, "<0x", 3) || token[5] != '>' || digit(token[3]) < 0 || digit(token[4]) < 0)
        return -1;
    return digit(token[3]) * 16 + digit(token[4]);
}

/* Bytes in a row are text where they are UTF-8 as a whole, otherwise a U+FFFD each. */
static void pass_run(const struct decoding_at *to, int step)
{
    struct text *held = &to->decoding->state[step].held;

    if (!held->length)
        return;
    if (utf8_is_valid(held->data, held->length))
        pass(to, step + 1, held->data, held->length);
    else
        for (size_t i = 0; i < held->length; i++)
            pass(to, step + 1, "\xEF\xBF\xBD", 3);
    held->length = 0;
}

static void byte_fallback(const struct decoding_at *to, int step, const char *token, size_t length)
{
    const int byte = byte_token(token, length);

    if (byte >= 0) {
        text_append(&to->decoding->state[step].held, &(char){(char)byte}, 1);
        return;
    }
    pass_run(to, step);
    pass(to, step + 1, token, length);
}

static bool begins(const struct decoder *d, const char *token, size_t length)
{
    return length >= d->length && !memcmp(token, d->content, d->length);
}

/* Of joined tokens the beginning may come in several pieces. */
static void strip(const struct decoding_at *to, int step, const char *token, size_t length)
{
    const struct decoder *d = &to->decoding->tokenizer->decoder[step];
    struct decoder_state *state = &to->decoding->state[step];

    if (!d->fused || !state->begun)
        state->left = d->start;
    state->begun = true;
    for (; state->left && begins(d, token, length); state->left--) {
        token += d->length;
        length -= d->length;
    }
    if (length)
        state->left = 0;
    for (int64_t i = 0; i < d->stop && length >= d->length && begins(d, token + length - d->length, d->length); i++)
        length -= d->length;
    pass(to, step + 1, token, length);
}

static void metaspace(const struct decoding_at *to, int step, const char *token, size_t length)
{
    const struct decoder *d = &to->decoding->tokenizer->decoder[step];
    struct decoder_state *state = &to->decoding->state[step];
    const bool first = !state->begun || d->fused;
    size_t from = 0, start, end;
    struct pattern pattern = {.literal = d->content, .length = d->length};

    state->begun = true;
    state->made.length = 0;
    text_append(&state->made, "", 0);
    while (pattern_find(&pattern, token, length, from, &start, &end)) {
        text_append(&state->made, token + from, start - from);
        if (!first || !d->drop_first)
            text_append(&state->made, " ", 1);
        from = end;
    }
    text_append(&state->made, token + from, length - from);
    pass(to, step + 1, state->made.data, state->made.length);
}

static void replace(const struct decoding_at *to, int step, const char *token, size_t length)
{
    const struct decoder *d = &to->decoding->tokenizer->decoder[step];
    struct text *made = &to->decoding->state[step].made;

    made->length = 0;
    pattern_replace(&d->pattern, d->content, d->length, token, length, made);
    pass(to, step + 1, made->data, made->length);
}

/* A token, or a piece of joined ones, into a step. */
static void pass(const struct decoding_at *to, int step, const char *token, size_t length)
{
    const struct tokenizer *t = to->decoding->tokenizer;

    if (step == t->n_decoder) {
        text_append(to->text, token, length);
        return;
    }
    switch (t->decoder[step].kind) {
    case DECODE_SPACES:
        if (to->decoding->state[step].begun)
            text_append(to->text, " ", 1);
        to->decoding->state[step].begun = true;
        text_append(to->text, token, length);
        return;
    case DECODE_BYTE_LEVEL:
        byte_level(to, step, token, length);
        return;
    case DECODE_REPLACE:
        replace(to, step, token, length);
        return;
    case DECODE_BYTE_FALLBACK:
        byte_fallback(to, step, token, length);
        return;
    case DECODE_FUSE:
        pass(to, step + 1, token, length);
        return;
    case DECODE_STRIP:
        strip(to, step, token, length);
        return;
    case DECODE_METASPACE:
        metaspace(to, step, token, length);
        return;
    }
}

/* ---- decoding ---- */

void decoding_begin(struct decoding *decoding, struct tokenizer *tokenizer, bool skip_special)
{
    *decoding = (struct decoding){tokenizer, skip_special, xcalloc(MAX_STEPS, sizeof *decoding->state)};
}

void decoding_take(struct decoding *decoding, int32_t id, struct text *text)
{
    const struct tokenizer *t = decoding->tokenizer;
    const struct added *added = added_of(t, id), *same;
    const char *token = added ? added->pattern : vocab_text(&t->bpe.vocab, id);
    size_t length;

    if (!token)
        return;
    length = strlen(token);
    /* Special is what reads as a special token. */
    same = added_of(t, vocab_find(&t->added_texts, token, length));
    if (decoding->skip_special && same && same->special)
        return;
    pass(&(struct decoding_at){decoding, text}, 0, token, length);
}

void decoding_end(struct decoding *decoding, struct text *text)
{
    const struct decoding_at to = {decoding, text};

    for (int i = 0; i < decoding->tokenizer->n_decoder; i++) {
        struct decoder_state *state = &decoding->state[i];

        if (decoding->tokenizer->decoder[i].kind == DECODE_BYTE_FALLBACK)
            pass_run(&to, i);
        else if (state->held.length) {
            state->made.length = 0;
            utf8_repair(state->held.data, state->held.length, &state->made);
            pass(&to, i + 1, state->made.data, state->made.length);
        }
        text_free(&state->held);
        text_free(&state->made);
    }
    free(decoding->state);
    decoding->state = NULL;
}

void tokenizer_decode(struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                      struct text *text)
{
    struct decoding decoding;

    decoding_begin(&decoding, tokenizer, skip_special);
    for (size_t i = 0; i < count; i++)
        decoding_take(&decoding, ids[i], text);
    decoding_end(&decoding, text);
}

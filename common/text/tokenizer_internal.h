/* tokenizer_internal.h - the parts of a tokenizer, each read from tokenizer.json by the file named beside it. */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "text/regex.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

/* Bounds for files from outside. */
enum {
    MAX_ID = 1 << 22,            /* ids are below */
    MAX_STEPS = 64,              /* of a pipeline, Sequences flattened */
    MAX_DEPTH = 8,               /* of Sequences in Sequences */
    MAX_ADDED = 4096,            /* bytes of an added token: a search takes at most so many steps per byte */
};

/* EX_DATAERR after the message "tokenizer.json of 'M': ...". */
int refuse(const struct tokenizer *t, const char *format, ...) PRINTF_LIKE(2, 3);

/* Refuses a part of another kind than an object, or with members that aren't in known (words, NULL behind the last;
 * "type" always is). what names the part. */
int part_check(const struct tokenizer *t, const struct json *part, const char *what, const char *const *known);

/* A boolean member, otherwise where it is absent or null. EX_DATAERR where it is of another kind. */
int part_bool(const struct tokenizer *t, const struct json *part, const char *what, const char *name, bool otherwise,
              bool *value);

/* Calls take for each part of a tree of Sequences, in order; list is the member that holds the parts of a Sequence. A
 * null or absent part is none. */
int part_each(struct tokenizer *t, const struct json *part, const char *what, const char *list,
              int (*take)(struct tokenizer *t, const struct json *part, const char *type));

/* ---- tokenizer_vocab.c: texts and ids, both ways ---- */

struct vocab {
    struct text texts;           /* each text with a NUL behind it */
    size_t *at;                  /* by id: place in texts; NO_TEXT where the id stands for nothing */
    uint32_t *length;
    int32_t size, capacity;      /* ids are below size */
    size_t count;
    int32_t *slot;               /* hash table of ids, -1: free */
    size_t mask;
};

#define NO_TEXT ((size_t)-1)

/* False where the text or the id is there already. 0 <= id < MAX_ID. */
bool vocab_add(struct vocab *vocab, const char *text, size_t length, int32_t id);
int32_t vocab_find(const struct vocab *vocab, const char *text, size_t length);      /* -1: none */
const char *vocab_text(const struct vocab *vocab, int32_t id);                       /* NULL: none */
void vocab_free(struct vocab *vocab);

/* ---- tokenizer_bpe.c: the model ---- */

struct merge {
    uint64_t pair;               /* left id << 32 | right id; NO_PAIR: free */
    uint32_t rank;               /* low ones first */
    int32_t result;
};

struct symbol {
    int32_t id;                  /* -1: merged into the one before */
    int32_t previous, next;      /* -1: none */
};

struct cached {
    uint64_t hash;
    uint32_t text, id;           /* places in the cache's texts and ids */
    uint16_t length, count;      /* length 0: free */
};

struct bpe {
    struct vocab vocab;
    struct merge *merge;         /* hash table */
    size_t merge_mask;
    int32_t *result;             /* by rank */
    int32_t unknown;             /* -1: characters that aren't in the vocabulary are left out */
    bool fuse_unknown, byte_fallback, ignore_merges;
    int32_t byte[256];           /* ids of <0x00> to <0xFF>, -1: none */
    int32_t character[0x500];    /* ids of the first characters, -1: none */

    struct symbol *symbol;       /* of the word at work */
    uint64_t *heap;              /* rank << 32 | place of the left symbol */
    size_t symbol_capacity, heap_count, heap_capacity;
    struct text mapped;

    struct cached *cache;        /* words that came before: hash table */
    size_t cache_count;
    struct text cache_texts;
    struct ids cache_ids;
};

int bpe_open(struct tokenizer *t, const struct json *model);
void bpe_free(struct bpe *bpe);

/* Appends the ids of a word. bytes: the word is text whose bytes stand for characters of the vocabulary. */
void bpe_encode(struct bpe *bpe, const char *word, size_t length, bool bytes, struct ids *ids);

/* The character that byte-level vocabularies have for a byte (GPT-2's table), and the byte of a character, -1: none. */
uint32_t byte_character(int byte);
int character_byte(uint32_t character);
void map_bytes(const char *data, size_t length, struct text *text);

/* ---- tokenizer_pattern.c: what Split and Replace look for ---- */

struct pattern {
    struct regex *regex;         /* NULL: */
    char *literal;
    size_t length;
};

/* A member `pattern`: {"String": ...} or {"Regex": ...}, Oniguruma's dialect. */
int pattern_open(const struct tokenizer *t, const struct json *value, const char *what, struct pattern *pattern);
int pattern_expression(const struct tokenizer *t, const char *expression, const char *what, struct pattern *pattern);
bool pattern_find(const struct pattern *pattern, const char *text, size_t length, size_t from, size_t *start,
                  size_t *end);
void pattern_free(struct pattern *pattern);

/* A walk over all matches as Oniguruma's iterator gives them. {0, ...} begins. */
struct walk {
    size_t at, last;             /* where to search on; end of the last match */
    bool some;
};

bool pattern_walk(const struct pattern *pattern, const char *text, size_t length, struct walk *walk, size_t *start,
                  size_t *end);

/* Appends text with each match replaced. */
void pattern_replace(const struct pattern *pattern, const char *content, size_t content_length, const char *text,
                     size_t length, struct text *out);

/* ---- tokenizer_normal.c: normalizers ---- */

enum normal { NORMAL_PREPEND, NORMAL_REPLACE, NORMAL_FORM };

struct normalizer {
    enum normal kind;
    struct pattern pattern;
    char *content;
    size_t length;
    enum normal_form form;
};

int normalizers_open(struct tokenizer *t, const struct json *part);
void normalizers_free(struct tokenizer *t);

/* Text as the normalizers leave it: itself where there are none, otherwise in one of t->normalized. */
void normalize(struct tokenizer *t, const char **text, size_t *length);

/* ---- tokenizer_split.c: pre-tokenizers, as steps of four kinds ---- */

enum split_kind { SPLIT_PREFIX, SPLIT_METASPACE, SPLIT_CUT, SPLIT_BYTES };
enum find { FIND_PATTERN, FIND_NUMBER, FIND_SPACE };
enum behavior { CUT_ISOLATED, CUT_REMOVED, CUT_CONTIGUOUS, CUT_PREVIOUS, CUT_NEXT };
enum prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct split {
    enum split_kind kind;
    enum find find;
    struct pattern pattern;
    enum behavior behavior;
    bool invert;
    enum prepend prepend;        /* SPLIT_METASPACE */
    char replacement[4];
    int replacement_length;
    struct text made;            /* text that the step wrote */
};

int splits_open(struct tokenizer *t, const struct json *part);
void splits_free(struct tokenizer *t);

/* Cuts a piece of text into words and appends their ids; first: the piece begins where the whole text does. */
void split_encode(struct tokenizer *t, const char *text, size_t length, bool first, struct ids *ids);

/* ---- tokenizer_added.c: tokens that are found whole ---- */

struct added {
    int32_t id;
    char *content, *pattern;     /* pattern: as the normalizers leave the content of a normalized token */
    size_t pattern_length;
    bool special, single_word, lstrip, rstrip, normalized;
};

/* Strings by their bytes: nodes of a tree, the edges in a hash table. */
struct trie {
    uint64_t *edge;              /* node << 8 | byte, plus 1; 0: free */
    uint32_t *child;
    size_t mask, count;
    int32_t *value;              /* by node: index of the added token that ends here, or -1 */
    size_t nodes, capacity;
    bool first[256];             /* bytes that a string begins with */
};

struct found {
    size_t start, end;           /* with the spaces that the token takes along */
    int32_t id;
};

/* A search that goes on: begin with {0}. */
struct search {
    size_t at, floor;            /* where to search on; end of the last found, with spaces */
    size_t spaces;               /* end of the spaces looked at */
};

int added_open(struct tokenizer *t, const struct json *list);
void added_free(struct tokenizer *t);
const struct added *added_of(const struct tokenizer *t, int32_t id);                 /* NULL: none */
bool added_next(struct tokenizer *t, const struct trie *trie, const char *text, size_t length, struct search *search,
                struct found *found);

/* ---- tokenizer_decode.c: decoders ---- */

enum decode { DECODE_SPACES, DECODE_BYTE_LEVEL, DECODE_REPLACE, DECODE_BYTE_FALLBACK, DECODE_FUSE, DECODE_STRIP,
              DECODE_METASPACE };

struct decoder {
    enum decode kind;
    struct pattern pattern;      /* Replace, */
    char *content;               /* with this; Strip: the character */
    size_t length;
    int64_t start, stop;         /* Strip: how many of it */
    bool drop_first;             /* Metaspace: no space in the first token */
    bool fused;                  /* what comes in are pieces of one token */
};

int decoders_open(struct tokenizer *t, const struct json *part);
void decoders_free(struct tokenizer *t);

/* ---- the whole ---- */

struct tokenizer {
    char *where;
    struct bpe bpe;
    int32_t size;

    struct vocab added_texts;    /* ids of added tokens */
    struct added *added;
    int32_t n_added;
    int32_t *added_at;           /* by id: index of an added token, or -1 */
    struct trie raw, normal;     /* of those looked for before and behind the normalizers */
    struct regex *word;          /* one character of a word, for single_word */

    struct normalizer normalizer[MAX_STEPS];
    int n_normalizer;
    struct split split[MAX_STEPS];
    int n_split;
    bool byte_level;             /* the last step maps bytes: done with the words */
    struct decoder decoder[MAX_STEPS];
    int n_decoder;
    struct ids before, behind;   /* what the post-processor puts around */

    struct text repaired, normalized[2];
};

/* tokenizer_post.c */
int post_open(struct tokenizer *t, const struct json *part);

#endif

/* operator.c - operators: reading, writing, counting. */
#include "operator/operator.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

bool operator_begins(const struct record *record)
{
    return (record->kind == RECORD_TENSOR && record->rank == 2 && dtype_is_real(record->dtype))
        || (record->kind == RECORD_CORE && record->term == 0 && record->site == 0);
}

static void allot_term(struct operator *op, int term, int n_site)
{
    op->term[term] = (struct chain){.n_site = n_site, .core = xcalloc((size_t)n_site, sizeof *op->term[term].core)};
}

static int bad_operator(const struct source *source, const struct record *record, const char *format, ...)
    PRINTF_LIKE(3, 4);

static int bad_operator(const struct source *source, const struct record *record, const char *format, ...)
{
    char *where = xasprintf("cannot read '%s': record %lld, byte %lld: '%s'", source->name, (long long)record->index,
                            (long long)record->offset, record->name);
    va_list args;

    va_start(args, format);
    fail_in(EX_DATAERR, where, format, args);
    va_end(args);
    return EX_DATAERR;
}

/* Sizes of one chain; false where they overflow. */
static bool chain_size(const struct chain *chain, int64_t *out, int64_t *in)
{
    *out = *in = 1;
    for (int s = 0; s < chain->n_site; s++)
        if (!size_multiply(*out, chain->core[s].shape[1], out) || !size_multiply(*in, chain->core[s].shape[2], in))
            return false;
    return true;
}

/* The most elements of W, and of a product of cores on the way to it: far beyond any model, and no overflow. */
#define ELEMENTS_MOST ((int64_t)1 << 40)

static int check_terms(const struct source *source, const struct record *record, struct operator *op)
{
    for (int t = 0; t < op->n_term; t++) {
        int64_t out, in, elements = 0;
        bool good = chain_size(&op->term[t], &out, &in) && size_multiply(out, in, &elements);

        for (int s = 0; s < op->term[t].n_site && good; s++)
            good = size_multiply(elements, op->term[t].core[s].shape[0], &(int64_t){0});
        if (!good || elements > ELEMENTS_MOST)
            return bad_operator(source, record, "its cores make up too large a matrix");
        if (t == 0)
            op->out = out, op->in = in;
        else if (out != op->out || in != op->in)
            return bad_operator(source, record, "term %d is %lld x %lld, expected %lld x %lld", t, (long long)out,
                                (long long)in, (long long)op->out, (long long)op->in);
    }
    return EX_OK;
}

/* What a record's map says beyond what is known would be lost, and may change what the numbers mean. Transforms stand
 * with the first core. */
static int check_members(const struct source *source, const struct record *record)
{
    static const char *const known[] = {"kind", "name", "term", "site", "dtype", "shape", "bytes"};

    for (void *m = json_first(record->map); m; m = json_following(record->map, m)) {
        bool turn = !strcmp(json_key(m), "input") || !strcmp(json_key(m), "output");
        bool found = turn && operator_begins(record) && record->kind == RECORD_CORE;

        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found = found || !strcmp(json_key(m), known[i]);
        if (!found)
            return bad_operator(source, record, "'%.100s' is not known to this version", json_key(m));
    }
    return EX_OK;
}

/* The order and completeness of chains is the source's to hold (record_after()). */
static int take_core(struct source *source, const struct record *record, struct operator *op)
{
    int rc = check_members(source, record);

    if (rc)
        return rc;
    if (record->site == 0)
        allot_term(op, record->term, record->n_site);
    return source_load(source, record, &op->term[record->term].core[record->site]);
}

static int read_cores(struct source *source, const struct record *record, struct operator *op)
{
    int rc = take_core(source, record, op), term = 0, site = 0;

    while (!rc && (term < op->n_term - 1 || site < op->term[term].n_site - 1)) {
        struct record next = {0};

        if (!(rc = source_next(source, &next))) {
            rc = take_core(source, &next, op);
            term = next.term;
            site = next.site;
        }
        record_free(&next);
    }
    return rc;
}

/* Once the width is known. */
static int read_transform(const struct source *source, const struct record *record, const char *side, int64_t width,
                          struct transform *transform)
{
    const struct json *stated = json_at(record->map, side);

    if (!stated || transform_parse(stated, width, transform))
        return EX_OK;
    return bad_operator(source, record, "bad '%s', expected {\"signs\": 0 to 2^63 - 1, \"hadamard\": a power of two "
                        "from 2 to %d that divides %lld}, and perhaps \"hartley\": 2 to %d, which divides what is left",
                        side, TRANSFORM_BLOCK_MOST, (long long)width, TRANSFORM_MIX_MOST);
}

int operator_read(struct source *source, const struct record *record, struct operator *op)
{
    int rc;

    *op = (struct operator){.name = xstrdup(record->name), .n_term = record->n_term};
    op->term = xcalloc((size_t)op->n_term, sizeof *op->term);
    if (record->kind == RECORD_TENSOR) {
        struct tensor matrix;

        if (!(rc = check_members(source, record)) && !(rc = source_load(source, record, &matrix))) {
            operator_free(op);
            *op = operator_from_matrix(record->name, &matrix);
        }
    } else
        rc = read_cores(source, record, op);
    if (!rc)
        rc = check_terms(source, record, op);
    if (!rc)
        rc = read_transform(source, record, "input", op->in, &op->input);
    if (!rc)
        rc = read_transform(source, record, "output", op->out, &op->output);
    if (rc)
        operator_free(op);
    return rc;
}

/* A matrix with a transform is a core, so that who knows no transforms refuses it. */
static struct record record_of(const struct operator *op, int term, int site)
{
    const struct chain *chain = &op->term[term];
    bool turned = operator_is_turned(op);
    struct record record;

    if (operator_is_matrix(op) && !turned)
        return record_tensor(op->name, chain->core->dtype, 2, (int64_t[]){op->out, op->in});
    record = record_core(op->name, term, op->n_term, site, chain->n_site, &chain->core[site]);
    if (op->input.block && !term && !site)
        json_put(record.map, "input", transform_json(op->input));
    if (op->output.block && !term && !site)
        json_put(record.map, "output", transform_json(op->output));
    return record;
}

int operator_write(struct writer *writer, const struct operator *op)
{
    int rc = EX_OK;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site && !rc; s++) {
            const struct tensor *core = &op->term[t].core[s];
            struct record record = record_of(op, t, s);

            rc = writer_put(writer, &record, core->data);
            record_free(&record);
        }
    return rc;
}

struct operator operator_from_cores(const char *name, int n_site, struct tensor *cores)
{
    struct operator op = {.name = xstrdup(name), .n_term = 1, .term = xcalloc(1, sizeof *op.term)};

    allot_term(&op, 0, n_site);
    memcpy(op.term[0].core, cores, (size_t)n_site * sizeof *cores);
    memset(cores, 0, (size_t)n_site * sizeof *cores);
    chain_size(&op.term[0], &op.out, &op.in);
    return op;
}

struct operator operator_from_matrix(const char *name, struct tensor *matrix)
{
    matrix->rank = 4;
    matrix->shape[2] = matrix->shape[1];
    matrix->shape[1] = matrix->shape[0];
    matrix->shape[0] = matrix->shape[3] = 1;
    return operator_from_cores(name, 1, matrix);
}

bool operator_is_matrix(const struct operator *op)
{
    return op->n_term == 1 && op->term[0].n_site == 1;
}

bool operator_is_turned(const struct operator *op)
{
    return op->input.block || op->output.block;
}

bool operator_is_dense(const struct operator *op)
{
    return operator_is_matrix(op) && !operator_is_turned(op) && !dtype_is_packed(op->term[0].core[0].dtype);
}

int64_t operator_parameters(const struct operator *op)
{
    int64_t sum = 0;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site; s++)
            sum += tensor_count(&op->term[t].core[s]);
    return sum;
}

int64_t operator_bytes(const struct operator *op)
{
    int64_t sum = 0;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site; s++)
            sum += op->term[t].core[s].bytes;
    return sum;
}

void operator_hash(const struct operator *op, struct hash *hash)
{
    const struct transform *turn[] = {&op->input, &op->output};

    hash_update(hash, op->name, strlen(op->name) + 1);
    for (int i = 0; i < 2; i++) {
        int64_t numbers[] = {turn[i]->block, turn[i]->mix, (int64_t)turn[i]->seed};

        hash_update(hash, numbers, sizeof numbers);
    }
    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site; s++)
            tensor_hash(&op->term[t].core[s], hash);
}

void operator_free(struct operator *op)
{
    for (int t = 0; t < op->n_term && op->term; t++) {
        for (int s = 0; s < op->term[t].n_site; s++)
            tensor_free(&op->term[t].core[s]);
        free(op->term[t].core);
    }
    free(op->term);
    free(op->name);
    *op = (struct operator){0};
}

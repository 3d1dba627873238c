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
    free(where);
    return EX_DATAERR;
}

/* Sizes of one chain; false where bonds don't join or the products overflow. */
static bool chain_size(const struct chain *chain, int64_t *out, int64_t *in)
{
    int64_t bond = 1;

    *out = *in = 1;
    for (int s = 0; s < chain->n_site; s++) {
        const int64_t *shape = chain->core[s].shape;

        if (shape[0] != bond || !size_multiply(*out, shape[1], out) || !size_multiply(*in, shape[2], in))
            return false;
        bond = shape[3];
    }
    return bond == 1;
}

static int check_terms(const struct source *source, const struct record *record, struct operator *op)
{
    int64_t elements;

    for (int t = 0; t < op->n_term; t++) {
        int64_t out, in;

        if (!chain_size(&op->term[t], &out, &in))
            return bad_operator(source, record, "the bonds of term %d don't join", t);
        if (t == 0)
            op->out = out, op->in = in;
        else if (out != op->out || in != op->in)
            return bad_operator(source, record, "term %d is %lld x %lld, expected %lld x %lld", t, (long long)out,
                                (long long)in, (long long)op->out, (long long)op->in);
    }
    if (!size_multiply(op->out, op->in, &elements) || elements > INT64_MAX / 8)
        return bad_operator(source, record, "%lld x %lld is too large", (long long)op->out, (long long)op->in);
    return EX_OK;
}

/* The core that must come next: term and site as the chains so far say. */
static int take_core(struct source *source, const struct record *record, struct operator *op, int term, int site)
{
    if (record->kind != RECORD_CORE || strcmp(record->name, op->name) || record->term != term || record->site != site
        || record->n_term != op->n_term || (site && record->n_site != op->term[term].n_site))
        return bad_operator(source, record, "expected core %d of term %d of '%s'", site, term, op->name);
    if (site == 0)
        allot_term(op, term, record->n_site);
    return source_load(source, record, &op->term[term].core[site]);
}

static int read_cores(struct source *source, const struct record *record, struct operator *op)
{
    int rc = take_core(source, record, op, 0, 0);

    for (int t = 0; t < op->n_term && !rc; t++)
        for (int s = t == 0 ? 1 : 0; (s == 0 || s < op->term[t].n_site) && !rc; s++) {
            struct record next = {0};

            if (!(rc = source_next(source, &next)))
                rc = next.kind == RECORD_END ? bad_operator(source, record, "its cores are not all there")
                                             : take_core(source, &next, op, t, s);
            record_free(&next);
        }
    return rc;
}

int operator_read(struct source *source, const struct record *record, struct operator *op)
{
    int rc;

    *op = (struct operator){.name = xstrdup(record->name), .n_term = record->n_term};
    op->term = xcalloc((size_t)op->n_term, sizeof *op->term);
    if (record->kind == RECORD_TENSOR) {
        struct tensor matrix;

        if (!(rc = source_load(source, record, &matrix))) {
            operator_free(op);
            *op = operator_from_matrix(record->name, &matrix);
        }
    } else
        rc = read_cores(source, record, op);
    if (!rc)
        rc = check_terms(source, record, op);
    if (rc)
        operator_free(op);
    return rc;
}

int operator_write(struct writer *writer, const struct operator *op)
{
    int rc = EX_OK;

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site && !rc; s++) {
            const struct tensor *core = &op->term[t].core[s];
            struct record record = operator_is_matrix(op)
                ? record_tensor(op->name, core->dtype, 2, (int64_t[]){op->out, op->in})
                : record_core(op->name, t, op->n_term, s, op->term[t].n_site, core);

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

bool operator_is_dense(const struct operator *op)
{
    return operator_is_matrix(op) && op->term[0].core[0].dtype.kind != DTYPE_GROUP;
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

char *operator_describe(const struct operator *op)
{
    struct text text = {0};
    char buffer[DTYPE_NAME];

    for (int t = 0; t < op->n_term; t++)
        for (int s = 0; s < op->term[t].n_site; s++) {
            const struct tensor *core = &op->term[t].core[s];

            text_format(&text, "%s%s %lldx%lldx%lldx%lld", s ? " " : t ? " + " : "", dtype_name(core->dtype, buffer),
                        (long long)core->shape[0], (long long)core->shape[1], (long long)core->shape[2],
                        (long long)core->shape[3]);
        }
    return text.data;
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

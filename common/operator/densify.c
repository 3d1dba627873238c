/* densify.c - row pieces of a weight in f32, rounded and written one after the other. */
#include "operator/densify.h"
#include "base/memory.h"
#include "operator/operator.h"

#include <stdlib.h>

enum { PIECE = 1 << 18 };        /* numbers in a piece, but one row at least */

/* Where rows come from: a tensor, or the contraction of an operator. */
struct rows {
    const struct tensor *tensor;
    const struct contraction *contraction;
    int64_t count, length, step;
};

static int write_rows(const struct rows *rows, struct dtype dtype, struct checkpoint *checkpoint, const char *name)
{
    int rc = EX_OK;

    for (int64_t first = 0; first < rows->count && !rc; first += rows->step) {
        int64_t n = rows->count - first < rows->step ? rows->count - first : rows->step;
        struct tensor piece = tensor_new(dtype, 2, (int64_t[]){n, rows->length});
        float *values = xaligned((size_t)(n * rows->length), sizeof *values);

        if (rows->tensor)
            tensor_get_rows(rows->tensor, first, n, values);
        else
            contraction_rows(rows->contraction, first, n, values);
        tensor_set(&piece, values);
        rc = tensor_is_finite(&piece) ? checkpoint_add(checkpoint, piece.data, (size_t)piece.bytes)
                                      : fail(EX_DATAERR, "'%s': a number is not finite, or too large for the dtype",
                                             name);
        free(values);
        tensor_free(&piece);
    }
    return rc;
}

static int write_record(const struct rows *rows, struct checkpoint *checkpoint, struct record *dense)
{
    int rc = checkpoint_begin(checkpoint, dense);

    if (!rc)
        rc = write_rows(rows, dense->dtype, checkpoint, dense->name);
    return rc ? rc : checkpoint_finish(checkpoint);
}

static int densify_cores(struct source *source, const struct record *record, struct dtype dtype,
                         struct checkpoint *checkpoint, struct record *dense)
{
    struct operator op;
    struct contraction c;
    int rc = operator_read(source, record, &op);

    if (rc)
        return rc;
    contraction_begin(&c, &op);
    *dense = record_tensor(op.name, dtype, 2, (int64_t[]){op.out, op.in});
    rc = write_record(&(struct rows){.contraction = &c, .count = op.out, .length = op.in, .step = contraction_step(&c)},
                      checkpoint, dense);
    contraction_end(&c);
    operator_free(&op);
    return rc;
}

int densify(struct source *source, const struct record *record, struct dtype dtype, struct checkpoint *checkpoint,
            struct record *dense)
{
    struct tensor tensor;
    int64_t length;
    int rc;

    *dense = (struct record){0};
    if (record->kind == RECORD_CORE)
        return densify_cores(source, record, dtype, checkpoint, dense);
    if ((rc = source_load(source, record, &tensor)))
        return rc;
    *dense = record_tensor(record->name, dtype, record->rank, record->shape);
    length = tensor_row_length(&tensor);
    rc = write_record(&(struct rows){.tensor = &tensor, .count = tensor_rows(&tensor),
                                     .length = length, .step = length > PIECE ? 1 : PIECE / (length ? length : 1)},
                      checkpoint, dense);
    tensor_free(&tensor);
    return rc;
}

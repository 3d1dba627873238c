/* densify.c - row pieces of a weight in f32, rounded and written one after the other. */
#include "operator/densify.h"
#include "base/memory.h"
#include "operator/operator.h"

#include <stdlib.h>

enum { PIECE = 1 << 18 };        /* numbers in a piece, but one row at least */

/* Where rows come from: a tensor, or W in full. */
struct rows {
    const struct tensor *tensor;
    const float *w;
    int64_t count, length;
};

static int write_rows(const struct rows *rows, struct dtype dtype, struct checkpoint *checkpoint)
{
    int64_t step = rows->length > PIECE ? 1 : rows->length ? PIECE / rows->length : rows->count;
    int rc = EX_OK;

    for (int64_t first = 0; first < rows->count && !rc; first += step) {
        int64_t n = rows->count - first < step ? rows->count - first : step;
        struct tensor piece = tensor_new(dtype, 2, (int64_t[]){n, rows->length});
        float *values = rows->w ? NULL : xaligned((size_t)(n * rows->length), sizeof *values);

        if (values)
            tensor_get_rows(rows->tensor, first, n, values);
        tensor_set(&piece, values ? values : rows->w + first * rows->length);
        rc = checkpoint_add(checkpoint, piece.data, (size_t)piece.bytes);
        free(values);
        tensor_free(&piece);
    }
    return rc;
}

static int write_record(const struct rows *rows, struct checkpoint *checkpoint, struct record *dense)
{
    int rc = checkpoint_begin(checkpoint, dense);

    if (!rc)
        rc = write_rows(rows, dense->dtype, checkpoint);
    return rc ? rc : checkpoint_finish(checkpoint);
}

static int densify_cores(struct source *source, const struct record *record, struct dtype dtype,
                         struct checkpoint *checkpoint, struct record *dense)
{
    struct operator op;
    float *w;
    int rc = operator_read(source, record, &op);

    if (rc)
        return rc;
    w = xaligned((size_t)(op.out * op.in), sizeof *w);
    operator_dense(&op, w);
    *dense = record_tensor(op.name, dtype, 2, (int64_t[]){op.out, op.in});
    rc = write_record(&(struct rows){.w = w, .count = op.out, .length = op.in}, checkpoint, dense);
    free(w);
    operator_free(&op);
    return rc;
}

int densify(struct source *source, const struct record *record, struct dtype dtype, struct checkpoint *checkpoint,
            struct record *dense)
{
    struct tensor tensor;
    int rc;

    *dense = (struct record){0};
    if (record->kind == RECORD_CORE)
        return densify_cores(source, record, dtype, checkpoint, dense);
    if ((rc = source_load(source, record, &tensor)))
        return rc;
    *dense = record_tensor(record->name, dtype, record->rank, record->shape);
    rc = write_record(&(struct rows){.tensor = &tensor, .count = tensor_rows(&tensor),
                                     .length = tensor_row_length(&tensor)},
                      checkpoint, dense);
    tensor_free(&tensor);
    return rc;
}

/* densify.h - an operator or a tensor of any dtype as a plain tensor of a checkpoint. */
#ifndef OPERATOR_DENSIFY_H
#define OPERATOR_DENSIFY_H

#include "files/checkpoint.h"
#include "files/source.h"

/* Reads the core, packed matrix or plain tensor that begins with record (and the records of its other cores from the
 * source) and writes it to the checkpoint as one tensor of a dtype f32, f16 or bf16. *dense becomes the record
 * written, the caller's to free. Memory: the payload, and what struct contraction takes where there are several
 * cores. EX_DATAERR,
 * EX_IOERR, EX_CANTCREAT. */
int densify(struct source *source, const struct record *record, struct dtype dtype, struct checkpoint *checkpoint,
            struct record *dense);

#endif

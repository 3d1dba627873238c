/* kernels_portable.c - the kernels for any processor that gcc knows. */
#define KERNELS_LEVEL 0
#include "compute/kernels_vector.h"
#include "compute/kernels_gemm.h"
#include "compute/kernels_tiles.h"
#include "compute/kernels_strips.h"
#include "compute/kernels_rows.h"
#include "compute/kernels_back.h"
#include "compute/kernels_trellis.h"

const struct kernels kernels_portable = {
    .name = "portable",
#include "compute/kernels_table.h"
};

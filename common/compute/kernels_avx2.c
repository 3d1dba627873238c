/* kernels_avx2.c - the kernels for AVX2. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>
#define KERNELS_LEVEL 2
#include "compute/kernels_vector.h"
#include "compute/kernels_gemm.h"
#include "compute/kernels_tiles.h"
#include "compute/kernels_strips.h"
#include "compute/kernels_rows.h"
#include "compute/kernels_back.h"
#include "compute/kernels_trellis.h"

const struct kernels kernels_avx2 = {
    .name = "avx2",
#include "compute/kernels_table.h"
};
#else
typedef int no_kernels;           /* an empty file is not C */
#endif

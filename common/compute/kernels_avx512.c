/* kernels_avx512.c - the kernels for AVX-512 with VNNI. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#include <immintrin.h>
#define KERNELS_LEVEL 512
#include "compute/kernels_vector.h"
#include "compute/kernels_gemm.h"
#include "compute/kernels_tiles.h"
#include "compute/kernels_strips.h"
#include "compute/kernels_rows.h"
#include "compute/kernels_back.h"
#include "compute/kernels_trellis.h"

const struct kernels kernels_avx512 = {
    .name = "avx512",
#include "compute/kernels_table.h"
};
#else
typedef int no_kernels;           /* an empty file is not C */
#endif

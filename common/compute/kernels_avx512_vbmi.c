/* kernels_avx512_vbmi.c - the same with VBMI: bytes picked from all of a register. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")
#include <immintrin.h>
#define KERNELS_LEVEL 512
#include "compute/kernels_vector.h"
#include "compute/kernels_gemm.h"
#include "compute/kernels_tiles.h"
#include "compute/kernels_strips.h"
#include "compute/kernels_rows.h"
#include "compute/kernels_back.h"
#include "compute/kernels_trellis.h"

const struct kernels kernels_avx512_vbmi = {
    .name = "avx512 vbmi",
#include "compute/kernels_table.h"
};
#else
typedef int no_kernels;           /* an empty file is not C */
#endif

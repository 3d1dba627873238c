/* kernels.c - the choice of an instruction set. */
#include "compute/kernels.h"

const struct kernels *const *kernels_all(void)
{
    static const struct kernels *all[5];
    int count = 0;

    if (all[0])
        return all;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512vbmi"))
            all[count++] = &kernels_avx512_vbmi;
        all[count++] = &kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        all[count++] = &kernels_avx2;
#endif
    all[count] = &kernels_portable;
    return all;
}

const struct kernels *kernels_best(void)
{
    return kernels_all()[0];
}

const struct pair_kernels *kernels_pairs(const struct kernels *kernels)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bf16") && kernels->tokens == pair_kernels_avx512.tokens
        && kernels->panel == pair_kernels_avx512.panel)
        return &pair_kernels_avx512;
#endif
    (void)kernels;
    return NULL;
}

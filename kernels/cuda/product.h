/* A product by the type of what is multiplied: f32 as in gemm.h, bf16 as in gemm_bf16.h. */
#ifndef KERNELS_CUDA_PRODUCT_H
#define KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_bf16.h"

/* Floats of scratch that product needs, for operands that stand so. */
template <class T, class A_MAP, class B_MAP>
static inline int64_t product_scratch(A_MAP a, B_MAP b, int64_t n_i, int64_t n_j, int64_t n_k)
{
    if constexpr (sizeof(T) == sizeof(float))
        return gemm_long_scratch(n_i, n_j, n_k);
    else
        return gemm_bf16_scratch(n_i, n_j, n_k, a.in_runs(RUN) && b.in_runs(RUN));
}

/* out(i,j) takes Σk a(i,k) b(j,k). T: what is multiplied. */
template <class T, class OUT, class A, class B>
static enum status product(OUT out, A a, B b, int64_t n_i, int64_t n_j, int64_t n_k, float *scratch,
                           struct stream *s)
{
    if constexpr (sizeof(T) == sizeof(float))
        return gemm_long(out, a, b, n_i, n_j, n_k, scratch, s);
    else
        return gemm_bf16(out, a, b, n_i, n_j, n_k, scratch, s);
}

#endif

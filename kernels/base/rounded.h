/* A product rounded to float by itself. nvcc fuses a product into the sum behind it, with one
 * rounding for both, unless it is asked for like this; for the host, compile without contraction. */
#ifndef KERNELS_BASE_ROUNDED_H
#define KERNELS_BASE_ROUNDED_H

#ifdef __CUDACC__
#define ROUNDED_FN static __host__ __device__ inline
#else
#define ROUNDED_FN static inline
#endif

ROUNDED_FN float rounded_product(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

#endif

/* A convolution's weights, kept with the kernel's elements innermost, in rows of (a,b,c). */
#ifndef KERNELS_CUDA_KERNEL_ROWS_H
#define KERNELS_CUDA_KERNEL_ROWS_H

#include "kernels/cuda/dense.h"
#include "kernels/cuda/gemm.h"

static inline int64_t area(struct tensor w)
{
    return w.dim[2] * w.dim[3];
}

/* w (P,Q,a,b), rows p */
static inline by_kernel kernel_by_first(struct tensor w)
{
    return by_kernel{ w.dim[1] * area(w), area(w), (int)w.dim[1] };
}

/* w (P,Q,a,b), rows q */
static inline by_kernel kernel_by_second(struct tensor w)
{
    return by_kernel{ area(w), w.dim[1] * area(w), (int)w.dim[0] };
}

enum { LAY_THREADS = 256 };

/* A thread owns an element of the rows. Bound by memory: each weight read and written once, 2.4 MB for
 * the neck's 3×3 in bf16: 1.4 µs on an A100 (1.7 TB/s); the sectors that neighbouring threads share
 * come from L2. */
template <class T>
__global__ static void __launch_bounds__(LAY_THREADS)
    lay_kernel(T *rows, const T *w, by_kernel from, int row, int64_t n)
{
    const int64_t own = (int64_t)blockIdx.x * LAY_THREADS + (int)threadIdx.x;

    if (own < n) rows[own] = w[from.at((int)(own / row), (int)(own % row))];
}

/* Bytes of scratch that laid_out asks for. */
static inline int64_t lay_bytes(struct tensor w)
{
    return area(w) == 1 ? 0 : dense_round(tensor_bytes(w));
}

/* The weights in rows of (a,b,c): as they are where one element is the kernel, else in room. */
template <class T>
static enum status laid_out(const T **rows, void *room, struct tensor w, by_kernel from,
                            struct stream *s)
{
    const int64_t n = tensor_count(w), row = from.n_c * area(w);

    *rows = (const T *)w.data;
    if (n == 0 || lay_bytes(w) == 0) return OK;
    *rows = (const T *)room;
    LAUNCH((lay_kernel<T>), (unsigned)((n + LAY_THREADS - 1) / LAY_THREADS), LAY_THREADS, 0, s,
           (T *)room, (const T *)w.data, from, (int)row, n);
    return OK;
}

#endif

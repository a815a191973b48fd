/* dst += src, the verb of the backend's table. */
#include "kernels/cuda/accumulate.h"

#include "kernels/cuda/device.h"

enum { THREADS = 256, ITEMS = 4, BLOCK = THREADS * ITEMS };

/* A thread owns four elements 256 apart. Bound by memory: 12 bytes an element, each once; four
 * independent loads of each operand keep enough of them in flight. Any alignment of floats will do. */
__global__ static void __launch_bounds__(THREADS)
    accumulate(float *dst, const float *src, const int64_t n)
{
    const int64_t first = (int64_t)blockIdx.x * BLOCK + (int)threadIdx.x;

#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const int64_t i = first + k * THREADS;

        if (i < n) dst[i] += src[i];
    }
}

extern "C" enum status accumulate_cuda(float *dst, const float *src, int64_t n, struct stream *s)
{
    if (n == 0) return OK;
    LAUNCH(accumulate, (unsigned)((n + BLOCK - 1) / BLOCK), THREADS, 0, s, dst, src, n);
    return OK;
}

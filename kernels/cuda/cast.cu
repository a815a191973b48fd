#include "kernels/cast_check.h"

#include "kernels/cuda/element.h"

enum { CAST_THREADS = 256 };

/* A thread owns a lot of elements: 16 bytes of the narrower side. Bound by memory: 6 bytes an element
 * from one precision to the other, each once; that is all there is to do. */
template <class TO, class FROM>
__global__ static void __launch_bounds__(CAST_THREADS)
    cast(TO *y, const FROM *x, int64_t n, bool aligned)
{
    enum { N = element_lot<TO, FROM>::WIDTH };
    const int64_t i = N * ((int64_t)blockIdx.x * CAST_THREADS + (int)threadIdx.x);
    float v[N];

    if (i >= n) return;
    element_load_lot(v, x + i, n - i, aligned);
    element_store_lot(y + i, v, n - i, aligned);
}

template <class TO, class FROM>
static enum status launch(struct tensor y, struct tensor x, struct stream *s)
{
    enum { N = element_lot<TO, FROM>::WIDTH };
    const int64_t n = tensor_count(x), per_block = N * CAST_THREADS;
    TO *const to = (TO *)y.data;
    const FROM *const from = (const FROM *)x.data;

    if (n == 0) return OK;
    LAUNCH((cast<TO, FROM>), (unsigned)((n + per_block - 1) / per_block), CAST_THREADS, 0, s, to,
           from, n, element_aligned<N>(to, N) && element_aligned<N>(from, N));
    return OK;
}

extern "C" enum status cast_cuda(struct tensor y, struct tensor x, struct stream *s)
{
    TRY(cast_check(y, x));
    STREAM_NO_SCRATCH(s);

    if (y.dtype == BF16) BY_DTYPE(x, return (launch<bf16, T>(y, x, s)));
    BY_DTYPE(x, return (launch<float, T>(y, x, s)));
}

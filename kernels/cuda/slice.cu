#include "kernels/slice_check.h"

#include "kernels/cuda/element.h"

enum { THREADS = 256 };
static const int64_t MAX_ROWS_OF_BLOCKS = 1024;

/* Where the slice lies: of each mask's `whole` elements, `part` from `begin` on. */
struct cut {
    int64_t n_masks, whole, begin, part;
};

static cut cut_of(struct tensor whole, struct tensor part, int64_t first)
{
    const int64_t n_c = whole.dim[2];

    return { whole.dim[0], whole.dim[1] * n_c, first * n_c, part.dim[1] * n_c };
}

/* n elements by lots of `width`, and a row of blocks for each mask as far as they go. */
static dim3 grid_of(int64_t n, int64_t n_masks, int width)
{
    const int64_t block = THREADS * width;

    return dim3((unsigned)((n + block - 1) / block),
                (unsigned)(n_masks < MAX_ROWS_OF_BLOCKS ? n_masks : MAX_ROWS_OF_BLOCKS));
}

/* A thread owns a lot of neighbouring elements of the slice, 16 bytes of the narrower side, for masks
 * blockIdx.y, + gridDim.y, … Read once, written once. Bound by memory: 4 to 8 bytes an element; a
 * few tokens of a mask are a few KiB, so that the launch outlasts the work. Masks by blocks: no
 * division by a token's size. */
template <class TY, class TX>
__global__ static void __launch_bounds__(THREADS) fwd(TY *y, const TX *x, const cut g, bool aligned)
{
    enum { N = element_lot<TY, TX>::WIDTH };
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N, left = g.part - i;
    float v[N];

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        element_load_lot(v, x + m * g.whole + g.begin + i, left, aligned);
        element_store_lot(y + m * g.part + i, v, left, aligned);
    }
}

/* Overwrites all of dx: as forward, over x's elements; outside the slice they are zero. */
template <class TX, class TY>
__global__ static void __launch_bounds__(THREADS)
    bwd_put(TX *dx, const TY *dy, const cut g, bool aligned)
{
    enum { N = element_lot<TX, TY>::WIDTH };
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N, left = g.whole - i;
    const int64_t at = i - g.begin;

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        const TY *const in = dy + m * g.part;
        float v[N] = {};

        if (aligned) { /* the slice begins and ends between lots */
            if (at >= 0 && at < g.part) element_load_lot(v, in + at, g.part - at, true);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++)
                if (at + k >= 0 && at + k < g.part) v[k] = element_load(in + at + k);
        }
        element_store_lot(dx + m * g.whole + i, v, left, aligned);
    }
}

/* Adds to the slice: as forward, the other way. */
template <class TX, class TY>
__global__ static void __launch_bounds__(THREADS)
    bwd_add(TX *dx, const TY *dy, const cut g, bool aligned)
{
    enum { N = element_lot<TX, TY>::WIDTH };
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N, left = g.part - i;
    float v[N];

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        element_load_lot(v, dy + m * g.part + i, left, aligned);
        element_gradient_lot(dx + m * g.whole + g.begin + i, true, v, left, aligned);
    }
}

template <class TY, class TX>
static enum status launch_fwd(struct tensor y, struct tensor x, int64_t first, struct stream *s)
{
    enum { N = element_lot<TY, TX>::WIDTH };
    const cut g = cut_of(x, y, first);
    TY *const to = (TY *)y.data;
    const TX *const from = (const TX *)x.data;
    const bool aligned = element_aligned<N>(to, x.dim[2]) && element_aligned<N>(from, x.dim[2]);

    LAUNCH((fwd<TY, TX>), grid_of(g.part, g.n_masks, N), THREADS, 0, s, to, from, g, aligned);
    return OK;
}

extern "C" enum status slice_fwd_cuda(struct tensor y, struct tensor x, int64_t first,
                                      struct stream *s)
{
    TRY(slice_fwd_check(y, x, first));
    STREAM_NO_SCRATCH(s);

    if (tensor_count(y) == 0) return OK;
    if (y.dtype == BF16) BY_DTYPE(x, return (launch_fwd<bf16, T>(y, x, first, s)));
    BY_DTYPE(x, return (launch_fwd<float, T>(y, x, first, s)));
}

template <class TX, class TY>
static enum status launch_bwd(struct tensor dx, struct tensor dy, int64_t first, struct stream *s)
{
    enum { N = element_lot<TX, TY>::WIDTH };
    const cut g = cut_of(dx, dy, first);
    TX *const to = (TX *)dx.data;
    const TY *const from = (const TY *)dy.data;
    const bool aligned = element_aligned<N>(to, dx.dim[2]) && element_aligned<N>(from, dx.dim[2]);

    if (dx.add)
        LAUNCH((bwd_add<TX, TY>), grid_of(g.part, g.n_masks, N), THREADS, 0, s, to, from, g,
               aligned);
    else
        LAUNCH((bwd_put<TX, TY>), grid_of(g.whole, g.n_masks, N), THREADS, 0, s, to, from, g,
               aligned);
    return OK;
}

extern "C" enum status slice_bwd_cuda(struct tensor dx, struct tensor dy, int64_t first,
                                      struct stream *s)
{
    TRY(slice_bwd_check(dx, dy, first));
    STREAM_NO_SCRATCH(s);

    if (!dx.data || tensor_count(dx.add ? dy : dx) == 0) return OK;
    if (dx.dtype == BF16) BY_DTYPE(dy, return (launch_bwd<bf16, T>(dx, dy, first, s)));
    BY_DTYPE(dy, return (launch_bwd<float, T>(dx, dy, first, s)));
}

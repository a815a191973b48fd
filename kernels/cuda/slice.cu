#include "kernels/slice_check.h"

#include "kernels/cuda/quads.h"

enum { THREADS = 256, BLOCK = THREADS * 4 };
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

/* n columns by fours, and a row of blocks for each mask as far as they go. */
static dim3 grid_of(int64_t n, int64_t n_masks)
{
    return dim3((unsigned)((n + BLOCK - 1) / BLOCK),
                (unsigned)(n_masks < MAX_ROWS_OF_BLOCKS ? n_masks : MAX_ROWS_OF_BLOCKS));
}

/* A thread owns four neighbouring elements of the slice, for masks blockIdx.y, + gridDim.y, …
 * Read once, written once. Bound by memory: 8 bytes an element; a few tokens of a mask are a few
 * KiB, so that the launch outlasts the work. Masks by blocks: no division by a token's size. */
__global__ static void __launch_bounds__(THREADS)
    fwd(float *y, const float *x, const cut g, bool aligned)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * 4, left = g.part - i;
    float v[4];

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        load_quad(v, x + m * g.whole + g.begin + i, left, aligned);
        store_quad(y + m * g.part + i, v, left, aligned);
    }
}

/* Overwrites all of dx: as forward, over x's elements; outside the slice they are zero. */
__global__ static void __launch_bounds__(THREADS)
    bwd_put(float *dx, const float *dy, const cut g, bool aligned)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * 4, left = g.whole - i;
    const int64_t at = i - g.begin;

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        const float *const in = dy + m * g.part;
        float v[4] = {};

        if (aligned) { /* the slice begins and ends between quads */
            if (at >= 0 && at < g.part) load_quad(v, in + at, g.part - at, true);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (at + k >= 0 && at + k < g.part) v[k] = in[at + k];
        }
        store_quad(dx + m * g.whole + i, v, left, aligned);
    }
}

/* Adds to the slice: as forward, the other way. */
__global__ static void __launch_bounds__(THREADS)
    bwd_add(float *dx, const float *dy, const cut g, bool aligned)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * 4, left = g.part - i;
    float v[4], out[4];

    if (left <= 0) return;
    for (int64_t m = blockIdx.y; m < g.n_masks; m += gridDim.y) {
        float *const p = dx + m * g.whole + g.begin + i;

        load_quad(v, dy + m * g.part + i, left, aligned);
        load_quad(out, p, left, aligned);
#pragma unroll
        for (int k = 0; k < 4; k++) out[k] += v[k];
        store_quad(p, out, left, aligned);
    }
}

extern "C" enum status slice_fwd_cuda(struct tensor y, struct tensor x, int64_t first,
                                      struct stream *s)
{
    TRY(slice_fwd_check(y, x, first));
    STREAM_NO_SCRATCH(s);

    const bool aligned = quads_aligned(y.data, x.dim[2]) && quads_aligned(x.data, x.dim[2]);

    if (tensor_count(y) == 0) return OK;
    LAUNCH(fwd, grid_of(cut_of(x, y, first).part, x.dim[0]), THREADS, 0, s, (float *)y.data,
           (const float *)x.data, cut_of(x, y, first), aligned);
    return OK;
}

extern "C" enum status slice_bwd_cuda(struct tensor dx, struct tensor dy, int64_t first,
                                      struct stream *s)
{
    TRY(slice_bwd_check(dx, dy, first));
    STREAM_NO_SCRATCH(s);

    const cut g = cut_of(dx, dy, first);
    const bool aligned = quads_aligned(dx.data, dx.dim[2]) && quads_aligned(dy.data, dx.dim[2]);

    if (!dx.data || tensor_count(dx.add ? dy : dx) == 0) return OK;
    if (dx.add)
        LAUNCH(bwd_add, grid_of(g.part, g.n_masks), THREADS, 0, s, (float *)dx.data,
               (const float *)dy.data, g, aligned);
    else
        LAUNCH(bwd_put, grid_of(g.whole, g.n_masks), THREADS, 0, s, (float *)dx.data,
               (const float *)dy.data, g, aligned);
    return OK;
}

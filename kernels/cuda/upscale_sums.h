/* The sums over pixels that the blocks of upscale's backward tiles leave behind, and what becomes of
 * them: gradients of parameters, over all masks, and of the tokens' vectors, each over its mask. */
#ifndef KERNELS_CUDA_UPSCALE_SUMS_H
#define KERNELS_CUDA_UPSCALE_SUMS_H

#include "kernels/cuda/upscale_tile.h"

/* The sums a block leaves behind, in floats. */
template <int C1, int C2> struct upscale_sums {
    enum {
        DW2 = 0, /* (4,C1,C2) */
        DB2 = DW2 + 4 * C1 * C2,
        DB1 = DB2 + C2,
        DGAMMA = DB1 + C1,
        DBETA = DGAMMA + C1,
        DH = DBETA + C1, /* (MASK_PRODUCT_MAX,C2) */
        COUNT = DH + MASK_PRODUCT_MAX * C2
    };
};

/* How the tiles of all masks are dealt to blocks, by shape alone: to about as many as two rounds of
 * 132 multiprocessors take, but two tiles or more to each, so that the sums it leaves are less than
 * what it writes of du1. */
struct deal {
    int tiles_each, blocks_each; /* tiles of a block, blocks of a mask */
    int64_t n_blocks;
};

static const int64_t MAX_BLOCKS = 264, MIN_TILES = 2;

static inline deal deal_tiles(struct tensor x)
{
    const int64_t n_m = x.dim[0], n_tiles = (x.dim[1] * x.dim[2] + PIXELS - 1) / PIXELS;
    const int64_t wanted = n_m > 0 && n_m < MAX_BLOCKS ? MAX_BLOCKS / n_m : 1;
    const int64_t even = (n_tiles + wanted - 1) / wanted;
    const int64_t each = even < MIN_TILES ? MIN_TILES : even;
    deal d = { (int)each, (int)((n_tiles + each - 1) / each), 0 };

    d.n_blocks = n_m * d.blocks_each;
    return d;
}

struct parameter_gradient {
    float *p; /* NULL: not wanted */
    bool add;
};

struct parameter_gradients {
    parameter_gradient w2, b2, b1, gamma, beta;
};

/* A thread owns an element of a parameter's gradient, and adds the blocks' sums in order: each is
 * read once, along the sums. Bound by memory: 35 KB of each of about MAX_BLOCKS blocks. */
template <int C1, int C2>
__global__ static void __launch_bounds__(THREADS)
    finish_parameters(parameter_gradients out, const float *sums, int n_blocks, int n_1, int n_2)
{
    typedef upscale_sums<C1, C2> at;
    const int i = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int q = i / (C1 * C2), c1 = i / C2 % C1, c2 = i % C2, c = (i - at::DB1) % C1;
    parameter_gradient d = out.beta;
    int place = c;
    float sum = 0;

    if (i < at::DB2) {
        d = out.w2;
        place = c1 < n_1 && c2 < n_2 ? (c1 * n_2 + c2) * 4 + q : -1;
    } else if (i < at::DB1) {
        d = out.b2;
        place = i - at::DB2 < n_2 ? i - at::DB2 : -1;
    } else {
        if (i < at::DGAMMA)
            d = out.b1;
        else if (i < at::DBETA)
            d = out.gamma;
        if (c >= n_1) place = -1;
    }
    if (i >= at::DH || !d.p || place < 0) return;
    for (int k = 0; k < n_blocks; k++) sum += sums[(int64_t)k * at::COUNT + i];
    element_gradient(d.p + place, d.add, sum);
}

struct token_gradients {
    bf16 *dh[MASK_PRODUCT_MAX]; /* NULL: not wanted */
    bool add[MASK_PRODUCT_MAX];
};

/* A thread owns an element of a dh, and adds what the mask's blocks have for it, in order. */
template <int C1, int C2>
__global__ static void __launch_bounds__(THREADS)
    finish_tokens(token_gradients out, const float *sums, int64_t n_m, int blocks_each, int n_h,
                  int n_2)
{
    typedef upscale_sums<C1, C2> at;
    const int64_t i = (int64_t)blockIdx.x * THREADS + (int)threadIdx.x;
    const int64_t m = i / n_2;
    const int c = (int)(i % n_2);

    if (m >= n_m) return;
#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++) {
        float sum = 0;

        if (k >= n_h || !out.dh[k]) continue;
        for (int block = 0; block < blocks_each; block++)
            sum += sums[(m * blocks_each + block) * at::COUNT + at::DH + k * C2 + c];
        element_gradient(out.dh[k] + i, out.add[k], sum);
    }
}

static inline parameter_gradient gradient_of(struct tensor t)
{
    return parameter_gradient{ (float *)t.data, t.add };
}

template <int C1, int C2>
static enum status finish(const struct upscale_weights *dw, const struct tensor *dh, int n_h,
                          const float *sums, const deal &d, int64_t n_m, int n_1, int n_2,
                          struct stream *s)
{
    const parameter_gradients out = { gradient_of(dw->w2), gradient_of(dw->b2), gradient_of(dw->b1),
                                      gradient_of(dw->gamma), gradient_of(dw->beta) };
    token_gradients tokens = {};

    for (int k = 0; k < n_h; k++) {
        tokens.dh[k] = (bf16 *)dh[k].data;
        tokens.add[k] = dh[k].add;
    }
    LAUNCH((finish_parameters<C1, C2>),
           (unsigned)((upscale_sums<C1, C2>::DH + THREADS - 1) / THREADS), THREADS, 0, s, out, sums,
           (int)d.n_blocks, n_1, n_2);
    if (n_m * n_2 > 0)
        LAUNCH((finish_tokens<C1, C2>), (unsigned)((n_m * n_2 + THREADS - 1) / THREADS), THREADS, 0,
               s, tokens, sums, n_m, d.blocks_each, n_h, n_2);
    return OK;
}

#endif

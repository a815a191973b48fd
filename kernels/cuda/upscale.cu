#include "kernels/cuda/upscale_tile.h"

/* A block owns a tile: 64 pixels of x become 1024 pixels of n_h logits. A warp has 16 rows of it, a
 * quad of lanes two of them with all their channels, in registers from the first product to the
 * logits. x is read once, logits are written once: 2.1 MB and 0.26 n_h MB a mask of SAM's size; each
 * tile streams the weights, 147 KB, from L2, 9.4 MB a mask.
 * Bound by arithmetic outside the tensor cores: 768 GELUs a pixel of x, about 30 instructions each,
 * are 94 M a mask, 3.3 µs on an H100 at one a lane and cycle; the products, 0.81 GFLOP, are 1.6 µs at
 * 500 TFLOP/s, the bytes 1 µs. Hence two blocks on a multiprocessor (75 KB, 128 registers), whose
 * products and GELUs overlap, and slices of w1 that land while others compute. */
template <int C1, int C2>
__global__ static void __launch_bounds__(THREADS, 2) upscale_tiles(float *y, upscale_problem p)
{
    DYNAMIC_SHARED(bytes);
    upscale_tile<C1, C2> &t = *reinterpret_cast<upscale_tile<C1, C2> *>(bytes);
    bf16 *const x_tile = reinterpret_cast<bf16 *>(bytes + sizeof t);
    const int n_tiles = (p.n_pixels + PIXELS - 1) / PIXELS;
    const int64_t m = (int)blockIdx.x / n_tiles;
    const int p0 = (int)blockIdx.x % n_tiles * PIXELS;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, b = warp / 4;
    const int own = lane % 4; /* 0, 1: puts the first or second row's logits */
    const int pixel = p0 + warp % 4 * 16 + lane / 4 + 8 * own;
    const bool puts = own < 2 && pixel < p.n_pixels;

    load_constants(t, p, m);
    load_pixels(x_tile, p, m, p0);
    load_slice(t, p, 0);
    async_commit();
    for (int a = 0; a < 2; a++) {
        float u[C1 / 8][4], rstd[2];
        uint32_t a1[C1 / 16][4];

        first_product(u, t, x_tile, p, a);
        normalize(u, rstd, t, p);
        activate(a1, u, t);
        for (int q = 0; q < 4; q++) {
            float v[C2 / 8][4];

            second_product(v, a1, t, q);
#pragma unroll
            for (int j = 0; j < C2 / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) v[j][e] *= gelu_share(v[j][e]);
            for (int k = 0; k < p.n_h; k++) {
                float sum[2] = {};

#pragma unroll
                for (int j = 0; j < C2 / 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) sum[e / 2] += t.h[k][own_column(j, e)] * v[j][e];
                sum[0] = warp_sum(sum[0], 4);
                sum[1] = warp_sum(sum[1], 4);
                if (puts)
                    y[(m * p.n_h + k) * 16 * p.n_pixels + logit_place(p, pixel, a, b, q)] =
                        own == 0 ? sum[0] : sum[1];
            }
        }
    }
}

template <int C1, int C2>
static enum status fwd_in_tiles(struct tensor y, struct tensor x, const struct upscale_weights *w,
                                const struct tensor *h, int n_h, float eps, struct stream *s)
{
    const int64_t n_c = x.dim[3], n_tiles = (x.dim[1] * x.dim[2] + PIXELS - 1) / PIXELS;
    const size_t shared =
        sizeof(upscale_tile<C1, C2>) + PIXELS * sizeof(bf16) * (size_t)pixel_pitch((int)n_c);
    const int64_t n_packed = packed_count<C1, C2>(n_c);
    void *scratch; /* packed weights */

    TRY(upscale_fits("upscale_fwd", x));
    STREAM_SCRATCH(s, scratch, n_packed * (int64_t)sizeof(bf16));
    if (x.dim[0] * n_tiles == 0) return OK;

    bf16 *const w1 = (bf16 *)scratch, *const w2 = w1 + 4 * C1 * padded_channels((int)n_c);

    TRY((pack_all<C1, C2>(w1, w2, w, s)));
    TRY(allow_shared(upscale_tiles<C1, C2>, shared));
    LAUNCH((upscale_tiles<C1, C2>), (unsigned)(x.dim[0] * n_tiles), THREADS, shared, s,
           (float *)y.data, upscale_problem_of(x, w, h, n_h, eps, w1, w2));
    return OK;
}

static const struct upscale_plain plain = {
    upconv_fwd_cuda,    upconv_bwd_cuda,       layernorm_fwd_cuda,
    layernorm_bwd_cuda, mask_product_fwd_cuda, mask_product_bwd_cuda,
};

extern "C" enum status upscale_fwd_cuda(struct tensor y, struct tensor x,
                                        const struct upscale_weights *w, const struct tensor *h,
                                        int n_h, float eps, struct stream *s)
{
    TRY(upscale_fwd_check(y, x, w, h, n_h));
    if (!upscale_in_tiles(x, w)) return upscale_plain_fwd(&plain, y, x, w, h, n_h, eps, s);
    if (upscale_is_small(w)) return fwd_in_tiles<16, 16>(y, x, w, h, n_h, eps, s);
    return fwd_in_tiles<MAX_C1, MAX_C2>(y, x, w, h, n_h, eps, s);
}

/* What forward and backward of upscale share: weights made ready, and a tile of pixels taken through
 * the first convolution, the norm and the second.
 *
 * A tile is 64 pixels of x, all of one mask; a block of 8 warps owns it. Its rows are these pixels for
 * the two sub-pixels of a line: warp 4b + i has pixels 16 i … 16 i + 15 and sub-pixel b, and the
 * sub-pixels' lines a = 0, 1 come one after another. A row's channels then lie in one quad of lanes:
 * the norm's sums are two shuffles, and what comes out of one product goes into the next as it is.
 * Channels are padded with zeros: those of x to whole slices of 32, C1 and C2 to the template's. */
#ifndef KERNELS_CUDA_UPSCALE_TILE_H
#define KERNELS_CUDA_UPSCALE_TILE_H

#include "kernels/upscale_plain.h"

#include "kernels/cuda/element.h"

enum { PIXELS = 64, WARPS = 8, THREADS = 32 * WARPS, ROWS = 2 * PIXELS };
enum { DEPTH = 32, PAD = 8, MAX_C = 256, MAX_C1 = 64, MAX_C2 = 32 };

struct upscale_problem {
    const bf16 *x, *w1, *w2; /* w1 (2,2,C1,C) and w2 (2,2,C2,C1), padded */
    const float *b1, *gamma, *beta, *b2;
    const bf16 *h[MASK_PRODUCT_MAX];
    int n_h, n_c, n_1, n_2; /* without padding */
    int width, n_pixels;    /* of a line, of a mask */
    float eps;
};

/* Φ(v): GELU is v Φ(v), its slope Φ(v) + v φ(v) */
DEVICE float gelu_share(float v)
{
    return 0.5f * (1.0f + erff(v * 0.70710678f));
}

DEVICE float gelu_slope(float v, float share)
{
    return share + v * expf(-0.5f * v * v) * 0.39894228f;
}

/* A transposed convolution's weights (I,O,2,2) → (2,2,O,I), both padded with zeros, so that slices
 * load by 16 bytes. A thread owns an element of the result, in whole blocks. 0.3 MB at SAM's size, once a call. */
__global__ static void __launch_bounds__(THREADS)
    pack_weights(bf16 *packed, const bf16 *w, int n_in, int n_out, int padded_in, int padded_out)
{
    const int own = (int)blockIdx.x * THREADS + (int)threadIdx.x;
    const int in = own % padded_in, out = own / padded_in % padded_out;
    const int sub = own / padded_in / padded_out;

    packed[own] = in < n_in && out < n_out ? w[((int64_t)in * n_out + out) * 4 + sub]
                                           : __float2bfloat16_rn(0);
}

template <int C1, int C2> struct upscale_tile {
    alignas(16) bf16 w1[2][2 * C1][DEPTH + PAD]; /* two slices of (b, c1), in turn */
    alignas(16) bf16 w2[4 * C2][C1 + PAD];
    alignas(16) float b1[C1], gamma[C1], beta[C1], b2[C2], h[MASK_PRODUCT_MAX][C2];
};

static inline __host__ __device__ int padded_channels(int n_c)
{
    return (n_c + DEPTH - 1) / DEPTH * DEPTH;
}

static inline __host__ __device__ int pixel_pitch(int n_c)
{
    return padded_channels(n_c) + PAD;
}

/* What all tiles of a mask need; w2 is on its way until the next wait. */
template <int C1, int C2>
DEVICE void load_constants(upscale_tile<C1, C2> &t, const upscale_problem &p, int64_t m)
{
    for (int i = (int)threadIdx.x; i < 4 * C2 * C1 / 8; i += THREADS)
        async_copy16(&t.w2[i / (C1 / 8)][i % (C1 / 8) * 8], p.w2 + i * 8);
    for (int c = (int)threadIdx.x; c < C1; c += THREADS) {
        t.b1[c] = c < p.n_1 ? p.b1[c] : 0;
        t.gamma[c] = c < p.n_1 ? p.gamma[c] : 0;
        t.beta[c] = c < p.n_1 ? p.beta[c] : 0;
    }
    for (int c = (int)threadIdx.x; c < C2; c += THREADS) {
        t.b2[c] = c < p.n_2 ? p.b2[c] : 0;
#pragma unroll
        for (int k = 0; k < MASK_PRODUCT_MAX; k++)
            t.h[k][c] = k < p.n_h && c < p.n_2 ? element_load(p.h[k] + m * p.n_2 + c) : 0;
    }
}

DEVICE void load_pixels(bf16 *x_tile, const upscale_problem &p, int64_t m, int p0)
{
    const int pieces = padded_channels(p.n_c) / 8, pitch = pixel_pitch(p.n_c);

    for (int i = (int)threadIdx.x; i < PIXELS * pieces; i += THREADS) {
        const int row = i / pieces, c = i % pieces * 8;
        const bool inside = p0 + row < p.n_pixels && c < p.n_c;

        async_copy16(x_tile + row * pitch + c,
                     inside ? p.x + (m * p.n_pixels + p0 + row) * p.n_c + c : p.x, inside ? 16 : 0);
    }
}

/* Slice `index` of w1: those of line a = 0, then those of a = 1. */
template <int C1, int C2>
DEVICE void load_slice(upscale_tile<C1, C2> &t, const upscale_problem &p, int index)
{
    const int n_slices = padded_channels(p.n_c) / DEPTH, first = index / n_slices * 2 * C1;

    for (int i = (int)threadIdx.x; i < 2 * C1 * (DEPTH / 8); i += THREADS) {
        const int row = i / (DEPTH / 8), c = i % (DEPTH / 8) * 8;

        async_copy16(&t.w1[index & 1][row][c], p.w1 + (int64_t)(first + row) * n_slices * DEPTH +
                                                   index % n_slices * DEPTH + c);
    }
}

/* d (16,16) += a (16,16) b (16,16), b's two halves of columns one behind the other */
DEVICE void multiply_pair(float (&left)[4], float (&right)[4], const uint32_t (&a)[4],
                          const uint32_t (&b)[4])
{
    const uint32_t low[2] = { b[0], b[1] }, high[2] = { b[2], b[3] };

    multiply_bf16_16816(left, a, low);
    multiply_bf16_16816(right, a, high);
}

/* Fragments of a 16 × 16 part at (row, column) of a matrix in shared memory. As b, columns are n
 * where rows are k; turned: as it lies, else rows are n. As a, rows are m; turned: rows are k. */
DEVICE void fragment_a(uint32_t (&r)[4], const bf16 *part, int pitch)
{
    const int lane = (int)threadIdx.x % 32;

    load_matrix_x4(r, part + lane % 16 * pitch + lane / 16 * 8);
}

DEVICE void fragment_a_turned(uint32_t (&r)[4], const bf16 *part, int pitch)
{
    const int lane = (int)threadIdx.x % 32;

    load_matrix_x4_transposed(r, part + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
}

DEVICE void fragment_b(uint32_t (&r)[4], const bf16 *part, int pitch)
{
    const int lane = (int)threadIdx.x % 32;

    load_matrix_x4(r, part + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
}

DEVICE void fragment_b_turned(uint32_t (&r)[4], const bf16 *part, int pitch)
{
    const int lane = (int)threadIdx.x % 32;

    load_matrix_x4_transposed(r, part + lane % 16 * pitch + lane / 16 * 8);
}

/* Sums of 16 × 16 as the a of the next product, rounded. */
DEVICE void fragment_of_sums(uint32_t (&r)[4], const float (&left)[4], const float (&right)[4])
{
    r[0] = pack_bf16(left[0], left[1]);
    r[1] = pack_bf16(left[2], left[3]);
    r[2] = pack_bf16(right[0], right[1]);
    r[3] = pack_bf16(right[2], right[3]);
}

/* u = x w1 of this warp's rows and line a. The slice before has been asked for; the one behind the
 * last is asked for here, so that it comes while the rows go through norm and second product. One
 * barrier a slice: behind it a slice has landed, and nobody reads the buffer of the one before. */
template <int C1, int C2>
DEVICE void first_product(float (&u)[C1 / 8][4], upscale_tile<C1, C2> &t, const bf16 *x_tile,
                          const upscale_problem &p, int a)
{
    const int n_slices = padded_channels(p.n_c) / DEPTH, pitch = pixel_pitch(p.n_c);
    const int warp = (int)threadIdx.x / 32, b = warp / 4, first = warp % 4 * 16;

#pragma unroll
    for (int j = 0; j < C1 / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) u[j][e] = 0;
    for (int slice = 0; slice < n_slices; slice++) {
        const int index = a * n_slices + slice;

        async_wait<0>();
        __syncthreads();
        if (index + 1 < 2 * n_slices) load_slice(t, p, index + 1);
        async_commit();
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t rows[4], columns[4];

            fragment_a(rows, x_tile + first * pitch + slice * DEPTH + k, pitch);
#pragma unroll
            for (int j = 0; j < C1 / 16; j++) {
                fragment_b(columns, &t.w1[index & 1][b * C1 + j * 16][k], DEPTH + PAD);
                multiply_pair(u[2 * j], u[2 * j + 1], rows, columns);
            }
        }
    }
}

/* Column e of a lane's part j of its two rows: rows are e / 2. */
DEVICE int own_column(int j, int e)
{
    return 8 * j + 2 * ((int)threadIdx.x % 4) + e % 2;
}

/* u + b1 → its normalized value, in place; zero in the padding. Two passes, as in layernorm.h. */
template <int C1, int C2>
DEVICE void normalize(float (&u)[C1 / 8][4], float (&rstd)[2], const upscale_tile<C1, C2> &t,
                      const upscale_problem &p)
{
    float sum[2] = {}, squares[2] = {};

#pragma unroll
    for (int j = 0; j < C1 / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            u[j][e] += t.b1[own_column(j, e)];
            sum[e / 2] += u[j][e];
        }
#pragma unroll
    for (int r = 0; r < 2; r++) sum[r] = warp_sum(sum[r], 4) / (float)p.n_1;
#pragma unroll
    for (int j = 0; j < C1 / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            u[j][e] = own_column(j, e) < p.n_1 ? u[j][e] - sum[e / 2] : 0;
            squares[e / 2] += u[j][e] * u[j][e];
        }
#pragma unroll
    for (int r = 0; r < 2; r++)
        rstd[r] = 1.0f / sqrtf(warp_sum(squares[r], 4) / (float)p.n_1 + p.eps);
#pragma unroll
    for (int j = 0; j < C1 / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) u[j][e] *= rstd[e / 2];
}

/* a1 = GELU(xhat gamma + beta), as the a of the second product */
template <int C1, int C2>
DEVICE void activate(uint32_t (&a1)[C1 / 16][4], const float (&xhat)[C1 / 8][4],
                     const upscale_tile<C1, C2> &t)
{
#pragma unroll
    for (int s = 0; s < C1 / 16; s++) {
        float v[2][4];

#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int j = 2 * s + i, c = own_column(j, e);
                const float in = xhat[j][e] * t.gamma[c] + t.beta[c];

                v[i][e] = in * gelu_share(in);
            }
        fragment_of_sums(a1[s], v[0], v[1]);
    }
}

/* v = a1 w2 + b2 of sub-sub-pixel q */
template <int C1, int C2>
DEVICE void second_product(float (&v)[C2 / 8][4], const uint32_t (&a1)[C1 / 16][4],
                           const upscale_tile<C1, C2> &t, int q)
{
#pragma unroll
    for (int j = 0; j < C2 / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) v[j][e] = t.b2[own_column(j, e)];
#pragma unroll
    for (int s = 0; s < C1 / 16; s++)
#pragma unroll
        for (int j = 0; j < C2 / 16; j++) {
            uint32_t columns[4];

            fragment_b(columns, &t.w2[q * C2 + j * 16][s * 16], C1 + PAD);
            multiply_pair(v[2 * j], v[2 * j + 1], a1[s], columns);
        }
}

/* Where logit (a, b, q) of a pixel stands in its plane of 16 n_pixels. */
DEVICE int logit_place(const upscale_problem &p, int pixel, int a, int b, int q)
{
    const int line = 4 * (pixel / p.width) + 2 * a + q / 2;

    return line * 4 * p.width + 4 * (pixel % p.width) + 2 * b + q % 2;
}

/* Host. Which shapes the tiles take: in BF16, C a multiple of 8 up to 256, C1 up to 64, C2 up to 32.
 * F32 and others go through the plain ops. */
static inline bool upscale_in_tiles(struct tensor x, const struct upscale_weights *w)
{
    const int64_t n_c = x.dim[3];

    return x.dtype == BF16 && n_c >= 8 && n_c <= MAX_C && n_c % 8 == 0 && w->w1.dim[1] <= MAX_C1 &&
           w->w2.dim[1] <= MAX_C2;
}

/* Whether the smaller template has room for them. */
static inline bool upscale_is_small(const struct upscale_weights *w)
{
    return w->w1.dim[1] <= 16 && w->w2.dim[1] <= 16;
}

static inline enum status upscale_fits(const char *op, struct tensor x)
{
    const int64_t n_pixels = x.dim[1] * x.dim[2];

    if ((uintptr_t)x.data % 16 != 0)
        FAIL(E_SHAPE, "%s: x at %p: the kernel reads it by 16 bytes", op, x.data);
    if (n_pixels * 16 > INT32_MAX || x.dim[0] * n_pixels > INT32_MAX)
        FAIL(E_SHAPE, "%s: %lld masks of %lld pixels are too many for the kernel", op,
             (long long)x.dim[0], (long long)n_pixels);
    return OK;
}

static inline upscale_problem upscale_problem_of(struct tensor x, const struct upscale_weights *w,
                                                 const struct tensor *h, int n_h, float eps,
                                                 const bf16 *w1, const bf16 *w2)
{
    upscale_problem p = {};

    p.x = (const bf16 *)x.data;
    p.w1 = w1;
    p.w2 = w2;
    p.b1 = (const float *)w->b1.data;
    p.gamma = (const float *)w->gamma.data;
    p.beta = (const float *)w->beta.data;
    p.b2 = (const float *)w->b2.data;
    for (int k = 0; k < n_h; k++) p.h[k] = (const bf16 *)h[k].data;
    p.n_h = n_h;
    p.n_c = (int)x.dim[3];
    p.n_1 = (int)w->w1.dim[1];
    p.n_2 = (int)w->w2.dim[1];
    p.width = (int)x.dim[2];
    p.n_pixels = (int)(x.dim[1] * x.dim[2]);
    p.eps = eps;
    return p;
}

/* Packed weights: elements, and the kernels that fill them. */
template <int C1, int C2> static inline int64_t packed_count(int64_t n_c)
{
    return 4 * (int64_t)C1 * (padded_channels((int)n_c) + C2);
}

template <int C1, int C2>
static enum status pack_all(bf16 *w1, bf16 *w2, const struct upscale_weights *w, struct stream *s)
{
    static_assert(4 * C1 * DEPTH % THREADS == 0 && 4 * C2 * C1 % THREADS == 0, "whole blocks");
    const int padded = padded_channels((int)w->w1.dim[0]);

    LAUNCH(pack_weights, (unsigned)(4 * C1 * padded / THREADS), THREADS, 0, s, w1,
           (const bf16 *)w->w1.data, (int)w->w1.dim[0], (int)w->w1.dim[1], padded, C1);
    LAUNCH(pack_weights, (unsigned)(4 * C2 * C1 / THREADS), THREADS, 0, s, w2,
           (const bf16 *)w->w2.data, (int)w->w2.dim[0], (int)w->w2.dim[1], C1, C2);
    return OK;
}

#endif

#include "kernels/mask_product_check.h"

#include "kernels/cuda/activation.h"

/* Storage is f32. The tokens' vectors, passed by value: a kernel reads them from L1 and L2. */
struct tokens {
    const float *h[MASK_PRODUCT_MAX];
    int n;
};

enum { PIXELS = 128, CHANNELS = 32, STRIPES = 4 };

/* A block owns 128 pixels of a mask, a thread one: n_h sums. u is read once, in rows of 128 bytes
 * through shared memory (odd pitch: no bank conflicts); y is written once, along pixels.
 * Bound by memory: 4 C + 4 n_h bytes a pixel. */
__global__ static void __launch_bounds__(PIXELS)
    fwd_pixels(float *y, tokens t, const float *u, int64_t n_pixels, int n_c)
{
    __shared__ float tile[PIXELS][CHANNELS + 1], own_h[MASK_PRODUCT_MAX][CHANNELS];
    const int64_t m = blockIdx.y, p0 = (int64_t)blockIdx.x * PIXELS, p = p0 + (int)threadIdx.x;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    float sum[MASK_PRODUCT_MAX] = {};

    for (int c0 = 0; c0 < n_c; c0 += CHANNELS) {
        const bool inside = c0 + column < n_c;

        for (int r = stripe; r < PIXELS; r += STRIPES)
            tile[r][column] =
                inside && p0 + r < n_pixels ? u[(m * n_pixels + p0 + r) * n_c + c0 + column] : 0;
#pragma unroll
        for (int k = 0; k < MASK_PRODUCT_MAX; k++)
            if (k < t.n && k % STRIPES == stripe)
                own_h[k][column] = inside ? t.h[k][m * n_c + c0 + column] : 0;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < MASK_PRODUCT_MAX; k++)
            if (k < t.n)
                for (int c = 0; c < CHANNELS; c++) sum[k] += own_h[k][c] * tile[threadIdx.x][c];
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++)
        if (k < t.n && p < n_pixels) y[(m * t.n + k) * n_pixels + p] = sum[k];
}

/* du. A block owns 128 pixels and 32 channels of a mask, a warp every fourth pixel of them. dy comes
 * through shared memory; du is written once: bound by memory, 4 bytes an element. */
__global__ static void __launch_bounds__(PIXELS)
    bwd_pixels(float *du, bool add, const float *dy, tokens t, int64_t n_pixels, int n_c)
{
    __shared__ float own_dy[MASK_PRODUCT_MAX][PIXELS];
    const int64_t m = blockIdx.y, p0 = (int64_t)blockIdx.x * PIXELS;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    const int c = (int)blockIdx.z * CHANNELS + column;
    float h[MASK_PRODUCT_MAX];

#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++) {
        h[k] = k < t.n && c < n_c ? t.h[k][m * n_c + c] : 0;
        if (k < t.n)
            own_dy[k][threadIdx.x] = p0 + (int)threadIdx.x < n_pixels
                                         ? dy[(m * t.n + k) * n_pixels + p0 + (int)threadIdx.x]
                                         : 0;
    }
    __syncthreads();
    if (c >= n_c) return;
    for (int r = stripe; r < PIXELS && p0 + r < n_pixels; r += STRIPES) {
        float sum = 0;

#pragma unroll
        for (int k = 0; k < MASK_PRODUCT_MAX; k++)
            if (k < t.n) sum += own_dy[k][r] * h[k];
        put_gradient(du + (m * n_pixels + p0 + r) * n_c + c, add, sum);
    }
}

/* dh's sums over a chunk of pixels: (M, chunk, n_h, C). A block owns a chunk and 32 channels of a
 * mask, a warp every fourth pixel; the warps' sums meet in shared memory, in order.
 * u is read once, dy once for every 32 channels: bound by memory. */
__global__ static void __launch_bounds__(PIXELS)
    bwd_chunks(float *sums, const float *dy, const float *u, int n_h, int64_t n_pixels,
               int64_t chunk, int n_c)
{
    __shared__ float part[STRIPES][MASK_PRODUCT_MAX][CHANNELS];
    const int64_t m = blockIdx.y, first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_pixels ? first + chunk : n_pixels;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    const int c = (int)blockIdx.z * CHANNELS + column;
    float sum[MASK_PRODUCT_MAX] = {};

    if (c < n_c)
        for (int64_t p = first + stripe; p < end; p += STRIPES) {
            const float v = u[(m * n_pixels + p) * n_c + c];

#pragma unroll
            for (int k = 0; k < MASK_PRODUCT_MAX; k++)
                if (k < n_h) sum[k] += dy[(m * n_h + k) * n_pixels + p] * v;
        }
#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++) part[stripe][k][column] = sum[k];
    __syncthreads();
    if (c >= n_c) return;
    for (int k = stripe; k < n_h; k += STRIPES) {
        float all = 0;

        for (int i = 0; i < STRIPES; i++) all += part[i][k][column];
        sums[((m * gridDim.x + blockIdx.x) * n_h + k) * n_c + c] = all;
    }
}

struct token_gradients {
    float *dh[MASK_PRODUCT_MAX]; /* NULL: not wanted */
    bool add[MASK_PRODUCT_MAX];
};

/* A thread owns an element of a dh, and adds its chunks in order. */
__global__ static void __launch_bounds__(PIXELS)
    bwd_finish(token_gradients out, const float *sums, int64_t n_m, int64_t n_chunks, int n_h,
               int n_c)
{
    const int64_t own = (int64_t)blockIdx.x * PIXELS + (int)threadIdx.x;
    const int k = (int)blockIdx.y;
    const int64_t m = own / n_c, c = own % n_c;
    float *dh = NULL, sum = 0;
    bool add = false;

#pragma unroll
    for (int i = 0; i < MASK_PRODUCT_MAX; i++)
        if (i == k) { /* arguments have no addresses that could be computed */
            dh = out.dh[i];
            add = out.add[i];
        }
    if (m >= n_m || !dh) return;
    for (int64_t i = 0; i < n_chunks; i++) sum += sums[((m * n_chunks + i) * n_h + k) * n_c + c];
    put_gradient(dh + own, add, sum);
}

static tokens tokens_of(const struct tensor *h, int n_h)
{
    tokens t = {};

    t.n = n_h;
    for (int k = 0; k < n_h; k++) t.h[k] = (const float *)h[k].data;
    return t;
}

static unsigned pieces(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

/* The device's grids end there. */
static const int64_t MAX_MASKS = 65535, MAX_CHANNELS = MAX_MASKS * CHANNELS;

static enum status fits(struct tensor u)
{
    if (u.dim[0] > MAX_MASKS || u.dim[3] > MAX_CHANNELS)
        FAIL(E_SHAPE, "mask_product: %lld masks of %lld channels, the kernel takes %lld of %lld",
             (long long)u.dim[0], (long long)u.dim[3], (long long)MAX_MASKS,
             (long long)MAX_CHANNELS);
    return OK;
}

extern "C" enum status mask_product_fwd_cuda(struct tensor y, const struct tensor *h, int n_h,
                                             struct tensor u, struct stream *s)
{
    TRY(mask_product_fwd_check(y, h, n_h, u));
    TRY(fits(u));
    STREAM_NO_SCRATCH(s);

    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2];

    if (n_m == 0 || n_pixels == 0) return OK;
    LAUNCH(fwd_pixels, dim3(pieces(n_pixels, PIXELS), (unsigned)n_m), PIXELS, 0, s, (float *)y.data,
           tokens_of(h, n_h), (const float *)u.data, n_pixels, (int)u.dim[3]);
    return OK;
}

/* Pixels of one chunk: fixed by the shape, hence the order of all sums. */
static int64_t chunk_of(int64_t n_pixels)
{
    static const int64_t min_chunk = 256, max_chunks = 64;
    const int64_t even = (n_pixels + max_chunks - 1) / max_chunks;

    return even < min_chunk ? min_chunk : even;
}

extern "C" enum status mask_product_bwd_cuda(const struct tensor *dh, struct tensor du,
                                             struct tensor dy, const struct tensor *h, int n_h,
                                             struct tensor u, struct stream *s)
{
    TRY(mask_product_bwd_check(dh, du, dy, h, n_h, u));
    TRY(fits(u));
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const int64_t chunk = chunk_of(n_pixels), n_chunks = (n_pixels + chunk - 1) / chunk;
    token_gradients out = {};
    bool wants_tokens = false;
    void *scratch; /* (M, n_chunks, n_h, C) f32 */

    STREAM_SCRATCH(s, scratch, n_m * n_chunks * n_h * n_c * (int64_t)sizeof(float));
    for (int k = 0; k < n_h; k++) {
        out.dh[k] = (float *)dh[k].data;
        out.add[k] = dh[k].add;
        wants_tokens = wants_tokens || out.dh[k];
    }
    if (n_m == 0 || n_c == 0) return OK;

    const unsigned columns = pieces(n_c, CHANNELS);

    if (du.data && n_pixels > 0)
        LAUNCH(bwd_pixels, dim3(pieces(n_pixels, PIXELS), (unsigned)n_m, columns), PIXELS, 0, s,
               (float *)du.data, du.add, (const float *)dy.data, tokens_of(h, n_h), n_pixels,
               (int)n_c);
    if (!wants_tokens) return OK;
    if (n_pixels > 0)
        LAUNCH(bwd_chunks, dim3((unsigned)n_chunks, (unsigned)n_m, columns), PIXELS, 0, s,
               (float *)scratch, (const float *)dy.data, (const float *)u.data, n_h, n_pixels,
               chunk, (int)n_c);
    LAUNCH(bwd_finish, dim3(pieces(n_m * n_c, PIXELS), (unsigned)n_h), PIXELS, 0, s, out,
           (const float *)scratch, n_m, n_chunks, n_h, (int)n_c);
    return OK;
}

#include "kernels/mask_product_check.h"

#include "kernels/cuda/element.h"

/* The tokens' vectors, passed by value: a kernel reads them from L1 and L2. */
template <class T> struct tokens {
    const T *h[MASK_PRODUCT_MAX];
    int n;
};

enum { PIXELS = 128, CHANNELS = 32, STRIPES = 4 };

/* A block owns 128 pixels of a mask, a thread one: n_h sums. u is read once, in lots of 16 bytes, to
 * shared memory as floats (odd pitch: no bank conflicts); y is written once, along pixels.
 * Bound by memory: 4 C + 4 n_h bytes a pixel, 2 C + 4 n_h in bf16. */
template <class T>
__global__ static void __launch_bounds__(PIXELS)
    fwd_pixels(float *y, tokens<T> t, const T *u, int64_t n_pixels, int n_c, bool aligned)
{
    enum { N = element_lot<T>::WIDTH, LOTS = CHANNELS / N };
    __shared__ float tile[PIXELS][CHANNELS + 1], own_h[MASK_PRODUCT_MAX][CHANNELS];
    const int64_t m = blockIdx.y, p0 = (int64_t)blockIdx.x * PIXELS, p = p0 + (int)threadIdx.x;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    float sum[MASK_PRODUCT_MAX] = {};

    for (int c0 = 0; c0 < n_c; c0 += CHANNELS) {
        for (int i = (int)threadIdx.x; i < PIXELS * LOTS; i += PIXELS) {
            const int r = i / LOTS, c = i % LOTS * N;
            float v[N] = {};

            if (p0 + r < n_pixels)
                element_load_lot(v, u + (m * n_pixels + p0 + r) * n_c + c0 + c, n_c - c0 - c,
                                 aligned);
#pragma unroll
            for (int k = 0; k < N; k++) tile[r][c + k] = v[k];
        }
#pragma unroll
        for (int k = 0; k < MASK_PRODUCT_MAX; k++)
            if (k < t.n && k % STRIPES == stripe)
                own_h[k][column] =
                    c0 + column < n_c ? element_load(t.h[k] + m * n_c + c0 + column) : 0;
        __syncthreads();
        for (int c = 0; c < CHANNELS; c++) {
            const float v = tile[threadIdx.x][c];

#pragma unroll
            for (int k = 0; k < MASK_PRODUCT_MAX; k++)
                if (k < t.n) sum[k] += own_h[k][c] * v;
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++)
        if (k < t.n && p < n_pixels) y[(m * t.n + k) * n_pixels + p] = sum[k];
}

/* du. A block owns 128 pixels and 32 channels of a mask, a warp every fourth pixel of them. dy comes
 * through shared memory; du is written once: bound by memory, 4 bytes an element, 2 in bf16. */
template <class T>
__global__ static void __launch_bounds__(PIXELS)
    bwd_pixels(T *du, bool add, const float *dy, tokens<T> t, int64_t n_pixels, int n_c)
{
    __shared__ float own_dy[MASK_PRODUCT_MAX][PIXELS];
    const int64_t m = blockIdx.y, p0 = (int64_t)blockIdx.x * PIXELS;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    const int c = (int)blockIdx.z * CHANNELS + column;
    float h[MASK_PRODUCT_MAX];

#pragma unroll
    for (int k = 0; k < MASK_PRODUCT_MAX; k++) {
        h[k] = k < t.n && c < n_c ? element_load(t.h[k] + m * n_c + c) : 0;
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
        element_gradient(du + (m * n_pixels + p0 + r) * n_c + c, add, sum);
    }
}

/* dh's sums over a chunk of pixels: (M, chunk, n_h, C). A block owns a chunk and 32 channels of a
 * mask, a warp every fourth pixel; the warps' sums meet in shared memory, in order.
 * u is read once, dy once for every 32 channels: bound by memory. */
template <class T>
__global__ static void __launch_bounds__(PIXELS)
    bwd_chunks(float *sums, const float *dy, const T *u, int n_h, int64_t n_pixels, int64_t chunk,
               int n_c)
{
    __shared__ float part[STRIPES][MASK_PRODUCT_MAX][CHANNELS];
    const int64_t m = blockIdx.y, first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_pixels ? first + chunk : n_pixels;
    const int column = (int)threadIdx.x % CHANNELS, stripe = (int)threadIdx.x / CHANNELS;
    const int c = (int)blockIdx.z * CHANNELS + column;
    float sum[MASK_PRODUCT_MAX] = {};

    if (c < n_c)
        for (int64_t p = first + stripe; p < end; p += STRIPES) {
            const float v = element_load(u + (m * n_pixels + p) * n_c + c);

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

template <class T> struct token_gradients {
    T *dh[MASK_PRODUCT_MAX]; /* NULL: not wanted */
    bool add[MASK_PRODUCT_MAX];
};

/* A thread owns an element of a dh, and adds its chunks in order. */
template <class T>
__global__ static void __launch_bounds__(PIXELS)
    bwd_finish(token_gradients<T> out, const float *sums, int64_t n_m, int64_t n_chunks, int n_h,
               int n_c)
{
    const int64_t own = (int64_t)blockIdx.x * PIXELS + (int)threadIdx.x;
    const int k = (int)blockIdx.y;
    const int64_t m = own / n_c, c = own % n_c;
    T *dh = NULL;
    float sum = 0;
    bool add = false;

#pragma unroll
    for (int i = 0; i < MASK_PRODUCT_MAX; i++)
        if (i == k) { /* arguments have no addresses that could be computed */
            dh = out.dh[i];
            add = out.add[i];
        }
    if (m >= n_m || !dh) return;
    for (int64_t i = 0; i < n_chunks; i++) sum += sums[((m * n_chunks + i) * n_h + k) * n_c + c];
    element_gradient(dh + own, add, sum);
}

template <class T> static tokens<T> tokens_of(const struct tensor *h, int n_h)
{
    tokens<T> t = {};

    t.n = n_h;
    for (int k = 0; k < n_h; k++) t.h[k] = (const T *)h[k].data;
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

template <class T>
static enum status launch_fwd(struct tensor y, const tokens<T> &t, struct tensor u,
                              struct stream *s)
{
    enum { N = element_lot<T>::WIDTH };
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const T *const from = (const T *)u.data;

    LAUNCH(fwd_pixels<T>, dim3(pieces(n_pixels, PIXELS), (unsigned)n_m), PIXELS, 0, s,
           (float *)y.data, t, from, n_pixels, (int)n_c, element_aligned<N>(from, n_c));
    return OK;
}

extern "C" enum status mask_product_fwd_cuda(struct tensor y, const struct tensor *h, int n_h,
                                             struct tensor u, struct stream *s)
{
    TRY(mask_product_fwd_check(y, h, n_h, u));
    TRY(fits(u));
    STREAM_NO_SCRATCH(s);

    if (u.dim[0] == 0 || u.dim[1] * u.dim[2] == 0) return OK;
    BY_DTYPE(u, return launch_fwd(y, tokens_of<T>(h, n_h), u, s));
}

/* Pixels of one chunk: fixed by the shape, hence the order of all sums. */
static int64_t chunk_of(int64_t n_pixels)
{
    static const int64_t min_chunk = 256, max_chunks = 64;
    const int64_t even = (n_pixels + max_chunks - 1) / max_chunks;

    return even < min_chunk ? min_chunk : even;
}

template <class T>
static enum status launch_bwd(const struct tensor *dh, struct tensor du, struct tensor dy,
                              const tokens<T> &t, struct tensor u, float *sums, struct stream *s)
{
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const int64_t chunk = chunk_of(n_pixels), n_chunks = (n_pixels + chunk - 1) / chunk;
    const unsigned columns = pieces(n_c, CHANNELS);
    const float *const dy_data = (const float *)dy.data;
    token_gradients<T> out = {};
    bool wants_tokens = false;

    for (int k = 0; k < t.n; k++) {
        out.dh[k] = (T *)dh[k].data;
        out.add[k] = dh[k].add;
        wants_tokens = wants_tokens || out.dh[k];
    }
    if (du.data && n_pixels > 0)
        LAUNCH(bwd_pixels<T>, dim3(pieces(n_pixels, PIXELS), (unsigned)n_m, columns), PIXELS, 0, s,
               (T *)du.data, du.add, dy_data, t, n_pixels, (int)n_c);
    if (!wants_tokens) return OK;
    if (n_pixels > 0)
        LAUNCH(bwd_chunks<T>, dim3((unsigned)n_chunks, (unsigned)n_m, columns), PIXELS, 0, s, sums,
               dy_data, (const T *)u.data, t.n, n_pixels, chunk, (int)n_c);
    LAUNCH(bwd_finish<T>, dim3(pieces(n_m * n_c, PIXELS), (unsigned)t.n), PIXELS, 0, s, out, sums,
           n_m, n_chunks, t.n, (int)n_c);
    return OK;
}

extern "C" enum status mask_product_bwd_cuda(const struct tensor *dh, struct tensor du,
                                             struct tensor dy, const struct tensor *h, int n_h,
                                             struct tensor u, struct stream *s)
{
    TRY(mask_product_bwd_check(dh, du, dy, h, n_h, u));
    TRY(fits(u));
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const int64_t chunk = chunk_of(n_pixels), n_chunks = (n_pixels + chunk - 1) / chunk;
    void *scratch; /* (M, n_chunks, n_h, C) f32 */

    STREAM_SCRATCH(s, scratch, n_m * n_chunks * n_h * n_c * (int64_t)sizeof(float));
    if (n_m == 0 || n_c == 0) return OK;
    BY_DTYPE(u, return launch_bwd(dh, du, dy, tokens_of<T>(h, n_h), u, (float *)scratch, s));
}

/* Small products by strides, of elements of either width, summed in f32:
 *
 *   out[m,a,i,j] = scale · Σk x[m,a,i,k] y[m,a,j,k] + bias[a,j]
 *
 * For what is a few percent of an op beside its tiles, and for shapes and widths that those do not
 * take. Sums are made per 32 of k and then over those: the order is the shape's. */
#ifndef KERNELS_CUDA_PRODUCTS_H
#define KERNELS_CUDA_PRODUCTS_H

#include "kernels/base/check.h"
#include "kernels/cuda/element.h"

/* Element (m,a,i,k) stands at the sum of index times stride. k may be two indices: k / k_inner, of
 * stride k_outer, and k % k_inner. plus, or NULL: (i,k) of the same strides, added to it. */
template <class T> struct strided {
    const T *p;
    int64_t m, a, i, k;
    int k_inner;
    int64_t k_outer;
    const T *plus;

    DEVICE float at(int64_t first, int i_, int k_) const
    {
        const int64_t own = i_ * i + (k_ % k_inner) * k;
        const float v = element_load(p + first + own + (k_ / k_inner) * k_outer);

        return plus ? v + element_load(plus + own) : v;
    }
};

template <class T>
static inline strided<T> stride_by(const T *p, int64_t m, int64_t a, int64_t i, int64_t k)
{
    return strided<T>{ p, m, a, i, k, INT32_MAX, 0, NULL };
}

template <class T>
static inline strided<T> stride_by(const T *p, int64_t m, int64_t a, int64_t i, int64_t k,
                                   int64_t k_inner, int64_t k_outer)
{
    return strided<T>{ p, m, a, i, k, (int)k_inner, k_outer, NULL };
}

template <class T> struct products_output {
    T *p;
    int64_t m, a, i, j;
    float scale;
    bool add;
    const float *bias; /* (A,n_j), or NULL; with it, no sums beyond n_j are put */
};

template <class T>
static inline products_output<T> put_by(T *p, int64_t m, int64_t a, int64_t i, int64_t j,
                                        float scale = 1, bool add = false, const float *bias = NULL)
{
    return products_output<T>{ p, m, a, i, j, scale, add, bias };
}

/* Sums beyond n_i or n_j, up to put_i and put_j, are written as zero. */
struct products_extent {
    int64_t n_m, n_a, n_i, n_j, n_k;
    int64_t put_i, put_j;
};

static inline products_extent extent_of(int64_t n_m, int64_t n_a, int64_t n_i, int64_t n_j,
                                        int64_t n_k)
{
    return products_extent{ n_m, n_a, n_i, n_j, n_k, n_i, n_j };
}

enum { PRODUCTS_SIDE = 16, PRODUCTS_DEPTH = 32, PRODUCTS_THREADS = 256 };
enum { PRODUCTS_LOADS = PRODUCTS_SIDE * PRODUCTS_DEPTH / PRODUCTS_THREADS };

/* Which element of a tile this thread's load e is: neighbours along what stands closer together. */
template <class T> DEVICE void products_element(const strided<T> &x, int e, int &i, int &k)
{
    const int at = (int)threadIdx.x + e * PRODUCTS_THREADS;

    i = x.k <= x.i ? at / PRODUCTS_DEPTH : at % PRODUCTS_SIDE;
    k = x.k <= x.i ? at % PRODUCTS_DEPTH : at / PRODUCTS_SIDE;
}

template <class T>
DEVICE void products_read(float (&v)[PRODUCTS_LOADS], const strided<T> &x, int64_t first, int i0,
                          int n_i, int k0, int n_k)
{
#pragma unroll
    for (int e = 0; e < PRODUCTS_LOADS; e++) {
        int i, k;

        products_element(x, e, i, k);
        v[e] = i0 + i < n_i && k0 + k < n_k ? x.at(first, i0 + i, k0 + k) : 0;
    }
}

template <class T>
DEVICE void products_write(float (&tile)[PRODUCTS_SIDE][PRODUCTS_DEPTH + 1], const strided<T> &x,
                           const float (&v)[PRODUCTS_LOADS])
{
#pragma unroll
    for (int e = 0; e < PRODUCTS_LOADS; e++) {
        int i, k;

        products_element(x, e, i, k);
        tile[i][k] = v[e];
    }
}

/* A block owns 16 × 16 sums of one (m,a), a thread one of them.
 * Reads an operand once for every 16 columns or rows of the other; writes each sum once.
 * Few sums of a long k are bound by latency: the next 32 of k are on their way while these are used.
 * Many are bound by shared memory: 8 bytes for an FMA of a thread. */
template <class TX, class TY, class TO>
__global__ static void __launch_bounds__(PRODUCTS_THREADS)
    products(products_output<TO> out, strided<TX> x, strided<TY> y, int n_a, int n_i, int n_j,
             int n_k, int put_i, int put_j)
{
    __shared__ float x_tile[PRODUCTS_SIDE][PRODUCTS_DEPTH + 1]; /* read without bank conflicts */
    __shared__ float y_tile[PRODUCTS_SIDE][PRODUCTS_DEPTH + 1];
    const int i_tiles = (put_i + PRODUCTS_SIDE - 1) / PRODUCTS_SIDE;
    const int batch = (int)blockIdx.x / i_tiles, m = batch / n_a, a = batch % n_a;
    const int i0 = (int)blockIdx.x % i_tiles * PRODUCTS_SIDE, j0 = (int)blockIdx.y * PRODUCTS_SIDE;
    const int own_i = (int)threadIdx.x / PRODUCTS_SIDE, own_j = (int)threadIdx.x % PRODUCTS_SIDE;
    const int64_t x_first = m * x.m + a * x.a, y_first = m * y.m + a * y.a;
    float next_x[PRODUCTS_LOADS], next_y[PRODUCTS_LOADS], sum = 0;

    products_read(next_x, x, x_first, i0, n_i, 0, n_k);
    products_read(next_y, y, y_first, j0, n_j, 0, n_k);
    for (int k0 = 0; k0 < n_k; k0 += PRODUCTS_DEPTH) {
        float part = 0;

        products_write(x_tile, x, next_x);
        products_write(y_tile, y, next_y);
        __syncthreads();
        products_read(next_x, x, x_first, i0, n_i, k0 + PRODUCTS_DEPTH, n_k);
        products_read(next_y, y, y_first, j0, n_j, k0 + PRODUCTS_DEPTH, n_k);
#pragma unroll
        for (int k = 0; k < PRODUCTS_DEPTH; k++) part += x_tile[own_i][k] * y_tile[own_j][k];
        sum += part;
        __syncthreads();
    }
    if (i0 + own_i >= put_i || j0 + own_j >= put_j) return;
    sum *= out.scale;
    if (out.bias) sum += out.bias[a * n_j + j0 + own_j];
    element_gradient(out.p + m * out.m + a * out.a + (i0 + own_i) * out.i + (j0 + own_j) * out.j,
                     out.add, sum);
}

template <class TX, class TY, class TO>
static enum status multiply(products_output<TO> out, strided<TX> x, strided<TY> y,
                            products_extent e, struct stream *s)
{
    const int64_t i_tiles = (e.put_i + PRODUCTS_SIDE - 1) / PRODUCTS_SIDE;
    const int64_t j_tiles = (e.put_j + PRODUCTS_SIDE - 1) / PRODUCTS_SIDE;
    const int64_t n_blocks = e.n_m * e.n_a * i_tiles;

    if (n_blocks > INT32_MAX || j_tiles > 65535 || e.n_k > INT32_MAX - PRODUCTS_DEPTH)
        FAIL(E_SHAPE, "%lld products of %lld x %lld sums of %lld: too large for the kernel",
             (long long)(e.n_m * e.n_a), (long long)e.n_i, (long long)e.n_j, (long long)e.n_k);
    ASSERT(!out.bias || e.put_j == e.n_j);
    if (n_blocks == 0 || j_tiles == 0) return OK;
    LAUNCH((products<TX, TY, TO>), dim3((unsigned)n_blocks, (unsigned)j_tiles), PRODUCTS_THREADS, 0,
           s, out, x, y, (int)e.n_a, (int)e.n_i, (int)e.n_j, (int)e.n_k, (int)e.put_i,
           (int)e.put_j);
    return OK;
}

#endif

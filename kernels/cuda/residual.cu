#include "kernels/base/rng.h"
#include "kernels/residual_check.h"

#include "kernels/cuda/element.h"

enum { THREADS = 256 };

/* scale · dropout */
struct dropout {
    const float *scale; /* NULL: 1 */
    const int64_t *key;
    float p, keep; /* keep = 1/(1−p) */
    int64_t salt;
};

static dropout dropout_of(struct tensor scale, struct tensor key, float p, int64_t salt)
{
    return { (const float *)scale.data, (const int64_t *)key.data, p, (float)(1 / (1 - (double)p)),
             salt };
}

/* The factors of elements i …, a multiple of four: the four numbers of one counter are theirs. */
template <int N> DEVICE void factors(float (&f)[N], const dropout &d, int64_t i)
{
    const float scale = d.scale ? *d.scale : 1;

    if (d.p == 0) {
#pragma unroll
        for (int k = 0; k < N; k++) f[k] = scale;
        return;
    }
    const rng_key key = rng_sub({ (uint64_t)d.key[0], (uint64_t)d.key[1] }, (uint64_t)d.salt);

#pragma unroll
    for (int first = 0; first < N; first += 4) {
        const rng_block draw = rng_philox(key, (uint64_t)(i + first) / 4);

#pragma unroll
        for (int k = 0; k < 4; k++) f[first + k] = rng_unit(draw.v[k]) >= d.p ? scale * d.keep : 0;
    }
}

/* y and x of S, b of T. A thread owns a lot of neighbouring elements, 16 bytes of each tensor, a warp
 * 512, a block 4 KiB; of what is F32 beside BF16 twice as many, in two accesses to one sector. x and b
 * are read once, y is written once; the scale and the key come from L1.
 * Bound by memory: 12 bytes an element in f32, 6 in bf16, 10 where b alone is, against 25 integer
 * operations of dropout's generator. Four or eight, because a counter of the generator gives four
 * numbers: nothing is drawn twice. */
template <class S, class T>
__global__ static void __launch_bounds__(THREADS)
    fwd(S *y, const S *x, const T *b, const dropout d, int64_t n, bool aligned)
{
    enum { N = element_lot<S, T>::WIDTH };
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N;
    float f[N], sum[N] = {}, v[N];

    if (i >= n) return;
    factors(f, d, i);
    if (x) element_load_lot(sum, x + i, n - i, aligned);
    element_load_lot(v, b + i, n - i, aligned);
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] += f[k] * v[k];
    element_store_lot(y + i, sum, n - i, aligned);
}

/* As forward. dy is read once, a wanted gradient is written once and read before where it adds.
 * Bound by memory: 12 to 20 bytes an element in f32, half in bf16, 10 to 16 where db alone is. The
 * factors are drawn again: 25 integer operations are cheaper than a byte stored forward. */
template <class S, class T>
__global__ static void __launch_bounds__(THREADS)
    bwd(S *dx, bool add_x, T *db, bool add_b, const S *dy, const dropout d, int64_t n, bool aligned)
{
    enum { N = element_lot<S, T>::WIDTH };
    const int64_t i = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N;
    float g[N];

    if (i >= n) return;
    element_load_lot(g, dy + i, n - i, aligned);
    if (dx) element_gradient_lot(dx + i, add_x, g, n - i, aligned);
    if (db) {
        float f[N];

        factors(f, d, i);
#pragma unroll
        for (int k = 0; k < N; k++) g[k] *= f[k];
        element_gradient_lot(db + i, add_b, g, n - i, aligned);
    }
}

static unsigned blocks_of(int64_t n, int width)
{
    const int64_t block = THREADS * width;

    return (unsigned)((n + block - 1) / block);
}

template <class S, class T>
static enum status launch_fwd(struct tensor y, struct tensor x, struct tensor b, const dropout &d,
                              struct stream *s)
{
    enum { N = element_lot<S, T>::WIDTH };
    const int64_t n = tensor_count(y);
    S *const to = (S *)y.data;
    const S *const from = (const S *)x.data;
    const T *const branch = (const T *)b.data;

    if (n == 0) return OK;
    LAUNCH((fwd<S, T>), blocks_of(n, N), THREADS, 0, s, to, from, branch, d, n,
           element_aligned<N>(to, 0) && element_aligned<N>(from, 0) &&
               element_aligned<N>(branch, 0));
    return OK;
}

extern "C" enum status residual_fwd_cuda(struct tensor y, struct tensor x, struct tensor b,
                                         struct tensor scale, struct tensor key, float p,
                                         int64_t salt, struct stream *s)
{
    TRY(residual_fwd_check(y, x, b, scale, key, p));
    STREAM_NO_SCRATCH(s);

    BY_DTYPES(y, b, return (launch_fwd<S, T>(y, x, b, dropout_of(scale, key, p, salt), s)));
}

template <class S, class T>
static enum status launch_bwd(struct tensor dx, struct tensor db, struct tensor dy,
                              const dropout &d, struct stream *s)
{
    enum { N = element_lot<S, T>::WIDTH };
    const int64_t n = tensor_count(dy);
    S *const to_x = (S *)dx.data;
    T *const to_b = (T *)db.data;
    const S *const from = (const S *)dy.data;

    if (n == 0 || (!to_x && !to_b)) return OK;
    LAUNCH((bwd<S, T>), blocks_of(n, N), THREADS, 0, s, to_x, dx.add, to_b, db.add, from, d, n,
           element_aligned<N>(to_x, 0) && element_aligned<N>(to_b, 0) &&
               element_aligned<N>(from, 0));
    return OK;
}

extern "C" enum status residual_bwd_cuda(struct tensor dx, struct tensor db, struct tensor dy,
                                         struct tensor scale, struct tensor key, float p,
                                         int64_t salt, struct stream *s)
{
    TRY(residual_bwd_check(dx, db, dy, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const struct tensor branch = tensor_is_none(db) ? dy : db;

    BY_DTYPES(dy, branch,
              return (launch_bwd<S, T>(dx, db, dy, dropout_of(scale, key, p, salt), s)));
}

static const int64_t MAX_ROWS_OF_BLOCKS = 1024;

/* A thread owns a lot of neighbouring columns, 16 bytes of the narrowest operand, of rows blockIdx.y,
 * + gridDim.y, …: a row is one of y's leading dimension, and a shared operand is the same in all.
 * y is written once, an operand of y's shape is read once, a shared one once a thread: it is kept in
 * registers. Bound by memory: 8 to 12 bytes an element in f32, 4 to 6 in bf16. Rows by threads, not
 * elements: no division. */
template <class TY, class TA, class TB>
__global__ static void __launch_bounds__(THREADS)
    add_rows(TY *y, const TA *a, bool a_shared, const TB *b, bool b_shared, int64_t n_rows,
             int64_t n_c, bool aligned)
{
    enum { N = element_lot<TY, TA, TB>::WIDTH };
    const int64_t c = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N, left = n_c - c;
    float p[N] = {}, q[N] = {};

    if (c >= n_c) return;
    if (a_shared) element_load_lot(p, a + c, left, aligned);
    if (b_shared) element_load_lot(q, b + c, left, aligned);
    for (int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
        const int64_t i = row * n_c + c;
        float sum[N];

        if (!a_shared) element_load_lot(p, a + i, left, aligned);
        if (!b_shared) element_load_lot(q, b + i, left, aligned);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] = p[k] + q[k];
        element_store_lot(y + i, sum, left, aligned);
    }
}

/* d = Σ over rows of dy. A thread owns a lot of columns and adds their rows in order, four in flight;
 * dy is read once, d is written once: bound by memory, 4 bytes an element of dy, 2 in bf16. Rows are
 * few (the masks of an image) and columns many, so that columns alone fill the device. The sum is
 * double: on A100 and H200 that is half the rate of float, and here the adders wait for memory
 * anyway. */
template <class TD, class TY>
__global__ static void __launch_bounds__(THREADS)
    sum_rows(TD *d, bool add, const TY *dy, int64_t n_rows, int64_t n_c, bool aligned)
{
    enum { N = element_lot<TD, TY>::WIDTH };
    const int64_t c = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * N, left = n_c - c;
    double sum[N] = {};
    float out[N] = {}, v[N];

    if (c >= n_c) return;
#pragma unroll 4
    for (int64_t row = 0; row < n_rows; row++) {
        element_load_lot(v, dy + row * n_c + c, left, aligned);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += v[k];
    }
    if (add) element_load_lot(out, d + c, left, aligned);
#pragma unroll
    for (int k = 0; k < N; k++) out[k] = (float)(add ? out[k] + sum[k] : sum[k]);
    element_store_lot(d + c, out, left, aligned);
}

/* y as rows: the leading dimension where an operand is shared by it, else one. */
static int64_t rows_of(struct tensor y, bool shared)
{
    return shared && y.n_dims > 0 ? y.dim[0] : 1;
}

template <class TY, class TA, class TB>
static enum status launch_add(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    enum { N = element_lot<TY, TA, TB>::WIDTH };
    const bool a_shared = add_is_shared(a, y), b_shared = add_is_shared(b, y);
    const int64_t n_rows = rows_of(y, a_shared || b_shared);
    const int64_t n_c = tensor_count(y) / n_rows, whole = n_rows > 1 ? n_c : 0;
    TY *const to = (TY *)y.data;
    const TA *const of_a = (const TA *)a.data;
    const TB *const of_b = (const TB *)b.data;
    const bool aligned = element_aligned<N>(to, whole) && element_aligned<N>(of_a, whole) &&
                         element_aligned<N>(of_b, whole);
    const unsigned n_high = (unsigned)(n_rows < MAX_ROWS_OF_BLOCKS ? n_rows : MAX_ROWS_OF_BLOCKS);

    LAUNCH((add_rows<TY, TA, TB>), dim3(blocks_of(n_c, N), n_high), THREADS, 0, s, to, of_a,
           a_shared, of_b, b_shared, n_rows, n_c, aligned);
    return OK;
}

template <class TY, class TA>
static enum status add_by_b(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    BY_DTYPE(b, return (launch_add<TY, TA, T>(y, a, b, s)));
}

template <class TY>
static enum status add_by_a(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    BY_DTYPE(a, return (add_by_b<TY, T>(y, a, b, s)));
}

extern "C" enum status add_fwd_cuda(struct tensor y, struct tensor a, struct tensor b,
                                    struct stream *s)
{
    TRY(add_fwd_check(y, a, b));
    STREAM_NO_SCRATCH(s);

    if (tensor_count(y) == 0) return OK;
    BY_DTYPE(y, return add_by_a<T>(y, a, b, s));
}

template <class TD, class TY>
static enum status launch_operand(struct tensor d, struct tensor dy, struct stream *s)
{
    enum { N = element_lot<TD, TY>::WIDTH };
    const int64_t n_rows = rows_of(dy, add_is_shared(d, dy)), n_c = tensor_count(d);
    TD *const to = (TD *)d.data;
    const TY *const from = (const TY *)dy.data;

    LAUNCH((sum_rows<TD, TY>), blocks_of(n_c, N), THREADS, 0, s, to, d.add, from, n_rows, n_c,
           element_aligned<N>(to, 0) && element_aligned<N>(from, n_rows > 1 ? n_c : 0));
    return OK;
}

static enum status operand_bwd(struct tensor d, struct tensor dy, struct stream *s)
{
    if (!d.data || tensor_count(d) == 0) return OK;
    if (d.dtype == BF16) BY_DTYPE(dy, return (launch_operand<bf16, T>(d, dy, s)));
    BY_DTYPE(dy, return (launch_operand<float, T>(d, dy, s)));
}

extern "C" enum status add_bwd_cuda(struct tensor da, struct tensor db, struct tensor dy,
                                    struct stream *s)
{
    TRY(add_bwd_check(da, db, dy));
    STREAM_NO_SCRATCH(s);

    TRY(operand_bwd(da, dy, s));
    return operand_bwd(db, dy, s);
}

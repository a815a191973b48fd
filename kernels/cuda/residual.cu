#include "kernels/base/rng.h"
#include "kernels/residual_check.h"

#include "kernels/cuda/quads.h"

enum { THREADS = 256, BLOCK = THREADS * 4 };

/* scale · dropout, as the factors of four elements */
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

/* Elements 4·quad …: the four numbers of one counter are theirs. */
DEVICE void factors(float (&f)[4], const dropout &d, int64_t quad)
{
    const float scale = d.scale ? *d.scale : 1;

    if (d.p == 0) {
#pragma unroll
        for (int k = 0; k < 4; k++) f[k] = scale;
        return;
    }
    const rng_key key = { (uint64_t)d.key[0], (uint64_t)d.key[1] };
    const rng_block draw = rng_philox(rng_sub(key, (uint64_t)d.salt), (uint64_t)quad);

#pragma unroll
    for (int k = 0; k < 4; k++) f[k] = rng_unit(draw.v[k]) >= d.p ? scale * d.keep : 0;
}

/* A thread owns four neighbouring elements, a warp 512 bytes of each tensor, a block 4 KiB.
 * x and b are read once, y is written once; the scale and the key come from L1.
 * Bound by memory: 12 bytes an element, against 25 integer operations of dropout's generator.
 * Four, because one counter of the generator gives four numbers: nothing is drawn twice. */
__global__ static void __launch_bounds__(THREADS)
    fwd(float *y, const float *x, const float *b, const dropout d, int64_t n, bool aligned)
{
    const int64_t quad = (int64_t)blockIdx.x * THREADS + (int)threadIdx.x, i = quad * 4;
    float f[4], sum[4] = {}, v[4];

    if (i >= n) return;
    factors(f, d, quad);
    if (x) load_quad(sum, x + i, n - i, aligned);
    load_quad(v, b + i, n - i, aligned);
#pragma unroll
    for (int k = 0; k < 4; k++) sum[k] += f[k] * v[k];
    store_quad(y + i, sum, n - i, aligned);
}

/* As forward. dy is read once, a wanted gradient is written once and read before where it adds.
 * Bound by memory: 12 to 20 bytes an element. The factors are drawn again: 25 integer operations
 * are cheaper than a byte stored forward. */
__global__ static void __launch_bounds__(THREADS)
    bwd(float *dx, bool add_x, float *db, bool add_b, const float *dy, const dropout d, int64_t n,
        bool aligned)
{
    const int64_t quad = (int64_t)blockIdx.x * THREADS + (int)threadIdx.x, i = quad * 4;
    float g[4];

    if (i >= n) return;
    load_quad(g, dy + i, n - i, aligned);
    if (dx) {
        float out[4] = {};

        if (add_x) load_quad(out, dx + i, n - i, aligned);
#pragma unroll
        for (int k = 0; k < 4; k++) out[k] = add_x ? out[k] + g[k] : g[k];
        store_quad(dx + i, out, n - i, aligned);
    }
    if (db) {
        float out[4] = {}, f[4];

        factors(f, d, quad);
        if (add_b) load_quad(out, db + i, n - i, aligned);
#pragma unroll
        for (int k = 0; k < 4; k++) out[k] = add_b ? out[k] + f[k] * g[k] : f[k] * g[k];
        store_quad(db + i, out, n - i, aligned);
    }
}

static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + BLOCK - 1) / BLOCK);
}

extern "C" enum status residual_fwd_cuda(struct tensor y, struct tensor x, struct tensor b,
                                         struct tensor scale, struct tensor key, float p,
                                         int64_t salt, struct stream *s)
{
    TRY(residual_fwd_check(y, x, b, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const int64_t n = tensor_count(y);
    const bool aligned =
        quads_aligned(y.data, 0) && quads_aligned(x.data, 0) && quads_aligned(b.data, 0);

    if (n == 0) return OK;
    LAUNCH(fwd, blocks_of(n), THREADS, 0, s, (float *)y.data, (const float *)x.data,
           (const float *)b.data, dropout_of(scale, key, p, salt), n, aligned);
    return OK;
}

extern "C" enum status residual_bwd_cuda(struct tensor dx, struct tensor db, struct tensor dy,
                                         struct tensor scale, struct tensor key, float p,
                                         int64_t salt, struct stream *s)
{
    TRY(residual_bwd_check(dx, db, dy, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const int64_t n = tensor_count(dy);
    const bool aligned =
        quads_aligned(dx.data, 0) && quads_aligned(db.data, 0) && quads_aligned(dy.data, 0);

    if (n == 0 || (!dx.data && !db.data)) return OK;
    LAUNCH(bwd, blocks_of(n), THREADS, 0, s, (float *)dx.data, dx.add, (float *)db.data, db.add,
           (const float *)dy.data, dropout_of(scale, key, p, salt), n, aligned);
    return OK;
}

static const int64_t MAX_ROWS_OF_BLOCKS = 1024;

/* A thread owns four neighbouring columns of rows blockIdx.y, + gridDim.y, …: a row is one of y's
 * leading dimension, and a shared operand is the same in all. y is written once, an operand of y's
 * shape is read once, a shared one once a thread: it is kept in registers.
 * Bound by memory: 8 to 12 bytes an element. Rows by threads, not elements: no division. */
__global__ static void __launch_bounds__(THREADS)
    add_rows(float *y, const float *a, bool a_shared, const float *b, bool b_shared, int64_t n_rows,
             int64_t n_c, bool aligned)
{
    const int64_t c = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * 4, left = n_c - c;
    float p[4] = {}, q[4] = {};

    if (c >= n_c) return;
    if (a_shared) load_quad(p, a + c, left, aligned);
    if (b_shared) load_quad(q, b + c, left, aligned);
    for (int64_t row = blockIdx.y; row < n_rows; row += gridDim.y) {
        const int64_t i = row * n_c + c;
        float sum[4];

        if (!a_shared) load_quad(p, a + i, left, aligned);
        if (!b_shared) load_quad(q, b + i, left, aligned);
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] = p[k] + q[k];
        store_quad(y + i, sum, left, aligned);
    }
}

/* d = Σ over rows of dy. A thread owns four columns and adds their rows in order, four in flight;
 * dy is read once, d is written once: bound by memory, 4 bytes an element of dy. Rows are few (the
 * masks of an image) and columns many, so that columns alone fill the device. The sum is double:
 * on A100 and H200 that is half the rate of float, and here the adders wait for memory anyway. */
__global__ static void __launch_bounds__(THREADS)
    sum_rows(float *d, bool add, const float *dy, int64_t n_rows, int64_t n_c, bool aligned)
{
    const int64_t c = ((int64_t)blockIdx.x * THREADS + (int)threadIdx.x) * 4, left = n_c - c;
    double sum[4] = {};
    float out[4] = {}, v[4];

    if (c >= n_c) return;
#pragma unroll 4
    for (int64_t row = 0; row < n_rows; row++) {
        load_quad(v, dy + row * n_c + c, left, aligned);
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] += v[k];
    }
    if (add) load_quad(out, d + c, left, aligned);
#pragma unroll
    for (int k = 0; k < 4; k++) out[k] = (float)(add ? out[k] + sum[k] : sum[k]);
    store_quad(d + c, out, left, aligned);
}

/* y as rows: the leading dimension where an operand is shared by it, else one. */
static int64_t rows_of(struct tensor y, bool shared)
{
    return shared && y.n_dims > 0 ? y.dim[0] : 1;
}

extern "C" enum status add_fwd_cuda(struct tensor y, struct tensor a, struct tensor b,
                                    struct stream *s)
{
    TRY(add_fwd_check(y, a, b));
    STREAM_NO_SCRATCH(s);

    const bool a_shared = add_is_shared(a, y), b_shared = add_is_shared(b, y);
    const int64_t n_rows = rows_of(y, a_shared || b_shared);

    if (tensor_count(y) == 0) return OK;

    const int64_t n_c = tensor_count(y) / n_rows, whole = n_rows > 1 ? n_c : 0;
    const bool aligned = quads_aligned(y.data, whole) && quads_aligned(a.data, whole) &&
                         quads_aligned(b.data, whole);
    const unsigned n_high = (unsigned)(n_rows < MAX_ROWS_OF_BLOCKS ? n_rows : MAX_ROWS_OF_BLOCKS);

    LAUNCH(add_rows, dim3(blocks_of(n_c), n_high), THREADS, 0, s, (float *)y.data,
           (const float *)a.data, a_shared, (const float *)b.data, b_shared, n_rows, n_c, aligned);
    return OK;
}

static enum status operand_bwd(struct tensor d, struct tensor dy, struct stream *s)
{
    const bool shared = add_is_shared(d, dy);
    const int64_t n_rows = rows_of(dy, shared), n_c = tensor_count(d);
    const bool aligned = quads_aligned(d.data, 0) && quads_aligned(dy.data, n_rows > 1 ? n_c : 0);

    if (!d.data || n_c == 0) return OK;
    LAUNCH(sum_rows, blocks_of(n_c), THREADS, 0, s, (float *)d.data, d.add, (const float *)dy.data,
           n_rows, n_c, aligned);
    return OK;
}

extern "C" enum status add_bwd_cuda(struct tensor da, struct tensor db, struct tensor dy,
                                    struct stream *s)
{
    TRY(add_bwd_check(da, db, dy));
    STREAM_NO_SCRATCH(s);

    TRY(operand_bwd(da, dy, s));
    return operand_bwd(db, dy, s);
}

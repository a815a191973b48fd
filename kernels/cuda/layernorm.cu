#include "kernels/layernorm_check.h"

#include "kernels/cuda/device.h"

/* Loads of four elements, or of one where rows are no multiple of four; f32 for now: another
 * storage type is one more pair of these. */
DEVICE void load(float (&v)[4], const float *p)
{
    const float4 q = *reinterpret_cast<const float4 *>(p);

    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
}

DEVICE void store(float *p, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

DEVICE void load(float (&v)[1], const float *p)
{
    v[0] = *p;
}

DEVICE void store(float *p, const float (&v)[1])
{
    *p = v[0];
}

DEVICE float gelu(float v)
{
    return 0.5f * v * (1.0f + erff(v * 0.70710678f));
}

/* Φ(v) + v φ(v) */
DEVICE float gelu_slope(float v)
{
    return 0.5f * (1.0f + erff(v * 0.70710678f)) + v * expf(-0.5f * v * v) * 0.39894228f;
}

enum { ROW_THREADS = 256 };

struct row_shape {
    int64_t n_rows;
    int n_c, lanes; /* lanes: of a row, a power of two up to a warp */
};

/* The row of this thread's lanes; -1 behind the last: such lanes take part in the sums alone. */
DEVICE int64_t own_row(const row_shape &shape)
{
    const int64_t row =
        (int64_t)blockIdx.x * (ROW_THREADS / shape.lanes) + (int)threadIdx.x / shape.lanes;

    return row < shape.n_rows ? row : -1;
}

/* Forward. A group of lanes owns a row, so that a warp works on one row of 128 channels or more,
 * or on several short ones; a block on 8 to 256 rows. A row is read once and kept in registers:
 * ITEMS pieces of WIDTH elements a lane; ITEMS 0: read again for each pass (it is in L1 by then).
 * Bound by memory: 8 bytes an element, gamma and beta come from L2.
 * The sums are of one order: lanes by turns of xor. What is left around a mean that rounding has
 * moved corrects it, and the variance. */
template <int WIDTH, int ITEMS>
__global__ static void __launch_bounds__(ROW_THREADS)
    fwd_rows(float *y, float *mean_out, float *rstd_out, const float *x, const float *gamma,
             const float *beta, row_shape shape, float eps, bool with_gelu)
{
    const int lane = (int)threadIdx.x % shape.lanes, step = shape.lanes * WIDTH;
    const int64_t row = own_row(shape);
    const int end = row >= 0 ? shape.n_c : 0;
    const float *const in = x + (row >= 0 ? row : 0) * shape.n_c;
    float *const out = y + (row >= 0 ? row : 0) * shape.n_c;
    const float n_c = (float)shape.n_c;
    float kept[ITEMS ? ITEMS : 1][WIDTH], sum = 0, squares = 0, rest = 0;

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];

        if (c >= end) continue;
        load(v, in + c);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += v[k];
    }
    const float near = warp_sum(sum, shape.lanes) / n_c;

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];

        if (c >= end) continue;
        if (!ITEMS) load(v, in + c);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            squares += (v[k] - near) * (v[k] - near);
            rest += v[k] - near;
        }
    }
    rest = warp_sum(rest, shape.lanes) / n_c;
    const float mean = near + rest;
    const float rstd = 1.0f / sqrtf(warp_sum(squares, shape.lanes) / n_c - rest * rest + eps);

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];
        float g[WIDTH], b[WIDTH];

        if (c >= end) continue;
        if (!ITEMS) load(v, in + c);
        load(g, gamma + c);
        load(b, beta + c);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            v[k] = (v[k] - mean) * rstd * g[k] + b[k];
            if (with_gelu) v[k] = gelu(v[k]);
        }
        store(out + c, v);
    }
    if (row >= 0 && lane == 0) {
        mean_out[row] = mean;
        rstd_out[row] = rstd;
    }
}

struct bwd_inputs {
    const float *dy, *x, *gamma, *beta, *mean, *rstd;
    bool with_gelu;
};

/* dx, by rows as forward. g = dy act'(xhat gamma + beta):
 * dx = rstd (g gamma − mean_c(g gamma) − xhat mean_c(g gamma xhat)).
 * x and dy are read twice, the second time from L1. Bound by memory: 12 bytes an element. */
template <int WIDTH>
__global__ static void __launch_bounds__(ROW_THREADS)
    bwd_rows(float *dx, bool add, bwd_inputs in, row_shape shape)
{
    const int lane = (int)threadIdx.x % shape.lanes, step = shape.lanes * WIDTH;
    const int64_t row = own_row(shape), first = (row >= 0 ? row : 0) * shape.n_c;
    const int end = row >= 0 ? shape.n_c : 0;
    const float mean = row >= 0 ? in.mean[row] : 0, rstd = row >= 0 ? in.rstd[row] : 0;
    float plain = 0, weighted = 0;

    for (int pass = 0; pass < 2; pass++) {
        for (int c = lane * WIDTH; c < end; c += step) {
            float x[WIDTH], g[WIDTH], gamma[WIDTH], beta[WIDTH] = {}, out[WIDTH] = {};

            load(x, in.x + first + c);
            load(g, in.dy + first + c);
            load(gamma, in.gamma + c);
            if (in.with_gelu) load(beta, in.beta + c);
            if (pass == 1 && add) load(out, dx + first + c);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) {
                const float xhat = (x[k] - mean) * rstd;

                if (in.with_gelu) g[k] *= gelu_slope(xhat * gamma[k] + beta[k]);
                g[k] *= gamma[k];
                if (pass == 0) {
                    plain += g[k];
                    weighted += g[k] * xhat;
                } else {
                    const float v = rstd * (g[k] - plain - xhat * weighted);

                    out[k] = add ? out[k] + v : v;
                }
            }
            if (pass == 1) store(dx + first + c, out);
        }
        if (pass == 1) break;
        plain = warp_sum(plain, shape.lanes) / (float)shape.n_c;
        weighted = warp_sum(weighted, shape.lanes) / (float)shape.n_c;
    }
}

enum { COLUMNS = 32, STRIPES = 8 };
static const int64_t MIN_CHUNK = 64, MAX_CHUNKS = 256;

/* Rows of one chunk: fixed by the shape, hence the order of all sums. */
static int64_t rows_of_chunk(int64_t n_rows)
{
    const int64_t even = (n_rows + MAX_CHUNKS - 1) / MAX_CHUNKS;

    return even < MIN_CHUNK ? MIN_CHUNK : (even + STRIPES - 1) / STRIPES * STRIPES;
}

/* Σ over a chunk's rows of g xhat and of g. A block owns a chunk and 32 columns, a warp each
 * eighth row of it: 128 bytes of x and dy a row. The warps' sums meet in shared memory, in order.
 * x and dy are read once: 8 bytes an element, bound by memory. */
__global__ static void __launch_bounds__(COLUMNS *STRIPES)
    bwd_chunks(float *sums, bwd_inputs in, int64_t n_rows, int64_t chunk, int n_c)
{
    __shared__ float part[2][STRIPES][COLUMNS];
    const int column = (int)threadIdx.x % COLUMNS, stripe = (int)threadIdx.x / COLUMNS;
    const int c = (int)blockIdx.y * COLUMNS + column;
    const int64_t first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_rows ? first + chunk : n_rows;
    float of_gamma = 0, of_beta = 0;

    if (c < n_c) {
        const float gamma = in.gamma[c], beta = in.beta[c];

        for (int64_t n = first + stripe; n < end; n += STRIPES) {
            const float xhat = (in.x[n * n_c + c] - in.mean[n]) * in.rstd[n];
            float g = in.dy[n * n_c + c];

            if (in.with_gelu) g *= gelu_slope(xhat * gamma + beta);
            of_gamma += g * xhat;
            of_beta += g;
        }
    }
    part[0][stripe][column] = of_gamma;
    part[1][stripe][column] = of_beta;
    __syncthreads();
    if (stripe < 2 && c < n_c) { /* a warp for dgamma, a warp for dbeta */
        float sum = 0;

        for (int k = 0; k < STRIPES; k++) sum += part[stripe][k][column];
        sums[((int64_t)blockIdx.x * 2 + stripe) * n_c + c] = sum;
    }
}

enum { FINISH_THREADS = 128 };

/* The chunks' sums, (n_chunks, 2, n_c), in order. NULL: not wanted. */
__global__ static void __launch_bounds__(FINISH_THREADS)
    bwd_finish(float *dgamma, bool add_gamma, float *dbeta, bool add_beta, const float *sums,
               int64_t n_chunks, int n_c)
{
    const int i = (int)(blockIdx.x * FINISH_THREADS + threadIdx.x);
    float *const out = i < n_c ? dgamma : dbeta;
    const bool add = i < n_c ? add_gamma : add_beta;
    const int c = i < n_c ? i : i - n_c;
    float sum = 0;

    if (i >= 2 * n_c || !out) return;
    for (int64_t k = 0; k < n_chunks; k++) sum += sums[k * 2 * n_c + i];
    out[c] = add ? out[c] + sum : sum;
}

static row_shape shape_of(int64_t n_rows, int64_t n_c, int width)
{
    row_shape shape = { n_rows, (int)n_c, 1 };

    while (shape.lanes < 32 && (int64_t)shape.lanes * width < n_c) shape.lanes *= 2;
    return shape;
}

static unsigned blocks_of(const row_shape &shape)
{
    const int64_t rows = ROW_THREADS / shape.lanes;

    return (unsigned)((shape.n_rows + rows - 1) / rows);
}

/* Vectors need every row to start at 16 bytes. */
static bool in_vectors(int64_t n_c, const void *const *p, int n)
{
    bool aligned = n_c % 4 == 0;

    for (int i = 0; i < n; i++) aligned = aligned && (uintptr_t)p[i] % 16 == 0;
    return aligned;
}

extern "C" enum status layernorm_fwd_cuda(struct tensor y, struct tensor mean, struct tensor rstd,
                                          struct tensor x, struct tensor gamma, struct tensor beta,
                                          float eps, enum activation act, struct stream *s)
{
    TRY(layernorm_fwd_check(y, mean, rstd, x, gamma, beta, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x);
    const void *const all[] = { y.data, x.data, gamma.data, beta.data };
    const row_shape wide = shape_of(n_rows, n_c, 4), narrow = shape_of(n_rows, n_c, 1);

    if (n_rows == 0) return OK;
#define FWD(width, items, shape)                                                                   \
    LAUNCH((fwd_rows<width, items>), blocks_of(shape), ROW_THREADS, 0, s, (float *)y.data,         \
           (float *)mean.data, (float *)rstd.data, (const float *)x.data,                          \
           (const float *)gamma.data, (const float *)beta.data, shape, eps, act == ACT_GELU)
    if (!in_vectors(n_c, all, 4))
        FWD(1, 0, narrow);
    else if (n_c <= 128)
        FWD(4, 1, wide);
    else if (n_c <= 256)
        FWD(4, 2, wide);
    else if (n_c <= 768)
        FWD(4, 6, wide);
    else if (n_c <= 1280)
        FWD(4, 10, wide);
    else
        FWD(4, 0, wide);
#undef FWD
    return OK;
}

static enum status bwd_dx(struct tensor dx, const bwd_inputs &in, int64_t n_rows, int64_t n_c,
                          struct stream *s)
{
    const void *const all[] = { dx.data, in.dy, in.x, in.gamma, in.beta };
    const int width = in_vectors(n_c, all, 5) ? 4 : 1;
    const row_shape shape = shape_of(n_rows, n_c, width);

    if (width == 4)
        LAUNCH(bwd_rows<4>, blocks_of(shape), ROW_THREADS, 0, s, (float *)dx.data, dx.add, in,
               shape);
    else
        LAUNCH(bwd_rows<1>, blocks_of(shape), ROW_THREADS, 0, s, (float *)dx.data, dx.add, in,
               shape);
    return OK;
}

extern "C" enum status layernorm_bwd_cuda(struct tensor dx, struct tensor dgamma,
                                          struct tensor dbeta, struct tensor dy, struct tensor x,
                                          struct tensor gamma, struct tensor beta,
                                          struct tensor mean, struct tensor rstd,
                                          enum activation act, struct stream *s)
{
    TRY(layernorm_bwd_check(dx, dgamma, dbeta, dy, x, gamma, beta, mean, rstd, act));
    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x), chunk = rows_of_chunk(n_rows);
    const int64_t n_chunks = (n_rows + chunk - 1) / chunk;
    void *scratch; /* (n_chunks, 2, n_c) f32 */

    STREAM_SCRATCH(s, scratch, n_chunks * 2 * n_c * (int64_t)sizeof(float));

    const bwd_inputs in = {
        (const float *)dy.data,   (const float *)x.data,    (const float *)gamma.data,
        (const float *)beta.data, (const float *)mean.data, (const float *)rstd.data,
        act == ACT_GELU
    };
    float *const sums = (float *)scratch;

    if (dx.data && n_rows > 0) TRY(bwd_dx(dx, in, n_rows, n_c, s));
    if (!dgamma.data && !dbeta.data) return OK;
    if (n_rows > 0)
        LAUNCH(bwd_chunks, dim3((unsigned)n_chunks, (unsigned)((n_c + COLUMNS - 1) / COLUMNS)),
               COLUMNS * STRIPES, 0, s, sums, in, n_rows, chunk, (int)n_c);
    LAUNCH(bwd_finish, (unsigned)((2 * n_c + FINISH_THREADS - 1) / FINISH_THREADS), FINISH_THREADS,
           0, s, (float *)dgamma.data, dgamma.add, (float *)dbeta.data, dbeta.add, sums, n_chunks,
           (int)n_c);
    return OK;
}

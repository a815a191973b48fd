/* Rows normalised, forward and backward, behind a residual sum where there is one: the kernels of
 * layernorm and of residual_layernorm. S: what x, the residual sum and their gradients are kept in;
 * T: what y, b and theirs are. Arithmetic is in float.
 *
 * Backward, of one order whatever runs: rows of a chunk by turns of teams, teams, then chunks; what
 * a chunk is follows from the number of rows. */
#ifndef KERNELS_CUDA_NORM_ROWS_H
#define KERNELS_CUDA_NORM_ROWS_H

#include "kernels/cuda/activation.h"
#include "kernels/cuda/element.h"

enum { NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32 };

struct norm_shape {
    int64_t n_rows;
    int n_c, lanes; /* lanes: threads of a row */
};

/* The row of this thread's lanes; -1 behind the last: such lanes take part in the sums alone. */
DEVICE int64_t norm_own_row(const norm_shape &shape)
{
    const int64_t row =
        (int64_t)blockIdx.x * (NORM_THREADS / shape.lanes) + (int)threadIdx.x / shape.lanes;

    return row < shape.n_rows ? row : -1;
}

template <class S, class T> struct norm_fwd {
    T *y;
    float *mean, *rstd;
    const S *x;
    const float *gamma, *beta;
    float eps;
    bool with_gelu;
    S *sum; /* x + scale b is stored here, and its rounded value normalised; or all three NULL */
    const T *b;
    const float *scale; /* or NULL: 1 */
};

/* Forward. A group of lanes owns a row, so that a warp works on one row of 128 channels (256 in bf16)
 * or more, or on several short ones; a block on 8 to 256 rows. A row is read once and kept in
 * registers: ITEMS lots of WIDTH elements a lane; ITEMS 0: read again for each pass (it is in L1 by
 * then). Bound by memory: 8 bytes an element, 4 in bf16, 6 where x alone is F32; with the residual
 * 16, 8 and 12, where two ops move 20, 10 and 16. gamma and beta come from L2.
 * The sums are of one order: lanes by turns of xor. What is left around a mean that rounding has
 * moved corrects it, and the variance. */
template <class S, class T, int WIDTH, int ITEMS>
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_fwd_rows(norm_fwd<S, T> p, const norm_shape shape)
{
    const int lane = (int)threadIdx.x % shape.lanes, step = shape.lanes * WIDTH;
    const int64_t row = norm_own_row(shape), first = (row >= 0 ? row : 0) * shape.n_c;
    const int end = row >= 0 ? shape.n_c : 0;
    const float n_c = (float)shape.n_c, scale = p.scale ? *p.scale : 1;
    const S *const again = p.b ? p.sum : p.x;
    float kept[ITEMS ? ITEMS : 1][WIDTH], sum = 0, squares = 0, rest = 0;

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];

        if (c >= end) continue;
        element_load_lot(v, p.x + first + c);
        if (p.b) {
            float b[WIDTH];

            element_load_lot(b, p.b + first + c);
#pragma unroll
            for (int k = 0; k < WIDTH; k++) v[k] = element_rounded<S>(v[k] + scale * b[k]);
            element_store_lot(p.sum + first + c, v);
        }
#pragma unroll
        for (int k = 0; k < WIDTH; k++) sum += v[k];
    }
    const float near = warp_sum(sum, shape.lanes) / n_c;

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];

        if (c >= end) continue;
        if (!ITEMS) element_load_lot(v, again + first + c);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            squares += (v[k] - near) * (v[k] - near);
            rest += v[k] - near;
        }
    }
    rest = warp_sum(rest, shape.lanes) / n_c;
    const float mean = near + rest;
    const float rstd = 1.0f / sqrtf(warp_sum(squares, shape.lanes) / n_c - rest * rest + p.eps);

#pragma unroll
    for (int i = 0, c = lane * WIDTH; ITEMS ? i < ITEMS : c < end; i++, c += step) {
        float(&v)[WIDTH] = kept[ITEMS ? i : 0];
        float g[WIDTH], b[WIDTH];

        if (c >= end) continue;
        if (!ITEMS) element_load_lot(v, again + first + c);
        element_load_lot(g, p.gamma + c);
        element_load_lot(b, p.beta + c);
#pragma unroll
        for (int k = 0; k < WIDTH; k++) {
            v[k] = (v[k] - mean) * rstd * g[k] + b[k];
            if (p.with_gelu) v[k] = activation_value(ACT_GELU, v[k]);
        }
        element_store_lot(p.y + first + c, v);
    }
    if (row >= 0 && lane == 0) {
        p.mean[row] = mean;
        p.rstd[row] = rstd;
    }
}

/* dx and db are of d = dsum + the norm's gradient: d, and scale d. Without dsum or db they are NULL. */
template <class S, class T> struct norm_bwd {
    S *dx;
    T *db;
    bool add_x, add_b;
    const S *dsum;
    const T *dy;
    const S *x;
    const float *gamma, *beta, *mean, *rstd, *scale;
    bool with_gelu;
};

enum { NORM_COLUMNS = 8, NORM_ROWS = 2 }; /* that a thread of a team has in hand */
enum { NORM_TEAM_C = NORM_COLUMNS * NORM_THREADS };

/* Two sums a row over its team: by xor within the warp, then the team's warps in order. The barrier
 * is every thread's; two turns of `part`, so that one barrier a turn is enough. */
DEVICE void norm_team_sums(float (&two)[NORM_ROWS][2], float (&part)[NORM_ROWS][2][NORM_WARPS],
                           int lanes)
{
    const int warp = (int)threadIdx.x / 32, warps = lanes / 32,
              own = warp - warp % (warps ? warps : 1);

#pragma unroll
    for (int r = 0; r < NORM_ROWS; r++)
#pragma unroll
        for (int i = 0; i < 2; i++) two[r][i] = warp_sum(two[r][i], lanes < 32 ? lanes : 32);
    if (lanes <= 32) return;
#pragma unroll
    for (int r = 0; r < NORM_ROWS; r++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (threadIdx.x % 32 == 0) part[r][i][warp] = two[r][i];
    __syncthreads();
#pragma unroll
    for (int r = 0; r < NORM_ROWS; r++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            two[r][i] = 0;
            for (int w = 0; w < warps; w++) two[r][i] += part[r][i][own + w];
        }
}

/* Σ over the block's teams of a thread's columns, to out, (n_c): by xor within a warp that holds
 * several teams, then in order. */
template <int WIDTH, int ITEMS>
DEVICE void norm_column_sums(float *out, float (&own)[ITEMS][WIDTH],
                             float (&columns)[NORM_THREADS * NORM_COLUMNS], const norm_shape &shape)
{
    const int lanes = shape.lanes, lane = (int)threadIdx.x % lanes, pitch = lanes * NORM_COLUMNS;
    const int threads = lanes < 32 ? 32 : lanes, group = (int)threadIdx.x / threads;
    const int n_groups = (int)blockDim.x / threads;

    for (int turn = 16; turn >= lanes; turn /= 2)
#pragma unroll
        for (int i = 0; i < ITEMS; i++)
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                own[i][k] += __shfl_xor_sync(0xFFFFFFFFu, own[i][k], turn);
    __syncthreads();
    if ((int)threadIdx.x % threads < lanes)
#pragma unroll
        for (int i = 0; i < ITEMS; i++)
            element_store_lot(columns + group * pitch + (i * lanes + lane) * WIDTH, own[i]);
    __syncthreads();
    for (int c = (int)threadIdx.x; c < shape.n_c; c += (int)blockDim.x) {
        float sum = 0;

        for (int g = 0; g < n_groups; g++) sum += columns[g * pitch + c];
        out[c] = sum;
    }
}

/* Backward. g = dy act'(xhat gamma + beta):
 * d = dsum + rstd (g gamma − mean_c(g gamma) − xhat mean_c(g gamma xhat)), and Σ g xhat, Σ g.
 * A block owns a chunk of rows, a team of threads two rows at a time, a thread 8 channels of them,
 * which it keeps from the loads to the stores; so the channels' sums stay in registers for the whole
 * chunk, and dy, x and dsum are read once: 12 bytes an element, 6 in bf16, 10 where x alone is F32;
 * with the residual 20, 10 and 16, where two ops move 28, 14 and 24. Bound by memory, and for few
 * rows by latency: two rows, because that is 64 to 96 bytes a thread under way in bf16, 96 to 160
 * with x in F32, and half the barriers.
 * The chunks' sums are 2 C floats each, at most 256 chunks: at 4096 rows of bf16 another 1/6 of the
 * traffic, to L2. NULL: not wanted. */
template <class S, class T, int WIDTH>
__global__ static void __launch_bounds__(NORM_THREADS, 2)
    norm_bwd_teams(norm_bwd<S, T> p, float *sums, const norm_shape shape, int64_t chunk)
{
    enum { ITEMS = NORM_COLUMNS / WIDTH };
    __shared__ float part[2][NORM_ROWS][2][NORM_WARPS];
    __shared__ __align__(16) float columns[NORM_THREADS * NORM_COLUMNS];
    const int lanes = shape.lanes, lane = (int)threadIdx.x % lanes, n_c = shape.n_c;
    const int team = (int)threadIdx.x / lanes, n_teams = (int)blockDim.x / lanes;
    const int64_t first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < shape.n_rows ? first + chunk : shape.n_rows;
    const float scale = p.scale ? *p.scale : 1;
    float of_gamma[ITEMS][WIDTH] = {}, of_beta[ITEMS][WIDTH] = {}, gamma[ITEMS][WIDTH] = {};
    int turn = 0;

#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if ((i * lanes + lane) * WIDTH < n_c)
            element_load_lot(gamma[i], p.gamma + (i * lanes + lane) * WIDTH);
    for (int64_t n0 = first; n0 < end; n0 += NORM_ROWS * n_teams, turn ^= 1) {
        float xhat[NORM_ROWS][ITEMS][WIDTH], g[NORM_ROWS][ITEMS][WIDTH];
        float d[NORM_ROWS][ITEMS][WIDTH] = {}, two[NORM_ROWS][2] = {}, rstd[NORM_ROWS];

#pragma unroll
        for (int r = 0; r < NORM_ROWS; r++) {
            const int64_t n = n0 + r * n_teams + team;
            const float mean = n < end ? p.mean[n] : 0;

            rstd[r] = n < end ? p.rstd[n] : 0;
#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const int c = (i * lanes + lane) * WIDTH;
                float beta[WIDTH] = {};

                if (n >= end || c >= n_c) continue;
                element_load_lot(xhat[r][i], p.x + n * n_c + c);
                element_load_lot(g[r][i], p.dy + n * n_c + c);
                if (p.dsum) element_load_lot(d[r][i], p.dsum + n * n_c + c);
                if (p.with_gelu) element_load_lot(beta, p.beta + c);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) {
                    const float h = (xhat[r][i][k] - mean) * rstd[r];
                    float v = g[r][i][k];

                    if (p.with_gelu) v *= activation_slope(ACT_GELU, h * gamma[i][k] + beta[k]);
                    of_gamma[i][k] += v * h;
                    of_beta[i][k] += v;
                    v *= gamma[i][k];
                    two[r][0] += v;
                    two[r][1] += v * h;
                    g[r][i][k] = v;
                    xhat[r][i][k] = h;
                }
            }
        }
        if (!p.dx && !p.db) continue;
        norm_team_sums(two, part[turn], lanes);
#pragma unroll
        for (int r = 0; r < NORM_ROWS; r++) {
            const int64_t n = n0 + r * n_teams + team;
            const float plain = two[r][0] / (float)n_c, weighted = two[r][1] / (float)n_c;

#pragma unroll
            for (int i = 0; i < ITEMS; i++) {
                const int c = (i * lanes + lane) * WIDTH;

                if (n >= end || c >= n_c) continue;
#pragma unroll
                for (int k = 0; k < WIDTH; k++)
                    d[r][i][k] += rstd[r] * (g[r][i][k] - plain - xhat[r][i][k] * weighted);
                if (p.dx) element_gradient_lot(p.dx + n * n_c + c, p.add_x, d[r][i], WIDTH, true);
#pragma unroll
                for (int k = 0; k < WIDTH; k++) d[r][i][k] *= scale;
                if (p.db) element_gradient_lot(p.db + n * n_c + c, p.add_b, d[r][i], WIDTH, true);
            }
        }
    }
    if (!sums) return;
    sums += (int64_t)blockIdx.x * 2 * n_c;
    norm_column_sums<WIDTH, ITEMS>(sums, of_gamma, columns, shape);
    norm_column_sums<WIDTH, ITEMS>(sums + n_c, of_beta, columns, shape);
}

/* The same where rows do not lie on 16 bytes or are longer than a team: dx and db, by rows as
 * forward, element by element; x and dy are read twice, the second time from L1. No model has such
 * rows. */
template <class S, class T>
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_bwd_rows(norm_bwd<S, T> p, const norm_shape shape)
{
    const int lane = (int)threadIdx.x % shape.lanes;
    const int64_t row = norm_own_row(shape), first = (row >= 0 ? row : 0) * shape.n_c;
    const int end = row >= 0 ? shape.n_c : 0;
    const float mean = row >= 0 ? p.mean[row] : 0, rstd = row >= 0 ? p.rstd[row] : 0;
    const float scale = p.scale ? *p.scale : 1;
    float plain = 0, weighted = 0;

    for (int pass = 0; pass < 2; pass++) {
#pragma unroll 1 /* sm_80 has no registers for more */
        for (int c = lane; c < end; c += shape.lanes) {
            const float gamma = p.gamma[c];
            const float xhat = (element_load(p.x + first + c) - mean) * rstd;
            float g = element_load(p.dy + first + c);

            if (p.with_gelu) g *= activation_slope(ACT_GELU, xhat * gamma + p.beta[c]);
            g *= gamma;
            if (pass == 0) {
                plain += g;
                weighted += g * xhat;
                continue;
            }
            const float d = (p.dsum ? element_load(p.dsum + first + c) : 0) +
                            rstd * (g - plain - xhat * weighted);

            if (p.dx) element_gradient(p.dx + first + c, p.add_x, d);
            if (p.db) element_gradient(p.db + first + c, p.add_b, scale * d);
        }
        if (pass == 1) break;
        plain = warp_sum(plain, shape.lanes) / (float)shape.n_c;
        weighted = warp_sum(weighted, shape.lanes) / (float)shape.n_c;
    }
}

enum { NORM_STRIPES = NORM_WARPS };

/* Its sums over a chunk: a block owns a chunk and 32 columns, a warp each eighth row of it. The
 * warps' sums meet in shared memory, in order. */
template <class S, class T>
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_bwd_chunks(float *sums, norm_bwd<S, T> p, int64_t n_rows, int64_t chunk, int n_c)
{
    __shared__ float part[2][NORM_STRIPES][32];
    const int column = (int)threadIdx.x % 32, stripe = (int)threadIdx.x / 32;
    const int c = (int)blockIdx.y * 32 + column;
    const int64_t first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_rows ? first + chunk : n_rows;
    float of_gamma = 0, of_beta = 0;

    for (int64_t n = first + stripe; c < n_c && n < end; n += NORM_STRIPES) {
        const float xhat = (element_load(p.x + n * n_c + c) - p.mean[n]) * p.rstd[n];
        float g = element_load(p.dy + n * n_c + c);

        if (p.with_gelu) g *= activation_slope(ACT_GELU, xhat * p.gamma[c] + p.beta[c]);
        of_gamma += g * xhat;
        of_beta += g;
    }
    part[0][stripe][column] = of_gamma;
    part[1][stripe][column] = of_beta;
    __syncthreads();
    if (stripe < 2 && c < n_c) { /* a warp for dgamma, a warp for dbeta */
        float sum = 0;

        for (int k = 0; k < NORM_STRIPES; k++) sum += part[stripe][k][column];
        sums[((int64_t)blockIdx.x * 2 + stripe) * n_c + c] = sum;
    }
}

/* The chunks' sums, (n_chunks, 2, n_c), to dgamma and dbeta; NULL: not wanted. A block owns 32
 * columns, a warp every eighth chunk, in order; the warps' sums meet in shared memory, in order.
 * Bound by latency: 32 rows of 128 bytes a warp, eight under way. */
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_bwd_finish(float *dgamma, bool add_gamma, float *dbeta, bool add_beta, const float *sums,
                    int64_t n_chunks, int n_c)
{
    __shared__ float part[NORM_STRIPES][32];
    const int column = (int)threadIdx.x % 32, stripe = (int)threadIdx.x / 32;
    const int i = (int)blockIdx.x * 32 + column, c = i < n_c ? i : i - n_c;
    float *const out = i < n_c ? dgamma : dbeta;
    float sum = 0;

    if (i < 2 * n_c && out)
#pragma unroll 8
        for (int64_t k = stripe; k < n_chunks; k += NORM_STRIPES) sum += sums[k * 2 * n_c + i];
    part[stripe][column] = sum;
    __syncthreads();
    if (stripe > 0 || i >= 2 * n_c || !out) return;
    sum = 0;
    for (int k = 0; k < NORM_STRIPES; k++) sum += part[k][column];
    element_gradient(out + c, i < n_c ? add_gamma : add_beta, sum);
}

static inline unsigned norm_pieces(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

/* Lanes for rows by lots of `width`: a power of two up to a warp. */
static inline norm_shape norm_shape_of(int64_t n_rows, int64_t n_c, int width)
{
    norm_shape shape = { n_rows, (int)n_c, 1 };

    while (shape.lanes < 32 && (int64_t)shape.lanes * width < n_c) shape.lanes *= 2;
    return shape;
}

template <int N, class S, class T> static bool norm_in_lots(const norm_fwd<S, T> &p, int64_t n_c)
{
    return element_aligned<N>(p.y, n_c) && element_aligned<N>(p.x, n_c) &&
           element_aligned<N>(p.sum, n_c) && element_aligned<N>(p.b, n_c) &&
           element_aligned<N>(p.gamma, n_c) && element_aligned<N>(p.beta, n_c);
}

template <class S, class T>
static enum status norm_fwd_launch(const norm_fwd<S, T> &p, int64_t n_rows, int64_t n_c,
                                   struct stream *s)
{
    enum { N = element_lot<S, T>::WIDTH };
    const bool in_lots = norm_in_lots<N>(p, n_c), in_fours = norm_in_lots<4>(p, n_c);
    const norm_shape shape = norm_shape_of(n_rows, n_c, in_lots ? (int)N : in_fours ? 4 : 1);
    const unsigned n_blocks = norm_pieces(n_rows, NORM_THREADS / shape.lanes);

    if (n_rows == 0) return OK;
#define NORM_FWD(width, items)                                                                     \
    LAUNCH((norm_fwd_rows<S, T, width, items>), n_blocks, NORM_THREADS, 0, s, p, shape)
    if (!in_lots && in_fours && n_c <= 128)
        NORM_FWD(4, 1);
    else if (!in_lots && in_fours)
        NORM_FWD(4, 0);
    else if (!in_lots)
        NORM_FWD(1, 0);
    else if (n_c <= 256)
        NORM_FWD(N, 8 / N);
    else if (n_c <= 768)
        NORM_FWD(N, 24 / N);
    else if (n_c <= 1280)
        NORM_FWD(N, 40 / N);
    else
        NORM_FWD(N, 0);
#undef NORM_FWD
    return OK;
}

/* Rows of one chunk: fixed by the shape, hence the order of all sums. */
static inline int64_t norm_chunk(int64_t n_rows)
{
    static const int64_t min_chunk = 16, max_chunks = 256;
    const int64_t even = (n_rows + max_chunks - 1) / max_chunks;

    return (even + min_chunk - 1) / min_chunk * min_chunk + (even == 0 ? min_chunk : 0);
}

/* Bytes of the chunks' sums. */
static inline int64_t norm_bwd_scratch(int64_t n_rows, int64_t n_c)
{
    return norm_pieces(n_rows, norm_chunk(n_rows)) * 2 * n_c * (int64_t)sizeof(float);
}

template <int N, class S, class T> static bool norm_in_lots(const norm_bwd<S, T> &p, int64_t n_c)
{
    return n_c <= NORM_TEAM_C && element_aligned<N>(p.dx, n_c) && element_aligned<N>(p.db, n_c) &&
           element_aligned<N>(p.dsum, n_c) && element_aligned<N>(p.dy, n_c) &&
           element_aligned<N>(p.x, n_c) && element_aligned<N>(p.gamma, n_c) &&
           element_aligned<N>(p.beta, n_c);
}

template <class S, class T, int WIDTH>
static enum status norm_bwd_by_teams(const norm_bwd<S, T> &p, float *sums, int64_t n_rows,
                                     int64_t n_c, struct stream *s)
{
    norm_shape shape = norm_shape_of(n_rows, n_c, NORM_COLUMNS);

    if (n_c > 32 * NORM_COLUMNS) shape.lanes = (int)norm_pieces(n_c, 32 * NORM_COLUMNS) * 32;
    LAUNCH((norm_bwd_teams<S, T, WIDTH>), norm_pieces(n_rows, norm_chunk(n_rows)),
           (unsigned)(NORM_THREADS / shape.lanes * shape.lanes), 0, s, p, sums, shape,
           norm_chunk(n_rows));
    return OK;
}

template <class S, class T>
static enum status norm_bwd_by_elements(const norm_bwd<S, T> &p, float *sums, int64_t n_rows,
                                        int64_t n_c, struct stream *s)
{
    const norm_shape shape = norm_shape_of(n_rows, n_c, 1);
    const int64_t chunk = norm_chunk(n_rows);

    if (sums)
        LAUNCH((norm_bwd_chunks<S, T>), dim3(norm_pieces(n_rows, chunk), norm_pieces(n_c, 32)),
               NORM_THREADS, 0, s, sums, p, n_rows, chunk, (int)n_c);
    if (p.dx || p.db)
        LAUNCH((norm_bwd_rows<S, T>), norm_pieces(n_rows, NORM_THREADS / shape.lanes), NORM_THREADS,
               0, s, p, shape);
    return OK;
}

/* sums: norm_bwd_scratch bytes */
template <class S, class T>
static enum status norm_bwd_launch(const norm_bwd<S, T> &p, struct tensor dgamma,
                                   struct tensor dbeta, float *sums, int64_t n_rows, int64_t n_c,
                                   struct stream *s)
{
    enum { N = element_lot<S, T>::WIDTH };
    float *const wanted = dgamma.data || dbeta.data ? sums : NULL;

    if (n_rows == 0)
        ;
    else if (norm_in_lots<N>(p, n_c))
        TRY((norm_bwd_by_teams<S, T, N>(p, wanted, n_rows, n_c, s)));
    else if (norm_in_lots<4>(p, n_c))
        TRY((norm_bwd_by_teams<S, T, 4>(p, wanted, n_rows, n_c, s)));
    else
        TRY(norm_bwd_by_elements(p, wanted, n_rows, n_c, s));
    if (!wanted) return OK;
    LAUNCH(norm_bwd_finish, norm_pieces(2 * n_c, 32), NORM_THREADS, 0, s, (float *)dgamma.data,
           dgamma.add, (float *)dbeta.data, dbeta.add, sums,
           (int64_t)norm_pieces(n_rows, norm_chunk(n_rows)), (int)n_c);
    return OK;
}

#endif

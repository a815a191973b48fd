/* Attention without its matrix of weights, computed in f32: tiles of 32 queries meet tiles of 32 keys.
 *
 * A problem says where the rows of queries, keys and values stand, one slice (a mask or a window,
 * and a head) at a time, and where results go; padding, key counts and relative positions are its
 * business, and so is the type of rows, float or bf16. Sums are of one order: tiles in theirs, then
 * slices that share a row.
 *
 * A thread owns two rows of a tile and, as one of 8 lanes, every eighth column: of a tile of scores
 * four, of a tile of D channels OWN_C. The lanes of a row are in one warp.
 * Two blocks a multiprocessor are asked for backward: left alone, ptxas spills for a third. */
#ifndef KERNELS_CUDA_FLASH_H
#define KERNELS_CUDA_FLASH_H

#include <type_traits>

#include "kernels/cuda/element.h"

enum { ROWS = 32, LANES = 8, OWN_ROWS = 2, OWN_S = ROWS / LANES, FLASH_THREADS = 128 };
enum { FLASH_WARPS = FLASH_THREADS / 32, MAX_OWN_C = 12, FLASH_MAX_D = MAX_OWN_C * LANES };
enum part { QUERY, KEY, VALUE, GRADIENT }; /* GRADIENT: dy, a row for every query */

struct slice_range {
    int64_t first, end;
};

#define FLASH_TILE(name) __shared__ float name[ROWS][OWN_C * LANES + 1] /* no bank conflicts */

/* Rows that are not there are zero, and so are the columns behind d. A thread takes 16 bytes of a row
 * at a time where rows lie on them. */
template <class SLICE, int PITCH>
DEVICE void load_rows(float (&tile)[ROWS][PITCH], const SLICE &slice, part which, int first, int d)
{
    typedef std::remove_cv_t<std::remove_pointer_t<decltype(slice.row(which, first))>> T;
    enum { N = element_lot<T>::WIDTH, LOTS = (PITCH - 1) / N };

    for (int i = (int)threadIdx.x; i < ROWS * LOTS; i += FLASH_THREADS) {
        const int r = i / LOTS, c = i % LOTS * N;
        const T *const row = slice.row(which, first + r);
        float v[N] = {};

        if (row) element_load_lot(v, row + c, d - c, (uintptr_t)row % 16 == 0);
#pragma unroll
        for (int k = 0; k < N; k++) tile[r][c + k] = v[k];
    }
}

/* sum[r][j] = Σc a[own + r][c] b[lane + 8 j][c] */
template <int PITCH>
DEVICE void row_products(float (&sum)[OWN_ROWS][OWN_S], const float (&a)[ROWS][PITCH],
                         const float (&b)[ROWS][PITCH], int own, int lane, int d)
{
#pragma unroll
    for (int r = 0; r < OWN_ROWS; r++)
#pragma unroll
        for (int j = 0; j < OWN_S; j++) sum[r][j] = 0;
    for (int c = 0; c < d; c++) {
#pragma unroll
        for (int j = 0; j < OWN_S; j++) {
            const float v = b[lane + LANES * j][c];

#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++) sum[r][j] += a[own + r][c] * v;
        }
    }
}

/* sum[r][i] += Σt weight[own + r][t] b[t][lane + 8 i] */
template <int OWN_C, int PITCH>
DEVICE void add_weighted(float (&sum)[OWN_ROWS][OWN_C], const float (&weight)[ROWS][ROWS + 1],
                         const float (&b)[ROWS][PITCH], int own, int lane)
{
    for (int t = 0; t < ROWS; t++) {
#pragma unroll
        for (int i = 0; i < OWN_C; i++) {
            const float v = b[t][lane + LANES * i];

#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++) sum[r][i] += weight[own + r][t] * v;
        }
    }
}

DEVICE float lanes_max(float v)
{
    for (int turn = LANES / 2; turn > 0; turn /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, turn));
    return v;
}

/* Forward. A block owns 32 queries of a slice, a warp 8, a thread 2 with every eighth channel.
 * Queries are read once, keys and values once for every 32 queries; y and lse are written once.
 * Bound by FMA and shared memory: 6 loads for 8 FMA of a thread.
 * Keys and values take turns in one tile, so that D = 96 fits where no limit is raised. */
template <class PROBLEM, int OWN_C>
__global__ static void __launch_bounds__(FLASH_THREADS) flash_fwd(PROBLEM p)
{
    FLASH_TILE(q_tile);
    FLASH_TILE(other);
    __shared__ float weight[ROWS][ROWS + 1];
    const int lane = (int)threadIdx.x % LANES, own = (int)threadIdx.x / LANES * OWN_ROWS;
    const int q0 = (int)blockIdx.y * ROWS, head = (int)blockIdx.x % p.heads;
    const auto slice = p.slice((int)blockIdx.x / p.heads, head);
    float y[OWN_ROWS][OWN_C] = {}, sum[OWN_ROWS] = {}, max[OWN_ROWS];
    int64_t at[OWN_ROWS];

#pragma unroll
    for (int r = 0; r < OWN_ROWS; r++) {
        max[r] = -INFINITY;
        at[r] = slice.query(q0 + own + r);
    }
    load_rows(q_tile, slice, QUERY, q0, p.d);
    for (int k0 = 0; k0 < slice.n_k; k0 += ROWS) {
        float s[OWN_ROWS][OWN_S];

        __syncthreads();
        load_rows(other, slice, KEY, k0, p.d);
        __syncthreads();
        row_products(s, q_tile, other, own, lane, p.d);
        __syncthreads();
        load_rows(other, slice, VALUE, k0, p.d);
#pragma unroll
        for (int r = 0; r < OWN_ROWS; r++) {
            float top = max[r], total = 0;

#pragma unroll
            for (int j = 0; j < OWN_S; j++) {
                const int key = k0 + lane + LANES * j;

                s[r][j] = key < slice.n_k ? s[r][j] * p.scale + slice.bias(at[r], key) : -INFINITY;
                top = fmaxf(top, s[r][j]);
            }
            top = lanes_max(top);
            const float factor = expf(max[r] - top);

#pragma unroll
            for (int j = 0; j < OWN_S; j++) {
                const float w = expf(s[r][j] - top);

                weight[own + r][lane + LANES * j] = w;
                total += w;
            }
            sum[r] = sum[r] * factor + warp_sum(total, LANES);
            max[r] = top;
#pragma unroll
            for (int i = 0; i < OWN_C; i++) y[r][i] *= factor;
        }
        __syncthreads();
        add_weighted(y, weight, other, own, lane);
    }
#pragma unroll
    for (int r = 0; r < OWN_ROWS; r++) {
        if (at[r] < 0) continue;
        auto *const out = slice.y_row(q0 + own + r);

#pragma unroll
        for (int i = 0; i < OWN_C; i++)
            if (lane + LANES * i < p.d) element_store(out + lane + LANES * i, y[r][i] / sum[r]);
        if (lane == 0) p.lse_out[at[r]] = max[r] + logf(sum[r]);
    }
}

/* delta[n,head,t] = Σc dy y of that head. A warp owns a row: both are read once. Bound by memory. */
template <class T>
__global__ static void __launch_bounds__(FLASH_THREADS)
    flash_delta(float *delta, const T *dy, const T *y, int64_t n_rows, int64_t n_t, int heads,
                int d)
{
    const int64_t row = (int64_t)blockIdx.x * FLASH_WARPS + (int)threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    const int64_t n = row / (heads * n_t), head = row / n_t % heads, t = row % n_t;
    const int64_t first = ((n * n_t + t) * heads + head) * d;
    float sum = 0;

    for (int c = lane; row < n_rows && c < d; c += 32)
        sum += element_load(dy + first + c) * element_load(y + first + c);
    sum = warp_sum(sum);
    if (row < n_rows && lane == 0) delta[row] = sum;
}

/* dq. A block owns 32 queries, over all slices that share them, a thread 2 with every eighth
 * channel. Keys and values are read once for every 32 queries of a slice, dq is written once.
 * Bound by FMA and shared memory, as forward. Values come before keys, which serve twice. */
template <class PROBLEM, int OWN_C>
__global__ static void __launch_bounds__(FLASH_THREADS, 2) flash_dq(PROBLEM p)
{
    FLASH_TILE(q_tile);
    FLASH_TILE(dy_tile);
    FLASH_TILE(other);
    __shared__ float weight[ROWS][ROWS + 1];
    const int lane = (int)threadIdx.x % LANES, own = (int)threadIdx.x / LANES * OWN_ROWS;
    const int q0 = (int)blockIdx.y * ROWS, head = (int)blockIdx.x % p.heads;
    const int64_t owner = (int)blockIdx.x / p.heads;
    const slice_range slices = p.slices_of_query(owner);
    float dq[OWN_ROWS][OWN_C] = {};
    int64_t at[OWN_ROWS] = { -1, -1 };

    for (int64_t m = slices.first; m < slices.end; m++) {
        const auto slice = p.slice(m, head);
        float lse[OWN_ROWS], delta[OWN_ROWS];

#pragma unroll
        for (int r = 0; r < OWN_ROWS; r++) {
            at[r] = slice.query(q0 + own + r);
            lse[r] = at[r] < 0 ? INFINITY : p.lse[at[r]]; /* INFINITY: no weight */
            delta[r] = at[r] < 0 ? 0 : p.delta[at[r]];
            p.begin_terms(at[r], lane);
        }
        __syncthreads();
        load_rows(q_tile, slice, QUERY, q0, p.d);
        load_rows(dy_tile, slice, GRADIENT, q0, p.d);
        for (int k0 = 0; k0 < slice.n_k; k0 += ROWS) {
            float s[OWN_ROWS][OWN_S], dp[OWN_ROWS][OWN_S];

            __syncthreads();
            load_rows(other, slice, VALUE, k0, p.d);
            __syncthreads();
            row_products(dp, dy_tile, other, own, lane, p.d);
            __syncthreads();
            load_rows(other, slice, KEY, k0, p.d);
            __syncthreads();
            row_products(s, q_tile, other, own, lane, p.d);
#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++)
#pragma unroll
                for (int j = 0; j < OWN_S; j++) {
                    const int key = k0 + lane + LANES * j;
                    float ds = 0;

                    if (key < slice.n_k && at[r] >= 0)
                        ds = expf(s[r][j] * p.scale + slice.bias(at[r], key) - lse[r]) *
                             (dp[r][j] - delta[r]);
                    weight[own + r][lane + LANES * j] = ds;
                }
            __syncwarp();
            add_weighted(dq, weight, other, own, lane);
#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++) slice.add_terms(at[r], weight[own + r], k0, lane);
        }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < OWN_ROWS; r++) {
        const int t = q0 + own + r;
        auto *const out = p.dq_row(owner, head, t);

#pragma unroll
        for (int i = 0; i < OWN_C; i++) {
            const int c = lane + LANES * i;

            if (out && c < p.d)
                element_gradient(out + c, p.add_q,
                                 dq[r][i] * p.scale + p.terms_gradient(at[r], t, c));
        }
    }
}

/* dk and dv. A block owns 32 keys, over all slices that share them, a thread 2 with every eighth
 * channel. Queries and dy are read once for every 32 keys of a slice, queries twice; dk and dv are
 * written once. Bound by FMA and shared memory, as forward. Queries and dy take turns in one tile.
 * Padding keys are summed over the tile: what they give is one row of each. */
template <class PROBLEM, int OWN_C>
__global__ static void __launch_bounds__(FLASH_THREADS, 2) flash_dkv(PROBLEM p)
{
    FLASH_TILE(k_tile);
    FLASH_TILE(v_tile);
    FLASH_TILE(other);
    __shared__ float weight[ROWS][ROWS + 1], lse[ROWS], delta[ROWS];
    __shared__ int64_t at[ROWS];
    const int lane = (int)threadIdx.x % LANES, own = (int)threadIdx.x / LANES * OWN_ROWS;
    const int k0 = (int)blockIdx.y * ROWS, head = (int)blockIdx.x % p.heads;
    const int64_t owner = (int)blockIdx.x / p.heads;
    const slice_range slices = p.slices_of_key(owner);
    float dk[OWN_ROWS][OWN_C] = {}, dv[OWN_ROWS][OWN_C] = {};

    for (int64_t m = slices.first; m < slices.end; m++) {
        const auto slice = p.slice(m, head);

        if (k0 >= slice.n_k) continue;
        load_rows(k_tile, slice, KEY, k0, p.d);
        load_rows(v_tile, slice, VALUE, k0, p.d);
        for (int q0 = 0; q0 < slice.n_q; q0 += ROWS) {
            float s[OWN_ROWS][OWN_S], dp[OWN_ROWS][OWN_S];

            __syncthreads();
            load_rows(other, slice, QUERY, q0, p.d);
            if (threadIdx.x < ROWS) {
                const int64_t i = slice.query(q0 + (int)threadIdx.x);

                at[threadIdx.x] = i;
                lse[threadIdx.x] = i < 0 ? INFINITY : p.lse[i]; /* INFINITY: no weight */
                delta[threadIdx.x] = i < 0 ? 0 : p.delta[i];
            }
            __syncthreads();
            row_products(s, k_tile, other, own, lane, p.d);
#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++)
#pragma unroll
                for (int j = 0; j < OWN_S; j++) {
                    const int key = k0 + own + r, q = lane + LANES * j;

                    s[r][j] = key < slice.n_k && at[q] >= 0
                                  ? expf(s[r][j] * p.scale + slice.bias(at[q], key) - lse[q])
                                  : 0;
                    weight[own + r][q] = s[r][j];
                }
            __syncthreads();
            load_rows(other, slice, GRADIENT, q0, p.d);
            __syncthreads();
            row_products(dp, v_tile, other, own, lane, p.d);
            add_weighted(dv, weight, other, own, lane);
            __syncthreads();
            load_rows(other, slice, QUERY, q0, p.d);
#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++)
#pragma unroll
                for (int j = 0; j < OWN_S; j++) {
                    const int q = lane + LANES * j;

                    weight[own + r][q] = s[r][j] * (dp[r][j] - delta[q]);
                }
            __syncthreads();
            add_weighted(dk, weight, other, own, lane);
        }
    }
#pragma unroll
    for (int r = 0; r < OWN_ROWS; r++) {
        auto *const out_k = p.dk_row(owner, head, k0 + own + r);
        auto *const out_v = p.dv_row(owner, head, k0 + own + r);

#pragma unroll
        for (int i = 0; i < OWN_C; i++) {
            const int c = lane + LANES * i;

            dk[r][i] *= p.scale;
            if (out_k && c < p.d) element_gradient(out_k + c, p.add_k, dk[r][i]);
            if (out_v && c < p.d) element_gradient(out_v + c, p.add_v, dv[r][i]);
        }
    }
    for (int part = 0; p.padding_sums && part < 2; part++) {
        float sum = 0;

        __syncthreads();
#pragma unroll
        for (int r = 0; r < OWN_ROWS; r++) {
            const bool counts = p.is_padding(owner, k0 + own + r);

#pragma unroll
            for (int i = 0; i < OWN_C; i++)
                other[own + r][lane + LANES * i] = !counts ? 0 : part == 0 ? dk[r][i] : dv[r][i];
        }
        __syncthreads();
        if ((int)threadIdx.x >= p.d) continue; /* D is below a block's threads */
        for (int r = 0; r < ROWS; r++) sum += other[r][threadIdx.x];
        p.padding_sums[(((owner * gridDim.y + blockIdx.y) * 2 + part) * p.heads + head) * p.d +
                       (int)threadIdx.x] = sum;
    }
}

static inline int64_t flash_tiles(int64_t n)
{
    return (n + ROWS - 1) / ROWS;
}

static const int64_t FLASH_MAX_TILES = 65535; /* a grid's second dimension */

static inline enum status flash_check(const char *op, int64_t n_slices, int64_t heads, int64_t n_t,
                                      int64_t d)
{
    if (d > FLASH_MAX_D || flash_tiles(n_t) > FLASH_MAX_TILES || n_slices * heads > INT32_MAX)
        FAIL(E_SHAPE, "%s: D %lld, %lld tokens, %lld heads of %lld: the kernel takes D up to %d",
             op, (long long)d, (long long)n_t, (long long)heads, (long long)n_slices, FLASH_MAX_D);
    return OK;
}

/* kernel over the tiles of n_t rows of n_slices × heads; where there are none, nothing */
#define FLASH_LAUNCH(kernel, problem, n_slices, n_t, s)                                            \
    do {                                                                                           \
        const dim3 grid_((unsigned)((n_slices) * (problem).heads), (unsigned)flash_tiles(n_t));    \
        if (grid_.x == 0 || grid_.y == 0) break;                                                   \
        if ((problem).d <= 4 * LANES)                                                              \
            LAUNCH((kernel<decltype(problem), 4>), grid_, FLASH_THREADS, 0, s, problem);           \
        else if ((problem).d <= 8 * LANES)                                                         \
            LAUNCH((kernel<decltype(problem), 8>), grid_, FLASH_THREADS, 0, s, problem);           \
        else                                                                                       \
            LAUNCH((kernel<decltype(problem), MAX_OWN_C>), grid_, FLASH_THREADS, 0, s, problem);   \
    } while (0)

/* y and dy (N,T,A·D), delta (N,A,T) */
static inline enum status flash_deltas(float *delta, struct tensor dy, struct tensor y, int64_t n,
                                       int64_t n_t, int64_t heads, int64_t d, struct stream *s)
{
    const int64_t n_rows = n * n_t * heads;

    if (n_rows == 0) return OK;
    BY_DTYPE(dy, LAUNCH(flash_delta<T>, (unsigned)((n_rows + FLASH_WARPS - 1) / FLASH_WARPS),
                        FLASH_THREADS, 0, s, delta, (const T *)dy.data, (const T *)y.data, n_rows,
                        n_t, (int)heads, (int)d));
    return OK;
}

#endif

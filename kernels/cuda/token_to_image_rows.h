/* What is done to the rows of token_to_image, one for each token of each head: between the tiles or
 * products over positions, and behind them. */
#ifndef KERNELS_CUDA_TOKEN_TO_IMAGE_ROWS_H
#define KERNELS_CUDA_TOKEN_TO_IMAGE_ROWS_H

#include <cmath>

#include "kernels/cuda/element.h"

enum { ROW_THREADS = 128, BIAS_COLUMNS = 32, BIAS_STRIPES = 8 };
static const float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

/* (q·bk)/√D of a token and head, the part of every score that is not in lse of the tiles: on all
 * lanes of the warp that asks. */
template <class T> DEVICE float bias_score(const T *q, const float *bk, int d, float scale)
{
    float sum = 0;

    for (int c = (int)threadIdx.x % 32; c < d; c += 32) sum += element_load(q + c) * bk[c];
    return warp_sum(sum) * scale;
}

/* What a kernel of rows must know of them: row (m,a,t) of a head's n_own rows of pitch elements. */
struct head_rows {
    int heads, t, d, c;
    int n_own, pitch; /* 16 and CP, or t and C */
    float scale;

    DEVICE int64_t token(int64_t row) const /* of q and dy: elements before (m,t,a) */
    {
        const int64_t m = row / (heads * t), head = row / t % heads;

        return ((m * t + row % t) * heads + head) * d;
    }
};

/* z and lse from the splits' parts. A block owns a row: parts are read once, z is written once.
 * Bound by memory: 131 KB for each split of SAM's mask, beside the 2.1 MB of its x. */
template <class T>
__global__ static void __launch_bounds__(ROW_THREADS)
    merge(T *z, float *lse, const float *sums, const float *stats, int n_splits, const T *q,
          const float *bk, head_rows g)
{
    const int64_t row = blockIdx.x;
    const int64_t m = row / (g.heads * g.t), head = row / g.t % g.heads, t = row % g.t;
    const int64_t first = (m * n_splits * g.heads + head) * g.n_own + t;
    const int64_t split = (int64_t)g.heads * g.n_own;
    float top = -INFINITY, total = 0;

    for (int k = 0; k < n_splits; k++) top = fmaxf(top, stats[(first + k * split) * 2]);
    for (int k = 0; k < n_splits; k++) {
        const float *const part = stats + (first + k * split) * 2;

        total += part[1] * exp2f(part[0] - top);
    }
    for (int c = (int)threadIdx.x; c < g.c; c += ROW_THREADS) {
        float sum = 0;

        for (int k = 0; k < n_splits; k++)
            sum += sums[(first + k * split) * g.pitch + c] *
                   exp2f(stats[(first + k * split) * 2] - top);
        element_store(z + row * g.c + c, sum / total);
    }
    if (threadIdx.x >= 32) return;
    const float bias = bias_score(q + g.token(row), bk + head * g.d, g.d, g.scale);

    if (threadIdx.x == 0) lse[row] = (top + log2f(total)) * LN_2 + bias;
}

/* Scores become weights. A block owns a row, read three times. Bound by memory. */
template <class T>
__global__ static void __launch_bounds__(ROW_THREADS)
    soften_rows(float *scores, float *lse, int n_x, const T *q, const float *bk, head_rows g)
{
    __shared__ float part[2][ROW_THREADS / 32];
    const int64_t row = blockIdx.x;
    float *const own = scores + row * n_x;
    float top = -INFINITY, total = 0;

    for (int i = (int)threadIdx.x; i < n_x; i += ROW_THREADS) top = fmaxf(top, own[i]);
    for (int turn = 16; turn > 0; turn /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, turn));
    if (threadIdx.x % 32 == 0) part[0][threadIdx.x / 32] = top;
    __syncthreads();
    for (int k = 0; k < ROW_THREADS / 32; k++) top = fmaxf(top, part[0][k]);
    for (int i = (int)threadIdx.x; i < n_x; i += ROW_THREADS) {
        const float weight = exp2f(own[i] - top);

        own[i] = weight;
        total += weight;
    }
    total = warp_sum(total);
    if (threadIdx.x % 32 == 0) part[1][threadIdx.x / 32] = total;
    __syncthreads();
    total = 0;
    for (int k = 0; k < ROW_THREADS / 32; k++) total += part[1][k];
    for (int i = (int)threadIdx.x; i < n_x; i += ROW_THREADS) own[i] /= total;
    if (threadIdx.x >= 32) return;
    const float bias = bias_score(q + g.token(row), bk + row / g.t % g.heads * g.d, g.d, g.scale);

    if (threadIdx.x == 0) lse[row] = (top + log2f(total)) * LN_2 + bias;
}

/* terms of each row: lse as the scores are kept, and delta = Σc dz z. Rows behind a head's last token
 * get no weight. A warp owns a row: dz and z are read once. Bound by memory. */
template <class T, class TD>
__global__ static void __launch_bounds__(ROW_THREADS)
    row_terms(float *terms, const float *lse, const T *z, const TD *dz, const T *q, const float *bk,
              head_rows g, int64_t n_rows)
{
    const int64_t place = (int64_t)blockIdx.x * (ROW_THREADS / 32) + (int)threadIdx.x / 32;
    const int64_t head_row = place / g.n_own * g.t, t = place % g.n_own, row = head_row + t;
    const int lane = (int)threadIdx.x % 32;
    const bool there = place < n_rows && t < g.t;
    float delta = 0, bias = 0;

    if (there) { /* the whole warp */
        for (int c = lane; c < g.c; c += 32)
            delta += element_load(dz + place * g.pitch + c) * element_load(z + row * g.c + c);
        delta = warp_sum(delta);
        bias = bias_score(q + g.token(row), bk + row / g.t % g.heads * g.d, g.d, g.scale);
    }
    if (lane == 0 && place < n_rows) {
        terms[place * 2] = there ? (lse[row] - bias) * LOG2_E : INFINITY;
        terms[place * 2 + 1] = delta;
    }
}

/* Scores become weights, dp becomes slopes. A thread owns one of each. Bound by memory: 16 bytes. */
__global__ static void __launch_bounds__(ROW_THREADS)
    slopes_of_rows(float *scores, float *dp, const float *terms, int64_t n_x, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * ROW_THREADS + (int)threadIdx.x;

    if (i >= n) return;
    const float *const own = terms + i / n_x * 2;
    const float weight = exp2f(scores[i] - own[0]);

    scores[i] = weight;
    dp[i] = weight * (dp[i] - own[1]) * LN_2;
}

/* The splits' parts of each element become one, in the first's place. A thread owns an element of a
 * mask's. Bound by memory. */
__global__ static void __launch_bounds__(ROW_THREADS)
    merge_sums(float *sums, int n_splits, int64_t n_own)
{
    const int64_t c = (int64_t)blockIdx.x * ROW_THREADS + (int)threadIdx.x;
    float *const own = sums + (int64_t)blockIdx.y * n_splits * n_own + c;
    float sum = 0;

    if (c >= n_own) return;
    for (int k = 0; k < n_splits; k++) sum += own[k * n_own];
    own[0] = sum;
}

/* dbv = Σ dy over rows, and dbk, which is zero. A block owns 32 columns, a warp every eighth row of
 * them. Few rows: latency bounds it, beside larger kernels. */
template <class T>
__global__ static void __launch_bounds__(BIAS_COLUMNS *BIAS_STRIPES)
    bias_gradients(float *dbv, bool add_v, float *dbk, const T *dy, int64_t n_rows, int n_c)
{
    __shared__ float part[BIAS_STRIPES][BIAS_COLUMNS];
    const int column = (int)threadIdx.x % BIAS_COLUMNS, stripe = (int)threadIdx.x / BIAS_COLUMNS;
    const int c = (int)blockIdx.x * BIAS_COLUMNS + column;
    float sum = 0;

    for (int64_t row = stripe; row < n_rows && c < n_c; row += BIAS_STRIPES)
        sum += element_load(dy + row * n_c + c);
    part[stripe][column] = sum;
    __syncthreads();
    if (stripe > 0 || c >= n_c) return;
    sum = 0;
    for (int k = 0; k < BIAS_STRIPES; k++) sum += part[k][column];
    if (dbv) element_gradient(dbv + c, add_v, sum);
    if (dbk) dbk[c] = 0;
}

#endif

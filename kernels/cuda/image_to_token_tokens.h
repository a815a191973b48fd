/* The side of the tokens: projections into a, b, c, and their gradients back to k, v and weights.
 * Few numbers: a mask's 2 · 128 rows of 256 channels are half a million products each way. */
#ifndef KERNELS_CUDA_IMAGE_TO_TOKEN_TOKENS_H
#define KERNELS_CUDA_IMAGE_TO_TOKEN_TOKENS_H

#include "kernels/cuda/image_to_token_problem.h"

enum { ABSORB_THREADS = 256, GRADIENT_WARPS = 8, GRADIENT_THREADS = GRADIENT_WARPS * 32 };
enum { D_CHUNK = 16 };

/* A block owns a head of a mask, a thread every 256th channel of its 16 rows of a and b.
 * Weights of the head are read once a mask, from L2; k and v are the same for the whole warp.
 * Bound by latency of L2: 0.5 M FMA a mask on A · M blocks. */
template <class T, class S>
__global__ static void __launch_bounds__(ABSORB_THREADS) absorb(problem<T> f, workspace<S> w)
{
    const int head = (int)blockIdx.x % f.heads, first = head * f.d;
    const int64_t m = (int)blockIdx.x / f.heads, row = (int64_t)blockIdx.x * TOKENS;
    const int n = f.n_tokens[m];
    const T *const k = f.k + m * f.n_tok * f.inner + first;
    const T *const v = f.v + m * f.n_tok * f.inner + first;

    for (int c = (int)threadIdx.x; c < f.n_c; c += ABSORB_THREADS) {
        float of_k[TOKENS] = {}, of_v[TOKENS] = {};

        for (int i = 0; i < f.d; i++) {
            const float wq = element_load(f.wq + (int64_t)(first + i) * f.n_c + c);
            const float wo = element_load(f.wo + (int64_t)c * f.inner + first + i);

#pragma unroll
            for (int j = 0; j < TOKENS; j++) {
                if (j >= n) continue;
                of_k[j] += wq * element_load(k + j * f.inner + i);
                of_v[j] += wo * element_load(v + j * f.inner + i);
            }
        }
#pragma unroll
        for (int j = 0; j < TOKENS; j++) {
            element_store(w.a + (row + j) * f.n_c + c, of_k[j] * f.scale);
            element_store(w.b + (row + j) * f.n_c + c, of_v[j]);
        }
    }
    if (threadIdx.x < TOKENS) {
        const int j = (int)threadIdx.x;
        float sum = 0;

        for (int i = 0; j < n && i < f.d; i++)
            sum += f.bq[first + i] * element_load(k + j * f.inner + i);
        w.c[row + j] = j < n ? sum * f.scale : -INFINITY;
    }
}

/* sums = Σ of the chunks' parts, in order. A thread owns a number: each part is read once. */
__global__ static void __launch_bounds__(GRADIENT_THREADS)
    merge_chunks(float *sums, const float *parts, int64_t n_chunks, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * GRADIENT_THREADS + (int)threadIdx.x;
    float sum = 0;

    if (i >= n) return;
    for (int64_t k = 0; k < n_chunks; k++) sum += parts[k * n + i];
    sums[i] = sum;
}

/* dx = Σ over groups of masks, in order. A thread owns a number. */
template <class T>
__global__ static void __launch_bounds__(GRADIENT_THREADS)
    merge_groups(T *dx, bool add, const float *groups, int64_t n_groups, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * GRADIENT_THREADS + (int)threadIdx.x;
    float sum = 0;

    if (i >= n) return;
    for (int64_t k = 0; k < n_groups; k++) sum += groups[k * n + i];
    element_gradient(dx + i, add, sum);
}

enum { COLUMNS = 32, STRIPES = 32 };

/* Rows of columns, in blocks of `together` rows that begin `apart` numbers from each other. */
struct row_list {
    const float *p;
    int64_t n_rows, together, apart, batch; /* batch: numbers from one batch to the next */
};

/* out (n_batches, n_c) = Σ over a batch's rows. A block owns 32 columns of a batch, a warp every 32nd
 * row; the warps' sums meet in shared memory, in order. Rows are read once: bound by memory. */
__global__ static void __launch_bounds__(COLUMNS *STRIPES)
    sum_columns(float *out, bool add, row_list in, int n_c)
{
    __shared__ float part[STRIPES][COLUMNS + 1];
    const int n_blocks = (n_c + COLUMNS - 1) / COLUMNS;
    const int column = (int)threadIdx.x % COLUMNS, stripe = (int)threadIdx.x / COLUMNS;
    const int c = (int)blockIdx.x % n_blocks * COLUMNS + column;
    const int64_t batch = (int)blockIdx.x / n_blocks;
    const float *const p = in.p + batch * in.batch;
    float sum = 0;

    if (c < n_c)
        for (int64_t r = stripe; r < in.n_rows; r += STRIPES)
            sum += p[r / in.together * in.apart + r % in.together * n_c + c];
    part[stripe][column] = sum;
    __syncthreads();
    if (stripe > 0 || c >= n_c) return;
    sum = 0;
    for (int k = 0; k < STRIPES; k++) sum += part[k][column];
    element_gradient(out + batch * n_c + c, add, sum);
}

template <class T> struct token_gradient {
    T *p;
    bool add;
};

/* dk = scale (Wq da + bq dc), dv = Woᵀ db. A block owns a head of a mask, a warp one number of each
 * at a time, its lanes every 32nd channel. da and db are read d times, from L1; Wo's columns lie
 * apart, but a head's 8 KB of them stay in L1. Bound by latency, as absorb. NULL: not wanted. */
template <class T>
__global__ static void __launch_bounds__(GRADIENT_THREADS)
    token_gradients(token_gradient<T> dk, token_gradient<T> dv, problem<T> f, const float *sums,
                    const float *dc)
{
    const int head = (int)blockIdx.x % f.heads, lane = (int)threadIdx.x % 32;
    const int64_t m = (int)blockIdx.x / f.heads, row = (int64_t)blockIdx.x * TOKENS;
    const int n = f.n_tokens[m];
    const float *const da = sums + (m * 2 * f.n_rows + head * TOKENS) * f.n_c;
    const float *const db = da + (int64_t)f.n_rows * f.n_c;

    for (int o = (int)threadIdx.x / 32; o < f.n_tok * f.d; o += GRADIENT_WARPS) {
        const int j = o / f.d, i = head * f.d + o % f.d;
        const int64_t at = (m * f.n_tok + j) * f.inner + i;
        float of_k = 0, of_v = 0;

        for (int c = lane; j < n && c < f.n_c; c += 32) {
            of_k += element_load(f.wq + (int64_t)i * f.n_c + c) * da[j * f.n_c + c];
            of_v += element_load(f.wo + (int64_t)c * f.inner + i) * db[j * f.n_c + c];
        }
        of_k = warp_sum(of_k);
        of_v = warp_sum(of_v);
        if (lane > 0) continue;
        if (j < n) of_k = f.scale * (of_k + f.bq[i] * dc[row + j]);
        if (dk.p) element_gradient(dk.p + at, dk.add, of_k);
        if (dv.p) element_gradient(dv.p + at, dv.add, of_v);
    }
}

struct weight_gradient {
    float *p;
    bool add;
};

/* dWq[i] = scale Σ k[i] da and dWo[,i] = Σ v[i] db over masks and tokens. A block owns 32 channels
 * and 16 of a head's d, a warp every 8th mask, a thread a channel; the warps' sums meet in shared
 * memory, in order. da and db are read once for every 16 of d: bound by L2, 0.25 MB a mask. */
template <class T>
__global__ static void __launch_bounds__(GRADIENT_THREADS)
    weight_gradients(weight_gradient dwq, weight_gradient dwo, problem<T> f, const float *sums)
{
    __shared__ float part[GRADIENT_WARPS][D_CHUNK][32];
    const bool of_q = blockIdx.z == 0;
    const int n_chunks = (f.d + D_CHUNK - 1) / D_CHUNK;
    const int head = (int)blockIdx.y / n_chunks, first = (int)blockIdx.y % n_chunks * D_CHUNK;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int c = (int)blockIdx.x * 32 + lane;
    const T *const tokens = (of_q ? f.k : f.v) + head * f.d + first;
    float sum[D_CHUNK] = {};

    for (int64_t m = warp; c < f.n_c && m < f.n_masks; m += GRADIENT_WARPS) {
        const int n = f.n_tokens[m];
        const float *const g =
            sums + ((m * 2 + (of_q ? 0 : 1)) * f.n_rows + head * TOKENS) * f.n_c + c;

        for (int j = 0; j < n; j++) {
            const T *const token = tokens + (m * f.n_tok + j) * f.inner;
            const float v = g[(int64_t)j * f.n_c];

#pragma unroll
            for (int i = 0; i < D_CHUNK; i++)
                if (first + i < f.d) sum[i] += element_load(token + i) * v;
        }
    }
#pragma unroll
    for (int i = 0; i < D_CHUNK; i++) part[warp][i][lane] = sum[i];
    __syncthreads();
    for (int i = warp; i < D_CHUNK; i += GRADIENT_WARPS) {
        const int at = head * f.d + first + i;
        const weight_gradient out = of_q ? dwq : dwo;
        float total = 0;

        if (c >= f.n_c || first + i >= f.d || !out.p) continue;
        for (int k = 0; k < GRADIENT_WARPS; k++) total += part[k][i][lane];
        element_gradient(out.p + (of_q ? (int64_t)at * f.n_c + c : (int64_t)c * f.inner + at),
                         out.add, of_q ? total * f.scale : total);
    }
}

/* dbq[i] = scale Σ k[i] dc over masks and tokens: a warp owns a number. */
template <class T>
__global__ static void __launch_bounds__(GRADIENT_THREADS)
    bias_gradient(weight_gradient dbq, problem<T> f, const float *dc)
{
    const int i = (int)blockIdx.x * GRADIENT_WARPS + (int)threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32, head = i / f.d;
    float sum = 0;

    for (int64_t at = lane; i < f.inner && at < f.n_masks * f.n_tok; at += 32) {
        const int64_t m = at / f.n_tok;
        const int j = (int)(at % f.n_tok);

        if (j < f.n_tokens[m])
            sum += element_load(f.k + at * f.inner + i) * dc[(m * f.heads + head) * TOKENS + j];
    }
    sum = warp_sum(sum);
    if (i < f.inner && lane == 0) element_gradient(dbq.p + i, dbq.add, sum * f.scale);
}

#endif

/* image_to_token by plain products, a warp a position, in float: for f32, and for shapes that the
 * tiles of tensor cores do not take. For debugging and for few channels: nothing is bound by memory. */
#ifndef KERNELS_CUDA_IMAGE_TO_TOKEN_ROWS_H
#define KERNELS_CUDA_IMAGE_TO_TOKEN_ROWS_H

#include "kernels/cuda/image_to_token_problem.h"

enum { ROW_WARPS = 4, ROW_THREADS = ROW_WARPS * 32, SUM_THREADS = 128 };

DEVICE float tokens_sum(float v)
{
    for (int turn = TOKENS / 2; turn > 0; turn /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, turn);
    return v;
}

DEVICE float tokens_max(float v)
{
    for (int turn = TOKENS / 2; turn > 0; turn /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, turn));
    return v;
}

/* row·weights[j] for j = lane % 16, known to both lanes of j */
DEVICE float token_product(const float *row, const float *weights, int n_c, int lane)
{
    float sum = 0;

    for (int c = lane / TOKENS; c < n_c; c += 2)
        sum += row[c] * weights[(int64_t)(lane % TOKENS) * n_c + c];
    return sum + __shfl_xor_sync(0xFFFFFFFFu, sum, TOKENS);
}

/* row += Σj p[j] weights[j]; p of 16 in shared memory, put there by the lanes below 16 */
DEVICE void add_row_tokens(float *row, float *p_shared, float p, const float *weights, int n_c,
                           int lane)
{
    if (lane < TOKENS) p_shared[lane] = p;
    __syncwarp();
    for (int c = lane; c < n_c; c += 32) {
        float sum = row[c];

        for (int j = 0; j < TOKENS; j++) sum += p_shared[j] * weights[(int64_t)j * n_c + c];
        row[c] = sum;
    }
    __syncwarp();
}

DEVICE float dropout_factor(const dropout &drop, const rng_key &key, int64_t element)
{
    if (drop.p == 0) return 1;
    return rng_uniform(key, (uint64_t)element) >= drop.p ? drop.keep : 0;
}

/* r = x + dropout(Σ p b + bo) of position i of mask m into the warp's row r; q is room for x + pe.
 * p_out: (n_rows) of that position, or NULL. */
template <class T>
DEVICE void attend_row(float *r, float *q, float *p_shared, float *p_out, const problem<T> &f,
                       const workspace<float> &w, const rng_key &key, int64_t m, int64_t i,
                       int lane)
{
    const T *const x = f.x + f.x_row(m, i) * f.n_c;

    for (int c = lane; c < f.n_c; c += 32) {
        q[c] = element_load(x + c) + element_load(f.pe + i * f.n_c + c);
        r[c] = f.bo[c];
    }
    __syncwarp();
    for (int h = 0; h < f.heads; h++) {
        const int64_t row = (m * f.heads + h) * TOKENS;
        const float s = token_product(q, w.a + row * f.n_c, f.n_c, lane) + w.c[row + lane % TOKENS];
        const float e = expf(s - tokens_max(s)), p = e / tokens_sum(e);

        if (p_out && lane < TOKENS) p_out[h * TOKENS + lane] = p;
        add_row_tokens(r, p_shared, p, w.b + row * f.n_c, f.n_c, lane);
    }
    for (int c = lane; c < f.n_c; c += 32)
        r[c] =
            element_load(x + c) + r[c] * dropout_factor(f.drop, key, (m * f.n_x + i) * f.n_c + c);
}

static inline int64_t rows_fwd_shared(int64_t n_c)
{
    return ROW_WARPS * (2 * n_c + TOKENS) * (int64_t)sizeof(float);
}

/* Forward. A block owns 64 positions of a mask, a warp one at a time, a lane a token of a head (with
 * another lane) or every 32nd channel. Two FMA and three loads a channel and token. */
template <class T>
__global__ static void __launch_bounds__(ROW_THREADS) fwd_rows(problem<T> f, workspace<float> w)
{
    DYNAMIC_SHARED(memory);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    float *const q = (float *)memory + warp * (2 * f.n_c + TOKENS), *const r = q + f.n_c;
    const int64_t m = blockIdx.y, first = (int64_t)blockIdx.x * TILE_ROWS;
    const rng_key key = f.drop.p > 0 ? f.drop.key_here() : rng_key{ 0, 0 };

    for (int64_t i = first + warp; i < first + TILE_ROWS && i < f.n_x; i += ROW_WARPS) {
        float sum = 0, squares = 0;

        attend_row(r, q, r + f.n_c, (float *)NULL, f, w, key, m, i, lane);
        for (int c = lane; c < f.n_c; c += 32) sum += r[c];
        const float mean = warp_sum(sum) / (float)f.n_c;

        for (int c = lane; c < f.n_c; c += 32) squares += (r[c] - mean) * (r[c] - mean);
        const float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)f.n_c + f.eps);

        for (int c = lane; c < f.n_c; c += 32)
            element_store(f.y + (m * f.n_x + i) * f.n_c + c,
                          (r[c] - mean) * rstd * f.gamma[c] + f.beta[c]);
        if (lane == 0) {
            f.mean[m * f.n_x + i] = mean;
            f.rstd[m * f.n_x + i] = rstd;
        }
    }
}

/* Of a warp: rows q and r, sums of dgamma and dbeta (C each), dc (n_rows), and 16 of a head. */
static inline int64_t rows_bwd_floats(int64_t n_c, int64_t n_rows)
{
    return 4 * n_c + n_rows + TOKENS;
}

static inline int64_t rows_bwd_shared(int64_t n_c, int64_t n_rows)
{
    return ROW_WARPS * rows_bwd_floats(n_c, n_rows) * (int64_t)sizeof(float);
}

/* r becomes dr, q becomes dz; adds to the warp's sums of dgamma and dbeta. */
template <class T>
DEVICE void norm_row(float *r, float *q, float *of_gamma, float *of_beta, const problem<T> &f,
                     const rng_key &key, int64_t row, int lane)
{
    const T *const dy = f.dy + row * f.n_c;
    const float mean = f.mean[row], rstd = f.rstd[row];
    float plain = 0, weighted = 0;

    for (int c = lane; c < f.n_c; c += 32) {
        const float xhat = (r[c] - mean) * rstd, g = element_load(dy + c);

        of_gamma[c] += g * xhat;
        of_beta[c] += g;
        plain += g * f.gamma[c];
        weighted += g * f.gamma[c] * xhat;
    }
    plain = warp_sum(plain) / (float)f.n_c;
    weighted = warp_sum(weighted) / (float)f.n_c;
    for (int c = lane; c < f.n_c; c += 32) {
        const float xhat = (r[c] - mean) * rstd;

        r[c] = rstd * (element_load(dy + c) * f.gamma[c] - plain - xhat * weighted);
        q[c] = r[c] * dropout_factor(f.drop, key, row * f.n_c + c);
    }
    __syncwarp();
}

/* Backward up to the sums over positions: p, ds and dz into scratch, dx, and the tile's parts of
 * dgamma, dbeta and dc. A block owns 64 positions, over the masks of a group, a warp one at a time,
 * as forward, which it does again. */
template <class T>
__global__ static void __launch_bounds__(ROW_THREADS) bwd_rows(problem<T> f, workspace<float> w)
{
    DYNAMIC_SHARED(memory);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int n_own = 4 * f.n_c + f.n_rows + TOKENS, n_kept = 2 * f.n_c + f.n_rows;
    float *const own = (float *)memory + warp * n_own; /* first what is kept: dgamma, dbeta, dc */
    float *const dc = own + 2 * f.n_c, *const q = own + n_kept, *const r = q + f.n_c;
    float *const p_shared = r + f.n_c;
    const int64_t first = (int64_t)blockIdx.x * TILE_ROWS;
    const int64_t m_first = blockIdx.y * w.group;
    const int64_t m_end = m_first + w.group < f.n_masks ? m_first + w.group : f.n_masks;
    const rng_key key = f.drop.p > 0 ? f.drop.key_here() : rng_key{ 0, 0 };

    for (int64_t m = m_first; m < m_end; m++) {
        for (int c = lane; c < n_kept; c += 32) own[c] = 0; /* attend_row syncs the warp */
        for (int64_t i = first + warp; i < first + TILE_ROWS && i < f.n_x; i += ROW_WARPS) {
            const int64_t at = m * f.n_x + i;
            float *const p_row = w.p + at * f.n_rows, *const ds_row = w.ds + at * f.n_rows;

            attend_row(r, q, p_shared, p_row, f, w, key, m, i, lane);
            norm_row(r, q, own, own + f.n_c, f, key, at, lane);
            for (int c = lane; c < f.n_c; c += 32) w.dz[at * f.n_c + c] = q[c];
            for (int h = 0; h < f.heads; h++) {
                const int64_t row = (m * f.heads + h) * TOKENS;
                const float dp = token_product(q, w.b + row * f.n_c, f.n_c, lane);
                const float p = p_row[h * TOKENS + lane % TOKENS];
                const float ds = p * (dp - tokens_sum(p * dp));

                if (lane < TOKENS) {
                    ds_row[h * TOKENS + lane] = ds;
                    dc[h * TOKENS + lane] += ds;
                }
                add_row_tokens(r, p_shared, ds, w.a + row * f.n_c, f.n_c, lane);
            }
            for (int c = lane; c < f.n_c; c += 32) {
                const int64_t in_group = (blockIdx.y * f.n_x + i) * f.n_c + c;

                if (w.dx_groups)
                    element_gradient(w.dx_groups + in_group, m > m_first, r[c]);
                else if (f.dx)
                    element_gradient(f.dx + at * f.n_c + c, f.add_x, r[c]);
            }
        }
        __syncthreads();
        for (int c = (int)threadIdx.x; c < n_kept; c += ROW_THREADS) {
            const int64_t part = m * w.n_tiles + blockIdx.x;
            float sum = 0;

            for (int k = 0; k < ROW_WARPS; k++) sum += ((float *)memory)[k * n_own + c];
            if (c < 2 * f.n_c)
                w.norm_parts[part * 2 * f.n_c + c] = sum;
            else
                w.dc_parts[part * f.n_rows + c - 2 * f.n_c] = sum;
        }
        __syncthreads();
    }
}

/* A chunk's parts of da and db. A block owns a head of a mask and 128 channels, a thread one of them
 * and the head's 16 rows. dz, x and pe are read once a head, p and ds are the same for a warp. */
template <class T>
__global__ static void __launch_bounds__(SUM_THREADS)
    position_sums_rows(problem<T> f, workspace<float> w)
{
    const int head = (int)blockIdx.x % f.heads;
    const int c = (int)blockIdx.x / f.heads * SUM_THREADS + (int)threadIdx.x;
    const int64_t m = blockIdx.y, first = blockIdx.z * w.chunk;
    const int64_t end = first + w.chunk < f.n_x ? first + w.chunk : f.n_x;
    float da[TOKENS] = {}, db[TOKENS] = {};

    if (c >= f.n_c) return;
    for (int64_t i = first; i < end; i++) {
        const int64_t at = m * f.n_x + i;
        const float *const p = w.p + at * f.n_rows + head * TOKENS;
        const float *const ds = w.ds + at * f.n_rows + head * TOKENS;
        const float g = w.dz[at * f.n_c + c];
        const float q =
            element_load(f.x + f.x_row(m, i) * f.n_c + c) + element_load(f.pe + i * f.n_c + c);

#pragma unroll
        for (int j = 0; j < TOKENS; j++) {
            da[j] += ds[j] * q;
            db[j] += p[j] * g;
        }
    }
    float *const out = w.sum_parts + ((blockIdx.z * f.n_masks + m) * 2 * f.n_rows) * f.n_c + c;

#pragma unroll
    for (int j = 0; j < TOKENS; j++) {
        out[(int64_t)(head * TOKENS + j) * f.n_c] = da[j];
        out[(int64_t)(f.n_rows + head * TOKENS + j) * f.n_c] = db[j];
    }
}

#endif

/* Attention in BF16 on tensor cores: scores, and forward. Tiles and products: flash_tiles.h. */
#ifndef KERNELS_CUDA_FLASH_BF16_H
#define KERNELS_CUDA_FLASH_BF16_H

#include "kernels/cuda/flash_tiles.h"

enum { FWD_THREADS = 128 };
enum { DQ_THREADS = 128, DQ_ROWS = 16, DQ_QUERIES = DQ_THREADS / 32 * DQ_ROWS };
enum {
    DKV_THREADS = 256,
    DKV_ROWS = 16,
    DKV_WARPS = DKV_THREADS / 32,
    DKV_KEYS = DKV_WARPS * DKV_ROWS
};

/* Forward: 16s of queries a warp owns, as many as registers hold. */
template <int NK> struct fwd_shape {
    enum { M = NK <= 5 ? 2 : 1, ROWS = M * 16, QUERIES = FWD_THREADS / 32 * ROWS };
};

/* Floats from one query's terms to the next one's, in a tile. A thread reads columns 2 t, 2 t + 1 of
 * row g: 64 columns as pairs, four rows at a time, 8 banks apart; else one by one, 4 apart. */
template <bool SMALL> struct terms_by_query {
    enum { PITCH = SMALL ? 36 : 72 };
};

/* A thread reads row 2 t, column g: 8 banks apart. Behind 64 columns stand 4 terms of rows. */
template <bool SMALL> struct terms_by_key {
    enum { PITCH = SMALL ? 36 : 68, ROW_TERMS = 64 };
};

template <int NK, bool SMALL> struct flash_shared {
    enum {
        STAGES = 4 * flash_tile<NK>::ELEMENTS * 2, /* two of two tiles */
        TOKENS = SMALL ? SMALL_KEYS * 4 : 0,
        FWD = STAGES + TOKENS + fwd_shape<NK>::QUERIES * terms_by_query<SMALL>::PITCH * 4,
        DQ = STAGES + TOKENS + DQ_QUERIES * terms_by_query<SMALL>::PITCH * 4,
        DKV = STAGES + TOKENS + 2 * TILE_ROWS * (terms_by_key<SMALL>::PITCH + 2) * 4
    };
};

/* Where a small window's keys are, once for all tiles; the caller synchronises. */
template <bool SMALL, int N_THREADS> DEVICE void find_keys(int *tokens, const flash_slice &slice)
{
    for (int t = (int)threadIdx.x; SMALL && t < slice.n_k; t += N_THREADS) {
        int ky, kx;

        small_key(slice.p, t, ky, kx);
        tokens[t] = slice.key_token(ky, kx);
    }
}

/* Scores of 16 keys, of slot on, as exponents of 2: times scale, plus terms; −∞ where no key is.
 * terms: the thread's first row, or NULL. row_term: of the thread's two rows and this row of keys. */
template <bool SMALL>
DEVICE void finish_scores(float (&s)[2][4], const flash_problem &p, const float *terms,
                          const float (&row_term)[2], int x0, int slot, int n, int t, float scale)
{
    enum { PITCH = terms_by_query<SMALL>::PITCH };
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const int at = slot + j * 8 + 2 * t;
        float term[4] = {};

        if (SMALL && terms) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int ky, kx;

                small_key(p, at + e < n ? x0 + at + e : 0, ky, kx);
#pragma unroll
                for (int r = 0; r < 2; r++)
                    term[2 * r + e] =
                        terms[r * 8 * PITCH + ky] + terms[r * 8 * PITCH + p.w_at + kx];
            }
        } else if (terms) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float2 v = *reinterpret_cast<const float2 *>(terms + r * 8 * PITCH + at);

                term[2 * r] = row_term[r] + v.x;
                term[2 * r + 1] = row_term[r] + v.y;
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[j][e] = at + (e & 1) < n ? s[j][e] * scale + term[e] : -INFINITY;
    }
}

/* What a thread knows of its two rows of 16 queries from q on. */
struct query_rows {
    int token[2];

    DEVICE void find(const flash_slice &slice, int q, int g)
    {
        token[0] = slice.query_token(q + g);
        token[1] = slice.query_token(q + g + 8);
    }

    DEVICE void row_terms(float (&v)[2], const flash_slice &slice, int ky) const
    {
        const flash_problem &p = slice.p;

#pragma unroll
        for (int r = 0; r < 2; r++)
            v[r] = p.terms && token[r] >= 0 ? p.terms[slice.at(token[r]) * p.term_pitch + ky] : 0;
    }
};

/* The running maximum (of exponents of 2), this thread's part of the sum, and the output. */
template <int NK> struct running_rows {
    enum { M = fwd_shape<NK>::M };
    float max[M][2], sum[M][2], y[M][2 * NK][4];
};

/* Scores of 32 keys become weights; what was summed is scaled where a maximum has grown, which it
 * seldom does behind the first tiles. */
template <int NK> DEVICE void weigh(float (&s)[2][fwd_shape<NK>::M][2][4], running_rows<NK> &rows)
{
    enum { M = fwd_shape<NK>::M };
    float factor[M][2];
    bool grown = false;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = rows.max[m][r], sum = 0;

#pragma unroll
            for (int j = 0; j < 4; j++)
                top = fmaxf(top, fmaxf(s[j / 2][m][j % 2][2 * r], s[j / 2][m][j % 2][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
            factor[m][r] = exp2_approximate(rows.max[m][r] - top);
            grown |= rows.max[m][r] < top;
            rows.max[m][r] = top;
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    s[j / 2][m][j % 2][e] = exp2_approximate(s[j / 2][m][j % 2][e] - top);
                    sum += s[j / 2][m][j % 2][e];
                }
            rows.sum[m][r] = rows.sum[m][r] * factor[m][r] + sum;
        }
    if (!__any_sync(0xFFFFFFFFu, grown)) return;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < 2 * NK; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) rows.y[m][j][e] *= factor[m][e / 2];
}

/* y and lse of 16 rows */
template <int NK>
DEVICE void finish_rows(const running_rows<NK> &rows, int m, const flash_slice &slice,
                        const query_rows &queries, int t)
{
    const flash_problem &p = slice.p;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int tok = queries.token[r];
        const float sum = warp_sum(rows.sum[m][r], 4);

        if (tok < 0) continue;
        put_row<NK>(p.y + slice.output_at(tok), false, rows.y[m], r, 1 / sum, t, p.d);
        if (t == 0) p.lse_out[slice.at(tok)] = (rows.max[m][r] + log2f(sum)) / LOG2_E;
    }
}

/* Forward. A block owns 128 queries of a slice, a warp 32, a thread 4 with every fourth pair of
 * columns. Queries stay in registers, keys and values come in two stages, and are read once for 128
 * queries; y and lse are written once.
 *
 *   global, N 1, H 16, 4096 tokens, D 80: 86 GFLOP, floor 0.28 ms (A100), 0.11 ms (H200); read q k v,
 *   written y 42 MB, terms 34 MB: 0.04 ms, 0.02 ms. 25 windows of 196: 4.9 GFLOP, 0.016 ms, 0.006 ms;
 *   read and written 49 MB: 0.03 ms, 0.011 ms: bound by memory.
 *   A warp's 32 × 64 scores: 640 Kflop, 1280 cycles of its quarter of an A100 (640 of an H200);
 *   shared memory: 160 wavefronts of keys and values, 64 of terms, for four warps 900 of the SM's;
 *   2048 exponentials: 512 cycles. Bound by tensor cores, then by what stands between the products.
 *
 * Why 32 rows a warp: with 16, each matrix from shared memory serves half as many products, and
 * keys and values alone take the tensor cores' time. 32 keys at a time, so that scores of 32 rows
 * leave room for y: 244 registers at D 80; at D 96 a warp owns 16. Two blocks of 81 KiB share a
 * multiprocessor, 162 of an A100's 164. */
template <int NK, bool SMALL>
__global__ static void __launch_bounds__(FWD_THREADS, 2) flash_bf16_fwd(flash_problem p)
{
    enum { ELEMENTS = flash_tile<NK>::ELEMENTS, PITCH = flash_tile<NK>::PITCH };
    enum { M = fwd_shape<NK>::M, OWN = fwd_shape<NK>::ROWS, QUERIES = fwd_shape<NK>::QUERIES };
    enum { TERMS = terms_by_query<SMALL>::PITCH };
    DYNAMIC_SHARED(shared);
    bf16 *const stages = reinterpret_cast<bf16 *>(shared);
    float *const terms = reinterpret_cast<float *>(stages + 4 * ELEMENTS);
    int *const tokens = reinterpret_cast<int *>(terms + QUERIES * TERMS);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              t = lane % 4;
    const flash_slice slice(p, (int)blockIdx.x / p.heads, (int)blockIdx.x % p.heads);
    const int block_q = (int)blockIdx.y * QUERIES, q0 = block_q + warp * OWN;
    const int n_tiles = key_tile_count<SMALL>(p);
    const float scale = p.scale * LOG2_E;
    query_rows queries[M];
    float *const own_terms = terms + warp * OWN * TERMS;
    uint32_t q[M][NK][4];
    running_rows<NK> rows;

    if (block_q >= slice.n_q) return; /* the whole block: a padded window has fewer queries */
    find_keys<SMALL, FWD_THREADS>(tokens, slice);
    copy_row_pairs<NK, FWD_THREADS>(
        stages, stages + ELEMENTS, TILE_ROWS, p, [&](int r, const bf16 *&a, const bf16 *&b) {
            a = slice.query_row(slice.query_token(block_q + r));
            b = M == 1 ? NULL : slice.query_row(slice.query_token(block_q + TILE_ROWS + r));
        });
    async_commit();
    async_wait<0>();
    __syncthreads();
    clear<M, 2 * NK>(rows.y);
#pragma unroll
    for (int m = 0; m < M; m++) {
        queries[m].find(slice, q0 + m * 16, g);
        load_left<NK>(q[m], stages + (warp * OWN + m * 16) * PITCH, lane);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            rows.max[m][r] = -INFINITY;
            rows.sum[m][r] = 0;
        }
    }
    __syncthreads();
    copy_keys<NK, FWD_THREADS, SMALL>(stages, stages + ELEMENTS, slice, tokens, 0);
    async_commit();
    for (int i = 0; i < n_tiles; i++) {
        const key_tile keys = key_tile_at<SMALL>(p, i);
        const bf16 *const k_tile = stages + i % 2 * 2 * ELEMENTS, *const v_tile = k_tile + ELEMENTS;
        float row_term[M][2] = {};

#pragma unroll
        for (int m = 0; !SMALL && m < M; m++) queries[m].row_terms(row_term[m], slice, keys.ky);
        async_wait<0>();
        __syncthreads();
        if (i + 1 < n_tiles) {
            bf16 *const next = stages + (i + 1) % 2 * 2 * ELEMENTS;

            copy_keys<NK, FWD_THREADS, SMALL>(next, next + ELEMENTS, slice, tokens, i + 1);
            async_commit();
        }
        if (q0 >= slice.n_q) continue; /* no query of this warp: it still copies */
        if (p.terms && (SMALL ? i : keys.ky) == 0)
            load_terms<SMALL, OWN, TERMS>(own_terms, slice, q0, SMALL ? 0 : keys.x0, lane);
#pragma unroll
        for (int first = 0; first < TILE_ROWS; first += 32) {
            float s[2][M][2][4];

            if (first >= keys.n) break;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int slot = first + j * 16;

                clear<M, 2>(s[j]);
                multiply_rows<NK, M>(s[j], q, k_tile + slot * PITCH, lane);
#pragma unroll
                for (int m = 0; m < M; m++)
                    finish_scores<SMALL>(s[j][m], p,
                                         p.terms ? own_terms + (m * 16 + g) * TERMS : NULL,
                                         row_term[m], keys.x0, slot, keys.n, t, scale);
            }
            weigh<NK>(s, rows);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t weight[M][4];

#pragma unroll
                for (int m = 0; m < M; m++) pack_left(weight[m], s[j][m]);
                multiply_columns<NK, M>(rows.y, weight, v_tile + (first + j * 16) * PITCH, lane);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) finish_rows<NK>(rows, m, slice, queries[m], t);
}

#endif

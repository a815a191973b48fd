/* Attention in BF16 on tensor cores: backward, dq, and dk with dv. Scores: flash_bf16.h. */
#ifndef KERNELS_CUDA_FLASH_BF16_BWD_H
#define KERNELS_CUDA_FLASH_BF16_BWD_H

#include "kernels/cuda/flash_bf16.h"

/* Sums of ds over 16 queries' keys that share a row, or a column: the gradients of terms. SMALL: the
 * columns of tiles 0 and 1 are rows of keys, of 2 and 3 columns: a product with a matrix of ones
 * where a key is at home. Else tiles 0 … 7 are the 64 columns, summed as they are; in 8, column
 * ky % 8 is a row's sum, a product with a column of ones. */
template <bool SMALL> struct term_sums {
    enum { N = SMALL ? 4 : 9 };
    float sum[N][4];

    DEVICE void start()
    {
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][e] = 0;
    }

    /* step: which 16 of a tile; a: ds, rounded */
    DEVICE void add(const flash_problem &p, const key_tile &keys, const float (&ds)[2][4],
                    const uint32_t (&a)[4], int step, int g, int t)
    {
        if (SMALL) {
            int ky[4], kx[4];

#pragma unroll
            for (int i = 0; i < 4; i++)
                small_key(p, keys.x0 + step * 16 + i / 2 * 8 + 2 * t + i % 2, ky[i], kx[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int c = j % 2 * 8 + g;
                const int *const at = j < 2 ? ky : kx;
                const uint32_t ones[2] = { one(at[0] == c, at[1] == c),
                                           one(at[2] == c, at[3] == c) };

                multiply_bf16_16816(sum[j], a, ones);
            }
            return;
        }
        const uint32_t here = keys.ky % 8 == g ? one(true, true) : 0, ones[2] = { here, here };

        multiply_bf16_16816(sum[N - 1], a, ones);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[SMALL ? 0 : 2 * step + j][e] += ds[j][e];
    }

    static DEVICE uint32_t one(bool low, bool high)
    {
        return (low ? 0x3F80u : 0) | (high ? 0x3F800000u : 0); /* bf16 1 */
    }

    /* Puts a tile's columns, of c on, to a row of terms that has n, or adds them; and starts anew. */
    DEVICE void put(float (&v)[4], float *const (&row)[2], int c, int n, bool again, int t)
    {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int column = c + 2 * t + e % 2;

            if (row[e / 2] && column < n)
                row[e / 2][column] = again ? row[e / 2][column] + v[e] : v[e];
            v[e] = 0;
        }
    }

    /* After a tile: what is complete goes to dterms; of the rows' sums, each block of columns adds. */
    DEVICE void flush(const flash_problem &p, float *const (&row)[2], const key_tile &keys,
                      bool last, int t)
    {
        float *const columns[2] = { row[0] ? row[0] + p.w_at : NULL,
                                    row[1] ? row[1] + p.w_at : NULL };

        if (SMALL) {
            if (!last) return;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                put(sum[j], row, j * 8, p.kh, false, t);
                put(sum[2 + j], columns, j * 8, p.kw, false, t);
            }
            return;
        }
        if (keys.ky % 8 == 7 || keys.ky + 1 == p.kh)
            put(sum[N - 1], row, keys.ky / 8 * 8, p.kh, keys.x0 > 0, t);
        if (keys.ky + 1 < p.kh) return;
#pragma unroll
        for (int j = 0; j < N - 1; j++) put(sum[j], columns, keys.x0 + j * 8, p.kw, false, t);
    }
};

/* Where a query is along one side of its window. */
DEVICE int query_side(const flash_slice &slice, int q, bool along_w)
{
    return along_w ? q % slice.n_wide : q / slice.n_wide;
}

/* dq += dterms · tables: 64 rows of a table at a time, met by each query's terms where they belong. */
template <int NK>
DEVICE void add_table_products(float (&dq)[1][2 * NK][4], bf16 *tile, const flash_slice &slice,
                               float *const (&row)[2], int q0, int lane)
{
    const flash_problem &p = slice.p;
    const int g = lane / 4, t = lane % 4;

    for (int along_w = 0; along_w < 2; along_w++) {
        const int size = along_w ? p.kw : p.kh, n_rows = 2 * size - 1;
        const bf16 *const table = p.tables + (along_w ? (int64_t)(2 * p.kh - 1) * p.d : 0);
        const int side[2] = { query_side(slice, q0 + g, along_w),
                              query_side(slice, q0 + g + 8, along_w) };

        for (int r0 = 0; r0 < n_rows; r0 += TILE_ROWS) {
            __syncthreads();
            copy_row_pairs<NK, DQ_THREADS>(
                tile, NULL, TILE_ROWS, p, [&](int r, const bf16 *&a, const bf16 *&b) {
                    a = r0 + r < n_rows ? table + (int64_t)(r0 + r) * p.d : NULL;
                    b = NULL;
                });
            async_commit();
            async_wait<0>();
            __syncthreads();
            for (int step = 0; step < TILE_ROWS && r0 + step < n_rows; step += 16) {
                float v[2][4];
                uint32_t a[1][4];

#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int key =
                            side[e / 2] + size - 1 - (r0 + step + j * 8 + 2 * t + e % 2);
                        const bool meets = row[e / 2] && key >= 0 && key < size;

                        v[j][e] = meets ? row[e / 2][(along_w ? p.w_at : 0) + key] : 0;
                    }
                pack_left(a[0], v);
                multiply_columns<NK, 1>(dq, a, tile + step * flash_tile<NK>::PITCH, lane);
            }
        }
    }
}

/* dq, and the gradients of a query's terms. A block owns 64 queries of a slice, a warp 16. Keys and
 * values are read once for 64 queries; queries and dy once; dq and dterms are written once, dterms
 * read again, out of L1.
 *
 *   global: 3 products, 129 GFLOP: floor 0.41 ms (A100), 0.16 ms
 *   (H200); read q k v dy, written dq 52 MB, terms read and dterms written 67 MB: 0.07 and 0.03 ms.
 *   25 windows: 7.4 GFLOP, 0.024 and 0.009 ms; 61 MB: 0.036 and 0.014 ms.
 *   A warp's 16 × 64 scores: 491 Kflop, 960 cycles of its quarter (480 of an H200's); shared memory:
 *   keys twice and values once 240 wavefronts, 32 of terms: for four warps 1090. Bound by shared
 *   memory, level with tensor cores on A100. 32 rows a warp would halve that, and spill: q, dy, dq and
 *   sums of terms are 116 registers of 16 rows.
 *
 * ds is rounded once, for its product with k; sums of a row of keys are products with ones (1 in 30),
 * those of a column stay in registers, as f32. Two blocks of 62 KiB share a multiprocessor. */
template <int NK, bool SMALL>
__global__ static void __launch_bounds__(DQ_THREADS, 2) flash_bf16_dq(flash_problem p)
{
    enum { ELEMENTS = flash_tile<NK>::ELEMENTS, PITCH = flash_tile<NK>::PITCH };
    enum { TERMS = terms_by_query<SMALL>::PITCH };
    DYNAMIC_SHARED(shared);
    bf16 *const stages = reinterpret_cast<bf16 *>(shared);
    float *const terms = reinterpret_cast<float *>(stages + 4 * ELEMENTS);
    int *const tokens = reinterpret_cast<int *>(terms + DQ_QUERIES * TERMS);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              t = lane % 4;
    const flash_slice slice(p, (int)blockIdx.x / p.heads, (int)blockIdx.x % p.heads);
    const int block_q = (int)blockIdx.y * DQ_QUERIES, q0 = block_q + warp * DQ_ROWS;
    const int n_tiles = key_tile_count<SMALL>(p);
    const float scale = p.scale * LOG2_E;
    query_rows queries;
    float *const own_terms = terms + warp * DQ_ROWS * TERMS;
    uint32_t q[1][NK][4], dy[1][NK][4];
    float dq[1][2 * NK][4], lse[2], delta[2];
    float *dterms[2];
    term_sums<SMALL> sums;

    if (block_q >= slice.n_q) return;
    queries.find(slice, q0, g);
    find_keys<SMALL, DQ_THREADS>(tokens, slice);
    copy_row_pairs<NK, DQ_THREADS>(stages, stages + ELEMENTS, TILE_ROWS, p,
                                   [&](int r, const bf16 *&a, const bf16 *&b) {
                                       const int tok = slice.query_token(block_q + r);

                                       a = slice.query_row(tok);
                                       b = slice.dy_row(tok);
                                   });
    async_commit();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int tok = queries.token[r];

        lse[r] = tok < 0 ? INFINITY : p.lse[slice.at(tok)] * LOG2_E; /* INFINITY: no weight */
        delta[r] = tok < 0 ? 0 : p.delta[slice.at(tok)];
        dterms[r] = tok < 0 || !p.dterms ? NULL : p.dterms + slice.at(tok) * p.term_pitch;
    }
    async_wait<0>();
    __syncthreads();
    load_left<NK>(q[0], stages + warp * DQ_ROWS * PITCH, lane);
    load_left<NK>(dy[0], stages + ELEMENTS + warp * DQ_ROWS * PITCH, lane);
    clear<1, 2 * NK>(dq);
    sums.start();
    __syncthreads();
    copy_keys<NK, DQ_THREADS, SMALL>(stages, stages + ELEMENTS, slice, tokens, 0);
    async_commit();
    for (int i = 0; i < n_tiles; i++) {
        const key_tile keys = key_tile_at<SMALL>(p, i);
        const bf16 *const k_tile = stages + i % 2 * 2 * ELEMENTS, *const v_tile = k_tile + ELEMENTS;
        float row_term[2] = {};

        if (!SMALL) queries.row_terms(row_term, slice, keys.ky);
        async_wait<0>();
        __syncthreads();
        if (i + 1 < n_tiles) {
            bf16 *const next = stages + (i + 1) % 2 * 2 * ELEMENTS;

            copy_keys<NK, DQ_THREADS, SMALL>(next, next + ELEMENTS, slice, tokens, i + 1);
            async_commit();
        }
        if (q0 >= slice.n_q) continue;
        if (p.terms && (SMALL ? i : keys.ky) == 0)
            load_terms<SMALL, DQ_ROWS, TERMS>(own_terms, slice, q0, SMALL ? 0 : keys.x0, lane);
#pragma unroll
        for (int step = 0; step < TILE_ROWS / 16; step++) {
            const bf16 *const k_rows = k_tile + step * 16 * PITCH;
            float s[1][2][4], dp[1][2][4];
            uint32_t ds[1][4];

            if (step * 16 >= keys.n) break;
            clear<1, 2>(s);
            clear<1, 2>(dp);
            multiply_rows<NK, 1>(s, q, k_rows, lane);
            multiply_rows<NK, 1>(dp, dy, v_tile + step * 16 * PITCH, lane);
            finish_scores<SMALL>(s[0], p, p.terms ? own_terms + g * TERMS : NULL, row_term, keys.x0,
                                 step * 16, keys.n, t, scale);
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[0][j][e] =
                        exp2_approximate(s[0][j][e] - lse[e / 2]) * (dp[0][j][e] - delta[e / 2]);
            pack_left(ds[0], s[0]);
            multiply_columns<NK, 1>(dq, ds, k_rows, lane);
            if (p.dterms) sums.add(p, keys, s[0], ds[0], step, g, t);
        }
        if (p.dterms) sums.flush(p, dterms, keys, i + 1 == n_tiles, t);
    }
    if (!p.dqkv) return;
#pragma unroll
    for (int j = 0; j < 2 * NK; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) dq[0][j][e] *= p.scale;
    if (p.dterms) add_table_products<NK>(dq, stages, slice, dterms, q0, lane);
#pragma unroll
    for (int r = 0; r < 2; r++)
        if (queries.token[r] >= 0)
            put_row<NK>(p.dqkv + slice.part_at(queries.token[r], 0), p.add, dq[0], r, 1, t, p.d);
}

/* Keys of a warp: 16 slots of which a thread has g and g + 8. */
template <bool SMALL> struct key_rows {
    int token[2];    /* −1: padding, or not there */
    int row_term[2]; /* where their terms are in a tile */
    int column_term[2];
    bool is_key[2];
    bool any; /* of the warp */

    DEVICE key_rows(const flash_slice &slice, int row, int x0, int slot, int g)
    {
        const flash_problem &p = slice.p;

        any = SMALL ? x0 + slot < slice.n_k : row < p.grid_h && x0 + slot < p.grid_w;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int own = slot + g + 8 * r;
            int ky = row, kx = x0 + own;

            is_key[r] = SMALL ? x0 + own < slice.n_k : row < p.grid_h && x0 + own < p.grid_w;
            if (SMALL) small_key(p, is_key[r] ? x0 + own : 0, ky, kx);
            token[r] = is_key[r] ? slice.key_token(ky, kx) : -1;
            row_term[r] = SMALL ? ky : terms_by_key<SMALL>::ROW_TERMS + ky % 4;
            column_term[r] = SMALL ? p.w_at + kx : own;
        }
    }
};

/* The terms of 64 queries that a block of keys meets, on their way: of a small window all; else those
 * of 64 columns, and four of rows, the block's two among them. */
template <bool SMALL, class TOKEN>
DEVICE void copy_terms(float *tile, const flash_slice &slice, int row, int x0, const TOKEN &token)
{
    enum { UNITS = SMALL ? 2 * SMALL_SIDE / 4 : TILE_ROWS / 4 + 1 };
    const flash_problem &p = slice.p;

    for (int i = (int)threadIdx.x; i < TILE_ROWS * UNITS; i += DKV_THREADS) {
        const int r = i / UNITS, unit = i % UNITS, tok = token(r);
        const bool of_rows = !SMALL && unit == UNITS - 1;
        const int c = SMALL ? unit * 4 : of_rows ? row / 4 * 4 : p.w_at + x0 + unit * 4;
        const bool has = tok >= 0 && c < p.term_pitch;

        async_copy16(tile + r * terms_by_key<SMALL>::PITCH + unit * 4,
                     p.terms + (has ? slice.at(tok) * p.term_pitch + c : 0), has ? 16 : 0);
    }
}

/* What padding's keys get: the sums over a warp's 16 rows, then over the block's warps, in order. */
template <int NK>
DEVICE void put_padding(const float (&sum)[2 * NK][4], const bool (&counts)[2], float factor,
                        float *shared, float *out, int d)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;

    __syncthreads();
#pragma unroll
    for (int j = 0; j < 2 * NK; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float v = (counts[0] ? sum[j][e] : 0) + (counts[1] ? sum[j][2 + e] : 0);

            v += __shfl_xor_sync(0xFFFFFFFFu, v, 4);
            v += __shfl_xor_sync(0xFFFFFFFFu, v, 8);
            v += __shfl_xor_sync(0xFFFFFFFFu, v, 16);
            if (lane < 4) shared[warp * NK * 16 + j * 8 + 2 * lane + e] = v * factor;
        }
    __syncthreads();
    if ((int)threadIdx.x >= d) return; /* D is below a block's threads */
    float v = 0;

    for (int k = 0; k < DKV_WARPS; k++) v += shared[k * NK * 16 + (int)threadIdx.x];
    out[threadIdx.x] = v;
}

/* The block's 128 keys, on their way. */
template <int NK, bool SMALL>
DEVICE void copy_block_keys(bf16 *k_tile, bf16 *v_tile, const flash_slice &slice, int row0, int x0)
{
    const flash_problem &p = slice.p;

    copy_row_pairs<NK, DKV_THREADS>(
        k_tile, v_tile, DKV_KEYS, p, [&](int r, const bf16 *&a, const bf16 *&b) {
            int ky = row0 + r / TILE_ROWS, kx = x0 + r % TILE_ROWS;
            const bool is_key = SMALL ? x0 + r < slice.n_k : ky < p.grid_h && kx < p.grid_w;

            if (SMALL) small_key(p, is_key ? x0 + r : 0, ky, kx);
            a = is_key ? slice.key_row(slice.key_token(ky, kx)) : NULL;
            b = a ? a + (int64_t)p.heads * p.d : NULL;
        });
}

/* One of two stages: 64 queries and their dy, terms, lse × log2 e and delta. */
template <int NK, bool SMALL> struct query_stage {
    bf16 *q, *dy;
    float *terms, *lse, *delta;

    DEVICE query_stage(unsigned char *shared, int i)
    {
        enum { ELEMENTS = flash_tile<NK>::ELEMENTS, TERMS = terms_by_key<SMALL>::PITCH };

        q = reinterpret_cast<bf16 *>(shared) + i % 2 * 2 * ELEMENTS;
        dy = q + ELEMENTS;
        terms = reinterpret_cast<float *>(shared + flash_shared<NK, SMALL>::STAGES) +
                i % 2 * TILE_ROWS * (TERMS + 2);
        lse = terms + TILE_ROWS * TERMS;
        delta = lse + TILE_ROWS;
    }

    /* tokens: of a small window's queries */
    DEVICE void copy(const flash_slice &slice, const int *tokens, int q0, int row, int x0) const
    {
        const auto token = [&](int r) {
            return !SMALL ? slice.query_token(q0 + r) : q0 + r < slice.n_q ? tokens[q0 + r] : -1;
        };

        copy_row_pairs<NK, DKV_THREADS>(q, dy, TILE_ROWS, slice.p,
                                        [&](int r, const bf16 *&a, const bf16 *&b) {
                                            const int tok = token(r);

                                            a = slice.query_row(tok);
                                            b = slice.dy_row(tok);
                                        });
        if (slice.p.terms) copy_terms<SMALL>(terms, slice, row, x0, token);
        async_commit();
    }
};

/* What as many threads read of 64 queries, a stage ahead of its use, and keep behind the products. */
struct query_statistics {
    float lse, delta;

    DEVICE void read(const flash_slice &slice, int q0)
    {
        const int r = (int)threadIdx.x, tok = r < TILE_ROWS ? slice.query_token(q0 + r) : -1;

        lse = tok < 0 ? INFINITY : slice.p.lse[slice.at(tok)] * LOG2_E; /* INFINITY: no weight */
        delta = tok < 0 ? 0 : slice.p.delta[slice.at(tok)];
    }

    DEVICE void keep(float *lse_out, float *delta_out) const
    {
        if ((int)threadIdx.x >= TILE_ROWS) return;
        lse_out[threadIdx.x] = lse;
        delta_out[threadIdx.x] = delta;
    }
};

/* A warp's keys meet 16 queries, of `step` on. */
template <int NK, bool SMALL>
DEVICE void add_queries(float (&dk)[1][2 * NK][4], float (&dv)[1][2 * NK][4],
                        const uint32_t (&k)[1][NK][4], const uint32_t (&v)[1][NK][4],
                        const query_stage<NK, SMALL> &stage, const key_rows<SMALL> &keys, int step,
                        bool has_terms, float scale, int lane)
{
    enum { PITCH = flash_tile<NK>::PITCH, TERMS = terms_by_key<SMALL>::PITCH };
    const bf16 *const q_rows = stage.q + step * PITCH, *const dy_rows = stage.dy + step * PITCH;
    float s[1][2][4], dp[1][2][4];
    uint32_t a[1][4];

    clear<1, 2>(s);
    clear<1, 2>(dp);
    multiply_rows<NK, 1>(s, k, q_rows, lane);
    multiply_rows<NK, 1>(dp, v, dy_rows, lane);
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int q = step + j * 8 + 2 * (lane % 4) + e % 2, r = e / 2;
            const float *const term = stage.terms + q * TERMS;
            float score = s[0][j][e] * scale - stage.lse[q];

            if (has_terms) score += term[keys.row_term[SMALL ? r : 0]] + term[keys.column_term[r]];
            s[0][j][e] = exp2_approximate(score);
            dp[0][j][e] = s[0][j][e] * (dp[0][j][e] - stage.delta[q]);
        }
    pack_left(a[0], s[0]);
    multiply_columns<NK, 1>(dv, a, dy_rows, lane);
    pack_left(a[0], dp[0]);
    multiply_columns<NK, 1>(dk, a, q_rows, lane);
}

/* dk and dv. A block owns 128 keys of a slice, two rows' 64 or 128 in their order, a warp 16.
 * Queries and dy, lse, delta and terms come in two stages, and are read once for 128 keys; dk and dv
 * are written once.
 *
 *   global: 4 products, 172 GFLOP: floor 0.55 ms (A100), 0.22 ms (H200); out of L2 38 KiB for 5.2
 *   MFLOP, nearly half of it terms: 1.2 GB, 2.3 and 5.6 TB/s at the floor. 25 windows: 9.8 GFLOP, 0.032
 *   and 0.012 ms; 69 MB: 0.04 and 0.016 ms.
 *   A warp's 16 × 64 scores: 655 Kflop, 1280 cycles of its quarter of an A100 (640 of an H200); shared
 *   memory: queries and dy twice 320 wavefronts, terms and statistics 80: for four warps 1600. Bound by
 *   shared memory, 1.25 times the tensor cores' time on A100.
 *
 * Scores are formed turned, keys by queries, so that P and dS are left operands as they are. One block
 * of eight warps and 81 KiB (217 registers at D 80), so that two rows of keys share a stage; dk and dv
 * of 16 keys are 80 registers: 32 keys a warp would spill. */
template <int NK, bool SMALL>
__global__ static void __launch_bounds__(DKV_THREADS, 1) flash_bf16_dkv(flash_problem p)
{
    enum { ELEMENTS = flash_tile<NK>::ELEMENTS, PITCH = flash_tile<NK>::PITCH };
    DYNAMIC_SHARED(shared);
    bf16 *const k_tile = reinterpret_cast<bf16 *>(shared), *const v_tile = k_tile + 2 * ELEMENTS;
    int *const tokens = reinterpret_cast<int *>(shared + flash_shared<NK, SMALL>::DKV) - SMALL_KEYS;
    const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int window = (int)blockIdx.x / p.heads;
    const flash_slice slice(p, window, (int)blockIdx.x % p.heads);
    const int n_pairs = (p.grid_h + 1) / 2;
    const int row0 = SMALL ? 0 : (int)blockIdx.y % n_pairs * 2;
    const int x0 = SMALL ? (int)blockIdx.y * DKV_KEYS : (int)blockIdx.y / n_pairs * TILE_ROWS;
    const key_rows<SMALL> keys(slice, row0 + (SMALL ? 0 : warp / 4), x0,
                               (SMALL ? warp : warp % 4) * DKV_ROWS, lane / 4);
    const int n_tiles = (slice.n_q + TILE_ROWS - 1) / TILE_ROWS;
    uint32_t k[1][NK][4], v[1][NK][4];
    float dk[1][2 * NK][4], dv[1][2 * NK][4];
    query_statistics next;

    for (int i = thread; SMALL && i < slice.n_q; i += DKV_THREADS) tokens[i] = slice.query_token(i);
    copy_block_keys<NK, SMALL>(k_tile, v_tile, slice, row0, x0);
    async_commit();
    async_wait<0>();
    __syncthreads();
    load_left<NK>(k[0], k_tile + warp * DKV_ROWS * PITCH, lane);
    load_left<NK>(v[0], v_tile + warp * DKV_ROWS * PITCH, lane);
    clear<1, 2 * NK>(dk);
    clear<1, 2 * NK>(dv);
    __syncthreads();
    const query_stage<NK, SMALL> first(shared, 0);

    first.copy(slice, tokens, 0, row0, x0);
    next.read(slice, 0);
    next.keep(first.lse, first.delta);
    for (int i = 0; i < n_tiles; i++) {
        const query_stage<NK, SMALL> now(shared, i), later(shared, i + 1);
        const int n = slice.n_q - i * TILE_ROWS;

        async_wait<0>();
        __syncthreads();
        if (i + 1 < n_tiles) {
            later.copy(slice, tokens, (i + 1) * TILE_ROWS, row0, x0);
            next.read(slice, (i + 1) * TILE_ROWS);
        }
#pragma unroll
        for (int step = 0; step < TILE_ROWS; step += 16) {
            if (step >= n || !keys.any) break;
            add_queries<NK, SMALL>(dk, dv, k, v, now, keys, step, p.terms != NULL, p.scale * LOG2_E,
                                   lane);
        }
        if (i + 1 < n_tiles) next.keep(later.lse, later.delta);
    }
#pragma unroll
    for (int r = 0; p.dqkv && r < 2; r++) {
        const int tok = keys.token[r];

        if (tok < 0) continue;
        put_row<NK>(p.dqkv + slice.part_at(tok, 1), p.add, dk[0], r, p.scale, lane % 4, p.d);
        put_row<NK>(p.dqkv + slice.part_at(tok, 2), p.add, dv[0], r, 1, lane % 4, p.d);
    }
    if (!p.padding_sums) return;
    const bool counts[2] = { keys.is_key[0] && keys.token[0] < 0,
                             keys.is_key[1] && keys.token[1] < 0 };
    const int64_t block = ((int64_t)window * gridDim.y + blockIdx.y) * 2;
    float *const sums = p.padding_sums + slice.head * p.d;

    put_padding<NK>(dk[0], counts, p.scale, first.terms, sums + block * p.heads * p.d, p.d);
    put_padding<NK>(dv[0], counts, 1, first.terms, sums + (block + 1) * p.heads * p.d, p.d);
}

#endif

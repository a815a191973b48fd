/* Attention in BF16: what stands around the passes over keys: rounded tables, the terms of relative
 * positions, the tables' gradients, delta. Tiles and products: flash_tiles.h. */
#ifndef KERNELS_CUDA_FLASH_TERMS_H
#define KERNELS_CUDA_FLASH_TERMS_H

#include "kernels/cuda/flash_tiles.h"

enum { ROUND_THREADS = 256, TERM_THREADS = 128, TERM_QUERIES = 64, DELTA_LANES = 8 };

template <int NK> struct term_shared {
    enum { BYTES = 2 * flash_tile<NK>::ELEMENTS * 2 };
};

/* A thread owns an element of a parameter: at most some 20 thousand. */
__global__ static void __launch_bounds__(ROUND_THREADS)
    round_bf16(bf16 *out, const float *in, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * ROUND_THREADS + (int)threadIdx.x;

    if (i < n) element_store(out + i, in[i]);
}

/* Of a table: rows, where it begins, and where its terms stand among a query's. */
struct table_view {
    const bf16 *rows;
    int size, n_rows, terms_at;
    bool along_w;

    DEVICE table_view(const flash_problem &p, bool of_w)
    {
        along_w = of_w;
        size = of_w ? p.kw : p.kh;
        n_rows = 2 * size - 1;
        terms_at = of_w ? p.w_at : 0;
        rows = p.tables + (of_w ? (int64_t)(2 * p.kh - 1) * p.d : 0);
    }

    /* row + key: of query q of a slice */
    DEVICE int row_and_key(const flash_slice &slice, int q) const
    {
        return (along_w ? q % slice.n_wide : q / slice.n_wide) + size - 1;
    }
};

/* terms. A block owns 64 queries of a slice, a warp 16; each meets every row of both tables, though
 * only Kh and Kw of them are terms: a product too many, but one without a gather.
 *
 *   global: 16 · 4096 · 254 · D: 2.7 GFLOP, 0.009 ms (A100), 0.003 ms (H200); written 34 MB, 0.02 and
 *   0.008 ms. 25 windows: 0.5 GFLOP; 8 MB. Bound by memory: a thread writes two neighbouring terms,
 *   a warp 32-byte pieces of 8 rows. On CUDA cores the products alone would take 0.14 ms. */
template <int NK>
__global__ static void __launch_bounds__(TERM_THREADS) flash_terms(float *terms, flash_problem p)
{
    enum { ELEMENTS = flash_tile<NK>::ELEMENTS, PITCH = flash_tile<NK>::PITCH };
    DYNAMIC_SHARED(shared);
    bf16 *const q_tile = reinterpret_cast<bf16 *>(shared), *const table_tile = q_tile + ELEMENTS;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              t = lane % 4;
    const flash_slice slice(p, (int)blockIdx.x / p.heads, (int)blockIdx.x % p.heads);
    const int block_q = (int)blockIdx.y * TERM_QUERIES, q0 = block_q + warp * 16;
    uint32_t q[1][NK][4];
    float *row[2];

    if (block_q >= slice.n_q) return;
    copy_row_pairs<NK, TERM_THREADS>(q_tile, NULL, TILE_ROWS, p,
                                     [&](int r, const bf16 *&a, const bf16 *&b) {
                                         a = slice.query_row(slice.query_token(block_q + r));
                                         b = NULL;
                                     });
    async_commit();
    async_wait<0>();
    __syncthreads();
    load_left<NK>(q[0], q_tile + warp * 16 * PITCH, lane);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int tok = slice.query_token(q0 + g + 8 * r);

        row[r] = tok < 0 ? NULL : terms + slice.at(tok) * p.term_pitch;
        /* what fills up to a multiple of four is read, and must be numbers */
        for (int c = p.kh + t; row[r] && c < p.w_at; c += 4) row[r][c] = 0;
        for (int c = p.w_at + p.kw + t; row[r] && c < p.term_pitch; c += 4) row[r][c] = 0;
    }
    for (int of_w = 0; of_w < 2; of_w++) {
        const table_view table(p, of_w);
        const int meets[2] = { table.row_and_key(slice, q0 + g),
                               table.row_and_key(slice, q0 + g + 8) };

        for (int r0 = 0; r0 < table.n_rows; r0 += TILE_ROWS) {
            __syncthreads();
            copy_row_pairs<NK, TERM_THREADS>(
                table_tile, NULL, TILE_ROWS, p, [&](int r, const bf16 *&a, const bf16 *&b) {
                    a = r0 + r < table.n_rows ? table.rows + (int64_t)(r0 + r) * p.d : NULL;
                    b = NULL;
                });
            async_commit();
            async_wait<0>();
            __syncthreads();
            for (int step = 0; step < TILE_ROWS && r0 + step < table.n_rows; step += 16) {
                float s[1][2][4];

                clear<1, 2>(s);
                multiply_rows<NK, 1>(s, q, table_tile + step * PITCH, lane);
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int key = meets[e / 2] - (r0 + step + j * 8 + 2 * t + e % 2);

                        if (row[e / 2] && key >= 0 && key < table.size)
                            row[e / 2][table.terms_at + key] = s[0][j][e] * LOG2_E;
                    }
            }
        }
    }
}

/* 64 rows of a table's gradient over a chunk of tiles of 64 queries: (chunk, row, D). A warp owns 16
 * rows. A product of dterms, turned and moved to where each query's belong, with queries.
 *
 *   global: 2.7 GFLOP as for terms; read: dterms about once, 34 MB, and queries twice for each table, 42 MB
 *   out of L2: 0.04 ms (A100), 0.02 ms (H200). Bound by memory, and by waiting: a tile is not on its way
 *   while another is multiplied; blocks of 23 KiB share a multiprocessor instead. */
template <int NK>
__global__ static void __launch_bounds__(TERM_THREADS)
    flash_tables(float *sums, flash_problem p, bool of_w, int n_tiles, int tiles_of_slice,
                 int chunk)
{
    enum { PITCH = flash_tile<NK>::PITCH };
    DYNAMIC_SHARED(shared);
    __shared__ int64_t terms_at[TERM_QUERIES];
    __shared__ int meets[TERM_QUERIES]; /* row + key; −1: no query */
    bf16 *const q_tile = reinterpret_cast<bf16 *>(shared);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4,
              t = lane % 4;
    const table_view table(p, of_w);
    const int row0 = (int)blockIdx.y * TILE_ROWS + warp * 16, first = (int)blockIdx.x * chunk;
    const int end = first + chunk < n_tiles ? first + chunk : n_tiles;
    float sum[1][2 * NK][4];

    clear<1, 2 * NK>(sum);
    for (int i = first; i < end; i++) {
        const int unit = i / tiles_of_slice, q0 = i % tiles_of_slice * TERM_QUERIES;
        const flash_slice slice(p, unit / p.heads, unit % p.heads);

        if (q0 >= slice.n_q) continue; /* the whole block */
        __syncthreads();
        copy_row_pairs<NK, TERM_THREADS>(q_tile, NULL, TILE_ROWS, p,
                                         [&](int r, const bf16 *&a, const bf16 *&b) {
                                             a = slice.query_row(slice.query_token(q0 + r));
                                             b = NULL;
                                         });
        async_commit();
        if ((int)threadIdx.x < TERM_QUERIES) {
            const int q = q0 + (int)threadIdx.x, tok = slice.query_token(q);

            meets[threadIdx.x] = tok < 0 ? -1 : table.row_and_key(slice, q);
            terms_at[threadIdx.x] = tok < 0 ? 0 : slice.at(tok) * p.term_pitch + table.terms_at;
        }
        async_wait<0>();
        __syncthreads();
        for (int step = 0; step < TERM_QUERIES && row0 < table.n_rows; step += 16) {
            uint32_t a[1][4];
            float v[2][4];

            if (q0 + step >= slice.n_q) break;
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int q = step + j * 8 + 2 * t + e % 2;
                    const int key = meets[q] - (row0 + g + e / 2 * 8);

                    v[j][e] = key >= 0 && key < table.size ? p.dterms[terms_at[q] + key] : 0;
                }
            pack_left(a[0], v);
            multiply_columns<NK, 1>(sum, a, q_tile + step * PITCH, lane);
        }
    }
#pragma unroll
    for (int j = 0; j < 2 * NK; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = row0 + g + e / 2 * 8, c = j * 8 + 2 * t + e % 2;

            if (r < table.n_rows && c < p.d)
                sums[((int64_t)blockIdx.x * table.n_rows + r) * p.d + c] = sum[0][j][e];
        }
}

/* delta[n,head,tok] = Σc dy y of that head, D a multiple of 8. Eight lanes own a row, a lane every
 * eighth 16 bytes. dy and y are read once: bound by memory; global 21 MB, 0.012 ms (A100). */
__global__ static void __launch_bounds__(TERM_THREADS)
    flash_bf16_delta(float *delta, const bf16 *dy, const bf16 *y, int64_t n_rows, int64_t n_t,
                     int heads, int d)
{
    const int64_t row = ((int64_t)blockIdx.x * TERM_THREADS + (int)threadIdx.x) / DELTA_LANES;
    const int lane = (int)threadIdx.x % DELTA_LANES;
    const int64_t tok = row / heads, n = tok / n_t;
    float sum = 0;

    for (int c = lane * 8; row < n_rows && c < d; c += DELTA_LANES * 8) {
        const uint4 a = *reinterpret_cast<const uint4 *>(dy + row * d + c);
        const uint4 b = *reinterpret_cast<const uint4 *>(y + row * d + c);
        const uint32_t a_words[4] = { a.x, a.y, a.z, a.w }, b_words[4] = { b.x, b.y, b.z, b.w };

#pragma unroll
        for (int k = 0; k < 4; k++) {
            sum += __uint_as_float(a_words[k] << 16) * __uint_as_float(b_words[k] << 16);
            sum += __uint_as_float(a_words[k] & 0xFFFF0000u) *
                   __uint_as_float(b_words[k] & 0xFFFF0000u);
        }
    }
    sum = warp_sum(sum, DELTA_LANES);
    if (row < n_rows && lane == 0) delta[(n * heads + row % heads) * n_t + tok % n_t] = sum;
}

#endif

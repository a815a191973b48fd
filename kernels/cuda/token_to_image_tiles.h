/* token_to_image on tensor cores: bf16, up to 8 heads, channels a multiple of 8 up to 256.
 *
 * The projections are absorbed, so each head's tokens are 16 rows of CP channels (64, 128 or 256,
 * zero from C on): a warp's rows, that meet tiles of positions. Scores are in units of log2, whose
 * factor the rows hold: keys Wkᵀ q · log2 e / √D.
 *
 * Tiles in shared memory have rows of CP elements, 16 bytes of which change places with the row, so
 * that the eight rows of a matrix lie in different banks. */
#ifndef KERNELS_CUDA_TOKEN_TO_IMAGE_TILES_H
#define KERNELS_CUDA_TOKEN_TO_IMAGE_TILES_H

#include "kernels/cuda/token_to_image_rows.h"

enum { HEAD_ROWS = 16, TILES_WARPS = 8, TILES_THREADS = 32 * TILES_WARPS };
enum { TILES_HEADS = TILES_WARPS, TILES_C = 256, FWD_TILE = 64, BWD_TILE = 32 };

struct tiles_problem {
    const bf16 *rows;   /* (M,A,16,CP) */
    const bf16 *dz;     /* alike; backward */
    const bf16 *x, *pe; /* (M or 1,n_x,C), (n_x,C) */
    const float *terms; /* (M,A,16,2): lse and delta of a row; backward */
    float *sums,
        *stats;     /* (M,splits,A,16,CP): z, or the rows' gradient, or NULL; (M,splits,A,16,2) */
    bf16 *dx;       /* or NULL; as x */
    bool add;       /* to dx */
    int64_t x_mask; /* elements from one mask's x to the next's; 0: shared */
    int n_masks, n_x, c, heads;
    int per_split; /* positions, a multiple of a tile */
};

template <int PITCH> DEVICE int swizzled(int row, int c)
{
    return row * PITCH + ((c / 8) ^ (row % 8)) * 8 + c % 8;
}

/* The address a lane gives for four 8 × 8 matrices, two and two, from row and c on, multiples of 16:
 * down, matrix 1 is below matrix 0, 2 and 3 right of them; right, matrix 1 is right of matrix 0, 2
 * and 3 below them. What depends on the lane is one number, c turns three of its bits. */
template <int PITCH> DEVICE const bf16 *matrices_down(const bf16 *tile, int row, int c)
{
    const int lane = (int)threadIdx.x % 32;
    const int own = (lane / 8 % 2 * 8 + lane % 8) * PITCH + (lane / 16 ^ lane % 8) * 8;

    return tile + row * PITCH + c / 64 * 64 + (own ^ c % 64);
}

template <int PITCH> DEVICE const bf16 *matrices_right(const bf16 *tile, int row, int c)
{
    const int lane = (int)threadIdx.x % 32;
    const int own = (lane / 16 * 8 + lane % 8) * PITCH + (lane / 8 % 2 ^ lane % 8) * 8;

    return tile + row * PITCH + c / 64 * 64 + (own ^ c % 64);
}

/* Two columns of tiles of 8 that lie side by side in b. */
DEVICE void multiply_pair(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4],
                          const uint32_t (&b)[4])
{
    const uint32_t b0[2] = { b[0], b[1] }, b1[2] = { b[2], b[3] };

    multiply_bf16_16816(d0, a, b0);
    multiply_bf16_16816(d1, a, b1);
}

/* Starts copies of n rows of c elements from `first` on, of n_from in memory; the rest is zero. */
template <int CP>
DEVICE void fetch_rows(bf16 *tile, const bf16 *from, int n, int first, int n_from, int c)
{
#pragma unroll 2
    for (int e = (int)threadIdx.x; e < n * (CP / 8); e += TILES_THREADS) {
        const int row = e / (CP / 8), at = e % (CP / 8) * 8;
        const bool there = first + row < n_from && at < c;

        async_copy16(tile + swizzled<CP>(row, at),
                     there ? from + (int64_t)(first + row) * c + at : from, there ? 16 : 0);
    }
}

DEVICE uint32_t add_pairs(uint32_t a, uint32_t b)
{
    return pack_bf16(__uint_as_float(a << 16) + __uint_as_float(b << 16),
                     __uint_as_float(a & 0xFFFF0000u) + __uint_as_float(b & 0xFFFF0000u));
}

DEVICE uint4 add_eights(uint4 a, uint4 b)
{
    return make_uint4(add_pairs(a.x, b.x), add_pairs(a.y, b.y), add_pairs(a.z, b.z),
                      add_pairs(a.w, b.w));
}

/* sum[j] = the warp's 16 rows from `row` on, times positions 8 j … 8 j + 7 of the tile */
template <int CP, int N>
DEVICE void row_scores(float (&sum)[N][4], const bf16 *rows, int row, const bf16 *tile)
{
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) sum[j][k] = 0;
#pragma unroll 2
    for (int c = 0; c < CP; c += 16) {
        uint32_t a[4];

        load_matrix_x4(a, matrices_down<CP>(rows, row, c));
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            uint32_t b[4];

            load_matrix_x4(b, matrices_right<CP>(tile, j * 8, c));
            multiply_pair(sum[j], sum[j + 1], a, b);
        }
    }
}

/* sum[j] += weights (16 rows, 16 positions) times channels 8 j … 8 j + 7 of positions from i on */
template <int CP>
DEVICE void add_positions(float (&sum)[CP / 8][4], const uint32_t (&weights)[4], const bf16 *tile,
                          int i)
{
#pragma unroll
    for (int j = 0; j < CP / 8; j += 2) {
        uint32_t b[4];

        load_matrix_x4_transposed(b, matrices_down<CP>(tile, i, j * 8));
        multiply_pair(sum[j], sum[j + 1], weights, b);
    }
}

/* Two neighbouring columns of tiles of 8 as the left operand of a product over their 16. */
DEVICE void pack_weights(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4])
{
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

/* The warp's rows of sums to memory. */
template <int CP> DEVICE void put_sums(float *to, const float (&sum)[CP / 8][4])
{
    const int lane = (int)threadIdx.x % 32;
    float *const at = to + lane / 4 * CP + lane % 4 * 2;

#pragma unroll
    for (int j = 0; j < CP / 8; j++) {
        *reinterpret_cast<float2 *>(at + j * 8) = make_float2(sum[j][0], sum[j][1]);
        *reinterpret_cast<float2 *>(at + 8 * CP + j * 8) = make_float2(sum[j][2], sum[j][3]);
    }
}

DEVICE float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 2));
}

/* Scores of two rows, halves 0 and 1 of each tile of 8, become weights beside the running maximum and
 * sum; returns in factor what earlier sums are worth now. */
DEVICE void soften(float (&s)[FWD_TILE / 8][4], float (&max)[2], float (&sum)[2],
                   float (&factor)[2])
{
#pragma unroll
    for (int side = 0; side < 2; side++) {
        float top = max[side];

#pragma unroll
        for (int j = 0; j < FWD_TILE / 8; j++)
            top = fmaxf(top, fmaxf(s[j][2 * side], s[j][2 * side + 1]));
        top = quad_max(top);
        factor[side] = exp2f(max[side] - top);
        max[side] = top;
        sum[side] *= factor[side];
#pragma unroll
        for (int j = 0; j < FWD_TILE / 8; j++)
#pragma unroll
            for (int k = 2 * side; k < 2 * side + 2; k++) {
                s[j][k] = exp2f(s[j][k] - top);
                sum[side] += s[j][k];
            }
    }
}

template <int CP> static inline size_t fwd_shared_bytes(int64_t heads)
{
    return (size_t)(heads * HEAD_ROWS + 3 * FWD_TILE) * CP * sizeof(bf16);
}

/* z and what it takes to merge it. A block owns a split of a mask's positions, a warp one head's 16
 * rows, a thread two of them with every fourth pair of channels: 128 sums at 256 channels.
 *
 * SAM's mask: x is read once, 2.1 MB, pe once from L2, alike; 128 rows by 4096 positions by 256
 * channels, twice: 0.54 GFLOP. 64 masks take 40 us of an H100's memory and 58 us of its HMMA. What
 * bounds it is shared memory: every warp reads the whole tile, 144 LDSM of 512 bytes for 256 HMMA,
 * 80 us at 128 bytes a clock.
 * The rows stay in shared memory, as registers hold the sums: 64 KiB; two tiles of x and one of keys
 * are 96 KiB: a block a multiprocessor. The next x is on its way while this one is used, the next pe
 * from the moment that the scores are there. */
template <int CP>
__global__ static void __launch_bounds__(TILES_THREADS, 1) fwd_tiles(tiles_problem p)
{
    DYNAMIC_SHARED(shared);
    bf16 *const rows = reinterpret_cast<bf16 *>(shared);
    bf16 *const keys = rows + p.heads * HEAD_ROWS * CP, *const tiles = keys + FWD_TILE * CP;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t mask = blockIdx.y;
    const int first = (int)blockIdx.x * p.per_split;
    const int end = p.n_x - first < p.per_split ? p.n_x : first + p.per_split;
    const bf16 *const x = p.x + mask * p.x_mask;
    float z[CP / 8][4] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};

    fetch_rows<CP>(rows, p.rows + mask * p.heads * HEAD_ROWS * CP, p.heads * HEAD_ROWS, 0,
                   p.heads * HEAD_ROWS, CP);
    fetch_rows<CP>(tiles, x, FWD_TILE, first, end, p.c);
    fetch_rows<CP>(keys, p.pe, FWD_TILE, first, end, p.c);
    async_commit();
    for (int i = first, turn = 0; i < end; i += FWD_TILE, turn ^= 1) {
        const bf16 *const tile = tiles + turn * FWD_TILE * CP;
        float s[FWD_TILE / 8][4], factor[2];

        async_wait<0>();
#pragma unroll 2
        for (int e = (int)threadIdx.x; e < FWD_TILE * (CP / 8); e += TILES_THREADS) {
            const int at = swizzled<CP>(e / (CP / 8), e % (CP / 8) * 8); /* this thread's copies */
            uint4 *const key = reinterpret_cast<uint4 *>(keys + at);

            *key = add_eights(*key, *reinterpret_cast<const uint4 *>(tile + at));
        }
        __syncthreads();
        if (i + FWD_TILE < end)
            fetch_rows<CP>(tiles + (turn ^ 1) * FWD_TILE * CP, x, FWD_TILE, i + FWD_TILE, end, p.c);
        if (warp < p.heads) row_scores<CP>(s, rows, warp * HEAD_ROWS, keys);
        __syncthreads();
        if (i + FWD_TILE < end) fetch_rows<CP>(keys, p.pe, FWD_TILE, i + FWD_TILE, end, p.c);
        async_commit();
        if (warp >= p.heads) continue;
        if (i + FWD_TILE > end) {
#pragma unroll
            for (int j = 0; j < FWD_TILE / 8; j++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    if (i + j * 8 + lane % 4 * 2 + k % 2 >= end) s[j][k] = -INFINITY;
        }
        soften(s, max, sum, factor);
#pragma unroll
        for (int j = 0; j < CP / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) z[j][k] *= factor[k / 2];
#pragma unroll
        for (int j = 0; j < FWD_TILE / 8; j += 2) {
            uint32_t weights[4];

            pack_weights(weights, s[j], s[j + 1]);
            add_positions<CP>(z, weights, tile, j * 8);
        }
    }
    if (warp >= p.heads) return;
    const int64_t row = ((mask * gridDim.x + blockIdx.x) * p.heads + warp) * HEAD_ROWS;

    put_sums<CP>(p.sums + row * CP, z);
#pragma unroll
    for (int side = 0; side < 2; side++) {
        const float total = warp_sum(sum[side], 4);
        float *const stats = p.stats + (row + lane / 4 + side * 8) * 2;

        if (lane % 4 == 0) {
            stats[0] = max[side];
            stats[1] = total;
        }
    }
}

/* drows += slopes keys */
template <int CP>
DEVICE void add_slopes(float (&drows)[CP / 8][4], const float (&ds)[BWD_TILE / 8][4],
                       const bf16 *keys)
{
#pragma unroll
    for (int j = 0; j < BWD_TILE / 8; j += 2) {
        uint32_t a[4];

        pack_weights(a, ds[j], ds[j + 1]);
        add_positions<CP>(drows, a, keys, j * 8);
    }
}

enum { SLOPES_PITCH = 2 * BWD_TILE, SLOPES = TILES_HEADS * HEAD_ROWS * SLOPES_PITCH };

template <int CP> static inline size_t bwd_shared_bytes(int64_t heads)
{
    return (size_t)(2 * heads * HEAD_ROWS * CP + 2 * SLOPES) * sizeof(bf16);
}

/* The weights of a warp's rows and the slopes of its scores, from scores s and dp. */
DEVICE void slopes(float (&s)[BWD_TILE / 8][4], float (&dp)[BWD_TILE / 8][4], const float *terms,
                   int n_left)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int side = 0; side < 2; side++) {
        const float2 own =
            *reinterpret_cast<const float2 *>(terms + (lane / 4 + side * 8) * 2); /* lse, delta */

#pragma unroll
        for (int j = 0; j < BWD_TILE / 8; j++)
#pragma unroll
            for (int k = 2 * side; k < 2 * side + 2; k++) {
                const bool there = j * 8 + lane % 4 * 2 + k % 2 < n_left;

                s[j][k] = there ? exp2f(s[j][k] - own.x) : 0;
                dp[j][k] = s[j][k] * (dp[j][k] - own.y) * LN_2;
            }
    }
}

/* Weights and slopes of the warp's rows side by side, for the other warps. */
DEVICE void put_slopes(bf16 *to, int row, const float (&s)[BWD_TILE / 8][4],
                       const float (&ds)[BWD_TILE / 8][4])
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int side = 0; side < 2; side++)
#pragma unroll
        for (int j = 0; j < BWD_TILE / 8; j++) {
            const int own = row + lane / 4 + side * 8, at = j * 8 + lane % 4 * 2;

            *reinterpret_cast<uint32_t *>(to + swizzled<SLOPES_PITCH>(own, at)) =
                pack_bf16(s[j][2 * side], s[j][2 * side + 1]);
            *reinterpret_cast<uint32_t *>(to + swizzled<SLOPES_PITCH>(own, BWD_TILE + at)) =
                pack_bf16(ds[j][2 * side], ds[j][2 * side + 1]);
        }
}

template <int CP> struct dx_columns { /* a warp's share of a tile's dx */
    enum { N = CP / TILES_WARPS < 16 ? 2 : CP / TILES_WARPS / 8 };
};

/* dx += slopesᵀ rows + weightsᵀ dz, of the warp's columns */
template <int CP, int N>
DEVICE void add_dx(float (&dx)[2][N][4], const bf16 *slopes_at, const bf16 *rows, const bf16 *dz,
                   int heads, int column)
{
#pragma unroll 1
    for (int k = 0; k < 2 * heads * HEAD_ROWS; k += HEAD_ROWS) {
        const bool of_weights = k >= heads * HEAD_ROWS;
        const int row = of_weights ? k - heads * HEAD_ROWS : k;
        const bf16 *const right = of_weights ? dz : rows;
        uint32_t a[2][4];

#pragma unroll
        for (int i = 0; i < 2; i++)
            load_matrix_x4_transposed(
                a[i],
                matrices_right<SLOPES_PITCH>(slopes_at, row, (of_weights ? 0 : BWD_TILE) + i * 16));
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            uint32_t b[4];

            load_matrix_x4_transposed(b, matrices_down<CP>(right, row, column + j * 8));
#pragma unroll
            for (int i = 0; i < 2; i++) multiply_pair(dx[i][j], dx[i][j + 1], a[i], b);
        }
    }
}

/* The warp's columns of a tile of dx, to positions from i on. */
template <int N>
DEVICE void put_dx(const tiles_problem &p, int64_t mask, const float (&dx)[2][N][4], int i, int end,
                   int column)
{
    const int lane = (int)threadIdx.x % 32;

#pragma unroll
    for (int part = 0; part < 4; part++) {
        const int own = i + part * 8 + lane / 4;
        bf16 *const to = p.dx + mask * p.x_mask + (int64_t)own * p.c + column + lane % 4 * 2;

#pragma unroll
        for (int j = 0; j < N; j++) {
            const float *const v = &dx[part / 2][j][part % 2 * 2];
            uint32_t *const at = reinterpret_cast<uint32_t *>(to + j * 8);

            if (own >= end || column + j * 8 >= p.c) continue;
            const uint32_t old = p.add ? *at : 0;

            *at = pack_bf16(v[0] + __uint_as_float(old << 16),
                            v[1] + __uint_as_float(old & 0xFFFF0000u));
        }
    }
}

/* keys = x + pe of positions from i on, of a tile of x that this thread's copies are in. */
template <int CP>
DEVICE void make_keys(bf16 *keys, const bf16 *tile, const tiles_problem &p, int i, int end)
{
#pragma unroll 2
    for (int e = (int)threadIdx.x; e < BWD_TILE * (CP / 8); e += TILES_THREADS) {
        const int row = e / (CP / 8), c = e % (CP / 8) * 8, at = swizzled<CP>(row, c);
        uint4 pe = {};

        if (i + row < end && c < p.c)
            pe = *reinterpret_cast<const uint4 *>(p.pe + (int64_t)(i + row) * p.c + c);
        *reinterpret_cast<uint4 *>(keys + at) =
            add_eights(*reinterpret_cast<const uint4 *>(tile + at), pe);
    }
}

/* dx, and the gradient of the rows up to its factor. A block owns a split of a mask's positions, a
 * warp one head's 16 rows of weights, slopes and the rows' gradient (128 sums a thread at 256
 * channels), and an eighth of dx's columns (32 sums).
 *
 * SAM's mask: x is read once, 2.1 MB, dx written once, alike; 128 by 4096 by 256, five times: 1.34
 * GFLOP, 64 masks in 145 us of an H100's HMMA. Shared memory bounds it, as forward: 192 LDSM for 320
 * HMMA of a warp and tile, 220 us.
 * Two buffers of 16 KiB take turns beside rows and dz, 128 KiB: one holds x, then what warps give to
 * each other; the other keys, then the next x, which is on its way while dx is summed. Larger tiles
 * would not fit sm_80's 163 KiB. */
template <int CP>
__global__ static void __launch_bounds__(TILES_THREADS, 1) bwd_tiles(tiles_problem p)
{
    DYNAMIC_SHARED(shared);
    const int n_rows = p.heads * HEAD_ROWS;
    bf16 *const rows = reinterpret_cast<bf16 *>(shared), *const dz = rows + n_rows * CP;
    bf16 *const buffers = dz + n_rows * CP;
    const int warp = (int)threadIdx.x / 32, column = warp * dx_columns<CP>::N * 8;
    const int64_t mask = blockIdx.y;
    const int first = (int)blockIdx.x * p.per_split;
    const int end = p.n_x - first < p.per_split ? p.n_x : first + p.per_split;
    const bf16 *const x = p.x + mask * p.x_mask;
    float drows[CP / 8][4] = {};

    fetch_rows<CP>(rows, p.rows + mask * n_rows * CP, n_rows, 0, n_rows, CP);
    fetch_rows<CP>(dz, p.dz + mask * n_rows * CP, n_rows, 0, n_rows, CP);
    fetch_rows<CP>(buffers, x, BWD_TILE, first, end, p.c);
    for (int i = first, turn = 0; i < end; i += BWD_TILE, turn ^= 1) {
        bf16 *const tile = buffers + turn * SLOPES, *const keys = buffers + (turn ^ 1) * SLOPES;
        float s[BWD_TILE / 8][4], ds[BWD_TILE / 8][4];

        async_commit();
        async_wait<0>();
        make_keys<CP>(keys, tile, p, i, end);
        __syncthreads();
        if (warp < p.heads) {
            row_scores<CP>(s, rows, warp * HEAD_ROWS, keys);
            row_scores<CP>(ds, dz, warp * HEAD_ROWS, tile);
        }
        __syncthreads(); /* behind the last read of x, whose place the slopes take */
        if (warp < p.heads) {
            slopes(s, ds, p.terms + (mask * n_rows + warp * HEAD_ROWS) * 2, end - i);
            put_slopes(tile, warp * HEAD_ROWS, s, ds);
            if (p.sums) add_slopes<CP>(drows, ds, keys);
        }
        __syncthreads(); /* behind the last read of keys, whose place the next x takes */
        if (i + BWD_TILE < end) fetch_rows<CP>(keys, x, BWD_TILE, i + BWD_TILE, end, p.c);
        if (p.dx && column < CP) {
            float dx[2][dx_columns<CP>::N][4] = {};

            add_dx<CP>(dx, tile, rows, dz, p.heads, column);
            put_dx(p, mask, dx, i, end, column);
        }
        __syncthreads();
    }
    const int64_t row = ((mask * gridDim.x + blockIdx.x) * p.heads + warp) * HEAD_ROWS;

    if (p.sums && warp < p.heads) put_sums<CP>(p.sums + row * CP, drows);
}

/* dx of an x that all masks share. A block owns a tile of positions and sums over the masks in order,
 * a warp one head's weights and slopes, and an eighth of dx's columns.
 * x is read and dx written once from memory; rows and dz, 128 KiB a mask and block, come from L2, and
 * nothing hides them: 16 MiB a mask of SAM's. It runs once a step of a decoder, in its first layer. */
template <int CP>
__global__ static void __launch_bounds__(TILES_THREADS, 1) shared_dx_tiles(tiles_problem p)
{
    DYNAMIC_SHARED(shared);
    const int n_rows = p.heads * HEAD_ROWS;
    bf16 *const rows = reinterpret_cast<bf16 *>(shared), *const dz = rows + n_rows * CP;
    bf16 *const tile = dz + n_rows * CP, *const keys = tile + SLOPES;
    const int warp = (int)threadIdx.x / 32, column = warp * dx_columns<CP>::N * 8;
    const int i = (int)blockIdx.x * BWD_TILE;
    float dx[2][dx_columns<CP>::N][4] = {};

    for (int64_t mask = 0; mask < p.n_masks; mask++) {
        float s[BWD_TILE / 8][4], ds[BWD_TILE / 8][4];

        fetch_rows<CP>(rows, p.rows + mask * n_rows * CP, n_rows, 0, n_rows, CP);
        fetch_rows<CP>(dz, p.dz + mask * n_rows * CP, n_rows, 0, n_rows, CP);
        fetch_rows<CP>(tile, p.x, BWD_TILE, i, p.n_x, p.c);
        async_commit();
        async_wait<0>();
        if (mask == 0) make_keys<CP>(keys, tile, p, i, p.n_x);
        __syncthreads();
        if (warp < p.heads) {
            row_scores<CP>(s, rows, warp * HEAD_ROWS, keys);
            row_scores<CP>(ds, dz, warp * HEAD_ROWS, tile);
        }
        __syncthreads(); /* behind the last read of x, whose place the slopes take */
        if (warp < p.heads) {
            slopes(s, ds, p.terms + (mask * n_rows + warp * HEAD_ROWS) * 2, p.n_x - i);
            put_slopes(tile, warp * HEAD_ROWS, s, ds);
        }
        __syncthreads();
        if (column < CP) add_dx<CP>(dx, tile, rows, dz, p.heads, column);
        __syncthreads(); /* behind the last read of all that the next mask replaces */
    }
    if (column < CP) put_dx(p, 0, dx, i, p.n_x, column);
}

#endif

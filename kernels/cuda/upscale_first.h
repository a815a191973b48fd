/* The two products behind du1 (rows, 4·C1), padded and in bf16, of upscale's first convolution:
 *
 *   dx = du1 w1ᵀ        dw1 = xᵀ du1, over the pixels of all masks */
#ifndef KERNELS_CUDA_UPSCALE_FIRST_H
#define KERNELS_CUDA_UPSCALE_FIRST_H

#include "kernels/cuda/upscale_tile.h"

enum { DX_COLUMNS = 128, DW_TILE = 128, DW_PITCH = DW_TILE + PAD };

struct dx_shared {
    alignas(16) bf16 w1[2][DEPTH][DX_COLUMNS + PAD];
};

/* Slice `index` of w1 (4·C1,C): 32 rows of it, 128 columns; by columns first. */
DEVICE void load_dx_slice(dx_shared &t, const bf16 *w1, int index, int n_slices, int padded)
{
    const int k0 = index % n_slices * DEPTH, c0 = index / n_slices * DX_COLUMNS;

    for (int i = (int)threadIdx.x; i < DEPTH * DX_COLUMNS / 8; i += THREADS) {
        const int k = i / (DX_COLUMNS / 8), c = i % (DX_COLUMNS / 8) * 8;
        const bool inside = c0 + c < padded;

        async_copy16(&t.w1[index & 1][k][c], inside ? w1 + (int64_t)(k0 + k) * padded + c0 + c : w1,
                     inside ? 16 : 0);
    }
}

/* dx. A block owns 64 pixels, a warp 16 of them and half of 128 columns, which come in turn. du1 is
 * read once, into shared memory, dx is written once: 4.2 MB a mask of SAM's size; 131 KB of w1 come
 * from L2 for each block. 0.54 GFLOP a mask, 1.1 µs on an H100 at 500 TFLOP/s, against 1.3 µs for the
 * bytes: bound by memory, when two blocks (51 KB each) or more overlap loads and products. */
__global__ static void __launch_bounds__(THREADS, 2)
    first_dx_rows(bf16 *dx, bool add, const bf16 *du1, const bf16 *w1, int64_t n_rows, int n_k,
                  int n_c)
{
    DYNAMIC_SHARED(bytes);
    dx_shared &t = *reinterpret_cast<dx_shared *>(bytes);
    bf16 *const rows = reinterpret_cast<bf16 *>(bytes + sizeof t);
    const int padded = padded_channels(n_c), pitch = n_k + PAD, n_slices = n_k / DEPTH;
    const int n_turns = (n_c + DX_COLUMNS - 1) / DX_COLUMNS;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int first = warp % 4 * 16, part = warp / 4 * (DX_COLUMNS / 2);
    const int64_t row0 = (int64_t)blockIdx.x * PIXELS;

    for (int i = (int)threadIdx.x; i < PIXELS * n_k / 8; i += THREADS) {
        const int row = i / (n_k / 8), k = i % (n_k / 8) * 8;
        const bool inside = row0 + row < n_rows;

        async_copy16(rows + row * pitch + k, inside ? du1 + (row0 + row) * n_k + k : du1,
                     inside ? 16 : 0);
    }
    load_dx_slice(t, w1, 0, n_slices, padded);
    async_commit();
    for (int turn = 0; turn < n_turns; turn++) {
        const int c0 = turn * DX_COLUMNS + part;
        float sum[8][4] = {};

        for (int slice = 0; slice < n_slices; slice++) {
            const int index = turn * n_slices + slice;

            async_wait<0>();
            __syncthreads();
            if (index + 1 < n_turns * n_slices) load_dx_slice(t, w1, index + 1, n_slices, padded);
            async_commit();
            if (c0 >= n_c) continue;
#pragma unroll
            for (int k = 0; k < DEPTH; k += 16) {
                uint32_t left[4], right[4];

                fragment_a(left, rows + first * pitch + slice * DEPTH + k, pitch);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    fragment_b_turned(right, &t.w1[index & 1][k][part + j * 16], DX_COLUMNS + PAD);
                    multiply_pair(sum[2 * j], sum[2 * j + 1], left, right);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const int64_t row = row0 + first + lane / 4 + 8 * r;
                const int c = c0 + own_column(j, 0);

                if (row >= n_rows || c >= n_c) continue;
                element_gradient(dx + row * n_c + c, add, sum[j][2 * r]);
                element_gradient(dx + row * n_c + c + 1, add, sum[j][2 * r + 1]);
            }
    }
}

struct dw_shared {
    alignas(16) bf16 left[2][DEPTH][DW_PITCH], right[2][DEPTH][DW_PITCH];
};

/* 32 rows of 128 columns; zeros behind n_rows and n_columns, a multiple of 8 */
DEVICE void load_dw_slice(bf16 (&tile)[DEPTH][DW_PITCH], const bf16 *from, int64_t row0,
                          int64_t n_rows, int c0, int n_columns)
{
    for (int i = (int)threadIdx.x; i < DEPTH * DW_TILE / 8; i += THREADS) {
        const int row = i / (DW_TILE / 8), c = i % (DW_TILE / 8) * 8;
        const bool inside = row0 + row < n_rows && c0 + c < n_columns;

        async_copy16(&tile[row][c], inside ? from + (row0 + row) * n_columns + c0 + c : from,
                     inside ? 16 : 0);
    }
}

/* Sums of dw1, (chunk,4·C1,C). A block owns 128 × 128 of them over a chunk of rows, a warp 64 × 32.
 * At SAM's size two blocks read each row of du1 and of x, one of them from L2, and a chunk's 262 KB
 * of sums are written for its 1.05 MB of rows or more. 0.54 GFLOP a mask, 1.1 µs on an H100, against
 * 1.1 µs for the bytes. Two slices of 32 rows, one on its way while the other is multiplied. */
__global__ static void __launch_bounds__(THREADS, 2)
    first_dw_chunks_sum(float *sums, const bf16 *du1, const bf16 *x, int64_t n_rows, int chunk,
                        int n_i, int n_j)
{
    DYNAMIC_SHARED(bytes);
    dw_shared &t = *reinterpret_cast<dw_shared *>(bytes);
    const int i0 = (int)blockIdx.x * DW_TILE, j0 = (int)blockIdx.y * DW_TILE;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int own_i = warp / 4 * 64, own_j = warp % 4 * 32;
    const int64_t first = (int64_t)blockIdx.z * chunk;
    const int64_t end = first + chunk < n_rows ? first + chunk : n_rows;
    float sum[4][4][4] = {};

    load_dw_slice(t.left[0], du1, first, end, i0, n_i);
    load_dw_slice(t.right[0], x, first, end, j0, n_j);
    async_commit();
    for (int64_t row = first, turn = 0; row < end; row += DEPTH, turn ^= 1) {
        async_wait<0>();
        __syncthreads();
        if (row + DEPTH < end) {
            load_dw_slice(t.left[turn ^ 1], du1, row + DEPTH, end, i0, n_i);
            load_dw_slice(t.right[turn ^ 1], x, row + DEPTH, end, j0, n_j);
        }
        async_commit();
        if (i0 + own_i >= n_i || j0 + own_j >= n_j) continue;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t a[4][4], b[4];

#pragma unroll
            for (int i = 0; i < 4; i++)
                fragment_a_turned(a[i], &t.left[turn][k][own_i + i * 16], DW_PITCH);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                fragment_b_turned(b, &t.right[turn][k][own_j + j * 16], DW_PITCH);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    multiply_pair(sum[i][2 * j], sum[i][2 * j + 1], a[i], b);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = i0 + own_i + i * 16 + lane / 4 + 8 * r;
                const int column = j0 + own_j + own_column(j, 0);

                if (row < n_i && column < n_j)
                    *reinterpret_cast<float2 *>(sums + ((int64_t)blockIdx.z * n_i + row) * n_j +
                                                column) =
                        make_float2(sum[i][j][2 * r], sum[i][j][2 * r + 1]);
            }
}

/* dw1 (C,n_1,2,2). A thread owns an element, neighbours those of one row of the sums, and adds its
 * chunks in order: each is read once. Bound by memory. */
__global__ static void __launch_bounds__(THREADS)
    first_dw_finish(float *dw, bool add, const float *sums, int n_chunks, int c1, int n_1, int n_c)
{
    const int own = (int)(blockIdx.x * THREADS + threadIdx.x);
    const int c = own % n_c, i = own / n_c, o = i % n_1, sub = i / n_1;
    float sum = 0;

    if (sub >= 4) return;
    for (int k = 0; k < n_chunks; k++) sum += sums[((int64_t)k * 4 * c1 + sub * c1 + o) * n_c + c];
    element_gradient(dw + ((int64_t)c * n_1 + o) * 4 + sub, add, sum);
}

static inline enum status first_dx(struct tensor dx, const bf16 *du1, const bf16 *w1, int n_k,
                                   struct stream *s)
{
    const int64_t n_rows = tensor_rows(dx);
    const size_t shared = sizeof(dx_shared) + PIXELS * sizeof(bf16) * (size_t)(n_k + PAD);

    TRY(allow_shared(first_dx_rows, shared));
    LAUNCH(first_dx_rows, (unsigned)((n_rows + PIXELS - 1) / PIXELS), THREADS, shared, s,
           (bf16 *)dx.data, dx.add, du1, w1, n_rows, n_k, (int)tensor_cols(dx));
    return OK;
}

static const int64_t MIN_DW_ROWS = 256, MAX_DW_CHUNKS = 64;

/* Rows of one chunk: whole slices, fixed by the shape, hence the order of all sums. */
static inline int64_t first_dw_rows(int64_t n_rows)
{
    const int64_t even = (n_rows + MAX_DW_CHUNKS - 1) / MAX_DW_CHUNKS;

    return even < MIN_DW_ROWS ? MIN_DW_ROWS : (even + DEPTH - 1) / DEPTH * DEPTH;
}

static inline int64_t first_dw_chunks(int64_t n_rows)
{
    return (n_rows + first_dw_rows(n_rows) - 1) / first_dw_rows(n_rows);
}

static inline enum status first_dw(struct tensor dw, const bf16 *du1, struct tensor x, int c1,
                                   float *sums, struct stream *s)
{
    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x), n_1 = dw.dim[1];
    const int64_t n_chunks = first_dw_chunks(n_rows);
    const dim3 grid((unsigned)((4 * c1 + DW_TILE - 1) / DW_TILE),
                    (unsigned)((n_c + DW_TILE - 1) / DW_TILE), (unsigned)n_chunks);

    if (n_rows > 0)
        LAUNCH(first_dw_chunks_sum, grid, THREADS, sizeof(dw_shared), s, sums, du1,
               (const bf16 *)x.data, n_rows, (int)first_dw_rows(n_rows), 4 * c1, (int)n_c);
    LAUNCH(first_dw_finish, (unsigned)((4 * n_1 * n_c + THREADS - 1) / THREADS), THREADS, 0, s,
           (float *)dw.data, dw.add, sums, (int)n_chunks, c1, (int)n_1, (int)n_c);
    return OK;
}

#endif

/* The product of gemm.h on tensor cores: operands rounded to bf16, sums in f32 from k = 0 upwards by
 * sixteens.
 *
 * Slices of 32 k of both operands pass through a ring in shared memory. A slice is moved in runs:
 * 8 elements of one line (an i or a j) where the operand's map runs along k, of one k where it runs
 * along lines; ldmatrix turns the second kind on the way to registers. A run that stands in memory
 * as it is goes by cp.async; everything else (tails, rows of odd length, f32) through registers into
 * the same place. */
#ifndef KERNELS_CUDA_GEMM_BF16_H
#define KERNELS_CUDA_GEMM_BF16_H

#include "kernels/cuda/gemm.h"

enum { MMA_THREADS = 128, MMA_WARPS = 4, MMA_DEPTH = 32, RUN = 8, DEPTH_RUNS = MMA_DEPTH / RUN };

/* A block's SIDE × SIDE sums, a warp's WARP × WARP of them, slices in the ring, and blocks that are
 * to fit a multiprocessor's registers at a time. */
template <int SIDE_, int STAGES_, int BLOCKS_> struct mma_shape {
    enum { SIDE = SIDE_, WARP = SIDE_ / 2, STAGES = STAGES_, BLOCKS = BLOCKS_ };
    enum { SLICE = SIDE * DEPTH_RUNS, MOVES = SLICE / MMA_THREADS }; /* runs */
    enum { ONLY_RUNS = SIDE_ > 64 }; /* other operands are read by small tiles */
};
typedef mma_shape<128, 3, 2> large_tiles; /* 48 KiB: what static shared memory may be */
typedef mma_shape<64, 4, 4> small_tiles;

/* Places in a slice, in runs. Eight rows that ldmatrix reads at once, and eight runs that
 * neighbouring threads write, lie in different 16 bytes of the 128 that the banks are wide. */
DEVICE int place_along_k(int line, int run)
{
    return line * DEPTH_RUNS + (run ^ (line / 2 % DEPTH_RUNS));
}

template <class SHAPE> DEVICE int place_along_lines(int k, int run)
{
    return k * (SHAPE::SIDE / RUN) + (run ^ (k % RUN));
}

DEVICE void store_run(uint4 *to, const float (&v)[RUN])
{
    *to = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                     pack_bf16(v[6], v[7]));
}

/* at < 0: zeros */
DEVICE void move_run(uint4 *to, const bf16 *p, int64_t at)
{
    async_copy16(to, at < 0 ? p : p + at, at < 0 ? 0 : 16);
}

DEVICE void move_run(uint4 *to, const float *p, int64_t at)
{
    float4 low = make_float4(0, 0, 0, 0), high = low;

    if (at >= 0) {
        low = *reinterpret_cast<const float4 *>(p + at);
        high = *reinterpret_cast<const float4 *>(p + at + 4);
    }
    store_run(to, { low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w });
}

/* A thread's part of every slice of an operand: MOVES runs. in_runs: they stand in memory as they
 * are, on whole 16 bytes. */
template <class SHAPE, class OPERAND> struct slice_reader;

/* along k: one run of lines 32 apart, whose places are worked out once */
template <class SHAPE, class T, class MAP> struct slice_reader<SHAPE, operand<T, MAP>> {
    enum { ALONG_K = 1, LINES = MMA_THREADS / DEPTH_RUNS };
    const T *p;
    MAP map;
    bool in_runs;
    int left; /* lines from the tile's first on */
    typename MAP::line_type line[SHAPE::MOVES];

    DEVICE slice_reader(const operand<T, MAP> &o, bool runs, int first, int n)
        : p(o.p), map(o.map), in_runs(runs), left(n - first)
    {
#pragma unroll
        for (int e = 0; e < SHAPE::MOVES; e++) line[e] = map.line(first + own_line(e));
    }

    static DEVICE int own_line(int e)
    {
        return (int)threadIdx.x / DEPTH_RUNS + e * LINES;
    }

    DEVICE void move_runs(uint4 *slice, int k0, int k_end) const
    {
        const int run = (int)threadIdx.x % DEPTH_RUNS, k = k0 + run * RUN;
        const auto column = map.column(k);

#pragma unroll
        for (int e = 0; e < SHAPE::MOVES; e++)
            move_run(slice + place_along_k(own_line(e), run), p,
                     k < k_end && own_line(e) < left ? map.place(line[e], column) : -1);
    }

    DEVICE void move_elements(uint4 *slice, int k0, int k_end) const
    {
        const int run = (int)threadIdx.x % DEPTH_RUNS, k = k0 + run * RUN;

#pragma unroll
        for (int e = 0; e < SHAPE::MOVES; e++) {
            float v[RUN];

#pragma unroll
            for (int q = 0; q < RUN; q++) {
                const bool there = k + q < k_end && own_line(e) < left;
                const int64_t at = there ? map.place(line[e], map.column(k + q)) : -1;

                v[q] = at >= 0 ? element_load(p + at) : 0;
            }
            store_run(slice + place_along_k(own_line(e), run), v);
        }
    }
};

/* along lines: the same run of k some apart */
template <class SHAPE, class T, class MAP> struct slice_reader<SHAPE, operand<T, turned<MAP>>> {
    enum { ALONG_K = 0, LINE_RUNS = SHAPE::SIDE / RUN };
    const T *p;
    MAP map;
    bool in_runs;
    int first, left;
    typename MAP::column_type column;

    DEVICE slice_reader(const operand<T, turned<MAP>> &o, bool runs, int first_line, int n)
        : p(o.p), map(o.map.map), in_runs(runs), first(first_line + own_run() * RUN),
          left(n - first), column(map.column(first))
    {
    }

    static DEVICE int own_run(void) { return (int)threadIdx.x % LINE_RUNS; }

    static DEVICE int own_k(int e)
    {
        return (int)threadIdx.x / LINE_RUNS + e * (MMA_THREADS / LINE_RUNS);
    }

    DEVICE void move_runs(uint4 *slice, int k0, int k_end) const
    {
#pragma unroll
        for (int e = 0; e < SHAPE::MOVES; e++) {
            const int k = k0 + own_k(e);

            move_run(slice + place_along_lines<SHAPE>(own_k(e), own_run()), p,
                     k < k_end && left > 0 ? map.place(map.line(k), column) : -1);
        }
    }

    DEVICE void move_elements(uint4 *slice, int k0, int k_end) const
    {
#pragma unroll
        for (int e = 0; e < SHAPE::MOVES; e++) {
            const auto line = map.line(k0 + own_k(e));
            float v[RUN];

#pragma unroll
            for (int q = 0; q < RUN; q++) {
                const bool there = k0 + own_k(e) < k_end && q < left;
                const int64_t at = there ? map.place(line, map.column(first + q)) : -1;

                v[q] = at >= 0 ? element_load(p + at) : 0;
            }
            store_run(slice + place_along_lines<SHAPE>(own_k(e), own_run()), v);
        }
    }
};

template <class SHAPE, class READER>
DEVICE void move_slice(const READER &reader, uint4 *slice, int k0, int k_end)
{
    if constexpr (SHAPE::ONLY_RUNS != 0)
        reader.move_runs(slice, k0, k_end);
    else if (reader.in_runs)
        reader.move_runs(slice, k0, k_end);
    else
        reader.move_elements(slice, k0, k_end);
}

/* The fragments of 16 lines and 16 k from k on: of A as its registers want them (lines in r0 and r1),
 * or of B (k in r0 and r1): two of 8 lines. Lane 8 m + r names row r of the m-th 8 × 8. */
template <class SHAPE, bool ALONG_K, bool IS_A>
DEVICE void load_fragments(uint32_t (&r)[4], const uint4 *slice, int line, int k)
{
    const int lane = (int)threadIdx.x % 32, row = lane % 8, first = lane / 8 % 2,
              second = lane / 16;
    const int l = line + 8 * (IS_A ? first : second), k_row = k + 8 * (IS_A ? second : first);

    if (ALONG_K)
        load_matrix_x4(r, slice + place_along_k(l + row, k_row / RUN));
    else
        load_matrix_x4_transposed(r, slice + place_along_lines<SHAPE>(k_row + row, l / RUN));
}

template <class SHAPE, bool A_ALONG_K, bool B_ALONG_K>
DEVICE void multiply_slice(float (&sum)[SHAPE::WARP / 16][SHAPE::WARP / 8][4], const uint4 *a_slice,
                           const uint4 *b_slice, int own_i, int own_j)
{
#pragma unroll
    for (int k = 0; k < MMA_DEPTH; k += 16) {
        uint32_t a[SHAPE::WARP / 16][4], b[SHAPE::WARP / 8][2];

#pragma unroll
        for (int f = 0; f < SHAPE::WARP / 16; f++) {
            uint32_t pair[4];

            load_fragments<SHAPE, A_ALONG_K, true>(a[f], a_slice, own_i + 16 * f, k);
            load_fragments<SHAPE, B_ALONG_K, false>(pair, b_slice, own_j + 16 * f, k);
            b[2 * f][0] = pair[0];
            b[2 * f][1] = pair[1];
            b[2 * f + 1][0] = pair[2];
            b[2 * f + 1][1] = pair[3];
        }
#pragma unroll
        for (int f = 0; f < SHAPE::WARP / 16; f++)
#pragma unroll
            for (int g = 0; g < SHAPE::WARP / 8; g++) multiply_bf16_16816(sum[f][g], a[f], b[g]);
    }
}

/* Hands a warp's sums to the output, 32 rows at a time through its own part of shared memory, so that
 * neighbouring lanes write neighbouring fours, and an activation is written out once. A pitch of
 * 8 banks more than whole rows of banks: no conflicts either way. */
template <class SHAPE, class OUT>
DEVICE void put_sums(const OUT &out, const float (&sum)[SHAPE::WARP / 16][SHAPE::WARP / 8][4],
                     float *room, int i0, int j0, int n_i, int n_j, int chunk)
{
    enum { ROOM_PITCH = SHAPE::WARP + 8, ROW_LANES = SHAPE::WARP / 4 };
    const int lane = (int)threadIdx.x % 32, column = lane % ROW_LANES * 4;

#pragma unroll
    for (int first = 0; first < SHAPE::WARP; first += 32) {
        __syncwarp();
#pragma unroll
        for (int f = 0; f < 2; f++)
#pragma unroll
            for (int g = 0; g < SHAPE::WARP / 8; g++) {
                const float(&d)[4] = sum[first / 16 + f][g];
                float *const to = room + (16 * f + lane / 4) * ROOM_PITCH + 8 * g + lane % 4 * 2;

                *reinterpret_cast<float2 *>(to) = make_float2(d[0], d[1]);
                *reinterpret_cast<float2 *>(to + 8 * ROOM_PITCH) = make_float2(d[2], d[3]);
            }
        __syncwarp();
#pragma unroll 1
        for (int row = lane / ROW_LANES; row < 32; row += 32 / ROW_LANES) {
            const int i = i0 + first + row, j = j0 + column;
            float v[4];

            if (i >= n_i || j >= n_j) continue;
            element_load_lot(v, room + row * ROOM_PITCH + column);
            out.put4(i, j, v, n_j - j, chunk);
        }
    }
}

/* A block owns SIDE × SIDE sums over one chunk of k, a warp a quarter of them, a lane as many of it as
 * m16n8k16 gives it: 128 sums of large tiles, 32 of small ones.
 *
 * Large tiles read (128 + 128) · 32 · 2 = 16 KiB for 2 · 128² · 32 = 1.05 MFLOP: 64 FLOP a byte of
 * L2. From shared memory a warp reads (64 + 64) · 16 · 2 = 4 KiB for 131 kFLOP: 32 FLOP a byte, where
 * an A100's multiprocessor needs 16 to stay on its tensor cores (2048 FLOP and 128 bytes a clock):
 * bound by them, so the floor of a product is its FLOP over 312 TFLOP/s (A100), 788 (H200, measured;
 * mma.sync reaches about 62 % of what wgmma does there). Small tiles: half of both, on the edge; they
 * are for products of too few sums to give large tiles to all multiprocessors.
 *
 * Example: fc1 of ViT-H, 4096 × 5120 × 1280: 54 GFLOP, floor 172 µs and 68 µs; 65 MB of operands and
 * results (90 with pre): 38 µs and 15 µs, hence bound by FLOP; 1280 large tiles, 5.9 waves of 216.
 *
 * STAGES − 1 slices are on their way while one is multiplied; one barrier a slice: it says both that a
 * slice has landed for all, and that the one before has been read by all and may be overwritten. */
template <class SHAPE, class A, class B, class OUT>
__global__ static void __launch_bounds__(MMA_THREADS, SHAPE::BLOCKS)
    mma_tiles(OUT out, chunk_output parts, A a, B b, bool a_in_runs, bool b_in_runs, int n_i,
              int n_j, int n_k, int chunk)
{
    typedef slice_reader<SHAPE, A> a_reader;
    typedef slice_reader<SHAPE, B> b_reader;
    enum { STAGES = SHAPE::STAGES, SLICE = SHAPE::SLICE, WARP = SHAPE::WARP };
    __shared__ __align__(128) uint4 ring[STAGES][2][SLICE];
    const int i0 = (int)blockIdx.x * SHAPE::SIDE, j0 = (int)blockIdx.y * SHAPE::SIDE;
    const int warp = (int)threadIdx.x / 32, own_i = warp / 2 * WARP, own_j = warp % 2 * WARP;
    const int k_first = (int)blockIdx.z * chunk;
    const int k_end = n_k - k_first > chunk ? k_first + chunk : n_k;
    const int n_slices = (k_end - k_first + MMA_DEPTH - 1) / MMA_DEPTH;
    const bool has_work = i0 + own_i < n_i && j0 + own_j < n_j; /* of the whole warp */
    const a_reader read_a(a, a_in_runs, i0, n_i);
    const b_reader read_b(b, b_in_runs, j0, n_j);
    float sum[WARP / 16][WARP / 8][4] = {};

    for (int s = 0; s < STAGES - 1; s++) {
        if (s < n_slices) {
            move_slice<SHAPE>(read_a, ring[s][0], k_first + s * MMA_DEPTH, k_end);
            move_slice<SHAPE>(read_b, ring[s][1], k_first + s * MMA_DEPTH, k_end);
        }
        async_commit();
    }
    for (int s = 0, from = 0, to = STAGES - 1; s < n_slices; s++) {
        async_wait<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < n_slices) {
            const int k0 = k_first + (s + STAGES - 1) * MMA_DEPTH;

            move_slice<SHAPE>(read_a, ring[to][0], k0, k_end);
            move_slice<SHAPE>(read_b, ring[to][1], k0, k_end);
        }
        async_commit();
        if (has_work)
            multiply_slice<SHAPE, a_reader::ALONG_K != 0, b_reader::ALONG_K != 0>(
                sum, ring[from][0], ring[from][1], own_i, own_j);
        from = from + 1 < STAGES ? from + 1 : 0;
        to = to + 1 < STAGES ? to + 1 : 0;
    }
    __syncthreads(); /* the ring becomes room for sums */
    if (!has_work) return;
    float *const room =
        reinterpret_cast<float *>(ring[0][0] + warp * (STAGES * 2 * SLICE / MMA_WARPS));

    if (parts.p)
        put_sums<SHAPE>(parts, sum, room, i0 + own_i, j0 + own_j, n_i, n_j, (int)blockIdx.z);
    else
        put_sums<SHAPE>(out, sum, room, i0 + own_i, j0 + own_j, n_i, n_j, 0);
}

/* How a product is cut, by its shape alone: the same sums in the same order wherever it runs, and
 * whichever tiles compute them. */
struct mma_plan {
    bool large;
    int64_t chunk, n_chunks;
};

/* Blocks wanted: as many large tiles as run at a time on 108 to 132 multiprocessors. Fewer than
 * LARGE_FROM large tiles leave most of them idle: then small ones. */
static const int64_t MMA_BLOCKS = 256, MMA_LARGE_FROM = 64, MMA_MIN_CHUNK = 256;

static inline int64_t mma_tiles_of(int64_t n_i, int64_t n_j, int64_t side)
{
    return ((n_i + side - 1) / side) * ((n_j + side - 1) / side);
}

static inline mma_plan mma_plan_of(int64_t n_i, int64_t n_j, int64_t n_k, bool in_runs)
{
    const int64_t most = n_k < MMA_MIN_CHUNK ? 1 : n_k / MMA_MIN_CHUNK;
    const bool fits = in_runs && n_i > small_tiles::SIDE && n_j > small_tiles::SIDE;
    const bool large = fits && mma_tiles_of(n_i, n_j, large_tiles::SIDE) * most >= MMA_LARGE_FROM;
    const int64_t tiles = large ? mma_tiles_of(n_i, n_j, large_tiles::SIDE)
                                : mma_tiles_of(n_i, n_j, small_tiles::SIDE);
    const int64_t wanted = tiles > 0 ? MMA_BLOCKS / tiles : 1;
    const int64_t n = wanted < 1 ? 1 : wanted < most ? wanted : most;
    const int64_t depth = MMA_DEPTH, slices = (n_k + depth * n - 1) / (depth * n);
    const int64_t chunk = (slices > 0 ? slices : 1) * depth;

    return mma_plan{ large, chunk, n_k > 0 ? (n_k + chunk - 1) / chunk : 1 };
}

template <class T> static inline bool mma_aligned(const T *p)
{
    return (uintptr_t)p % 16 == 0;
}

template <class SHAPE, class OUT, class A, class B>
static enum status mma_launch(OUT out, chunk_output parts, A a, B b, bool a_in_runs, bool b_in_runs,
                              const mma_plan &plan, int64_t n_i, int64_t n_j, int64_t n_k,
                              struct stream *s)
{
    const int64_t side = SHAPE::SIDE;
    const dim3 grid((unsigned)((n_i + side - 1) / side), (unsigned)((n_j + side - 1) / side),
                    (unsigned)plan.n_chunks);

    LAUNCH((mma_tiles<SHAPE, A, B, OUT>), grid, MMA_THREADS, 0, s, out, parts, a, b, a_in_runs,
           b_in_runs, (int)n_i, (int)n_j, (int)n_k, (int)plan.chunk);
    return OK;
}

/* Floats of scratch that gemm_bf16 needs, for operands whose maps stand in runs of 8 or not. */
static inline int64_t gemm_bf16_scratch(int64_t n_i, int64_t n_j, int64_t n_k, bool in_runs)
{
    const mma_plan plan = mma_plan_of(n_i, n_j, n_k, in_runs);

    return plan.n_chunks > 1 ? plan.n_chunks * n_i * n_j : 0;
}

template <class OUT, class A, class B>
static enum status gemm_bf16(OUT out, A a, B b, int64_t n_i, int64_t n_j, int64_t n_k,
                             float *scratch, struct stream *s)
{
    const bool a_runs = a.map.in_runs(RUN), b_runs = b.map.in_runs(RUN);
    const mma_plan plan = mma_plan_of(n_i, n_j, n_k, a_runs && b_runs);
    const chunk_output parts = { plan.n_chunks > 1 ? scratch : NULL, n_i, n_j };
    const bool a_moves = a_runs && mma_aligned(a.p), b_moves = b_runs && mma_aligned(b.p);

    TRY(gemm_check(n_i, n_j, n_k));
    if (n_i == 0 || n_j == 0) return OK;
    if (plan.large && a_moves && b_moves)
        TRY((mma_launch<large_tiles>(out, parts, a, b, true, true, plan, n_i, n_j, n_k, s)));
    else
        TRY((mma_launch<small_tiles>(out, parts, a, b, a_moves, b_moves, plan, n_i, n_j, n_k, s)));
    if (!parts.p) return OK;
    LAUNCH((gemm_finish<OUT>), (unsigned)((n_i * n_j + GEMM_THREADS - 1) / GEMM_THREADS),
           GEMM_THREADS, 0, s, out, scratch, (int)plan.n_chunks, n_i, n_j);
    return OK;
}

#endif

/* The one matrix product of all dense layers: C[i,j] = Σk A[i,k] B[j,k], and how it is computed in
 * f32. In bf16: gemm_bf16.h.
 *
 * Where elements stand is said by maps, so that a convolution is a product over addresses and no
 * activation is ever rearranged in memory; what becomes of a sum is said by the output: bias,
 * activation, adding to a gradient. Sums are of one order, fixed by the shape. */
#ifndef KERNELS_CUDA_GEMM_H
#define KERNELS_CUDA_GEMM_H

#include "kernels/cuda/activation.h"
#include "kernels/cuda/element.h"

/* Maps: the place of element (i,j), −1 for a zero that is not in memory. Neighbours in j are
 * neighbours in memory where ALONG_J says so. A place is made of what i alone says, line(i), and of
 * what j alone says, column(j): whoever walks along one of them works the other out once.
 * in_runs: of n neighbours from a multiple of n on, all stand side by side on a whole n, or none is
 * in memory. */
struct by_rows {
    enum { ALONG_J = 1 };
    int64_t row;

    typedef int64_t line_type, column_type;
    DEVICE int64_t line(int i) const { return i * row; }
    DEVICE int64_t column(int j) const { return j; }
    DEVICE int64_t place(int64_t line, int64_t column) const { return line + column; }
    DEVICE int64_t at(int i, int j) const { return place(line(i), column(j)); }
    bool in_runs(int n) const { return row % n == 0; }
};

/* i: the cells (n,y,x) of a grid; j: (a,b,c), of the side × side pixels below a cell */
struct by_patches {
    enum { ALONG_J = 1 };
    int w, side, n_c;

    typedef int64_t line_type, column_type;
    DEVICE int64_t line(int i) const
    {
        const int64_t line_of_cells = (int64_t)(i / w) * side; /* i / w = n h + y */

        return (line_of_cells * w + i % w) * (side * n_c);
    }
    DEVICE int64_t column(int j) const
    {
        const int row_of_patch = side * n_c;

        return (int64_t)(j / row_of_patch) * w * row_of_patch + j % row_of_patch;
    }
    DEVICE int64_t place(int64_t line, int64_t column) const { return line + column; }
    DEVICE int64_t at(int i, int j) const { return place(line(i), column(j)); }
    bool in_runs(int n) const { return side * n_c % n == 0; }
};

struct pixel {
    int64_t at;
    int y, x;
};

/* i: the pixels (n,y,x); j: (a,b,c), of the pixel's neighbour (y,x) + sign · (a−1,b−1) */
struct by_neighbours {
    enum { ALONG_J = 1 };
    int h, w, n_c, sign;

    typedef pixel line_type, column_type;
    DEVICE pixel line(int i) const { return pixel{ (int64_t)i * n_c, i / w % h, i % w }; }
    DEVICE pixel column(int j) const
    {
        const int dy = sign * (j / (3 * n_c) - 1), dx = sign * (j / n_c % 3 - 1);

        return pixel{ ((int64_t)dy * w + dx) * n_c + j % n_c, dy, dx };
    }
    DEVICE int64_t place(pixel line, pixel column) const
    {
        const int y = line.y + column.y, x = line.x + column.x;

        return y < 0 || y >= h || x < 0 || x >= w ? -1 : line.at + column.at;
    }
    DEVICE int64_t at(int i, int j) const { return place(line(i), column(j)); }
    bool in_runs(int n) const { return n_c % n == 0; }
};

/* A convolution's weights as they are kept. i: one kind of channel, `outer` apart; j: (a,b,c) with
 * n_c channels of the other kind, `inner` apart: a kernel's elements are neighbours. */
struct by_kernel {
    enum { ALONG_J = 1 };
    int64_t outer, inner;
    int n_c;

    typedef int64_t line_type, column_type;
    DEVICE int64_t line(int i) const { return i * outer; }
    DEVICE int64_t column(int j) const { return j % n_c * inner + j / n_c; }
    DEVICE int64_t place(int64_t line, int64_t column) const { return line + column; }
    DEVICE int64_t at(int i, int j) const { return place(line(i), column(j)); }
    bool in_runs(int n) const { return inner == 1 && outer % n == 0; }
};

template <class MAP> struct turned {
    enum { ALONG_J = !MAP::ALONG_J };
    MAP map;

    DEVICE int64_t at(int i, int j) const { return map.at(j, i); }
    bool in_runs(int n) const { return map.in_runs(n); }
};

template <class MAP> static inline turned<MAP> turn(MAP map)
{
    return turned<MAP>{ map };
}

template <class T, class MAP> struct operand {
    typedef T element;
    typedef MAP map_type;
    const T *p;
    MAP map;
};

template <class T, class MAP> static inline operand<T, MAP> read_by(const void *p, MAP map)
{
    return operand<T, MAP>{ (const T *)p, map };
}

/* Outputs: take the sum of (i,j), of which `chunk` says the part, or those of four neighbours in j
 * from a multiple of four on, of which `left` are there. fours: they stand on a whole four. */
template <class T, class MAP> struct forward_output {
    T *y, *pre;     /* pre for GELU only */
    const float *b; /* or NULL */
    int n_b;        /* j counts it over and over */
    enum activation act;
    MAP map;
    bool fours;

    DEVICE void put(int i, int j, float sum, int) const
    {
        const int64_t at = map.at(i, j);

        if (b) sum += b[j % n_b];
        if (act == ACT_GELU) element_store(pre + at, sum);
        element_store(y + at, activation_value(act, sum));
    }
    DEVICE void put4(int i, int j, float (&sum)[4], int left, int) const
    {
        if (!fours) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                if (c < left) put(i, j + c, sum[c], 0);
            return;
        }
        const int64_t at = map.at(i, j);

        if (b) {
            const float4 bias = *reinterpret_cast<const float4 *>(b + j % n_b);

            sum[0] += bias.x;
            sum[1] += bias.y;
            sum[2] += bias.z;
            sum[3] += bias.w;
        }
        if (act == ACT_GELU) element_store_lot(pre + at, sum);
#pragma unroll
        for (int c = 0; c < 4; c++) sum[c] = activation_value(act, sum[c]);
        element_store_lot(y + at, sum);
    }
};

template <class T, class MAP>
static inline forward_output<T, MAP> forward_by(struct tensor y, struct tensor pre, struct tensor b,
                                                enum activation act, MAP map)
{
    const int n_b = b.n_dims > 0 ? (int)b.dim[0] : 1;
    T *const to = (T *)y.data, *const kept = (T *)pre.data;
    const float *const bias = (const float *)b.data;
    const bool fours = map.in_runs(4) && element_aligned<4>(to, 4) && element_aligned<4>(kept, 4) &&
                       (!bias || element_aligned<4>(bias, n_b));

    return forward_output<T, MAP>{ to, kept, bias, n_b, act, map, fours };
}

template <class T, class MAP> struct gradient_output {
    T *p;
    bool add;
    MAP map;
    bool fours;

    DEVICE void put(int i, int j, float sum, int) const
    {
        element_gradient(p + map.at(i, j), add, sum);
    }
    DEVICE void put4(int i, int j, float (&sum)[4], int left, int) const
    {
        if (!fours) {
#pragma unroll
            for (int c = 0; c < 4; c++)
                if (c < left) put(i, j + c, sum[c], 0);
            return;
        }
        T *const to = p + map.at(i, j);

        if (add) {
            float old[4];

            element_load_lot(old, to);
#pragma unroll
            for (int c = 0; c < 4; c++) sum[c] += old[c];
        }
        element_store_lot(to, sum);
    }
};

template <class T, class MAP>
static inline gradient_output<T, MAP> gradient_by(struct tensor t, MAP map)
{
    T *const p = (T *)t.data;

    return gradient_output<T, MAP>{ p, t.add, map, map.in_runs(4) && element_aligned<4>(p, 4) };
}

/* The parts of a long sum; p from scratch, hence aligned */
struct chunk_output {
    float *p;
    int64_t n_i, n_j;

    DEVICE void put(int i, int j, float sum, int chunk) const
    {
        p[(chunk * n_i + i) * n_j + j] = sum;
    }
    DEVICE void put4(int i, int j, float (&sum)[4], int left, int chunk) const
    {
        element_store_lot(p + (chunk * n_i + i) * n_j + j, sum, left, n_j % 4 == 0);
    }
};

enum { TILE = 64, DEPTH = 16, PITCH = TILE + 4, GEMM_THREADS = 256, OWN = 4 };
enum { LOADS = TILE * DEPTH / GEMM_THREADS };

/* Which element of a tile this thread's load e is: neighbouring threads read neighbours. */
template <class MAP> DEVICE void tile_element(int e, int &i, int &k)
{
    const int at = (int)threadIdx.x + e * GEMM_THREADS;

    i = MAP::ALONG_J ? at / DEPTH : at % TILE;
    k = MAP::ALONG_J ? at % DEPTH : at / TILE;
}

template <class MAP>
DEVICE void tile_read(float (&v)[LOADS], const operand<float, MAP> &o, int i0, int n_i, int k0,
                      int k_end)
{
#pragma unroll
    for (int e = 0; e < LOADS; e++) {
        int i, k;

        tile_element<MAP>(e, i, k);
        v[e] = 0;
        if (i0 + i < n_i && k0 + k < k_end) {
            const int64_t at = o.map.at(i0 + i, k0 + k);

            if (at >= 0) v[e] = o.p[at];
        }
    }
}

template <class MAP> DEVICE void tile_write(float (&tile)[DEPTH][PITCH], const float (&v)[LOADS])
{
#pragma unroll
    for (int e = 0; e < LOADS; e++) {
        int i, k;

        tile_element<MAP>(e, i, k);
        tile[k][i] = v[e];
    }
}

DEVICE void load4(float (&v)[OWN], const float *p)
{
    const float4 q = *reinterpret_cast<const float4 *>(p);

    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
}

/* A block owns 64 × 64 sums over one chunk of k, a warp 8 × 64 of them, a thread 4 × 4.
 * Reads each operand once for every 64 columns or rows of the other; writes each sum once.
 * Bound by shared memory: 32 bytes for 16 FMA of a thread.
 * f32 is for debugging: tiles this small serve the decoder's few rows as well; two buffers make do
 * with one barrier per 16 of k, and the next slice is on its way while this one is multiplied. */
template <class A, class B, class OUT>
__global__ static void __launch_bounds__(GEMM_THREADS)
    gemm_tiles(OUT out, A a, B b, int n_i, int n_j, int n_k, int chunk)
{
    __shared__ __align__(16) float a_tile[2][DEPTH][PITCH];
    __shared__ __align__(16) float b_tile[2][DEPTH][PITCH];
    const int i0 = (int)blockIdx.x * TILE, j0 = (int)blockIdx.y * TILE;
    const int own_i = (int)threadIdx.x / (TILE / OWN) * OWN;
    const int own_j = (int)threadIdx.x % (TILE / OWN) * OWN;
    const int k_first = (int)blockIdx.z * chunk;
    const int k_end = n_k - k_first > chunk ? k_first + chunk : n_k;
    const bool has_work = i0 + own_i < n_i && j0 + own_j < n_j;
    float next_a[LOADS], next_b[LOADS], sum[OWN][OWN] = {};

    tile_read(next_a, a, i0, n_i, k_first, k_end);
    tile_read(next_b, b, j0, n_j, k_first, k_end);
    for (int k0 = k_first, turn = 0; k0 < k_end; k0 += DEPTH, turn ^= 1) {
        tile_write<typename A::map_type>(a_tile[turn], next_a);
        tile_write<typename B::map_type>(b_tile[turn], next_b);
        __syncthreads();
        tile_read(next_a, a, i0, n_i, k0 + DEPTH, k_end);
        tile_read(next_b, b, j0, n_j, k0 + DEPTH, k_end);
        if (!has_work) continue;
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float va[OWN], vb[OWN];

            load4(va, &a_tile[turn][k][own_i]);
            load4(vb, &b_tile[turn][k][own_j]);
#pragma unroll
            for (int r = 0; r < OWN; r++)
#pragma unroll
                for (int c = 0; c < OWN; c++) sum[r][c] += va[r] * vb[c];
        }
    }
#pragma unroll
    for (int r = 0; r < OWN; r++)
#pragma unroll
        for (int c = 0; c < OWN; c++)
            if (i0 + own_i + r < n_i && j0 + own_j + c < n_j)
                out.put(i0 + own_i + r, j0 + own_j + c, sum[r][c], (int)blockIdx.z);
}

/* A thread owns a sum, and adds its chunks in order: each is read once. Bound by memory. */
template <class OUT>
__global__ static void __launch_bounds__(GEMM_THREADS)
    gemm_finish(OUT out, const float *sums, int n_chunks, int64_t n_i, int64_t n_j)
{
    const int64_t own = (int64_t)blockIdx.x * GEMM_THREADS + (int)threadIdx.x;
    float sum = 0;

    if (own >= n_i * n_j) return;
    for (int chunk = 0; chunk < n_chunks; chunk++) sum += sums[chunk * n_i * n_j + own];
    out.put((int)(own / n_j), (int)(own % n_j), sum, 0);
}

static const int64_t GEMM_MAX = INT32_MAX - TILE, GEMM_GRID_Y = 65535;
static const int64_t GEMM_MIN_CHUNK = 256, GEMM_BLOCKS = 512, GEMM_MAX_CHUNKS = 512;

static inline int64_t gemm_tile_count(int64_t n)
{
    return (n + TILE - 1) / TILE;
}

static inline enum status gemm_check(int64_t n_i, int64_t n_j, int64_t n_k)
{
    if (n_i > GEMM_MAX || n_k > GEMM_MAX || gemm_tile_count(n_j) > GEMM_GRID_Y)
        FAIL(E_SHAPE, "a product of %lld x %lld sums of %lld is too large for the kernel",
             (long long)n_i, (long long)n_j, (long long)n_k);
    return OK;
}

/* k in one piece */
template <class OUT, class A, class B>
static enum status gemm(OUT out, A a, B b, int64_t n_i, int64_t n_j, int64_t n_k, struct stream *s)
{
    TRY(gemm_check(n_i, n_j, n_k));
    const dim3 grid((unsigned)gemm_tile_count(n_i), (unsigned)gemm_tile_count(n_j));

    if (n_i == 0 || n_j == 0) return OK;
    LAUNCH((gemm_tiles<A, B, OUT>), grid, GEMM_THREADS, 0, s, out, a, b, (int)n_i, (int)n_j,
           (int)n_k, (int)n_k);
    return OK;
}

/* The chunks a long k is cut into, so that few sums occupy all multiprocessors: by shape alone. */
static inline int64_t gemm_chunk_count(int64_t n_i, int64_t n_j, int64_t n_k)
{
    const int64_t tiles = gemm_tile_count(n_i) * gemm_tile_count(n_j);
    const int64_t wanted = tiles > 0 ? (GEMM_BLOCKS + tiles - 1) / tiles : 1;
    const int64_t most = (n_k + GEMM_MIN_CHUNK - 1) / GEMM_MIN_CHUNK;
    const int64_t n = wanted < most ? wanted : most;

    return n < 1 ? 1 : n < GEMM_MAX_CHUNKS ? n : GEMM_MAX_CHUNKS;
}

/* Floats of scratch that gemm_long needs. */
static inline int64_t gemm_long_scratch(int64_t n_i, int64_t n_j, int64_t n_k)
{
    const int64_t n = gemm_chunk_count(n_i, n_j, n_k);

    return n > 1 ? n * n_i * n_j : 0;
}

/* k in chunks, whose sums meet in scratch */
template <class OUT, class A, class B>
static enum status gemm_long(OUT out, A a, B b, int64_t n_i, int64_t n_j, int64_t n_k,
                             float *scratch, struct stream *s)
{
    const int64_t wanted = gemm_chunk_count(n_i, n_j, n_k);

    if (wanted == 1) return gemm(out, a, b, n_i, n_j, n_k, s);
    TRY(gemm_check(n_i, n_j, n_k));
    const int64_t chunk = ((n_k + wanted - 1) / wanted + DEPTH - 1) / DEPTH * DEPTH;
    const int64_t n_chunks = (n_k + chunk - 1) / chunk;
    const dim3 grid((unsigned)gemm_tile_count(n_i), (unsigned)gemm_tile_count(n_j),
                    (unsigned)n_chunks);
    const chunk_output parts = { scratch, n_i, n_j };

    if (n_i == 0 || n_j == 0) return OK;
    LAUNCH((gemm_tiles<A, B, chunk_output>), grid, GEMM_THREADS, 0, s, parts, a, b, (int)n_i,
           (int)n_j, (int)n_k, (int)chunk);
    LAUNCH((gemm_finish<OUT>), (unsigned)((n_i * n_j + GEMM_THREADS - 1) / GEMM_THREADS),
           GEMM_THREADS, 0, s, out, scratch, (int)n_chunks, n_i, n_j);
    return OK;
}

#endif

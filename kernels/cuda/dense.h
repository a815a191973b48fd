/* What the dense layers share backward: dy through the activation, and the bias' gradient. */
#ifndef KERNELS_CUDA_DENSE_H
#define KERNELS_CUDA_DENSE_H

#include "kernels/cuda/activation.h"
#include "kernels/cuda/element.h"

enum { SLOPE_THREADS = 256, SUM_COLUMNS = 32, SUM_STRIPES = 8 };
static const int64_t MIN_SUM_CHUNK = 64, MAX_SUM_CHUNKS = 256;

/* A thread owns an element: dy and what was kept are read once, dpre is written once, so that the
 * two products behind read it as it is. Bound by memory: 12 bytes an element. */
__global__ static void __launch_bounds__(SLOPE_THREADS)
    times_slope(float *dpre, const float *dy, const float *kept, enum activation act, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * SLOPE_THREADS + (int)threadIdx.x;

    if (i < n) dpre[i] = dy[i] * activation_slope(act, kept[i]);
}

/* Rows of one chunk: fixed by the shape, hence the order of all sums. */
static inline int64_t sum_chunk(int64_t n_rows)
{
    const int64_t even = (n_rows + MAX_SUM_CHUNKS - 1) / MAX_SUM_CHUNKS;

    return even < MIN_SUM_CHUNK ? MIN_SUM_CHUNK : even;
}

/* A block owns a chunk of rows and 32 columns, a warp every eighth row: 128 bytes of it. The warps'
 * sums meet in shared memory, in order. x is read once: bound by memory, 4 bytes an element. */
__global__ static void __launch_bounds__(SUM_COLUMNS *SUM_STRIPES)
    sum_columns(float *sums, const float *x, int64_t n_rows, int64_t chunk, int n_c)
{
    __shared__ float part[SUM_STRIPES][SUM_COLUMNS];
    const int column = (int)threadIdx.x % SUM_COLUMNS, stripe = (int)threadIdx.x / SUM_COLUMNS;
    const int c = (int)blockIdx.y * SUM_COLUMNS + column;
    const int64_t first = (int64_t)blockIdx.x * chunk;
    const int64_t end = first + chunk < n_rows ? first + chunk : n_rows;
    float sum = 0;

    if (c < n_c)
        for (int64_t n = first + stripe; n < end; n += SUM_STRIPES) sum += x[n * n_c + c];
    part[stripe][column] = sum;
    __syncthreads();
    if (stripe > 0 || c >= n_c) return;
    sum = 0;
    for (int k = 0; k < SUM_STRIPES; k++) sum += part[k][column];
    sums[(int64_t)blockIdx.x * n_c + c] = sum;
}

/* A thread owns a column of the chunks' sums, and adds them in order. */
__global__ static void __launch_bounds__(SLOPE_THREADS)
    sum_chunks(float *out, bool add, const float *sums, int64_t n_chunks, int64_t n_c)
{
    const int64_t c = (int64_t)blockIdx.x * SLOPE_THREADS + (int)threadIdx.x;
    float sum = 0;

    if (c >= n_c) return;
    for (int64_t k = 0; k < n_chunks; k++) sum += sums[k * n_c + c];
    element_gradient(out + c, add, sum);
}

static inline int64_t dense_bias_scratch(int64_t n_rows, int64_t n_c)
{
    return (n_rows + sum_chunk(n_rows) - 1) / sum_chunk(n_rows) * n_c;
}

/* db[c] = Σ over rows of dpre; scratch: dense_bias_scratch floats. */
static inline enum status dense_bias(struct tensor db, const float *dpre, int64_t n_rows,
                                     int64_t n_c, float *scratch, struct stream *s)
{
    const int64_t chunk = sum_chunk(n_rows), n_chunks = (n_rows + chunk - 1) / chunk;

    if (!db.data || n_c == 0) return OK;
    if (n_rows > 0)
        LAUNCH(sum_columns,
               dim3((unsigned)n_chunks, (unsigned)((n_c + SUM_COLUMNS - 1) / SUM_COLUMNS)),
               SUM_COLUMNS * SUM_STRIPES, 0, s, scratch, dpre, n_rows, chunk, (int)n_c);
    LAUNCH(sum_chunks, (unsigned)((n_c + SLOPE_THREADS - 1) / SLOPE_THREADS), SLOPE_THREADS, 0, s,
           (float *)db.data, db.add, scratch, n_chunks, n_c);
    return OK;
}

/* dy itself without an activation; else dpre in room, as many floats. */
static inline enum status dense_slope(const float **dpre, float *room, struct tensor dy,
                                      struct tensor y, struct tensor pre, enum activation act,
                                      struct stream *s)
{
    const int64_t n = tensor_count(dy);
    const float *kept = (const float *)(act == ACT_GELU ? pre.data : y.data);

    *dpre = (const float *)dy.data;
    if (act == ACT_NONE || n == 0) return OK;
    *dpre = room;
    LAUNCH(times_slope, (unsigned)((n + SLOPE_THREADS - 1) / SLOPE_THREADS), SLOPE_THREADS, 0, s,
           room, (const float *)dy.data, kept, act, n);
    return OK;
}

#endif

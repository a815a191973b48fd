#include <math.h>

#include "kernels/adamw_scale.h"
#include "kernels/optimizer_check.h"

#include "kernels/cuda/element.h"

enum { NORM_THREADS = 256 };

/* Σ g² of one GRAD_NORM_BLOCK in double: a block's threads take every 256th element, and their
 * sums meet in a tree. One order, whatever runs when. Bound by memory, 4 bytes an element read once,
 * with one addition in double for them (at half rate on an A100: it keeps up). */
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_blocks(double *sums, const float *g, int64_t n)
{
    __shared__ double part[NORM_THREADS];
    const int t = (int)threadIdx.x;
    const int64_t first = (int64_t)blockIdx.x * GRAD_NORM_BLOCK;
    const int64_t end = first + GRAD_NORM_BLOCK < n ? first + GRAD_NORM_BLOCK : n;
    double sum = 0;

    for (int64_t i = first + t; i < end; i += NORM_THREADS) sum += (double)g[i] * g[i];
    part[t] = sum;
    for (int other = NORM_THREADS / 2; other > 0; other /= 2) {
        __syncthreads();
        if (t < other) part[t] += part[t + other];
    }
    if (t == 0) sums[blockIdx.x] = part[0];
}

/* The blocks' sums, ten thousand for ViT-H: each thread adds every 256th, and theirs meet in a tree.
 * One block, 80 KB once: bound by latency, some microseconds. */
__global__ static void __launch_bounds__(NORM_THREADS)
    norm_finish(double *total, const double *sums, int64_t n_blocks)
{
    __shared__ double part[NORM_THREADS];
    const int t = (int)threadIdx.x;
    double sum = 0;

    for (int64_t i = t; i < n_blocks; i += NORM_THREADS) sum += sums[i];
    part[t] = sum;
    for (int other = NORM_THREADS / 2; other > 0; other /= 2) {
        __syncthreads();
        if (t < other) part[t] += part[t + other];
    }
    if (t == 0) *total = part[0];
}

extern "C" enum status grad_norm_cuda(struct tensor squares, struct tensor g, struct stream *s)
{
    TRY(grad_norm_check(squares, g));
    const int64_t n = g.dim[0], n_blocks = (n + GRAD_NORM_BLOCK - 1) / GRAD_NORM_BLOCK;
    void *scratch; /* the blocks' sums */

    STREAM_SCRATCH(s, scratch, n_blocks * (int64_t)sizeof(double));

    double *const sums = (double *)scratch;

    if (n_blocks > 0)
        LAUNCH(norm_blocks, (unsigned)n_blocks, NORM_THREADS, 0, s, sums, (const float *)g.data, n);
    LAUNCH(norm_finish, 1, NORM_THREADS, 0, s, (double *)squares.data, (const double *)sums,
           n_blocks);
    return OK;
}

enum { STEP_THREADS = 256, STEP_ITEMS = 4, STEP_BLOCK = STEP_THREADS * STEP_ITEMS, SEGMENTS = 64 };

/* The segments of one launch; they travel as its argument, so that none needs device memory. */
struct segments {
    int64_t begin, end[SEGMENTS];
    float lr[SEGMENTS], decay[SEGMENTS];
    bool frozen[SEGMENTS];
    int n;
};

struct step_options {
    float beta1, rest1, beta2, rest2; /* rest = 1 − beta */
    float by_fix1, by_fix2;           /* 1/(1−β^t) */
    float eps, grad_scale, clip;
    const double *squares; /* on the device */
    int n_squares;
};

/* The first segment that ends behind i. */
DEVICE int segment_of(const segments &all, int64_t i)
{
    int low = 0, high = all.n - 1;

    while (low < high) {
        const int middle = (low + high) / 2;

        if (i < all.end[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* A thread owns four elements 256 apart. Bound by memory: 28 bytes an element, 30 with the copy for
 * matrix products, each once. */
__global__ static void __launch_bounds__(STEP_THREADS)
    step(float *w, float *m, float *v, bf16 *w16, const float *g, const segments all,
         const step_options o)
{
    const int64_t first = all.begin + (int64_t)blockIdx.x * STEP_BLOCK + (int)threadIdx.x;
    const int64_t end = all.end[all.n - 1];
    int k = segment_of(all, first);
    __shared__ float scale; /* a division and a root in double: once a block */
    __shared__ bool learns;

    if (threadIdx.x == 0)
        learns = adamw_scale(&scale, o.grad_scale, o.clip, o.squares, o.n_squares);
    __syncthreads();
    if (!learns) return;

    for (int item = 0; item < STEP_ITEMS; item++) {
        const int64_t i = first + (int64_t)item * STEP_THREADS;

        if (i >= end) return;
        while (i >= all.end[k]) k++;
        if (all.frozen[k]) continue;
        const float gi = scale * g[i];
        const float mi = o.beta1 * m[i] + o.rest1 * gi, vi = o.beta2 * v[i] + o.rest2 * gi * gi;
        const float way = mi * o.by_fix1 / (sqrtf(vi * o.by_fix2) + o.eps);

        m[i] = mi;
        v[i] = vi;
        const float next = w[i] - all.lr[k] * (way + all.decay[k] * w[i]);

        w[i] = next;
        if (w16) element_store(w16 + i, next);
    }
}

static step_options options_of(const struct adamw_options *o, struct tensor squares)
{
    const double b1 = o->beta1, b2 = o->beta2, t = (double)o->step;

    return { o->beta1,
             (float)(1 - b1),
             o->beta2,
             (float)(1 - b2),
             (float)(1 / (1 - pow(b1, t))),
             (float)(1 / (1 - pow(b2, t))),
             o->eps,
             o->grad_scale,
             o->clip,
             (const double *)squares.data,
             (int)squares.dim[0] };
}

extern "C" enum status adamw_cuda(struct tensor w, struct tensor m, struct tensor v,
                                  struct tensor w16, struct tensor g, struct tensor squares,
                                  const struct adamw_segment *segment, int n_segments,
                                  const struct adamw_options *o, struct stream *s)
{
    TRY(adamw_check(w, m, v, w16, g, squares, segment, n_segments, o));
    STREAM_NO_SCRATCH(s);

    for (int first = 0; first < n_segments; first += SEGMENTS) {
        segments all = {};

        all.begin = first > 0 ? segment[first - 1].end : 0;
        for (; all.n < SEGMENTS && first + all.n < n_segments; all.n++) {
            const struct adamw_segment *from = &segment[first + all.n];

            all.end[all.n] = from->end;
            all.lr[all.n] = o->lr * from->lr_scale;
            all.decay[all.n] = from->decay;
            all.frozen[all.n] = from->frozen;
        }
        const int64_t n = all.end[all.n - 1] - all.begin;

        if (n == 0) continue;
        LAUNCH(step, (unsigned)((n + STEP_BLOCK - 1) / STEP_BLOCK), STEP_THREADS, 0, s,
               (float *)w.data, (float *)m.data, (float *)v.data, (bf16 *)w16.data,
               (const float *)g.data, all, options_of(o, squares));
    }
    return OK;
}

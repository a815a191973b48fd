/* Which of a round's K masks a choice is among, mask by mask: a lone click may have three meanings,
 * a lone box one.
 *
 *   candidates (M,2) i32: masks begin … end−1 of mask m, 0 ≤ begin < end ≤ K; or none: all K */
#ifndef KERNELS_CANDIDATES_H
#define KERNELS_CANDIDATES_H

#include "kernels/base/check.h"
#include "kernels/base/tensor.h"

#ifdef __CUDACC__
#define CANDIDATES_FN static __host__ __device__ inline
#else
#define CANDIDATES_FN static inline
#endif

struct candidates {
    int64_t begin, end;
};

/* of: the tensor's data, or NULL for none. */
CANDIDATES_FN struct candidates candidates_of(const int32_t *of, int64_t m, int64_t K)
{
    struct candidates c;

    c.begin = of ? of[2 * m] : 0;
    c.end = of ? of[2 * m + 1] : K;
#ifndef __CUDA_ARCH__
    ASSERT(c.begin >= 0 && c.begin < c.end && c.end <= K);
#endif
    return c;
}

/* The candidate of highest predicted IoU, the first of equals. iou_pred: mask m's K. */
CANDIDATES_FN int64_t candidates_best(struct candidates c, const float *iou_pred)
{
    int64_t best = c.begin;

    for (int64_t k = c.begin + 1; k < c.end; k++)
        if (iou_pred[k] > iou_pred[best]) best = k;
    return best;
}

#endif

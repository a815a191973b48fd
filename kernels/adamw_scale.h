/* What AdamW multiplies a gradient by, from the squares that decide: optimizer.h. One arithmetic for all
 * backends, host and device. */
#ifndef KERNELS_ADAMW_SCALE_H
#define KERNELS_ADAMW_SCALE_H

#include <math.h>
#include <stdbool.h>

#ifdef __CUDACC__
#define ADAMW_SCALE_FN static __host__ __device__ inline
#else
#define ADAMW_SCALE_FN static inline
#endif

/* False when the step is left out. n_squares 0: there are none. */
ADAMW_SCALE_FN bool adamw_scale(float *scale, float grad_scale, float clip, const double *squares,
                                int n_squares)
{
    *scale = grad_scale;
    for (int i = 0; i < n_squares; i++)
        if (!isfinite(squares[i])) return false;
    if (n_squares > 0 && clip > 0) {
        const double norm = (double)grad_scale * sqrt(squares[0]);

        if (norm > (double)clip) *scale = (float)((double)grad_scale * ((double)clip / norm));
    }
    return true;
}

#endif

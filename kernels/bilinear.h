/* Where pixel i of a bilinearly resampled grid takes its value from: align_corners = false, no
 * antialiasing, as in resize.h. The position is an exact fraction and the weight is rounded once,
 * so that every backend interpolates with the same bits:
 *   x'[i] = x[lo] · (1 − w) + x[hi] · w */
#ifndef KERNELS_BILINEAR_H
#define KERNELS_BILINEAR_H

#include <stdint.h>

#include "kernels/base/rounded.h"

#ifdef __CUDACC__
#define BILINEAR_FN static __host__ __device__ inline
#else
#define BILINEAR_FN static inline
#endif

struct bilinear_tap {
    int64_t lo, hi;
    float w; /* of hi, in [0,1) */
};

/* Pixel i of `out`, from `in` pixels: source = max(0, ((2i+1)·in − out) / (2·out)). */
BILINEAR_FN struct bilinear_tap bilinear_place(int64_t i, int64_t in, int64_t out)
{
    const int64_t whole = (2 * i + 1) * in - out, num = whole > 0 ? whole : 0, den = 2 * out;
    struct bilinear_tap t;

    t.lo = num / den;
    t.hi = t.lo + 1 < in ? t.lo + 1 : in - 1;
    t.w = (float)(num % den) / (float)den;
    return t;
}

/* One pixel of an upsampled plane x, w wide: along the rows first, in float without contraction. */
BILINEAR_FN float bilinear_at(const float *x, int64_t w, struct bilinear_tap row,
                              struct bilinear_tap col)
{
    const float *top = x + row.lo * w, *bottom = x + row.hi * w;
    const float above =
        rounded_product(top[col.lo], 1.0f - col.w) + rounded_product(top[col.hi], col.w);
    const float below =
        rounded_product(bottom[col.lo], 1.0f - col.w) + rounded_product(bottom[col.hi], col.w);

    return rounded_product(above, 1.0f - row.w) + rounded_product(below, row.w);
}

#endif

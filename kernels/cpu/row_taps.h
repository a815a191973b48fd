/* bilinear.h for whole rows: the taps of one row length, computed once and used for every row.
 * The arithmetic is that of bilinear_at, in its order. */
#ifndef KERNELS_CPU_ROW_TAPS_H
#define KERNELS_CPU_ROW_TAPS_H

#include <stdint.h>

#include "kernels/base/arena.h"
#include "kernels/bilinear.h"

struct row_taps {
    int64_t in, out;
    const int32_t *lo, *hi; /* (out) */
    const int32_t *start;   /* (in+1): pixels start[j] … start[j+1] have lo = j */
    const float *w;         /* (out) weight of hi */
};

static inline int64_t row_taps_bytes(int64_t in, int64_t out)
{
    return 3 * arena_round(out * 4) + arena_round((in + 1) * 4);
}

static inline struct row_taps row_taps_plan(void *scratch, int64_t in, int64_t out)
{
    int32_t *const lo = scratch, *const hi = lo + arena_round(out * 4) / 4;
    int32_t *const start = hi + arena_round(out * 4) / 4;
    float *const w = (float *)(start + arena_round((in + 1) * 4) / 4);
    int64_t j = 0;

    for (int64_t i = 0; i < out; i++) {
        const struct bilinear_tap t = bilinear_place(i, in, out);

        lo[i] = (int32_t)t.lo;
        hi[i] = (int32_t)t.hi;
        w[i] = t.w;
        while (j <= t.lo) start[j++] = (int32_t)i;
    }
    while (j <= in) start[j++] = (int32_t)out;
    return (struct row_taps){ in, out, lo, hi, start, w };
}

/* y (out) = x (in) interpolated; pixels from n on are left alone. */
static inline void row_taps_apply(float *restrict y, const float *restrict x,
                                  const struct row_taps *t, int64_t n)
{
    const int32_t *const lo = t->lo, *const hi = t->hi;
    const float *const w = t->w;

    for (int64_t i = 0; i < n; i++) y[i] = x[lo[i]] * (1.0f - w[i]) + x[hi[i]] * w[i];
}

/* dx (in) += the adjoint of that, for dy (out). */
static inline void row_taps_adjoint(float *restrict dx, const float *restrict dy,
                                    const struct row_taps *t)
{
    for (int64_t j = 0; j < t->in; j++) {
        const int64_t above = j + 1 < t->in ? j + 1 : j;
        float lo = 0, hi = 0;

        for (int64_t i = t->start[j]; i < t->start[j + 1]; i++) {
            lo += (1.0f - t->w[i]) * dy[i];
            hi += t->w[i] * dy[i];
        }
        dx[j] += lo;
        dx[above] += hi;
    }
}

#endif

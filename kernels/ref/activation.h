/* The activations and the gradient rule, as the reference computes them: in double. */
#ifndef KERNELS_REF_ACTIVATION_H
#define KERNELS_REF_ACTIVATION_H

#include <math.h>

#include "kernels/linear.h"

static inline double activation_value(enum activation act, double v)
{
    if (act == ACT_GELU) return 0.5 * v * (1 + erf(v * M_SQRT1_2));
    if (act == ACT_RELU) return v < 0 ? 0 : v; /* NaN stays */
    return v;
}

/* d gelu / dv = Φ(v) + v φ(v) */
static inline double activation_gelu_slope(double v)
{
    const double phi = exp(-0.5 * v * v) * M_SQRT1_2 * 0.5 * M_2_SQRTPI;

    return 0.5 * (1 + erf(v * M_SQRT1_2)) + v * phi;
}

/* The slope at element i, from what the forward pass left. */
static inline double activation_slope(enum activation act, struct tensor pre, struct tensor y,
                                      int64_t i)
{
    if (act == ACT_GELU) return activation_gelu_slope(((const float *)pre.data)[i]);
    if (act == ACT_RELU) return ((const float *)y.data)[i] == 0 ? 0 : 1;
    return 1;
}

/* Writes or adds element i of a wanted gradient. */
static inline void gradient_put(struct tensor t, int64_t i, double v)
{
    float *p = t.data;

    p[i] = (float)(t.add ? p[i] + v : v);
}

/* The same for all of t, from sums in its order; where it is not wanted, nothing. */
static inline void gradient_put_all(struct tensor t, const double *sums)
{
    for (int64_t i = 0; t.data && i < tensor_count(t); i++) gradient_put(t, i, sums[i]);
}

#endif

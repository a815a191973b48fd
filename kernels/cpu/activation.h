/* GELU in single precision, written so that a loop over it vectorises: no branch, no call.
 *
 * erf is x P(x²)/Q(x²), fitted to minimise the greatest relative error on [0, 3.92] (1.9e-8 in
 * exact arithmetic); beyond, erf differs from ±1 by less than half a unit in the last place.
 * In float it is within 4e-7 everywhere and 7e-8 on average. NaN passes through. */
#ifndef KERNELS_CPU_ACTIVATION_H
#define KERNELS_CPU_ACTIVATION_H

#include <math.h>

#include "kernels/cpu/exp.h"

static inline float activation_erf(float x)
{
    const float bound = 3.92f;
    const float above = x < -bound ? -bound : x;
    const float v = above > bound ? bound : above, z = v * v;
    float p = 2.0503187e-6f, q = 3.8082985e-5f;

    p = p * z + 2.8466855e-4f;
    p = p * z + 3.7589897e-3f;
    p = p * z + 5.2727886e-2f;
    p = p * z + 1.9026101e-1f;
    p = p * z + 1.1283791f;
    q = q * z + 1.1608110e-3f;
    q = q * z + 1.4955934e-2f;
    q = q * z + 1.1404755e-1f;
    q = q * z + 5.0194722e-1f;
    q = q * z + 1.0f;
    return v * p / q;
}

static inline float activation_gelu(float v)
{
    return 0.5f * v * (1.0f + activation_erf(v * (float)M_SQRT1_2));
}

/* d gelu / dv = Φ(v) + v φ(v) */
static inline float activation_gelu_slope(float v)
{
    const float phi = 0.398942280f * exp_f32(-0.5f * v * v);

    return 0.5f + 0.5f * activation_erf(v * (float)M_SQRT1_2) + v * phi;
}

#endif

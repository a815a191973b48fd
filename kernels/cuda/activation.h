/* The activations of linear.h. */
#ifndef KERNELS_CUDA_ACTIVATION_H
#define KERNELS_CUDA_ACTIVATION_H

#include "kernels/cuda/device.h"
#include "kernels/linear.h"

DEVICE float activation_value(enum activation act, float v)
{
    if (act == ACT_GELU) return 0.5f * v * (1.0f + erff(v * 0.70710678f));
    if (act == ACT_RELU) return v < 0 ? 0 : v; /* NaN stays */
    return v;
}

/* of pre for GELU, of y for ReLU */
DEVICE float activation_slope(enum activation act, float kept)
{
    if (act == ACT_GELU)
        return 0.5f * (1.0f + erff(kept * 0.70710678f)) +
               kept * expf(-0.5f * kept * kept) * 0.39894228f;
    if (act == ACT_RELU) return kept == 0 ? 0 : 1;
    return 1;
}

#endif

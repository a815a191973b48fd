/* exp in f32 as plain arithmetic, so that a loop over it is vectorised; libm's is not.
 *
 * Within 2 ulp of the exact value for x > −86.9; below, where results near the smallest normal
 * float would be slow, it is 0. Overflows to infinity like libm's; NaN stays NaN. */
#ifndef KERNELS_CPU_EXP_H
#define KERNELS_CPU_EXP_H

#include <stdint.h>
#include <string.h>

static inline float exp_f32(float x)
{
    const float round = 12582912.0f; /* 1.5 · 2^23: adding it rounds to an integer */
    const float top = x > 89.0f ? 89.0f : x;
    const float shifted = top * 1.44269504f + round, n = shifted - round;
    /* ln 2 in two parts, the first exact in a product with n */
    const float r = (top - n * 0.693359375f) + n * 2.12194440e-4f;
    /* e^r, |r| ≤ ln 2 / 2: the minimax polynomial of Cephes expf (Moshier, 1989) */
    float p = 1.9875691500e-4f;
    uint32_t bits;
    float scale;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;

    /* 2^(n−1), and the last factor 2 apart: 2^128 is no float */
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 126u) << 23;
    memcpy(&scale, &bits, sizeof scale);
    return x < -86.9f ? 0.0f : p * scale * 2.0f;
}

#endif

/* Elements by fours: one access of 16 bytes where the address allows it, four of them elsewhere and
 * at the end of a row. */
#ifndef KERNELS_CUDA_QUADS_H
#define KERNELS_CUDA_QUADS_H

#include "kernels/cuda/device.h"

/* p[0…3]; from `left` on, zero. aligned: p is a multiple of 16 bytes. */
DEVICE void load_quad(float (&v)[4], const float *p, int64_t left, bool aligned)
{
    if (aligned && left >= 4) {
        const float4 q = *reinterpret_cast<const float4 *>(p);

        v[0] = q.x;
        v[1] = q.y;
        v[2] = q.z;
        v[3] = q.w;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = k < left ? p[k] : 0;
}

DEVICE void store_quad(float *p, const float (&v)[4], int64_t left, bool aligned)
{
    if (aligned && left >= 4) {
        *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k < left) p[k] = v[k];
}

/* Whether quads of rows of n_c elements at p lie on 16 bytes. NULL does. */
static inline bool quads_aligned(const void *p, int64_t n_c)
{
    return (uintptr_t)p % 16 == 0 && n_c % 4 == 0;
}

#endif

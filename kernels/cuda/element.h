/* Elements as they are kept, F32 or BF16, and as kernels compute: in float.
 *
 * A kernel is a template over T, float or bf16: it loads by element_load, which widens exactly, and
 * stores by element_store, which rounds to the nearest. BY_DTYPE picks the instance on the host. */
#ifndef KERNELS_CUDA_ELEMENT_H
#define KERNELS_CUDA_ELEMENT_H

#include "kernels/base/tensor.h"

#include "kernels/cuda/device.h"

DEVICE float element_load(const float *p)
{
    return *p;
}

DEVICE float element_load(const bf16 *p)
{
    return __bfloat162float(*p);
}

DEVICE void element_store(float *p, float v)
{
    *p = v;
}

DEVICE void element_store(bf16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}

/* A gradient: added to in float, rounded once. */
template <class T> DEVICE void element_gradient(T *p, bool add, float v)
{
    element_store(p, add ? element_load(p) + v : v);
}

/* p[0…3]; from `left` on, zero. aligned: p is a multiple of four elements. */
DEVICE void element_load4(float (&v)[4], const bf16 *p, int64_t left, bool aligned)
{
    if (aligned && left >= 4) {
        const uint2 q = *reinterpret_cast<const uint2 *>(p);

        v[0] = __uint_as_float(q.x << 16);
        v[1] = __uint_as_float(q.x & 0xFFFF0000u);
        v[2] = __uint_as_float(q.y << 16);
        v[3] = __uint_as_float(q.y & 0xFFFF0000u);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = k < left ? element_load(p + k) : 0;
}

DEVICE void element_load4(float (&v)[4], const float *p, int64_t left, bool aligned)
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

DEVICE void element_store4(bf16 *p, const float (&v)[4], int64_t left, bool aligned)
{
    if (aligned && left >= 4) {
        *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k < left) element_store(p + k, v[k]);
}

DEVICE void element_store4(float *p, const float (&v)[4], int64_t left, bool aligned)
{
    if (aligned && left >= 4) {
        *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (k < left) p[k] = v[k];
}

/* Whether fours in rows of n_c elements at p lie on whole fours. NULL does. */
template <class T> static inline bool element_aligned4(const T *p, int64_t n_c)
{
    return (uintptr_t)p % (4 * sizeof(T)) == 0 && n_c % 4 == 0;
}

/* Runs the statement with T as the tensor's element type; in a function that returns a status. */
#define BY_DTYPE(t, ...)                                                                           \
    do {                                                                                           \
        if ((t).dtype == BF16) {                                                                   \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

#endif

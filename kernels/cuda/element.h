/* Elements as they are kept, F32 or BF16, and as kernels compute: in float.
 *
 * A kernel is a template over T, float or bf16: it loads by element_load, which widens exactly, and
 * stores by element_store, which rounds to the nearest. BY_DTYPE picks the instance on the host.
 * Neighbours travel as a lot, four or eight of them: one access of 16 bytes where rows allow it. */
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

/* v as a T keeps it */
template <class T> DEVICE float element_rounded(float v)
{
    return sizeof(T) == sizeof(bf16) ? __bfloat162float(__float2bfloat16_rn(v)) : v;
}

/* Elements of a lot: 16 bytes of the narrowest type that takes part. */
template <class A, class B = A, class C = A> struct element_lot {
    enum { WIDTH = sizeof(A) == 2 || sizeof(B) == 2 || sizeof(C) == 2 ? 8 : 4 };
};

DEVICE void element_unpack(float &low, float &high, uint32_t pair)
{
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xFFFF0000u);
}

/* A whole lot of one, four or eight at p, which is aligned as element_aligned says. */
template <class T> DEVICE void element_load_lot(float (&v)[1], const T *p)
{
    v[0] = element_load(p);
}

DEVICE void element_load_lot(float (&v)[4], const float *p)
{
    const float4 q = *reinterpret_cast<const float4 *>(p);

    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
}

DEVICE void element_load_lot(float (&v)[8], const float *p)
{
    const float4 q = *reinterpret_cast<const float4 *>(p);
    const float4 r = *reinterpret_cast<const float4 *>(p + 4);

    v[0] = q.x;
    v[1] = q.y;
    v[2] = q.z;
    v[3] = q.w;
    v[4] = r.x;
    v[5] = r.y;
    v[6] = r.z;
    v[7] = r.w;
}

DEVICE void element_load_lot(float (&v)[4], const bf16 *p)
{
    const uint2 q = *reinterpret_cast<const uint2 *>(p);

    element_unpack(v[0], v[1], q.x);
    element_unpack(v[2], v[3], q.y);
}

DEVICE void element_load_lot(float (&v)[8], const bf16 *p)
{
    const uint4 q = *reinterpret_cast<const uint4 *>(p);

    element_unpack(v[0], v[1], q.x);
    element_unpack(v[2], v[3], q.y);
    element_unpack(v[4], v[5], q.z);
    element_unpack(v[6], v[7], q.w);
}

template <class T> DEVICE void element_store_lot(T *p, const float (&v)[1])
{
    element_store(p, v[0]);
}

DEVICE void element_store_lot(float *p, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

DEVICE void element_store_lot(float *p, const float (&v)[8])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

DEVICE void element_store_lot(bf16 *p, const float (&v)[4])
{
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
}

DEVICE void element_store_lot(bf16 *p, const float (&v)[8])
{
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                               pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

/* p[0…N−1]; from `left` on, zero. aligned: as element_aligned says. */
template <int N, class T>
DEVICE void element_load_lot(float (&v)[N], const T *p, int64_t left, bool aligned)
{
    if (aligned && left >= N) {
        element_load_lot(v, p);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = k < left ? element_load(p + k) : 0;
}

template <int N, class T>
DEVICE void element_store_lot(T *p, const float (&v)[N], int64_t left, bool aligned)
{
    if (aligned && left >= N) {
        element_store_lot(p, v);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        if (k < left) element_store(p + k, v[k]);
}

/* Gradients, as element_gradient. */
template <int N, class T>
DEVICE void element_gradient_lot(T *p, bool add, const float (&v)[N], int64_t left, bool aligned)
{
    float sum[N] = {};

    if (add) element_load_lot(sum, p, left, aligned);
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] = add ? sum[k] + v[k] : v[k];
    element_store_lot(p, sum, left, aligned);
}

/* Whether lots of N in rows of n_c elements at p lie on whole accesses. NULL does. */
template <int N, class T> static inline bool element_aligned(const T *p, int64_t n_c)
{
    const uintptr_t bytes = N * sizeof(T);

    return (uintptr_t)p % (bytes < 16 ? bytes : 16) == 0 && n_c % N == 0;
}

/* Runs the statement with S and T as the element types of two tensors, the first as wide as the
 * second or wider; in a function that returns a status. */
#define BY_DTYPES(s, t, ...)                                                                       \
    do {                                                                                           \
        if ((s).dtype == BF16) {                                                                   \
            typedef bf16 S, T;                                                                     \
            __VA_ARGS__;                                                                           \
        } else if ((t).dtype == BF16) {                                                            \
            typedef float S;                                                                       \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef float S, T;                                                                    \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

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

#include "kernels/image_check.h"

#include "kernels/cuda/element.h"

enum { THREADS = 256, BLOCK = THREADS * 4 };

struct channels {
    float mean[3], std[3];
};

DEVICE void load_levels(float (&v)[4], const float *p, int left, bool aligned)
{
    element_load_lot(v, p, left, aligned);
}

DEVICE void load_levels(float (&v)[4], const uint8_t *p, int left, bool aligned)
{
    if (aligned && left >= 4) {
        const uchar4 q = *reinterpret_cast<const uchar4 *>(p);

        v[0] = q.x;
        v[1] = q.y;
        v[2] = q.z;
        v[3] = q.w;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = k < left ? p[k] : 0;
}

/* A thread owns four neighbouring levels of a row of pixels, a warp 128 bytes of bytes and 512 of
 * floats, a block 1024 levels of one row. Read once, written once.
 * Bound by memory: 5 or 8 bytes a level. Levels, not pixels: three channels are no power of two,
 * and by levels both sides are whole vectors. */
template <class T>
__global__ static void __launch_bounds__(THREADS)
    normalize(float *y, const T *x, const int32_t *size, const channels by, int side, bool aligned)
{
    const int64_t row = blockIdx.x, n = row / side;
    const int c = ((int)blockIdx.y * THREADS + (int)threadIdx.x) * 4, left = side * 3 - c;
    const int n_in = row % side < size[2 * n] ? size[2 * n + 1] : 0;
    float v[4];

    if (left <= 0) return;
    load_levels(v, x + row * side * 3 + c, left, aligned);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int channel = (c + k) % 3;
        const float mean = channel == 0 ? by.mean[0] : channel == 1 ? by.mean[1] : by.mean[2];
        const float std = channel == 0 ? by.std[0] : channel == 1 ? by.std[1] : by.std[2];

        v[k] = (c + k) / 3 < n_in ? (v[k] - mean) / std : 0;
    }
    element_store_lot(y + row * side * 3 + c, v, left, aligned);
}

extern "C" enum status image_normalize_cuda(struct tensor y, struct tensor x, struct tensor size,
                                            struct stream *s)
{
    static const channels by = { IMAGE_MEAN, IMAGE_STD };

    TRY(image_normalize_check(y, x, size));
    STREAM_NO_SCRATCH(s);

    const int64_t n_rows = y.dim[0] * y.dim[1], side = y.dim[1];
    const bool aligned =
        element_aligned<4>((const float *)y.data, side) && (uintptr_t)x.data % 16 == 0;
    const dim3 grid((unsigned)n_rows, (unsigned)((side * 3 + BLOCK - 1) / BLOCK));

    if (n_rows == 0) return OK;
    if (x.dtype == U8)
        LAUNCH(normalize<uint8_t>, grid, THREADS, 0, s, (float *)y.data, (const uint8_t *)x.data,
               (const int32_t *)size.data, by, (int)side, aligned);
    else
        LAUNCH(normalize<float>, grid, THREADS, 0, s, (float *)y.data, (const float *)x.data,
               (const int32_t *)size.data, by, (int)side, aligned);
    return OK;
}

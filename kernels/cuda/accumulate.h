/* dst += src on the device, elements 0 … n−1; the two do not overlap. One block a 1024 elements. */
#ifndef KERNELS_CUDA_ACCUMULATE_H
#define KERNELS_CUDA_ACCUMULATE_H

#include "kernels/base/status.h"
#include "kernels/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status accumulate_cuda(float *dst, const float *src, int64_t n, struct stream *s) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

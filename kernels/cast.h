/* The same numbers in another precision.
 *
 *   y[i] = x[i], F32 to BF16 to the nearest (ties to even), BF16 to F32 exactly, or a copy
 *
 *   x y: as many elements each. y may not alias x. */
#ifndef KERNELS_CAST_H
#define KERNELS_CAST_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status cast_fn(struct tensor y, struct tensor x, struct stream *s) MUST_CHECK;
cast_fn cast_ref, cast_cpu, cast_cuda;

#ifdef __cplusplus
}
#endif
#endif

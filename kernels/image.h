/* Pixels to the encoder's input.
 *
 *   y[n,i,j,c] = (x[n,i,j,c] − mean[c]) / std[c] inside size[n] = (rows, cols), else 0
 *   mean (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375), RGB: padding is the mean colour
 *
 *   x (N,S,S,3) u8 or f32   y (N,S,S,3) f32   size (N,2) i32 */
#ifndef KERNELS_IMAGE_H
#define KERNELS_IMAGE_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status image_normalize_fn(struct tensor y, struct tensor x, struct tensor size,
                                       struct stream *s) MUST_CHECK;
image_normalize_fn image_normalize_ref, image_normalize_cpu, image_normalize_cuda;

#ifdef __cplusplus
}
#endif
#endif

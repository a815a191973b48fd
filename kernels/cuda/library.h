/* Products by NVIDIA's libraries, in bf16, where a stream does not say own_products: linear layers by
 * cuBLASLt (library_blas.cu), the 3×3 convolution and its dx by cuDNN (library_dnn.cu).
 *
 * An op asks …_takes, of shapes alone, behind its check, and then hands itself over. Algorithms are
 * chosen by a library's heuristics once a shape, while a program is planned, and kept in tables of
 * fixed size; their workspace is the op's scratch. Where a library has none, that is kept too and
 * logged once, and the op computes itself, planned or not. The same bits on every run: only algorithms
 * whose sums have one order. Without a library: library_none.c. */
#ifndef KERNELS_CUDA_LIBRARY_H
#define KERNELS_CUDA_LIBRARY_H

#include "kernels/conv.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status library_linear_fwd_takes(bool *takes, struct tensor x, struct tensor w, struct tensor b,
                                     const struct stream *s) MUST_CHECK;
enum status library_linear_bwd_takes(bool *takes, struct tensor x, struct tensor w,
                                     const struct stream *s) MUST_CHECK;
linear_fwd_fn library_linear_fwd;
linear_bwd_fn library_linear_bwd;

/* x: of the forward convolution, whose dx is asked about when backward. */
enum status library_conv3x3_takes(bool *takes, struct tensor x, struct tensor w, bool backward,
                                  const struct stream *s) MUST_CHECK;
conv3x3_fwd_fn library_conv3x3_fwd;
enum status library_conv3x3_dx(struct tensor dx, struct tensor dy, struct tensor w,
                               struct stream *s) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

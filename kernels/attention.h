/* Self-attention over an image's token grid, windowed or global, with decomposed relative positions
 * (SAM image encoder; MViTv2, Li et al. 2022). Fused: the T×T bias is never materialised.
 *
 *   S[q,k] = q·k/√D + q·Rh[yq−yk+Kh−1] + q·Rw[xq−xk+Kw−1]     (the unscaled q meets the tables)
 *   y[q]   = Σk softmax_k(S[q,k]) v[k]                        per image, window and head
 *
 * window = 0: one window, the whole grid (Kh = H, Kw = W). window = w > 0: the grid is cut into w×w
 * windows, padded at the bottom and right; Kh = Kw = w. A padding token's k and v are the qkv bias,
 * it takes part in the softmax, and its own output is dropped: exactly the reference model, whose
 * padding is zero behind the norm. It is never computed: its k and v are read from qkv_bias, and
 * its gradient goes to dqkv_bias, which receives the padding tokens' share only.
 *
 *   qkv dqkv (N,H,W,3·A·D) as [q|k|v][head][D]
 *   qkv_bias dqkv_bias (3·A·D); may be none when no window needs padding
 *   rel_h drel_h (2·Kh−1,D)   rel_w drel_w (2·Kw−1,D), or all none
 *   y dy (N,H,W,A·D)   lse (N,A,H,W) f32: log Σ exp of a row, written forward, read backward
 *   Deterministic, independent of the number of threads. N = 0 is allowed. */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum status attention_fwd_fn(struct tensor y, struct tensor lse, struct tensor qkv,
                                     struct tensor qkv_bias, struct tensor rel_h,
                                     struct tensor rel_w, int n_heads, int window,
                                     struct stream *s) MUST_CHECK;
typedef enum status attention_bwd_fn(struct tensor dqkv, struct tensor dqkv_bias,
                                     struct tensor drel_h, struct tensor drel_w, struct tensor dy,
                                     struct tensor y, struct tensor lse, struct tensor qkv,
                                     struct tensor qkv_bias, struct tensor rel_h,
                                     struct tensor rel_w, int n_heads, int window,
                                     struct stream *s) MUST_CHECK;
attention_fwd_fn attention_fwd_ref, attention_fwd_cpu, attention_fwd_cuda;
attention_bwd_fn attention_bwd_ref, attention_bwd_cpu, attention_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif

/* A mask's tokens attend to its image features, without their keys and values in memory.
 *
 *   k[m,i] = Wk (x[m,i] + pe[i]) + bk       v[m,i] = Wv x[m,i] + bv       per head of D = I/A channels
 *   y[m,t] = Σi softmax_i(q[m,t]·k[m,i] / √D) v[m,i]                      as cross_attention.h
 *
 * The same, with the projections absorbed into the few tokens (A·t rows, at most the projections' I):
 *   q·k = (Wkᵀ q)·(x + pe) + q·bk, whose last term is the same for all i and drops out of the softmax;
 *   Σ p v = Wv z + bv with z[m,a,t] = Σi p x[m,i].
 *
 *   q dq y dy (M,t,I)   x dx (M,T,C) or (1,T,C): shared by all masks, dx is then the sum over masks, in
 *   order   pe (T,C), without a gradient   wk wv (I,C)   bk bv (I)   lse (M,A,t) F32   z (M,A,t,C)
 *   lse and z are written forward, read backward. bk's gradient is zero. In BF16 wk wv z are BF16 too.
 *   Deterministic. M = 0 is allowed; t ≤ 16. */
#ifndef KERNELS_TOKEN_TO_IMAGE_H
#define KERNELS_TOKEN_TO_IMAGE_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DECODER_TOKENS_MAX = 16 };

struct token_to_image_weights { /* or their gradients, all F32 */
    struct tensor wk, bk, wv, bv;
};

typedef enum status token_to_image_fwd_fn(struct tensor y, struct tensor lse, struct tensor z,
                                          struct tensor q, struct tensor x, struct tensor pe,
                                          const struct token_to_image_weights *w, int n_heads,
                                          struct stream *s) MUST_CHECK;
typedef enum status token_to_image_bwd_fn(struct tensor dq, struct tensor dx,
                                          const struct token_to_image_weights *dw, struct tensor dy,
                                          struct tensor y, struct tensor lse, struct tensor z,
                                          struct tensor q, struct tensor x, struct tensor pe,
                                          const struct token_to_image_weights *w, int n_heads,
                                          struct stream *s) MUST_CHECK;
token_to_image_fwd_fn token_to_image_fwd_ref, token_to_image_fwd_cpu, token_to_image_fwd_cuda;
token_to_image_bwd_fn token_to_image_bwd_ref, token_to_image_bwd_cpu, token_to_image_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif

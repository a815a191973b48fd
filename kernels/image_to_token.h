/* Image features attend to their mask's tokens, take what they get, and are normed: one read and one
 * write of the features.
 *
 *   q[m,i] = Wq (x[m,i] + pe[i]) + bq        o[m,i] = Σj softmax_j(q[m,i]·k[m,j] / √D) v[m,j], per head
 *   r[m,i] = x[m,i] + dropout(Wo o[m,i] + bo)
 *   y = layernorm(r; gamma, beta, eps) as layernorm.h       j < n_tokens[m] (at least 1)
 *   dropout as residual.h's, drawn again backward: of element e of (M,T,C) by key and salt. dropout 0:
 *   none, and key may be none.
 *
 * The same, with the projections absorbed into the few tokens (A·t of them):
 *   q·k = (x + pe)·(Wqᵀ k) + bq·k            Wo o = Σ p (Wo v)
 *
 *   x dx (M,T,C) or (1,T,C): shared by all masks, dx is then the sum over masks, in order
 *   pe (T,C), without a gradient   k v dk dv (M,t,I)   wq (I,C)   bq (I)   wo (C,I)   bo gamma beta (C)
 *   n_tokens (M) I32   y dy (M,T,C)   mean rstd (M,T) F32, written forward, read backward; what else
 *   backward needs it computes again. dk and dv are zero from n_tokens on.
 *   Deterministic. M = 0 is allowed; t ≤ DECODER_TOKENS_MAX. */
#ifndef KERNELS_IMAGE_TO_TOKEN_H
#define KERNELS_IMAGE_TO_TOKEN_H

#include "kernels/token_to_image.h"

#ifdef __cplusplus
extern "C" {
#endif

struct image_to_token_weights { /* or their gradients, all F32 */
    struct tensor wq, bq, wo, bo, gamma, beta;
};

typedef enum status image_to_token_fwd_fn(struct tensor y, struct tensor mean, struct tensor rstd,
                                          struct tensor x, struct tensor pe, struct tensor k,
                                          struct tensor v, struct tensor n_tokens,
                                          const struct image_to_token_weights *w, int n_heads,
                                          float eps, struct tensor key, float dropout, int64_t salt,
                                          struct stream *s) MUST_CHECK;
typedef enum status image_to_token_bwd_fn(struct tensor dx, struct tensor dk, struct tensor dv,
                                          const struct image_to_token_weights *dw, struct tensor dy,
                                          struct tensor x, struct tensor pe, struct tensor k,
                                          struct tensor v, struct tensor n_tokens,
                                          const struct image_to_token_weights *w,
                                          struct tensor mean, struct tensor rstd, int n_heads,
                                          float eps, struct tensor key, float dropout, int64_t salt,
                                          struct stream *s) MUST_CHECK;
image_to_token_fwd_fn image_to_token_fwd_ref, image_to_token_fwd_cpu, image_to_token_fwd_cuda;
image_to_token_bwd_fn image_to_token_bwd_ref, image_to_token_bwd_cpu, image_to_token_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif

/* Random Fourier features of positions (SAM prompt encoder), and the decoder's input tokens.
 *
 *   pe(c) = [sin(2π (2c−1) G) | cos(2π (2c−1) G)]    c = (x,y) in [0,1], G (2,C/2); in f32 or better
 *
 * posenc_grid: pe (H,W,C) at c = ((j+½)/W, (i+½)/H). No gradient: G is fixed.
 *
 * prompt_tokens: tokens[m] = [iou_token | mask_tokens | point 0 | point 1 | …], (M,1+K+P,C).
 *   point p of mask m, with label l and position (x,y) = coords[m,p] in pixels of the S×S frame:
 *     token = (l ≥ 0 ? pe((x+½)/S, (y+½)/S) : 0) + table[l+1]
 *     table: not a point (−1), background (0), foreground (1), box top left (2), bottom right (3)
 *   p ≥ n_points[m]: the token is zero and no gradient flows from it (static shapes; as keys such
 *   tokens are masked by count).
 *   coords (M,P,2) f32   labels (M,P) i32 in −1…3, a precondition   n_points (M) i32 ≤ P
 *   iou_token (1,C)   mask_tokens (K,C)   table[5], each (1,C); their gradients alike
 *   frame: S. Deterministic, independent of the number of threads. M = 0 is allowed. */
#ifndef KERNELS_POSENC_H
#define KERNELS_POSENC_H

#include "kernels/base/stream.h"
#include "kernels/base/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { POSENC_TABLE = 5 };

typedef enum status posenc_grid_fn(struct tensor pe, struct tensor gaussian,
                                   struct stream *s) MUST_CHECK;
typedef enum status prompt_tokens_fwd_fn(struct tensor tokens, struct tensor coords,
                                         struct tensor labels, struct tensor n_points,
                                         struct tensor gaussian, struct tensor iou_token,
                                         struct tensor mask_tokens,
                                         const struct tensor table[POSENC_TABLE], int frame,
                                         struct stream *s) MUST_CHECK;
typedef enum status prompt_tokens_bwd_fn(struct tensor diou_token, struct tensor dmask_tokens,
                                         const struct tensor dtable[POSENC_TABLE],
                                         struct tensor dtokens, struct tensor labels,
                                         struct tensor n_points, struct stream *s) MUST_CHECK;
posenc_grid_fn posenc_grid_ref, posenc_grid_cpu, posenc_grid_cuda;
prompt_tokens_fwd_fn prompt_tokens_fwd_ref, prompt_tokens_fwd_cpu, prompt_tokens_fwd_cuda;
prompt_tokens_bwd_fn prompt_tokens_bwd_ref, prompt_tokens_bwd_cpu, prompt_tokens_bwd_cuda;

#ifdef __cplusplus
}
#endif
#endif

/* The shapes image_to_token.h asks for, checked once for all backends. */
#ifndef KERNELS_IMAGE_TO_TOKEN_CHECK_H
#define KERNELS_IMAGE_TO_TOKEN_CHECK_H

#include "kernels/image_to_token.h"

#ifdef __cplusplus
extern "C" {
#endif

struct image_to_token_shape {
    int64_t m, mx;           /* masks; of them with their own x: m or 1 */
    int64_t n_x, n_tok, c;   /* positions, tokens, channels */
    int64_t inner, heads, d; /* inner = heads · d */
};

/* Writes *shape on success only. Touches no data: n_tokens' values are the caller's promise. */
enum status image_to_token_fwd_check(struct image_to_token_shape *shape, struct tensor y,
                                     struct tensor mean, struct tensor rstd, struct tensor x,
                                     struct tensor pe, struct tensor k, struct tensor v,
                                     struct tensor n_tokens, const struct image_to_token_weights *w,
                                     int n_heads, struct tensor key, float dropout) MUST_CHECK;
enum status image_to_token_bwd_check(struct image_to_token_shape *shape, struct tensor dx,
                                     struct tensor dk, struct tensor dv,
                                     const struct image_to_token_weights *dw, struct tensor dy,
                                     struct tensor x, struct tensor pe, struct tensor k,
                                     struct tensor v, struct tensor n_tokens,
                                     const struct image_to_token_weights *w, struct tensor mean,
                                     struct tensor rstd, int n_heads, struct tensor key,
                                     float dropout) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

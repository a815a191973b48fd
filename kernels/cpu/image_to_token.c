#include "kernels/image_to_token_plain.h"

enum status image_to_token_fwd_cpu(struct tensor y, struct tensor mean, struct tensor rstd,
                                   struct tensor x, struct tensor pe, struct tensor k,
                                   struct tensor v, struct tensor n_tokens,
                                   const struct image_to_token_weights *w, int n_heads, float eps,
                                   struct tensor key, float dropout, int64_t salt, struct stream *s)
{
    return image_to_token_plain_fwd(&ops_cpu, y, mean, rstd, x, pe, k, v, n_tokens, w, n_heads, eps,
                                    key, dropout, salt, s);
}

enum status image_to_token_bwd_cpu(struct tensor dx, struct tensor dk, struct tensor dv,
                                   const struct image_to_token_weights *dw, struct tensor dy,
                                   struct tensor x, struct tensor pe, struct tensor k,
                                   struct tensor v, struct tensor n_tokens,
                                   const struct image_to_token_weights *w, struct tensor mean,
                                   struct tensor rstd, int n_heads, float eps, struct tensor key,
                                   float dropout, int64_t salt, struct stream *s)
{
    (void)eps; /* in rstd */
    return image_to_token_plain_bwd(&ops_cpu, dx, dk, dv, dw, dy, x, pe, k, v, n_tokens, w, mean,
                                    rstd, n_heads, key, dropout, salt, s);
}

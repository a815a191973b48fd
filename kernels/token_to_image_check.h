/* The shapes token_to_image.h asks for, checked once for all backends. */
#ifndef KERNELS_TOKEN_TO_IMAGE_CHECK_H
#define KERNELS_TOKEN_TO_IMAGE_CHECK_H

#include "kernels/token_to_image.h"

#ifdef __cplusplus
extern "C" {
#endif

struct token_to_image_shape {
    int64_t m, mx;     /* masks; those with features of their own: m, or 1 that all share */
    int64_t t, n_x, c; /* tokens; positions, and channels of a position */
    int64_t inner;     /* channels of a projection: heads · d */
    int64_t heads, d;
};

/* Writes *shape on success only. */
enum status token_to_image_fwd_check(struct token_to_image_shape *shape, struct tensor y,
                                     struct tensor lse, struct tensor z, struct tensor q,
                                     struct tensor x, struct tensor pe,
                                     const struct token_to_image_weights *w,
                                     int n_heads) MUST_CHECK;
enum status token_to_image_bwd_check(struct token_to_image_shape *shape, struct tensor dq,
                                     struct tensor dx, const struct token_to_image_weights *dw,
                                     struct tensor dy, struct tensor y, struct tensor lse,
                                     struct tensor z, struct tensor q, struct tensor x,
                                     struct tensor pe, const struct token_to_image_weights *w,
                                     int n_heads) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

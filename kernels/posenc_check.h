/* The shapes posenc.h asks for, checked once for all backends. */
#ifndef KERNELS_POSENC_CHECK_H
#define KERNELS_POSENC_CHECK_H

#include "kernels/posenc.h"

#ifdef __cplusplus
extern "C" {
#endif

struct prompt_tokens_shape {
    int64_t m, k, p, c; /* masks, mask tokens, points a mask at most, channels */
    int64_t t;          /* tokens: 1 + k + p */
};

enum status posenc_grid_check(struct tensor pe, struct tensor gaussian) MUST_CHECK;

/* Write *shape on success only. Touch no data: labels' and n_points' values are the caller's
 * promise. */
enum status prompt_tokens_fwd_check(struct prompt_tokens_shape *shape, struct tensor tokens,
                                    struct tensor coords, struct tensor labels,
                                    struct tensor n_points, struct tensor gaussian,
                                    struct tensor iou_token, struct tensor mask_tokens,
                                    const struct tensor table[POSENC_TABLE], int frame) MUST_CHECK;
enum status prompt_tokens_bwd_check(struct prompt_tokens_shape *shape, struct tensor diou_token,
                                    struct tensor dmask_tokens,
                                    const struct tensor dtable[POSENC_TABLE], struct tensor dtokens,
                                    struct tensor labels, struct tensor n_points) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

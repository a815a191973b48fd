#include "kernels/posenc.h"

enum status posenc_grid_cpu(struct tensor pe, struct tensor gaussian, struct stream *s)
{
    return posenc_grid_ref(pe, gaussian, s);
}

enum status prompt_tokens_fwd_cpu(struct tensor tokens, struct tensor coords, struct tensor labels,
                                  struct tensor n_points, struct tensor gaussian,
                                  struct tensor iou_token, struct tensor mask_tokens,
                                  const struct tensor table[POSENC_TABLE], int frame,
                                  struct stream *s)
{
    return prompt_tokens_fwd_ref(tokens, coords, labels, n_points, gaussian, iou_token, mask_tokens,
                                 table, frame, s);
}

enum status prompt_tokens_bwd_cpu(struct tensor diou_token, struct tensor dmask_tokens,
                                  const struct tensor dtable[POSENC_TABLE], struct tensor dtokens,
                                  struct tensor labels, struct tensor n_points, struct stream *s)
{
    return prompt_tokens_bwd_ref(diou_token, dmask_tokens, dtable, dtokens, labels, n_points, s);
}

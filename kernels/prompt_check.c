#include "kernels/prompt_check.h"

/* What both ops share. P ≥ 2: a box takes two slots. */
static enum status check(const char *op, struct tensor coords, struct tensor labels,
                         struct tensor n_points, struct tensor gt, struct tensor weight,
                         struct tensor key, int64_t m_first, const struct prompt_options *o)
{
    int64_t M, P, R;

    TENSOR_EXPECT(op, coords, F32, -1, -1, 2);
    M = coords.dim[0];
    P = coords.dim[1];
    TENSOR_EXPECT(op, labels, I32, M, P);
    TENSOR_EXPECT(op, n_points, I32, M);
    TENSOR_EXPECT(op, gt, U8, M, -1, -1);
    R = gt.dim[1];
    TENSOR_EXPECT(op, gt, U8, M, R, R);
    TENSOR_EXPECT(op, weight, F32, M);
    TENSOR_EXPECT(op, key, I64, 2);
    if (P < 2 || R < 1 || o->frame < 1 || m_first < 0)
        FAIL(E_SHAPE,
             "%s: %lld slots, gt of %lld×%lld, frame %d, first mask %lld; at least 2, 1, 1, 0", op,
             (long long)P, (long long)R, (long long)R, o->frame, (long long)m_first);
    return OK;
}

enum status prompt_first_check(struct tensor coords, struct tensor labels, struct tensor n_points,
                               struct tensor gt, struct tensor box, struct tensor size,
                               struct tensor weight, struct tensor key, int64_t m_first,
                               const struct prompt_options *o)
{
    const char *const op = "prompt_first";

    TRY(check(op, coords, labels, n_points, gt, weight, key, m_first, o));
    TENSOR_EXPECT(op, box, F32, coords.dim[0], 4);
    TENSOR_EXPECT(op, size, F32, 2);
    return OK;
}

enum status prompt_next_check(struct tensor mask_prompt, struct tensor coords, struct tensor labels,
                              struct tensor n_points, struct tensor logits, struct tensor iou_pred,
                              struct tensor gt, struct tensor weight, struct tensor key,
                              int64_t m_first, int round, const struct prompt_options *o)
{
    const char *const op = "prompt_next";
    const int64_t M = coords.dim[0];
    int64_t K, h;

    TRY(check(op, coords, labels, n_points, gt, weight, key, m_first, o));
    TENSOR_EXPECT(op, logits, F32, M, -1, -1, -1);
    K = logits.dim[1];
    h = logits.dim[2];
    TENSOR_EXPECT(op, logits, F32, M, K, h, h);
    TENSOR_EXPECT(op, iou_pred, F32, M, K);
    TENSOR_EXPECT(op, mask_prompt, F32, M, h, h);
    if (!tensor_is_none(o->candidates)) TENSOR_EXPECT(op, o->candidates, I32, M, 2);
    if (K < 1 || h < 1 || gt.dim[1] % h != 0 || round < 0)
        FAIL(E_SHAPE,
             "%s: %lld masks of %lld×%lld logits for a gt of %lld×%lld, round %d; at least one "
             "mask, gt a whole multiple of the logits, round from 0",
             op, (long long)K, (long long)h, (long long)h, (long long)gt.dim[1],
             (long long)gt.dim[1], round);
    return OK;
}

enum status prompt_next_bwd_check(struct tensor dlogits, struct tensor dmask,
                                  struct tensor iou_pred, const struct prompt_options *o)
{
    const char *const op = "prompt_next_bwd";
    const int64_t M = dlogits.dim[0], K = dlogits.dim[1], h = dlogits.dim[2];

    TENSOR_EXPECT(op, dlogits, F32, -1, -1, -1, -1);
    TENSOR_EXPECT(op, dlogits, F32, M, K, h, h);
    TENSOR_EXPECT(op, dmask, F32, M, h, h);
    TENSOR_EXPECT(op, iou_pred, F32, M, K);
    if (!tensor_is_none(o->candidates)) TENSOR_EXPECT(op, o->candidates, I32, M, 2);
    if (K < 1) FAIL(E_SHAPE, "%s: there is no mask to choose from", op);
    return OK;
}

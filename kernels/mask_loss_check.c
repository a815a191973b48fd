#include "kernels/mask_loss_check.h"

static enum status check(const char *op, struct tensor value, struct tensor selected,
                         struct tensor logits, struct tensor gt, struct tensor iou_pred,
                         struct tensor valid, const struct mask_loss_options *o)
{
    int64_t M, K, h, R;

    TENSOR_EXPECT(op, logits, F32, -1, -1, -1, -1);
    M = logits.dim[0];
    K = logits.dim[1];
    h = logits.dim[2];
    TENSOR_EXPECT(op, logits, F32, M, K, h, h);
    TENSOR_EXPECT(op, gt, U8, M, -1, -1);
    R = gt.dim[1];
    TENSOR_EXPECT(op, gt, U8, M, R, R);
    if (K < 1 || h < 1 || R < h || R % h != 0)
        FAIL(E_SHAPE,
             "%s: %lld masks of %lld×%lld logits for a gt of %lld×%lld; at least one mask, and "
             "gt a whole multiple of the logits",
             op, (long long)K, (long long)h, (long long)h, (long long)R, (long long)R);
    TENSOR_EXPECT(op, value, F32, M, K, MASK_LOSS_VALUES);
    TENSOR_EXPECT(op, selected, I32, M);
    TENSOR_EXPECT(op, iou_pred, F32, M, K);
    if (o->valid_only || !tensor_is_none(valid)) TENSOR_EXPECT(op, valid, I32, M, 2);
    if (!tensor_is_none(o->candidates)) TENSOR_EXPECT(op, o->candidates, I32, M, 2);
    return OK;
}

enum status mask_loss_fwd_check(struct tensor value, struct tensor selected, struct tensor logits,
                                struct tensor gt, struct tensor iou_pred, struct tensor valid,
                                const struct mask_loss_options *o)
{
    return check("mask_loss_fwd", value, selected, logits, gt, iou_pred, valid, o);
}

enum status mask_loss_bwd_check(struct tensor dlogits, struct tensor diou, struct tensor value,
                                struct tensor selected, struct tensor logits, struct tensor gt,
                                struct tensor iou_pred, struct tensor valid, struct tensor weight,
                                const struct mask_loss_options *o)
{
    const char *const op = "mask_loss_bwd";

    TRY(check(op, value, selected, logits, gt, iou_pred, valid, o));
    TENSOR_EXPECT(op, weight, F32, logits.dim[0]);
    if (!tensor_is_none(dlogits))
        TENSOR_EXPECT(op, dlogits, F32, logits.dim[0], logits.dim[1], logits.dim[2], logits.dim[3]);
    if (!tensor_is_none(diou)) TENSOR_EXPECT(op, diou, F32, logits.dim[0], logits.dim[1]);
    return OK;
}

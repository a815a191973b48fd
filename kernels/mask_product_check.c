#include "kernels/mask_product_check.h"

static enum status inputs_check(const char *op, const char *operand, struct tensor y,
                                const struct tensor *h, int n_h, struct tensor u)
{
    if (n_h < 1 || n_h > MASK_PRODUCT_MAX)
        FAIL(E_SHAPE, "%s: %d mask tokens, expected 1 to %d", op, n_h, MASK_PRODUCT_MAX);
    TRY(tensor_expect_real(op, "u", u));
    TENSOR_EXPECT(op, u, u.dtype, -1, -1, -1, -1);
    for (int k = 0; k < n_h; k++) TENSOR_EXPECT(op, h[k], u.dtype, u.dim[0], u.dim[3]);
    return tensor_expect(op, operand, y, F32, 4,
                         (const int64_t[]){ u.dim[0], n_h, u.dim[1], u.dim[2] });
}

enum status mask_product_fwd_check(struct tensor y, const struct tensor *h, int n_h,
                                   struct tensor u)
{
    return inputs_check("mask_product_fwd", "y", y, h, n_h, u);
}

enum status mask_product_bwd_check(const struct tensor *dh, struct tensor du, struct tensor dy,
                                   const struct tensor *h, int n_h, struct tensor u)
{
    static const char op[] = "mask_product_bwd";

    TRY(inputs_check(op, "dy", dy, h, n_h, u));
    if (!tensor_is_none(du)) TENSOR_EXPECT(op, du, u.dtype, u.dim[0], u.dim[1], u.dim[2], u.dim[3]);
    for (int k = 0; k < n_h; k++)
        if (!tensor_is_none(dh[k])) TENSOR_EXPECT(op, dh[k], u.dtype, u.dim[0], u.dim[3]);
    return OK;
}

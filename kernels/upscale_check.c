#include "kernels/upscale_check.h"

static enum status inputs_check(const char *op, const char *operand, struct tensor y,
                                struct tensor x, const struct upscale_weights *w,
                                const struct tensor *h, int n_h)
{
    if (n_h < 1 || n_h > MASK_PRODUCT_MAX)
        FAIL(E_SHAPE, "%s: %d mask tokens, expected 1 to %d", op, n_h, MASK_PRODUCT_MAX);
    TRY(tensor_expect_real(op, "x", x));
    TENSOR_EXPECT(op, x, x.dtype, -1, -1, -1, -1);
    TRY(tensor_expect(op, "w1", w->w1, x.dtype, 4, (const int64_t[]){ x.dim[3], -1, 2, 2 }));
    const int64_t n_1 = w->w1.dim[1];

    TRY(tensor_expect(op, "w2", w->w2, x.dtype, 4, (const int64_t[]){ n_1, -1, 2, 2 }));
    const int64_t n_2 = w->w2.dim[1];

    if (n_1 < 1) FAIL(E_SHAPE, "%s: no channels between the convolutions", op);
    TRY(tensor_expect(op, "b1", w->b1, F32, 1, &n_1));
    TRY(tensor_expect(op, "gamma", w->gamma, F32, 1, &n_1));
    TRY(tensor_expect(op, "beta", w->beta, F32, 1, &n_1));
    TRY(tensor_expect(op, "b2", w->b2, F32, 1, &n_2));
    for (int k = 0; k < n_h; k++) TENSOR_EXPECT(op, h[k], x.dtype, x.dim[0], n_2);
    return tensor_expect(op, operand, y, F32, 4,
                         (const int64_t[]){ x.dim[0], n_h, 4 * x.dim[1], 4 * x.dim[2] });
}

enum status upscale_fwd_check(struct tensor y, struct tensor x, const struct upscale_weights *w,
                              const struct tensor *h, int n_h)
{
    return inputs_check("upscale_fwd", "y", y, x, w, h, n_h);
}

/* A gradient: not wanted, or of the operand's shape. */
static enum status gradient_check(const char *operand, struct tensor d, struct tensor of,
                                  enum dtype dtype)
{
    if (tensor_is_none(d)) return OK;
    return tensor_expect("upscale_bwd", operand, d, dtype, of.n_dims, of.dim);
}

enum status upscale_bwd_check(struct tensor dx, const struct upscale_weights *dw,
                              const struct tensor *dh, struct tensor dy, struct tensor x,
                              const struct upscale_weights *w, const struct tensor *h, int n_h)
{
    TRY(inputs_check("upscale_bwd", "dy", dy, x, w, h, n_h));
    TRY(gradient_check("dx", dx, x, x.dtype));
    TRY(gradient_check("dw1", dw->w1, w->w1, F32));
    TRY(gradient_check("db1", dw->b1, w->b1, F32));
    TRY(gradient_check("dgamma", dw->gamma, w->gamma, F32));
    TRY(gradient_check("dbeta", dw->beta, w->beta, F32));
    TRY(gradient_check("dw2", dw->w2, w->w2, F32));
    TRY(gradient_check("db2", dw->b2, w->b2, F32));
    for (int k = 0; k < n_h; k++) TRY(gradient_check("dh", dh[k], h[k], x.dtype));
    return OK;
}

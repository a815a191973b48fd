#include "kernels/upscale_plain.h"

static const struct upscale_plain ops = {
    upconv_fwd_ref,    upconv_bwd_ref,       layernorm_fwd_ref,
    layernorm_bwd_ref, mask_product_fwd_ref, mask_product_bwd_ref,
};

enum status upscale_fwd_ref(struct tensor y, struct tensor x, const struct upscale_weights *w,
                            const struct tensor *h, int n_h, float eps, struct stream *s)
{
    TRY(upscale_fwd_check(y, x, w, h, n_h));
    return upscale_plain_fwd(&ops, y, x, w, h, n_h, eps, s);
}

enum status upscale_bwd_ref(struct tensor dx, const struct upscale_weights *dw,
                            const struct tensor *dh, struct tensor dy, struct tensor x,
                            const struct upscale_weights *w, const struct tensor *h, int n_h,
                            float eps, struct stream *s)
{
    TRY(upscale_bwd_check(dx, dw, dh, dy, x, w, h, n_h));
    return upscale_plain_bwd(&ops, dx, dw, dh, dy, x, w, h, n_h, eps, s);
}

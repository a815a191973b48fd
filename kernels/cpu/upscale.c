#include "kernels/upscale_plain.h"

static const struct upscale_plain ops = {
    upconv_fwd_cpu,    upconv_bwd_cpu,       layernorm_fwd_cpu,
    layernorm_bwd_cpu, mask_product_fwd_cpu, mask_product_bwd_cpu,
};

enum status upscale_fwd_cpu(struct tensor y, struct tensor x, const struct upscale_weights *w,
                            const struct tensor *h, int n_h, float eps, struct stream *s)
{
    TRY(upscale_fwd_check(y, x, w, h, n_h));
    return upscale_plain_fwd(&ops, y, x, w, h, n_h, eps, s);
}

enum status upscale_bwd_cpu(struct tensor dx, const struct upscale_weights *dw,
                            const struct tensor *dh, struct tensor dy, struct tensor x,
                            const struct upscale_weights *w, const struct tensor *h, int n_h,
                            float eps, struct stream *s)
{
    TRY(upscale_bwd_check(dx, dw, dh, dy, x, w, h, n_h));
    return upscale_plain_bwd(&ops, dx, dw, dh, dy, x, w, h, n_h, eps, s);
}

/* upscale as its formula says: the backend's own ops one after another, what lies between in
 * scratch. Included by each backend, which passes its functions; the ops ask scratch of their own. */
#ifndef KERNELS_UPSCALE_PLAIN_H
#define KERNELS_UPSCALE_PLAIN_H

#include <stddef.h>

#include "kernels/conv.h"
#include "kernels/layernorm.h"
#include "kernels/upscale_check.h"

struct upscale_plain {
    upconv_fwd_fn *upconv_fwd;
    upconv_bwd_fn *upconv_bwd;
    layernorm_fwd_fn *layernorm_fwd;
    layernorm_bwd_fn *layernorm_bwd;
    mask_product_fwd_fn *mask_product_fwd;
    mask_product_bwd_fn *mask_product_bwd;
};

/* What lies between. Laid out from `base`, NULL when planning; bytes: how far it reaches. */
struct upscale_between {
    struct tensor u1, a1, mean, rstd, pre2, u2, du1, da1, du2;
    char *base;
    int64_t bytes;
};

static inline struct tensor upscale_take(struct upscale_between *t, struct tensor shape)
{
    static const int64_t align = 64; /* as the trainer's arena */

    shape.data = t->base ? t->base + t->bytes : NULL;
    t->bytes += (tensor_bytes(shape) + align - 1) / align * align;
    return shape;
}

static inline struct upscale_between upscale_layout(char *base, struct tensor x,
                                                    const struct upscale_weights *w, bool backward)
{
    struct upscale_between t = {};
    const int64_t n_rows = 4 * x.dim[0] * x.dim[1] * x.dim[2];
    const struct tensor first =
        tensor_4d(NULL, x.dtype, x.dim[0], 2 * x.dim[1], 2 * x.dim[2], w->w1.dim[1]);
    const struct tensor second =
        tensor_4d(NULL, x.dtype, x.dim[0], 4 * x.dim[1], 4 * x.dim[2], w->w2.dim[1]);

    t.base = base;
    t.u1 = upscale_take(&t, first);
    t.a1 = backward ? upscale_take(&t, first) : t.u1; /* layernorm's y may alias its x */
    t.mean = upscale_take(&t, tensor_1d(NULL, F32, n_rows));
    t.rstd = upscale_take(&t, tensor_1d(NULL, F32, n_rows));
    t.pre2 = upscale_take(&t, second);
    t.u2 = upscale_take(&t, second);
    if (!backward) return t;
    t.du2 = upscale_take(&t, second);
    t.da1 = upscale_take(&t, first);
    t.du1 = upscale_take(&t, first);
    return t;
}

static inline enum status upscale_plain_features(const struct upscale_plain *f,
                                                 const struct upscale_between *t, struct tensor x,
                                                 const struct upscale_weights *w, float eps,
                                                 struct stream *s)
{
    TRY(f->upconv_fwd(t->u1, tensor_none(), x, w->w1, w->b1, ACT_NONE, s));
    TRY(f->layernorm_fwd(t->a1, t->mean, t->rstd, t->u1, w->gamma, w->beta, eps, ACT_GELU, s));
    return f->upconv_fwd(t->u2, t->pre2, t->a1, w->w2, w->b2, ACT_GELU, s);
}

static inline enum status upscale_plain_gradients(const struct upscale_plain *f,
                                                  const struct upscale_between *t, struct tensor dx,
                                                  const struct upscale_weights *dw,
                                                  const struct tensor *dh, struct tensor dy,
                                                  struct tensor x, const struct upscale_weights *w,
                                                  const struct tensor *h, int n_h, struct stream *s)
{
    const struct tensor none = tensor_none();

    TRY(f->mask_product_bwd(dh, t->du2, dy, h, n_h, t->u2, s));
    TRY(f->upconv_bwd(t->da1, dw->w2, dw->b2, t->du2, t->a1, w->w2, t->u2, t->pre2, ACT_GELU, s));
    TRY(f->layernorm_bwd(t->du1, dw->gamma, dw->beta, t->da1, t->u1, w->gamma, w->beta, t->mean,
                         t->rstd, ACT_GELU, s));
    return f->upconv_bwd(dx, dw->w1, dw->b1, t->du1, x, w->w1, none, none, ACT_NONE, s);
}

static inline enum status upscale_plain_fwd(const struct upscale_plain *f, struct tensor y,
                                            struct tensor x, const struct upscale_weights *w,
                                            const struct tensor *h, int n_h, float eps,
                                            struct stream *s)
{
    struct upscale_between t = upscale_layout(NULL, x, w, false);
    struct stream plan = stream_dry(s);
    void *scratch;

    TRY(upscale_plain_features(f, &t, x, w, eps, &plan));
    TRY(f->mask_product_fwd(y, h, n_h, t.u2, &plan));
    STREAM_SCRATCH(s, scratch, t.bytes + plan.scratch_need);
    t = upscale_layout((char *)scratch, x, w, false);

    struct stream rest = stream_behind(s, t.bytes);

    TRY(upscale_plain_features(f, &t, x, w, eps, &rest));
    return f->mask_product_fwd(y, h, n_h, t.u2, &rest);
}

static inline enum status upscale_plain_bwd(const struct upscale_plain *f, struct tensor dx,
                                            const struct upscale_weights *dw,
                                            const struct tensor *dh, struct tensor dy,
                                            struct tensor x, const struct upscale_weights *w,
                                            const struct tensor *h, int n_h, float eps,
                                            struct stream *s)
{
    struct upscale_between t = upscale_layout(NULL, x, w, true);
    struct stream plan = stream_dry(s);
    void *scratch;

    TRY(upscale_plain_features(f, &t, x, w, eps, &plan));
    TRY(upscale_plain_gradients(f, &t, dx, dw, dh, dy, x, w, h, n_h, &plan));
    STREAM_SCRATCH(s, scratch, t.bytes + plan.scratch_need);
    t = upscale_layout((char *)scratch, x, w, true);

    struct stream rest = stream_behind(s, t.bytes);

    TRY(upscale_plain_features(f, &t, x, w, eps, &rest));
    return upscale_plain_gradients(f, &t, dx, dw, dh, dy, x, w, h, n_h, &rest);
}

#endif

/* image_to_token as its first formula says it, by ops that a backend has: for backends whose speed
 * does not come from absorbing the projections. The intermediates stand at the front of scratch,
 * the scratch of the ops called behind them. */
#ifndef KERNELS_IMAGE_TO_TOKEN_PLAIN_H
#define KERNELS_IMAGE_TO_TOKEN_PLAIN_H

#include "kernels/base/arena.h"
#include "kernels/image_to_token_check.h"
#include "kernels/ops.h"

/* What stands in scratch; the gradients backward only. r is Wo o + bo,
 * then x is added to it; behind the norm it is the gradient of Wo o + bo. */
struct image_to_token_plain {
    struct tensor x_pe, q, o, lse, r, dr, d_o, dq;
    int64_t bytes;
};

/* A tensor behind what p has; without data while base is NULL. */
static inline struct tensor image_to_token_place(struct image_to_token_plain *p, char *base,
                                                 enum dtype dtype, int64_t m, int64_t t, int64_t c)
{
    const struct tensor at = tensor_3d(base ? base + p->bytes : NULL, dtype, m, t, c);

    p->bytes += (tensor_bytes(at) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return at;
}

static inline struct image_to_token_plain image_to_token_plain_at(
    char *base, const struct image_to_token_shape *g, enum dtype dtype, bool backward)
{
    struct image_to_token_plain p = { 0 };

    p.x_pe = image_to_token_place(&p, base, dtype, g->mx, g->n_x, g->c);
    p.q = image_to_token_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    p.o = image_to_token_place(&p, base, dtype, g->m, g->n_x, g->inner);
    p.lse = image_to_token_place(&p, base, F32, g->m, g->heads, g->n_x);
    p.r = image_to_token_place(&p, base, dtype, g->m, g->n_x, g->c);
    if (!backward) return p;
    p.dr = image_to_token_place(&p, base, dtype, g->m, g->n_x, g->c);
    p.d_o = image_to_token_place(&p, base, dtype, g->m, g->n_x, g->inner);
    p.dq = image_to_token_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    return p;
}

/* Up to the norm. */
static inline enum status image_to_token_plain_sum(
    const struct ops *be, const struct image_to_token_plain *p, struct tensor x, struct tensor pe,
    struct tensor k, struct tensor v, struct tensor n_tokens,
    const struct image_to_token_weights *w, int n_heads, struct tensor key, float dropout,
    int64_t salt, struct stream *s)
{
    TRY(be->add_fwd(p->x_pe, x, pe, s));
    TRY(be->linear_fwd(p->q, tensor_none(), p->x_pe, w->wq, w->bq, ACT_NONE, s));
    TRY(be->cross_attention_fwd(p->o, p->lse, p->q, k, v, n_tokens, n_heads, s));
    TRY(be->linear_fwd(p->r, tensor_none(), p->o, w->wo, w->bo, ACT_NONE, s));
    if (dropout > 0)
        TRY(be->residual_fwd(p->r, tensor_none(), p->r, tensor_none(), key, dropout, salt, s));
    return be->add_fwd(p->r, x, p->r, s);
}

/* Takes its share of scratch and leaves the rest to the ops in *rest; while planning, the op plans
 * with *rest, and image_to_token_plain_planned says what came of it. */
static inline struct image_to_token_plain image_to_token_plain_begin(
    const struct image_to_token_shape *g, enum dtype dtype, bool backward, struct stream *s,
    struct stream *rest)
{
    const struct image_to_token_plain p =
        image_to_token_plain_at(s->planning ? NULL : s->scratch, g, dtype, backward);

    *rest = *s;
    rest->scratch_need = 0;
    if (s->planning) return p;
    ASSERT(p.bytes <= s->scratch_bytes);
    rest->scratch = (char *)s->scratch + p.bytes;
    rest->scratch_bytes = s->scratch_bytes - p.bytes;
    return p;
}

static inline void image_to_token_plain_planned(const struct image_to_token_plain *p,
                                                struct stream *s, const struct stream *rest)
{
    const int64_t need = p->bytes + rest->scratch_need;

    if (s->planning && s->scratch_need < need) s->scratch_need = need;
}

static inline enum status image_to_token_plain_fwd(
    const struct ops *be, struct tensor y, struct tensor mean, struct tensor rstd, struct tensor x,
    struct tensor pe, struct tensor k, struct tensor v, struct tensor n_tokens,
    const struct image_to_token_weights *w, int n_heads, float eps, struct tensor key,
    float dropout, int64_t salt, struct stream *s)
{
    struct image_to_token_shape g;
    struct stream rest;

    TRY(image_to_token_fwd_check(&g, y, mean, rstd, x, pe, k, v, n_tokens, w, n_heads, key,
                                 dropout));
    const struct image_to_token_plain p = image_to_token_plain_begin(&g, x.dtype, false, s, &rest);

    mean = tensor_1d(mean.data, F32, g.m * g.n_x);
    rstd = tensor_1d(rstd.data, F32, g.m * g.n_x);
    TRY(image_to_token_plain_sum(be, &p, x, pe, k, v, n_tokens, w, n_heads, key, dropout, salt,
                                 &rest));
    TRY(be->layernorm_fwd(y, mean, rstd, p.r, w->gamma, w->beta, eps, ACT_NONE, &rest));
    image_to_token_plain_planned(&p, s, &rest);
    return OK;
}

/* dx takes dr first, and then, added, what comes through q. */
static inline enum status image_to_token_plain_bwd(
    const struct ops *be, struct tensor dx, struct tensor dk, struct tensor dv,
    const struct image_to_token_weights *dw, struct tensor dy, struct tensor x, struct tensor pe,
    struct tensor k, struct tensor v, struct tensor n_tokens,
    const struct image_to_token_weights *w, struct tensor mean, struct tensor rstd, int n_heads,
    struct tensor key, float dropout, int64_t salt, struct stream *s)
{
    const struct tensor none = tensor_none();
    struct image_to_token_shape g;
    struct tensor dx_more = dx;
    struct stream rest;

    TRY(image_to_token_bwd_check(&g, dx, dk, dv, dw, dy, x, pe, k, v, n_tokens, w, mean, rstd,
                                 n_heads, key, dropout));
    const struct image_to_token_plain p = image_to_token_plain_begin(&g, x.dtype, true, s, &rest);

    struct tensor dz = p.dr;

    dx_more.add = true;
    mean = tensor_1d(mean.data, F32, g.m * g.n_x);
    rstd = tensor_1d(rstd.data, F32, g.m * g.n_x);
    TRY(image_to_token_plain_sum(be, &p, x, pe, k, v, n_tokens, w, n_heads, key, dropout, salt,
                                 &rest));
    TRY(be->layernorm_bwd(p.dr, dw->gamma, dw->beta, dy, p.r, w->gamma, w->beta, mean, rstd,
                          ACT_NONE, &rest));
    TRY(be->add_bwd(dx, none, p.dr, &rest));
    if (dropout > 0) {
        TRY(be->residual_bwd(none, p.r, p.dr, none, key, dropout, salt, &rest));
        dz = p.r;
    }
    TRY(be->linear_bwd(p.d_o, dw->wo, dw->bo, dz, p.o, w->wo, none, none, ACT_NONE, &rest));
    TRY(be->cross_attention_bwd(p.dq, dk, dv, p.d_o, p.o, p.lse, p.q, k, v, n_tokens, n_heads,
                                &rest));
    TRY(be->linear_bwd(dx_more, dw->wq, dw->bq, p.dq, p.x_pe, w->wq, none, none, ACT_NONE, &rest));
    image_to_token_plain_planned(&p, s, &rest);
    return OK;
}

#endif

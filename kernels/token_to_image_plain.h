/* token_to_image as its first formula says it: keys and values in memory, by ops that a backend has.
 *
 * For backends whose speed does not come from absorbing the projections. The intermediates stand at
 * the front of scratch, behind them what the ops called ask for. z is no op's: the backend makes it
 * from k and lse, in room of its own. */
#ifndef KERNELS_TOKEN_TO_IMAGE_PLAIN_H
#define KERNELS_TOKEN_TO_IMAGE_PLAIN_H

#include "kernels/base/arena.h"
#include "kernels/ops.h"
#include "kernels/token_to_image_check.h"

/* What both directions make in scratch; dk and dv backward only. */
struct token_to_image_plain {
    struct tensor x_pe, k, v, dk, dv;
    int64_t bytes;
};

/* A tensor behind what p has; without data while base is NULL. */
static inline struct tensor token_to_image_place(struct token_to_image_plain *p, char *base,
                                                 enum dtype dtype, int64_t m, int64_t t, int64_t c)
{
    const struct tensor at = tensor_3d(base ? base + p->bytes : NULL, dtype, m, t, c);

    p->bytes += arena_round(tensor_bytes(at));
    return at;
}

static inline struct token_to_image_plain token_to_image_plain_at(
    char *base, const struct token_to_image_shape *g, enum dtype dtype, bool backward)
{
    struct token_to_image_plain p = { 0 };

    p.x_pe = token_to_image_place(&p, base, dtype, g->mx, g->n_x, g->c);
    p.k = token_to_image_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    p.v = token_to_image_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    if (!backward) return p;
    p.dk = token_to_image_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    p.dv = token_to_image_place(&p, base, dtype, g->mx, g->n_x, g->inner);
    return p;
}

static inline enum status token_to_image_plain_keys(const struct ops *be,
                                                    const struct token_to_image_plain *p,
                                                    struct tensor x, struct tensor pe,
                                                    const struct token_to_image_weights *w,
                                                    struct stream *s)
{
    TRY(be->add_fwd(p->x_pe, x, pe, s));
    TRY(be->linear_fwd(p->k, tensor_none(), p->x_pe, w->wk, w->bk, ACT_NONE, s));
    return be->linear_fwd(p->v, tensor_none(), x, w->wv, w->bv, ACT_NONE, s);
}

/* z[m,a,t] = Σi softmax_i(q·k/√D) x[m,i] */
typedef void token_to_image_features_fn(struct tensor z, const struct token_to_image_shape *g,
                                        struct tensor q, struct tensor k, struct tensor x,
                                        struct tensor lse, void *room);

static inline enum status token_to_image_plain_fwd(
    const struct ops *be, token_to_image_features_fn *features, int64_t room_bytes, struct tensor y,
    struct tensor lse, struct tensor z, struct tensor q, struct tensor x, struct tensor pe,
    const struct token_to_image_weights *w, int n_heads, struct stream *s)
{
    struct stream rest = stream_dry(s);
    struct token_to_image_shape g;
    char *scratch;

    TRY(token_to_image_fwd_check(&g, y, lse, z, q, x, pe, w, n_heads));
    struct token_to_image_plain p = token_to_image_plain_at(NULL, &g, y.dtype, false);

    TRY(token_to_image_plain_keys(be, &p, x, pe, w, &rest));
    TRY(be->cross_attention_fwd(y, lse, q, p.k, p.v, tensor_none(), n_heads, &rest));
    STREAM_SCRATCH(s, scratch,
                   p.bytes + (rest.scratch_need > room_bytes ? rest.scratch_need : room_bytes));
    rest = stream_behind(s, p.bytes);
    p = token_to_image_plain_at(scratch, &g, y.dtype, false);
    TRY(token_to_image_plain_keys(be, &p, x, pe, w, &rest));
    TRY(be->cross_attention_fwd(y, lse, q, p.k, p.v, tensor_none(), n_heads, &rest));
    features(z, &g, q, p.k, x, lse, rest.scratch);
    return OK;
}

/* The backward pass on intermediates in place; on a planning stream, without. */
static inline enum status token_to_image_plain_gradients(
    const struct ops *be, const struct token_to_image_plain *p, struct tensor dq, struct tensor dx,
    const struct token_to_image_weights *dw, struct tensor dy, struct tensor y, struct tensor lse,
    struct tensor q, struct tensor x, struct tensor pe, const struct token_to_image_weights *w,
    int n_heads, struct stream *s)
{
    const struct tensor none = tensor_none();
    struct tensor dx_more = dx;

    dx_more.add = true;
    TRY(token_to_image_plain_keys(be, p, x, pe, w, s));
    TRY(be->cross_attention_bwd(dq, p->dk, p->dv, dy, y, lse, q, p->k, p->v, none, n_heads, s));
    TRY(be->linear_bwd(dx, dw->wv, dw->bv, p->dv, x, w->wv, none, none, ACT_NONE, s));
    return be->linear_bwd(dx_more, dw->wk, none, p->dk, p->x_pe, w->wk, none, none, ACT_NONE, s);
}

static inline enum status token_to_image_plain_bwd(
    const struct ops *be, struct tensor dq, struct tensor dx,
    const struct token_to_image_weights *dw, struct tensor dy, struct tensor y, struct tensor lse,
    struct tensor z, struct tensor q, struct tensor x, struct tensor pe,
    const struct token_to_image_weights *w, int n_heads, struct stream *s)
{
    struct stream rest = stream_dry(s);
    struct token_to_image_shape g;
    char *scratch;

    TRY(token_to_image_bwd_check(&g, dq, dx, dw, dy, y, lse, z, q, x, pe, w, n_heads));
    struct token_to_image_plain p = token_to_image_plain_at(NULL, &g, y.dtype, true);

    TRY(token_to_image_plain_gradients(be, &p, dq, dx, dw, dy, y, lse, q, x, pe, w, n_heads,
                                       &rest));
    STREAM_SCRATCH(s, scratch, p.bytes + rest.scratch_need);
    rest = stream_behind(s, p.bytes);
    p = token_to_image_plain_at(scratch, &g, y.dtype, true);
    TRY(token_to_image_plain_gradients(be, &p, dq, dx, dw, dy, y, lse, q, x, pe, w, n_heads,
                                       &rest));
    if (dw->bk.data && !dw->bk.add) TRY(be->zero(dw->bk.data, tensor_bytes(dw->bk), s));
    return OK;
}

#endif

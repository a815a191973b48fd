#include "kernels/image_to_token_check.h"

static enum status weights_check(const char *op, const struct image_to_token_shape *g, enum dtype T,
                                 const struct image_to_token_weights *w)
{
    TRY(tensor_expect(op, "wq", w->wq, T, 2, (int64_t[]){ g->inner, g->c }));
    TRY(tensor_expect(op, "bq", w->bq, F32, 1, &g->inner));
    TRY(tensor_expect(op, "wo", w->wo, T, 2, (int64_t[]){ g->c, g->inner }));
    TRY(tensor_expect(op, "bo", w->bo, F32, 1, &g->c));
    TRY(tensor_expect(op, "gamma", w->gamma, F32, 1, &g->c));
    return tensor_expect(op, "beta", w->beta, F32, 1, &g->c);
}

/* y: the result, or its gradient */
static enum status check(const char *op, struct image_to_token_shape *shape, struct tensor y,
                         struct tensor mean, struct tensor rstd, struct tensor x, struct tensor pe,
                         struct tensor k, struct tensor v, struct tensor n_tokens,
                         const struct image_to_token_weights *w, int n_heads, struct tensor key,
                         float dropout)
{
    struct image_to_token_shape g = { 0 };
    const enum dtype T = x.dtype;
    char text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, "x", x));
    TENSOR_EXPECT(op, x, T, -1, -1, -1);
    TENSOR_EXPECT(op, k, T, -1, -1, -1);
    g.m = k.dim[0];
    g.n_tok = k.dim[1];
    g.inner = k.dim[2];
    g.heads = n_heads;
    g.mx = x.dim[0];
    g.n_x = x.dim[1];
    g.c = x.dim[2];
    if (g.m < 0 || g.n_tok < 1 || g.n_tok > DECODER_TOKENS_MAX || n_heads < 1 || g.inner < 1 ||
        g.inner % n_heads != 0)
        FAIL(E_SHAPE, "%s: k is %s; it must be of 1 to %d tokens, and of %d heads · D", op,
             tensor_text(k, text), DECODER_TOKENS_MAX, n_heads);
    if ((g.mx != g.m && g.mx != 1) || g.n_x < 1 || g.c < 1)
        FAIL(E_SHAPE, "%s: x is %s; it must be of %lld masks or 1, and not empty", op,
             tensor_text(x, text), (long long)g.m);
    g.d = g.inner / n_heads;
    TRY(tensor_expect(op, "y or dy", y, T, 3, (int64_t[]){ g.m, g.n_x, g.c }));
    TENSOR_EXPECT(op, mean, F32, g.m, g.n_x);
    TENSOR_EXPECT(op, rstd, F32, g.m, g.n_x);
    TENSOR_EXPECT(op, pe, T, g.n_x, g.c);
    TENSOR_EXPECT(op, v, T, g.m, g.n_tok, g.inner);
    TENSOR_EXPECT(op, n_tokens, I32, g.m);
    if (!tensor_is_none(key) || dropout != 0) TENSOR_EXPECT(op, key, I64, 2);
    if (!(dropout >= 0 && dropout < 1))
        FAIL(E_SHAPE, "%s: dropout probability %g is not in [0, 1)", op, (double)dropout);
    TRY(weights_check(op, &g, T, w));
    *shape = g;
    return OK;
}

enum status image_to_token_fwd_check(struct image_to_token_shape *shape, struct tensor y,
                                     struct tensor mean, struct tensor rstd, struct tensor x,
                                     struct tensor pe, struct tensor k, struct tensor v,
                                     struct tensor n_tokens, const struct image_to_token_weights *w,
                                     int n_heads, struct tensor key, float dropout)
{
    return check("image_to_token_fwd", shape, y, mean, rstd, x, pe, k, v, n_tokens, w, n_heads, key,
                 dropout);
}

static enum status gradient(const char *operand, struct tensor t, enum dtype dtype,
                            struct tensor like)
{
    if (tensor_is_none(t)) return OK;
    return tensor_expect("image_to_token_bwd", operand, t, dtype, like.n_dims, like.dim);
}

enum status image_to_token_bwd_check(struct image_to_token_shape *shape, struct tensor dx,
                                     struct tensor dk, struct tensor dv,
                                     const struct image_to_token_weights *dw, struct tensor dy,
                                     struct tensor x, struct tensor pe, struct tensor k,
                                     struct tensor v, struct tensor n_tokens,
                                     const struct image_to_token_weights *w, struct tensor mean,
                                     struct tensor rstd, int n_heads, struct tensor key,
                                     float dropout)
{
    struct image_to_token_shape g;

    TRY(check("image_to_token_bwd", &g, dy, mean, rstd, x, pe, k, v, n_tokens, w, n_heads, key,
              dropout));
    TRY(gradient("dx", dx, x.dtype, x));
    TRY(gradient("dk", dk, x.dtype, k));
    TRY(gradient("dv", dv, x.dtype, v));
    TRY(gradient("dwq", dw->wq, F32, w->wq));
    TRY(gradient("dbq", dw->bq, F32, w->bq));
    TRY(gradient("dwo", dw->wo, F32, w->wo));
    TRY(gradient("dbo", dw->bo, F32, w->bo));
    TRY(gradient("dgamma", dw->gamma, F32, w->gamma));
    TRY(gradient("dbeta", dw->beta, F32, w->beta));
    *shape = g;
    return OK;
}

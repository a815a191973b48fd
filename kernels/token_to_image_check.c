#include "kernels/token_to_image_check.h"

static enum status check(const char *op, struct token_to_image_shape *shape, struct tensor y,
                         struct tensor lse, struct tensor z, struct tensor q, struct tensor x,
                         struct tensor pe, const struct token_to_image_weights *w, int n_heads)
{
    struct token_to_image_shape g = { 0 };
    const enum dtype T = y.dtype;
    char text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, "y", y));
    TENSOR_EXPECT(op, y, T, -1, -1, -1);
    TENSOR_EXPECT(op, x, T, -1, -1, -1);
    g.m = y.dim[0];
    g.t = y.dim[1];
    g.inner = y.dim[2];
    g.heads = n_heads;
    g.mx = x.dim[0];
    g.n_x = x.dim[1];
    g.c = x.dim[2];
    if (g.m < 0 || g.t < 1 || g.t > DECODER_TOKENS_MAX || n_heads < 1 || g.inner < 1 ||
        g.inner % n_heads != 0)
        FAIL(E_SHAPE, "%s: y is %s; it must be of 1 to %d tokens, and of %d heads · D", op,
             tensor_text(y, text), DECODER_TOKENS_MAX, n_heads);
    if ((g.mx != g.m && g.mx != 1) || g.n_x < 1 || g.c < 1)
        FAIL(E_SHAPE, "%s: x is %s; it must be of %lld masks or 1, and not empty", op,
             tensor_text(x, text), (long long)g.m);
    g.d = g.inner / n_heads;
    TENSOR_EXPECT(op, q, T, g.m, g.t, g.inner);
    TENSOR_EXPECT(op, pe, T, g.n_x, g.c);
    TENSOR_EXPECT(op, lse, F32, g.m, g.heads, g.t);
    TENSOR_EXPECT(op, z, T, g.m, g.heads, g.t, g.c);
    TRY(tensor_expect(op, "wk", w->wk, T, 2, (int64_t[]){ g.inner, g.c }));
    TRY(tensor_expect(op, "wv", w->wv, T, 2, (int64_t[]){ g.inner, g.c }));
    TRY(tensor_expect(op, "bk", w->bk, F32, 1, &g.inner));
    TRY(tensor_expect(op, "bv", w->bv, F32, 1, &g.inner));
    *shape = g;
    return OK;
}

enum status token_to_image_fwd_check(struct token_to_image_shape *shape, struct tensor y,
                                     struct tensor lse, struct tensor z, struct tensor q,
                                     struct tensor x, struct tensor pe,
                                     const struct token_to_image_weights *w, int n_heads)
{
    return check("token_to_image_fwd", shape, y, lse, z, q, x, pe, w, n_heads);
}

static enum status gradient(const char *operand, struct tensor t, enum dtype dtype,
                            struct tensor like)
{
    if (tensor_is_none(t)) return OK;
    return tensor_expect("token_to_image_bwd", operand, t, dtype, like.n_dims, like.dim);
}

enum status token_to_image_bwd_check(struct token_to_image_shape *shape, struct tensor dq,
                                     struct tensor dx, const struct token_to_image_weights *dw,
                                     struct tensor dy, struct tensor y, struct tensor lse,
                                     struct tensor z, struct tensor q, struct tensor x,
                                     struct tensor pe, const struct token_to_image_weights *w,
                                     int n_heads)
{
    struct token_to_image_shape g;

    TRY(check("token_to_image_bwd", &g, y, lse, z, q, x, pe, w, n_heads));
    TRY(tensor_expect("token_to_image_bwd", "dy", dy, y.dtype, 3, y.dim));
    TRY(gradient("dq", dq, y.dtype, q));
    TRY(gradient("dx", dx, y.dtype, x));
    TRY(gradient("dwk", dw->wk, F32, w->wk));
    TRY(gradient("dbk", dw->bk, F32, w->bk));
    TRY(gradient("dwv", dw->wv, F32, w->wv));
    TRY(gradient("dbv", dw->bv, F32, w->bv));
    *shape = g;
    return OK;
}

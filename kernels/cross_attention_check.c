#include "kernels/cross_attention_check.h"

static enum status check(const char *op, struct cross_attention_shape *shape, struct tensor y,
                         struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                         struct tensor n_keys, int n_heads)
{
    struct cross_attention_shape g = { 0 };
    const enum dtype T = y.dtype;
    char text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, "y", y));
    TENSOR_EXPECT(op, y, T, -1, -1, -1);
    g.m = y.dim[0];
    g.tq = y.dim[1];
    g.heads = n_heads;
    if (g.m < 0 || g.tq < 0 || n_heads < 1 || y.dim[2] < 1 || y.dim[2] % n_heads != 0)
        FAIL(E_SHAPE, "%s: y is %s; its last dimension must be %d heads · D", op,
             tensor_text(y, text), n_heads);
    g.d = y.dim[2] / n_heads;
    TENSOR_EXPECT(op, q, T, -1, g.tq, y.dim[2]);
    TENSOR_EXPECT(op, k, T, -1, -1, y.dim[2]);
    g.mq = q.dim[0];
    g.mk = k.dim[0];
    g.tk = k.dim[1];
    TENSOR_EXPECT(op, v, T, g.mk, g.tk, y.dim[2]);
    TENSOR_EXPECT(op, lse, F32, g.m, g.heads, g.tq);
    if (!tensor_is_none(n_keys)) TENSOR_EXPECT(op, n_keys, I32, g.m);
    if (g.tk < 1) FAIL(E_SHAPE, "%s: k is %s: there is no key", op, tensor_text(k, text));
    if ((g.mq != g.m && g.mq != 1) || (g.mk != g.m && g.mk != 1))
        FAIL(E_SHAPE, "%s: q of %lld masks and k of %lld for y of %lld; each must be the same or 1",
             op, (long long)g.mq, (long long)g.mk, (long long)g.m);
    *shape = g;
    return OK;
}

enum status cross_attention_fwd_check(struct cross_attention_shape *shape, struct tensor y,
                                      struct tensor lse, struct tensor q, struct tensor k,
                                      struct tensor v, struct tensor n_keys, int n_heads)
{
    return check("cross_attention_fwd", shape, y, lse, q, k, v, n_keys, n_heads);
}

enum status cross_attention_bwd_check(struct cross_attention_shape *shape, struct tensor dq,
                                      struct tensor dk, struct tensor dv, struct tensor dy,
                                      struct tensor y, struct tensor lse, struct tensor q,
                                      struct tensor k, struct tensor v, struct tensor n_keys,
                                      int n_heads)
{
    const char *op = "cross_attention_bwd";
    struct cross_attention_shape g;

    TRY(check(op, &g, y, lse, q, k, v, n_keys, n_heads));
    TENSOR_EXPECT(op, dy, y.dtype, g.m, g.tq, g.heads * g.d);
    if (!tensor_is_none(dq)) TENSOR_EXPECT(op, dq, y.dtype, g.mq, g.tq, g.heads * g.d);
    if (!tensor_is_none(dk)) TENSOR_EXPECT(op, dk, y.dtype, g.mk, g.tk, g.heads * g.d);
    if (!tensor_is_none(dv)) TENSOR_EXPECT(op, dv, y.dtype, g.mk, g.tk, g.heads * g.d);
    *shape = g;
    return OK;
}

#include "kernels/attention_check.h"

static enum status check(const char *op, struct attention_shape *shape, struct tensor y,
                         struct tensor lse, struct tensor qkv, struct tensor qkv_bias,
                         struct tensor rel_h, struct tensor rel_w, int n_heads, int window)
{
    struct attention_shape g = { 0 };
    char text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, "qkv", qkv));
    TENSOR_EXPECT(op, qkv, qkv.dtype, -1, -1, -1, -1);
    g.n = qkv.dim[0];
    g.h = qkv.dim[1];
    g.w = qkv.dim[2];
    g.heads = n_heads;
    if (g.n < 0 || g.h < 1 || g.w < 1 || n_heads < 1 || window < 0)
        FAIL(E_SHAPE,
             "%s: qkv %s, %d heads, window %d: the grid and the heads must be at least 1, "
             "the window at least 0",
             op, tensor_text(qkv, text), n_heads, window);
    if (qkv.dim[3] < 1 || qkv.dim[3] % (3 * g.heads) != 0)
        FAIL(E_SHAPE, "%s: qkv is %s; its last dimension must be 3 · %d heads · D", op,
             tensor_text(qkv, text), n_heads);
    g.d = qkv.dim[3] / (3 * g.heads);
    g.kh = window > 0 ? window : g.h;
    g.kw = window > 0 ? window : g.w;
    g.t = g.kh * g.kw;
    g.n_down = (g.h + g.kh - 1) / g.kh;
    g.n_wide = (g.w + g.kw - 1) / g.kw;
    g.padded = g.n_down * g.kh != g.h || g.n_wide * g.kw != g.w;
    g.has_rel = !tensor_is_none(rel_h);

    TENSOR_EXPECT(op, y, qkv.dtype, g.n, g.h, g.w, g.heads * g.d);
    TENSOR_EXPECT(op, lse, F32, g.n, g.heads, g.h, g.w);
    if (!tensor_is_none(qkv_bias)) {
        TENSOR_EXPECT(op, qkv_bias, F32, 3 * g.heads * g.d);
    } else if (g.padded) {
        FAIL(E_SHAPE,
             "%s: windows of %d pad the grid of %lld × %lld, and a padding token is the "
             "qkv bias, but qkv_bias is none; give the bias (zeros where the model has none)",
             op, window, (long long)g.h, (long long)g.w);
    }
    if (tensor_is_none(rel_h) != tensor_is_none(rel_w))
        FAIL(E_SHAPE, "%s: %s is given without %s; give both or none", op,
             g.has_rel ? "rel_h" : "rel_w", g.has_rel ? "rel_w" : "rel_h");
    if (g.has_rel) {
        TENSOR_EXPECT(op, rel_h, F32, 2 * g.kh - 1, g.d);
        TENSOR_EXPECT(op, rel_w, F32, 2 * g.kw - 1, g.d);
    }
    *shape = g;
    return OK;
}

enum status attention_fwd_check(struct attention_shape *shape, struct tensor y, struct tensor lse,
                                struct tensor qkv, struct tensor qkv_bias, struct tensor rel_h,
                                struct tensor rel_w, int n_heads, int window)
{
    return check("attention_fwd", shape, y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window);
}

enum status attention_bwd_check(struct attention_shape *shape, struct tensor dqkv,
                                struct tensor dqkv_bias, struct tensor drel_h, struct tensor drel_w,
                                struct tensor dy, struct tensor y, struct tensor lse,
                                struct tensor qkv, struct tensor qkv_bias, struct tensor rel_h,
                                struct tensor rel_w, int n_heads, int window)
{
    const char *op = "attention_bwd";
    struct attention_shape g;

    TRY(check(op, &g, y, lse, qkv, qkv_bias, rel_h, rel_w, n_heads, window));
    TENSOR_EXPECT(op, dy, qkv.dtype, g.n, g.h, g.w, g.heads * g.d);
    if (!tensor_is_none(dqkv)) TENSOR_EXPECT(op, dqkv, qkv.dtype, g.n, g.h, g.w, 3 * g.heads * g.d);
    if (!tensor_is_none(dqkv_bias)) TENSOR_EXPECT(op, dqkv_bias, F32, 3 * g.heads * g.d);
    if (!tensor_is_none(drel_h)) TENSOR_EXPECT(op, drel_h, F32, 2 * g.kh - 1, g.d);
    if (!tensor_is_none(drel_w)) TENSOR_EXPECT(op, drel_w, F32, 2 * g.kw - 1, g.d);
    if (!g.has_rel && !(tensor_is_none(drel_h) && tensor_is_none(drel_w)))
        FAIL(E_SHAPE, "%s: drel_h or drel_w is given, but the tables are none", op);
    *shape = g;
    return OK;
}

#include "kernels/conv_check.h"

/* What the three convolutions share: the sizes of one side's grid, given the other's. */
struct sizes {
    int64_t n, rows, cols, n_in; /* of x */
    int64_t y_rows, y_cols, n_out;
    enum dtype T; /* of y, and of w */
};

static enum status same_as(const char *op, const char *operand, struct tensor t,
                           const struct sizes *z, bool none_allowed)
{
    if (none_allowed && tensor_is_none(t)) return OK;
    return tensor_expect(op, operand, t, z->T, 4,
                         (const int64_t[]){ z->n, z->y_rows, z->y_cols, z->n_out });
}

static enum status patch_sizes(const char *op, struct tensor x, struct tensor w, struct sizes *z)
{
    char x_text[TENSOR_TEXT], w_text[TENSOR_TEXT];
    const int64_t p = w.dim[2];

    TRY(tensor_expect_real(op, "w", w));
    TENSOR_EXPECT(op, w, w.dtype, -1, -1, -1, -1);
    TENSOR_EXPECT(op, x, x.dtype == F32 ? F32 : w.dtype, -1, -1, -1, w.dim[1]);
    if (p < 1 || w.dim[3] != p || x.dim[1] % p || x.dim[2] % p)
        FAIL(E_SHAPE, "%s: x is %s, not a whole number of patches of w %s", op,
             tensor_text(x, x_text), tensor_text(w, w_text));
    *z = (struct sizes){ x.dim[0],     x.dim[1],     x.dim[2], w.dim[1],
                         x.dim[1] / p, x.dim[2] / p, w.dim[0], w.dtype };
    return OK;
}

static enum status conv3x3_sizes(const char *op, struct tensor x, struct tensor w, struct sizes *z)
{
    TRY(tensor_expect_real(op, "w", w));
    TENSOR_EXPECT(op, w, w.dtype, -1, -1, 3, 3);
    TENSOR_EXPECT(op, x, w.dtype, -1, -1, -1, w.dim[1]);
    *z = (struct sizes){ x.dim[0], x.dim[1], x.dim[2], w.dim[1],
                         x.dim[1], x.dim[2], w.dim[0], w.dtype };
    return OK;
}

static enum status upconv_sizes(const char *op, struct tensor x, struct tensor w, struct sizes *z)
{
    TRY(tensor_expect_real(op, "w", w));
    TENSOR_EXPECT(op, w, w.dtype, -1, -1, 2, 2);
    TENSOR_EXPECT(op, x, w.dtype, -1, -1, -1, w.dim[0]);
    *z = (struct sizes){ x.dim[0],     x.dim[1],     x.dim[2], w.dim[0],
                         2 * x.dim[1], 2 * x.dim[2], w.dim[1], w.dtype };
    return OK;
}

static enum status fwd_check(const char *op, const struct sizes *z, struct tensor y,
                             struct tensor pre, struct tensor b, enum activation act)
{
    TRY(same_as(op, "y", y, z, false));
    TRY(same_as(op, "pre", pre, z, act != ACT_GELU));
    if (!tensor_is_none(b)) TENSOR_EXPECT(op, b, F32, z->n_out);
    return OK;
}

static enum status bwd_check(const char *op, const struct sizes *z, struct tensor dx,
                             struct tensor dw, struct tensor dy, struct tensor w, bool f32_dx)
{
    TRY(same_as(op, "dy", dy, z, false));
    if (!tensor_is_none(dx))
        TENSOR_EXPECT(op, dx, f32_dx && dx.dtype == F32 ? F32 : z->T, z->n, z->rows, z->cols,
                      z->n_in);
    if (!tensor_is_none(dw)) TENSOR_EXPECT(op, dw, F32, w.dim[0], w.dim[1], w.dim[2], w.dim[3]);
    return OK;
}

static enum status bwd_act_check(const char *op, const struct sizes *z, struct tensor db,
                                 struct tensor y, struct tensor pre, enum activation act)
{
    if (!tensor_is_none(db)) TENSOR_EXPECT(op, db, F32, z->n_out);
    TRY(same_as(op, "y", y, z, act != ACT_RELU));
    return same_as(op, "pre", pre, z, act != ACT_GELU);
}

enum status patch_conv_fwd_check(struct tensor y, struct tensor pre, struct tensor x,
                                 struct tensor w, struct tensor b, enum activation act)
{
    struct sizes z;

    TRY(patch_sizes("patch_conv_fwd", x, w, &z));
    return fwd_check("patch_conv_fwd", &z, y, pre, b, act);
}

enum status patch_conv_bwd_check(struct tensor dx, struct tensor dw, struct tensor db,
                                 struct tensor dy, struct tensor x, struct tensor w,
                                 struct tensor y, struct tensor pre, enum activation act)
{
    struct sizes z;

    TRY(patch_sizes("patch_conv_bwd", x, w, &z));
    TRY(bwd_check("patch_conv_bwd", &z, dx, dw, dy, w, true));
    return bwd_act_check("patch_conv_bwd", &z, db, y, pre, act);
}

enum status conv3x3_fwd_check(struct tensor y, struct tensor x, struct tensor w)
{
    struct sizes z;

    TRY(conv3x3_sizes("conv3x3_fwd", x, w, &z));
    return same_as("conv3x3_fwd", "y", y, &z, false);
}

enum status conv3x3_bwd_check(struct tensor dx, struct tensor dw, struct tensor dy, struct tensor x,
                              struct tensor w)
{
    struct sizes z;

    TRY(conv3x3_sizes("conv3x3_bwd", x, w, &z));
    return bwd_check("conv3x3_bwd", &z, dx, dw, dy, w, false);
}

enum status upconv_fwd_check(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act)
{
    struct sizes z;

    TRY(upconv_sizes("upconv_fwd", x, w, &z));
    return fwd_check("upconv_fwd", &z, y, pre, b, act);
}

enum status upconv_bwd_check(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act)
{
    struct sizes z;

    TRY(upconv_sizes("upconv_bwd", x, w, &z));
    TRY(bwd_check("upconv_bwd", &z, dx, dw, dy, w, false));
    return bwd_act_check("upconv_bwd", &z, db, y, pre, act);
}

#include "kernels/residual_layernorm_check.h"

/* What forward and backward share: sum, and what lies along its rows and columns. */
static enum status check(const char *op, struct tensor sum, struct tensor mean, struct tensor rstd,
                         struct tensor gamma, struct tensor scale)
{
    const int64_t rows = tensor_rows(sum), cols = tensor_cols(sum);

    TRY(tensor_expect_real(op, "sum", sum));
    TENSOR_EXPECT(op, gamma, F32, cols);
    TENSOR_EXPECT(op, mean, F32, rows);
    TENSOR_EXPECT(op, rstd, F32, rows);
    if (!tensor_is_none(scale)) TENSOR_EXPECT(op, scale, F32, 1);
    if (sum.n_dims < 1 || cols < 1)
        FAIL(E_SHAPE, "%s: sum of %lld channels; expected rows of at least one", op,
             (long long)cols);
    return OK;
}

static enum status like_sum(const char *op, const char *operand, struct tensor t, struct tensor sum,
                            bool none_allowed)
{
    if (none_allowed && tensor_is_none(t)) return OK;
    return tensor_expect(op, operand, t, sum.dtype, sum.n_dims, sum.dim);
}

/* b and y, or db and dy: as wide as sum, or narrower, and both the same. */
static enum status narrow_check(const char *op, const char *operand, struct tensor t,
                                struct tensor sum, enum dtype dtype)
{
    TRY(tensor_expect_real(op, operand, t));
    return tensor_expect(op, operand, t, sum.dtype == F32 ? dtype : sum.dtype, sum.n_dims, sum.dim);
}

enum status residual_layernorm_fwd_check(struct tensor sum, struct tensor y, struct tensor mean,
                                         struct tensor rstd, struct tensor x, struct tensor b,
                                         struct tensor scale, struct tensor gamma,
                                         struct tensor beta)
{
    static const char op[] = "residual_layernorm_fwd";

    TRY(check(op, sum, mean, rstd, gamma, scale));
    TENSOR_EXPECT(op, beta, F32, tensor_cols(sum));
    TRY(narrow_check(op, "y", y, sum, y.dtype));
    TRY(like_sum(op, "x", x, sum, false));
    return narrow_check(op, "b", b, sum, y.dtype);
}

enum status residual_layernorm_bwd_check(struct tensor dx, struct tensor db, struct tensor dgamma,
                                         struct tensor dbeta, struct tensor dsum, struct tensor dy,
                                         struct tensor sum, struct tensor gamma, struct tensor mean,
                                         struct tensor rstd, struct tensor scale)
{
    static const char op[] = "residual_layernorm_bwd";

    TRY(check(op, sum, mean, rstd, gamma, scale));
    TRY(like_sum(op, "dx", dx, sum, true));
    TRY(like_sum(op, "dsum", dsum, sum, true));
    TRY(narrow_check(op, "dy", dy, sum, dy.dtype));
    if (!tensor_is_none(db)) TRY(narrow_check(op, "db", db, sum, dy.dtype));
    if (!tensor_is_none(dgamma)) TENSOR_EXPECT(op, dgamma, F32, tensor_cols(sum));
    if (!tensor_is_none(dbeta)) TENSOR_EXPECT(op, dbeta, F32, tensor_cols(sum));
    return OK;
}

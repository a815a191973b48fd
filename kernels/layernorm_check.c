#include "kernels/layernorm_check.h"

#include "kernels/linear_check.h"

/* y, or dy: as wide as x, or narrower. */
static enum status result_check(const char *op, const char *operand, struct tensor y,
                                struct tensor x)
{
    TRY(tensor_expect_real(op, operand, y));
    return linear_rows_check(op, operand, y, x.dtype == F32 ? y.dtype : x.dtype, tensor_rows(x),
                             tensor_cols(x), false);
}

static enum status inputs_check(const char *op, struct tensor mean, struct tensor rstd,
                                struct tensor x, struct tensor gamma, struct tensor beta,
                                enum activation act)
{
    const int64_t rows = tensor_rows(x), cols = tensor_cols(x);

    TRY(tensor_expect_real(op, "x", x));
    TRY(linear_rows_check(op, "x", x, x.dtype, rows, cols, false));
    TENSOR_EXPECT(op, gamma, F32, cols);
    TENSOR_EXPECT(op, beta, F32, cols);
    TENSOR_EXPECT(op, mean, F32, rows);
    TENSOR_EXPECT(op, rstd, F32, rows);
    if (cols < 1 || (act != ACT_NONE && act != ACT_GELU))
        FAIL(E_SHAPE, "%s: %lld channels, activation %d; expected at least one, and none or GELU",
             op, (long long)cols, (int)act);
    return OK;
}

enum status layernorm_fwd_check(struct tensor y, struct tensor mean, struct tensor rstd,
                                struct tensor x, struct tensor gamma, struct tensor beta,
                                enum activation act)
{
    TRY(inputs_check("layernorm_fwd", mean, rstd, x, gamma, beta, act));
    return result_check("layernorm_fwd", "y", y, x);
}

enum status layernorm_bwd_check(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                                struct tensor dy, struct tensor x, struct tensor gamma,
                                struct tensor beta, struct tensor mean, struct tensor rstd,
                                enum activation act)
{
    static const char op[] = "layernorm_bwd";
    const int64_t rows = tensor_rows(x), cols = tensor_cols(x);

    TRY(inputs_check(op, mean, rstd, x, gamma, beta, act));
    TRY(result_check(op, "dy", dy, x));
    TRY(linear_rows_check(op, "dx", dx, x.dtype, rows, cols, true));
    if (!tensor_is_none(dgamma)) TENSOR_EXPECT(op, dgamma, F32, cols);
    if (!tensor_is_none(dbeta)) TENSOR_EXPECT(op, dbeta, F32, cols);
    return OK;
}

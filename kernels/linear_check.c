#include "kernels/linear_check.h"

enum status linear_rows_check(const char *op, const char *operand, struct tensor t,
                              enum dtype dtype, int64_t rows, int64_t cols, bool none_allowed)
{
    char got[TENSOR_TEXT];

    if (none_allowed && tensor_is_none(t)) return OK;
    if (t.dtype != dtype || t.n_dims < 1 || tensor_rows(t) != rows || tensor_cols(t) != cols)
        FAIL(E_SHAPE, "%s: %s is %s, expected %lld rows of %lld %s", op, operand,
             tensor_text(t, got), (long long)rows, (long long)cols, dtype_name(dtype));
    return OK;
}

enum status linear_fwd_check(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act)
{
    static const char op[] = "linear_fwd";
    const int64_t rows = tensor_rows(x), n_in = tensor_cols(x), n_out = tensor_cols(y);
    const enum dtype T = x.dtype;

    TRY(tensor_expect_real(op, "x", x));
    TRY(linear_rows_check(op, "x", x, T, rows, n_in, false));
    TRY(linear_rows_check(op, "y", y, T, rows, n_out, false));
    TENSOR_EXPECT(op, w, T, n_out, n_in);
    if (!tensor_is_none(b)) TENSOR_EXPECT(op, b, F32, n_out);
    return linear_rows_check(op, "pre", pre, T, rows, n_out, act != ACT_GELU);
}

enum status linear_bwd_check(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act)
{
    static const char op[] = "linear_bwd";
    const int64_t rows = tensor_rows(x), n_in = tensor_cols(x), n_out = tensor_cols(dy);
    const enum dtype T = x.dtype;

    TRY(tensor_expect_real(op, "x", x));
    TRY(linear_rows_check(op, "x", x, T, rows, n_in, false));
    TRY(linear_rows_check(op, "dy", dy, T, rows, n_out, false));
    TRY(linear_rows_check(op, "dx", dx, T, rows, n_in, true));
    TENSOR_EXPECT(op, w, T, n_out, n_in);
    if (!tensor_is_none(dw)) TENSOR_EXPECT(op, dw, F32, n_out, n_in);
    if (!tensor_is_none(db)) TENSOR_EXPECT(op, db, F32, n_out);
    TRY(linear_rows_check(op, "y", y, T, rows, n_out, act != ACT_RELU));
    return linear_rows_check(op, "pre", pre, T, rows, n_out, act != ACT_GELU);
}

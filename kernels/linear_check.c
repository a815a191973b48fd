#include "kernels/linear_check.h"

enum status linear_rows_check(const char *op, const char *operand, struct tensor t, int64_t rows,
                              int64_t cols, bool none_allowed)
{
    char got[TENSOR_TEXT];

    if (none_allowed && tensor_is_none(t)) return OK;
    if (t.dtype != F32 || t.n_dims < 1 || tensor_rows(t) != rows || tensor_cols(t) != cols)
        FAIL(E_SHAPE, "%s: %s is %s, expected %lld rows of %lld F32", op, operand,
             tensor_text(t, got), (long long)rows, (long long)cols);
    return OK;
}

static enum status weights_check(const char *op, struct tensor w, struct tensor b, int64_t n_in,
                                 int64_t n_out)
{
    TENSOR_EXPECT(op, w, F32, n_out, n_in);
    if (!tensor_is_none(b)) TENSOR_EXPECT(op, b, F32, n_out);
    return OK;
}

enum status linear_fwd_check(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act)
{
    static const char op[] = "linear_fwd";
    const int64_t rows = tensor_rows(x), n_in = tensor_cols(x), n_out = tensor_cols(y);

    TRY(linear_rows_check(op, "x", x, rows, n_in, false));
    TRY(linear_rows_check(op, "y", y, rows, n_out, false));
    TRY(weights_check(op, w, b, n_in, n_out));
    return linear_rows_check(op, "pre", pre, rows, n_out, act != ACT_GELU);
}

enum status linear_bwd_check(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act)
{
    static const char op[] = "linear_bwd";
    const int64_t rows = tensor_rows(x), n_in = tensor_cols(x), n_out = tensor_cols(dy);

    TRY(linear_rows_check(op, "x", x, rows, n_in, false));
    TRY(linear_rows_check(op, "dy", dy, rows, n_out, false));
    TRY(linear_rows_check(op, "dx", dx, rows, n_in, true));
    TENSOR_EXPECT(op, w, F32, n_out, n_in);
    if (!tensor_is_none(dw)) TENSOR_EXPECT(op, dw, F32, n_out, n_in);
    if (!tensor_is_none(db)) TENSOR_EXPECT(op, db, F32, n_out);
    TRY(linear_rows_check(op, "y", y, rows, n_out, act != ACT_RELU));
    return linear_rows_check(op, "pre", pre, rows, n_out, act != ACT_GELU);
}

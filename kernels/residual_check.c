#include "kernels/residual_check.h"

static enum status same_as(const char *op, const char *operand, struct tensor t, struct tensor y)
{
    TRY(tensor_expect_real(op, operand, t));
    return tensor_expect(op, operand, t, y.dtype, y.n_dims, y.dim);
}

/* A branch is as wide as the sum, or narrower. */
static enum status branch_check(const char *op, const char *operand, struct tensor t,
                                struct tensor y)
{
    TRY(tensor_expect_real(op, operand, t));
    return tensor_expect(op, operand, t, y.dtype == F32 ? t.dtype : y.dtype, y.n_dims, y.dim);
}

static enum status attributes_check(const char *op, struct tensor scale, struct tensor key, float p)
{
    if (!tensor_is_none(scale)) TENSOR_EXPECT(op, scale, F32, 1);
    if (!tensor_is_none(key) || p != 0) TENSOR_EXPECT(op, key, I64, 2);
    if (!(p >= 0 && p < 1))
        FAIL(E_SHAPE, "%s: dropout probability %g is not in [0, 1)", op, (double)p);
    return OK;
}

enum status residual_fwd_check(struct tensor y, struct tensor x, struct tensor b,
                               struct tensor scale, struct tensor key, float p)
{
    static const char op[] = "residual_fwd";

    TRY(same_as(op, "y", y, y));
    if (!tensor_is_none(x)) TRY(same_as(op, "x", x, y));
    TRY(branch_check(op, "b", b, y));
    return attributes_check(op, scale, key, p);
}

enum status residual_bwd_check(struct tensor dx, struct tensor db, struct tensor dy,
                               struct tensor scale, struct tensor key, float p)
{
    static const char op[] = "residual_bwd";

    TRY(same_as(op, "dy", dy, dy));
    if (!tensor_is_none(dx)) TRY(same_as(op, "dx", dx, dy));
    if (!tensor_is_none(db)) TRY(branch_check(op, "db", db, dy));
    return attributes_check(op, scale, key, p);
}

bool add_is_shared(struct tensor t, struct tensor y)
{
    return !tensor_same_shape(t, y);
}

static enum status operand_check(const char *op, const char *operand, struct tensor t,
                                 struct tensor y)
{
    int64_t one[TENSOR_DIMS];

    TRY(tensor_expect_real(op, operand, t));
    if (t.n_dims + 1 == y.n_dims)
        return tensor_expect(op, operand, t, t.dtype, t.n_dims, y.dim + 1);
    for (int i = 0; i < y.n_dims; i++) one[i] = y.dim[i];
    if (y.n_dims > 0 && t.n_dims == y.n_dims && t.dim[0] == 1) one[0] = 1;
    return tensor_expect(op, operand, t, t.dtype, y.n_dims, one);
}

enum status add_fwd_check(struct tensor y, struct tensor a, struct tensor b)
{
    TRY(same_as("add_fwd", "y", y, y));
    TRY(operand_check("add_fwd", "a", a, y));
    return operand_check("add_fwd", "b", b, y);
}

enum status add_bwd_check(struct tensor da, struct tensor db, struct tensor dy)
{
    TRY(same_as("add_bwd", "dy", dy, dy));
    if (!tensor_is_none(da)) TRY(operand_check("add_bwd", "da", da, dy));
    if (!tensor_is_none(db)) TRY(operand_check("add_bwd", "db", db, dy));
    return OK;
}

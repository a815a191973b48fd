#include "kernels/slice_check.h"

static enum status part_check(const char *op, const char *operand, struct tensor part,
                              struct tensor whole, int64_t first)
{
    char text[TENSOR_TEXT];

    TRY(tensor_expect_real(op, operand, part));
    TRY(tensor_expect(op, operand, part, part.dtype, 3,
                      (const int64_t[]){ whole.dim[0], -1, whole.dim[2] }));
    if (first < 0 || part.dim[1] > whole.dim[1] || first > whole.dim[1] - part.dim[1])
        FAIL(E_SHAPE, "%s: tokens from %lld of %s do not lie within %lld", op, (long long)first,
             tensor_text(part, text), (long long)whole.dim[1]);
    return OK;
}

enum status slice_fwd_check(struct tensor y, struct tensor x, int64_t first)
{
    TRY(tensor_expect_real("slice_fwd", "x", x));
    TENSOR_EXPECT("slice_fwd", x, x.dtype, -1, -1, -1);
    return part_check("slice_fwd", "y", y, x, first);
}

enum status slice_bwd_check(struct tensor dx, struct tensor dy, int64_t first)
{
    if (tensor_is_none(dx)) return OK;
    TRY(tensor_expect_real("slice_bwd", "dx", dx));
    TENSOR_EXPECT("slice_bwd", dx, dx.dtype, -1, -1, -1);
    return part_check("slice_bwd", "dy", dy, dx, first);
}

#include "kernels/resize_check.h"

static enum status check(const char *op, struct tensor x, struct tensor y, int64_t crop_h,
                         int64_t crop_w)
{
    TENSOR_EXPECT(op, x, F32, -1, -1, -1);
    TENSOR_EXPECT(op, y, F32, x.dim[0], -1, -1);
    if (crop_h < 1 || crop_h > x.dim[1] || crop_w < 1 || crop_w > x.dim[2])
        FAIL(E_SHAPE, "%s: a crop of %lld×%lld from %lld×%lld", op, (long long)crop_h,
             (long long)crop_w, (long long)x.dim[1], (long long)x.dim[2]);
    if (y.dim[1] < 1 || y.dim[2] < 1)
        FAIL(E_SHAPE, "%s: to %lld×%lld; at least 1×1", op, (long long)y.dim[1],
             (long long)y.dim[2]);
    return OK;
}

enum status resize_fwd_check(struct tensor y, struct tensor x, int64_t crop_h, int64_t crop_w)
{
    return check("resize_fwd", x, y, crop_h, crop_w);
}

enum status resize_bwd_check(struct tensor dx, struct tensor dy, int64_t crop_h, int64_t crop_w)
{
    return check("resize_bwd", dx, dy, crop_h, crop_w);
}

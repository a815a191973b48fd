#include "kernels/image_check.h"

enum status image_normalize_check(struct tensor y, struct tensor x, struct tensor size)
{
    static const char op[] = "image_normalize";

    TENSOR_EXPECT(op, y, F32, -1, y.dim[2], -1, 3);
    TENSOR_EXPECT(op, x, x.dtype == U8 ? U8 : F32, y.dim[0], y.dim[1], y.dim[2], 3);
    TENSOR_EXPECT(op, size, I32, y.dim[0], 2);
    return OK;
}

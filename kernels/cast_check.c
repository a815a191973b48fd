#include "kernels/cast_check.h"

enum status cast_check(struct tensor y, struct tensor x)
{
    char y_text[TENSOR_TEXT], x_text[TENSOR_TEXT];

    TRY(tensor_expect_real("cast", "y", y));
    TRY(tensor_expect_real("cast", "x", x));
    if (tensor_count(y) != tensor_count(x))
        FAIL(E_SHAPE, "cast: y is %s, but x is %s", tensor_text(y, y_text), tensor_text(x, x_text));
    return OK;
}

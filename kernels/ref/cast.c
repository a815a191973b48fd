#include "kernels/base/bf16.h"
#include "kernels/cast_check.h"

enum status cast_ref(struct tensor y, struct tensor x, struct stream *s)
{
    TRY(cast_check(y, x));
    STREAM_NO_SCRATCH(s);

    for (int64_t i = 0; i < tensor_count(x); i++) {
        const float v =
            x.dtype == F32 ? ((float *)x.data)[i] : bf16_to_float(((uint16_t *)x.data)[i]);

        if (y.dtype == F32)
            ((float *)y.data)[i] = v;
        else
            ((uint16_t *)y.data)[i] = bf16_from_float(v);
    }
    return OK;
}

#include "kernels/ref/activation.h"
#include "kernels/slice_check.h"

enum status slice_fwd_ref(struct tensor y, struct tensor x, int64_t first, struct stream *s)
{
    TRY(slice_fwd_check(y, x, first));
    STREAM_NO_SCRATCH(s);

    const int64_t n_c = x.dim[2];
    const float *x_data = x.data;
    float *y_data = y.data;

    for (int64_t m = 0; m < y.dim[0]; m++)
        for (int64_t t = 0; t < y.dim[1]; t++)
            for (int64_t c = 0; c < n_c; c++)
                y_data[(m * y.dim[1] + t) * n_c + c] = x_data[(m * x.dim[1] + first + t) * n_c + c];
    return OK;
}

enum status slice_bwd_ref(struct tensor dx, struct tensor dy, int64_t first, struct stream *s)
{
    TRY(slice_bwd_check(dx, dy, first));
    STREAM_NO_SCRATCH(s);
    if (!dx.data) return OK;

    const int64_t n_c = dx.dim[2], n_tokens = dy.dim[1];
    const float *dy_data = dy.data;

    for (int64_t m = 0; m < dx.dim[0]; m++)
        for (int64_t t = 0; t < dx.dim[1]; t++)
            for (int64_t c = 0; c < n_c; c++) {
                const bool inside = t >= first && t < first + n_tokens;

                gradient_put(dx, (m * dx.dim[1] + t) * n_c + c,
                             inside ? dy_data[(m * n_tokens + t - first) * n_c + c] : 0);
            }
    return OK;
}

#include "kernels/image_check.h"

enum status image_normalize_ref(struct tensor y, struct tensor x, struct tensor size,
                                struct stream *s)
{
    static const float mean[3] = IMAGE_MEAN, std[3] = IMAGE_STD;

    TRY(image_normalize_check(y, x, size));
    STREAM_NO_SCRATCH(s);

    const int64_t side = y.dim[1];
    const int32_t *inside = size.data;
    float *y_data = y.data;

    for (int64_t n = 0; n < y.dim[0]; n++)
        for (int64_t i = 0; i < side; i++)
            for (int64_t j = 0; j < side; j++)
                for (int64_t c = 0; c < 3; c++) {
                    const int64_t at = ((n * side + i) * side + j) * 3 + c;
                    const double level =
                        x.dtype == U8 ? ((const uint8_t *)x.data)[at] : ((const float *)x.data)[at];
                    const bool in = i < inside[2 * n] && j < inside[2 * n + 1];

                    y_data[at] = (float)(in ? (level - mean[c]) / std[c] : 0);
                }
    return OK;
}

#include "kernels/mask_product_check.h"
#include "kernels/ref/activation.h"

enum status mask_product_fwd_ref(struct tensor y, const struct tensor *h, int n_h, struct tensor u,
                                 struct stream *s)
{
    TRY(mask_product_fwd_check(y, h, n_h, u));
    STREAM_NO_SCRATCH(s);

    const int64_t n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const float *u_data = u.data;
    float *y_data = y.data;

    for (int64_t m = 0; m < u.dim[0]; m++)
        for (int k = 0; k < n_h; k++)
            for (int64_t p = 0; p < n_pixels; p++) {
                const float *h_row = (const float *)h[k].data + m * n_c;
                double sum = 0;

                for (int64_t c = 0; c < n_c; c++)
                    sum += (double)h_row[c] * u_data[(m * n_pixels + p) * n_c + c];
                y_data[(m * n_h + k) * n_pixels + p] = (float)sum;
            }
    return OK;
}

enum status mask_product_bwd_ref(const struct tensor *dh, struct tensor du, struct tensor dy,
                                 const struct tensor *h, int n_h, struct tensor u, struct stream *s)
{
    TRY(mask_product_bwd_check(dh, du, dy, h, n_h, u));
    STREAM_NO_SCRATCH(s);

    const int64_t n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const float *u_data = u.data, *dy_data = dy.data;

    for (int64_t m = 0; m < u.dim[0]; m++) {
        for (int k = 0; k < n_h; k++)
            for (int64_t c = 0; dh[k].data && c < n_c; c++) {
                double sum = 0;

                for (int64_t p = 0; p < n_pixels; p++)
                    sum += (double)dy_data[(m * n_h + k) * n_pixels + p] *
                           u_data[(m * n_pixels + p) * n_c + c];
                gradient_put(dh[k], m * n_c + c, sum);
            }
        for (int64_t p = 0; du.data && p < n_pixels; p++)
            for (int64_t c = 0; c < n_c; c++) {
                double sum = 0;

                for (int k = 0; k < n_h; k++)
                    sum += (double)dy_data[(m * n_h + k) * n_pixels + p] *
                           ((const float *)h[k].data)[m * n_c + c];
                gradient_put(du, (m * n_pixels + p) * n_c + c, sum);
            }
    }
    return OK;
}

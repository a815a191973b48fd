#include "kernels/resize.h"

#include <string.h>

#include "kernels/bilinear.h"
#include "kernels/resize_check.h"

enum status resize_fwd_ref(struct tensor y, struct tensor x, int64_t crop_h, int64_t crop_w,
                           struct stream *s)
{
    TRY(resize_fwd_check(y, x, crop_h, crop_w));
    STREAM_NO_SCRATCH(s);

    const int64_t M = x.dim[0], h = x.dim[1], w = x.dim[2], H = y.dim[1], W = y.dim[2];

    for (int64_t m = 0; m < M; m++) {
        const float *xm = (const float *)x.data + m * h * w;
        float *ym = (float *)y.data + m * H * W;

        for (int64_t i = 0; i < H; i++) {
            const struct bilinear_tap r = bilinear_place(i, crop_h, H);

            for (int64_t j = 0; j < W; j++) {
                const struct bilinear_tap c = bilinear_place(j, crop_w, W);
                const double top =
                    (1.0 - c.w) * xm[r.lo * w + c.lo] + c.w * (double)xm[r.lo * w + c.hi];
                const double bottom =
                    (1.0 - c.w) * xm[r.hi * w + c.lo] + c.w * (double)xm[r.hi * w + c.hi];

                ym[i * W + j] = (float)((1.0 - r.w) * top + r.w * bottom);
            }
        }
    }
    return OK;
}

enum status resize_bwd_ref(struct tensor dx, struct tensor dy, int64_t crop_h, int64_t crop_w,
                           struct stream *s)
{
    double *sum;

    TRY(resize_bwd_check(dx, dy, crop_h, crop_w));
    STREAM_SCRATCH(s, sum, crop_h * crop_w * (int64_t)sizeof(double));
    if (!dx.data) return OK;

    const int64_t M = dx.dim[0], h = dx.dim[1], w = dx.dim[2], H = dy.dim[1], W = dy.dim[2];

    for (int64_t m = 0; m < M; m++) {
        const float *dym = (const float *)dy.data + m * H * W;
        float *dxm = (float *)dx.data + m * h * w;

        memset(sum, 0, (size_t)(crop_h * crop_w) * sizeof *sum);
        for (int64_t i = 0; i < H; i++) {
            const struct bilinear_tap r = bilinear_place(i, crop_h, H);

            for (int64_t j = 0; j < W; j++) {
                const struct bilinear_tap c = bilinear_place(j, crop_w, W);
                const double d = dym[i * W + j];

                sum[r.lo * crop_w + c.lo] += (1.0 - r.w) * (1.0 - c.w) * d;
                sum[r.lo * crop_w + c.hi] += (1.0 - r.w) * c.w * d;
                sum[r.hi * crop_w + c.lo] += r.w * (1.0 - c.w) * d;
                sum[r.hi * crop_w + c.hi] += (double)r.w * c.w * d;
            }
        }
        for (int64_t i = 0; i < h; i++) {
            for (int64_t j = 0; j < w; j++) {
                const double d = i < crop_h && j < crop_w ? sum[i * crop_w + j] : 0;

                dxm[i * w + j] = (float)(d + (dx.add ? dxm[i * w + j] : 0.0));
            }
        }
    }
    return OK;
}

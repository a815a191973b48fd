#include "kernels/mask_loss.h"

#include <math.h>
#include <string.h>

#include "kernels/bilinear.h"
#include "kernels/mask_loss_check.h"

/* One mask: its logits, its ground truth and the part of it that counts. */
struct plane {
    const float *x;
    const uint8_t *gt;
    int64_t h, R, rows, cols;
};

struct sums {
    double focal, p, t, pt;
    int64_t both, either;
};

/* z = the logit, upsampled. */
static double logit(const struct plane *a, struct bilinear_tap r, struct bilinear_tap c)
{
    const float *top = a->x + r.lo * a->h, *bottom = a->x + r.hi * a->h;

    return (1.0 - r.w) * ((1.0 - c.w) * top[c.lo] + c.w * (double)top[c.hi]) +
           r.w * ((1.0 - c.w) * bottom[c.lo] + c.w * (double)bottom[c.hi]);
}

static double log_sigmoid(double z)
{
    return fmin(z, 0) - log1p(exp(-fabs(z)));
}

static struct plane plane_of(struct tensor logits, struct tensor gt, struct tensor valid,
                             bool valid_only, int64_t m, int64_t k)
{
    const int64_t K = logits.dim[1], h = logits.dim[2], R = gt.dim[1];
    struct plane a = { .x = (const float *)logits.data + (m * K + k) * h * h,
                       .gt = (const uint8_t *)gt.data + m * R * R,
                       .h = h,
                       .R = R,
                       .rows = R,
                       .cols = R };

    if (valid_only) {
        a.rows = ((const int32_t *)valid.data)[2 * m];
        a.cols = ((const int32_t *)valid.data)[2 * m + 1];
        ASSERT(a.rows >= 0 && a.rows <= R && a.cols >= 0 && a.cols <= R);
    }
    return a;
}

static double area_of(const struct plane *a)
{
    return a->rows * a->cols > 0 ? (double)(a->rows * a->cols) : 1;
}

static struct sums sums_of(const struct plane *a, const struct mask_loss_options *o)
{
    struct sums s = { 0 };

    for (int64_t i = 0; i < a->rows; i++) {
        const struct bilinear_tap r = bilinear_place(i, a->h, a->R);

        for (int64_t j = 0; j < a->cols; j++) {
            const double z = logit(a, r, bilinear_place(j, a->h, a->R)), p = exp(log_sigmoid(z));
            const bool t = a->gt[i * a->R + j] != 0;
            const double u = t ? z : -z, alpha = t ? o->alpha : 1.0 - o->alpha;

            s.focal += alpha * exp(o->gamma * log_sigmoid(-u)) * -log_sigmoid(u);
            s.p += p;
            s.t += t;
            s.pt += t ? p : 0;
            s.both += z > 0 && t;
            s.either += z > 0 || t;
        }
    }
    return s;
}

enum status mask_loss_fwd_ref(struct tensor value, struct tensor selected, struct tensor logits,
                              struct tensor gt, struct tensor iou_pred, struct tensor valid,
                              const struct mask_loss_options *o, struct stream *s)
{
    TRY(mask_loss_fwd_check(value, selected, logits, gt, iou_pred, valid, o));
    STREAM_NO_SCRATCH(s);

    const int64_t M = logits.dim[0], K = logits.dim[1];

    for (int64_t m = 0; m < M; m++) {
        const struct candidates c = candidates_of(o->candidates.data, m, K);
        double least = 0;
        int32_t best = (int32_t)c.begin;

        for (int64_t k = 0; k < K; k++) {
            const struct plane a = plane_of(logits, gt, valid, o->valid_only, m, k);
            const struct sums q = sums_of(&a, o);
            float *v = (float *)value.data + (m * K + k) * MASK_LOSS_VALUES;
            const double iou = (double)q.both / (double)(q.either > 1 ? q.either : 1);
            const double miss = ((const float *)iou_pred.data)[m * K + k] - iou;
            double cost;

            v[MASK_LOSS_FOCAL] = (float)(q.focal / area_of(&a));
            v[MASK_LOSS_DICE] = (float)(1 - (2 * q.pt + 1) / (q.p + q.t + 1));
            v[MASK_LOSS_ERR] = (float)(o->iou_l1 ? fabs(miss) : miss * miss);
            v[MASK_LOSS_IOU] = (float)iou;
            cost = (double)o->w_focal * v[MASK_LOSS_FOCAL] + (double)o->w_dice * v[MASK_LOSS_DICE];
            if (k == c.begin || (k > c.begin && k < c.end && cost < least)) {
                least = cost;
                best = (int32_t)k;
            }
        }
        ((int32_t *)selected.data)[m] = best;
    }
    return OK;
}

/* dx = the gradient of scale · (w_focal·focal + w_dice·dice) for the logits of one mask. */
static void gradient(double *dx, const struct plane *a, double scale,
                     const struct mask_loss_options *o)
{
    const struct sums q = sums_of(a, o);
    const double focal_scale = scale * o->w_focal / area_of(a), dice_scale = scale * o->w_dice;
    const double whole = q.p + q.t + 1, part = 2 * q.pt + 1;

    for (int64_t i = 0; i < a->rows; i++) {
        const struct bilinear_tap r = bilinear_place(i, a->h, a->R);

        for (int64_t j = 0; j < a->cols; j++) {
            const struct bilinear_tap c = bilinear_place(j, a->h, a->R);
            const double z = logit(a, r, c);
            const bool t = a->gt[i * a->R + j] != 0;
            const double u = t ? z : -z, alpha = t ? o->alpha : 1.0 - o->alpha;
            const double log_q = log_sigmoid(u), log_not = log_sigmoid(-u), pt = exp(log_q);
            /* for the logit of the right answer u; its sign is that of t */
            const double focal =
                alpha * exp(o->gamma * log_not) * (o->gamma * pt * log_q - exp(log_not));
            const double dice =
                -((t ? 2 * whole : 0) - part) / (whole * whole) * exp(log_q + log_not);
            const double d = focal_scale * (t ? focal : -focal) + dice_scale * dice;

            dx[r.lo * a->h + c.lo] += (1.0 - r.w) * (1.0 - c.w) * d;
            dx[r.lo * a->h + c.hi] += (1.0 - r.w) * c.w * d;
            dx[r.hi * a->h + c.lo] += r.w * (1.0 - c.w) * d;
            dx[r.hi * a->h + c.hi] += (double)r.w * c.w * d;
        }
    }
}

/* d e / d iou_pred of mask k */
static double iou_slope(double iou_pred, double iou, struct candidates c, int64_t k,
                        bool is_selected, const struct mask_loss_options *o)
{
    const double miss = iou_pred - iou;
    const double slope = o->iou_l1 ? (miss > 0) - (miss < 0) : 2 * miss;

    if (o->iou_all) return k >= c.begin && k < c.end ? slope / (double)(c.end - c.begin) : 0;
    return is_selected ? slope : 0;
}

enum status mask_loss_bwd_ref(struct tensor dlogits, struct tensor diou, struct tensor value,
                              struct tensor selected, struct tensor logits, struct tensor gt,
                              struct tensor iou_pred, struct tensor valid, struct tensor weight,
                              float scale, const struct mask_loss_options *o, struct stream *s)
{
    double *sum;

    TRY(mask_loss_bwd_check(dlogits, diou, value, selected, logits, gt, iou_pred, valid, weight,
                            o));
    STREAM_SCRATCH(s, sum, logits.dim[2] * logits.dim[3] * (int64_t)sizeof *sum);

    const int64_t M = logits.dim[0], K = logits.dim[1], hh = logits.dim[2] * logits.dim[3];

    for (int64_t m = 0; m < M; m++) {
        const double scale_m = (double)scale * ((const float *)weight.data)[m];

        for (int64_t k = 0; k < K; k++) {
            const bool is_selected = k == ((const int32_t *)selected.data)[m];
            const int64_t mk = m * K + k;

            if (diou.data) {
                const float iou =
                    ((const float *)value.data)[mk * MASK_LOSS_VALUES + MASK_LOSS_IOU];
                const double d =
                    iou_slope(((const float *)iou_pred.data)[mk], iou,
                              candidates_of(o->candidates.data, m, K), k, is_selected, o);
                float *out = (float *)diou.data + mk;

                *out =
                    (float)((scale_m == 0 ? 0 : scale_m * o->w_iou * d) + (diou.add ? *out : 0.0));
            }
            if (dlogits.data) {
                float *out = (float *)dlogits.data + mk * hh;

                memset(sum, 0, (size_t)hh * sizeof *sum);
                if (is_selected && scale_m != 0) {
                    const struct plane a = plane_of(logits, gt, valid, o->valid_only, m, k);

                    gradient(sum, &a, scale_m, o);
                }
                for (int64_t i = 0; i < hh; i++)
                    out[i] = (float)(sum[i] + (dlogits.add ? out[i] : 0.0));
            }
        }
    }
    return OK;
}

#include "kernels/mask_loss.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/row_taps.h"
#include "kernels/mask_loss_check.h"

/* One mask: its logits, its ground truth and the part of it that counts. */
struct plane {
    const float *x;
    const uint8_t *gt;
    int64_t h, R, rows, cols;
};

struct sums {
    double focal, p, pt;
    int64_t t, both, either;
};

/* What every formula here is made of, for a logit u of the right answer. */
struct sigmoid {
    float right, wrong;   /* σ(u), σ(−u) */
    float entropy, other; /* −ln σ(u), −ln σ(−u) */
    float slope;          /* σ(u) σ(−u) */
};

/* e = exp(−|u|), one division for 1/(1+e) and 1/(2+e); ln(1+e) = 2 atanh(e/(2+e)), whose series in
 * the square is fitted over [0, 1/9] to 8·10^-9. */
static inline struct sigmoid sigmoid_of(float u)
{
    const float e = exp_f32(-fabsf(u)), inv = 1.0f / ((1.0f + e) * (2.0f + e));
    const float inv1 = inv * (2.0f + e), q = e * (inv * (1.0f + e)), q2 = q * q;
    float series = 0.140891656f, tail;
    struct sigmoid s;

    series = series * q2 + 0.139803022f;
    series = series * q2 + 0.200124547f;
    series = series * q2 + 0.333331585f;
    series = series * q2 + 1.0f;
    tail = 2.0f * q * series;
    s.right = u > 0 ? inv1 : e * inv1;
    s.wrong = u > 0 ? e * inv1 : inv1;
    s.entropy = u > 0 ? tail : tail - u;
    s.other = u > 0 ? tail + u : tail;
    s.slope = e * inv1 * inv1;
    return s;
}

/* σ(−u)^γ; squares is γ = 2, known when compiled. */
static inline float power(struct sigmoid s, float gamma, bool squares)
{
    return squares ? s.wrong * s.wrong : exp_f32(-gamma * s.other);
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

/* The two rows of logits that a row of z lies between, each interpolated to R: row r is in the
 * half r & 1 of pair. */
struct between {
    const float *top, *bottom;
    float lo, hi; /* their weights */
    int64_t row;  /* of top */
};

static struct between between_of(const struct plane *a, const struct row_taps *t, float *pair,
                                 int64_t half, int64_t have[2], int64_t i)
{
    const struct bilinear_tap r = bilinear_place(i, a->h, a->R);

    for (int64_t k = r.lo; k <= r.hi; k++) {
        if (have[k & 1] == k) continue;
        row_taps_apply(pair + (k & 1) * half, a->x + k * a->h, t, a->cols);
        have[k & 1] = k;
    }
    return (struct between){ .top = pair + (r.lo & 1) * half,
                             .bottom = pair + (r.hi & 1) * half,
                             .lo = r.hi > r.lo ? 1.0f - r.w : 1,
                             .hi = r.hi > r.lo ? r.w : 0,
                             .row = r.lo };
}

static inline __attribute__((always_inline)) void add_row(struct sums *s, const struct between *b,
                                                          const uint8_t *restrict gt, int64_t n,
                                                          const struct mask_loss_options *o,
                                                          bool squares)
{
    const float *restrict top = b->top, *restrict bottom = b->bottom;
    const float lo = b->lo, hi = b->hi, alpha = o->alpha, gamma = o->gamma;
    float focal = 0, p = 0, pt = 0;
    int32_t count = 0, both = 0, either = 0;

#pragma omp simd reduction(+ : focal, p, pt, count, both, either)
    for (int64_t j = 0; j < n; j++) {
        const float z = top[j] * lo + bottom[j] * hi;
        const int32_t t = gt[j] != 0, in = z > 0;
        const float u = t ? z : -z;
        const struct sigmoid q = sigmoid_of(u);

        focal += (t ? alpha : 1.0f - alpha) * power(q, gamma, squares) * q.entropy;
        p += t ? q.right : q.wrong;
        pt += t ? q.right : 0.0f;
        count += t;
        both += t & in;
        either += t | in;
    }
    s->focal += focal;
    s->p += p;
    s->pt += pt;
    s->t += count;
    s->both += both;
    s->either += either;
}

static struct sums sums_of(const struct plane *a, const struct row_taps *t, float *pair,
                           int64_t half, const struct mask_loss_options *o)
{
    int64_t have[2] = { -1, -1 };
    struct sums s = { 0 };

    for (int64_t i = 0; i < a->rows; i++) {
        const struct between b = between_of(a, t, pair, half, have, i);

        if (o->gamma == 2)
            add_row(&s, &b, a->gt + i * a->R, a->cols, o, true);
        else
            add_row(&s, &b, a->gt + i * a->R, a->cols, o, false);
    }
    return s;
}

static void put_values(float v[MASK_LOSS_VALUES], const struct sums *q, double area, float iou_pred,
                       bool iou_l1)
{
    const double iou = (double)q->both / (double)(q->either > 1 ? q->either : 1);
    const double miss = iou_pred - iou;

    v[MASK_LOSS_FOCAL] = (float)(q->focal / area);
    v[MASK_LOSS_DICE] = (float)(1 - (2 * q->pt + 1) / (q->p + (double)q->t + 1));
    v[MASK_LOSS_ERR] = (float)(iou_l1 ? fabs(miss) : miss * miss);
    v[MASK_LOSS_IOU] = (float)iou;
}

static int32_t least_of(const float *value, struct candidates c, const struct mask_loss_options *o)
{
    double least = 0;
    int32_t best = (int32_t)c.begin;

    for (int64_t k = c.begin; k < c.end; k++) {
        const float *v = value + k * MASK_LOSS_VALUES;
        const double cost =
            (double)o->w_focal * v[MASK_LOSS_FOCAL] + (double)o->w_dice * v[MASK_LOSS_DICE];

        if (k == c.begin || cost < least) {
            least = cost;
            best = (int32_t)k;
        }
    }
    return best;
}

enum status mask_loss_fwd_cpu(struct tensor value, struct tensor selected, struct tensor logits,
                              struct tensor gt, struct tensor iou_pred, struct tensor valid,
                              const struct mask_loss_options *o, struct stream *s)
{
    char *scratch;

    TRY(mask_loss_fwd_check(value, selected, logits, gt, iou_pred, valid, o));

    const int64_t M = logits.dim[0], K = logits.dim[1], h = logits.dim[2], R = gt.dim[1];
    const int64_t taps_bytes = row_taps_bytes(h, R), half = arena_round(R * 4) / 4;

    STREAM_SCRATCH(s, scratch, taps_bytes + omp_get_max_threads() * 2 * half * 4);

    const struct row_taps t = row_taps_plan(scratch, h, R);

#pragma omp parallel for schedule(dynamic)
    for (int64_t mk = 0; mk < M * K; mk++) {
        const struct plane a = plane_of(logits, gt, valid, o->valid_only, mk / K, mk % K);
        float *const pair = (float *)(scratch + taps_bytes) + omp_get_thread_num() * 2 * half;
        const struct sums q = sums_of(&a, &t, pair, half, o);

        put_values((float *)value.data + mk * MASK_LOSS_VALUES, &q, area_of(&a),
                   ((const float *)iou_pred.data)[mk], o->iou_l1);
    }
    for (int64_t m = 0; m < M; m++)
        ((int32_t *)selected.data)[m] =
            least_of((const float *)value.data + m * K * MASK_LOSS_VALUES,
                     candidates_of(o->candidates.data, m, K), o);
    return OK;
}

/* The gradient of a pixel is focal · (the focal's) + dice[t] · σ(z) σ(−z). */
struct slopes {
    float focal, dice[2];
};

/* dz of one row, added with its two weights to the rows of logits it came from, at full width. */
static inline __attribute__((always_inline)) void add_slopes(
    float *restrict dtop, float *restrict dbottom, const struct between *b,
    const uint8_t *restrict gt, int64_t n, const struct slopes *k,
    const struct mask_loss_options *o, bool squares)
{
    const float *restrict top = b->top, *restrict bottom = b->bottom;
    const float lo = b->lo, hi = b->hi, gamma = o->gamma;
    const float inside = k->focal * o->alpha, outside = -k->focal * (1.0f - o->alpha);
    const float dice0 = k->dice[0], dice1 = k->dice[1];

#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const float z = top[j] * lo + bottom[j] * hi;
        const int32_t t = gt[j] != 0;
        const float u = t ? z : -z;
        const struct sigmoid q = sigmoid_of(u);
        const float focal = power(q, gamma, squares) * -(gamma * q.right * q.entropy + q.wrong);
        const float d = (t ? inside : outside) * focal + (t ? dice1 : dice0) * q.slope;

        dtop[j] += lo * d;
        dbottom[j] += hi * d;
    }
}

/* Scratch of one thread: interpolated rows, and the sums for two rows of dlogits. */
struct work {
    float *pair, *sum;
    int64_t half;
};

/* dx += the gradient of scale · (w_focal·focal + w_dice·dice). A row of dx gets its sum, narrowed,
 * when no later row of z can add to it: the order is fixed. */
static void add_gradient(float *dx, const struct plane *a, double scale, const struct row_taps *t,
                         const struct work *w, const struct mask_loss_options *o)
{
    const struct sums q = sums_of(a, t, w->pair, w->half, o);
    const double whole = q.p + (double)q.t + 1, part = 2 * q.pt + 1;
    const double dice = scale * o->w_dice / (whole * whole);
    const struct slopes k = { .focal = (float)(scale * o->w_focal / area_of(a)),
                              .dice = { (float)(dice * part),
                                        (float)(dice * (part - 2 * whole)) } };
    int64_t have[2] = { -1, -1 }, done = 0;

    memset(w->sum, 0, (size_t)(2 * w->half) * sizeof *w->sum);
    for (int64_t i = 0; i < a->rows; i++) {
        const struct between b = between_of(a, t, w->pair, w->half, have, i);
        const uint8_t *gt = a->gt + i * a->R;
        float *dtop = w->sum + (b.row & 1) * w->half, *dbottom = w->sum + (~b.row & 1) * w->half;

        for (; done < b.row; done++) {
            float *sum = w->sum + (done & 1) * w->half;

            row_taps_adjoint(dx + done * a->h, sum, t);
            memset(sum, 0, (size_t)w->half * sizeof *sum);
        }
        if (o->gamma == 2)
            add_slopes(dtop, dbottom, &b, gt, a->cols, &k, o, true);
        else
            add_slopes(dtop, dbottom, &b, gt, a->cols, &k, o, false);
    }
    for (int64_t end = done + 2; done < end && done < a->h; done++)
        row_taps_adjoint(dx + done * a->h, w->sum + (done & 1) * w->half, t);
}

static void iou_gradient(struct tensor diou, struct tensor value, struct tensor iou_pred,
                         const int32_t *selected, const float *weight, float scale,
                         const struct mask_loss_options *o)
{
    const int64_t M = diou.dim[0], K = diou.dim[1];

    for (int64_t mk = 0; mk < M * K; mk++) {
        const float iou = ((const float *)value.data)[mk * MASK_LOSS_VALUES + MASK_LOSS_IOU];
        const float miss = ((const float *)iou_pred.data)[mk] - iou;
        const float slope = o->iou_l1 ? (float)((miss > 0) - (miss < 0)) : 2.0f * miss;
        const struct candidates c = candidates_of(o->candidates.data, mk / K, K);
        const bool is_candidate = mk % K >= c.begin && mk % K < c.end;
        const float share = o->iou_all ? (float)is_candidate / (float)(c.end - c.begin)
                                       : mk % K == selected[mk / K];
        const float w = scale * weight[mk / K];
        const float d = w == 0 || share == 0 ? 0 : w * o->w_iou * share * slope;
        float *const out = (float *)diou.data + mk;

        *out = diou.add ? *out + d : d;
    }
}

enum status mask_loss_bwd_cpu(struct tensor dlogits, struct tensor diou, struct tensor value,
                              struct tensor selected, struct tensor logits, struct tensor gt,
                              struct tensor iou_pred, struct tensor valid, struct tensor weight,
                              float scale, const struct mask_loss_options *o, struct stream *s)
{
    char *scratch;

    TRY(mask_loss_bwd_check(dlogits, diou, value, selected, logits, gt, iou_pred, valid, weight,
                            o));

    const int64_t M = logits.dim[0], K = logits.dim[1], h = logits.dim[2], R = gt.dim[1];
    const int64_t taps_bytes = row_taps_bytes(h, R), half = arena_round(R * 4) / 4;

    STREAM_SCRATCH(s, scratch, taps_bytes + omp_get_max_threads() * 4 * half * 4);

    const int32_t *const chosen = selected.data;
    const float *const weights = weight.data;

    if (diou.data) iou_gradient(diou, value, iou_pred, chosen, weights, scale, o);
    if (!dlogits.data) return OK;

    const struct row_taps t = row_taps_plan(scratch, h, R);

#pragma omp parallel for schedule(dynamic)
    for (int64_t m = 0; m < M; m++) {
        float *const dx = (float *)dlogits.data + m * K * h * h;
        float *const rows = (float *)(scratch + taps_bytes) + omp_get_thread_num() * 4 * half;
        const struct work w = { .pair = rows, .sum = rows + 2 * half, .half = half };
        const double scale_m = (double)scale * weights[m];

        if (!dlogits.add) memset(dx, 0, (size_t)(K * h * h) * sizeof *dx);
        if (scale_m == 0) continue;
        ASSERT(chosen[m] >= 0 && chosen[m] < K);

        const struct plane a = plane_of(logits, gt, valid, o->valid_only, m, chosen[m]);

        add_gradient(dx + chosen[m] * h * h, &a, scale_m, &t, &w, o);
    }
    return OK;
}

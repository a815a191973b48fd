/* Upsampling, focal, dice and IoU in one: against the formulas written plainly in double. */
#include <math.h>

#include "tests/kernels/op.h"

static const struct ops *be;

static const struct mask_loss_options paper = { 0.25f, 2, 20, 1, 1, false, false, false, { 0 } };

/* The operands of both directions. */
struct world {
    struct tensor value, selected, logits, gt, iou_pred, valid, weight, dlogits, diou;
    int64_t M, K, h, R;
};

static struct world make(int64_t M, int64_t K, int64_t h, int64_t R, float scale)
{
    struct world a = { .M = M, .K = K, .h = h, .R = R };

    a.value = OP_ZEROS(F32, M, K, MASK_LOSS_VALUES);
    a.selected = OP_ZEROS(I32, M);
    a.logits = OP_FILLED(1, scale, 0.1f, M, K, h, h);
    a.gt = OP_ZEROS(U8, M, R, R);
    a.iou_pred = OP_FILLED(2, 0.6f, 0.4f, M, K);
    a.valid = OP_ZEROS(I32, M, 2);
    a.weight = OP_FILLED(3, 0.5f, 1.0f, M);
    a.dlogits = op_like(a.logits);
    a.diou = op_like(a.iou_pred);
    for (int64_t m = 0; m < M; m++) {
        const struct rng_key key = rng_stream(4, RNG_TEST, (uint64_t)m, 0);
        int32_t *valid = (int32_t *)a.valid.data + 2 * m;

        valid[0] = 1 + (int32_t)rng_below(key, 0, (uint64_t)R);
        valid[1] = 1 + (int32_t)rng_below(key, 1, (uint64_t)R);
        for (int64_t i = 0; i < R * R; i++) /* blobs; mask 1 is empty, mask 2 full */
            ((uint8_t *)a.gt.data)[m * R * R + i] =
                m == 2 ||
                (m != 1 && rng_below(key, (uint64_t)(2 + i / R / 5 * 99 + i % R / 5), 3) == 0);
    }
    return a;
}

static void forward(const struct ops *ops, struct world *a, const struct mask_loss_options *o)
{
    OP_RUN(ops->mask_loss_fwd(a->value, a->selected, a->logits, a->gt, a->iou_pred,
                              o->valid_only ? a->valid : tensor_none(), o, s));
}

static void backward(const struct ops *ops, struct world *a, float scale,
                     const struct mask_loss_options *o)
{
    OP_RUN(ops->mask_loss_bwd(a->dlogits, a->diou, a->value, a->selected, a->logits, a->gt,
                              a->iou_pred, o->valid_only ? a->valid : tensor_none(), a->weight,
                              scale, o, s));
}

/* The same operands, with outputs of its own. */
static struct world twin(const struct world *a)
{
    struct world b = *a;

    b.value = op_copy(a->value);
    b.selected = op_copy(a->selected);
    b.dlogits = op_copy(a->dlogits);
    b.diou = op_copy(a->diou);
    return b;
}

/* focal, dice, err, iou of one mask, logits x in double: the header's formulas, term by term. */
static void plain_values(double v[MASK_LOSS_VALUES], const double *x, const struct world *a,
                         int64_t m, int64_t k, double iou_pred, const struct mask_loss_options *o)
{
    const uint8_t *gt = (const uint8_t *)a->gt.data + m * a->R * a->R;
    const int32_t *valid = (const int32_t *)a->valid.data + 2 * m;
    const int64_t rows = o->valid_only ? valid[0] : a->R, cols = o->valid_only ? valid[1] : a->R;
    const double step = (double)a->h / (double)a->R;
    double focal = 0, sum_p = 0, sum_t = 0, sum_pt = 0, both = 0, either = 0;

    x += (m * a->K + k) * a->h * a->h;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const double y = fmax(0, ((double)i + 0.5) * step - 0.5);
            const double c = fmax(0, ((double)j + 0.5) * step - 0.5);
            const int64_t y0 = (int64_t)y, x0 = (int64_t)c;
            const int64_t y1 = y0 + 1 < a->h ? y0 + 1 : y0, x1 = x0 + 1 < a->h ? x0 + 1 : x0;
            const double wy = y - (double)y0, wx = c - (double)x0, t = gt[i * a->R + j];
            const double z = (1 - wy) * ((1 - wx) * x[y0 * a->h + x0] + wx * x[y0 * a->h + x1]) +
                             wy * ((1 - wx) * x[y1 * a->h + x0] + wx * x[y1 * a->h + x1]);
            const double p = 1 / (1 + exp(-z)), pt = t * p + (1 - t) * (1 - p);
            const double alpha = t * o->alpha + (1 - t) * (1 - (double)o->alpha);
            const double entropy = fmax(z, 0) - z * t + log1p(exp(-fabs(z))); /* −ln pt */

            focal += alpha * pow(1 - pt, o->gamma) * entropy;
            sum_p += p;
            sum_t += t;
            sum_pt += p * t;
            both += z > 0 && t > 0;
            either += z > 0 || t > 0;
        }
    v[MASK_LOSS_FOCAL] = focal / (double)(rows * cols);
    v[MASK_LOSS_DICE] = 1 - (2 * sum_pt + 1) / (sum_p + sum_t + 1);
    v[MASK_LOSS_IOU] = both / fmax(1, either);
    v[MASK_LOSS_ERR] =
        o->iou_l1 ? fabs(iou_pred - v[MASK_LOSS_IOU]) : pow(iou_pred - v[MASK_LOSS_IOU], 2);
}

/* The loss of logits x and predicted IoUs y, with the choice of masks and the IoU held fixed. */
static double plain_loss(const double *x, const double *y, const struct world *a,
                         const struct mask_loss_options *o)
{
    double loss = 0;

    for (int64_t m = 0; m < a->M; m++) {
        const int32_t chosen = ((const int32_t *)a->selected.data)[m];
        const double weight = ((const float *)a->weight.data)[m];

        for (int64_t k = 0; k < a->K; k++) {
            const float iou = ((const float *)a->value.data)[(m * a->K + k) * 4 + MASK_LOSS_IOU];
            const double miss = y[m * a->K + k] - iou, err = o->iou_l1 ? fabs(miss) : miss * miss;
            double v[MASK_LOSS_VALUES];

            if (o->iou_all) loss += weight * o->w_iou * err / (double)a->K;
            if (k != chosen) continue;
            plain_values(v, x, a, m, k, 0, o);
            loss += weight * (o->w_focal * v[MASK_LOSS_FOCAL] + o->w_dice * v[MASK_LOSS_DICE]);
            if (!o->iou_all) loss += weight * o->w_iou * err;
        }
    }
    return loss;
}

static double *to_double(struct tensor t)
{
    double *d = check_alloc(tensor_count(t) * 8);

    for (int64_t i = 0; i < tensor_count(t); i++) d[i] = ((const float *)t.data)[i];
    return d;
}

/* Every option once away from the paper's. */
static const struct mask_loss_options variants[] = {
    { 0.25f, 2, 20, 1, 1, false, false, false, { 0 } },
    { 0.25f, 2, 20, 1, 1, true, true, true, { 0 } },
    { 0.6f, 1.5f, 5, 2, 0.5f, true, false, true, { 0 } },
    { 0.5f, 0, 1, 0, 0, false, true, false, { 0 } },
    { 0.25f, 1, 0, 1, 2, false, false, true, { 0 } },
    { 0.9f, 3, 1, 1, 1, false, false, false, { 0 } },
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

static const int64_t sizes[][4] = {
    { 4, 3, 16, 16 },  { 4, 3, 16, 32 }, { 5, 2, 12, 48 }, { 4, 1, 7, 21 },  { 4, 4, 5, 40 },
    { 1, 1, 19, 152 }, { 3, 2, 1, 1 },   { 3, 1, 1, 6 },   { 3, 1, 33, 33 }, { 3, 3, 13, 26 },
    { 1, 1, 3, 264 },  { 1, 35, 2, 4 }, /* more candidates than a warp has lanes */
};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* Sums of at most 16 rows of 264 terms in float: 2^-24 · √4224 each, and the ends of the formulas. */
static const double tolerance = 4e-6;

static void test_forward(void)
{
    for (int i = 0; i < N_SIZES; i++)
        for (int n = 0; n < N_VARIANTS; n++) {
            const struct mask_loss_options *o = &variants[n];
            struct world a = make(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], 6.0f);
            struct world b = twin(&a);
            const double *x = to_double(a.logits);

            forward(be, &a, o);
            forward(&ops_ref, &b, o);
            for (int64_t mk = 0; mk < a.M * a.K; mk++) {
                const float *got = (const float *)a.value.data + mk * 4;
                const float *ref = (const float *)b.value.data + mk * 4;
                double v[MASK_LOSS_VALUES];

                plain_values(v, x, &a, mk / a.K, mk % a.K, ((float *)a.iou_pred.data)[mk], o);
                for (int c = 0; c < MASK_LOSS_VALUES; c++) {
                    CHECK(fabs(got[c] - v[c]) <= tolerance * (0.01 + fabs(v[c])));
                    CHECK(fabs(ref[c] - v[c]) <= 3e-7 * (0.01 + fabs(v[c])));
                }
            }
            CHECK_SAME_BITS(a.selected.data, b.selected.data, tensor_bytes(a.selected));
        }
}

/* ‖f(x+hu) − f(x) − h·<g,u>‖ falls like h². Half of h leaves a quarter. */
static void test_derivative(void)
{
    for (int i = 0; i < 6; i++)
        for (int n = 0; n < N_VARIANTS; n++) {
            const struct mask_loss_options *o = &variants[n];
            struct world a = make(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], 3.0f);
            struct world b = twin(&a);
            struct tensor u = OP_FILLED(5, 1.0f, 0.2f, a.M, a.K, a.h, a.h);
            double *x = to_double(a.logits), *y = to_double(a.iou_pred), rest[5], f[5], slope, size;

            forward(be, &a, o);
            backward(be, &a, 0.5f, o);
            b.value = a.value;
            b.selected = a.selected;
            backward(&ops_ref, &b, 0.5f, o);
            CHECK_CLOSE(a.dlogits.data, b.dlogits.data, tensor_count(a.dlogits), tolerance);
            CHECK_CLOSE(a.diou.data, b.diou.data, tensor_count(a.diou), 1e-6);

            slope = 2 * check_dot(a.dlogits.data, u.data, tensor_count(u));
            for (int k = 0; k < 5; k++) {
                static const double steps[] = { 0, 0.1, 0.05, 1e-4, -1e-4 };

                for (int64_t e = 0; e < tensor_count(u); e++)
                    x[e] = ((float *)a.logits.data)[e] + steps[k] * (double)((float *)u.data)[e];
                f[k] = plain_loss(x, y, &a, o);
                rest[k] = f[k] - f[0] - steps[k] * slope;
            }
            CHECK(fabs(rest[1] - 4 * rest[2]) <= 0.2 * fabs(rest[1]) + 1e-6);
            size = sqrt(check_dot(a.dlogits.data, a.dlogits.data, tensor_count(u)));
            CHECK(fabs((f[3] - f[4]) / 2e-4 - slope) <= 1e-5 * size + 1e-9);

            for (int64_t e = 0; e < tensor_count(a.logits); e++) x[e] = ((float *)a.logits.data)[e];
            for (int64_t e = 0; e < a.M * a.K; e++) { /* the slope of |·| or of a square: exact */
                const double was = y[e];
                double up, down;

                y[e] = was + 1e-4;
                up = plain_loss(x, y, &a, o);
                y[e] = was - 1e-4;
                down = plain_loss(x, y, &a, o);
                y[e] = was;
                CHECK(fabs((up - down) / 2e-4 - 2 * (double)((float *)a.diou.data)[e]) <= 1e-5);
            }
        }
}

/* Each logit's own central difference; with a sign flipped it must not agree. */
static void test_each_logit(void)
{
    const struct mask_loss_options *o = &variants[2];
    struct world a = make(2, 2, 4, 16, 2.0f);
    double *x = to_double(a.logits), *y = to_double(a.iou_pred);
    float *g = a.dlogits.data, *want = check_alloc(tensor_bytes(a.dlogits));
    int64_t greatest = 0;

    forward(be, &a, o);
    backward(be, &a, 1.0f, o);
    for (int64_t e = 0; e < tensor_count(a.logits); e++) {
        const double was = x[e];
        double up, down;

        x[e] = was + 1e-4;
        up = plain_loss(x, y, &a, o);
        x[e] = was - 1e-4;
        down = plain_loss(x, y, &a, o);
        x[e] = was;
        want[e] = (float)((up - down) / 2e-4);
        if (fabsf(want[e]) > fabsf(want[greatest])) greatest = e;
    }
    CHECK_CLOSE(g, want, tensor_count(a.logits), 1e-5);
    g[greatest] = -g[greatest];
    CHECK(!(check_rel_err(g, want, tensor_count(a.logits)) <= 1e-5));
}

/* z = 0, ln 3; −ln 3, 0 and t = 1 1; 0 0: p = ½ ¾; ¼ ½. */
static void test_by_hand(void)
{
    const float z[4] = { 0, logf(3), -logf(3), 0 };
    const double focal = (0.25 * log(2) + 0.0625 * log(4.0 / 3)) / 4;
    struct world a = make(1, 1, 2, 2, 1.0f);
    const float *v = a.value.data, *d = a.dlogits.data;

    memcpy(a.logits.data, z, sizeof z);
    memcpy(a.gt.data, "\1\1\0\0", 4);
    ((float *)a.iou_pred.data)[0] = 0.75f;
    ((float *)a.weight.data)[0] = 1;
    forward(be, &a, &paper);
    CHECK(fabs(v[MASK_LOSS_FOCAL] - focal) <= 1e-7);
    CHECK(fabs(v[MASK_LOSS_DICE] - 0.3) <= 1e-6); /* 1 − (2·1.25 + 1)/(2 + 2 + 1) */
    CHECK(v[MASK_LOSS_IOU] == 0.5f);
    CHECK(fabs(v[MASK_LOSS_ERR] - 0.0625) <= 1e-7);
    backward(be, &a, 1.0f, &paper);
    /* z = 0, t = 1: focal ¼·¼·(2·½·ln ½ + ½ − 1)/4, dice −(2·5 − 3.5)/25 · ¼ */
    CHECK(fabs(d[0] - (20 * 0.0625 * (log(0.5) - 0.5) / 4 - 6.5 / 25 / 4)) <= 1e-6);
    /* z = 0, t = 0: −¾·¼·(…)/4, dice 3.5/25 · ¼ */
    CHECK(fabs(d[3] - (20 * -0.1875 * (log(0.5) - 0.5) / 4 + 3.5 / 25 / 4)) <= 1e-6);
    CHECK(fabs(((float *)a.diou.data)[0] - 0.5) <= 1e-6);
}

/* Finite for any finite logit, right at the limits, and no gradient where all is settled. */
static void test_extremes(void)
{
    static const float levels[] = { 1e4f, 88, 200, 1e30f };

    for (int n = 0; n < N_VARIANTS; n++)
        for (int i = 0; i < 4; i++) {
            struct world a = make(3, 2, 8, 16, 1.0f);
            float *x = a.logits.data;

            for (int64_t e = 0; e < tensor_count(a.logits); e++)
                x[e] = x[e] > 0 ? levels[i] : -levels[i];
            forward(be, &a, &variants[n]);
            backward(be, &a, 1.0f, &variants[n]);
            for (int64_t e = 0; e < tensor_count(a.value); e++)
                CHECK(isfinite(((float *)a.value.data)[e]));
            for (int64_t e = 0; e < tensor_count(a.dlogits); e++)
                CHECK(isfinite(((float *)a.dlogits.data)[e]));
        }

    struct world a = make(2, 1, 4, 4, 1.0f);
    const float *v = a.value.data;

    for (int i = 0; i < 16; i++) {
        ((uint8_t *)a.gt.data)[i] = ((uint8_t *)a.gt.data)[16 + i] = i % 3 == 0;
        ((float *)a.logits.data)[i] = i % 3 ? -1e4f : 1e4f;
        ((float *)a.logits.data)[16 + i] = i % 3 ? 1e4f : -1e4f;
    }
    forward(be, &a, &paper);
    CHECK(v[MASK_LOSS_FOCAL] == 0 && fabsf(v[MASK_LOSS_DICE]) <= 1e-6f && v[MASK_LOSS_IOU] == 1);
    ((float *)a.iou_pred.data)[0] = 1; /* as it is: |·| has no slope there */
    backward(be, &a, 1.0f, &(struct mask_loss_options){ .w_iou = 1, .iou_l1 = true });
    CHECK(((float *)a.diou.data)[0] == 0);
    v += 4; /* all wrong: 1e4 · (6·α + 10·(1−α))/16 */
    CHECK(fabs(v[MASK_LOSS_FOCAL] / (1e4 * (6 * 0.25 + 10 * 0.75) / 16) - 1) <= 1e-6);
    CHECK(fabs(v[MASK_LOSS_DICE] - (1 - 1.0 / 17)) <= 1e-6 && v[MASK_LOSS_IOU] == 0);
}

/* Equal masks: the first. A mask that is not selected, or of weight 0, gets no gradient. */
static void test_choice(void)
{
    struct world a = make(3, 3, 8, 16, 2.0f);
    float *x = a.logits.data, *w = a.weight.data;

    memcpy(x + 64, x, 64 * 4); /* mask 0: all three the same */
    memcpy(x + 128, x, 64 * 4);
    memcpy(x + 3 * 64 + 128, x + 3 * 64 + 64, 64 * 4); /* mask 1 is empty: 1 and 2 the same, best */
    for (int i = 0; i < 64; i++) x[3 * 64 + i] = 9;
    w[2] = 0;
    for (int i = 0; i < 64; i++) x[6 * 64 + i] = NAN;
    ((float *)a.iou_pred.data)[6] = NAN;
    forward(be, &a, &paper);
    CHECK(((int32_t *)a.selected.data)[0] == 0);
    CHECK(((int32_t *)a.selected.data)[1] == 1);
    memset(a.dlogits.data, 0xFF, (size_t)tensor_bytes(a.dlogits));
    memset(a.diou.data, 0xFF, (size_t)tensor_bytes(a.diou));
    ((int32_t *)a.selected.data)[2] = 0; /* NaN, but of weight 0 */
    backward(be, &a, 1.0f, &paper);
    for (int64_t mk = 0; mk < 9; mk++) {
        const bool wanted = mk == 0 || mk == 4;
        const float *g = (const float *)a.dlogits.data + mk * 64;

        CHECK((((float *)a.diou.data)[mk] != 0) == wanted);
        for (int i = 0; i < 64; i++) CHECK((g[i] != 0) == wanted);
    }
}

/* Values, choice and gradients as the reference. */
static void same_as_reference(struct world *a, const struct mask_loss_options *o)
{
    struct world b = twin(a);

    forward(be, a, o);
    forward(&ops_ref, &b, o);
    CHECK_CLOSE(a->value.data, b.value.data, tensor_count(a->value), tolerance);
    CHECK_SAME_BITS(a->selected.data, b.selected.data, tensor_bytes(a->selected));
    b.value = a->value; /* the predicted IoU's slope is that of what the loss said */
    backward(be, a, 1.0f, o);
    backward(&ops_ref, &b, 1.0f, o);
    CHECK_CLOSE(a->dlogits.data, b.dlogits.data, tensor_count(a->dlogits), tolerance);
    CHECK_CLOSE(a->diou.data, b.diou.data, tensor_count(a->diou), 1e-6);
}

/* Masks that are no candidates are not chosen, and get no gradient. */
static void test_candidates(void)
{
    static const int32_t ranges[][2] = { { 0, 4 }, { 1, 3 }, { 3, 4 }, { 0, 1 } };

    for (int n = 0; n < N_VARIANTS; n++) {
        struct world a = make(4, 4, 5, 20, 3.0f);
        struct mask_loss_options o = variants[n];

        o.candidates = OP_ZEROS(I32, 4, 2);
        memcpy(o.candidates.data, ranges, sizeof ranges);
        same_as_reference(&a, &o);
        for (int m = 0; m < 4; m++) {
            const int32_t chosen = ((int32_t *)a.selected.data)[m];

            CHECK(chosen >= ranges[m][0] && chosen < ranges[m][1]);
            for (int k = 0; k < 4; k++)
                if (k < ranges[m][0] || k >= ranges[m][1])
                    CHECK(((float *)a.diou.data)[m * 4 + k] == 0);
        }
    }
}

/* Images of which nothing is valid: a loss of no pixels is 0, and so is its gradient. */
static void test_no_pixels(void)
{
    struct world a = make(3, 2, 4, 8, 1.0f);
    const float *v = a.value.data;

    memcpy(a.valid.data, (const int32_t[]){ 0, 3, 2, 0, 0, 0 }, 24);
    same_as_reference(&a, &variants[1]);
    for (int mk = 0; mk < 6; mk++)
        CHECK(v[mk * 4 + MASK_LOSS_FOCAL] == 0 && v[mk * 4 + MASK_LOSS_DICE] == 0);
    for (int64_t i = 0; i < tensor_count(a.dlogits); i++) CHECK(((float *)a.dlogits.data)[i] == 0);
}

static void test_gradient_rule(void)
{
    struct world a = make(3, 2, 9, 36, 2.0f), b = a, c = a;

    forward(be, &a, &paper);
    backward(be, &a, 1.0f, &paper);
    b.dlogits = op_adding(OP_FILLED(6, 0.01f, 0.0f, 3, 2, 9, 9));
    b.diou = op_adding(OP_FILLED(7, 1.0f, 0.0f, 3, 2));

    struct tensor x = op_copy(b.dlogits), y = op_copy(b.diou);

    backward(be, &b, 1.0f, &paper);
    for (int64_t i = 0; i < tensor_count(x); i++)
        ((float *)x.data)[i] += ((float *)a.dlogits.data)[i];
    for (int64_t i = 0; i < 6; i++) ((float *)y.data)[i] += ((float *)a.diou.data)[i];
    CHECK_CLOSE(b.dlogits.data, x.data, tensor_count(x), 1e-6);
    CHECK_CLOSE(b.diou.data, y.data, 6, 1e-6);

    c.dlogits = op_like(a.dlogits);
    c.diou = op_no_data(a.diou);
    backward(be, &c, 1.0f, &paper);
    CHECK_SAME_BITS(c.dlogits.data, a.dlogits.data, tensor_bytes(a.dlogits));
    c.dlogits = tensor_none();
    c.diou = op_like(a.diou);
    backward(be, &c, 1.0f, &paper);
    CHECK_SAME_BITS(c.diou.data, a.diou.data, tensor_bytes(a.diou));
}

static void test_threads(void)
{
    struct world a = make(5, 3, 16, 64, 3.0f), b = twin(&a);

    omp_set_num_threads(1);
    forward(be, &a, &variants[1]);
    backward(be, &a, 1.0f, &variants[1]);
    omp_set_num_threads(2);
    forward(be, &b, &variants[1]);
    backward(be, &b, 1.0f, &variants[1]);
    CHECK_SAME_BITS(a.value.data, b.value.data, tensor_bytes(a.value));
    CHECK_SAME_BITS(a.selected.data, b.selected.data, tensor_bytes(a.selected));
    CHECK_SAME_BITS(a.dlogits.data, b.dlogits.data, tensor_bytes(a.dlogits));
    CHECK_SAME_BITS(a.diou.data, b.diou.data, tensor_bytes(a.diou));
}

static void test_plan_and_shapes(void)
{
    struct mask_loss_options o = paper;
    struct world none = make(0, 3, 4, 8, 1.0f), p = make(2, 3, 4, 8, 1.0f);
    const struct world a = p;
    struct tensor *all = &p.value;

    forward(be, &none, &o);
    backward(be, &none, 1.0f, &o);
    for (int i = 0; i < 9; i++) all[i].data = NULL;
    OP_PLAN(
        be->mask_loss_fwd(p.value, p.selected, p.logits, p.gt, p.iou_pred, tensor_none(), &o, s));
    OP_PLAN(be->mask_loss_bwd(p.dlogits, p.diou, p.value, p.selected, p.logits, p.gt, p.iou_pred,
                              tensor_none(), p.weight, 1, &o, s));
    log_set_level(LOG_ERROR);
#define FORWARD(value, selected, logits, gt, valid)                                                \
    OP_SHAPE_ERROR(be->mask_loss_fwd(value, selected, logits, gt, a.iou_pred, valid, &o, s))
    FORWARD(tensor_3d(a.value.data, F32, 2, 3, 3), a.selected, a.logits, a.gt, tensor_none());
    FORWARD(a.value, tensor_1d(a.selected.data, F32, 2), a.logits, a.gt, tensor_none());
    FORWARD(a.value, a.selected, tensor_4d(a.logits.data, BF16, 2, 3, 4, 4), a.gt, tensor_none());
    FORWARD(a.value, a.selected, tensor_4d(a.logits.data, F32, 2, 3, 4, 3), a.gt, tensor_none());
    FORWARD(a.value, a.selected, a.logits, tensor_3d(a.gt.data, U8, 2, 6, 6), tensor_none());
    FORWARD(a.value, a.selected, a.logits, tensor_3d(a.gt.data, U8, 2, 2, 2), tensor_none());
    FORWARD(a.value, a.selected, a.logits, tensor_3d(a.gt.data, U8, 2, 8, 4), tensor_none());
    FORWARD(a.value, a.selected, a.logits, a.gt, tensor_1d(a.valid.data, I32, 4));
    o.valid_only = true;
    FORWARD(a.value, a.selected, a.logits, a.gt, tensor_none());
    o.valid_only = false;
#define BACKWARD(dlogits, diou, weight)                                                            \
    OP_SHAPE_ERROR(be->mask_loss_bwd(dlogits, diou, a.value, a.selected, a.logits, a.gt,           \
                                     a.iou_pred, tensor_none(), weight, 1, &o, s))
    BACKWARD(tensor_4d(a.dlogits.data, F32, 2, 3, 4, 2), a.diou, a.weight);
    BACKWARD(a.dlogits, tensor_2d(a.diou.data, F32, 3, 2), a.weight);
    BACKWARD(a.dlogits, a.diou, tensor_1d(a.weight.data, F32, 3));
}

int main(int argc, char **argv)
{
    be = op_backend(argc, argv);
    test_forward();
    test_derivative();
    test_each_logit();
    test_by_hand();
    test_extremes();
    test_choice();
    test_candidates();
    test_no_pixels();
    test_gradient_rule();
    test_threads();
    test_plan_and_shapes();
    return check_done("mask_loss");
}

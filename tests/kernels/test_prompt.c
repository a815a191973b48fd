/* Prompts drawn from masks: where they may lie, how they are spread, that chunks do not matter. */
#include <math.h>

#include "kernels/prompt_draw.h"
#include "tests/kernels/op.h"

static const struct ops *be;

static const struct prompt_options options = { 0.5f, 0.1f, 20.0f, BOX_NOISE_NORMAL, 64, { 0 } };

/* Masks drawn from for statistics; a quarter on the emulator, where each costs its threads. */
#ifdef TESTS_ON_EMU
enum { DRAWS = 1000 };
#else
enum { DRAWS = 4000 };
#endif

/* The operands of both ops, for M masks of R×R, K×h×h logits and P slots. */
struct world {
    struct tensor coords, labels, n_points, gt, box, size, weight, key;
    struct tensor mask_prompt, logits, iou_pred;
    int64_t M, K, h, R, P;
};

static struct world make(int64_t M, int64_t K, int64_t h, int64_t R, int64_t P)
{
    struct world a = { .M = M, .K = K, .h = h, .R = R, .P = P };

    a.coords = OP_FILLED(90, 1.0f, 500.0f, M, P, 2);
    a.labels = OP_ZEROS(I32, M, P);
    a.n_points = OP_ZEROS(I32, M);
    a.gt = OP_ZEROS(U8, M, R, R);
    a.box = OP_ZEROS(F32, M, 4);
    a.size = OP_ZEROS(F32, 2);
    a.weight = OP_FILLED(91, 0.0f, 1.0f, M);
    a.key = OP_ZEROS(I64, 2);
    a.mask_prompt = OP_ZEROS(F32, M, h, h);
    a.logits = OP_FILLED(92, 1.0f, 0.0f, M, K, h, h);
    a.iou_pred = OP_FILLED(93, 0.5f, 0.5f, M, K);
    memcpy(a.key.data, (const int64_t[]){ 42, -7 }, 16);
    memcpy(a.size.data, (const float[]){ 64, 48 }, 8);
    for (int64_t m = 0; m < M; m++) {
        const struct rng_key key = rng_stream(94, RNG_TEST, (uint64_t)m, 0);
        const float box[4] = { 4, 6, 44, 36 };

        memcpy((float *)a.box.data + 4 * m, box, sizeof box);
        for (int64_t i = 0; i < R * R; i++)
            ((uint8_t *)a.gt.data)[m * R * R + i] = rng_below(key, (uint64_t)i, 10) < 3;
    }
    return a;
}

static void first(const struct ops *ops, struct world *a, const struct prompt_options *o)
{
    OP_RUN(ops->prompt_first(a->coords, a->labels, a->n_points, a->gt, a->box, a->size, a->weight,
                             a->key, 5, o, s));
}

static void next(const struct ops *ops, struct world *a, int round, bool add_point)
{
    OP_RUN(ops->prompt_next(a->mask_prompt, a->coords, a->labels, a->n_points, a->logits,
                            a->iou_pred, a->gt, a->weight, a->key, 5, round, add_point, &options,
                            s));
}

static void copy_prompts(struct world *to, const struct world *from)
{
    to->coords = op_copy(from->coords);
    to->labels = op_copy(from->labels);
    to->n_points = op_copy(from->n_points);
    to->mask_prompt = op_copy(from->mask_prompt);
}

static void check_same(const struct world *a, const struct world *b)
{
    CHECK_SAME_BITS(a->coords.data, b->coords.data, tensor_bytes(a->coords));
    CHECK_SAME_BITS(a->labels.data, b->labels.data, tensor_bytes(a->labels));
    CHECK_SAME_BITS(a->n_points.data, b->n_points.data, tensor_bytes(a->n_points));
    CHECK_SAME_BITS(a->mask_prompt.data, b->mask_prompt.data, tensor_bytes(a->mask_prompt));
}

static const float *slot(const struct world *a, int64_t m, int64_t p)
{
    return (const float *)a->coords.data + (m * a->P + p) * 2;
}

static int32_t label(const struct world *a, int64_t m, int64_t p)
{
    return ((const int32_t *)a->labels.data)[m * a->P + p];
}

/* The pixel whose centre the slot is, as an index of the plane; -1 for none. */
static int64_t pixel(const struct world *a, int64_t m, int64_t p)
{
    const double scale = (double)a->R / options.frame;
    const double x = (slot(a, m, p)[0] + 0.5) * scale - 0.5,
                 y = (slot(a, m, p)[1] + 0.5) * scale - 0.5;

    if (!(fabs(x - round(x)) <= 1e-4 && fabs(y - round(y)) <= 1e-4)) return -1;
    if (x < -0.1 || y < -0.1 || x > (double)a->R - 0.9 || y > (double)a->R - 0.9) return -1;
    return (int64_t)round(y) * a->R + (int64_t)round(x);
}

static bool gt_at(const struct world *a, int64_t m, int64_t at)
{
    return ((const uint8_t *)a->gt.data)[m * a->R * a->R + at] != 0;
}

/* Both kinds, in the share asked for; points inside, boxes near the truth. */
static void test_first(void)
{
    struct world a = make(DRAWS, 1, 4, 16, 5), b = a;
    int64_t n_boxes = 0, n_moved = 0;
    double variance = 0;

    copy_prompts(&b, &a);
    first(be, &a, &options);
    first(&ops_ref, &b, &options);
    check_same(&a, &b);
    for (int64_t m = 0; m < a.M; m++) {
        const float *true_box = (const float *)a.box.data + 4 * m;

        CHECK(((int32_t *)a.n_points.data)[m] == 2);
        CHECK(slot(&a, m, 2)[0] > 100); /* later slots are left alone */
        if (label(&a, m, 0) == 1) {
            const int64_t at = pixel(&a, m, 0);

            CHECK(label(&a, m, 1) == -1 && slot(&a, m, 1)[0] == 0 && slot(&a, m, 1)[1] == 0);
            CHECK(at >= 0 && gt_at(&a, m, at));
            continue;
        }
        n_boxes++;
        CHECK(label(&a, m, 0) == 2 && label(&a, m, 1) == 3);
        for (int c = 0; c < 4; c++) {
            const double noise = slot(&a, m, c / 2)[c % 2] + 0.5 - (double)true_box[c];
            const double side = c % 2 ? 30 : 40, wall = c % 2 ? 48 : 64;

            CHECK(fabs(noise) <= 20);
            CHECK(slot(&a, m, c / 2)[c % 2] >= -0.5 && slot(&a, m, c / 2)[c % 2] <= wall - 0.5);
            n_moved += noise != 0;
            if (c == 3) variance += noise * noise / (side * side);
        }
    }
    /* DRAWS coins: six standard deviations */
    CHECK(fabs((double)n_boxes - DRAWS / 2) <= 6 * sqrt(DRAWS / 4));
    CHECK(n_moved > 3 * n_boxes);
    /* the lower edge is 12 away from the wall, 4 standard deviations of 3 */
    CHECK(fabs(variance / (double)n_boxes - 0.01) <= 0.002);
}

/* Every foreground pixel is as likely as any other. */
static void test_first_is_uniform(void)
{
    struct prompt_options o = options;
    struct world a = make(DRAWS, 1, 4, 4, 2);
    double seen[16] = { 0 }, chi = 0;

    o.box_share = 0;
    for (int64_t m = 0; m < a.M; m++)
        memcpy((uint8_t *)a.gt.data + 16 * m, "\1\0\1\1\0\0\1\0\1\0\0\0\1\0\0\1", 16);
    first(be, &a, &o);
    for (int64_t m = 0; m < a.M; m++) seen[pixel(&a, m, 0) & 15]++;
    for (int i = 0; i < 16; i++) {
        if (gt_at(&a, 0, i))
            chi += pow(seen[i] - DRAWS / 7.0, 2) / (DRAWS / 7.0);
        else
            CHECK(seen[i] == 0);
    }
    CHECK(chi <= 6 + 6 * sqrt(12)); /* 6 degrees of freedom */
}

static void test_box_noise(void)
{
    struct prompt_options o = options;
    struct world a = make(500, 1, 4, 4, 2), b = a;
    double greatest = 0;

    copy_prompts(&b, &a);
    o.box_share = 1;
    o.law = BOX_NOISE_UNIFORM;
    o.box_noise_max = 2.5f; /* below 0.1 of either side */
    first(be, &a, &o);
    first(&ops_ref, &b, &o);
    check_same(&a, &b);
    for (int64_t i = 0; i < a.M * 4; i++) {
        const double noise = ((float *)a.coords.data)[i] + 0.5 - (double)((float *)a.box.data)[i];

        CHECK(fabs(noise) <= 2.5 + 1e-5);
        greatest = fmax(greatest, fabs(noise));
    }
    CHECK(greatest > 2.4);
    o.law = BOX_NOISE_NORMAL;
    first(be, &a, &o);
    greatest = 0;
    for (int64_t i = 0; i < a.M * 4; i++)
        greatest = fmax(greatest,
                        fabs(((float *)a.coords.data)[i] + 0.5 - (double)((float *)a.box.data)[i]));
    CHECK(greatest <= 2.5 + 1e-5 && greatest > 2.5 - 1e-5); /* many are cut there */

    /* a box at the right and lower end stays inside the valid part of the frame */
    const float end[4] = { 24, 28, 63, 47 };
    int64_t n_cut[2] = { 0, 0 };

    for (int64_t m = 0; m < a.M; m++) memcpy((float *)a.box.data + 4 * m, end, sizeof end);
    first(be, &a, &o);
    for (int64_t m = 0; m < a.M; m++) {
        const float *p = slot(&a, m, 1);

        CHECK(p[0] <= 63.5f && p[1] <= 47.5f);
        n_cut[0] += p[0] == 63.5f;
        n_cut[1] += p[1] == 47.5f;
    }
    CHECK(n_cut[0] > 0 && n_cut[1] > 0);

    /* a box of one pixel cannot keep a side above 1 and grow it: some take the truth */
    int64_t n_true = 0;

    for (int64_t m = 0; m < a.M; m++)
        memcpy((float *)a.box.data + 4 * m, (const float[]){ 3, 3, 4, 4 }, 16);
    first(be, &a, &o);
    for (int64_t m = 0; m < a.M; m++) {
        const float *p = slot(&a, m, 0);
        const bool is_true = p[0] == 2.5f && p[1] == 2.5f && p[2] == 3.5f && p[3] == 3.5f;

        n_true += is_true;
        CHECK(is_true || (p[2] - p[0] > 1 && p[3] - p[1] > 1));
    }
    CHECK(n_true > a.M / 2 && n_true < a.M);
}

/* z of the reference formula in double; clicks nearer to 0 than float can tell do not count. */
static double logit(const struct world *a, int64_t m, int64_t k, int64_t at)
{
    const float *x = (const float *)a->logits.data + (m * a->K + k) * a->h * a->h;
    const double scale = (double)a->h / (double)a->R;
    const double y = fmax(0, ((double)(at / a->R) + 0.5) * scale - 0.5);
    const double c = fmax(0, ((double)(at % a->R) + 0.5) * scale - 0.5);
    const int64_t y0 = (int64_t)y, x0 = (int64_t)c;
    const int64_t y1 = y0 + 1 < a->h ? y0 + 1 : y0, x1 = x0 + 1 < a->h ? x0 + 1 : x0;
    const double wy = y - (double)y0, wx = c - (double)x0;

    return (1 - wy) * ((1 - wx) * x[y0 * a->h + x0] + wx * x[y0 * a->h + x1]) +
           wy * ((1 - wx) * x[y1 * a->h + x0] + wx * x[y1 * a->h + x1]);
}

/* Factors 1, 3 and 4 of upsampling, three rounds each. */
static void test_next(void)
{
    static const int64_t sizes[][2] = { { 16, 16 }, { 8, 24 }, { 16, 64 }, { 1, 5 }, { 5, 40 } };

    for (int i = 0; i < 5; i++) {
        struct world a = make(40, 3, sizes[i][0], sizes[i][1], 5), b = a;

        for (int64_t m = 0; m < 8; m++) /* the first of equals */
            for (int64_t k = 0; k < 3; k++)
                ((float *)a.iou_pred.data)[m * 3 + k] = k < m % 3 ? 0.2f : 0.8f;
        first(be, &a, &options);
        copy_prompts(&b, &a);
        for (int round = 0; round < 3; round++) {
            next(be, &a, round, true);
            next(&ops_ref, &b, round, true);
            check_same(&a, &b);
            for (int64_t m = 0; m < a.M; m++) {
                const float *iou = (const float *)a.iou_pred.data + m * 3;
                const int64_t k =
                    iou[0] >= iou[1] ? (iou[0] >= iou[2] ? 0 : 2) : (iou[1] >= iou[2] ? 1 : 2);
                const int64_t at = pixel(&a, m, 2 + round), hh = a.h * a.h;

                CHECK(((int32_t *)a.n_points.data)[m] == 3 + round);
                CHECK_SAME_BITS((float *)a.mask_prompt.data + m * hh,
                                (float *)a.logits.data + (m * 3 + k) * hh, hh * 4);
                CHECK(at >= 0);
                if (at < 0) continue;
                CHECK(label(&a, m, 2 + round) == gt_at(&a, m, at));
                if (fabs(logit(&a, m, k, at)) > 1e-6)
                    CHECK((logit(&a, m, k, at) > 0) != gt_at(&a, m, at));
            }
        }
    }
}

/* Of masks that are no candidates none is taken for the next prompt, whatever its predicted IoU. */
static void test_next_among_candidates(void)
{
    static const int32_t ranges[][2] = {
        { 0, 3 }, { 1, 2 }, { 2, 3 }, { 1, 3 }, { 0, 1 }, { 2, 3 }
    };
    struct prompt_options o = options;
    struct world a = make(6, 3, 5, 20, 4), b;

    o.candidates = OP_ZEROS(I32, 6, 2);
    memcpy(o.candidates.data, ranges, sizeof ranges);
    first(be, &a, &options);
    b = a;
    copy_prompts(&b, &a);
    OP_RUN(be->prompt_next(a.mask_prompt, a.coords, a.labels, a.n_points, a.logits, a.iou_pred,
                           a.gt, a.weight, a.key, 5, 0, true, &o, s));
    OP_RUN(ops_ref.prompt_next(b.mask_prompt, b.coords, b.labels, b.n_points, b.logits, b.iou_pred,
                               b.gt, b.weight, b.key, 5, 0, true, &o, s));
    check_same(&a, &b);
    for (int m = 0; m < 6; m++) {
        const float *iou = (const float *)a.iou_pred.data + 3 * m;
        int64_t best = ranges[m][0];

        for (int64_t k = best; k < ranges[m][1]; k++)
            if (iou[k] > iou[best]) best = k;
        CHECK_SAME_BITS((float *)a.mask_prompt.data + m * 25,
                        (float *)a.logits.data + (m * 3 + best) * 25, 100);
    }
}

/* The mask prompt alone, of more logits than a block copies. */
static void test_next_copies(void)
{
    struct world a = make(2, 2, 34, 34, 3), b = a; /* 1156 */

    copy_prompts(&b, &a);
    next(be, &a, 0, false);
    next(&ops_ref, &b, 0, false);
    check_same(&a, &b);
}

/* Every pixel in error is as likely as any other, and each round draws anew. */
static void test_next_is_uniform(void)
{
    struct world a = make(DRAWS, 1, 4, 4, 4);
    double seen[16] = { 0 }, chi = 0;
    int64_t n_same = 0;

    for (int64_t m = 0; m < a.M; m++) {
        for (int i = 0; i < 16; i++) {
            ((float *)a.logits.data)[16 * m + i] = i < 8 ? 1 : -1;
            ((uint8_t *)a.gt.data)[16 * m + i] = i >= 5 && i < 10;
        }
        ((int32_t *)a.n_points.data)[m] = 2;
    }
    next(be, &a, 0, true);
    next(be, &a, 1, true);
    for (int64_t m = 0; m < a.M; m++) {
        seen[pixel(&a, m, 2) & 15]++;
        n_same += pixel(&a, m, 2) == pixel(&a, m, 3);
        CHECK(label(&a, m, 2) == (pixel(&a, m, 2) >= 8));
    }
    for (int i = 0; i < 16; i++) { /* errors: 0…4 and 8, 9 */
        if (i < 5 || i == 8 || i == 9)
            chi += pow(seen[i] - DRAWS / 7.0, 2) / (DRAWS / 7.0);
        else
            CHECK(seen[i] == 0);
    }
    CHECK(chi <= 6 + 6 * sqrt(12));
    CHECK(fabs((double)n_same - DRAWS / 7.0) <= 6 * sqrt(DRAWS / 7.0));
}

/* Nothing wrong: background; no background: foreground; nothing wanted: nothing. */
static void test_next_without_error(void)
{
    struct world a = make(4, 1, 4, 4, 4), before;
    float *z = a.logits.data;
    uint8_t *gt = a.gt.data;

    for (int i = 0; i < 64; i++) {
        gt[i] = i / 16 == 1 || (i / 16 == 0 && i % 16 < 3);
        z[i] = i / 16 < 3 ? (gt[i] ? 5.0f : -5.0f) : 5.0f;
        ((int32_t *)a.n_points.data)[i / 16] = 2;
    }
    ((float *)a.weight.data)[3] = 0;
    copy_prompts(&before, &a);
    next(be, &a, 0, false); /* only the mask prompt */
    CHECK_SAME_BITS(a.mask_prompt.data, z, 64 * 4);
    CHECK_SAME_BITS(a.coords.data, before.coords.data, tensor_bytes(a.coords));
    CHECK_SAME_BITS(a.labels.data, before.labels.data, tensor_bytes(a.labels));
    CHECK_SAME_BITS(a.n_points.data, before.n_points.data, tensor_bytes(a.n_points));
    next(be, &a, 0, true);
    CHECK(label(&a, 0, 2) == 0 && pixel(&a, 0, 2) >= 3);
    CHECK(label(&a, 1, 2) == 1 && pixel(&a, 1, 2) >= 0);
    CHECK(label(&a, 2, 2) == 0 && pixel(&a, 2, 2) >= 0);
    CHECK(label(&a, 3, 2) == -1 && slot(&a, 3, 2)[0] == 0 && slot(&a, 3, 2)[1] == 0);
    for (int m = 0; m < 4; m++) CHECK(((int32_t *)a.n_points.data)[m] == 3);
    memset(z, 0, 16 * 4); /* a logit of 0 is outside: the three of gt are wrong */
    next(be, &a, 1, true);
    CHECK(label(&a, 0, 3) == 1 && pixel(&a, 0, 3) >= 0 && pixel(&a, 0, 3) < 3);
}

/* The only pixel there is may be the last; and a number drawn exactly as the share is no box. */
static void test_first_at_the_edge(void)
{
    struct prompt_options o = options;
    struct world a = make(1, 1, 4, 5, 2);
    const struct rng_key key = prompt_draw_key(a.key.data, 5);

    memset(a.gt.data, 0, 25);
    ((uint8_t *)a.gt.data)[24] = 1;
    o.box_share = 0;
    first(be, &a, &o);
    CHECK(label(&a, 0, 0) == 1 && pixel(&a, 0, 0) == 24);
    o.box_share = rng_uniform(key, PROMPT_DRAW_KIND);
    first(be, &a, &o);
    CHECK(o.box_share > 0 && label(&a, 0, 0) == 1);
    o.box_share = nextafterf(o.box_share, 1);
    first(be, &a, &o);
    CHECK(label(&a, 0, 0) == 2);
}

/* Masks that do not count, and points wanted from empty ones. */
static void test_first_without_mask(void)
{
    struct prompt_options o = options;
    struct world a = make(3, 1, 4, 4, 2);

    o.box_share = 0;
    ((float *)a.weight.data)[0] = 0;
    memset((uint8_t *)a.gt.data + 16, 0, 16); /* empty */
    memset((uint8_t *)a.gt.data + 32, 1, 16); /* full */
    first(be, &a, &o);
    for (int64_t m = 0; m < 2; m++)
        for (int p = 0; p < 2; p++)
            CHECK(label(&a, m, p) == -1 && slot(&a, m, p)[0] == 0 && slot(&a, m, p)[1] == 0);
    CHECK(label(&a, 2, 0) == 1);
    o.box_share = 1;
    first(be, &a, &o);
    CHECK(label(&a, 0, 0) == -1 && label(&a, 1, 0) == 2 && label(&a, 1, 1) == 3);
}

static struct tensor part(struct tensor t, int64_t from, int64_t to)
{
    const int64_t bytes = t.dim[0] ? tensor_bytes(t) / t.dim[0] : 0;

    t.data = (char *)t.data + from * bytes;
    t.dim[0] = to - from;
    return t;
}

/* The same numbers in one piece, in three, and on one thread. */
static void test_chunks(void)
{
    static const int64_t cut[] = { 0, 3, 3, 10, 17 };
    struct world a = make(17, 2, 8, 16, 4), b = a;

    copy_prompts(&b, &a);
    omp_set_num_threads(2);
    first(be, &a, &options);
    next(be, &a, 0, true);
    omp_set_num_threads(1);
    for (int i = 0; i < 4; i++) {
        const int64_t p = cut[i], q = cut[i + 1];

        OP_RUN(be->prompt_first(part(b.coords, p, q), part(b.labels, p, q), part(b.n_points, p, q),
                                part(b.gt, p, q), part(b.box, p, q), b.size, part(b.weight, p, q),
                                b.key, 5 + p, &options, s));
        OP_RUN(be->prompt_next(part(b.mask_prompt, p, q), part(b.coords, p, q),
                               part(b.labels, p, q), part(b.n_points, p, q), part(b.logits, p, q),
                               part(b.iou_pred, p, q), part(b.gt, p, q), part(b.weight, p, q),
                               b.key, 5 + p, 0, true, &options, s));
    }
    omp_set_num_threads(2);
    check_same(&a, &b);
}

static void test_plan_and_shapes(void)
{
    const struct world a = make(2, 3, 4, 8, 4);
    struct world p = a;
    struct tensor *all = &p.coords;
    struct prompt_options o = options;

    for (int i = 0; i < 11; i++) all[i].data = NULL;
    OP_PLAN(be->prompt_first(p.coords, p.labels, p.n_points, p.gt, p.box, p.size, p.weight, p.key,
                             0, &o, s));
    OP_PLAN(be->prompt_next(p.mask_prompt, p.coords, p.labels, p.n_points, p.logits, p.iou_pred,
                            p.gt, p.weight, p.key, 0, 0, true, &o, s));
    log_set_level(LOG_ERROR);
#define FIRST(coords, labels, gt, key)                                                             \
    OP_SHAPE_ERROR(                                                                                \
        be->prompt_first(coords, labels, a.n_points, gt, a.box, a.size, a.weight, key, 0, &o, s))
    FIRST(tensor_3d(a.coords.data, F32, 2, 4, 1), a.labels, a.gt, a.key);
    FIRST(a.coords, tensor_2d(a.labels.data, I32, 2, 3), a.gt, a.key);
    FIRST(a.coords, tensor_2d(a.labels.data, F32, 2, 4), a.gt, a.key);
    FIRST(a.coords, a.labels, tensor_3d(a.gt.data, U8, 2, 8, 4), a.key);
    FIRST(a.coords, a.labels, a.gt, tensor_1d(a.key.data, I64, 1));
#define NEXT(mask_prompt, logits, gt, round)                                                       \
    OP_SHAPE_ERROR(be->prompt_next(mask_prompt, a.coords, a.labels, a.n_points, logits,            \
                                   a.iou_pred, gt, a.weight, a.key, 0, round, true, &o, s))
    NEXT(tensor_3d(a.mask_prompt.data, F32, 2, 4, 2), a.logits, a.gt, 0);
    NEXT(a.mask_prompt, tensor_4d(a.logits.data, F32, 2, 3, 4, 2), a.gt, 0);
    NEXT(a.mask_prompt, a.logits, tensor_3d(a.gt.data, U8, 2, 6, 6), 0);
    NEXT(a.mask_prompt, a.logits, a.gt, -1);
    o.frame = 0;
    FIRST(a.coords, a.labels, a.gt, a.key);
}

/* The gradient goes to the candidate fed back, the first of equals, and nowhere else. */
static void test_next_bwd(void)
{
    enum { M = 3, K = 4, h = 7, N = h * h };
    static const float iou[M * K] = { .1f, .9f, .9f, .2f, .8f, .1f, .3f, .2f, .5f, .1f, .2f, .6f };
    static const int32_t among[2 * M] = { 0, 4, 1, 4, 0, 1 };
    static const int best[2][M] = { { 1, 0, 3 }, { 1, 2, 0 } };
    struct tensor iou_pred = OP_ZEROS(F32, M, K), candidates = OP_ZEROS(I32, M, 2);
    struct tensor dmask = OP_FILLED(3, 1, 0, M, h, h);

    memcpy(iou_pred.data, iou, sizeof iou);
    memcpy(candidates.data, among, sizeof among);
    for (int limited = 0; limited < 2; limited++) {
        struct tensor d = OP_FILLED(4, 1, 0, M, K, h, h), want = op_copy(d);
        struct prompt_options o = options;

        o.candidates = limited ? candidates : tensor_none();
        OP_RUN(be->prompt_next_bwd(d, dmask, iou_pred, &o, s));
        for (int m = 0; m < M; m++)
            for (int i = 0; i < N; i++)
                ((float *)want.data)[(m * K + best[limited][m]) * N + i] +=
                    ((float *)dmask.data)[m * N + i];
        CHECK_SAME_BITS(d.data, want.data, tensor_bytes(want));
        OP_SHAPE_ERROR(be->prompt_next_bwd(dmask, dmask, iou_pred, &o, s));
        OP_SHAPE_ERROR(be->prompt_next_bwd(d, d, iou_pred, &o, s));
        OP_SHAPE_ERROR(be->prompt_next_bwd(d, dmask, dmask, &o, s));
    }
}

int main(int argc, char **argv)
{
    struct world none = make(0, 2, 4, 8, 3);

    be = op_backend(argc, argv);
    first(be, &none, &options);
    next(be, &none, 0, true);
    test_next(); /* the small ones first: on the emulator the first complaint may end the test */
    test_next_among_candidates();
    test_next_without_error();
    test_next_copies();
    test_first_without_mask();
    test_first_at_the_edge();
    test_chunks();
    test_next_bwd();
    test_box_noise();
    test_first();
    test_first_is_uniform();
    test_next_is_uniform();
    test_plan_and_shapes();
    return check_done("prompt");
}

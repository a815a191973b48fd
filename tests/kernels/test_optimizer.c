/* Gradient norm and AdamW: against sums and steps written out in double. */
#include <math.h>

#include "tests/kernels/op.h"

static const struct ops *be;

static double norm_of(struct tensor g)
{
    struct tensor squares = OP_ZEROS(F64, 1);

    *(double *)squares.data = -1;
    OP_RUN(be->grad_norm(squares, g, s));
    return *(double *)squares.data;
}

static void test_norm(void)
{
    static const int64_t counts[] = { 0,
                                      1,
                                      5,
                                      1000,
                                      GRAD_NORM_BLOCK - 1,
                                      GRAD_NORM_BLOCK,
                                      GRAD_NORM_BLOCK + 1,
                                      3 * GRAD_NORM_BLOCK + 17 };

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct tensor g = OP_FILLED(1, 2.0f, 0.1f, counts[i]);
        const double want = check_dot(g.data, g.data, counts[i]);
        double one;

        CHECK(fabs(norm_of(g) - want) <= 1e-12 * want);
        omp_set_num_threads(1);
        one = norm_of(g);
        omp_set_num_threads(2);
        CHECK(norm_of(g) == one);
    }
}

/* Squares beyond float's range count; what is not a number anywhere shows. */
static void test_norm_extremes(void)
{
    const int64_t n = 2 * GRAD_NORM_BLOCK + 3, places[] = { 0, GRAD_NORM_BLOCK + 5, n - 1 };
    struct tensor g = OP_ZEROS(F32, n);
    float *p = g.data;

    p[9] = 1e30f;
    CHECK(fabs(norm_of(g) / ((double)1e30f * 1e30f) - 1) <= 1e-12);
    p[9] = 0;
    for (int i = 0; i < 3; i++) {
        p[places[i]] = NAN;
        CHECK(!isfinite(norm_of(g)));
        p[places[i]] = -INFINITY;
        CHECK(!isfinite(norm_of(g)));
        p[places[i]] = 0;
    }
    CHECK(norm_of(g) == 0);
}

enum { N = 70000 };
static const struct adamw_segment segments[] = {
    { 3, 1.0f, 0.1f, false },      { 3, 1.0f, 0.1f, false }, /* empty */
    { 1000, 0.5f, 0.0f, false },   { 1777, 0.7f, 0.1f, true },
    { 66000, 0.8f, 0.05f, false }, { N, 1.0f, 0.0f, true }
};
enum { N_SEGMENTS = sizeof segments / sizeof *segments };

/* Four steps beside a double of the formula; state is rounded to float once a step. */
static void steps(const struct adamw_segment *segment, int n_segments)
{
    struct adamw_options o = {
        .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .grad_scale = 0.3f
    };
    const int64_t n = segment[n_segments - 1].end;
    struct tensor w = OP_FILLED(2, 1.0f, 0.0f, n), m = OP_ZEROS(F32, n), v = OP_ZEROS(F32, n);
    const struct tensor start = op_copy(w);
    double *dw = check_alloc(n * 8), *dm = check_alloc(n * 8), *dv = check_alloc(n * 8);
    float *want = check_alloc(n * 4);

    for (int64_t i = 0; i < n; i++) dw[i] = ((float *)w.data)[i];
    for (o.step = 1; o.step <= 4; o.step++) {
        struct tensor g = OP_FILLED((uint64_t)(10 + o.step), 1.0f, 0.05f, n);
        int64_t i = 0;

        ((float *)g.data)[1] = 0; /* 0/(√0 + eps) */
        for (int k = 0; k < n_segments; k++)
            for (; i < segment[k].end; i++) {
                const double gi = (double)o.grad_scale * ((float *)g.data)[i];

                if (segment[k].frozen) continue;
                dm[i] = (double)o.beta1 * dm[i] + (1 - (double)o.beta1) * gi;
                dv[i] = (double)o.beta2 * dv[i] + (1 - (double)o.beta2) * gi * gi;
                dw[i] -= (double)o.lr * segment[k].lr_scale *
                         (dm[i] / (1 - pow(o.beta1, (double)o.step)) /
                              (sqrt(dv[i] / (1 - pow(o.beta2, (double)o.step))) + o.eps) +
                          segment[k].decay * dw[i]);
            }
        OP_RUN(be->adamw(w, m, v, tensor_none(), g, tensor_none(), segment, n_segments, &o, s));
    }
    for (int64_t i = 0; i < n; i++) want[i] = (float)(dw[i] - ((float *)start.data)[i]);
    for (int64_t i = 0; i < n; i++) ((float *)w.data)[i] -= ((float *)start.data)[i];
    CHECK_CLOSE(w.data, want, n, 1e-5); /* the way, of 1e-2 a step, in floats near 1: 6e-8/1e-2 */
    for (int64_t i = 0; i < n; i++) want[i] = (float)dm[i];
    CHECK_CLOSE(m.data, want, n, 1e-6);
    for (int64_t i = 0; i < n; i++) want[i] = (float)dv[i];
    CHECK_CLOSE(v.data, want, n, 1e-6);
}

/* One segment, two, and more than one launch takes; the last is not frozen, and ends in a tail. */
static void test_steps(void)
{
    enum { MANY = 131 };
    static const struct adamw_segment few[] = { { 777, 0.9f, 0.1f, false },
                                                { 2051, 0.4f, 0.0f, false } };
    struct adamw_segment many[MANY];

    for (int k = 0; k < MANY; k++)
        many[k] =
            (struct adamw_segment){ (k ? many[k - 1].end : 0) + 1 + k * 37 % 90,
                                    1.0f / (float)(1 + k % 7), 0.01f * (float)(k % 3), k % 5 == 3 };
    steps(segments, N_SEGMENTS);
    steps(few, 1);
    steps(few, 2);
    steps(many, MANY);
}

/* Frozen weights keep their bits, whatever their gradient. */
static void test_frozen(void)
{
    const struct adamw_options o = { 1e-2f, 0.9f, 0.95f, 1e-8f, 1.0f, 1, 0 };
    struct tensor w = OP_FILLED(3, 1.0f, 0.0f, N), m = OP_FILLED(4, 1.0f, 0.0f, N);
    struct tensor v = OP_FILLED(5, 1.0f, 2.0f, N), g = OP_FILLED(6, 1.0f, 0.0f, N);
    const struct tensor w0 = op_copy(w), m0 = op_copy(m), v0 = op_copy(v);
    int64_t begin = 0;

    ((float *)g.data)[1500] = NAN;
    OP_RUN(be->adamw(w, m, v, tensor_none(), g, tensor_none(), segments, N_SEGMENTS, &o, s));
    for (int k = 0; k < N_SEGMENTS; k++) {
        const int64_t bytes = (segments[k].end - begin) * 4;

        if (segments[k].frozen) {
            CHECK_SAME_BITS((float *)w.data + begin, (float *)w0.data + begin, bytes);
            CHECK_SAME_BITS((float *)m.data + begin, (float *)m0.data + begin, bytes);
            CHECK_SAME_BITS((float *)v.data + begin, (float *)v0.data + begin, bytes);
        } else {
            int64_t n_moved = 0;

            for (int64_t i = begin; i < segments[k].end; i++)
                n_moved += ((float *)w.data)[i] != ((float *)w0.data)[i] &&
                           ((float *)m.data)[i] != ((float *)m0.data)[i];
            CHECK(n_moved * 100 >= (segments[k].end - begin) * 99);
        }
        begin = segments[k].end;
    }
}

/* What decides lies on the device: a norm above the limit scales the gradient down to it, one below does
 * not, and squares that are not finite leave everything as it was. */
static void test_squares(void)
{
    const double norm = 40, scale = 0.5; /* of g, whose own is 80 */
    const struct adamw_options plain = { 1e-2f, 0.9f, 0.95f, 1e-8f, 0.5f, 1, 0 };
    struct adamw_options clipped = plain, by_hand = plain;
    struct tensor g = OP_FILLED(6, 1.0f, 0.0f, N), squares = OP_ZEROS(F64, 2);
    double *square = squares.data;

    clipped.clip = 10;
    by_hand.grad_scale = (float)(scale * 10 / norm);
    for (int i = 0; i < 4; i++) {
        struct tensor w = OP_FILLED(3, 1.0f, 0.0f, N), m = OP_FILLED(4, 1.0f, 0.0f, N);
        struct tensor v = OP_FILLED(5, 1.0f, 2.0f, N), w16 = OP_ZEROS(BF16, N);
        const struct tensor w0 = op_copy(w), m0 = op_copy(m), v0 = op_copy(v), w16_0 = op_copy(w16);
        const struct adamw_options *const same = i == 0 ? &by_hand : &plain;

        square[0] = i == 0 ? 6400 : i == 2 ? (double)INFINITY : 100;
        square[1] = i == 3 ? (double)NAN : 5;
        OP_RUN(be->adamw(w, m, v, w16, g, squares, segments, N_SEGMENTS, &clipped, s));
        if (i < 2)
            OP_RUN(be->adamw(w0, m0, v0, w16_0, g, tensor_none(), segments, N_SEGMENTS, same, s));
        CHECK_SAME_BITS(w.data, w0.data, N * 4);
        CHECK_SAME_BITS(m.data, m0.data, N * 4);
        CHECK_SAME_BITS(v.data, v0.data, N * 4);
        CHECK_SAME_BITS(w16.data, w16_0.data, N * 2);
    }
}

static void test_threads(void)
{
    const struct adamw_options o = { 1e-3f, 0.9f, 0.999f, 1e-8f, 0.5f, 7, 0 };
    struct tensor w = OP_FILLED(7, 1.0f, 0.0f, N), m = OP_FILLED(8, 0.1f, 0.0f, N);
    struct tensor v = OP_FILLED(9, 0.1f, 0.2f, N), g = OP_FILLED(10, 1.0f, 0.0f, N);
    struct tensor w1 = op_copy(w), m1 = op_copy(m), v1 = op_copy(v);
    struct tensor w16 = OP_ZEROS(BF16, N);

    omp_set_num_threads(1);
    OP_RUN(be->adamw(w1, m1, v1, tensor_none(), g, tensor_none(), segments, N_SEGMENTS, &o, s));
    omp_set_num_threads(2);
    OP_RUN(be->adamw(w, m, v, w16, g, tensor_none(), segments, N_SEGMENTS, &o, s));
    CHECK_SAME_BITS(w.data, w1.data, N * 4);
    CHECK_SAME_BITS(m.data, m1.data, N * 4);
    CHECK_SAME_BITS(v.data, v1.data, N * 4);
    for (int64_t k = 0, i = 0; k < N_SEGMENTS;
         k++) /* the copy for products, but for what is frozen */
        for (; i < segments[k].end; i++)
            CHECK(((uint16_t *)w16.data)[i] ==
                  (segments[k].frozen ? 0 : bf16_from_float(((float *)w.data)[i])));
}

static void test_plan_and_shapes(void)
{
    const struct adamw_options o = { 1e-3f, 0.9f, 0.999f, 1e-8f, 0.5f, 1, 0 };
    const struct adamw_options zero = { .step = 0 }, clips = { .step = 1, .clip = 1 };
    const struct adamw_segment back[] = { { 6, 1, 0, false },
                                          { 4, 1, 0, false },
                                          { 8, 1, 0, false } };
    const struct adamw_segment whole = { 8, 1, 0, false };
    struct tensor t = OP_ZEROS(F32, 8), none = tensor_1d(NULL, F32, 8);
    struct tensor empty = OP_ZEROS(F32, 0);
    struct tensor squares = OP_ZEROS(F64, 1);

    *(double *)squares.data = 3;
    OP_PLAN(be->grad_norm(squares, none, s));
    CHECK(*(double *)squares.data == 3);
    OP_PLAN(be->adamw(none, none, none, tensor_none(), none, tensor_none(), &whole, 1, &o, s));
    OP_RUN(be->adamw(empty, empty, empty, tensor_none(), empty, tensor_none(), NULL, 0, &o, s));
    log_set_level(LOG_ERROR);
    OP_SHAPE_ERROR(be->grad_norm(squares, tensor_2d(t.data, F32, 2, 4), s));
    OP_SHAPE_ERROR(be->grad_norm(squares, tensor_1d(t.data, BF16, 8), s));
    OP_SHAPE_ERROR(be->grad_norm(t, t, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), tensor_1d(t.data, F32, 7), tensor_none(),
                             &whole, 1, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, tensor_1d(t.data, I32, 8), t, tensor_none(), t, tensor_none(),
                             &whole, 1, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, t, t, tensor_none(), &whole, 1, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, tensor_none(), back, 3, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, tensor_none(), back, 1, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, tensor_none(), NULL, 0, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, tensor_none(), &whole, 1, &zero, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, t, &whole, 1, &o, s));
    OP_SHAPE_ERROR(be->adamw(t, t, t, tensor_none(), t, tensor_none(), &whole, 1, &clips, s));
}

int main(int argc, char **argv)
{
    be = op_backend(argc, argv);
    test_norm();
    test_norm_extremes();
    test_steps();
    test_frozen();
    test_squares();
    test_threads();
    test_plan_and_shapes();
    return check_done("optimizer");
}

/* Bilinear resampling: against torch's numbers, the reference, and its own adjoint. */
#include <math.h>

#include "tests/kernels/op.h"

static const struct ops *be;

struct size {
    int64_t M, h, w, crop_h, crop_w, H, W;
};

static const struct size sizes[] = {
    { 1, 1, 1, 1, 1, 1, 1 },         { 1, 1, 1, 1, 1, 5, 3 },       { 2, 7, 5, 7, 5, 7, 5 },
    { 3, 64, 64, 64, 64, 256, 256 }, { 2, 33, 41, 27, 39, 71, 50 }, { 2, 37, 53, 37, 20, 13, 19 },
    { 1, 64, 64, 43, 64, 150, 225 }, { 0, 8, 8, 8, 8, 16, 16 },     { 1, 2, 5, 2, 5, 1, 2 },
    { 2, 16, 33, 16, 30, 3, 4 }, /* a third and less */
};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

/* torch 1.13: F.interpolate(x[:, :, :3, :2], (5, 3), mode="bilinear"), x = 0…11 as 3×4 */
static void test_known(void)
{
    static const float want[15] = { 0.0f, 0.5f, 1.0f, 1.6f, 2.1f, 2.6f, 4.0f, 4.5f,
                                    5.0f, 6.4f, 6.9f, 7.4f, 8.0f, 8.5f, 9.0f };
    struct tensor x = OP_ZEROS(F32, 1, 3, 4), y = OP_ZEROS(F32, 1, 5, 3);

    for (int i = 0; i < 12; i++) ((float *)x.data)[i] = (float)i;
    OP_RUN(be->resize_fwd(y, x, 3, 2, s));
    CHECK_CLOSE(y.data, want, 15, 1e-6);
}

/* Four products with weights rounded to 2^-24 and three sums. */
static const double tolerance = 4 * 6e-8;

static void test_forward(void)
{
    for (int i = 0; i < N_SIZES; i++) {
        const struct size d = sizes[i];
        struct tensor x = OP_FILLED(1, 3.0f, 1.0f, d.M, d.h, d.w);
        struct tensor y = OP_ZEROS(F32, d.M, d.H, d.W), want = op_like(y);

        OP_RUN(be->resize_fwd(y, x, d.crop_h, d.crop_w, s));
        OP_RUN(ops_ref.resize_fwd(want, x, d.crop_h, d.crop_w, s));
        CHECK_CLOSE(y.data, want.data, tensor_count(y), tolerance);
        if (d.h == d.H && d.w == d.W && d.h == d.crop_h && d.w == d.crop_w)
            CHECK_SAME_BITS(y.data, x.data, tensor_bytes(y));
    }
}

/* <J u, v> = <u, Jᵀ v>; with a sign flipped somewhere it must not hold. */
static void test_adjoint(void)
{
    for (int i = 0; i < N_SIZES; i++) {
        const struct size d = sizes[i];
        struct tensor u = OP_FILLED(2, 1.0f, 0.5f, d.M, d.h, d.w);
        struct tensor v = OP_FILLED(3, 1.0f, 0.5f, d.M, d.H, d.W);
        struct tensor ju = op_like(v), jtv = op_like(u), want = op_like(u);
        float *p = jtv.data;
        double left, right, size;

        OP_RUN(be->resize_fwd(ju, u, d.crop_h, d.crop_w, s));
        OP_RUN(be->resize_bwd(jtv, v, d.crop_h, d.crop_w, s));
        OP_RUN(ops_ref.resize_bwd(want, v, d.crop_h, d.crop_w, s));
        CHECK_CLOSE(p, want.data, tensor_count(u), 1e-6);
        left = check_dot(ju.data, v.data, tensor_count(v));
        right = check_dot(u.data, p, tensor_count(u));
        size = sqrt(check_dot(ju.data, ju.data, tensor_count(v)) *
                    check_dot(v.data, v.data, tensor_count(v)));
        CHECK(fabs(left - right) <= 1e-6 * size);
        if (d.M == 0) continue;

        int64_t greatest = 0; /* some pixels are taken by none */

        for (int64_t k = 1; k < tensor_count(u); k++)
            if (fabsf(p[k]) > fabsf(p[greatest])) greatest = k;
        p[greatest] = -p[greatest];
        right = check_dot(u.data, p, tensor_count(u));
        CHECK(!(fabs(left - right) <= 1e-6 * size));
    }
}

static void test_gradient_rule(void)
{
    struct tensor dy = OP_FILLED(4, 1.0f, 0.0f, 2, 9, 14), dx = OP_FILLED(5, 1.0f, 0.0f, 2, 6, 5);
    struct tensor before = op_copy(dx), once = op_like(dx), twice = op_copy(dx);

    OP_RUN(be->resize_bwd(dx, dy, 4, 3, s)); /* overwritten, zero outside the crop */
    OP_RUN(be->resize_bwd(once, dy, 4, 3, s));
    CHECK_SAME_BITS(dx.data, once.data, tensor_bytes(dx));
    for (int64_t i = 0; i < 60; i++)
        if (i % 30 / 5 >= 4 || i % 5 >= 3) CHECK(((float *)dx.data)[i] == 0);
    OP_RUN(be->resize_bwd(op_adding(twice), dy, 4, 3, s));
    for (int64_t i = 0; i < 60; i++) ((float *)before.data)[i] += ((float *)once.data)[i];
    CHECK_CLOSE(twice.data, before.data, 60, 1e-6);
    OP_RUN(be->resize_bwd(op_no_data(dx), dy, 4, 3, s));
}

static void test_threads(void)
{
    struct tensor x = OP_FILLED(6, 1.0f, 0.0f, 3, 31, 29), y = OP_ZEROS(F32, 3, 77, 90);
    struct tensor dx = op_like(x), y1 = op_like(y), dx1 = op_like(x);

    omp_set_num_threads(1);
    OP_RUN(be->resize_fwd(y1, x, 30, 28, s));
    OP_RUN(be->resize_bwd(dx1, y1, 30, 28, s));
    omp_set_num_threads(2);
    OP_RUN(be->resize_fwd(y, x, 30, 28, s));
    OP_RUN(be->resize_bwd(dx, y, 30, 28, s));
    CHECK_SAME_BITS(y.data, y1.data, tensor_bytes(y));
    CHECK_SAME_BITS(dx.data, dx1.data, tensor_bytes(dx));
}

static void test_plan_and_shapes(void)
{
    const struct tensor x = OP_FILLED(7, 1.0f, 0.0f, 2, 4, 5), y = OP_ZEROS(F32, 2, 8, 8);
    const struct tensor none = tensor_3d(NULL, F32, 2, 4, 5), out = tensor_3d(NULL, F32, 2, 8, 8);

    OP_PLAN(be->resize_fwd(out, none, 4, 5, s));
    OP_PLAN(be->resize_bwd(none, out, 4, 5, s));
    log_set_level(LOG_ERROR);
    OP_SHAPE_ERROR(be->resize_fwd(y, x, 5, 5, s));
    OP_SHAPE_ERROR(be->resize_fwd(y, x, 4, 6, s));
    OP_SHAPE_ERROR(be->resize_fwd(y, x, 0, 5, s));
    OP_SHAPE_ERROR(be->resize_fwd(tensor_3d(y.data, F32, 1, 8, 8), x, 4, 5, s));
    OP_SHAPE_ERROR(be->resize_fwd(tensor_3d(y.data, BF16, 2, 8, 8), x, 4, 5, s));
    OP_SHAPE_ERROR(be->resize_bwd(x, tensor_3d(y.data, F32, 2, 0, 8), 4, 5, s));
    OP_SHAPE_ERROR(be->resize_bwd(tensor_2d(x.data, F32, 8, 5), y, 4, 5, s));
}

int main(int argc, char **argv)
{
    be = op_backend(argc, argv);
    test_known();
    test_forward();
    test_adjoint();
    test_gradient_rule();
    test_threads();
    test_plan_and_shapes();
    return check_done("resize");
}

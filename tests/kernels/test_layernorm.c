#include "tests/kernels/op_case.h"

static const float eps = 1e-6f;

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->layernorm_fwd(c->y, c->kept[0], c->kept[1], c->input[0], c->input[1], c->input[2],
                             eps, c->act, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->layernorm_bwd(c->gradient[0], c->gradient[1], c->gradient[2], c->dy, c->input[0],
                             c->input[1], c->input[2], c->kept[0], c->kept[1], c->act, s);
}

static struct op_case layout(int64_t rows, int64_t n_c, float mean, enum activation act)
{
    struct op_case c = { .name = "layernorm",
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = 3,
                         .act = act,
                         .has_bf16 = true,
                         .input_f32 = 6, /* gamma, beta */
                         .kept_f32 = 3 };

    c.input[0] = OP_FILLED(1, 1, mean, rows, n_c);
    /* few channels are sometimes all but equal, where no step is small: draw them apart */
    for (int64_t i = 0; n_c <= 8 && i < rows * n_c; i++)
        ((float *)c.input[0].data)[i] += 1.5f * (float)(i % n_c);
    c.input[1] = OP_FILLED(2, 1, 0.5f, n_c);
    c.input[2] = OP_FILLED(3, 1, 0, n_c);
    c.y = OP_ZEROS(F32, rows, n_c);
    c.kept[0] = OP_ZEROS(F32, rows);
    c.kept[1] = OP_ZEROS(F32, rows);
    return c;
}

static void ask(const struct ops *be, int64_t rows, int64_t n_c, enum activation act)
{
    char name[64];
    struct op_case c = layout(rows, n_c, 0.3f, act);

    snprintf(name, sizeof name, "layernorm %d x %d act %d", (int)rows, (int)n_c, (int)act);
    c.name = name;
    /* GELU's slope is within 3e-7, and a parameter's gradient sums slopes of both signs */
    if (act == ACT_GELU) c.tol = 3e-6;
    op_case_finish(&c);
    op_case_ask(be, &c);
    if (!be->bf16) return;
    /* x in F32, y in BF16: mean, rstd and all gradients as exact as in f32 */
    c.input_f32 = 7;
    c.tol_wide = c.tol;
    op_case_bf16(be, &c);
}

/* Mean ≫ deviation: the mean is off by a rounding of itself, 2^-24 · 30, which is that much more
 * of a deviation of 1/√3; a variance from Σx² would be off by 30 times more again. */
static void far_from_zero(const struct ops *be, int64_t n_c)
{
    struct op_case c = layout(50, n_c, 30, ACT_NONE);

    c.name = "layernorm, mean 30";
    c.has_kinks = true; /* none, but no float differences resolve the slope here */
    c.tol = 30 * 4 * 6e-8;
    op_case_finish(&c);
    op_case_ask(be, &c);
}

/* 1 2 3 6: mean 3, variance 3.5; with eps ½ the deviation is 2. */
static void by_hand(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 1, 4), gamma = OP_ZEROS(F32, 4), beta = OP_ZEROS(F32, 4);
    struct tensor y = OP_ZEROS(F32, 1, 4), mean = OP_ZEROS(F32, 1), rstd = OP_ZEROS(F32, 1);

    memcpy(x.data, (const float[]){ 1, 2, 3, 6 }, 16);
    memcpy(gamma.data, (const float[]){ 1, 2, 3, 4 }, 16);
    memcpy(beta.data, (const float[]){ 0, 0.5f, 0.25f, -1 }, 16);
    OP_RUN(be->layernorm_fwd(y, mean, rstd, x, gamma, beta, 0.5f, ACT_NONE, s));
    CHECK_CLOSE(y.data, ((const float[]){ -1, -0.5f, 0.25f, 5 }), 4, 1e-6);
    CHECK_CLOSE(mean.data, ((const float[]){ 3 }), 1, 1e-6);
    CHECK_CLOSE(rstd.data, ((const float[]){ 0.5f }), 1, 1e-6);
}

static void works_in_place(const struct ops *be)
{
    struct op_case c = layout(40, 16, 1, ACT_GELU), in_place = c;

    op_case_finish(&c);
    OP_RUN(fwd(be, &c, s));
    in_place.input[0] = op_copy(c.input[0]);
    in_place.y = in_place.input[0];
    OP_RUN(fwd(be, &in_place, s));
    CHECK_SAME_BITS(in_place.y.data, c.y.data, tensor_bytes(c.y));
}

static void shapes_are_checked(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 4, 6), g = OP_ZEROS(F32, 6), m = OP_ZEROS(F32, 4);
    struct tensor wide = OP_ZEROS(F32, 4, 7), bytes = OP_ZEROS(U8, 4, 6);
    struct tensor empty = OP_ZEROS(F32, 4, 0), no_c = OP_ZEROS(F32, 0);

    OP_SHAPE_ERROR(be->layernorm_fwd(wide, m, m, x, g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, g, m, x, g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, g, x, g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, m, bytes, g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(bytes, m, m, x, g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, m, op_cast(x, BF16), g, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, m, x, m, g, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, m, x, g, m, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(x, m, m, x, g, g, eps, ACT_RELU, s));
    OP_SHAPE_ERROR(be->layernorm_fwd(empty, m, m, empty, no_c, no_c, eps, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_bwd(wide, g, g, x, x, g, g, m, m, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_bwd(x, m, g, x, x, g, g, m, m, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_bwd(x, g, m, x, x, g, g, m, m, ACT_NONE, s));
    OP_SHAPE_ERROR(be->layernorm_bwd(x, g, g, wide, x, g, g, m, m, ACT_NONE, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const int64_t sizes[][2] = { { 0, 4 },     { 3, 1 },     { 25, 5 },   { 1503, 4 },
                                        { 47, 8 },    { 303, 16 },  { 79, 32 },  { 90, 64 },
                                        { 45, 100 },  { 130, 192 }, { 2, 1281 }, { 37, 768 },
                                        { 19, 1032 }, { 18, 1280 }, { 3, 2056 } };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int act = ACT_NONE; act <= ACT_GELU; act++)
            ask(be, sizes[i][0], sizes[i][1], (enum activation)act);
    far_from_zero(be, 16);
    far_from_zero(be, 99);
    far_from_zero(be, 768);
    by_hand(be);
    works_in_place(be);
    shapes_are_checked(be);
    return check_done("test_layernorm");
}

#include "tests/kernels/op_case.h"

static const float eps = 1e-6f;

enum precision {
    IN_F32,
    IN_BF16,
    MIXED
}; /* the case's number; mixed: x and sum in F32, b and y in BF16 */

/* Both outputs are one tensor of a case: sum, then y. So the derivative is asked of both at once, and
 * dsum and dy are the halves of its gradient. Where rows · C is odd, y does not lie on 16 bytes. */
static struct tensor half(struct tensor both, int which)
{
    struct tensor t = tensor_2d(both.data, both.dtype, both.dim[1], both.dim[2]);

    if (t.data) t.data = (char *)both.data + which * tensor_bytes(t);
    return t;
}

/* y, or dy; where mixed, in the first bytes of its half. */
static struct tensor narrow_half(const struct op_case *c, struct tensor both)
{
    struct tensor t = half(both, 1);

    if (c->number == MIXED) t.dtype = BF16;
    return t;
}

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->residual_layernorm_fwd(half(c->y, 0), narrow_half(c, c->y), c->kept[0], c->kept[1],
                                      c->input[0], c->input[1], c->scale, c->input[2], c->input[3],
                                      eps, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->residual_layernorm_bwd(
        c->gradient[0], c->gradient[1], c->gradient[2], c->gradient[3], half(c->dy, 0),
        narrow_half(c, c->dy), half(c->y, 0), c->input[2], c->kept[0], c->kept[1], c->scale, s);
}

static struct op_case layout(int64_t rows, int64_t n_c, bool scaled)
{
    struct op_case c = { .name = "residual_layernorm",
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = 4,
                         .has_bf16 = true,
                         .input_f32 = 12, /* gamma, beta */
                         .kept_f32 = 3 };

    c.input[0] = OP_FILLED(1, 1, 0.3f, rows, n_c);
    /* few channels are sometimes all but equal, where no step is small: draw them apart */
    for (int64_t i = 0; n_c <= 8 && i < rows * n_c; i++)
        ((float *)c.input[0].data)[i] += 1.5f * (float)(i % n_c);
    c.input[1] = OP_FILLED(2, 0.5f, 0, rows, n_c);
    c.input[2] = OP_FILLED(3, 1, 0.5f, n_c);
    c.input[3] = OP_FILLED(4, 1, 0, n_c);
    if (scaled) c.scale = OP_FILLED(5, 0, 0.75f, 1);
    c.y = OP_ZEROS(F32, 2, rows, n_c);
    c.kept[0] = OP_ZEROS(F32, rows);
    c.kept[1] = OP_ZEROS(F32, rows);
    return c;
}

static void ask(const struct ops *be, int64_t rows, int64_t n_c, bool scaled)
{
    char name[64];
    struct op_case c = layout(rows, n_c, scaled);

    snprintf(name, sizeof name, "residual_layernorm %d x %d, scale %d", (int)rows, (int)n_c,
             scaled);
    c.name = name;
    op_case_finish(&c);
    op_case_ask(be, &c);
}

/* The case run once. */
static struct op_case run(const struct ops *be, enum precision in, int64_t rows, int64_t n_c)
{
    struct op_case c = layout(rows, n_c, true), r;

    op_case_finish(&c);
    r = op_case_rounded(&c, in == IN_BF16);
    r.number = in;
    if (in == MIXED) {
        const struct tensor dy = op_cast(half(r.dy, 1), BF16);

        r.input[1] = op_cast(r.input[1], BF16);
        r.gradient[1].dtype = BF16;
        memcpy(half(r.dy, 1).data, dy.data, (size_t)tensor_bytes(dy));
        /* sums that BF16 would round */
        r.input[0] = c.input[0];
    }
    r = op_case_fresh(&r);
    op_case_forward_backward(be, &r);
    return r;
}

/* Forward, the very bits of residual and layernorm one after the other; backward, as close to them
 * as d's own rounding in between, which the one pass does not do. */
static void is_the_composition(const struct ops *be, enum precision in, int64_t rows, int64_t n_c)
{
    const struct op_case c = run(be, in, rows, n_c);
    const struct tensor none = tensor_none(), sum = half(c.y, 0), y = narrow_half(&c, c.y);
    const struct tensor dsum = half(c.dy, 0), dy = narrow_half(&c, c.dy);
    struct tensor own_sum = op_like(sum), own_y = op_like(y), own_mean = op_like(c.kept[0]);
    struct tensor own_rstd = op_like(c.kept[1]), d = op_copy(dsum), dx = op_like(sum);
    struct tensor db = op_like(y), dgamma = op_like(c.input[2]), dbeta = op_like(c.input[3]);
    const double tol = in == IN_BF16 ? OP_CASE_BF16 : 1e-6; /* of dx */

    OP_RUN(be->residual_fwd(own_sum, c.input[0], c.input[1], c.scale, none, 0, 0, s));
    OP_RUN(be->layernorm_fwd(own_y, own_mean, own_rstd, own_sum, c.input[2], c.input[3], eps,
                             ACT_NONE, s));
    CHECK_SAME_BITS(sum.data, own_sum.data, tensor_bytes(sum));
    CHECK_SAME_BITS(y.data, own_y.data, tensor_bytes(y));
    CHECK_SAME_BITS(c.kept[0].data, own_mean.data, tensor_bytes(own_mean));
    CHECK_SAME_BITS(c.kept[1].data, own_rstd.data, tensor_bytes(own_rstd));
    OP_RUN(be->layernorm_bwd(op_adding(d), dgamma, dbeta, dy, sum, c.input[2], c.input[3], own_mean,
                             own_rstd, ACT_NONE, s));
    OP_RUN(be->residual_bwd(dx, db, d, c.scale, none, 0, 0, s));
    CHECK_CLOSE(op_cast(c.gradient[0], F32).data, op_cast(dx, F32).data, tensor_count(dx), tol);
    CHECK_CLOSE(op_cast(c.gradient[1], F32).data, op_cast(db, F32).data, tensor_count(db),
                in == IN_F32 ? 1e-6 : OP_CASE_BF16);
    CHECK_SAME_BITS(c.gradient[2].data, dgamma.data, tensor_bytes(dgamma));
    CHECK_SAME_BITS(c.gradient[3].data, dbeta.data, tensor_bytes(dbeta));
}

/* dsum none is dsum zero, and dx may lie on dsum, sum on x or b. */
static void works_in_place(const struct ops *be, enum precision in, int64_t rows, int64_t n_c)
{
    const struct op_case c = run(be, in, rows, n_c);
    const struct tensor none = tensor_none(), sum = half(c.y, 0), dy = narrow_half(&c, c.dy);
    const int64_t bytes = tensor_bytes(sum), narrow_bytes = tensor_bytes(dy);
    struct tensor dx = op_like(sum), db = op_like(dy), over = op_copy(half(c.dy, 0));
    struct tensor own_db = op_like(dy), y = op_like(dy);

    OP_RUN(be->residual_layernorm_bwd(over, own_db, none, none, over, dy, sum, c.input[2],
                                      c.kept[0], c.kept[1], c.scale, s));
    CHECK_SAME_BITS(over.data, c.gradient[0].data, bytes);
    CHECK_SAME_BITS(own_db.data, c.gradient[1].data, narrow_bytes);
    memset(over.data, 0, (size_t)bytes);
    OP_RUN(be->residual_layernorm_bwd(dx, db, none, none, none, dy, sum, c.input[2], c.kept[0],
                                      c.kept[1], c.scale, s));
    OP_RUN(be->residual_layernorm_bwd(over, own_db, none, none, over, dy, sum, c.input[2],
                                      c.kept[0], c.kept[1], c.scale, s));
    CHECK_SAME_BITS(over.data, dx.data, bytes);
    CHECK_SAME_BITS(own_db.data, db.data, narrow_bytes);
    for (int operand = 0; operand < (in == MIXED ? 1 : 2); operand++) {
        struct tensor at[2] = { op_copy(c.input[0]), op_copy(c.input[1]) };

        OP_RUN(be->residual_layernorm_fwd(at[operand], y, c.kept[0], c.kept[1], at[0], at[1],
                                          c.scale, c.input[2], c.input[3], eps, s));
        CHECK_SAME_BITS(at[operand].data, sum.data, bytes);
        CHECK_SAME_BITS(y.data, narrow_half(&c, c.y).data, narrow_bytes);
    }
}

/* x + 2 b = 1 2 3 6: mean 3, variance 3.5; with eps ½ the deviation is 2. */
static void by_hand(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 1, 4), b = OP_FILLED(1, 0, 0.5f, 1, 4);
    struct tensor sum = op_like(x), y = op_like(x), scale = OP_FILLED(1, 0, 2, 1);
    struct tensor gamma = OP_ZEROS(F32, 4), beta = OP_ZEROS(F32, 4);
    struct tensor mean = OP_ZEROS(F32, 1), rstd = OP_ZEROS(F32, 1);

    memcpy(x.data, (const float[]){ 0, 1, 2, 5 }, 16);
    memcpy(gamma.data, (const float[]){ 1, 2, 3, 4 }, 16);
    memcpy(beta.data, (const float[]){ 0, 0.5f, 0.25f, -1 }, 16);
    OP_RUN(be->residual_layernorm_fwd(sum, y, mean, rstd, x, b, scale, gamma, beta, 0.5f, s));
    CHECK_CLOSE(sum.data, ((const float[]){ 1, 2, 3, 6 }), 4, 1e-6);
    CHECK_CLOSE(y.data, ((const float[]){ -1, -0.5f, 0.25f, 5 }), 4, 1e-6);
    CHECK_CLOSE(mean.data, ((const float[]){ 3 }), 1, 1e-6);
    CHECK_CLOSE(rstd.data, ((const float[]){ 0.5f }), 1, 1e-6);
}

static void shapes_are_checked(const struct ops *be)
{
    const struct tensor none = tensor_none();
    struct tensor x = OP_ZEROS(F32, 4, 6), g = OP_ZEROS(F32, 6), m = OP_ZEROS(F32, 4);
    struct tensor wide = OP_ZEROS(F32, 4, 7), half_x = op_cast(x, BF16), bytes = OP_ZEROS(U8, 4, 6);
    struct tensor empty = OP_ZEROS(F32, 4, 0), no_c = OP_ZEROS(F32, 0);

    OP_SHAPE_ERROR(be->residual_layernorm_fwd(bytes, x, m, m, x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, wide, m, m, x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, g, m, x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, g, x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, none, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, x, half_x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, half_x, m, m, x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, half_x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(half_x, x, m, m, half_x, x, none, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, x, x, g, g, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, x, x, none, m, g, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_fwd(x, x, m, m, x, x, none, g, m, eps, s));
    OP_SHAPE_ERROR(
        be->residual_layernorm_fwd(empty, empty, m, m, empty, empty, none, no_c, no_c, eps, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(wide, x, g, g, x, x, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, half_x, g, g, x, x, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, x, m, g, x, x, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, x, g, m, x, x, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, x, g, g, wide, x, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, x, g, g, x, none, x, g, m, m, none, s));
    OP_SHAPE_ERROR(be->residual_layernorm_bwd(x, x, g, g, x, x, x, g, g, m, none, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const int64_t sizes[][2] = { { 0, 4 },    { 3, 1 },     { 25, 5 },    { 603, 4 },
                                        { 91, 16 },  { 45, 100 },  { 130, 192 }, { 2, 1281 },
                                        { 37, 768 }, { 20, 1280 }, { 3, 2056 } };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        ask(be, sizes[i][0], sizes[i][1], i % 2);
    for (enum precision in = IN_F32; in <= (be->bf16 ? MIXED : IN_F32); in++) {
        is_the_composition(be, in, 45, 96);
        is_the_composition(be, in, 19, 37);
        is_the_composition(be, in, 37, 1280);
        is_the_composition(be, in, 3, 2056);
        works_in_place(be, in, 35, 320);
        works_in_place(be, in, 19, 37);
    }
    by_hand(be);
    shapes_are_checked(be);
    return check_done("test_residual_layernorm");
}

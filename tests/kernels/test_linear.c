#include "kernels/cpu/activation.h"
#include "tests/kernels/op_case.h"

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->linear_fwd(c->y, c->kept[0], c->input[0], c->input[1], c->input[2], c->act, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct tensor y = c->act == ACT_RELU ? c->y : tensor_none();

    return be->linear_bwd(c->gradient[0], c->gradient[1], c->gradient[2], c->dy, c->input[0],
                          c->input[1], y, c->kept[0], c->act, s);
}

static void ask_about(const struct ops *be, int64_t rows, int64_t n_in, int64_t n_out, bool bias,
                      enum activation act, void (*asks)(const struct ops *, const struct op_case *))
{
    char name[64];
    struct op_case c = { .name = name,
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = 3,
                         .act = act,
                         .has_kinks = act == ACT_RELU,
                         .has_bf16 = true,
                         .input_f32 = 1 << 2,
                         .gradient_f32 = 1 << 1 };

    snprintf(name, sizeof name, "linear %d x %d -> %d bias %d act %d", (int)rows, (int)n_in,
             (int)n_out, bias, (int)act);
    c.input[0] = OP_FILLED(1, 1, 0.2f, rows, n_in);
    c.input[1] = OP_FILLED(2, 1 / sqrtf((float)n_in), 0, n_out, n_in);
    if (bias) c.input[2] = OP_FILLED(3, 1, 0, n_out);
    c.y = OP_ZEROS(F32, rows, n_out);
    if (act == ACT_GELU) c.kept[0] = OP_ZEROS(F32, rows, n_out);
    op_case_finish(&c);
    asks(be, &c);
}

static void ask(const struct ops *be, int64_t rows, int64_t n_in, int64_t n_out, bool bias,
                enum activation act)
{
    ask_about(be, rows, n_in, n_out, bias, act, op_case_ask);
}

/* What only tensor cores have: how operands come to them, and how a product is cut. */
static void ask_bf16(const struct ops *be)
{
    if (!be->bf16) return;
    /* whole runs of 8, every slice of the ring twice, two chunks of a long k; and the same, odd */
    ask_about(be, 600, 272, 264, true, ACT_GELU, op_case_bf16);
    ask_about(be, 601, 285, 265, true, ACT_RELU, op_case_bf16);
    /* few sums over a long k, forward and backward */
    ask_about(be, 9, 600, 24, true, ACT_GELU, op_case_bf16);
    ask_about(be, 9, 24, 601, false, ACT_NONE, op_case_bf16);
    /* sums enough for large tiles, in all three products */
    ask_about(be, 4104, 200, 208, true, ACT_GELU, op_case_bf16);
}

/* Away from its kink ReLU has a derivative: the bias keeps every value's sign. */
static void ask_relu_derivative(const struct ops *be)
{
    struct op_case c = {
        .name = "linear, relu away from 0", .fwd = fwd, .bwd = bwd, .n_inputs = 3, .act = ACT_RELU
    };
    float *b;

    c.input[0] = OP_FILLED(1, 1, 0, 9, 5);
    c.input[1] = OP_FILLED(2, 0.1f, 0, 12, 5);
    c.input[2] = OP_FILLED(3, 0.1f, 0, 12);
    b = c.input[2].data;
    for (int o = 0; o < 12; o++) b[o] += o % 2 ? 2 : -2;
    c.y = OP_ZEROS(F32, 9, 12);
    op_case_finish(&c);
    op_case_ask(be, &c);
}

/* x 1 2 · w 3 4, 5 6, 7 8 and b; Φ(1) from a table. */
static void by_hand(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 1, 2), w = OP_ZEROS(F32, 3, 2), b = OP_ZEROS(F32, 3);
    struct tensor y = OP_ZEROS(F32, 1, 3), pre = OP_ZEROS(F32, 1, 3);
    const float *got = y.data;

    memcpy(x.data, (const float[]){ 1, 2 }, 8);
    memcpy(w.data, (const float[]){ 3, 4, 5, 6, 7, 8 }, 24);
    memcpy(b.data, (const float[]){ -10, -18, -25 }, 12);
    OP_RUN(be->linear_fwd(y, tensor_none(), x, w, b, ACT_NONE, s));
    CHECK(got[0] == 1 && got[1] == -1 && got[2] == -2);
    OP_RUN(be->linear_fwd(y, tensor_none(), x, w, b, ACT_RELU, s));
    CHECK(got[0] == 1 && got[1] == 0 && got[2] == 0);
    OP_RUN(be->linear_fwd(y, pre, x, w, b, ACT_GELU, s));
    CHECK_SAME_BITS(pre.data, ((const float[]){ 1, -1, -2 }), 12);
    CHECK(fabs(got[0] - 0.8413447461) <= 3e-7 && fabs(got[1] + 0.1586552539) <= 3e-7);
}

/* Leading dimensions are folded; a NaN must not be lost on the way through an activation. */
static void folds_and_keeps_nan(const struct ops *be)
{
    struct tensor x = OP_FILLED(1, 1, 0, 2, 3, 4, 7), w = OP_FILLED(2, 1, 0, 5, 7);
    struct tensor flat = x, y = OP_ZEROS(F32, 2, 3, 4, 5), y_flat = OP_ZEROS(F32, 24, 5);
    float *nan_at = y.data;

    flat.n_dims = 2;
    flat.dim[0] = 24;
    flat.dim[1] = 7;
    OP_RUN(be->linear_fwd(y, tensor_none(), x, w, tensor_none(), ACT_NONE, s));
    OP_RUN(be->linear_fwd(y_flat, tensor_none(), flat, w, tensor_none(), ACT_NONE, s));
    CHECK_SAME_BITS(y.data, y_flat.data, tensor_bytes(y));
    ((float *)x.data)[3] = NAN;
    for (int act = ACT_NONE; act <= ACT_RELU; act++) {
        OP_RUN(be->linear_fwd(y, y_flat, x, w, tensor_none(), (enum activation)act, s));
        CHECK(isnan(nan_at[0]) && isnan(nan_at[4]) && !isnan(nan_at[5]));
    }
}

/* The vectorised GELU against libm over all it can meet: 4e-7 is 3 units of erf's last place. */
static void gelu_is_exact(void)
{
    double worst_erf = 0, worst_value = 0, worst_slope = 0;

    for (double v = -16; v <= 16; v += 1.0 / 4096) {
        const double phi = 0.5 + 0.5 * erf(v * M_SQRT1_2);
        const double slope = phi + v * exp(-0.5 * v * v) * 0.3989422804014327;
        const float f = (float)v;
        const double size = fmax(1, fabs(v));

        worst_erf = fmax(worst_erf, fabs(activation_erf(f) - erf(v)));
        worst_value = fmax(worst_value, fabs(activation_gelu(f) - v * phi) / size);
        worst_slope = fmax(worst_slope, fabs(activation_gelu_slope(f) - slope) / size);
    }
    CHECK(worst_erf <= 4e-7);
    CHECK(worst_value <= 3e-7);
    CHECK(worst_slope <= 3e-7);
    for (float v = 16; v < 1e30f; v *= 4) {
        CHECK(activation_gelu(v) == v && fabsf(activation_gelu(-v)) <= 1.2e-7f * v);
        CHECK(fabsf(activation_gelu_slope(v) - 1) <= 2e-7f);
        CHECK(fabsf(activation_gelu_slope(-v)) <= 2e-7f);
    }
    CHECK(isnan(activation_gelu(NAN)) && isnan(activation_gelu_slope(NAN)));
}

static void shapes_are_checked(const struct ops *be)
{
    const struct tensor none = tensor_none();
    struct tensor x = OP_ZEROS(F32, 4, 6), w = OP_ZEROS(F32, 5, 6), b = OP_ZEROS(F32, 5);
    struct tensor y = OP_ZEROS(F32, 4, 5), other = OP_ZEROS(F32, 4, 4), i32 = OP_ZEROS(I32, 4, 6);

    OP_SHAPE_ERROR(be->linear_fwd(other, none, x, w, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_fwd(y, none, i32, w, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_fwd(y, none, x, x, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_fwd(y, none, x, w, x, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_fwd(y, none, x, w, b, ACT_GELU, s)); /* pre is missing */
    OP_SHAPE_ERROR(be->linear_bwd(x, w, b, other, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_bwd(y, w, b, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_bwd(x, x, b, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_bwd(x, w, x, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->linear_bwd(x, w, b, y, x, w, none, none, ACT_RELU, s));
    OP_SHAPE_ERROR(be->linear_bwd(x, w, b, y, x, w, none, other, ACT_GELU, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const int64_t sizes[][3] = { { 1, 1, 1 },     { 0, 5, 3 },     { 7, 5, 3 },
                                        { 33, 17, 65 },  { 256, 24, 72 }, { 700, 19, 131 },
                                        { 65, 192, 48 }, { 2100, 9, 5 },  { 7, 5, 0 },
                                        { 7, 0, 3 } };

    gelu_is_exact();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int act = ACT_NONE; act <= ACT_RELU; act++)
            ask(be, sizes[i][0], sizes[i][1], sizes[i][2], act != ACT_NONE || i % 2,
                (enum activation)act);
    /* weights too many for each lane of a CPU to sum up its own */
    if (strcmp(be->name, "emu") != 0) ask(be, 66, 725, 725, true, ACT_GELU);
    ask_bf16(be);
    ask_relu_derivative(be);
    by_hand(be);
    folds_and_keeps_nan(be);
    shapes_are_checked(be);
    return check_done("test_linear");
}

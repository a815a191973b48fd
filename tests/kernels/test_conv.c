#include "tests/kernels/op_case.h"

static struct tensor y_of(const struct op_case *c)
{
    return c->act == ACT_RELU ? c->y : tensor_none();
}

static enum status patch_fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->patch_conv_fwd(c->y, c->kept[0], c->input[0], c->input[1], c->input[2], c->act, s);
}

static enum status patch_bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->patch_conv_bwd(c->gradient[0], c->gradient[1], c->gradient[2], c->dy, c->input[0],
                              c->input[1], y_of(c), c->kept[0], c->act, s);
}

static enum status same_fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->conv3x3_fwd(c->y, c->input[0], c->input[1], s);
}

static enum status same_bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->conv3x3_bwd(c->gradient[0], c->gradient[1], c->dy, c->input[0], c->input[1], s);
}

static enum status up_fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->upconv_fwd(c->y, c->kept[0], c->input[0], c->input[1], c->input[2], c->act, s);
}

static enum status up_bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->upconv_bwd(c->gradient[0], c->gradient[1], c->gradient[2], c->dy, c->input[0],
                          c->input[1], y_of(c), c->kept[0], c->act, s);
}

static bool only_bf16, f32_images;

static void ask(const struct ops *be, struct op_case c, const char *what, bool bias)
{
    char name[96], x[TENSOR_TEXT];

    snprintf(name, sizeof name, "%s of %s to %d bias %d act %d%s", what, tensor_text(c.input[0], x),
             (int)c.y.dim[3], bias, (int)c.act, c.input_f32 ? ", f32 images" : "");
    c.name = name;
    c.n_inputs = bias ? 3 : 2;
    c.has_kinks = c.act == ACT_RELU;
    c.has_bf16 = true;
    c.input_f32 |= 1 << 2;
    c.gradient_f32 = 1 << 1;
    if (bias) c.input[2] = OP_FILLED(3, 1, 0, c.y.dim[3]);
    if (c.act == ACT_GELU) c.kept[0] = op_like(c.y);
    op_case_finish(&c);
    if (only_bf16)
        op_case_bf16(be, &c);
    else
        op_case_ask(be, &c);
}

static void ask_patch(const struct ops *be, int64_t n, int64_t h, int64_t w, int64_t p,
                      int64_t n_in, int64_t n_out, bool bias, enum activation act)
{
    struct op_case c = { .fwd = patch_fwd, .bwd = patch_bwd, .act = act, .input_f32 = f32_images };

    c.input[0] = OP_FILLED(1, 1, 0.2f, n, h * p, w * p, n_in);
    c.input[1] = OP_FILLED(2, 1 / sqrtf((float)(n_in * p * p)), 0, n_out, n_in, p, p);
    c.y = OP_ZEROS(F32, n, h, w, n_out);
    ask(be, c, "patch_conv", bias);
}

static void ask_same(const struct ops *be, int64_t n, int64_t h, int64_t w, int64_t n_in,
                     int64_t n_out)
{
    struct op_case c = { .fwd = same_fwd, .bwd = same_bwd };

    c.input[0] = OP_FILLED(1, 1, 0.2f, n, h, w, n_in);
    c.input[1] = OP_FILLED(2, 1 / sqrtf((float)n_in * 9), 0, n_out, n_in, 3, 3);
    c.y = OP_ZEROS(F32, n, h, w, n_out);
    ask(be, c, "conv3x3", false);
}

static void ask_up(const struct ops *be, int64_t n, int64_t h, int64_t w, int64_t n_in,
                   int64_t n_out, bool bias, enum activation act)
{
    struct op_case c = { .fwd = up_fwd, .bwd = up_bwd, .act = act };

    c.input[0] = OP_FILLED(1, 1, 0.2f, n, h, w, n_in);
    c.input[1] = OP_FILLED(2, 1 / sqrtf((float)n_in), 0, n_in, n_out, 2, 2);
    c.y = OP_ZEROS(F32, n, 2 * h, 2 * w, n_out);
    ask(be, c, "upconv", bias);
}

/* One input pixel and one weight at a time, against where the formula puts them: the reference
 * and the CPU path cannot share a wrong layout unseen. */
static void lays_out_as_the_formula(const struct ops *be)
{
    const struct tensor none = tensor_none();
    struct tensor x = OP_ZEROS(F32, 1, 4, 6, 2), w = OP_ZEROS(F32, 3, 2, 2, 2);
    struct tensor y = OP_ZEROS(F32, 1, 2, 3, 3);
    float *x_data = x.data, *w_data = w.data, *y_data = y.data;

    x_data[(3 * 6 + 4) * 2 + 1] = 5;           /* pixel (3,4), channel 1: i 1, a 1, j 2, b 0 */
    w_data[((2 * 2 + 1) * 2 + 1) * 2 + 0] = 7; /* o 2, c 1, a 1, b 0 */
    OP_RUN(be->patch_conv_fwd(y, none, x, w, none, ACT_NONE, s));
    for (int i = 0; i < 2 * 3 * 3; i++) CHECK(y_data[i] == (i == (1 * 3 + 2) * 3 + 2 ? 35 : 0));

    struct tensor w3 = OP_ZEROS(F32, 3, 2, 3, 3), y3 = OP_ZEROS(F32, 1, 4, 6, 3);

    ((float *)w3.data)[((2 * 2 + 1) * 3 + 0) * 3 + 2] = 7; /* a 0, b 2: from above, right */
    y_data = y3.data;
    x_data[(3 * 6 + 4) * 2 + 1] = 0;
    x_data[(2 * 6 + 4) * 2 + 1] = 5;
    OP_RUN(be->conv3x3_fwd(y3, x, w3, s));
    for (int i = 0; i < 4 * 6 * 3; i++) CHECK(y_data[i] == (i == (3 * 6 + 3) * 3 + 2 ? 35 : 0));

    struct tensor w2 = OP_ZEROS(F32, 2, 3, 2, 2), y2 = OP_ZEROS(F32, 1, 8, 12, 3);

    ((float *)w2.data)[((1 * 3 + 2) * 2 + 1) * 2 + 0] = 7; /* c 1, o 2, a 1, b 0 */
    y_data = y2.data;
    OP_RUN(be->upconv_fwd(y2, none, x, w2, none, ACT_NONE, s));
    for (int i = 0; i < 8 * 12 * 3; i++) CHECK(y_data[i] == (i == (5 * 12 + 8) * 3 + 2 ? 35 : 0));
}

static void shapes_are_checked(const struct ops *be)
{
    const struct tensor none = tensor_none();
    struct tensor x = OP_ZEROS(F32, 1, 4, 6, 2), w = OP_ZEROS(F32, 3, 2, 2, 2);
    struct tensor y = OP_ZEROS(F32, 1, 2, 3, 3), b = OP_ZEROS(F32, 3);
    struct tensor odd = OP_ZEROS(F32, 1, 5, 6, 2), w3 = OP_ZEROS(F32, 3, 2, 3, 3);
    struct tensor y3 = OP_ZEROS(F32, 1, 4, 6, 3), w2 = OP_ZEROS(F32, 2, 3, 2, 2);
    struct tensor y2 = OP_ZEROS(F32, 1, 8, 12, 3), w_none = OP_ZEROS(F32, 3, 2, 0, 0);

    OP_SHAPE_ERROR(be->patch_conv_fwd(y3, none, x, w, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_fwd(y, none, odd, w, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_fwd(y, none, x, w3, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_fwd(y, none, x, w_none, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_fwd(y, none, x, w, y, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_fwd(y, none, x, w, b, ACT_GELU, s));
    OP_SHAPE_ERROR(be->patch_conv_bwd(odd, w, b, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_bwd(x, w3, b, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_bwd(x, w, y, y, x, w, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->patch_conv_bwd(x, w, b, y, x, w, none, none, ACT_RELU, s));
    OP_SHAPE_ERROR(be->conv3x3_fwd(y, x, w3, s));
    OP_SHAPE_ERROR(be->conv3x3_fwd(y3, x, w, s));
    OP_SHAPE_ERROR(be->conv3x3_bwd(x, w3, y, x, w3, s));
    OP_SHAPE_ERROR(be->conv3x3_bwd(y3, w3, y3, x, w3, s));
    OP_SHAPE_ERROR(be->upconv_fwd(y3, none, x, w2, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->upconv_fwd(y2, none, x, w3, b, ACT_NONE, s));
    OP_SHAPE_ERROR(be->upconv_fwd(y2, none, x, w2, w2, ACT_NONE, s));
    OP_SHAPE_ERROR(be->upconv_bwd(x, w3, b, y2, x, w2, none, none, ACT_NONE, s));
    OP_SHAPE_ERROR(be->upconv_bwd(x, w2, b, y2, x, w2, none, y3, ACT_GELU, s));

    /* beside BF16, F32 is for patch_conv's images alone */
    struct tensor x16 = OP_ZEROS(BF16, 1, 4, 6, 2), w16 = OP_ZEROS(BF16, 3, 2, 3, 3);
    struct tensor y16 = OP_ZEROS(BF16, 1, 4, 6, 3);

    OP_SHAPE_ERROR(be->conv3x3_bwd(x, w3, y16, x16, w16, s));
    OP_SHAPE_ERROR(be->conv3x3_fwd(y16, x, w16, s));
}

/* What only tensor cores have: how operands come to them, how a product is cut, and images in F32
 * beside weights in BF16. */
static void ask_bf16(const struct ops *be)
{
    only_bf16 = true;
    for (int f32 = 0; f32 < 2; f32++) {
        f32_images = f32;
        ask_patch(be, 2, 5, 7, 4, 3, 7, true, ACT_NONE); /* nothing is a run of 8 */
        ask_patch(be, 1, 3, 5, 16, 3, 24, true, ACT_GELU);
        /* an image is rounded on its way: that may lift a value over ReLU's kink */
        ask_patch(be, 1, 4, 20, 2, 4, 72, true, f32 ? ACT_NONE : ACT_RELU);
        ask_patch(be, 1, 9, 9, 1, 72, 80, false, ACT_NONE); /* weights as they are kept */
        ask_patch(be, 2, 4, 513, 2, 36, 136, true, ACT_GELU);
    }
    f32_images = false;
    ask_same(be, 2, 9, 7, 40, 72);
    ask_same(be, 2, 4, 513, 16, 136);
    ask_same(be, 2, 4, 513, 136, 16);
    ask_up(be, 2, 3, 17, 72, 24, true, ACT_GELU);
    ask_up(be, 2, 4, 513, 136, 36, true, ACT_RELU);
    only_bf16 = false;
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    lays_out_as_the_formula(be);
    ask_patch(be, 2, 3, 5, 4, 3, 7, true, ACT_NONE);
    ask_same(be, 2, 5, 7, 3, 4);
    ask_up(be, 2, 3, 5, 7, 3, true, ACT_NONE);
    if (be->bf16) ask_bf16(be);
    ask_patch(be, 3, 6, 5, 2, 1, 4, true, ACT_GELU);
    ask_patch(be, 2, 16, 16, 1, 24, 16, false, ACT_NONE);
    ask_patch(be, 1, 4, 4, 16, 3, 24, true, ACT_RELU);
    ask_patch(be, 0, 4, 4, 2, 3, 5, true, ACT_NONE);
    ask_same(be, 1, 1, 1, 2, 3);
    ask_same(be, 11, 16, 16, 8, 6); /* more images than one chunk holds */
    ask_same(be, 0, 3, 3, 2, 2);
    ask_up(be, 3, 16, 16, 16, 4, true, ACT_GELU);
    ask_up(be, 1, 1, 1, 1, 1, false, ACT_NONE);
    ask_up(be, 2, 4, 3, 5, 6, true, ACT_RELU);
    ask_up(be, 0, 4, 4, 2, 3, true, ACT_GELU);
    shapes_are_checked(be);
    return check_done("test_conv");
}

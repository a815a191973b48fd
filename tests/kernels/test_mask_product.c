#include "tests/kernels/op_case.h"

/* The tokens are inputs 0 … n_h − 1, the image features follow. */
static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->mask_product_fwd(c->y, c->input, c->n_inputs - 1, c->input[c->n_inputs - 1], s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const int n_h = c->n_inputs - 1;

    return be->mask_product_bwd(c->gradient, c->gradient[n_h], c->dy, c->input, n_h, c->input[n_h],
                                s);
}

static void ask(const struct ops *be, int64_t n_m, int n_h, int64_t h, int64_t w, int64_t n_c)
{
    char name[64];
    struct op_case c = {
        .name = name, .fwd = fwd, .bwd = bwd, .n_inputs = n_h + 1, .has_bf16 = true, .y_f32 = true
    };

    snprintf(name, sizeof name, "mask_product %d x %d, %d x %d, C %d", (int)n_m, n_h, (int)h,
             (int)w, (int)n_c);
    for (int k = 0; k < n_h; k++) c.input[k] = OP_FILLED(1 + (uint64_t)k, 1, 0.1f, n_m, n_c);
    c.input[n_h] = OP_FILLED(20, 1, 0.2f, n_m, h, w, n_c);
    c.y = OP_ZEROS(F32, n_m, n_h, h, w);
    op_case_finish(&c);
    op_case_ask(be, &c);
}

/* Two masks, two tokens, three pixels of two channels: 100·(token's own) + pixel's own. */
static void by_hand(const struct ops *be)
{
    struct tensor h[2] = { OP_ZEROS(F32, 2, 2), OP_ZEROS(F32, 2, 2) };
    struct tensor u = OP_ZEROS(F32, 2, 1, 3, 2), y = OP_ZEROS(F32, 2, 2, 1, 3);

    memcpy(h[0].data, (const float[]){ 100, 1, 200, 1 }, 16);
    memcpy(h[1].data, (const float[]){ 300, 2, 400, 2 }, 16);
    memcpy(u.data, (const float[]){ 1, 5, 1, 6, 1, 7, 2, 8, 2, 9, 2, 10 }, 48);
    OP_RUN(be->mask_product_fwd(y, h, 2, u, s));
    CHECK_SAME_BITS(y.data,
                    ((const float[]){ 105, 106, 107, 310, 312, 314, 408, 409, 410, 816, 818, 820 }),
                    48);
}

static void shapes_are_checked(const struct ops *be)
{
    struct tensor h[9], dh[9], u = OP_ZEROS(F32, 2, 3, 4, 5), y = OP_ZEROS(F32, 2, 2, 3, 4);
    struct tensor y9 = OP_ZEROS(F32, 2, 9, 3, 4), y0 = OP_ZEROS(F32, 2, 0, 3, 4);

    for (int k = 0; k < 9; k++) h[k] = dh[k] = OP_ZEROS(F32, 2, 5);
    OP_SHAPE_ERROR(be->mask_product_fwd(y, h, 3, u, s));
    OP_SHAPE_ERROR(be->mask_product_fwd(y9, h, 9, u, s));
    OP_SHAPE_ERROR(be->mask_product_fwd(y0, h, 0, u, s));
    OP_SHAPE_ERROR(be->mask_product_fwd(y, h, 2, y, s));
    OP_SHAPE_ERROR(be->mask_product_bwd(dh, y, y, h, 2, u, s));
    OP_SHAPE_ERROR(be->mask_product_bwd(dh, u, u, h, 2, u, s));
    dh[1] = OP_ZEROS(F32, 2, 6);
    OP_SHAPE_ERROR(be->mask_product_bwd(dh, u, y, h, 2, u, s));
    h[1] = OP_ZEROS(I32, 2, 5);
    OP_SHAPE_ERROR(be->mask_product_fwd(y, h, 2, u, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    ask(be, 3, 4, 16, 16, 16);
    ask(be, 2, 1, 33, 35, 8); /* more pixels than one piece of work */
    ask(be, 5, 8, 3, 7, 5);
    ask(be, 2, 3, 9, 5, 37);
    ask(be, 2, 3, 9, 7, 48);
    ask(be, 1, 1, 1, 1, 1);
    ask(be, 0, 2, 3, 4, 5);
    by_hand(be);
    shapes_are_checked(be);
    return check_done("test_mask_product");
}

/* The reference is the plain ops one after another, so that a backend as near as this to it is as
 * near to them. */
#include "tests/kernels/op_case.h"

enum { X, W1, B1, GAMMA, BETA, W2, B2, H }; /* the inputs; the tokens are the last */

static struct upscale_weights weights(const struct tensor *t)
{
    return (struct upscale_weights){ t[W1], t[B1], t[GAMMA], t[BETA], t[W2], t[B2] };
}

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct upscale_weights w = weights(c->input);

    return be->upscale_fwd(c->y, c->input[X], &w, c->input + H, c->n_inputs - H, c->p, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct upscale_weights w = weights(c->input), dw = weights(c->gradient);

    return be->upscale_bwd(c->gradient[X], &dw, c->gradient + H, c->dy, c->input[X], &w,
                           c->input + H, c->n_inputs - H, c->p, s);
}

struct shape {
    int64_t n_m, h, w, n_c, n_1, n_2;
    int n_h;
    bool has_bf16;
};

static struct op_case make(struct shape z, char name[128])
{
    const uint32_t f32 = 1u << B1 | 1u << GAMMA | 1u << BETA | 1u << B2;
    struct op_case c = { .name = name, .fwd = fwd, .bwd = bwd, .n_inputs = H + z.n_h };

    snprintf(name, 128, "upscale %d x %d, %d x %d, C %d %d %d", (int)z.n_m, z.n_h, (int)z.h,
             (int)z.w, (int)z.n_c, (int)z.n_1, (int)z.n_2);
    /* sums of about unit size, so that GELU is met where it bends */
    c.input[X] = OP_FILLED(1, 1, 0.1f, z.n_m, z.h, z.w, z.n_c);
    c.input[W1] = OP_FILLED(2, 2 / sqrtf((float)z.n_c), 0, z.n_c, z.n_1, 2, 2);
    c.input[B1] = OP_FILLED(3, 0.5f, 0, z.n_1);
    c.input[GAMMA] = OP_FILLED(4, 0.5f, 1, z.n_1);
    c.input[BETA] = OP_FILLED(5, 0.5f, 0.1f, z.n_1);
    c.input[W2] = OP_FILLED(6, 3 / sqrtf((float)z.n_1), 0, z.n_1, z.n_2, 2, 2);
    c.input[B2] = OP_FILLED(7, 0.5f, 0, z.n_2);
    for (int k = 0; k < z.n_h; k++)
        c.input[H + k] = OP_FILLED(8 + (uint64_t)k, 1, 0.1f, z.n_m, z.n_2);
    c.y = OP_ZEROS(F32, z.n_m, z.n_h, 4 * z.h, 4 * z.w);
    c.p = 1e-2f; /* eps */
    op_case_finish(&c);
    /* dy leans to one side: a sum over pixels of terms that cancel would be as far off as the terms'
     * rounding, in bf16 1e-2 of what is left for the few elements of dh */
    op_filled(c.dy, 77, 1, 0.5f);
    /* f32: each of four ops in a row rounds what lies between to 2^-24, and norms and slopes add to
     * it; the CPU's erf is within 4e-7 */
    c.tol = 4e-6;
    c.has_bf16 = z.has_bf16;
    c.y_f32 = true;
    c.input_f32 = f32;
    c.gradient_f32 = f32 | 1u << W1 | 1u << W2;
    return c;
}

static void ask(const struct ops *be, struct shape z)
{
    char name[128];
    const struct op_case c = make(z, name);

    op_case_ask(be, &c);
}

/* A large shape is asked less: as the reference, and the same bits again. */
static void ask_large(const struct ops *be, struct shape z)
{
    char name[128];
    const struct op_case c = make(z, name), wide = op_case_rounded(&c, false);
    const struct op_case mine = be->bf16 ? op_case_rounded(&c, true) : wide;
    const struct op_case got = op_case_fresh(&mine), again = op_case_fresh(&mine);
    struct op_case ref = op_case_fresh(&wide);

    if (be->bf16) ref.tol = OP_CASE_BF16;
    op_case_reference(be, &ref, &got);
    op_case_forward_backward(be, &again);
    op_case_bits(&ref, "y again", again.y, got.y);
    for (int k = 0; k < c.n_inputs; k++)
        op_case_bits(&ref, "gradient again", again.gradient[k], got.gradient[k]);
}

static void shapes_are_checked(const struct ops *be)
{
    char name[128];
    struct op_case c = make((struct shape){ 2, 2, 3, 8, 4, 2, 2, false }, name);
    const struct tensor y = c.y, x = c.input[X], *const h = c.input + H, *const dh = c.gradient + H;
    const struct upscale_weights w = weights(c.input), dw = weights(c.gradient);
    struct tensor few = x, bytes = x, h_wrong[2] = { h[0], x };

    few.dim[3] = 7;
    bytes.dtype = I32;
    OP_SHAPE_ERROR(be->upscale_fwd(x, x, &w, h, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, few, &w, h, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, bytes, &w, h, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, x, &w, h, 1, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, x, &w, h, 0, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, x, &w, h, 9, 1, s));
    OP_SHAPE_ERROR(be->upscale_fwd(y, x, &w, h_wrong, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_bwd(few, &dw, dh, y, x, &w, h, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_bwd(x, &dw, dh, x, x, &w, h, 2, 1, s));
    OP_SHAPE_ERROR(be->upscale_bwd(x, &dw, h_wrong, y, x, &w, h, 2, 1, s));
    for (int k = W1; k < H; k++) {
        const struct tensor kept = c.input[k];
        struct upscale_weights wrong;

        c.input[k] = x;
        wrong = weights(c.input);
        OP_SHAPE_ERROR(be->upscale_fwd(y, x, &wrong, h, 2, 1, s));
        OP_SHAPE_ERROR(be->upscale_bwd(x, &wrong, dh, y, x, &w, h, 2, 1, s));
        OP_SHAPE_ERROR(be->upscale_bwd(x, &dw, dh, y, x, &wrong, h, 2, 1, s));
        c.input[k] = kept;
    }
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    ask(be, (struct shape){ 2, 3, 5, 32, 8, 4, 3, true });
    ask(be, (struct shape){ 3, 1, 3, 5, 6, 3, 4, false });
    ask(be, (struct shape){ 0, 2, 2, 16, 4, 2, 1, true });
    ask_large(be, (struct shape){ 2, 8, 8, 16, 8, 4, 1, true });  /* one tile to the last pixel */
    ask_large(be, (struct shape){ 2, 5, 13, 16, 8, 4, 1, true }); /* and a pixel beyond */
    ask_large(be, (struct shape){ 1, 2, 3, 8, 20, 20, MASK_PRODUCT_MAX, true });
    ask_large(be, (struct shape){ 2, 11, 13, 40, 12, 7, 4, true }); /* several tiles and blocks */
    ask_large(be, (struct shape){ 2, 5, 7, 96, 24, 12, 5, true });
    ask_large(be, (struct shape){ 1, 11, 8, 256, 64, 32, 1, true });
    shapes_are_checked(be);
    return check_done("test_upscale");
}

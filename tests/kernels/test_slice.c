#include "tests/kernels/op_case.h"

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->slice_fwd(c->y, c->input[0], c->number, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->slice_bwd(c->gradient[0], c->dy, c->number, s);
}

static void ask(const struct ops *be, int64_t n_m, int64_t n_all, int64_t n_part, int64_t n_c,
                int64_t first)
{
    char name[64];
    struct op_case c = { .name = name,
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = 1,
                         .number = first,
                         .same_bits = true,
                         .has_bf16 = true };

    snprintf(name, sizeof name, "slice %d of %d from %d", (int)n_part, (int)n_all, (int)first);
    c.input[0] = OP_FILLED(1, 1, 0, n_m, n_all, n_c);
    c.y = OP_ZEROS(F32, n_m, n_part, n_c);
    op_case_finish(&c);
    op_case_ask(be, &c);
    /* x and y in F32 and BF16, each way: what is not BF16 here is asked above */
    for (uint32_t wide = 1; wide < 3 && be->bf16; wide++) {
        c.input_f32 = wide & 1;
        c.y_f32 = wide >> 1;
        op_case_bf16(be, &c);
    }
}

static void takes_the_tokens_named(const struct ops *be)
{
    struct tensor x = OP_FILLED(1, 1, 0, 2, 5, 3), y = OP_ZEROS(F32, 2, 2, 3);
    const float *x_data = x.data, *y_data = y.data;

    OP_RUN(be->slice_fwd(y, x, 1, s));
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < 6; i++) CHECK(y_data[m * 6 + i] == x_data[m * 15 + 3 + i]);
}

static void shapes_are_checked(const struct ops *be)
{
    struct tensor x = OP_ZEROS(F32, 2, 5, 3), y = OP_ZEROS(F32, 2, 2, 3);

    OP_SHAPE_ERROR(be->slice_fwd(y, x, 4, s));
    OP_SHAPE_ERROR(be->slice_fwd(y, x, -1, s));
    OP_SHAPE_ERROR(be->slice_fwd(y, x, INT64_MAX, s));
    OP_SHAPE_ERROR(be->slice_fwd(OP_ZEROS(F32, 2, 6, 3), x, 0, s));
    OP_SHAPE_ERROR(be->slice_fwd(OP_ZEROS(F32, 1, 2, 3), x, 0, s));
    OP_SHAPE_ERROR(be->slice_fwd(OP_ZEROS(F32, 2, 2, 4), x, 0, s));
    OP_SHAPE_ERROR(be->slice_fwd(OP_ZEROS(I32, 2, 2, 3), x, 0, s));
    OP_SHAPE_ERROR(be->slice_fwd(y, OP_ZEROS(F32, 10, 3), 0, s));
    OP_SHAPE_ERROR(be->slice_bwd(x, y, 4, s));
    OP_SHAPE_ERROR(be->slice_bwd(OP_ZEROS(I32, 2, 5, 3), y, 0, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    ask(be, 3, 7, 1, 5, 0);
    ask(be, 3, 7, 4, 5, 3);
    ask(be, 16, 9, 3, 128, 1);
    ask(be, 2, 4, 4, 3, 0);
    ask(be, 2, 3, 2, 3, 1);    /* a mask is fours and one */
    ask(be, 1030, 5, 3, 3, 2); /* many, and up to the end */
    ask(be, 2, 4, 0, 3, 4);
    ask(be, 0, 4, 2, 3, 1);
    takes_the_tokens_named(be);
    shapes_are_checked(be);
    return check_done("test_slice");
}

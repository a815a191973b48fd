#include "kernels/base/rng.h"
#include "tests/kernels/op_case.h"

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->residual_fwd(c->y, c->input[0], c->input[1], c->scale, c->key, c->p, c->number, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->residual_bwd(c->gradient[0], c->gradient[1], c->dy, c->scale, c->key, c->p,
                            c->number, s);
}

static enum status add_fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->add_fwd(c->y, c->input[0], c->input[1], s);
}

static enum status add_bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    return be->add_bwd(c->gradient[0], c->gradient[1], c->dy, s);
}

static struct tensor key_of(int64_t seed, int64_t stream)
{
    struct tensor key = OP_ZEROS(I64, 2);

    ((int64_t *)key.data)[0] = seed;
    ((int64_t *)key.data)[1] = stream;
    return key;
}

static void ask(const struct ops *be, int64_t rows, int64_t cols, bool with_x, bool scaled, float p)
{
    char name[96];
    struct op_case c = { .name = name,
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = 2,
                         .p = p,
                         .number = 1234567,
                         .tol = 2e-7,
                         .has_bf16 = true };

    snprintf(name, sizeof name, "residual %d x %d, x %d, scale %d, p %g", (int)rows, (int)cols,
             with_x, scaled, (double)p);
    if (with_x) c.input[0] = OP_FILLED(1, 1, 0, rows, cols);
    c.input[1] = OP_FILLED(2, 1, 0.3f, rows, cols);
    if (scaled) c.scale = OP_FILLED(3, 0, 1.25f, 1);
    if (p != 0) c.key = key_of(-17, INT64_MAX - 5);
    c.y = OP_ZEROS(F32, rows, cols);
    op_case_finish(&c);
    op_case_ask(be, &c);
    if (!be->bf16) return;
    /* the stream in F32, the branch in BF16: y and dx as exact as in f32 */
    c.input_f32 = 1;
    c.y_f32 = true;
    c.tol_wide = c.tol;
    op_case_bf16(be, &c);
}

/* Element i is kept when the header says so, on any backend; about 1 − p of all are. */
static void drops_as_the_header_says(const struct ops *be)
{
    enum { N = 100003 };
    const float p = 0.3f;
    const struct rng_key key = rng_sub((struct rng_key){ 5, 6 }, 9);
    struct tensor b = OP_FILLED(1, 0, 1, N), y = OP_ZEROS(F32, N);
    const float *y_data = y.data;
    int64_t n_kept = 0, n_wrong = 0;

    OP_RUN(be->residual_fwd(y, tensor_none(), b, tensor_none(), key_of(5, 6), p, 9, s));
    for (int64_t i = 0; i < N; i++) {
        const bool kept = rng_uniform(key, (uint64_t)i) >= p;

        n_kept += kept;
        n_wrong += !(fabsf(y_data[i] - (kept ? 1 / (1 - p) : 0)) <= 1e-6f);
    }
    CHECK(n_wrong == 0);
    CHECK(fabs((double)n_kept / N - 0.7) <= 5 * sqrt(0.21 / N)); /* five standard deviations */

    const float own = rng_uniform(key, 4321); /* drawn exactly: kept */

    OP_RUN(be->residual_fwd(y, tensor_none(), b, tensor_none(), key_of(5, 6), own, 9, s));
    CHECK(own > 0 && fabsf(y_data[4321] * (1 - own) - 1) <= 1e-6f);
}

static void works_in_place(const struct ops *be)
{
    struct tensor x = OP_FILLED(1, 1, 0, 999), b = OP_FILLED(2, 1, 0, 999);
    struct tensor y = OP_ZEROS(F32, 999), over_x = op_copy(x), over_b = op_copy(b);
    const struct tensor none = tensor_none(), key = key_of(1, 2);

    OP_RUN(be->residual_fwd(y, x, b, none, key, 0.5f, 0, s));
    OP_RUN(be->residual_fwd(over_x, over_x, b, none, key, 0.5f, 0, s));
    OP_RUN(be->residual_fwd(over_b, x, over_b, none, key, 0.5f, 0, s));
    CHECK_SAME_BITS(over_x.data, y.data, tensor_bytes(y));
    CHECK_SAME_BITS(over_b.data, y.data, tensor_bytes(y));
    over_x = op_copy(x);
    OP_RUN(be->add_fwd(y, x, b, s));
    OP_RUN(be->add_fwd(over_x, over_x, b, s));
    CHECK_SAME_BITS(over_x.data, y.data, tensor_bytes(y));
}

/* In bf16 every operand is F32 or BF16 on its own: all eight ways, F32 named by the bits of a b y;
 * and a gradient may be collected in F32 for an operand that is BF16. */
static void ask_mixed(const struct ops *be, const struct op_case *in_f32)
{
    for (uint32_t wide = 0; wide < 7 && be->bf16; wide++) {
        struct op_case c = *in_f32;

        c.input_f32 = wide & 3;
        c.gradient_f32 = wide == 0 ? 1 : 0;
        c.y_f32 = wide >> 2;
        op_case_bf16(be, &c);
    }
}

static void ask_add(const struct ops *be, struct tensor y, struct tensor a, struct tensor b)
{
    char name[256], t[3][TENSOR_TEXT];
    struct op_case c = { .name = name,
                         .fwd = add_fwd,
                         .bwd = add_bwd,
                         .n_inputs = 2,
                         .y = y,
                         .tol = 2e-7,
                         .has_bf16 = true };

    snprintf(name, sizeof name, "add %s + %s to %s", tensor_text(a, t[0]), tensor_text(b, t[1]),
             tensor_text(y, t[2]));
    c.input[0] = op_filled(a, 1, 1, 0);
    c.input[1] = op_filled(b, 2, 1, 0);
    op_case_finish(&c);
    op_case_ask(be, &c);
    if (tensor_count(y) < 4000) ask_mixed(be, &c);
}

static void shapes_are_checked(const struct ops *be)
{
    const struct tensor none = tensor_none();
    struct tensor x = OP_ZEROS(F32, 4, 6), flat = OP_ZEROS(F32, 24), one = OP_ZEROS(F32, 1);
    struct tensor bytes = OP_ZEROS(U8, 4, 6), key = key_of(1, 2), row = OP_ZEROS(F32, 6);

    OP_SHAPE_ERROR(be->residual_fwd(x, flat, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, flat, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(bytes, x, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, x, row, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, x, one, none, 0.5f, 0, s)); /* no key */
    OP_SHAPE_ERROR(be->residual_fwd(x, x, x, one, row, 0.5f, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, x, one, key, 1, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, x, one, key, NAN, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, op_cast(x, BF16), x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(op_cast(x, BF16), x, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_fwd(x, x, bytes, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_bwd(op_cast(x, BF16), x, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_bwd(flat, x, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->residual_bwd(x, flat, x, none, none, 0, 0, s));
    OP_SHAPE_ERROR(be->add_fwd(x, flat, x, s));
    OP_SHAPE_ERROR(be->add_fwd(x, x, OP_ZEROS(F32, 4), s));
    OP_SHAPE_ERROR(be->add_fwd(x, x, OP_ZEROS(F32, 2, 6), s));
    OP_SHAPE_ERROR(be->add_bwd(x, bytes, x, s));
    OP_SHAPE_ERROR(be->add_bwd(row, x, flat, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    ask(be, 300, 111, true, true, 0.1f);
    ask(be, 5, 7, true, false, 0.5f);
    ask(be, 300, 111, false, true, 0.1f);
    ask(be, 300, 111, true, true, 0);
    ask(be, 4, 600, true, true, 0.2f); /* whole lots */
    ask(be, 1, 1, false, false, 0);
    ask(be, 0, 3, true, true, 0.1f);
    drops_as_the_header_says(be);
    works_in_place(be);
    ask_add(be, OP_ZEROS(F32, 5, 7, 11), OP_ZEROS(F32, 5, 7, 11), OP_ZEROS(F32, 5, 7, 11));
    ask_add(be, OP_ZEROS(F32, 5, 70, 110), OP_ZEROS(F32, 5, 70, 110), OP_ZEROS(F32, 70, 110));
    ask_add(be, OP_ZEROS(F32, 5, 70, 110), OP_ZEROS(F32, 1, 70, 110), OP_ZEROS(F32, 5, 70, 110));
    ask_add(be, OP_ZEROS(F32, 1030, 3), OP_ZEROS(F32, 3), OP_ZEROS(F32, 1030, 3));
    ask_add(be, OP_ZEROS(F32, 3, 16, 40), OP_ZEROS(F32, 16, 40), OP_ZEROS(F32, 3, 16, 40));
    ask_add(be, OP_ZEROS(F32, 3, 4), OP_ZEROS(F32, 4), OP_ZEROS(F32, 1, 4));
    ask_add(be, OP_ZEROS(F32, 1, 4), OP_ZEROS(F32, 4), OP_ZEROS(F32, 1, 4));
    ask_add(be, OP_ZEROS(F32, 0, 4), OP_ZEROS(F32, 4), OP_ZEROS(F32, 0, 4));
    ask_add(be, OP_ZEROS(F32, 3, 0), OP_ZEROS(F32, 0), OP_ZEROS(F32, 3, 0));
    shapes_are_checked(be);
    return check_done("test_residual");
}

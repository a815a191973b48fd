/* The reference and the CPU make keys and values, CUDA absorbs their projections: that they agree
 * is the proof that both are the same function. */
#include "kernels/token_to_image_check.h"
#include "tests/kernels/op_case.h"

enum { Q, X, PE, WK, BK, WV, BV, N_INPUTS };
enum { LSE, Z };

struct problem {
    int64_t m, mx, t, n_x, c;
    int heads;
    int64_t d;
    enum { ALL, NO_SLOPE, WIDE } asked; /* WIDE: where there is bf16, in bf16 alone */
};

/* CUDA's result goes through a chain of eight roundings of 1.7e-3 of the norm: of x + pe (twice in it:
 * in scores, and in what slopes are summed over), rows, weights, z, dz, slopes, and itself. As they are
 * independent, that is 4.7e-3; sums of few elements scatter around it by half. */
#define TOL_BF16 8e-3

static struct token_to_image_weights weights_of(const struct tensor *t)
{
    return (struct token_to_image_weights){ t[WK], t[BK], t[WV], t[BV] };
}

/* number: heads */
static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct token_to_image_weights w = weights_of(c->input);

    return be->token_to_image_fwd(c->y, c->kept[LSE], c->kept[Z], c->input[Q], c->input[X],
                                  c->input[PE], &w, (int)c->number, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct token_to_image_weights w = weights_of(c->input), dw = weights_of(c->gradient);

    return be->token_to_image_bwd(c->gradient[Q], c->gradient[X], &dw, c->dy, c->y, c->kept[LSE],
                                  c->kept[Z], c->input[Q], c->input[X], c->input[PE], &w,
                                  (int)c->number, s);
}

/* Without bk's gradient, of which zero is all there is to ask: bias_gradient does. */
static struct op_case case_of(const struct problem *p)
{
    const int64_t inner = p->heads * p->d;
    const float spread = sqrtf(3 / (float)p->c);
    struct op_case c = { .name = "token_to_image",
                         .fwd = fwd,
                         .bwd = bwd,
                         .n_inputs = N_INPUTS,
                         .number = p->heads,
                         .has_bf16 = true,
                         .has_kinks = p->asked != ALL,
                         .tol_bf16 = TOL_BF16,
                         .input_f32 = 1u << BK | 1u << BV,
                         .gradient_f32 = 1u << WK | 1u << WV,
                         .kept_f32 = 1u << LSE };

    c.input[Q] = OP_FILLED(1, 2, 0.2f, p->m, p->t, inner);
    c.input[X] = OP_FILLED(2, 1, 0.1f, p->mx, p->n_x, p->c);
    c.input[PE] = OP_FILLED(3, 1, 0, p->n_x, p->c);
    c.input[WK] = OP_FILLED(4, spread, 0, inner, p->c);
    c.input[BK] = OP_FILLED(5, 1, 0.3f, inner);
    c.input[WV] = OP_FILLED(6, spread, 0, inner, p->c);
    c.input[BV] = OP_FILLED(7, 0.5f, 0, inner);
    c.y = OP_ZEROS(F32, p->m, p->t, inner);
    c.kept[LSE] = OP_ZEROS(F32, p->m, p->heads, p->t);
    c.kept[Z] = OP_ZEROS(F32, p->m, p->heads, p->t, p->c);
    op_case_finish(&c);
    c.gradient[PE] = c.gradient[BK] = tensor_none();
    return c;
}

static void ask(const struct ops *be, const struct problem *p)
{
    char name[96];
    struct op_case c = case_of(p);

    snprintf(name, sizeof name, "token_to_image %d(%d) masks, %d tokens, %d x %d, %d heads of %d",
             (int)p->m, (int)p->mx, (int)p->t, (int)p->n_x, (int)p->c, p->heads, (int)p->d);
    c.name = name;
    if (p->asked == WIDE && be->bf16)
        op_case_bf16(be, &c);
    else
        op_case_ask(be, &c);
}

/* A constant added to all of a token's scores changes nothing: bk's gradient is zero, to the bit. */
static void bias_gradient(const struct ops *be, bool narrow)
{
    const struct problem p = { 2, 2, 3, 9, 8, 2, 4, ALL };
    const struct op_case f32 = case_of(&p);
    struct op_case c = narrow ? op_case_rounded(&f32, true) : f32;
    const struct tensor zero = op_like(c.input[BK]), some = op_filled(op_like(zero), 8, 1, 0);

    c = op_case_fresh(&c);
    c.gradient[BK] = op_copy(some);
    op_case_forward_backward(be, &c);
    CHECK_SAME_BITS(c.gradient[BK].data, zero.data, tensor_bytes(zero));
    c.gradient[BK] = op_adding(op_copy(some));
    op_case_forward_backward(be, &c);
    CHECK_SAME_BITS(c.gradient[BK].data, some.data, tensor_bytes(some));
}

/* One position has all the weight, whatever the scores: z is x, y is its value. */
static void one_position(const struct ops *be)
{
    const struct problem p = { 1, 1, 1, 1, 2, 1, 2, ALL };
    struct op_case c = case_of(&p);
    const float *y = c.y.data, *z = c.kept[Z].data, *lse = c.kept[LSE].data;

    memcpy(c.input[Q].data, (const float[]){ 1, 2 }, 8);
    memcpy(c.input[X].data, (const float[]){ 3, -4 }, 8);
    memcpy(c.input[PE].data, (const float[]){ 1, 1 }, 8);
    memcpy(c.input[WK].data, (const float[]){ 1, 0, 2, 1 }, 16);
    memcpy(c.input[BK].data, (const float[]){ 0.5f, -1 }, 8);
    memcpy(c.input[WV].data, (const float[]){ 1, 1, 0, 2 }, 16);
    memcpy(c.input[BV].data, (const float[]){ 0.25f, 8 }, 8);
    OP_RUN(c.fwd(be, &c, s));
    /* up to four roundings, u = 6e-8, of numbers up to 16 */
    CHECK(fabs(z[0] - 3) <= 4e-6 && fabs(z[1] + 4) <= 4e-6);
    CHECK(fabs(y[0] + 0.75) <= 4e-6 && fabs(y[1]) <= 4e-6);
    /* k = (4 + ½, 8 − 3 − 1), q·k = 12½ */
    CHECK(fabs(lse[0] - 12.5 / sqrt(2)) <= 4e-6);
}

/* No mask: what masks own is empty, what they share is zero. */
static void no_mask(const struct ops *be, bool narrow)
{
    for (int shared = 0; shared < 2; shared++) {
        const struct problem p = { 0, shared, 3, 5, 8, 2, 4, ALL };
        struct op_case c = case_of(&p);

        if (narrow) c = op_case_rounded(&c, true);
        c = op_case_fresh(&c); /* gradients are full of what is not zero */
        op_case_forward_backward(be, &c);
        for (int k = X; k < N_INPUTS; k++) {
            const struct tensor zero = op_like(c.gradient[k]);

            if (c.gradient[k].n_dims > 0)
                CHECK_SAME_BITS(c.gradient[k].data, zero.data, tensor_bytes(zero));
        }
    }
}

/* Scores far apart: the row's maximum is subtracted. */
static void far_scores(const struct ops *be)
{
    const struct problem p = { 2, 2, 5, 70, 16, 2, 8, ALL };
    const struct op_case c = case_of(&p);
    struct op_case want = op_case_fresh(&c), got = op_case_fresh(&c);

    op_scale(c.input[Q], 300, 0);
    want.tol = 1000 * 5.96e-8; /* a score of about 1000 is rounded before exp */
    OP_RUN(want.fwd(&ops_ref, &want, s));
    OP_RUN(got.fwd(be, &got, s));
    op_case_near(&want, "y of far scores", got.y, want.y);
    op_case_near(&want, "z of far scores", got.kept[Z], want.kept[Z]);
}

/* In bf16 a score of a thousand is rounded by several, and says nothing of y; but without a row's whole maximum exponentials
 * overflow. */
static void far_scores_bf16(const struct ops *be)
{
    const struct problem p = { 2, 2, 11, 520, 16, 2, 8, ALL }; /* two splits */
    const struct op_case f32 = case_of(&p);
    struct op_case c;

    op_scale(f32.input[Q], 300, 0);
    c = op_case_rounded(&f32, true);
    c = op_case_fresh(&c);
    OP_RUN(c.fwd(be, &c, s));
    CHECK(op_finite(c.y));
}

/* Scores that are all far below zero, as no position is there that could bring one near it: what is not there must have no weight
 * backward either, where its score would be zero. */
static void far_below(const struct ops *be, bool narrow, int64_t mx)
{
    const struct problem p = { 2, mx, 11, 37, 16, 2, 8, ALL };
    const struct op_case f32 = case_of(&p);
    struct op_case c;

    op_scale(f32.input[Q], 300, 0);
    /* all positions alike: of half of the tokens all scores are negative */
    op_scale(f32.input[X], 0.1f, 1);
    op_scale(f32.input[PE], 0.1f, 0);
    c = op_case_rounded(&f32, narrow);
    c = op_case_fresh(&c);
    op_case_forward_backward(be, &c);
    for (int k = 0; k < N_INPUTS; k++)
        if (c.gradient[k].n_dims > 0) CHECK(op_finite(c.gradient[k]));
}

#define EXPECT_ERROR(change)                                                                       \
    do {                                                                                           \
        struct op_case e = c;                                                                      \
        change;                                                                                    \
        OP_SHAPE_ERROR(e.fwd(be, &e, s));                                                          \
        OP_SHAPE_ERROR(e.bwd(be, &e, s));                                                          \
    } while (0)

static void shape_errors(const struct ops *be)
{
    const struct problem p = { 3, 3, 4, 6, 8, 2, 4, ALL };
    const struct op_case c = case_of(&p);

    EXPECT_ERROR(e.number = 3);
    EXPECT_ERROR(e.input[X].dim[0] = 2);
    EXPECT_ERROR(e.input[PE].dim[0] = 5);
    EXPECT_ERROR(e.input[WK].dim[1] = 9);
    EXPECT_ERROR(e.input[Q].dtype = BF16);
    EXPECT_ERROR(e.input[BV].dtype = BF16);
    EXPECT_ERROR(e.kept[Z].dim[3] = 7);
    EXPECT_ERROR(e.kept[LSE].dim[2] = 5);
    EXPECT_ERROR(e.y.dim[1] = e.input[Q].dim[1] = e.kept[LSE].dim[2] = e.kept[Z].dim[2] =
                     DECODER_TOKENS_MAX + 1);
    struct op_case e = c;

    e.gradient[X].dim[0] = 1;
    OP_SHAPE_ERROR(e.bwd(be, &e, s));
    e = c;
    e.gradient[WV].dtype = BF16;
    OP_SHAPE_ERROR(e.bwd(be, &e, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    /* On CUDA in bf16: tiles of 64, 128 and 256 channels, full and not; one tile, and several splits
     * of several; heads that leave warps idle; then what the tensor cores' kernels do not take. */
    static const struct problem problems[] = {
        { 2, 2, 16, 64, 24, 2, 8, WIDE },     { 2, 1, 9, 40, 256, 8, 2, WIDE },
        { 2, 2, 16, 520, 64, 1, 4, WIDE }, /* small ones of tiles first, with all they go round */
        { 1, 1, 1, 1, 8, 2, 1, NO_SLOPE },    { 1, 1, 6, 19, 8, 9, 2, NO_SLOPE },
        { 2, 1, 5, 19, 24, 2, 35, NO_SLOPE }, /* heads wider than a tile of small products */
        { 2, 1, 16, 17, 5, 3, 3, ALL },       { 2, 2, 7, 37, 32, 2, 8, ALL },
        { 3, 1, 5, 70, 64, 4, 4, NO_SLOPE },  { 2, 2, 16, 33, 72, 8, 5, WIDE },
        { 2, 2, 3, 530, 24, 1, 8, NO_SLOPE }, { 2, 2, 2, 20, 264, 1, 4, WIDE },
        { 2, 1, 9, 75, 248, 2, 3, WIDE },     { 1, 1, 15, 150, 256, 8, 16, WIDE },
    };

    omp_set_num_threads(3); /* whatever the environment says */
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) ask(be, &problems[i]);
    for (int narrow = 0; narrow <= be->bf16; narrow++) {
        bias_gradient(be, narrow);
        no_mask(be, narrow);
    }
    one_position(be);
    far_scores(be);
    for (int narrow = 0; narrow <= be->bf16; narrow++)
        for (int64_t mx = 1; mx <= 2; mx++) far_below(be, narrow, mx);
    if (be->bf16) far_scores_bf16(be);
    shape_errors(be);
    return check_done("token_to_image");
}

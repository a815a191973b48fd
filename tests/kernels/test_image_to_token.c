/* Image features and their mask's tokens: the plain form of the reference against the backend's,
 * which may absorb the projections into the tokens: that they agree is what shows that it is exact. */
#include "kernels/base/rng.h"
#include "tests/kernels/op_case.h"

static const float eps = 1e-6f;
static const int64_t salt = 7;

/* In bf16, a rounding is up to 2^-9 of an element, and 0.8e-3 of the norm. A gradient that comes
 * through the scores passes six: of x + pe and of k's or q's side in the scores, of the weights, of v's
 * side and of dz in dp, of ds: √6 · 0.8e-3 = 2e-3. What dp has in common over tokens drops out of
 * ds = p (dp − Σ p dp), which leaves about half of it, so that the error is twice as much of ds; and what
 * k has in common drops out of dbq = Σ k ds, once more: 8e-3. */
static const double tol_scores = 1e-2;

enum { X, PE, K, V, WQ, BQ, WO, BO, GAMMA, BETA, N_INPUTS };

struct shape {
    int64_t m, mx, n_x, c, inner, n_tok;
    int heads;
    float dropout;
    bool bf16_only; /* what is large: for tiles of tensor cores */
};

static struct image_to_token_weights weights_of(const struct tensor *t)
{
    return (struct image_to_token_weights){
        .wq = t[WQ], .bq = t[BQ], .wo = t[WO], .bo = t[BO], .gamma = t[GAMMA], .beta = t[BETA]
    };
}

static enum status fwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct image_to_token_weights w = weights_of(c->input);

    return be->image_to_token_fwd(c->y, c->kept[0], c->kept[1], c->input[X], c->input[PE],
                                  c->input[K], c->input[V], c->scale, &w, (int)c->number, eps,
                                  c->key, c->p, salt, s);
}

static enum status bwd(const struct ops *be, const struct op_case *c, struct stream *s)
{
    const struct image_to_token_weights w = weights_of(c->input), dw = weights_of(c->gradient);

    return be->image_to_token_bwd(c->gradient[X], c->gradient[K], c->gradient[V], &dw, c->dy,
                                  c->input[X], c->input[PE], c->input[K], c->input[V], c->scale, &w,
                                  c->kept[0], c->kept[1], (int)c->number, eps, c->key, c->p, salt,
                                  s);
}

static struct op_case layout(const struct shape *p)
{
    struct op_case c = {
        .name = "image_to_token", .fwd = fwd, .bwd = bwd, .n_inputs = N_INPUTS, .number = p->heads
    };

    c.input[X] = OP_FILLED(1, 1.5f, 0.1f, p->mx, p->n_x, p->c);
    c.input[PE] = OP_FILLED(2, 1, 0, p->n_x, p->c);
    c.input[K] = OP_FILLED(3, 1.5f, 0.1f, p->m, p->n_tok, p->inner);
    c.input[V] = OP_FILLED(4, 1.5f, 0.2f, p->m, p->n_tok, p->inner);
    /* as initialized: √3 / √C uniform, so that q is about as large as x */
    c.input[WQ] = OP_FILLED(5, 1.7f / sqrtf((float)p->c), 0, p->inner, p->c);
    c.input[BQ] = OP_FILLED(6, 0.5f, 0, p->inner);
    c.input[WO] = OP_FILLED(7, 1.7f / sqrtf((float)p->inner), 0, p->c, p->inner);
    c.input[BO] = OP_FILLED(8, 0.5f, 0, p->c);
    c.input[GAMMA] = OP_FILLED(9, 0.5f, 1, p->c);
    c.input[BETA] = OP_FILLED(10, 0.5f, 0, p->c);
    c.scale = OP_ZEROS(I32, p->m); /* n_tokens */
    for (int64_t m = 0; m < p->m; m++)
        ((int32_t *)c.scale.data)[m] = (int32_t)(m % 3 == 0   ? p->n_tok
                                                 : m % 3 == 1 ? 1
                                                              : 1 + (5 * m) % p->n_tok);
    c.p = p->dropout;
    if (c.p > 0) {
        c.key = OP_ZEROS(I64, 2);
        ((int64_t *)c.key.data)[0] = 11;
        ((int64_t *)c.key.data)[1] = -5;
    }
    c.y = OP_ZEROS(F32, p->m, p->n_x, p->c);
    c.kept[0] = OP_ZEROS(F32, p->m, p->n_x);
    c.kept[1] = OP_ZEROS(F32, p->m, p->n_x);
    c.has_bf16 = true;
    c.tol_bf16 = tol_scores;
    c.input_f32 = 1u << BQ | 1u << BO | 1u << GAMMA | 1u << BETA;
    c.gradient_f32 = 1u << WQ | 1u << WO;
    c.kept_f32 = 3;
    op_case_finish(&c);
    c.gradient[PE] = tensor_none();
    return c;
}

/* What does not come through the scores alone is as close as rounding the result. */
static void ask_strictly(const struct ops *be, const struct op_case *c)
{
    const struct op_case wide = op_case_rounded(c, false), narrow = op_case_rounded(c, true);
    struct op_case want = op_case_fresh(&wide);
    const struct op_case got = op_case_fresh(&narrow);
    static const int plain[] = { X, V, WO, BO, GAMMA, BETA };

    want.tol = OP_CASE_BF16;
    op_case_forward_backward(&ops_ref, &want);
    op_case_forward_backward(be, &got);
    op_case_near(&want, "y, strictly", got.y, want.y);
    for (int i = 0; i < 2; i++) op_case_near(&want, "kept, strictly", got.kept[i], want.kept[i]);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        op_case_near(&want, "gradient, strictly", got.gradient[plain[i]], want.gradient[plain[i]]);
}

static void ask(const struct ops *be, const struct shape *p)
{
    char name[96];
    struct op_case c = layout(p);

    snprintf(name, sizeof name, "image_to_token %d(%d) x %d x %d, %d heads in %d, %d tokens",
             (int)p->m, (int)p->mx, (int)p->n_x, (int)p->c, p->heads, (int)p->inner, (int)p->n_tok);
    c.name = name;
    c.has_kinks = p->n_tok == 1; /* none, but then no score matters: a slope of zero by zero */
    if (!p->bf16_only)
        op_case_ask(be, &c);
    else if (be->bf16)
        op_case_bf16(be, &c);
    if (be->bf16) ask_strictly(be, &c);
}

/* One token takes all the weight: r = x + Wo v + bo, whatever the scores. */
static void one_token(const struct ops *be)
{
    struct op_case c = layout(
        &(struct shape){ .m = 2, .mx = 2, .n_x = 3, .c = 16, .inner = 8, .n_tok = 2, .heads = 2 });
    struct tensor r = op_like(c.y), o = op_like(c.input[K]), z = OP_ZEROS(F32, 2, 2, 16);
    struct tensor want = op_like(c.y), mean = OP_ZEROS(F32, 6), rstd = OP_ZEROS(F32, 6);

    ((int32_t *)c.scale.data)[0] = ((int32_t *)c.scale.data)[1] = 1;
    OP_RUN(fwd(be, &c, s));
    memcpy(o.data, c.input[V].data, (size_t)tensor_bytes(o));
    OP_RUN(ops_ref.linear_fwd(z, tensor_none(), o, c.input[WO], c.input[BO], ACT_NONE, s));
    for (int64_t i = 0; i < tensor_count(r); i++)
        ((float *)r.data)[i] =
            ((float *)c.input[X].data)[i] + ((float *)z.data)[i / (3 * 16) * 2 * 16 + i % 16];
    OP_RUN(ops_ref.layernorm_fwd(want, mean, rstd, r, c.input[GAMMA], c.input[BETA], eps, ACT_NONE,
                                 s));
    CHECK_CLOSE(c.y.data, want.data, tensor_count(want), 1e-6);
    CHECK_CLOSE(c.kept[0].data, mean.data, 6, 1e-6);
    CHECK_CLOSE(c.kept[1].data, rstd.data, 6, 1e-6);
}

/* dk and dv are zero from n_tokens on, and k and v are not read there. */
static void tokens_beyond(const struct ops *be)
{
    struct op_case c = layout(
        &(struct shape){ .m = 2, .mx = 2, .n_x = 5, .c = 16, .inner = 8, .n_tok = 3, .heads = 2 });
    float *const k = c.input[K].data, *const v = c.input[V].data;

    ((int32_t *)c.scale.data)[0] = ((int32_t *)c.scale.data)[1] = 2;
    for (int m = 0; m < 2; m++)
        for (int i = (m * 3 + 2) * 8; i < (m * 3 + 3) * 8; i++) k[i] = v[i] = NAN;
    for (int i = K; i <= V; i++) op_filled(c.gradient[i], 11, 1, 0);
    OP_RUN(fwd(be, &c, s));
    OP_RUN(bwd(be, &c, s));
    for (int64_t i = 0; i < tensor_count(c.y); i++) CHECK(fabsf(((float *)c.y.data)[i]) < 100);
    for (int i = K; i <= V; i++)
        for (int64_t at = 0; at < 48; at++) {
            const float g = ((float *)c.gradient[i].data)[at];

            CHECK(at / 8 % 3 == 2 ? g == 0 : fabsf(g) < 100);
        }
    for (int64_t i = 0; i < 8 * 16; i++) {
        CHECK(fabsf(((float *)c.gradient[WQ].data)[i]) < 100);
        CHECK(fabsf(((float *)c.gradient[WO].data)[i]) < 100);
    }
    for (int i = 0; i < 8; i++) CHECK(fabsf(((float *)c.gradient[BQ].data)[i]) < 100);
}

/* No masks: parameters get zero, and so does a shared x. */
static void no_masks(const struct ops *be)
{
    struct op_case c = layout(
        &(struct shape){ .m = 0, .mx = 1, .n_x = 5, .c = 16, .inner = 8, .n_tok = 3, .heads = 2 });

    for (int i = 0; i < N_INPUTS; i++)
        if (c.gradient[i].n_dims > 0) op_filled(c.gradient[i], 12, 1, 0);
    OP_RUN(fwd(be, &c, s));
    OP_RUN(bwd(be, &c, s));
    for (int i = 0; i < N_INPUTS; i++) {
        if (c.gradient[i].n_dims == 0) continue;
        const struct tensor zero = op_like(c.gradient[i]);

        CHECK_SAME_BITS(c.gradient[i].data, zero.data, tensor_bytes(zero));
    }
}

/* Without a row's whole maximum, or with it on the wrong side, exponentials overflow. */
static void far_scores(const struct ops *be, bool narrow)
{
    const struct op_case wide = layout(&(struct shape){
        .m = 2, .mx = 2, .n_x = 21, .c = 16, .inner = 8, .n_tok = 16, .heads = 2 });
    struct op_case c;

    op_scale(wide.input[K], 300, 0);
    c = op_case_rounded(&wide, narrow);
    c = op_case_fresh(&c);
    OP_RUN(fwd(be, &c, s));
    CHECK(op_finite(c.y));
}

/* Mean >> deviation: the sum is off by a rounding of itself, 2^-24 · 30 of a deviation of about 2, in four steps or so; a
 * variance from squares would be off by 30 times more again. */
static void far_from_zero(const struct ops *be)
{
    const struct op_case c = layout(
        &(struct shape){ .m = 2, .mx = 2, .n_x = 9, .c = 33, .inner = 8, .n_tok = 5, .heads = 1 });
    struct op_case want = op_case_fresh(&c), got = op_case_fresh(&c);

    op_scale(c.input[BO], 1, 30);
    want.tol = 30 * 4 * 6e-8;
    op_case_forward_backward(&ops_ref, &want);
    op_case_forward_backward(be, &got);
    op_case_near(&want, "y far from zero", got.y, want.y);
    op_case_near(&want, "rstd far from zero", got.kept[1], want.kept[1]);
}

/* An element is kept whose number is the probability itself. */
static void kept_at_equality(const struct ops *be, bool narrow)
{
    struct op_case c = layout(&(struct shape){
        .m = 1, .mx = 1, .n_x = 3, .c = 16, .inner = 8, .n_tok = 2, .heads = 2, .dropout = 0.5f });
    const struct rng_key key = rng_sub((struct rng_key){ 11, (uint64_t)-5 }, (uint64_t)salt);

    c.p = rng_uniform(key, 21);
    CHECK(c.p > 0.05f && c.p < 0.95f);
    const struct op_case wide = narrow ? op_case_rounded(&c, false) : c;
    const struct op_case mine = narrow ? op_case_rounded(&c, true) : c;
    struct op_case want = op_case_fresh(&wide), got = op_case_fresh(&mine);

    want.tol = narrow ? OP_CASE_BF16 : 1e-6;
    OP_RUN(fwd(&ops_ref, &want, s));
    OP_RUN(fwd(be, &got, s));
    op_case_near(&want, "y, one kept at equality", got.y, want.y);
}

static void shapes_are_checked(const struct ops *be)
{
    struct op_case c = layout(
        &(struct shape){ .m = 2, .mx = 2, .n_x = 5, .c = 16, .inner = 8, .n_tok = 3, .heads = 2 });

    for (int k = 0; k < N_INPUTS; k++) {
        struct op_case bad = c;

        bad.input[k].dim[bad.input[k].n_dims - 1]++;
        OP_SHAPE_ERROR(fwd(be, &bad, s));
        OP_SHAPE_ERROR(bwd(be, &bad, s));
        bad = c;
        bad.input[k].dtype = I32;
        OP_SHAPE_ERROR(fwd(be, &bad, s));
        bad = c;
        if (k == PE) continue;
        bad.gradient[k].dim[0]++;
        OP_SHAPE_ERROR(bwd(be, &bad, s));
    }
    for (int i = 0; i < 2; i++) {
        struct op_case bad = c;

        bad.kept[i].dim[1]++;
        OP_SHAPE_ERROR(fwd(be, &bad, s));
        OP_SHAPE_ERROR(bwd(be, &bad, s));
    }
    struct op_case bad = c;

    bad.scale.dim[0] = 3;
    OP_SHAPE_ERROR(fwd(be, &bad, s));
    bad = c;
    bad.p = 1;
    bad.key = OP_ZEROS(I64, 2);
    OP_SHAPE_ERROR(fwd(be, &bad, s));
    bad.p = 0.5f;
    bad.key = tensor_none();
    OP_SHAPE_ERROR(fwd(be, &bad, s));
    OP_SHAPE_ERROR(bwd(be, &bad, s));
    bad = c;
    bad.number = 3;
    OP_SHAPE_ERROR(fwd(be, &bad, s));
    bad = layout(
        &(struct shape){ .m = 1, .mx = 1, .n_x = 2, .c = 8, .inner = 4, .n_tok = 17, .heads = 1 });
    OP_SHAPE_ERROR(fwd(be, &bad, s));
    OP_SHAPE_ERROR(bwd(be, &bad, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const struct shape shapes[] = {
        /* small ones first, for tiles: a warp with half of its rows, one without; an x of all masks;
         * and as many channels as there may be */
        { .m = 2,
          .mx = 2,
          .n_x = 40,
          .c = 24,
          .inner = 51,
          .n_tok = 7,
          .heads = 3,
          .dropout = 0.25f,
          .bf16_only = true },
        { .m = 3,
          .mx = 1,
          .n_x = 32,
          .c = 256,
          .inner = 32,
          .n_tok = 16,
          .heads = 2,
          .dropout = 0.5f,
          .bf16_only = true },
        /* one head more than tiles take */
        { .m = 1,
          .mx = 1,
          .n_x = 5,
          .c = 16,
          .inner = 18,
          .n_tok = 3,
          .heads = 9,
          .bf16_only = true },
        /* channels that are no multiple of 8, more than 8 heads: without tiles in bf16 too */
        { .m = 2,
          .mx = 2,
          .n_x = 5,
          .c = 21,
          .inner = 18,
          .n_tok = 3,
          .heads = 9,
          .dropout = 0.5f },
        { .m = 9, .mx = 1, .n_x = 3, .c = 9, .inner = 2, .n_tok = 2, .heads = 1 },
        { .m = 1, .mx = 1, .n_x = 1, .c = 40, .inner = 20, .n_tok = 1, .heads = 1 },
        { .m = 2,
          .mx = 2,
          .n_x = 66,
          .c = 32,
          .inner = 16,
          .n_tok = 7,
          .heads = 2,
          .dropout = 0.25f },
        /* x of all masks; more masks than are worked on at once */
        { .m = 9,
          .mx = 1,
          .n_x = 65,
          .c = 24,
          .inner = 16,
          .n_tok = 9,
          .heads = 2,
          .bf16_only = true },
        /* several chunks of positions */
        { .m = 1, .mx = 1, .n_x = 140, .c = 33, .inner = 8, .n_tok = 16, .heads = 1 },
        { .m = 1,
          .mx = 1,
          .n_x = 300,
          .c = 64,
          .inner = 12,
          .n_tok = 16,
          .heads = 2,
          .bf16_only = true },
        { .m = 2,
          .mx = 1,
          .n_x = 65,
          .c = 104,
          .inner = 15,
          .n_tok = 15,
          .heads = 5,
          .dropout = 0.25f,
          .bf16_only = true },
        { .m = 2,
          .mx = 2,
          .n_x = 70,
          .c = 256,
          .inner = 128,
          .n_tok = 9,
          .heads = 8,
          .dropout = 0.1f,
          .bf16_only = true },
    };

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) ask(be, &shapes[i]);
    one_token(be);
    for (int narrow = 0; narrow <= be->bf16; narrow++) {
        far_scores(be, narrow);
        kept_at_equality(be, narrow);
    }
    far_from_zero(be);
    tokens_beyond(be);
    no_masks(be);
    shapes_are_checked(be);
    return check_done("test_image_to_token");
}

/* Position features and prompt tokens: against the reference, by hand, and at the edges. */
#include <math.h>

#include "tests/kernels/op.h"

/* A feature lies in [−1,1] and is rounded a few times: 2^-22 covers the polynomial and the sum. */
static const double tol = 2.4e-7;

static void grid(const struct ops *be, int64_t h, int64_t w, int64_t c, float spread)
{
    struct tensor pe = OP_ZEROS(F32, h, w, c), want = op_like(pe), one = op_like(pe);
    struct tensor g = OP_FILLED((uint64_t)(h + w + c), spread, 0, 2, c / 2);
    const float *features = pe.data, *gaussian = g.data;
    const int n_threads = omp_get_max_threads();

    OP_RUN(be->posenc_grid(pe, g, s));
    OP_RUN(ops_ref.posenc_grid(want, g, s));
    for (int64_t i = 0; i < tensor_count(pe); i++)
        CHECK(fabsf(features[i] - ((const float *)want.data)[i]) <= tol);
    omp_set_num_threads(1);
    OP_RUN(be->posenc_grid(one, g, s));
    omp_set_num_threads(n_threads);
    CHECK_SAME_BITS(pe.data, one.data, tensor_bytes(pe));

    /* by hand: row i, column j is at ((j+½)/W, (i+½)/H); x meets the first row of G */
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++)
            for (int64_t k = 0; k < c / 2; k++) {
                const double x = ((double)j + 0.5) / (double)w, y = ((double)i + 0.5) / (double)h;
                const double angle =
                    2 * M_PI * ((2 * x - 1) * gaussian[k] + (2 * y - 1) * gaussian[c / 2 + k]);
                const float *at = features + (i * w + j) * c;

                CHECK(fabs(at[k] - sin(angle)) <= tol);
                CHECK(fabs(at[c / 2 + k] - cos(angle)) <= tol);
            }
}

struct problem {
    int64_t m, k, p, c;
    int frame;
    struct tensor tokens, coords, labels, n_points, gaussian, iou, masks, table[POSENC_TABLE];
    struct tensor dtokens, diou, dmasks, dtable[POSENC_TABLE];
};

/* Point p of mask m has label (m + p) % 5 − 1; mask m has m % (P + 1) points. */
static void problem_fill(struct problem *p, uint64_t seed)
{
    p->coords = OP_FILLED(seed, 0.5f * (float)p->frame, 0.5f * (float)p->frame, p->m, p->p, 2);
    p->labels = OP_ZEROS(I32, p->m, p->p);
    p->n_points = OP_ZEROS(I32, p->m);
    for (int64_t i = 0; i < p->m * p->p; i++)
        ((int32_t *)p->labels.data)[i] = (int32_t)((i / p->p + i % p->p) % POSENC_TABLE - 1);
    for (int64_t m = 0; m < p->m; m++) ((int32_t *)p->n_points.data)[m] = (int32_t)(m % (p->p + 1));
    p->gaussian = OP_FILLED(seed + 1, 2, 0, 2, p->c / 2);
    p->iou = OP_FILLED(seed + 2, 1, 0, 1, p->c);
    p->masks = OP_FILLED(seed + 3, 1, 0, p->k, p->c);
    p->tokens = OP_FILLED(seed + 4, 9, 0, p->m, 1 + p->k + p->p, p->c); /* overwritten */
    p->dtokens = OP_FILLED(seed + 5, 1, 0, p->m, 1 + p->k + p->p, p->c);
    p->diou = OP_FILLED(seed + 6, 9, 0, 1, p->c);
    p->dmasks = OP_FILLED(seed + 7, 9, 0, p->k, p->c);
    for (int i = 0; i < POSENC_TABLE; i++) {
        p->table[i] = OP_FILLED(seed + 10 + (uint64_t)i, 1, 0, 1, p->c);
        p->dtable[i] = OP_FILLED(seed + 20 + (uint64_t)i, 9, 0, 1, p->c);
    }
}

static void forward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->prompt_tokens_fwd(p->tokens, p->coords, p->labels, p->n_points, p->gaussian, p->iou,
                                 p->masks, p->table, p->frame, s));
}

static void backward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->prompt_tokens_bwd(p->diou, p->dmasks, p->dtable, p->dtokens, p->labels, p->n_points,
                                 s));
}

static struct problem twin(const struct problem *p)
{
    struct problem t = *p;

    t.tokens = op_like(p->tokens);
    t.diou = op_like(p->diou);
    t.dmasks = op_like(p->dmasks);
    for (int i = 0; i < POSENC_TABLE; i++) t.dtable[i] = op_like(p->dtable[i]);
    return t;
}

static void same_gradients(const struct problem *a, const struct problem *b)
{
    CHECK_SAME_BITS(a->diou.data, b->diou.data, tensor_bytes(a->diou));
    CHECK_SAME_BITS(a->dmasks.data, b->dmasks.data, tensor_bytes(a->dmasks));
    for (int i = 0; i < POSENC_TABLE; i++)
        CHECK_SAME_BITS(a->dtable[i].data, b->dtable[i].data, tensor_bytes(a->dtable[i]));
}

static void compare(const struct ops *be, struct problem p)
{
    problem_fill(&p, 30);
    struct problem want = twin(&p), one = twin(&p);
    const int n_threads = omp_get_max_threads();

    forward(be, &p);
    backward(be, &p);
    forward(&ops_ref, &want);
    backward(&ops_ref, &want);
    CHECK_CLOSE(p.tokens.data, want.tokens.data, tensor_count(p.tokens), tol);
    /* float sums of up to 33 masks */
    CHECK_CLOSE(p.diou.data, want.diou.data, p.c, 4 * tol);
    CHECK_CLOSE(p.dmasks.data, want.dmasks.data, tensor_count(p.dmasks), 4 * tol);
    for (int i = 0; i < POSENC_TABLE; i++)
        CHECK_CLOSE(p.dtable[i].data, want.dtable[i].data, p.c, 4 * tol);

    omp_set_num_threads(1);
    forward(be, &one);
    backward(be, &one);
    omp_set_num_threads(n_threads);
    CHECK_SAME_BITS(p.tokens.data, one.tokens.data, tensor_bytes(p.tokens));
    same_gradients(&p, &one);

    /* each token by hand: what it is, and nothing for a point beyond the count */
    for (int64_t m = 0; m < p.m; m++)
        for (int64_t t = 0; t < 1 + p.k + p.p; t++) {
            const float *row = (const float *)p.tokens.data + (m * (1 + p.k + p.p) + t) * p.c;
            const int64_t point = t - 1 - p.k;
            const int32_t label = point < 0 ? 0 : ((int32_t *)p.labels.data)[m * p.p + point];
            const float *xy = (const float *)p.coords.data + (m * p.p + point) * 2;

            for (int64_t c = 0; c < p.c; c++) {
                double expected = 0;

                if (t == 0) {
                    expected = ((const float *)p.iou.data)[c];
                } else if (point < 0) {
                    expected = ((const float *)p.masks.data)[(t - 1) * p.c + c];
                } else if (point < ((const int32_t *)p.n_points.data)[m]) {
                    const float *g = (const float *)p.gaussian.data + c % (p.c / 2);
                    const double x = 2 * (xy[0] + 0.5) / p.frame - 1;
                    const double y = 2 * (xy[1] + 0.5) / p.frame - 1;
                    const double angle = 2 * M_PI * (x * g[0] + y * g[p.c / 2]);

                    expected = ((const float *)p.table[label + 1].data)[c];
                    if (label >= 0) expected += c < p.c / 2 ? sin(angle) : cos(angle);
                }
                CHECK(fabs(row[c] - expected) <= 2 * tol);
            }
        }
}

/* Tokens in bf16: those in f32, rounded; and their gradients, widened, give the same sums. */
static void compare_bf16(const struct ops *be, struct problem p)
{
    problem_fill(&p, 30);
    struct problem narrow = twin(&p);

    narrow.tokens = op_cast(p.tokens, BF16);
    narrow.dtokens = op_cast(p.dtokens, BF16);
    p.dtokens = op_cast(narrow.dtokens, F32);
    forward(be, &p);
    backward(be, &p);
    forward(be, &narrow);
    backward(be, &narrow);
    CHECK_SAME_BITS(narrow.tokens.data, op_cast(p.tokens, BF16).data, tensor_bytes(narrow.tokens));
    same_gradients(&narrow, &p);
}

/* The tokens are linear in the parameters: <J u, dtokens> = <u, Jᵀ dtokens>, exactly but for
 * rounding, and not with the sign turned. */
static void adjoint(const struct ops *be)
{
    struct problem p = { .m = 7, .k = 4, .p = 5, .c = 16, .frame = 64 };

    problem_fill(&p, 60);
    struct problem base = twin(&p);
    const struct tensor zero = op_like(p.iou);
    double right = 0;

    /* J u: the tokens of u less those of zero parameters */
    base.iou = zero;
    base.masks = op_like(p.masks);
    for (int i = 0; i < POSENC_TABLE; i++) base.table[i] = zero;
    forward(be, &p);
    forward(be, &base);
    backward(be, &p);
    const int64_t n = tensor_count(p.tokens);
    const double left = check_dot(p.tokens.data, p.dtokens.data, n) -
                        check_dot(base.tokens.data, p.dtokens.data, n);

    right += check_dot(p.iou.data, p.diou.data, p.c);
    right += check_dot(p.masks.data, p.dmasks.data, p.k * p.c);
    for (int i = 0; i < POSENC_TABLE; i++)
        right += check_dot(p.table[i].data, p.dtable[i].data, p.c);
    const double scale = sqrt(check_dot(p.tokens.data, p.tokens.data, n) *
                              check_dot(p.dtokens.data, p.dtokens.data, n));

    CHECK(fabs(left - right) <= tol * scale);
    CHECK(!(fabs(left + right) <= tol * scale));
}

/* What stands in a padded point, and its gradient, changes nothing. */
static void padding(const struct ops *be)
{
    struct problem p = { .m = 7, .k = 4, .p = 5, .c = 16, .frame = 64 };

    problem_fill(&p, 90);
    struct problem q = twin(&p);

    q.coords = op_copy(p.coords);
    q.labels = op_copy(p.labels);
    q.dtokens = op_copy(p.dtokens);
    for (int64_t m = 0; m < p.m; m++)
        for (int64_t i = ((const int32_t *)p.n_points.data)[m]; i < p.p; i++) {
            ((float *)q.coords.data)[(m * p.p + i) * 2] = NAN;
            ((float *)q.coords.data)[(m * p.p + i) * 2 + 1] = 1e30f;
            ((int32_t *)q.labels.data)[m * p.p + i] = 3 - (int32_t)(i % 4);
            for (int64_t c = 0; c < p.c; c++)
                ((float *)q.dtokens.data)[(m * (1 + p.k + p.p) + 1 + p.k + i) * p.c + c] = NAN;
        }
    forward(be, &p);
    backward(be, &p);
    forward(be, &q);
    backward(be, &q);
    CHECK_SAME_BITS(q.tokens.data, p.tokens.data, tensor_bytes(p.tokens));
    same_gradients(&q, &p);
}

static void gradient_rule(const struct ops *be)
{
    struct problem p = { .m = 7, .k = 4, .p = 5, .c = 16, .frame = 64 };

    problem_fill(&p, 120);
    struct problem q = twin(&p), none = p;

    backward(be, &p);
    q.diou.add = q.dmasks.add = true;
    for (int i = 0; i < POSENC_TABLE; i++) q.dtable[i].add = true;
    backward(be, &q); /* to zeros */
    same_gradients(&q, &p);
    backward(be, &q); /* once more: twice as much */
    for (int64_t c = 0; c < p.c; c++) ((float *)p.diou.data)[c] *= 2;
    CHECK_CLOSE(q.diou.data, p.diou.data, p.c, 4 * tol);
    for (int i = 0; i < POSENC_TABLE; i++) {
        for (int64_t c = 0; c < p.c; c++) ((float *)p.dtable[i].data)[c] *= 2;
        CHECK_CLOSE(q.dtable[i].data, p.dtable[i].data, p.c, 4 * tol);
    }
    none.diou = op_no_data(p.diou);
    none.dmasks = tensor_none();
    for (int i = 0; i < POSENC_TABLE; i++) none.dtable[i] = op_no_data(p.dtable[i]);
    backward(be, &none);
}

static void edges(const struct ops *be)
{
    struct problem p = { .m = 0, .k = 4, .p = 5, .c = 16, .frame = 64 };
    struct tensor zero;

    problem_fill(&p, 150); /* no mask */
    forward(be, &p);
    backward(be, &p);
    zero = op_like(p.dmasks);
    CHECK_SAME_BITS(p.dmasks.data, zero.data, tensor_bytes(zero));
    CHECK_SAME_BITS(p.diou.data, zero.data, p.c * 4);
    for (int i = 0; i < POSENC_TABLE; i++) CHECK_SAME_BITS(p.dtable[i].data, zero.data, p.c * 4);
    p = (struct problem){ .m = 3, .k = 0, .p = 0, .c = 2, .frame = 1 }; /* nothing but the iou */
    problem_fill(&p, 151);
    forward(be, &p);
    backward(be, &p);
}

static void shape_errors(const struct ops *be)
{
    struct problem p = { .m = 3, .k = 4, .p = 5, .c = 16, .frame = 64 };

    problem_fill(&p, 180);
    struct tensor pe = OP_ZEROS(F32, 2, 3, 16), odd = OP_ZEROS(F32, 2, 3, 15);
    struct tensor f32_labels = p.labels, wide[POSENC_TABLE];

    f32_labels.dtype = F32;
    for (int i = 0; i < POSENC_TABLE; i++) wide[i] = p.table[i];
    wide[4].dim[1] = 17;
    OP_PLAN(be->posenc_grid(op_no_data(pe), op_no_data(p.gaussian), s));
    OP_SHAPE_ERROR(be->posenc_grid(odd, p.gaussian, s));
    OP_SHAPE_ERROR(be->posenc_grid(pe, p.iou, s));
    OP_SHAPE_ERROR(be->prompt_tokens_fwd(p.tokens, p.coords, f32_labels, p.n_points, p.gaussian,
                                         p.iou, p.masks, p.table, 64, s));
    OP_SHAPE_ERROR(be->prompt_tokens_fwd(p.tokens, p.coords, p.labels, p.n_points, p.gaussian,
                                         p.iou, p.iou, p.table, 64, s));
    OP_SHAPE_ERROR(be->prompt_tokens_fwd(p.tokens, p.coords, p.labels, p.n_points, p.gaussian,
                                         p.iou, p.masks, wide, 64, s));
    OP_SHAPE_ERROR(be->prompt_tokens_fwd(p.tokens, p.coords, p.labels, p.n_points, p.gaussian,
                                         p.iou, p.masks, p.table, 0, s));
    OP_SHAPE_ERROR(
        be->prompt_tokens_bwd(p.dmasks, p.dmasks, p.dtable, p.dtokens, p.labels, p.n_points, s));
    OP_SHAPE_ERROR(
        be->prompt_tokens_bwd(p.diou, p.dmasks, wide, p.dtokens, p.labels, p.n_points, s));

    /* planning touches nothing: every pointer is NULL */
    struct tensor none[POSENC_TABLE];
    for (int i = 0; i < POSENC_TABLE; i++) none[i] = op_no_data(p.table[i]);
    OP_PLAN(be->prompt_tokens_fwd(op_no_data(p.tokens), op_no_data(p.coords), op_no_data(p.labels),
                                  op_no_data(p.n_points), op_no_data(p.gaussian), op_no_data(p.iou),
                                  op_no_data(p.masks), none, 64, s));
    OP_PLAN(be->prompt_tokens_bwd(op_no_data(p.diou), op_no_data(p.dmasks), none,
                                  op_no_data(p.dtokens), op_no_data(p.labels),
                                  op_no_data(p.n_points), s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);

    omp_set_num_threads(3); /* whatever the environment says */
    grid(be, 16, 16, 256, 3);
    grid(be, 3, 5, 34, 1);
    grid(be, 1, 1, 2, 1);
    grid(be, 7, 2, 18, 30); /* many turns */
    compare(be, (struct problem){ .m = 16, .k = 4, .p = 4, .c = 256, .frame = 256 });
    compare(be, (struct problem){ .m = 33, .k = 3, .p = 7, .c = 150, .frame = 1000 });
    if (be->bf16)
        compare_bf16(be, (struct problem){ .m = 33, .k = 3, .p = 7, .c = 150, .frame = 9 });
    adjoint(be);
    padding(be);
    gradient_rule(be);
    edges(be);
    shape_errors(be);
    return check_done("posenc");
}

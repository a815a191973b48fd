/* Windowed and global attention: against the reference, its own differences, and at the edges. */
#include <math.h>

#include "tests/kernels/op.h"

/* A score is a sum of D products and two of D more, up to about 10 in size, in f32: off by some 10 u,
 * which exp makes the relative error of a weight. The sums after it add a few u: 16 u. */
static const double tol = 16 * 5.96e-8;

/* A rounding to BF16 is 1.5e-3 of the norm (2^-7 / √12 of a mantissa of 1.5). The tables are rounded: terms
 * of σ up to 2 are off by 3e-3 each, two of them by 4.2e-3, which is the relative error of a weight;
 * weights are rounded, and y: (4.2² + 2 · 1.5²)^½ = 4.7e-3. Gradients: the same error of a weight, and
 * ds, dterms, delta (of a rounded y) and the result, rounded: half as much again. */
static const double tol_bf16 = 5e-3;

enum { QKV, BIAS, REL_H, REL_W, N_INPUTS };

struct problem {
    int64_t n, h, w;
    int heads, d, window;
    bool rel;
    struct tensor in[N_INPUTS], grad[N_INPUTS], y, lse, dy;
};

static void problem_fill(struct problem *p, uint64_t seed)
{
    const int64_t c = (int64_t)p->heads * p->d;
    const int64_t kh = p->window ? p->window : p->h, kw = p->window ? p->window : p->w;

    p->in[QKV] = OP_FILLED(seed, 1.5f, 0.1f, p->n, p->h, p->w, 3 * c);
    p->in[BIAS] = OP_FILLED(seed + 1, 1.0f, 0, 3 * c);
    p->in[REL_H] = p->rel ? OP_FILLED(seed + 2, 0.4f, 0, 2 * kh - 1, p->d) : tensor_none();
    p->in[REL_W] = p->rel ? OP_FILLED(seed + 3, 0.4f, 0, 2 * kw - 1, p->d) : tensor_none();
    p->y = OP_ZEROS(F32, p->n, p->h, p->w, c);
    p->lse = OP_ZEROS(F32, p->n, p->heads, p->h, p->w);
    p->dy = OP_FILLED(seed + 4, 1.0f, 0, p->n, p->h, p->w, c);
    for (int i = 0; i < N_INPUTS; i++)
        p->grad[i] = tensor_is_none(p->in[i]) ? tensor_none() : op_like(p->in[i]);
}

static void forward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->attention_fwd(p->y, p->lse, p->in[QKV], p->in[BIAS], p->in[REL_H], p->in[REL_W],
                             p->heads, p->window, s));
}

static void backward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->attention_bwd(p->grad[QKV], p->grad[BIAS], p->grad[REL_H], p->grad[REL_W], p->dy,
                             p->y, p->lse, p->in[QKV], p->in[BIAS], p->in[REL_H], p->in[REL_W],
                             p->heads, p->window, s));
}

/* The same inputs, other outputs. */
static struct problem twin(const struct problem *p)
{
    struct problem t = *p;

    t.y = op_like(p->y);
    t.lse = op_like(p->lse);
    for (int i = 0; i < N_INPUTS; i++)
        t.grad[i] = tensor_is_none(p->in[i]) ? tensor_none() : op_like(p->in[i]);
    return t;
}

static void compare(const struct ops *be, struct problem p, uint64_t seed)
{
    problem_fill(&p, seed);
    struct problem want = twin(&p);

    forward(be, &p);
    forward(&ops_ref, &want);
    CHECK_CLOSE(p.y.data, want.y.data, tensor_count(p.y), tol);
    CHECK_CLOSE(p.lse.data, want.lse.data, tensor_count(p.lse), tol);
    backward(be, &p);
    backward(&ops_ref, &want);
    for (int i = 0; i < N_INPUTS; i++)
        CHECK_CLOSE(p.grad[i].data, want.grad[i].data,
                    tensor_count(want.grad[i]) * !tensor_is_none(want.grad[i]), 2 * tol);

    /* the number of threads changes no bit */
    struct problem one = twin(&p);
    const int n_threads = omp_get_max_threads();

    omp_set_num_threads(1);
    forward(be, &one);
    backward(be, &one);
    omp_set_num_threads(n_threads);
    CHECK_SAME_BITS(p.y.data, one.y.data, tensor_bytes(p.y));
    CHECK_SAME_BITS(p.lse.data, one.lse.data, tensor_bytes(p.lse));
    for (int i = 0; i < N_INPUTS; i++)
        if (!tensor_is_none(p.in[i]))
            CHECK_SAME_BITS(p.grad[i].data, one.grad[i].data, tensor_bytes(p.grad[i]));
}

/* What is BF16 in BF16, rounded; the parameters and lse stay. */
static struct problem narrow(const struct problem *p)
{
    struct problem t = twin(p);

    t.in[QKV] = op_cast(p->in[QKV], BF16);
    t.grad[QKV] = op_like(t.in[QKV]);
    t.dy = op_cast(p->dy, BF16);
    t.y = op_like(t.dy);
    return t;
}

/* On the same rounded numbers, against the reference in F32; twice, to the bit. */
static void compare_bf16(const struct ops *be, struct problem p, uint64_t seed)
{
    problem_fill(&p, seed);
    struct problem got = narrow(&p), again = narrow(&p);

    p.in[QKV] = op_cast(got.in[QKV], F32);
    p.dy = op_cast(got.dy, F32);
    forward(&ops_ref, &p);
    forward(be, &got);
    CHECK_CLOSE(op_cast(got.y, F32).data, p.y.data, tensor_count(p.y), tol_bf16);
    CHECK_CLOSE(got.lse.data, p.lse.data, tensor_count(p.lse), tol_bf16);
    backward(&ops_ref, &p);
    backward(be, &got);
    for (int i = 0; i < N_INPUTS; i++)
        if (!tensor_is_none(p.grad[i]))
            CHECK_CLOSE(op_cast(got.grad[i], F32).data, p.grad[i].data, tensor_count(p.grad[i]),
                        1.5 * tol_bf16);
    forward(be, &again);
    backward(be, &again);
    CHECK_SAME_BITS(got.y.data, again.y.data, tensor_bytes(got.y));
    CHECK_SAME_BITS(got.lse.data, again.lse.data, tensor_bytes(got.lse));
    for (int i = 0; i < N_INPUTS; i++)
        if (!tensor_is_none(p.in[i]))
            CHECK_SAME_BITS(got.grad[i].data, again.grad[i].data, tensor_bytes(got.grad[i]));
}

/* Σ w·y at in + h·u. */
static double loss_at(const struct ops *be, struct problem *p, int input, const float *u, double h)
{
    struct tensor kept = op_copy(p->in[input]);
    float *x = p->in[input].data;

    for (int64_t i = 0; i < tensor_count(kept); i++) x[i] = (float)(x[i] + h * u[i]);
    forward(be, p);
    memcpy(x, kept.data, (size_t)tensor_bytes(kept));
    return check_dot(p->y.data, p->dy.data, tensor_count(p->y));
}

/* <J u, dy> by central differences against <u, Jᵀ dy>, for each input alone. */
static void derivative(const struct ops *be)
{
    struct problem p = { .n = 1, .h = 5, .w = 4, .heads = 2, .d = 3, .window = 3, .rel = true };

    problem_fill(&p, 40);
    forward(be, &p);
    backward(be, &p);
    for (int input = 0; input < N_INPUTS; input++) {
        const int64_t n = tensor_count(p.in[input]);
        struct tensor u = op_filled(op_like(p.in[input]), 50 + (uint64_t)input, 0.5f, 0);
        const float *grad = p.grad[input].data;
        const double norm = sqrt(check_dot(grad, grad, n) / (double)n);

        /* a random direction that leans along the gradient, so that its sign is not by chance */
        for (int64_t i = 0; i < n; i++) ((float *)u.data)[i] += (float)(grad[i] / norm);
        const double h = 4e-3, exact = check_dot(grad, u.data, n);
        const double slope =
            (loss_at(be, &p, input, u.data, h) - loss_at(be, &p, input, u.data, -h)) / (2 * h);

        CHECK(norm > 0);
        /* h² of the third derivative, and the rounding of y over h */
        CHECK(fabs(slope - exact) <= 5e-4 * fabs(exact));
        CHECK(!(fabs(slope + exact) <= 5e-4 * fabs(exact)));
    }
}

/* Added, overwritten and unwanted gradients, each in its turn. */
static void gradient_rule(const struct ops *be, int64_t h, int64_t w, int window, enum dtype dtype)
{
    struct problem p = {
        .n = 2, .h = h, .w = w, .heads = 2, .d = 8, .window = window, .rel = true
    };

    problem_fill(&p, 60);
    if (dtype == BF16) p = narrow(&p);
    forward(be, &p);
    backward(be, &p);
    for (int only = 0; only < N_INPUTS; only++) {
        struct problem q = twin(&p);

        q.y = p.y;
        q.lse = p.lse;
        for (int i = 0; i < N_INPUTS; i++)
            if (i != only) q.grad[i] = only % 2 ? tensor_none() : op_no_data(q.grad[i]);
        op_filled(q.grad[only], 70, 9, 0); /* garbage, overwritten */
        backward(be, &q);
        CHECK_SAME_BITS(q.grad[only].data, p.grad[only].data, tensor_bytes(p.grad[only]));
        q.grad[only].add = true;
        backward(be, &q);
        const struct tensor twice = op_cast(p.grad[only], F32), sum = op_cast(q.grad[only], F32);

        op_scale(twice, 2, 0);
        /* in BF16 what was there was rounded, and so is the sum */
        CHECK_CLOSE(sum.data, twice.data, tensor_count(twice),
                    p.grad[only].dtype == BF16 ? 4e-3 : tol);
    }
    struct problem none = p;

    for (int i = 0; i < N_INPUTS; i++) none.grad[i] = op_no_data(none.grad[i]);
    backward(be, &none);
}

/* The formula of the header by hand, D = 1: which row of which table, the padding, the scale. */
static void by_hand(const struct ops *be)
{
    enum { H = 2, W = 3, KEYS = 4 };
    struct problem p = { .n = 1, .h = H, .w = W, .heads = 1, .d = 1, .window = 2, .rel = true };

    problem_fill(&p, 20);
    forward(be, &p);
    const float *qkv = p.in[QKV].data, *bias = p.in[BIAS].data;
    const float *rel_h = p.in[REL_H].data, *rel_w = p.in[REL_W].data;

    for (int64_t i = 0; i < H * W; i++) {
        const int64_t y = i / W, x = i % W, x0 = x / 2 * 2; /* two windows; the second is padded */
        double weights = 0, sum = 0;

        for (int64_t j = 0; j < KEYS; j++) {
            const int64_t ky = j / 2, kx = x0 + j % 2;
            const float *key = kx < W ? qkv + (ky * W + kx) * 3 : bias;
            const double q = qkv[i * 3];
            const double weight = exp(q * key[1] + q * rel_h[y - ky + 1] + q * rel_w[x - kx + 1]);

            weights += weight;
            sum += weight * key[2];
        }
        CHECK(fabs(((const float *)p.y.data)[i] - sum / weights) <= tol);
        CHECK(fabs(((const float *)p.lse.data)[i] - log(weights)) <= tol);
    }
    /* D = 4: q·k/√D, the tables unscaled */
    p = (struct problem){ .n = 1, .h = 1, .w = 2, .heads = 1, .d = 4, .window = 0, .rel = true };
    problem_fill(&p, 21);
    forward(be, &p);
    const float *q = p.in[QKV].data, *row = p.in[REL_W].data, *zero = p.in[REL_H].data;
    double s[2];

    for (int64_t k = 0; k < 2; k++)
        s[k] = check_dot(q, q + k * 12 + 4, 4) / 2 + check_dot(q, row + (1 - k) * 4, 4) +
               check_dot(q, zero, 4);
    CHECK(fabs(((const float *)p.lse.data)[0] - log(exp(s[0]) + exp(s[1]))) <= tol);
}

static void edges(const struct ops *be)
{
    /* no image: nothing is written but the parameters' zero gradients */
    struct problem p = { .n = 0, .h = 5, .w = 3, .heads = 2, .d = 8, .window = 4, .rel = true };

    problem_fill(&p, 80);
    for (int i = BIAS; i < N_INPUTS; i++) op_filled(p.grad[i], 81, 1, 0);
    forward(be, &p);
    backward(be, &p);
    for (int i = BIAS; i < N_INPUTS; i++) {
        struct tensor zero = op_like(p.grad[i]);

        CHECK_SAME_BITS(p.grad[i].data, zero.data, tensor_bytes(zero));
    }

    /* no padding: the bias gets zero, and may be none */
    p = (struct problem){ .n = 1, .h = 4, .w = 4, .heads = 1, .d = 8, .window = 2, .rel = true };
    problem_fill(&p, 82);
    op_filled(p.grad[BIAS], 83, 1, 0);
    forward(be, &p);
    backward(be, &p);
    struct tensor zero = op_like(p.grad[BIAS]);
    CHECK_SAME_BITS(p.grad[BIAS].data, zero.data, tensor_bytes(zero));
    struct problem q = twin(&p);
    q.in[BIAS] = q.grad[BIAS] = tensor_none();
    forward(be, &q);
    backward(be, &q);
    CHECK_SAME_BITS(q.y.data, p.y.data, tensor_bytes(p.y));
    CHECK_SAME_BITS(q.grad[QKV].data, p.grad[QKV].data, tensor_bytes(p.grad[QKV]));

    /* scores far apart: the row's maximum is subtracted */
    p = (struct problem){ .n = 1, .h = 4, .w = 6, .heads = 2, .d = 16, .window = 4 };
    problem_fill(&p, 84);
    op_scale(p.in[QKV], 20, 0);
    struct problem want = twin(&p);
    forward(be, &p);
    forward(&ops_ref, &want);
    /* a score of about 1000 is rounded to 1000 u before exp */
    CHECK_CLOSE(p.y.data, want.y.data, tensor_count(p.y), 1000 * 5.96e-8);
    CHECK_CLOSE(p.lse.data, want.lse.data, tensor_count(p.lse), tol);
}

/* Scores far apart, in two tiles of keys: without a row's whole maximum exponentials overflow. */
static void far_scores_bf16(const struct ops *be)
{
    struct problem p = { .n = 1, .h = 5, .w = 16, .heads = 2, .d = 16, .window = 0 };

    problem_fill(&p, 85);
    op_scale(p.in[QKV], 20, 0);
    struct problem got = narrow(&p);

    p.in[QKV] = op_cast(got.in[QKV], F32);
    forward(&ops_ref, &p);
    forward(be, &got);
    CHECK_CLOSE(op_cast(got.y, F32).data, p.y.data, tensor_count(p.y), tol_bf16);
    CHECK_CLOSE(got.lse.data, p.lse.data, tensor_count(p.lse), tol_bf16);
}

static void shape_errors(const struct ops *be)
{
    struct problem p = { .n = 1, .h = 5, .w = 3, .heads = 2, .d = 8, .window = 4, .rel = true };

    problem_fill(&p, 90);
    struct problem empty = p;
    for (int i = 0; i < N_INPUTS; i++) {
        empty.in[i].data = NULL;
        empty.grad[i].data = NULL;
    }
    empty.y.data = empty.lse.data = empty.dy.data = NULL;
    OP_PLAN(be->attention_fwd(empty.y, empty.lse, empty.in[QKV], empty.in[BIAS], empty.in[REL_H],
                              empty.in[REL_W], 2, 4, s));
    OP_PLAN(be->attention_bwd(empty.grad[QKV], empty.grad[BIAS], empty.grad[REL_H],
                              empty.grad[REL_W], empty.dy, empty.y, empty.lse, empty.in[QKV],
                              empty.in[BIAS], empty.in[REL_H], empty.in[REL_W], 2, 4, s));

    const struct tensor none = tensor_none();
    struct tensor bytes = p.in[QKV], narrow = p.in[REL_W];

    bytes.dtype = BF16;
    narrow.dim[0]--;
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, bytes, p.in[BIAS], p.in[REL_H], p.in[REL_W], 2, 4, s));
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, p.in[QKV], none, p.in[REL_H], p.in[REL_W], 2, 4, s));
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], none, 2, 4, s));
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], narrow, 2, 4, s));
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], p.in[REL_W], 5, 4, s));
    OP_SHAPE_ERROR(
        be->attention_fwd(p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], p.in[REL_W], 2, -1, s));
    OP_SHAPE_ERROR(be->attention_bwd(p.grad[QKV], p.grad[BIAS], p.grad[REL_H], p.grad[REL_W], p.lse,
                                     p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], p.in[REL_W], 2,
                                     4, s));
    OP_SHAPE_ERROR(be->attention_bwd(p.grad[BIAS], p.grad[BIAS], p.grad[REL_H], p.grad[REL_W], p.dy,
                                     p.y, p.lse, p.in[QKV], p.in[BIAS], p.in[REL_H], p.in[REL_W], 2,
                                     4, s));
    OP_SHAPE_ERROR(be->attention_bwd(p.grad[QKV], p.grad[BIAS], p.grad[REL_H], none, p.dy, p.y,
                                     p.lse, p.in[QKV], p.in[BIAS], none, none, 2, 4, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const struct problem problems[] = {
        { .n = 1, .h = 1, .w = 1, .heads = 1, .d = 1, .window = 0, .rel = true },
        { .n = 3, .h = 2, .w = 3, .heads = 1, .d = 4, .window = 1, .rel = true },
        { .n = 1, .h = 3, .w = 2, .heads = 2, .d = 8, .window = 7, .rel = true },
        { .n = 1, .h = 3, .w = 4, .heads = 1, .d = 80, .window = 0, .rel = true }, /* ViT-H's */
        { .n = 2, .h = 5, .w = 9, .heads = 2, .d = 5, .window = 4, .rel = false },
        { .n = 2, .h = 5, .w = 9, .heads = 3, .d = 7, .window = 0, .rel = true },
        { .n = 2, .h = 8, .w = 8, .heads = 2, .d = 64, .window = 4, .rel = true },
        { .n = 1, .h = 16, .w = 15, .heads = 1, .d = 16, .window = 14, .rel = true },
        { .n = 1,
          .h = 2,
          .w = 300,
          .heads = 1,
          .d = 8,
          .window = 0,
          .rel = true }, /* a row of keys wider than a tile, fewer rows than keys could be split */
        { .n = 1,
          .h = 17,
          .w = 31,
          .heads = 1,
          .d = 8,
          .window = 0,
          .rel = true }, /* many blocks */
        { .n = 1, .h = 16, .w = 16, .heads = 3, .d = 64, .window = 7, .rel = true },
        { .n = 1, .h = 16, .w = 16, .heads = 3, .d = 64, .window = 0, .rel = true },
    };

    /* Tiles of 64 keys: of windows up to 16 × 16 in order, else of a row each; 128 queries or keys a
     * block. Five tiles go round both stages twice. */
    static const struct problem bf16_problems[] = {
        { .n = 1, .h = 1, .w = 1, .heads = 1, .d = 8, .window = 0, .rel = true },
        { .n = 3, .h = 2, .w = 3, .heads = 1, .d = 8, .window = 1, .rel = true },
        { .n = 1, .h = 3, .w = 2, .heads = 2, .d = 8, .window = 7, .rel = true },
        { .n = 2, .h = 5, .w = 9, .heads = 2, .d = 24, .window = 4, .rel = true },
        { .n = 2, .h = 5, .w = 9, .heads = 2, .d = 24, .window = 4, .rel = false },
        { .n = 2, .h = 5, .w = 9, .heads = 3, .d = 7, .window = 4, .rel = true }, /* odd D */
        { .n = 1, .h = 7, .w = 9, .heads = 2, .d = 20, .window = 0, .rel = true },
        { .n = 1, .h = 6, .w = 5, .heads = 2, .d = 88, .window = 5, .rel = true },
        { .n = 1, .h = 18, .w = 7, .heads = 1, .d = 16, .window = 0, .rel = true },
        { .n = 1, .h = 3, .w = 64, .heads = 2, .d = 64, .window = 0, .rel = true }, /* whole rows */
        { .n = 1, .h = 16, .w = 15, .heads = 1, .d = 64, .window = 14, .rel = true },
        { .n = 1, .h = 15, .w = 16, .heads = 1, .d = 80, .window = 14, .rel = true },
        { .n = 1, .h = 16, .w = 16, .heads = 1, .d = 80, .window = 0, .rel = true },
        { .n = 1, .h = 2, .w = 100, .heads = 1, .d = 96, .window = 0, .rel = false },
        { .n = 2, .h = 18, .w = 3, .heads = 1, .d = 96, .window = 17, .rel = true },
        { .n = 1, .h = 5, .w = 64, .heads = 1, .d = 80, .window = 0, .rel = true },
        { .n = 1,
          .h = 10,
          .w = 65,
          .heads = 1,
          .d = 8,
          .window = 0,
          .rel = true }, /* 2 a row, one key in the second */
        /* 143 windows: the tables' gradients take two of them at a time, and one at the end */
        { .n = 1, .h = 26, .w = 22, .heads = 1, .d = 8, .window = 2, .rel = true },
    };
    enum {
        N = sizeof problems / sizeof *problems,
        N_BF16 = sizeof bf16_problems / sizeof *bf16_problems
    };

    omp_set_num_threads(3); /* whatever the environment says */
    by_hand(be);
    for (int i = 0; i < N_BF16; i++) { /* the small ones first: what fails, fails soon */
        if (i < N) compare(be, problems[i], 10 * (uint64_t)i + 1);
        if (be->bf16) compare_bf16(be, bf16_problems[i], 10 * (uint64_t)i + 5);
    }
    gradient_rule(be, 5, 3, 4, F32);
    if (be->bf16) {
        far_scores_bf16(be);
        gradient_rule(be, 5, 3, 4, BF16);
        gradient_rule(be, 17, 3, 0, BF16);
    }
    edges(be);
    derivative(be);
    gradient_rule(be, 20, 13, 0, F32); /* several blocks of queries, keys split */
    shape_errors(be);
    return check_done("attention");
}

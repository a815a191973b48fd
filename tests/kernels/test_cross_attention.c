/* Attention between two sets of tokens: against the reference, its differences, at the edges. */
#include <math.h>

#include "tests/kernels/op.h"

/* f32 sums in blocks of up to 128 products, and exp of a score rounded once: 8 u. */
static const double tol = 8 * 5.96e-8;

enum { Q, K, V, N_INPUTS };

struct problem {
    int64_t m, mq, mk, tq, tk;
    int heads, d;
    bool counted; /* n_keys is given: 1, Tk, and between */
    struct tensor in[N_INPUTS], grad[N_INPUTS], n_keys, y, lse, dy;
};

static void problem_fill(struct problem *p, uint64_t seed)
{
    const int64_t c = (int64_t)p->heads * p->d;

    p->in[Q] = OP_FILLED(seed, 1.5f, 0.1f, p->mq, p->tq, c);
    p->in[K] = OP_FILLED(seed + 1, 1.5f, 0, p->mk, p->tk, c);
    p->in[V] = OP_FILLED(seed + 2, 1, 0.2f, p->mk, p->tk, c);
    p->dy = OP_FILLED(seed + 3, 1, 0, p->m, p->tq, c);
    p->y = OP_ZEROS(F32, p->m, p->tq, c);
    p->lse = OP_ZEROS(F32, p->m, p->heads, p->tq);
    p->n_keys = p->counted ? OP_ZEROS(I32, p->m) : tensor_none();
    for (int64_t m = 0; p->counted && m < p->m; m++)
        ((int32_t *)p->n_keys.data)[m] = (int32_t)(m == 0   ? 1
                                                   : m == 1 ? p->tk
                                                            : 1 + (7 * m) % p->tk);
    for (int i = 0; i < N_INPUTS; i++) p->grad[i] = op_like(p->in[i]);
}

static void forward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->cross_attention_fwd(p->y, p->lse, p->in[Q], p->in[K], p->in[V], p->n_keys, p->heads,
                                   s));
}

static void backward(const struct ops *be, struct problem *p)
{
    OP_RUN(be->cross_attention_bwd(p->grad[Q], p->grad[K], p->grad[V], p->dy, p->y, p->lse,
                                   p->in[Q], p->in[K], p->in[V], p->n_keys, p->heads, s));
}

/* The same inputs, other outputs. */
static struct problem twin(const struct problem *p)
{
    struct problem t = *p;

    t.y = op_like(p->y);
    t.lse = op_like(p->lse);
    for (int i = 0; i < N_INPUTS; i++) t.grad[i] = op_like(p->in[i]);
    return t;
}

static void compare(const struct ops *be, struct problem p, uint64_t seed)
{
    problem_fill(&p, seed);
    struct problem want = twin(&p), one = twin(&p);
    const int n_threads = omp_get_max_threads();

    forward(be, &p);
    forward(&ops_ref, &want);
    CHECK_CLOSE(p.y.data, want.y.data, tensor_count(p.y), tol);
    CHECK_CLOSE(p.lse.data, want.lse.data, tensor_count(p.lse), tol);
    backward(be, &p);
    backward(&ops_ref, &want);
    for (int i = 0; i < N_INPUTS; i++)
        CHECK_CLOSE(p.grad[i].data, want.grad[i].data, tensor_count(p.grad[i]), 4 * tol);

    /* the number of threads changes no bit */
    omp_set_num_threads(1);
    forward(be, &one);
    backward(be, &one);
    omp_set_num_threads(n_threads);
    CHECK_SAME_BITS(p.y.data, one.y.data, tensor_bytes(p.y));
    CHECK_SAME_BITS(p.lse.data, one.lse.data, tensor_bytes(p.lse));
    for (int i = 0; i < N_INPUTS; i++)
        CHECK_SAME_BITS(p.grad[i].data, one.grad[i].data, tensor_bytes(p.grad[i]));
}

/* In bf16: as the reference on the same rounded numbers, and the same bits again. The backward pass
 * reads y as it was stored: delta is off by 2^-9 of |dy||y|, and so is every gradient of a score. */
static void compare_bf16(const struct ops *be, struct problem p, uint64_t seed)
{
    const double rounds = 4e-3; /* of a result, and of y in what it is made of: 2^-9 each */

    problem_fill(&p, seed);
    struct problem narrow = p, want, again;

    for (int i = 0; i < N_INPUTS; i++) {
        narrow.in[i] = op_cast(p.in[i], BF16);
        p.in[i] = op_cast(narrow.in[i], F32);
        narrow.grad[i] = op_filled(op_like(narrow.in[i]), 5, 9, 0);
    }
    narrow.dy = op_cast(p.dy, BF16);
    p.dy = op_cast(narrow.dy, F32);
    narrow.y = op_like(narrow.dy);
    narrow.lse = op_like(p.lse);
    want = twin(&p);
    again = twin(&narrow);
    forward(be, &narrow);
    backward(be, &narrow);
    forward(be, &again);
    backward(be, &again);
    forward(&ops_ref, &want);
    backward(&ops_ref, &want);
    CHECK_CLOSE(op_cast(narrow.y, F32).data, want.y.data, tensor_count(p.y), rounds);
    CHECK_CLOSE(narrow.lse.data, want.lse.data, tensor_count(p.lse), tol);
    CHECK_SAME_BITS(again.y.data, narrow.y.data, tensor_bytes(narrow.y));
    for (int i = 0; i < N_INPUTS; i++) {
        CHECK_CLOSE(op_cast(narrow.grad[i], F32).data, want.grad[i].data, tensor_count(p.grad[i]),
                    rounds);
        CHECK_SAME_BITS(again.grad[i].data, narrow.grad[i].data, tensor_bytes(narrow.grad[i]));
    }

    /* added to itself: twice, rounded once more */
    struct tensor twice = op_cast(narrow.grad[K], F32);

    op_scale(twice, 2, 0);
    again.grad[K].add = true;
    backward(be, &again);
    CHECK_CLOSE(op_cast(again.grad[K], F32).data, twice.data, tensor_count(twice), rounds);
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
static void derivative(const struct ops *be, bool share_q, bool share_k)
{
    struct problem p = { .m = 3, .tq = 5, .tk = 7, .heads = 2, .d = 3, .counted = true };

    p.mq = share_q ? 1 : p.m;
    p.mk = share_k ? 1 : p.m;
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
static void gradient_rule(const struct ops *be, bool share_k)
{
    struct problem p = { .m = 3, .mq = 3, .tq = 5, .tk = 18, .heads = 2, .d = 8, .counted = true };

    p.mk = share_k ? 1 : p.m;
    problem_fill(&p, 60);
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
        op_scale(p.grad[only], 2, 0);
        CHECK_CLOSE(q.grad[only].data, p.grad[only].data, tensor_count(p.grad[only]), tol);
    }
    for (int i = 0; i < N_INPUTS; i++) p.grad[i] = op_no_data(p.grad[i]);
    backward(be, &p);
}

/* Keys beyond the count: no weight, gradient 0 to the bit, and their values are never looked at. */
static void keys_beyond(const struct ops *be)
{
    struct problem p = {
        .m = 4, .mq = 4, .mk = 4, .tq = 9, .tk = 6, .heads = 2, .d = 8, .counted = true
    };

    problem_fill(&p, 30);
    struct problem q = twin(&p);
    const int64_t row = (int64_t)p.heads * p.d;
    const float zero[64] = { 0 };

    q.in[K] = op_copy(p.in[K]);
    q.in[V] = op_copy(p.in[V]);
    for (int64_t m = 0; m < p.m; m++)
        for (int64_t t = ((const int32_t *)p.n_keys.data)[m]; t < p.tk; t++)
            for (int64_t c = 0; c < row; c++) {
                ((float *)q.in[K].data)[(m * p.tk + t) * row + c] = NAN;
                ((float *)q.in[V].data)[(m * p.tk + t) * row + c] = INFINITY;
            }
    forward(be, &p);
    backward(be, &p);
    forward(be, &q);
    backward(be, &q);
    CHECK_SAME_BITS(q.y.data, p.y.data, tensor_bytes(p.y));
    for (int i = 0; i < N_INPUTS; i++)
        CHECK_SAME_BITS(q.grad[i].data, p.grad[i].data, tensor_bytes(p.grad[i]));
    for (int64_t m = 0; m < p.m; m++)
        for (int64_t t = ((const int32_t *)p.n_keys.data)[m]; t < p.tk; t++)
            CHECK_SAME_BITS((const float *)p.grad[K].data + (m * p.tk + t) * row, zero,
                            row * (int64_t)sizeof *zero);
    /* one key: the output is its value */
    for (int64_t t = 0; t < p.tq; t++)
        CHECK_CLOSE((const float *)p.y.data + t * row, (const float *)p.in[V].data, row, tol);
}

/* The formula of the header by hand: one head of four channels, two keys. */
static void by_hand(const struct ops *be)
{
    struct problem p = { .m = 1, .mq = 1, .mk = 1, .tq = 1, .tk = 2, .heads = 2, .d = 4 };

    problem_fill(&p, 20);
    forward(be, &p);
    for (int64_t head = 0; head < 2; head++) {
        const float *q = (const float *)p.in[Q].data + head * 4;
        const float *k = (const float *)p.in[K].data + head * 4;
        const float *v = (const float *)p.in[V].data + head * 4;
        const double a = exp(check_dot(q, k, 4) / 2), b = exp(check_dot(q, k + 8, 4) / 2);

        CHECK(fabs(((const float *)p.lse.data)[head] - log(a + b)) <= tol);
        for (int64_t c = 0; c < 4; c++)
            CHECK(fabs(((const float *)p.y.data)[head * 4 + c] -
                       (a * v[c] + b * v[8 + c]) / (a + b)) <= tol);
    }
}

static void edges(const struct ops *be)
{
    /* no mask: what a mask owns is empty, what they share is zero */
    struct problem p = { .m = 0, .mq = 0, .mk = 1, .tq = 3, .tk = 4, .heads = 2, .d = 8 };

    problem_fill(&p, 80);
    for (int i = 0; i < N_INPUTS; i++) op_filled(p.grad[i], 81, 1, 0);
    forward(be, &p);
    backward(be, &p);
    for (int i = K; i <= V; i++) {
        struct tensor zero = op_like(p.grad[i]);

        CHECK_SAME_BITS(p.grad[i].data, zero.data, tensor_bytes(zero));
    }
    p = (struct problem){ .m = 0, .mq = 0, .mk = 0, .tq = 3, .tk = 4, .heads = 2, .d = 8 };
    problem_fill(&p, 82);
    forward(be, &p);
    backward(be, &p);

    /* scores far apart: the row's maximum is subtracted */
    p = (struct problem){ .m = 2, .mq = 2, .mk = 2, .tq = 9, .tk = 40, .heads = 2, .d = 16 };
    problem_fill(&p, 84);
    op_scale(p.in[Q], 400, 0);
    struct problem want = twin(&p);
    forward(be, &p);
    forward(&ops_ref, &want);
    /* a score of about 1000 is rounded to 1000 u before exp */
    CHECK_CLOSE(p.y.data, want.y.data, tensor_count(p.y), 1000 * 5.96e-8);
    CHECK_CLOSE(p.lse.data, want.lse.data, tensor_count(p.lse), tol);
}

/* Scores that are all far below zero, as no key is there that could bring one near it: what is not there must have no weight
 * backward either, where its score would be zero. */
static void far_below(const struct ops *be)
{
    struct problem p = { .m = 2, .mq = 2, .mk = 2, .tq = 9, .tk = 37, .heads = 2, .d = 16 };

    problem_fill(&p, 86);
    op_scale(p.in[Q], 300, 0);
    /* all keys alike: of half of the queries all scores are negative */
    op_scale(p.in[K], 0.1f, 1);
    forward(be, &p);
    backward(be, &p);
    for (int k = 0; k < N_INPUTS; k++) CHECK(op_finite(p.grad[k]));
}

static void shape_errors(const struct ops *be)
{
    struct problem p = {
        .m = 3, .mq = 3, .mk = 1, .tq = 5, .tk = 4, .heads = 2, .d = 8, .counted = true
    };

    problem_fill(&p, 90);
    struct problem e = p;
    for (int i = 0; i < N_INPUTS; i++) {
        e.in[i].data = NULL;
        e.grad[i].data = NULL;
    }
    e.y.data = e.lse.data = e.dy.data = e.n_keys.data = NULL;
    OP_PLAN(be->cross_attention_fwd(e.y, e.lse, e.in[Q], e.in[K], e.in[V], e.n_keys, 2, s));
    OP_PLAN(be->cross_attention_bwd(e.grad[Q], e.grad[K], e.grad[V], e.dy, e.y, e.lse, e.in[Q],
                                    e.in[K], e.in[V], e.n_keys, 2, s));

    struct tensor bytes = p.in[Q], two = p.in[K], counts = p.n_keys, no_keys = p.in[K];

    bytes.dtype = BF16;
    two.dim[0] = 2; /* neither 1 nor M; never touched */
    counts.dtype = F32;
    no_keys.dim[1] = 0;
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, bytes, p.in[K], p.in[V], p.n_keys, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, p.in[Q], two, two, p.n_keys, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, p.in[Q], two, p.in[V], p.n_keys, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, p.in[Q], p.in[K], p.in[V], counts, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, p.in[Q], no_keys, no_keys, p.n_keys, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_fwd(p.y, p.lse, p.in[Q], p.in[K], p.in[V], p.n_keys, 3, s));
    if (!be->host_memory) { /* a device's kernels have registers for 96 numbers of a head */
        struct problem wide = { .m = 1, .mq = 1, .mk = 1, .tq = 2, .tk = 3, .heads = 1, .d = 97 };

        problem_fill(&wide, 91);
        OP_SHAPE_ERROR(be->cross_attention_fwd(wide.y, wide.lse, wide.in[Q], wide.in[K], wide.in[V],
                                               wide.n_keys, 1, s));
    }
    OP_SHAPE_ERROR(be->cross_attention_bwd(p.grad[K], p.grad[K], p.grad[V], p.dy, p.y, p.lse,
                                           p.in[Q], p.in[K], p.in[V], p.n_keys, 2, s));
    OP_SHAPE_ERROR(be->cross_attention_bwd(p.grad[Q], p.grad[K], p.grad[V], p.in[K], p.y, p.lse,
                                           p.in[Q], p.in[K], p.in[V], p.n_keys, 2, s));
}

int main(int argc, char **argv)
{
    const struct ops *be = op_backend(argc, argv);
    static const struct problem problems[] = {
        { .m = 2, .mq = 2, .mk = 2, .tq = 0, .tk = 3, .heads = 2, .d = 7 },
        { .m = 1, .mq = 1, .mk = 1, .tq = 1, .tk = 1, .heads = 1, .d = 1 },
        { .m = 2, .mq = 2, .mk = 2, .tq = 33, .tk = 131, .heads = 3, .d = 29, .counted = true },
        { .m = 1, .mq = 1, .mk = 1, .tq = 16, .tk = 300, .heads = 2, .d = 32 },
        { .m = 2, .mq = 1, .mk = 2, .tq = 5, .tk = 9, .heads = 1, .d = 4 },
        { .m = 3, .mq = 1, .mk = 1, .tq = 17, .tk = 5, .heads = 1, .d = 4, .counted = true },
        { .m = 5, .mq = 1, .mk = 5, .tq = 64, .tk = 7, .heads = 4, .d = 8, .counted = true },
        { .m = 5, .mq = 5, .mk = 1, .tq = 7, .tk = 64, .heads = 4, .d = 8 },
        { .m = 4, .mq = 4, .mk = 4, .tq = 256, .tk = 9, .heads = 8, .d = 8, .counted = true },
        { .m = 4, .mq = 4, .mk = 4, .tq = 9, .tk = 256, .heads = 8, .d = 8 },
        { .m = 16, .mq = 16, .mk = 16, .tq = 9, .tk = 9, .heads = 8, .d = 16, .counted = true },
    };

    omp_set_num_threads(3); /* whatever the environment says */
    by_hand(be);
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) { /* the light ones first */
        compare(be, problems[i], 10 * i + 1);
        if (be->bf16 && i < 8) compare_bf16(be, problems[i], 10 * i + 1);
    }
    for (int share = 0; share < 4; share++) derivative(be, share & 1, share & 2);
    gradient_rule(be, false);
    gradient_rule(be, true);
    keys_beyond(be);
    edges(be);
    far_below(be);
    shape_errors(be);
    return check_done("cross_attention");
}

/* What every differentiable op is asked, once its tensors are laid out:
 *
 *   forward, backward: as the reference; neither depends on the number of threads
 *   gradients: overwrite what was there, add to it when told, are skipped where not wanted
 *   derivative: with v = (f(x+hu) − f(x−hu)) / 2h, <v, v> = <u, Jᵀv> up to an error that falls
 *     like h²; one input at a time, so that each gradient answers for itself
 *   planning: touches nothing, and asks for the same scratch as the run
 *
 * In bf16, when the case says so and the backend has it: forward and backward as the reference on the
 * same rounded numbers, the same bits again, and the rules of gradients and planning.
 *
 * Guard words stand around every buffer; check_done looks at them. */
#ifndef TESTS_KERNELS_OP_CASE_H
#define TESTS_KERNELS_OP_CASE_H

#include <math.h>

#include "tests/kernels/op.h"

enum { OP_CASE_INPUTS = 16 };

struct op_case {
    const char *name;
    enum status (*fwd)(const struct ops *be, const struct op_case *c, struct stream *s);
    enum status (*bwd)(const struct ops *be, const struct op_case *c, struct stream *s);
    int n_inputs;
    struct tensor input[OP_CASE_INPUTS], gradient[OP_CASE_INPUTS]; /* gradient none: has none */
    struct tensor y, dy;
    struct tensor kept[2]; /* written forward, read backward; or none */
    struct tensor scale, key;
    enum activation act;
    int64_t number; /* a salt, a first token */
    float p;
    bool same_bits; /* arithmetic leaves no room to differ from the reference */
    bool has_kinks; /* the derivative is not asked for */
    double tol;     /* relative, of the norm, against the reference */

    /* The op in bf16. Bit k of a mask: input k, or its gradient, or kept k, is F32 all the same. */
    bool has_bf16, y_f32;
    uint32_t input_f32, gradient_f32, kept_f32;
    double tol_bf16; /* as tol; 0: OP_CASE_BF16 */
    double tol_wide; /* as tol, of results that are F32 there; 0: tol_bf16 */
};

/* Rounding alone, of a result or of what it is made of, is up to 2^-9 of each element, and about
 * 2^-10 of the norm; a few such steps (a stored pre, dy through an activation, weights of an average)
 * add up to this. */
#define OP_CASE_BF16 4e-3

/* Lays out dy, the gradients and y's copies behind the inputs and y of a case. */
static inline void op_case_finish(struct op_case *c)
{
    c->dy = op_filled(op_like(c->y), 77, 1, 0);
    for (int k = 0; k < c->n_inputs; k++)
        if (c->input[k].n_dims > 0) c->gradient[k] = op_like(c->input[k]);
    if (c->tol == 0) c->tol = 1e-6;
}

static inline void op_case_near(const struct op_case *c, const char *what, struct tensor got,
                                struct tensor want)
{
    const double tol = c->tol_wide > 0 && got.dtype == F32 ? c->tol_wide : c->tol;
    const int fails = check_fails;

    if (c->same_bits)
        CHECK_SAME_BITS(got.data, want.data, tensor_bytes(want));
    else
        CHECK_CLOSE(op_cast(got, F32).data, op_cast(want, F32).data, tensor_count(want), tol);
    if (check_fails != fails) fprintf(stderr, "  in %s: %s\n", c->name, what);
}

static inline void op_case_bits(const struct op_case *c, const char *what, struct tensor got,
                                struct tensor want)
{
    const int fails = check_fails;

    CHECK_SAME_BITS(got.data, want.data, tensor_bytes(want));
    if (check_fails != fails) fprintf(stderr, "  in %s: %s\n", c->name, what);
}

/* The case with output and gradients of its own, filled with what a right op overwrites. */
static inline struct op_case op_case_fresh(const struct op_case *c)
{
    struct op_case f = *c;

    f.y = op_filled(op_like(c->y), 5, 9, 0);
    for (int i = 0; i < 2; i++)
        if (c->kept[i].n_dims > 0) f.kept[i] = op_filled(op_like(c->kept[i]), 6, 9, 0);
    for (int k = 0; k < c->n_inputs; k++)
        if (c->gradient[k].n_dims > 0) f.gradient[k] = op_filled(op_like(c->gradient[k]), 7, 9, 0);
    return f;
}

static inline void op_case_forward_backward(const struct ops *be, const struct op_case *c)
{
    OP_RUN(c->fwd(be, c, s));
    OP_RUN(c->bwd(be, c, s));
}

static inline void op_case_reference(const struct ops *be, const struct op_case *ref,
                                     const struct op_case *got)
{
    op_case_forward_backward(&ops_ref, ref);
    op_case_forward_backward(be, got);
    op_case_near(ref, "y", got->y, ref->y);
    for (int i = 0; i < 2; i++)
        if (ref->kept[i].n_dims > 0) op_case_near(ref, "kept", got->kept[i], ref->kept[i]);
    for (int k = 0; k < ref->n_inputs; k++)
        if (ref->gradient[k].n_dims > 0)
            op_case_near(ref, "gradient", got->gradient[k], ref->gradient[k]);
}

static inline void op_case_threads(const struct ops *be, const struct op_case *c)
{
    const struct op_case one = op_case_fresh(c);

    omp_set_num_threads(1);
    op_case_forward_backward(be, &one);
    for (int n_threads = 2; n_threads <= 5; n_threads += 3) {
        const struct op_case many = op_case_fresh(c);

        omp_set_num_threads(n_threads);
        op_case_forward_backward(be, &many);
        op_case_bits(c, "y on one thread and more", many.y, one.y);
        for (int i = 0; i < 2; i++)
            if (c->kept[i].n_dims > 0)
                op_case_bits(c, "kept on one thread and more", many.kept[i], one.kept[i]);
        for (int k = 0; k < c->n_inputs; k++)
            if (c->gradient[k].n_dims > 0)
                op_case_bits(c, "gradient on one thread and more", many.gradient[k],
                             one.gradient[k]);
    }
}

/* Added twice is twice; wanted alone is the same as wanted with others. */
static inline void op_case_gradients(const struct ops *be, const struct op_case *c)
{
    for (int k = 0; k < c->n_inputs; k++) {
        struct op_case alone = *c;

        if (c->gradient[k].n_dims == 0) continue;
        for (int j = 0; j < c->n_inputs; j++) alone.gradient[j] = op_no_data(c->gradient[j]);
        alone.gradient[k] = op_filled(op_like(c->gradient[k]), 8, 9, 0);
        OP_RUN(c->bwd(be, &alone, s));
        op_case_bits(c, "gradient wanted alone", alone.gradient[k], c->gradient[k]);

        struct tensor twice = op_cast(c->gradient[k], F32);
        float *p = twice.data;

        for (int64_t i = 0; i < tensor_count(twice); i++) p[i] *= 2;
        alone.gradient[k] = op_adding(alone.gradient[k]);
        OP_RUN(c->bwd(be, &alone, s));
        const bool exact = c->same_bits;
        const bool rounds = c->gradient[k].dtype == BF16;
        const struct op_case loose = { .name = c->name,
                                       .same_bits = exact && !rounds,
                                       .tol = rounds ? OP_CASE_BF16 : 1e-6 };

        op_case_near(&loose, "gradient added to itself", alone.gradient[k], twice);
    }
}

/* (<v,v> − <u,Jᵀv>) / <v,v> for a step h along u of input k; flipped: with Jᵀv's sign turned. */
static inline double op_case_slope_error(const struct ops *be, const struct op_case *c, int k,
                                         struct tensor u, float h, double *flipped)
{
    struct op_case at = op_case_fresh(c), up = op_case_fresh(c), down = op_case_fresh(c);
    const float *u_data = u.data, *x = c->input[k].data;
    float *x_up, *x_down, *v;
    double exact, got;

    up.input[k] = op_copy(c->input[k]);
    down.input[k] = op_copy(c->input[k]);
    x_up = up.input[k].data;
    x_down = down.input[k].data;
    for (int64_t i = 0; i < tensor_count(u); i++) {
        x_up[i] = x[i] + h * u_data[i];
        x_down[i] = x[i] - h * u_data[i];
    }
    OP_RUN(up.fwd(be, &up, s));
    OP_RUN(down.fwd(be, &down, s));
    OP_RUN(at.fwd(be, &at, s));
    at.dy = op_like(c->y);
    v = at.dy.data;
    for (int64_t i = 0; i < tensor_count(c->y); i++)
        v[i] = (((float *)up.y.data)[i] - ((float *)down.y.data)[i]) / (2 * h);
    OP_RUN(at.bwd(be, &at, s));
    exact = check_dot(v, v, tensor_count(c->y));
    got = check_dot(u_data, at.gradient[k].data, tensor_count(u));
    *flipped = (exact + got) / exact;
    return (exact - got) / exact;
}

/* A random direction about as long as x. */
static inline struct tensor op_case_direction(struct tensor x, uint64_t seed)
{
    const double square = check_dot(x.data, x.data, tensor_count(x)) / (double)tensor_count(x);

    return op_filled(op_like(x), seed, square > 0 ? (float)sqrt(3 * square) : 1, 0);
}

static inline void op_case_derivative(const struct ops *be, const struct op_case *c)
{
    for (int k = 0; k < c->n_inputs; k++) {
        if (c->gradient[k].n_dims == 0) continue;
        const struct tensor u = op_case_direction(c->input[k], 99 + (uint64_t)k);
        const int fails = check_fails;
        double flipped;
        const double coarse = op_case_slope_error(be, c, k, u, 0.04f, &flipped);
        const double fine = op_case_slope_error(be, c, k, u, 0.02f, &flipped);

        /* The error is c h² + O(h⁴), and what is left without c is small. 1e-4: the fourth order,
         * and the rounding of a difference of floats, 2^-24 |y| / h, a few times over. */
        CHECK(fabs(4 * fine - coarse) / 3 <= 1e-4);
        CHECK(fabs(fine) <= 0.02);
        CHECK(fabs(flipped) > 0.5);
        if (check_fails != fails)
            fprintf(stderr, "  in %s: input %d: errors %.3g at h, %.3g at h/2, flipped %.3g\n",
                    c->name, k, coarse, fine, flipped);
    }
}

static inline void op_case_planning(const struct ops *be, const struct op_case *c)
{
    struct op_case empty = *c;
    struct stream full_plan = { .planning = true }, plan = { .planning = true };

    CHECK(c->fwd(be, c, &full_plan) == OK && c->bwd(be, c, &full_plan) == OK);
    for (int k = 0; k < c->n_inputs; k++) {
        empty.input[k].data = NULL;
        empty.gradient[k].data = NULL;
    }
    empty.y.data = empty.dy.data = empty.kept[0].data = empty.kept[1].data = NULL;
    empty.scale.data = empty.key.data = NULL;
    CHECK(c->fwd(be, &empty, &plan) == OK && c->bwd(be, &empty, &plan) == OK);
    CHECK(plan.scratch_need == full_plan.scratch_need);
}

static inline bool op_case_bit(uint32_t mask, int k)
{
    return mask >> k & 1;
}

/* The case on rounded numbers: in F32 for the reference, in BF16 for the backend. */
static inline struct op_case op_case_rounded(const struct op_case *c, bool narrow)
{
    const enum dtype T = narrow ? BF16 : F32;
    struct op_case r = *c;

    for (int k = 0; k < c->n_inputs; k++) {
        if (c->input[k].n_dims == 0 || c->input[k].dtype != F32) continue;
        if (!op_case_bit(c->input_f32, k)) r.input[k] = op_cast(op_cast(c->input[k], BF16), T);
        if (c->gradient[k].n_dims > 0)
            r.gradient[k].dtype =
                op_case_bit(c->input_f32 | c->gradient_f32, k) || !narrow ? F32 : BF16;
    }
    for (int i = 0; i < 2; i++)
        if (c->kept[i].n_dims > 0 && c->kept[i].dtype == F32)
            r.kept[i].dtype = op_case_bit(c->kept_f32, i) || !narrow ? F32 : BF16;
    if (!c->y_f32) {
        r.y.dtype = T;
        r.dy = op_cast(op_cast(c->dy, BF16), T);
    }
    return r;
}

static inline void op_case_bf16(const struct ops *be, const struct op_case *c)
{
    char name[128];
    const struct op_case wide = op_case_rounded(c, false), narrow = op_case_rounded(c, true);
    struct op_case ref = op_case_fresh(&wide);
    const struct op_case got = op_case_fresh(&narrow), again = op_case_fresh(&narrow);

    snprintf(name, sizeof name, "%s, bf16", c->name);
    ref.name = name;
    ref.same_bits = false;
    ref.tol = c->tol_bf16 > 0 ? c->tol_bf16 : OP_CASE_BF16;
    op_case_reference(be, &ref, &got);
    op_case_forward_backward(be, &again);
    op_case_bits(&ref, "y again", again.y, got.y);
    for (int k = 0; k < c->n_inputs; k++)
        if (c->gradient[k].n_dims > 0)
            op_case_bits(&ref, "gradient again", again.gradient[k], got.gradient[k]);
    op_case_gradients(be, &got);
    op_case_planning(be, &narrow);
}

static inline void op_case_ask(const struct ops *be, const struct op_case *c)
{
    const struct op_case ref = op_case_fresh(c), got = op_case_fresh(c);

    op_case_reference(be, &ref, &got);
    op_case_threads(be, c);
    op_case_gradients(be, &got);
    op_case_planning(be, c);
    /* of few elements, errors of both signs may cancel at one step and not at the other */
    if (!c->has_kinks && tensor_count(c->y) >= 32) op_case_derivative(be, c);
    if (c->has_bf16 && be->bf16) op_case_bf16(be, c);
}

#endif

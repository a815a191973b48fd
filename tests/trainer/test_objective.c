/* The whole step's gradient against differences of the whole step's loss, and what must not change it: the backend, the chunking,
 * recomputation. Prompts are drawn anew in every evaluation, the same ones, since they are functions of counters. */
#include <math.h>
#include <stdio.h>

#include "tests/trainer/tiny_sam.h"

/* d loss along u by differences extrapolated to h = 0, and <gradient, u>. */
static void derivative(struct tiny_sam *t, uint64_t direction, double *by_difference,
                       double *by_gradient)
{
    float *w = t->sam->weights, *kept = malloc((size_t)t->n * 4), *u = malloc((size_t)t->n * 4);
    double d[2];

    if (!kept || !u) exit(1);
    memcpy(kept, w, (size_t)t->n * 4);
    memset(u, 0, (size_t)t->n * 4);
    for (int i = 0; i < t->sam->params.n; i++) {
        const struct param *q = t->sam->params.at + i;

        if (!q->buffer) check_fill(u + q->offset, q->count, direction, (uint64_t)i, 1, 0);
    }
    memset(t->grads, 0, (size_t)t->n * 4);
    tiny_slot(t, 0, 0);
    *by_gradient = check_dot(t->grads, u, t->n);
    for (int k = 0; k < 2; k++) {
        const float h = k ? 1e-4f : 2e-4f;
        double loss[2];

        for (int sign = 0; sign < 2; sign++) {
            for (int64_t i = 0; i < t->n; i++) w[i] = kept[i] + (sign ? h : -h) * u[i];
            loss[sign] = tiny_slot(t, 0, 0);
        }
        d[k] = (loss[1] - loss[0]) / (2 * (double)h);
    }
    *by_difference = (4 * d[1] - d[0]) / 3;
    memcpy(w, kept, (size_t)t->n * 4);
    free(kept);
    free(u);
}

/* Without clicks nothing depends on the weights but the loss, and with gradients through all rounds all of it is differentiated. */
static void gradient_is_the_derivative(struct config c, const char *what)
{
    struct tiny_sam t;

    c.train_silent_rounds = c.train_rounds - 1;
    c.train_through_rounds = true;
    c.train_chunk = c.train_masks = 2;
    c.loss_w_iou = 0; /* its target counts pixels: it jumps, and has no gradient there */
    tiny_create(&t, c, &ops_ref);
    for (uint64_t k = 0; k < 3; k++) {
        double a, b;

        derivative(&t, 20 + k, &a, &b);
        printf("%s: difference %.6f, gradient %.6f\n", what, a, b);
        CHECK(fabs(a - b) <= 4e-3 * fabs(a)); /* f32 loss: ten digits lost to h, three left */
        CHECK(!(fabs(a + b) <= 4e-3 * fabs(a)));
    }
    tiny_destroy(&t);
}

/* A detached feedback is a different gradient: the test above could not pass without its way through the rounds. */
static void detaching_changes_the_gradient(void)
{
    struct config c = tiny_config();
    struct tiny_sam through, detached;

    c.train_silent_rounds = c.train_rounds - 1;
    tiny_create(&detached, c, &ops_ref);
    c.train_through_rounds = true;
    tiny_create(&through, c, &ops_ref);
    CHECK(tiny_slot(&through, 0, 0) == tiny_slot(&detached, 0, 0));
    printf("detached feedback: gradient differs by %.3f\n",
           check_rel_err(detached.grads, through.grads, through.n));
    CHECK(!(check_rel_err(detached.grads, through.grads, through.n) <= 0.02));
    tiny_destroy(&through);
    tiny_destroy(&detached);
}

static void gradients_agree(struct config a, const struct ops *ops_a, struct config b,
                            const struct ops *ops_b, double tolerance, const char *what)
{
    struct tiny_sam s, t;
    double x, y;

    tiny_create(&s, a, ops_a);
    tiny_create(&t, b, ops_b);
    for (int64_t slot = 0; slot < 2; slot++) {
        x = tiny_slot(&s, slot, 3);
        y = tiny_slot(&t, slot, 3);
        CHECK(fabs(x - y) <= tolerance * fabs(y));
        if (a.train_chunk == b.train_chunk) /* the trace follows the order of the chunks */
            CHECK(objective_trace(s.objective) == objective_trace(t.objective));
    }
    printf("%s: gradients differ by %.2e\n", what, check_rel_err(s.grads, t.grads, s.n));
    if (tolerance > 0)
        CHECK_CLOSE(s.grads, t.grads, s.n, tolerance);
    else
        CHECK_SAME_BITS(s.grads, t.grads, s.n * 4);
    CHECK(s.n > 1000 && check_dot(s.grads, s.grads, s.n) > 0);
    tiny_destroy(&s);
    tiny_destroy(&t);
}

/* Chosen by counters: every step and slot draws its own prompts, the same ones again. */
static void prompts_are_functions_of_counters(void)
{
    struct tiny_sam t;
    uint64_t first, again, other_step, other_slot;

    tiny_create(&t, tiny_config(), &ops_cpu);
    tiny_slot(&t, 0, 0);
    first = objective_trace(t.objective);
    tiny_slot(&t, 0, 1);
    other_step = objective_trace(t.objective);
    tiny_slot(&t, 1, 0);
    other_slot = objective_trace(t.objective);
    tiny_slot(&t, 0, 0);
    again = objective_trace(t.objective);
    CHECK(first == again && first != other_step && first != other_slot);
    tiny_destroy(&t);
}

/* 1 + clicks + silent rounds; one silent round last, the others anywhere among the clicks. */
static void rounds_are_planned_as_in_the_paper(void)
{
    struct config c = tiny_config();
    bool seen[16] = { false };
    int places = 0;

    c.train_rounds = 11;
    c.train_silent_rounds = 2;
    for (int64_t step = 0; step < 400; step++) {
        const struct objective_plan p = objective_plan(&c, step);
        int clicks = 0, silent = -1;

        for (int i = 0; i < 10; i++) {
            clicks += p.click[i];
            if (!p.click[i] && i < 9) silent = i;
        }
        CHECK(clicks == 8 && !p.click[9] && silent >= 0);
        if (silent >= 0 && !seen[silent]) places++;
        if (silent >= 0) seen[silent] = true;
    }
    CHECK(places == 9);
    CHECK(config_points(&c) == 10);
}

/* A dropped branch is not computed, and its parameters get no gradient; the rest is the loss's derivative still. */
static void dropped_branches_are_left_out(void)
{
    struct config c = tiny_config();
    struct tiny_sam t;
    int dropped = 0;

    c.train_drop_path = 0.9;
    tiny_create(&t, c, &ops_cpu);
    for (int64_t step = 0; step < 6; step++) {
        memset(t.grads, 0, (size_t)t.n * 4);
        tiny_slot(&t, 0, step);
        for (int block = 0; block < 3; block++) {
            const struct param *q =
                t.sam->params.at +
                params_find(&t.sam->params, "image_encoder.blocks.%d.mlp.lin2.weight", block);
            const bool off = t.sam->branch_off[2 * block + 1];

            CHECK(off == (check_dot(t.grads + q->offset, t.grads + q->offset, q->count) == 0));
            dropped += off;
        }
    }
    CHECK(dropped > 0 && dropped < 18);
    tiny_destroy(&t);
}

int main(void)
{
    struct config plain = tiny_config(), other = plain, c;

    gradient_is_the_derivative(plain, "all rounds");
    c = plain;
    c.train_drop_path = 0.6;
    c.train_dropout = 0.2;
    gradient_is_the_derivative(c, "with drop path and dropout");
    c = plain;
    c.loss_area = 1;
    c.loss_iou_all = true;
    c.loss_resolution = 0;
    gradient_is_the_derivative(c, "full resolution, valid area, all IoUs");
    c = plain;
    c.train_box_multimask = false;
    c.train_silent_multimask = true;
    gradient_is_the_derivative(c, "one mask for a box, three after a silent round");
    detaching_changes_the_gradient();
    gradients_agree(plain, &ops_cpu, plain, &ops_ref, 2e-5, "cpu and ref");
    other.train_recompute = true;
    gradients_agree(plain, &ops_cpu, other, &ops_cpu, 0, "with and without recomputation");
    other = plain;
    other.train_chunk = 4;
    gradients_agree(plain, &ops_cpu, other, &ops_cpu, 2e-6, "chunks of 2 and 4");
    /* the last chunk reaches beyond the last mask, and beyond all that the slot has room for */
    other.train_chunk = 3;
    gradients_agree(plain, &ops_cpu, other, &ops_cpu, 2e-6, "chunks of 2 and 3");
    other.train_chunk = 40;
    gradients_agree(plain, &ops_cpu, other, &ops_cpu, 2e-6, "chunks of 2 and 40");
    /* what is saved is exact: each form against the one the reference model computes */
    c = plain;
    c.train_dropout = 0.2;
    c.train_drop_path = 0.5;
    c.train_recompute = true;
    c.run_absorb = c.run_fuse_upscaling = c.run_fuse_norms = SWITCH_OFF;
    other = c;
    other.run_absorb = SWITCH_ON;
    gradients_agree(c, &ops_cpu, other, &ops_cpu, 2e-6, "projections absorbed");
    other = c;
    other.run_fuse_upscaling = SWITCH_ON;
    gradients_agree(c, &ops_cpu, other, &ops_cpu, 2e-6, "upscaling fused");
    other = c;
    other.run_fuse_norms = SWITCH_ON;
    gradients_agree(c, &ops_cpu, other, &ops_cpu, 2e-6, "norms fused");
    other = c;
    other.run_one_mask = false;
    gradients_agree(c, &ops_cpu, other, &ops_cpu, 2e-6, "one mask of four");
    c.train_through_rounds = other.train_through_rounds = true;
    other.run_absorb = other.run_fuse_upscaling = other.run_fuse_norms = SWITCH_ON;
    gradients_agree(c, &ops_cpu, other, &ops_cpu, 2e-6, "all of them, through the rounds");
    prompts_are_functions_of_counters();
    rounds_are_planned_as_in_the_paper();
    dropped_branches_are_left_out();
    return check_done("test_objective");
}

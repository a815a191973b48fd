#include "trainer/batch.h"

#include <stdlib.h>

#include "cluster/watchdog.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"

static enum status open_loader(struct batch *b, const struct batch_options *o)
{
    const struct config *c = o->learner->config;
    const struct loader_options loader = {
        .set = o->set,
        .seed = o->seed,
        .frame = (int32_t)c->model_image_size,
        .max_masks = c->train_masks,
        .min_area = c->data_min_area,
        .max_area = c->data_max_area,
        .min_pixels = c->data_min_pixels,
        .batch = c->train_batch,
        .slot_begin = o->learner->slots.begin,
        .slot_end = o->learner->slots.end,
        .step_first = o->step_first,
        .n_threads = (int)c->data_n_threads,
        .ahead = c->data_ahead + (o->learner->graph ? b->n - 1 : 0), /* a recorded step holds all */
        .blind = o->blind,
    };

    return loader_create(&b->loader, &loader);
}

enum status batch_create(struct batch *b, const struct batch_options *o)
{
    const struct learner *l = o->learner;

    *b = (struct batch){ .learner = o->learner,
                         .made_up = o->made_up,
                         .timeout_ms = o->timeout_ms,
                         .image_limit_ms = o->image_limit_ms,
                         .n = l->slots.end - l->slots.begin,
                         .n_most = plan_part(l->config->train_batch, l->comm->n_ranks, 0).end };
    b->slot = calloc((size_t)b->n, sizeof *b->slot);
    if (!b->slot) FAIL(E_MEMORY, "%lld slots", (long long)b->n);
    return o->set ? open_loader(b, o) : OK;
}

void batch_destroy(struct batch *b)
{
    if (!b) return;
    if (b->next_why[0])
        log_warn("the step behind the last was prepared, and not needed; it failed: %s",
                 b->next_why);
    loader_destroy(b->loader);
    free(b->slot);
    *b = (struct batch){ 0 };
}

int64_t batch_limit_ms(const struct batch *b)
{
    const int64_t all = b->n_most * b->image_limit_ms;
    const int64_t seen = b->image_limit_ms + 10 * (b->longest_ns / 1000000);

    return b->longest_ns > 0 && seen < all ? seen : all;
}

enum status batch_next(struct batch *b, int64_t step, int64_t index)
{
    const struct loader_slot **slot = b->slot + b->n_held;
    const int64_t began = clock_ns();

    watchdog_feed("waiting for data", step, 0);
    if (b->loader) {
        TRY(loader_next(b->loader, slot, b->timeout_ms));
    } else {
        b->made_up[index].step = step; /* so that every step draws its own prompts */
        *slot = b->made_up + index;
    }
    b->n_held++;
    b->wait_ns += clock_ns() - began;
    ASSERT((*slot)->step == step && (*slot)->slot == index);
    return OK;
}

void batch_done(struct batch *b)
{
    for (int64_t i = 0; b->loader && i < b->n_held; i++) loader_done(b->loader, b->slot[i]);
    b->n_held = 0;
}

/* Collective. The masks of the step on all ranks, or on all the worst failure of any. */
static enum status all_masks(struct batch *b, enum status mine, int64_t *masks)
{
    struct comm *c = b->learner->comm;

    if (c->n_ranks == 1) return mine;
    TRY(agree_worst(c, mine));
    return c->ops->all_reduce_sum(c, masks, 1);
}

/* Each slot goes back as soon as it is queued. */
static enum status queue(struct batch *b, int64_t step, int64_t t)
{
    int64_t masks = 0;

    TRY(learner_begin(b->learner));
    for (int64_t i = 0; i < b->n; i++) {
        TRY(batch_next(b, step, b->learner->slots.begin + i));
        watchdog_feed("forward and backward", step, 0);
        TRY(learner_add(b->learner, b->slot[0]));
        masks += b->slot[0]->n_masks;
        batch_done(b);
    }
    TRY(all_masks(b, OK, &masks));
    return learner_end(b->learner, t, masks);
}

static enum status hold(struct batch *b, int64_t step, int64_t *masks)
{
    while (b->n_held < b->n) TRY(batch_next(b, step, b->learner->slots.begin + b->n_held));
    for (int64_t i = 0; i < b->n; i++) *masks += b->slot[i]->n_masks;
    return OK;
}

static enum status prepare(struct batch *b, int64_t step, int64_t t)
{
    int64_t masks = 0;
    enum status s = hold(b, step, &masks);

    TRY(all_masks(b, s, &masks));
    return learner_prepare(b->learner, b->slot, t, masks);
}

/* The step behind is prepared as what it is if this one counts. */
static enum status launch(struct batch *b, int64_t step, int64_t t, bool more)
{
    bool counts;

    if (b->next_failed != OK) {
        status_release(b->next_why);
        /* whoever returns first may end all: not before the reason is said */
        return b->learner->comm->n_ranks > 1 ? agree_worst(b->learner->comm, b->next_failed)
                                             : b->next_failed;
    }
    if (b->n_held == 0 || b->learner->update != t) TRY(prepare(b, step, t));
    watchdog_feed("forward and backward", step, batch_limit_ms(b));
    TRY(learner_launch(b->learner));
    counts = b->learner->masks > 0;
    batch_done(b);
    if (!more) return OK;
    status_hold(b->next_why); /* the run may be asked to stop before it */
    b->next_failed = prepare(b, step + 1, t + counts);
    status_hold(NULL);
    return OK;
}

enum status batch_run(struct batch *b, int64_t step, int64_t t, bool more)
{
    b->began_ns = clock_ns();
    return b->learner->graph ? launch(b, step, t, more) : queue(b, step, t);
}

enum status batch_wait(struct batch *b, int64_t step, struct objective_losses *losses, double *norm)
{
    int64_t ns, n_masks = 0;

    watchdog_feed("waiting for the device", step, batch_limit_ms(b));
    TRY(learner_losses(b->learner, losses));
    TRY(learner_norm(b->learner, norm));
    ns = clock_ns() - b->began_ns;
    for (int64_t i = 0; i < b->n; i++) n_masks += losses[i].n_masks;
    if (n_masks > 0 && ns > b->longest_ns) b->longest_ns = ns; /* without masks a step is short */
    return OK;
}

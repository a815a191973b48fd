#include "trainer/bench_step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/clock.h"
#include "trainer/bench_slots.h"
#include "trainer/cost.h"
#include "trainer/device.h"
#include "trainer/learner.h"
#include "trainer/median.h"

enum { WARM_UP = 3, TIMEOUT_MS = 60000 };

struct bench {
    const struct config *c;
    struct bench_step *out;
    struct comm *comm;
    const struct ops *ops;
    struct learner learner;
    struct shard_set *set;
    struct loader *loader;
    struct bench_slots made_up;
    double *seconds[BENCH_N_PHASES], *step; /* (n_timed) */
    int64_t at;
    const struct loader_slot **slot; /* (batch): n_held of the prepared step, or one at hand */
    int64_t n_held;
    bool ahead; /* prepare the next step while the device works */
};

#define BENCH_NAME(name, text) text,
static const char *const phase_names[] = { BENCH_PHASES(BENCH_NAME) };
#undef BENCH_NAME

const char *bench_phase_name(enum bench_phase p)
{
    return phase_names[p];
}

const char *bench_part_name(enum bench_part p)
{
    static const char *const names[] = { "enc →", "enc ←", "dec →", "dec ←" };

    return names[p];
}

/* Before training takes its memory; behind it every allocation is counted. */
static enum status limits(struct bench *b)
{
    enum dtype compute;

    if (b->ops->host_memory) return OK;
    TRY(sam_precision(b->c, b->ops, &compute));
    TRY(bench_device_limits(b->ops, compute, b->out->side, &b->out->limits));
    b->ops = bench_device_counted(b->ops);
    return OK;
}

static enum status create(struct bench *b, const char *data)
{
    const struct config *c = b->c;
    int64_t held; /* of the loader, at most */

    TRY(comm_create(&b->comm, TIMEOUT_MS));
    if (b->comm->n_ranks > 1)
        FAIL(E_USAGE, "bench times one rank, not %d: start it without mpirun or srun",
             b->comm->n_ranks);
    TRY(device_open(&(struct device_options){ .choice = c->run_device }, b->comm, &b->ops));
    TRY(limits(b));
    TRY(learner_create(&b->learner, c, b->ops, b->comm));
    b->slot = calloc((size_t)c->train_batch, sizeof *b->slot);
    if (!b->slot) FAIL(E_MEMORY, "%lld slots", (long long)c->train_batch);
    params_initialize(&b->learner.sam->params, 0, b->learner.host[0]);
    TRY(learner_from_host(&b->learner));
    if (!data) return bench_slots_create(&b->made_up, c);
    held = b->learner.graph ? c->train_batch : 1;
    TRY(shard_set_open(&b->set, data));
    return loader_create(&b->loader,
                         &(struct loader_options){ .set = b->set,
                                                   .frame = (int32_t)c->model_image_size,
                                                   .max_masks = c->train_masks,
                                                   .min_area = c->data_min_area,
                                                   .max_area = c->data_max_area,
                                                   .min_pixels = c->data_min_pixels,
                                                   .batch = c->train_batch,
                                                   .slot_end = c->train_batch,
                                                   .n_threads = (int)c->data_n_threads,
                                                   .ahead = c->data_ahead + held - 1 });
}

static void destroy(struct bench *b)
{
    loader_destroy(b->loader);
    shard_set_close(b->set);
    learner_destroy(&b->learner);
    comm_destroy(b->comm);
    bench_slots_destroy(&b->made_up);
    free(b->slot);
    for (int i = 0; i < BENCH_N_PHASES; i++) free(b->seconds[i]);
    free(b->step);
}

static enum status next_slot(struct bench *b, int64_t step, int64_t i)
{
    const struct loader_slot **slot = b->slot + b->n_held;

    if (b->loader) {
        TRY(loader_next(b->loader, slot, TIMEOUT_MS));
    } else {
        b->made_up.slot[i].step = step; /* so that every step draws its own prompts */
        *slot = b->made_up.list[i];
    }
    b->n_held++;
    return OK;
}

static void slots_done(struct bench *b)
{
    for (int64_t i = 0; b->loader && i < b->n_held; i++) loader_done(b->loader, b->slot[i]);
    b->n_held = 0;
}

/* A step by its parts. data, sums: seconds of the loader; behind the gradients. */
static enum status add_slots(struct bench *b, double *data, double *sums)
{
    double since = clock_seconds(), exposed, norm, masks = 0;

    for (int64_t i = 0; i < b->c->train_batch; i++) {
        struct objective_losses losses;

        TRY(next_slot(b, b->at, i));
        *data += clock_lap(&since);
        TRY(learner_slot(&b->learner, b->slot[0]));
        masks += (double)b->slot[0]->n_masks;
        TRY(learner_losses(&b->learner, &losses));
        clock_lap(&since);
        slots_done(b);
    }
    TRY(learner_sum(&b->learner, &exposed));
    *sums = clock_lap(&since);
    TRY(learner_update(&b->learner, masks > 0 ? masks : 1, b->at, b->at + 1));
    return learner_norm(&b->learner, &norm); /* waits */
}

static enum status prepare(struct bench *b, int64_t step, double *data)
{
    double since = clock_seconds();

    while (b->n_held < b->c->train_batch) TRY(next_slot(b, step, b->n_held));
    *data += clock_lap(&since);
    return learner_prepare(&b->learner, b->slot, step + 1);
}

/* A recorded step, as the loop runs it: the next one is prepared while the device works. */
static enum status launch_step(struct bench *b, double *data)
{
    double norm;

    if (b->n_held == 0) TRY(prepare(b, b->at, data));
    TRY(learner_launch(&b->learner));
    slots_done(b);
    if (b->ahead) TRY(prepare(b, b->at + 1, data));
    return learner_norm(&b->learner, &norm); /* waits */
}

/* A step on the device that is not recorded, as the loop runs it. */
static enum status queue_step(struct bench *b, double *data)
{
    double since, norm;

    TRY(learner_begin(&b->learner));
    for (int64_t i = 0; i < b->c->train_batch; i++) {
        since = clock_seconds();
        TRY(next_slot(b, b->at, i));
        *data += clock_lap(&since);
        TRY(learner_add(&b->learner, b->slot[0]));
        slots_done(b);
    }
    TRY(learner_end(&b->learner, b->at + 1));
    return learner_norm(&b->learner, &norm); /* waits */
}

/* One step; its phases into seconds[…][at] when timed. */
static enum status step(struct bench *b, int64_t timed)
{
    const struct objective_times before = objective_times(b->learner.objective);
    const double began = clock_seconds(), summed = b->learner.sum_seconds;
    double data = 0, sums = 0, in_parts;
    struct objective_times t;

    if (b->learner.sync)
        TRY(add_slots(b, &data, &sums));
    else
        TRY(b->learner.graph ? launch_step(b, &data) : queue_step(b, &data));
    b->at++;
    if (timed < 0) return OK;
    t = objective_times(b->learner.objective);
    b->step[timed] = clock_seconds() - began;
    b->seconds[BENCH_DATA][timed] = data;
    b->seconds[BENCH_ENCODER_FORWARD][timed] = t.encoder_forward - before.encoder_forward;
    b->seconds[BENCH_PROMPTS][timed] = t.prompts - before.prompts;
    b->seconds[BENCH_DECODER_FORWARD][timed] = t.decoder_forward - before.decoder_forward;
    b->seconds[BENCH_LOSS][timed] = t.loss - before.loss;
    b->seconds[BENCH_DECODER_BACKWARD][timed] = t.decoder_backward - before.decoder_backward;
    b->seconds[BENCH_ENCODER_BACKWARD][timed] = t.encoder_backward - before.encoder_backward;
    sums += b->learner.sum_seconds - summed;
    b->seconds[BENCH_SUMS][timed] = sums;
    in_parts = data + sums;
    for (int i = BENCH_ENCODER_FORWARD; i <= BENCH_ENCODER_BACKWARD; i++)
        in_parts += b->seconds[i][timed];
    b->seconds[BENCH_OPTIMIZER][timed] = b->step[timed] - in_parts; /* the rest of the step */
    return OK;
}

static void add_costs(struct bench_op *op, struct program *p, bool backward, double times)
{
    struct program_cost cost[NODE_OP_COUNT];

    program_cost(p, backward, cost);
    for (int i = 0; i < NODE_OP_COUNT; i++) {
        op[i].flops += times * cost[i].flops;
        op[i].bytes += times * cost[i].bytes;
    }
}

/* Every op timed by itself, over as many steps again. */
static enum status profile(struct bench *b, struct bench_step *out)
{
    struct sam *s = b->learner.sam;
    const double n = (double)out->n_timed, images = (double)b->c->train_batch;
    const double chunks = images * (double)((b->c->train_masks + s->M - 1) / s->M);
    const struct program_profile *of[2] = { &s->encoder_profile, &s->decoder_profile };
    const double began = clock_seconds();

    s->profiling = true;
    for (int64_t i = 0; i < out->n_timed; i++) TRY(step(b, -1));
    s->profiling = false;
    out->profiled_seconds = (clock_seconds() - began) / n;
    for (int part = 0; part < BENCH_N_PARTS; part++)
        for (int op = 0; op < NODE_OP_COUNT; op++) {
            out->op[part][op].seconds = of[part / 2]->seconds[part % 2][op] / n;
            out->op[part][op].calls = (double)of[part / 2]->calls[part % 2][op] / n;
        }
    for (int backward = 0; backward < 2; backward++) {
        add_costs(out->op[backward], s->encoder, backward, images);
        add_costs(out->op[2 + backward], s->decoder[SAM_FIRST].program, backward, chunks);
        if (s->decoder[SAM_NEXT].program)
            add_costs(out->op[2 + backward], s->decoder[SAM_NEXT].program, backward,
                      chunks * (double)(b->c->train_rounds - 1));
    }
    return OK;
}

/* Seconds of an op that does nothing, with a wait behind it: what timing an op by itself adds to it, and a little more. */
static enum status wait_seconds(struct bench *b, double *seconds)
{
    enum { CALLS = 100 };
    struct sam *s = b->learner.sam;
    double began = 0;

    for (int i = -CALLS; i < CALLS; i++) { /* the first half warms up */
        if (i == 0) began = clock_seconds();
        TRY(s->ops->zero(s->d_embedding.data, 4, &s->stream));
        TRY(s->ops->sync(&s->stream));
    }
    *seconds = (clock_seconds() - began) / CALLS;
    return OK;
}

/* Of the device, at most: what it did is taken for the ops and phases timed by themselves, less a wait for each op. */
static enum status idle_share(struct bench *b, struct bench_step *out)
{
    double wait, busy = out->phase[BENCH_PROMPTS] + out->phase[BENCH_LOSS] +
                        out->phase[BENCH_SUMS] + out->phase[BENCH_OPTIMIZER];

    TRY(wait_seconds(b, &wait));
    for (int part = 0; part < BENCH_N_PARTS; part++)
        for (int op = 0; op < NODE_OP_COUNT; op++) {
            const double alone = out->op[part][op].seconds - wait * out->op[part][op].calls;

            if (alone > 0) busy += alone;
        }
    out->idle = 1 - busy / out->step_seconds;
    return OK;
}

static enum status measure(struct bench *b, struct bench_step *out, bool ops)
{
    const size_t n = (size_t)out->n_timed;
    struct cost cost;

    TRY(create(b, out->data));
    TRY(cost_of(b->c, b->ops, &cost));
    out->flops = cost.step_flops;
    out->flops_reference = cost.step_flops_reference;
    b->step = calloc(n, sizeof *b->step);
    for (int i = 0; i < BENCH_N_PHASES; i++) b->seconds[i] = calloc(n, sizeof(double));
    for (int i = 0; i < BENCH_N_PHASES; i++)
        if (!b->seconds[i] || !b->step) FAIL(E_MEMORY, "times of %zu steps", n);
    out->device = b->ops->name;
    out->on_host = b->ops->host_memory;
    out->memory = out->on_host ? 0 : bench_device_bytes();
    out->idle = NAN;
    for (int64_t i = -WARM_UP; i < out->n_timed; i++) {
        b->ahead = i + 1 < out->n_timed;
        TRY(step(b, i));
    }
    out->step_seconds = median(b->step, out->n_timed);
    out->step_min = b->step[0];
    out->step_max = b->step[out->n_timed - 1];
    learner_use_graph(&b->learner, false);
    objective_time(b->learner.objective, true);
    if (!out->on_host) /* the parts of other steps, which wait for each part: a little longer in all */
        for (int64_t i = 0; i < out->n_timed; i++) TRY(step(b, i));
    for (int i = 0; i < BENCH_N_PHASES; i++) out->phase[i] = median(b->seconds[i], out->n_timed);
    if (!ops) return OK;
    TRY(profile(b, out));
    return out->on_host ? OK : idle_share(b, out);
}

enum status bench_step_run(struct bench_step *out, bool ops)
{
    struct bench b = { .c = out->config, .out = out };
    enum status s;

    if (!out->config->train_box_multimask)
        FAIL(E_CONFIG, "bench times the default recipe: leave train.box_multimask true");
    s = measure(&b, out, ops);
    destroy(&b);
    return s;
}

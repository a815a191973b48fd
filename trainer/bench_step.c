#include "trainer/bench_step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/clock.h"
#include "trainer/batch.h"
#include "trainer/bench_slots.h"
#include "trainer/cost.h"
#include "trainer/device.h"
#include "trainer/median.h"

enum { WARM_UP = 3, TIMEOUT_MS = 60000 };

struct bench {
    const struct config *c;
    struct bench_step *out;
    struct comm *comm;
    const struct ops *ops;
    struct learner learner;
    struct shard_set *set;
    struct bench_slots made_up;
    struct batch batch;
    struct objective_losses *losses;        /* (batch) */
    double *seconds[BENCH_N_PHASES], *step; /* (n_timed) */
    int64_t at;
    bool more; /* steps to come */
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
    if (b->ops->usage) {
        TRY(b->ops->usage(&b->out->usage));
        b->out->used_before = b->out->usage.bytes;
    }
    b->ops = bench_device_counted(b->ops);
    return OK;
}

static enum status create(struct bench *b, const char *data)
{
    const struct config *c = b->c;
    struct batch_options batch = { .learner = &b->learner, .timeout_ms = TIMEOUT_MS };

    TRY(comm_create(&b->comm, TIMEOUT_MS));
    if (b->comm->n_ranks > 1)
        FAIL(E_USAGE, "bench times one rank, not %d: start it without mpirun or srun",
             b->comm->n_ranks);
    TRY(device_open(&(struct device_options){ .choice = c->run_device }, b->comm, &b->ops));
    TRY(limits(b));
    TRY(learner_create(&b->learner, c, b->ops, b->comm));
    b->losses = calloc((size_t)c->train_batch, sizeof *b->losses);
    if (!b->losses) FAIL(E_MEMORY, "losses of %lld images", (long long)c->train_batch);
    params_initialize(&b->learner.sam->params, 0, b->learner.host[0]);
    TRY(learner_from_host(&b->learner));
    if (data) {
        TRY(shard_set_open(&b->set, data));
        batch.set = b->set;
    } else {
        TRY(bench_slots_create(&b->made_up, c));
        batch.made_up = b->made_up.slot;
    }
    return batch_create(&b->batch, &batch);
}

static void destroy(struct bench *b)
{
    batch_destroy(&b->batch);
    free(b->losses);
    shard_set_close(b->set);
    learner_destroy(&b->learner);
    comm_destroy(b->comm);
    bench_slots_destroy(&b->made_up);
    for (int i = 0; i < BENCH_N_PHASES; i++) free(b->seconds[i]);
    free(b->step);
}

/* A step by its parts. sums: seconds behind the gradients. */
static enum status add_slots(struct bench *b, double *sums)
{
    double since, exposed, norm, masks = 0;

    for (int64_t i = 0; i < b->c->train_batch; i++) {
        struct objective_losses losses;

        TRY(batch_next(&b->batch, b->at, i));
        TRY(learner_slot(&b->learner, b->batch.slot[0]));
        masks += (double)b->batch.slot[0]->n_masks;
        TRY(learner_losses(&b->learner, &losses));
        batch_done(&b->batch);
    }
    since = clock_seconds();
    TRY(learner_sum(&b->learner, &exposed));
    *sums = clock_lap(&since);
    TRY(learner_update(&b->learner, masks > 0 ? masks : 1, b->at, b->at + 1));
    return learner_norm(&b->learner, &norm); /* waits */
}

/* A step on the device, as the loop runs it. */
static enum status run_on_device(struct bench *b)
{
    double norm;

    TRY(batch_run(&b->batch, b->at, b->at + 1, b->more));
    return batch_wait(&b->batch, b->at, b->losses, &norm);
}

/* One step; its phases into seconds[…][at] when timed. */
static enum status step(struct bench *b, int64_t timed)
{
    const struct objective_times before = objective_times(b->learner.objective);
    const double began = clock_seconds(), summed = b->learner.sum_seconds;
    const int64_t waited_ns = b->batch.wait_ns;
    double data, sums = 0, in_parts;
    struct objective_times t;

    TRY(b->learner.sync ? add_slots(b, &sums) : run_on_device(b));
    b->at++;
    if (timed < 0) return OK;
    t = objective_times(b->learner.objective);
    data = 1e-9 * (double)(b->batch.wait_ns - waited_ns);
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
        b->more = i + 1 < out->n_timed;
        TRY(step(b, i));
    }
    if (b->ops->usage) TRY(b->ops->usage(&out->usage));
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

    out->used_before = -1;
    if (!out->config->train_box_multimask)
        FAIL(E_CONFIG, "bench times the default recipe: leave train.box_multimask true");
    s = measure(&b, out, ops);
    destroy(&b);
    return s;
}

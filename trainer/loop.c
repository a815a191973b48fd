#include "trainer/loop.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cluster/grad_sync.h"
#include "cluster/ledger.h"
#include "cluster/signals.h"
#include "cluster/watchdog.h"
#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/checkpoint.h"
#include "trainer/cost.h"
#include "trainer/eval.h"
#include "trainer/metrics.h"
#include "trainer/objective.h"
#include "trainer/run_folder.h"
#include "trainer/schedule.h"
#include "trainer/weights.h"

/* What the ranks agree on at the end of every step: integers, the greatest wins. */
enum request { STOP_NONE, STOP_ASKED, STOP_BUDGET };
/* The watchdog ends a rank only after every wait inside it has had its chance to name what it waited for. */
enum { WATCHDOG_MARGIN_MS = 30000 };
enum { AGREE_STOP, AGREE_WAIT_NS, AGREE_STEP_NS, AGREE_COUNT };

struct loop {
    const struct loop_options *o;
    const struct config *c;
    struct comm *comm;
    struct run_folder *folder;
    struct shard_set *train_set, *val_set;
    struct sam *sam;
    struct objective *objective;
    struct loader *loader;
    struct grad_sync *sync;
    struct ledger *ledger;   /* rank 0 */
    struct metrics *metrics; /* rank 0 */
    struct eval *eval;       /* when there is something to evaluate on */
    struct arena state;      /* both moments */
    float *m, *v, *total;
    struct adamw_segment *segment;
    struct checkpoint_tensor *tensor;
    struct objective_losses *losses; /* (batch) of all slots */
    int64_t *counts;                 /* (ranks) bytes of each rank's part of losses */
    struct plan_range slots;
    int64_t encoder_end; /* floats: what lies behind is complete once the decoder is */
    struct checkpoint_counters at;
    struct cost cost;
    char *config_text;
    char ledger_path[CONFIG_TEXT + 32];
    enum status ready; /* the first failure of grad_sync_ready, which has no way to return it */
    int64_t saved_step, step_began_ns, save_ns, loader_wait_ns, own_steps;
    double exposed_seconds, grad_norm;
    bool skipped;
    struct objective_losses sum;
    int64_t agreed[AGREE_COUNT];
};

/* ---- gradients ------------------------------------------------------------------------------ */
static void decoder_done(void *context)
{
    struct loop *l = context;

    KEEP_FIRST(l->ready, grad_sync_ready(l->sync, l->encoder_end, l->sam->params.n_floats));
}

static void param_ready(void *context, int index)
{
    struct loop *l = context;
    const struct params *p = &l->sam->params;

    KEEP_FIRST(l->ready, grad_sync_ready(l->sync, p->at[index].offset, p->at[index + 1].offset));
}

/* The gradients of this rank's slots, their sums on the way while the last backward pass still runs. */
static enum status add_gradients(struct loop *l)
{
    for (int64_t i = l->slots.begin; i < l->slots.end; i++) {
        const struct loader_slot *slot;
        const int64_t began = clock_ns();
        float *grads;

        watchdog_feed("waiting for data", l->at.step, 0);
        TRY(loader_next(l->loader, &slot, l->c->run_timeout_s * 1000));
        l->loader_wait_ns += clock_ns() - began;
        ASSERT(slot->step == l->at.step && slot->slot == i);
        watchdog_feed("forward and backward", l->at.step, 0);
        TRY(grad_sync_slot_begin(l->sync, &grads));
        TRY(objective_slot(l->objective, slot, grads, decoder_done, param_ready, l, l->losses + i));
        TRY(l->ready);
        loader_done(l->loader, slot);
    }
    watchdog_feed("summing gradients", l->at.step, 0);
    return grad_sync_wait(l->sync, &l->total, &l->exposed_seconds);
}

/* ---- agreement ------------------------------------------------------------------------------ */
static int64_t request(const struct loop *l)
{
    const int64_t step_ns = clock_ns() - l->step_began_ns;

    if (l->ledger && !ledger_fits(l->ledger, step_ns, l->save_ns)) return STOP_BUDGET;
    if (signals_stop_wanted()) return STOP_ASKED;
    return l->o->stop_after > 0 && l->own_steps + 1 >= l->o->stop_after ? STOP_ASKED : STOP_NONE;
}

/* Every rank learns all slots' losses, summed in the order of slots: the same bits on any number of ranks. */
static enum status agree(struct loop *l)
{
    const struct objective_losses *mine = l->losses + l->slots.begin;

    l->agreed[AGREE_STOP] = request(l);
    l->agreed[AGREE_WAIT_NS] = l->loader_wait_ns;
    l->agreed[AGREE_STEP_NS] = clock_ns() - l->step_began_ns;
    TRY(l->comm->ops->all_reduce_max(l->comm, l->agreed, AGREE_COUNT));
    TRY(l->comm->ops->all_gather_v(l->comm, l->losses, mine, l->counts));
    l->sum = (struct objective_losses){ 0 };
    for (int64_t i = 0; i < l->c->train_batch; i++) {
        l->sum.n_masks += l->losses[i].n_masks;
        l->sum.focal += l->losses[i].focal;
        l->sum.dice += l->losses[i].dice;
        l->sum.iou_error += l->losses[i].iou_error;
        l->sum.iou_first += l->losses[i].iou_first;
        l->sum.iou_last += l->losses[i].iou_last;
    }
    return OK;
}

/* ---- update --------------------------------------------------------------------------------- */
static double total_loss(const struct loop *l)
{
    return l->c->loss_w_focal * l->sum.focal + l->c->loss_w_dice * l->sum.dice +
           l->c->loss_w_iou * l->sum.iou_error;
}

/* Every rank holds the same sums, hence decides alike: a step whose loss or gradient is not finite changes nothing. */
static enum status update(struct loop *l)
{
    struct sam *s = l->sam;
    const int64_t n = s->params.n_floats;
    const double masks = l->sum.n_masks > 0 ? (double)l->sum.n_masks : 1;
    double squares;
    struct adamw_options o = { .lr = (float)schedule_lr(l->c, l->at.step),
                               .beta1 = (float)l->c->optim_beta1,
                               .beta2 = (float)l->c->optim_beta2,
                               .eps = (float)l->c->optim_eps,
                               .step = l->at.updates + 1 };

    TRY(s->ops->grad_norm(&squares, tensor_1d(l->total, F32, n), &s->stream));
    l->grad_norm = sqrt(squares) / masks;
    l->skipped = !isfinite(l->grad_norm) || !isfinite(total_loss(l));
    if (l->skipped) {
        l->at.skipped++;
        l->at.skipped_in_row++;
        if (log_is_root())
            log_warn("step %lld skipped: loss %g, gradient norm %g are not finite",
                     (long long)l->at.step, total_loss(l) / masks, l->grad_norm);
        if (l->at.skipped_in_row > l->c->optim_bad_steps)
            FAIL(E_DIVERGED,
                 "%lld steps in a row were not finite; the last checkpoint is of step %lld: try a "
                 "lower optim.lr or optim.clip",
                 (long long)l->at.skipped_in_row, (long long)l->saved_step);
        return OK;
    }
    l->at.skipped_in_row = 0;
    if (l->sum.n_masks == 0) return OK; /* nothing to learn from: no update, not even decay */
    o.grad_scale = (float)(schedule_clip(l->c, l->grad_norm) / masks);
    TRY(s->ops->adamw(tensor_1d(s->weights, F32, n), tensor_1d(l->m, F32, n),
                      tensor_1d(l->v, F32, n), tensor_1d(l->total, F32, n), l->segment, s->params.n,
                      &o, &s->stream));
    l->at.updates++;
    return OK;
}

/* ---- checkpoints ---------------------------------------------------------------------------- */
static void state_of(struct loop *l, struct checkpoint_state *k)
{
    *k = (struct checkpoint_state){
        .n_arrays = 3,
        .array_name = { "param", "m", "v" },
        .array = { l->sam->weights, l->m,
                   l->v }, /* device memory is host memory on these backends */
        .n = l->sam->params.n_floats,
        .tensor = l->tensor,
        .n_tensors = l->sam->params.n,
        .counters = l->at,
        .config_hash = config_hash(l->c),
        .data_hash = shard_set_hash(l->train_set),
        .config_text = l->config_text,
        .run_id = run_folder_id(l->folder),
    };
}

static enum status save(struct loop *l)
{
    const struct checkpoint_keep keep = { l->c->checkpoint_keep, l->c->checkpoint_keep_every };
    const int64_t began = clock_ns();
    struct checkpoint_state k;

    if (l->saved_step == l->at.step) return OK;
    watchdog_feed("saving a checkpoint", l->at.step, 0);
    l->at.rank_ns = l->ledger ? ledger_spent_ns(l->ledger) : 0;
    state_of(l, &k);
    TRY(checkpoint_save(&k, l->comm, run_folder_path(l->folder), keep));
    l->saved_step = l->at.step;
    l->save_ns = clock_ns() - began;
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 1));
    return OK;
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* ---- reports -------------------------------------------------------------------------------- */
static double peak_gib(void)
{
    struct rusage u;

    return getrusage(RUSAGE_SELF, &u) == 0 ? (double)u.ru_maxrss / (1024.0 * 1024.0) : NAN;
}

static enum status report(struct loop *l)
{
    const double masks = l->sum.n_masks > 0 ? (double)l->sum.n_masks : 1;
    const double seconds = 1e-9 * (double)l->agreed[AGREE_STEP_NS];
    struct metrics_row row = {
        .step = l->at.step,
        .loss_total = total_loss(l) / masks,
        .loss_focal = l->sum.focal / masks,
        .loss_dice = l->sum.dice / masks,
        .loss_iou = l->sum.iou_error / masks,
        .iou_first = l->sum.iou_first / masks,
        .iou_last = l->sum.iou_last / masks,
        .grad_norm = l->grad_norm,
        .lr = schedule_lr(l->c, l->at.step - 1),
        .n_masks = l->sum.n_masks,
        .images = l->at.images,
        .skipped = l->at.skipped,
        .step_seconds = seconds,
        .data_wait_seconds = 1e-9 * (double)l->agreed[AGREE_WAIT_NS],
        .comm_exposed_seconds = l->exposed_seconds,
        .images_per_second = (double)l->c->train_batch / seconds,
        .gflops = 1e-9 * l->cost.step_flops_reference / seconds,
        .memory_gib = peak_gib(),
        .rank_hours = l->ledger ? (double)ledger_spent_ns(l->ledger) / 3.6e12 : 0,
    };

    if (!l->metrics) return OK;
    TRY(metrics_step(l->metrics, &row));
    return run_folder_status(l->folder, RUN_RUNNING, &row, l->saved_step);
}

static enum status report_state(struct loop *l, enum run_state state)
{
    return l->metrics ? run_folder_status(l->folder, state, NULL, l->saved_step) : OK;
}

static enum status evaluate(struct loop *l)
{
    struct eval_scores scores;

    if (!l->eval) return OK;
    watchdog_feed("evaluating", l->at.step, 0);
    TRY(eval_weights(l->eval, l->sam->weights));
    TRY(eval_run(l->eval, l->comm, &scores));
    if (l->metrics) TRY(metrics_eval(l->metrics, l->at.step, &scores));
    return OK;
}

/* ---- the loop ------------------------------------------------------------------------------- */
static enum status step(struct loop *l)
{
    l->step_began_ns = clock_ns();
    l->loader_wait_ns = 0;
    TRY(add_gradients(l));
    TRY(agree(l));
    TRY(update(l));
    l->at.step++;
    l->own_steps++;
    l->at.images += l->c->train_batch;
    l->at.masks += l->sum.n_masks;
    TRY(report(l));
    /* scores first: what a kill behind the save could lose would never be scored again */
    if (due(l->at.step, l->c->eval_every) || l->at.step == l->c->train_steps) TRY(evaluate(l));
    if (due(l->at.step, l->c->checkpoint_every)) TRY(save(l));
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 0));
    return OK;
}

static enum status run(struct loop *l)
{
    while (l->at.step < l->c->train_steps) {
        TRY(step(l));
        if (l->agreed[AGREE_STOP] == STOP_NONE || l->at.step >= l->c->train_steps) continue;
        TRY(save(l));
        TRY(report_state(l, RUN_STOPPED));
        log_root("%s at step %lld; the same command goes on from there",
                 l->agreed[AGREE_STOP] == STOP_BUDGET ? "out of budget" : "stopped as asked",
                 (long long)l->at.step);
        return E_STOPPED;
    }
    TRY(save(l));
    return report_state(l, RUN_FINISHED);
}

/* ---- setting up ----------------------------------------------------------------------------- */
static const struct ops *backend(const struct config *c)
{
    return c->run_device == 2 ? &ops_ref
                              : &ops_cpu; /* auto and cpu are the CPU until there is a GPU plugin */
}

static enum status open_data(struct loop *l)
{
    const struct config *c = l->c;

    if (!*c->data_train)
        FAIL(E_CONFIG,
             "no data to train on: say data.train=FOLDER, a folder made by samforge pack");
    TRY(shard_set_open(&l->train_set, c->data_train));
    if (c->eval_every > 0 && !*c->data_val)
        FAIL(E_CONFIG, "eval.every is %lld, but there is no data.val to evaluate on",
             (long long)c->eval_every);
    return *c->data_val ? shard_set_open(&l->val_set, c->data_val) : OK;
}

static enum status create_model(struct loop *l)
{
    const struct config *c = l->c;
    const struct ops *ops = backend(c);
    const int64_t chunk = c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;
    int64_t scratch;

    TRY(cost_of(c, ops, &l->cost));
    TRY(objective_scratch(c, ops, chunk, objective_points(c), &scratch));
    TRY(sam_create(&l->sam, c, ops, chunk, objective_points(c), scratch, true));
    TRY(objective_create(&l->objective, l->sam));
    l->encoder_end =
        l->sam->params
            .at[params_find(&l->sam->params,
                            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")]
            .offset;
    return OK;
}

static enum status create_optimizer(struct loop *l)
{
    const struct params *p = &l->sam->params;
    const int64_t bytes = p->n_floats * (int64_t)sizeof(float);
    void *m, *v;

    TRY(arena_create(&l->state, 2 * arena_round(bytes)));
    TRY(arena_take(&l->state, bytes, &m));
    TRY(arena_take(&l->state, bytes, &v));
    l->m = m;
    l->v = v;
    l->segment = calloc((size_t)p->n, sizeof *l->segment);
    if (!l->segment) FAIL(E_MEMORY, "the optimizer's groups");
    for (int i = 0; i < p->n; i++) {
        const struct param *q = p->at + i;

        l->segment[i] = (struct adamw_segment){
            .end = i + 1 < p->n ? p->at[i + 1].offset : p->n_floats,
            .lr_scale = (float)schedule_layer_factor(l->c, q->layer),
            .decay = q->decay ? (float)l->c->optim_weight_decay : 0,
            .frozen = q->buffer,
        };
    }
    return OK;
}

static enum status create_sync(struct loop *l)
{
    const int64_t n = l->sam->params.n_floats;
    const int64_t each = l->c->run_bucket_bytes / (int64_t)sizeof(float);
    const int64_t n_buckets = (n + each - 1) / each;
    int64_t *end = calloc((size_t)n_buckets, sizeof *end);
    struct grad_sync_options o = {
        .n = n, .bucket_end = end, .n_buckets = (int)n_buckets, .n_slots = l->c->train_batch
    };
    enum status s;

    if (!end) FAIL(E_MEMORY, "%lld buckets", (long long)n_buckets);
    for (int64_t i = 0; i < n_buckets; i++) end[i] = i + 1 < n_buckets ? (i + 1) * each : n;
    s = grad_sync_create(&l->sync, l->comm, &o);
    free(end);
    TRY(s);
    l->slots = grad_sync_slots(l->sync);
    l->losses = calloc((size_t)l->c->train_batch, sizeof *l->losses);
    l->counts = calloc((size_t)l->comm->n_ranks, sizeof *l->counts);
    if (!l->losses || !l->counts) FAIL(E_MEMORY, "losses of a batch");
    for (int r = 0; r < l->comm->n_ranks; r++) {
        const struct plan_range part = plan_part(l->c->train_batch, l->comm->n_ranks, r);

        l->counts[r] = (part.end - part.begin) * (int64_t)sizeof *l->losses;
    }
    return OK;
}

/* The run goes on from its newest checkpoint, or begins with the weights asked for, or with initial ones. */
static enum status begin_or_resume(struct loop *l)
{
    const struct checkpoint_accept accept = { l->o->fresh, l->o->fresh };
    struct checkpoint_state k;
    bool found = false;

    TRY(weights_layout(&l->sam->params, &l->tensor));
    state_of(l, &k);
    if (!l->o->fresh) TRY(checkpoint_load(&k, l->comm, run_folder_path(l->folder), accept, &found));
    if (found) {
        l->at = k.counters;
        l->saved_step = l->at.step;
        log_root("resumed at step %lld of %lld", (long long)l->at.step,
                 (long long)l->c->train_steps);
    } else {
        l->at = (struct checkpoint_counters){ .seed = l->c->train_seed };
        l->saved_step = -1;
        if (l->o->weights)
            TRY(weights_load(l->o->weights, &l->sam->params, l->sam->weights));
        else
            params_initialize(&l->sam->params, (uint64_t)l->c->train_seed, l->sam->weights);
    }
    return sam_weights_changed(l->sam);
}

static enum status create_loader(struct loop *l)
{
    const struct config *c = l->c;
    const struct loader_options o = {
        .set = l->train_set,
        .seed = (uint64_t)c->train_seed,
        .frame = (int32_t)c->model_image_size,
        .max_masks = c->train_masks,
        .min_area = c->data_min_area,
        .max_area = c->data_max_area,
        .min_pixels = c->data_min_pixels,
        .batch = c->train_batch,
        .slot_begin = l->slots.begin,
        .slot_end = l->slots.end,
        .step_first = l->at.step,
        .n_threads = (int)c->data_n_threads,
        .ahead = c->data_ahead,
        .blind = c->data_blind,
    };

    return l->slots.begin == l->slots.end ? OK : loader_create(&l->loader, &o);
}

static enum status create_eval(struct loop *l)
{
    const struct eval_options o = { .config = l->c,
                                    .ops = l->sam->ops,
                                    .set = l->val_set,
                                    .max_masks = l->c->eval_max_masks,
                                    .max_clicks = 3 };

    return l->val_set ? eval_create(&l->eval, &o) : OK;
}

static enum status create_records(struct loop *l)
{
    const struct ledger_options o = {
        .path = l->ledger_path,
        .n_ranks = l->comm->n_ranks,
        .budget_ns = (int64_t)(l->c->run_budget_hours * 3.6e12),
    };

    if (l->comm->rank != 0) return OK;
    TRY(metrics_open(&l->metrics, run_folder_path(l->folder), l->at.step, l->c->train_steps));
    TRY(ledger_open(&l->ledger, &o));
    if (ledger_fits(l->ledger, 0, 0)) return OK;
    FAIL(E_STOPPED, "the budget of %g rank-hours is spent: raise run.budget_hours to go on",
         l->c->run_budget_hours);
}

static enum status dump_config(struct loop *l)
{
    size_t n;
    FILE *f = open_memstream(&l->config_text, &n);
    enum status s;

    if (!f) FAIL(E_MEMORY, "the configuration's text");
    s = config_dump(l->c, f);
    if (fclose(f) != 0 && s == OK) FAIL(E_MEMORY, "the configuration's text");
    return s;
}

static enum status create(struct loop *l)
{
    const struct run_folder_options folder = { .config = l->c,
                                               .config_path = l->o->config_path,
                                               .argv = l->o->argv,
                                               .argc = l->o->argc,
                                               .fresh = l->o->fresh };

    TRY(watchdog_start(l->comm, l->c->run_timeout_s * 1000 + WATCHDOG_MARGIN_MS));
    watchdog_feed("setting up", 0, 0);
    TRY(open_data(l));
    TRY(run_folder_create(&l->folder, l->comm, &folder));
    TRY(dump_config(l));
    TRY(create_model(l));
    TRY(create_optimizer(l));
    TRY(create_sync(l));
    TRY(begin_or_resume(l));
    snprintf(l->ledger_path, sizeof l->ledger_path, "%s/ledger.txt", run_folder_path(l->folder));
    TRY(create_records(l));
    TRY(create_loader(l));
    return create_eval(l);
}

static void destroy(struct loop *l)
{
    watchdog_stop();
    loader_destroy(l->loader);
    eval_destroy(l->eval);
    metrics_close(l->metrics);
    ledger_close(l->ledger);
    grad_sync_destroy(l->sync);
    objective_destroy(l->objective);
    sam_destroy(l->sam);
    shard_set_close(l->train_set);
    shard_set_close(l->val_set);
    arena_destroy(&l->state);
    run_folder_destroy(l->folder);
    free(l->segment);
    free(l->tensor);
    free(l->losses);
    free(l->counts);
    free(l->config_text);
}

static void say_what(const struct loop *l)
{
    log_root(
        "%s: %.2f M parameters, %lld images with %lld masks, %lld images a step on %d ranks of "
        "%d threads, %.1f GFLOP a step",
        l->c->model_name, 1e-6 * (double)l->sam->params.n_trained,
        (long long)shard_set_images(l->train_set), (long long)shard_set_masks(l->train_set),
        (long long)l->c->train_batch, l->comm->n_ranks, omp_get_max_threads(),
        1e-9 * l->cost.step_flops_reference);
}

enum status loop_run(const struct loop_options *o)
{
    struct loop l = { .o = o, .c = o->config, .comm = o->comm, .saved_step = -1 };
    enum status s;

    if (o->comm->n_ranks > o->config->train_batch)
        FAIL(E_CONFIG, "%d ranks for a batch of %lld images: some would have nothing to do",
             o->comm->n_ranks, (long long)o->config->train_batch);
    if (o->config->run_threads > 0) omp_set_num_threads((int)o->config->run_threads);
    s = create(&l);
    if (s == OK) {
        say_what(&l);
        s = run(&l);
    }
    if (s != OK && s != E_STOPPED && l.folder && l.comm->rank == 0)
        KEEP_FIRST(s, run_folder_status(l.folder, s == E_DIVERGED ? RUN_DIVERGED : RUN_FAILED, NULL,
                                        l.saved_step));
    destroy(&l);
    return s;
}

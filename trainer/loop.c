#include "trainer/loop.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cluster/ledger.h"
#include "cluster/signals.h"
#include "cluster/watchdog.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"
#include "trainer/batch.h"
#include "trainer/checkpoint.h"
#include "trainer/cost.h"
#include "trainer/device.h"
#include "trainer/divergence.h"
#include "trainer/eval.h"
#include "trainer/first_weights.h"
#include "trainer/metrics.h"
#include "trainer/model.h"
#include "trainer/run_folder.h"
#include "trainer/schedule.h"
#include "trainer/weights.h"

_Static_assert((int)METRICS_RECENT >= (int)DIVERGENCE_STEPS, "a restart must know what it judges");

/* What the ranks agree on at the end of every step: integers, the greatest wins. */
enum request { STOP_NONE, STOP_ASKED, STOP_BUDGET };
/* The watchdog ends a rank only after every wait inside it has had its chance to name what it waited for. */
enum { WATCHDOG_MARGIN_MS = 30000 };
/* What the first save is taken to cost until it was measured: 100 MB/s. */
enum { NS_A_SAVED_BYTE = 10 };
/* What a thread of a CPU does, within a factor of two (docs/performance.md), and which steps are worth a warning. */
static const double CPU_THREAD_FLOPS = 50e9, LONG_STEP_MINUTES = 10;
enum { AGREE_STOP, AGREE_WAIT_NS, AGREE_COUNT };

struct loop {
    const struct loop_options *o;
    struct config config;   /* o->config, with what auto means here */
    const struct config *c; /* &config */
    const struct ops *ops;
    struct comm *comm;
    struct run_folder *folder;
    struct shard_set *train_set, *val_set;
    struct learner learner;
    struct batch batch;
    struct ledger *ledger;   /* rank 0 */
    struct metrics *metrics; /* rank 0 */
    struct eval *eval;       /* when there is something to evaluate on */
    struct checkpoint_tensor *tensor;
    struct first_weights first;
    struct objective_losses *losses; /* (batch) of all slots */
    int64_t *counts;                 /* (ranks) bytes of each rank's part of losses */
    struct checkpoint_counters at;
    struct divergence divergence; /* the same on every rank */
    struct cost cost;
    char *config_text;
    char ledger_path[CONFIG_TEXT + 32];
    int64_t saved_step, step_began_ns, save_ns, eval_ns, waited_ns, own_steps;
    int64_t empty_images; /* since the last that had a mask */
    double exposed_seconds, grad_norm;
    struct objective_losses sum;
    int64_t agreed[AGREE_COUNT];
};

/* The longest of a phase that names no limit of its own. */
static int64_t watchdog_ms(const struct config *c)
{
    return c->run_timeout_s * 1000 + WATCHDOG_MARGIN_MS;
}

/* ---- gradients ------------------------------------------------------------------------------ */
/* The gradients of this rank's slots, their sums on the way while the last backward pass still runs. */
static enum status add_gradients(struct loop *l)
{
    for (int64_t i = l->learner.slots.begin; i < l->learner.slots.end; i++) {
        TRY(batch_next(&l->batch, l->at.step, i));
        watchdog_feed("forward and backward", l->at.step, 0);
        TRY(learner_slot(&l->learner, l->batch.slot[0]));
        batch_done(&l->batch);
        TRY(learner_losses(&l->learner, l->losses + i));
    }
    watchdog_feed("summing gradients", l->at.step, 0);
    TRY(learner_sum(&l->learner, &l->exposed_seconds));
    return learner_norm(&l->learner, &l->grad_norm);
}

static bool last_of_process(const struct loop *l)
{
    return l->o->stop_after > 0 && l->own_steps + 1 >= l->o->stop_after;
}

/* A whole step on the device, the update with it: by what lies there the device decides whether the step counts, and the host
 * learns it afterwards. */
static enum status run_on_device(struct loop *l)
{
    const bool more = l->at.step + 1 < l->c->train_steps && !last_of_process(l);

    l->exposed_seconds = l->comm->n_ranks > 1 ? NAN : 0; /* the host sees nothing of it */
    TRY(batch_run(&l->batch, l->at.step, l->at.updates + 1, more));
    return batch_wait(&l->batch, l->at.step, l->losses + l->learner.slots.begin, &l->grad_norm);
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* ---- agreement ------------------------------------------------------------------------------ */
static int64_t request(const struct loop *l)
{
    const int64_t step_ns = clock_ns() - l->step_began_ns;

    /* at->step is still the step being ended: two on is the next one's end */
    const int64_t eval_ns = due(l->at.step + 2, l->c->eval_every) ? l->eval_ns : 0;

    if (l->ledger && !ledger_fits(l->ledger, step_ns + eval_ns, l->save_ns)) return STOP_BUDGET;
    if (signals_stop_wanted()) return STOP_ASKED;
    return last_of_process(l) ? STOP_ASKED : STOP_NONE;
}

/* Every rank learns all slots' losses, summed in the order of slots: the same bits on any number of ranks. */
static enum status agree(struct loop *l)
{
    const struct objective_losses *mine = l->losses + l->learner.slots.begin;

    l->agreed[AGREE_STOP] = request(l);
    l->agreed[AGREE_WAIT_NS] = l->batch.wait_ns - l->waited_ns;
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
    const double masks = l->sum.n_masks > 0 ? (double)l->sum.n_masks : 1;

    l->grad_norm /= masks;
    if (!isfinite(l->grad_norm) || !isfinite(total_loss(l))) {
        l->at.skipped++;
        l->at.skipped_in_row++;
        if (log_is_root())
            log_warn("step %lld skipped: loss %g, gradient norm %g are not finite",
                     (long long)l->at.step, total_loss(l) / masks, l->grad_norm);
        if (l->at.skipped_in_row > l->c->optim_bad_steps)
            FAIL(E_DIVERGED,
                 "%lld steps in a row were not finite (last checkpoint: step %lld, -1 for none): "
                 "try "
                 "a lower optim.lr or optim.clip",
                 (long long)l->at.skipped_in_row, (long long)l->saved_step);
        return OK;
    }
    l->at.skipped_in_row = 0;
    if (l->sum.n_masks == 0) { /* nothing to learn from: no update, not even decay */
        l->empty_images += l->c->train_batch;
        if (l->empty_images < shard_set_images(l->train_set)) return OK;
        FAIL(E_CONFIG,
             "no image of %s has a mask that passes data.min_area, data.max_area and "
             "data.min_pixels",
             l->c->data_train);
    }
    l->empty_images = 0;
    if (l->learner.sync) TRY(learner_update(&l->learner, masks, l->at.step, l->at.updates + 1));
    l->at.updates++;
    return OK;
}

/* Every rank holds the same losses, and learned the same of those before a restart: all decide alike, before the step is counted
 * or saved. */
static enum status judge(struct loop *l)
{
    const double loss = total_loss(l) / (double)l->sum.n_masks;

    if (l->sum.n_masks == 0 || !isfinite(loss)) return OK;
    return divergence_judge(&l->divergence, l->at.step + 1, loss, l->saved_step);
}

/* ---- checkpoints ---------------------------------------------------------------------------- */
static void state_of(struct loop *l, struct checkpoint_state *k)
{
    const struct learner *x = &l->learner;

    *k = (struct checkpoint_state){
        .n_arrays = 3,
        .array_name = { "param", "m", "v" },
        .array = { x->host[0], x->host[1], x->host[2] },
        .n = l->learner.sam->params.n_floats,
        .tensor = l->tensor,
        .n_tensors = l->learner.sam->params.n,
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
    const struct plan_range part =
        plan_part(l->learner.sam->params.n_floats, l->comm->n_ranks, l->comm->rank);
    struct checkpoint_state k;

    if (l->saved_step == l->at.step) return OK;
    watchdog_feed("saving a checkpoint", l->at.step, 0);
    TRY(learner_to_host(&l->learner, part.begin, part.end)); /* the slice this rank writes */
    if (l->metrics) TRY(metrics_sync(l->metrics));
    l->at.rank_ns = l->ledger ? ledger_spent_ns(l->ledger) : 0;
    state_of(l, &k);
    TRY(checkpoint_save(&k, l->comm, run_folder_path(l->folder), keep));
    l->saved_step = l->at.step;
    l->save_ns = clock_ns() - began;
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 1));
    return OK;
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
    const double seconds = 1e-9 * (double)(clock_ns() - l->step_began_ns);
    /* images may have fewer masks than train.masks */
    const int64_t missing = l->c->train_batch * l->c->train_masks - l->sum.n_masks;
    const double flops =
        l->cost.step_flops_reference - (double)missing * l->cost.mask_flops_reference;
    const struct metrics_row row = {
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
        .gflops = 1e-9 * flops / seconds,
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
    const int64_t began = clock_ns();
    struct eval_scores scores;

    if (!l->eval) return OK;
    watchdog_feed("evaluating", l->at.step, 0);
    TRY(eval_weights_of(l->eval, l->learner.sam));
    TRY(eval_run(l->eval, l->comm, &scores));
    l->eval_ns = clock_ns() - began;
    if (l->metrics) TRY(metrics_eval(l->metrics, l->at.step, &scores));
    return OK;
}

/* ---- the loop ------------------------------------------------------------------------------- */
static enum status step(struct loop *l)
{
    l->step_began_ns = clock_ns();
    l->waited_ns = l->batch.wait_ns;
    TRY(l->learner.sync ? add_gradients(l) : run_on_device(l));
    TRY(agree(l));
    TRY(judge(l));
    TRY(update(l));
    l->at.step++;
    l->own_steps++;
    l->at.images += l->c->train_batch;
    l->at.masks += l->sum.n_masks;
    TRY(report(l));
    /* scores first: what a kill behind the save could lose would never be scored again */
    if (due(l->at.step, l->c->eval_every) || l->at.step == l->c->train_steps) TRY(evaluate(l));
    /* what blows up is not saved before it has settled: the good checkpoints would be retired for it */
    if (due(l->at.step, l->c->checkpoint_every) && divergence_count(&l->divergence) == 0)
        TRY(save(l));
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 0));
    return OK;
}

/* Said when the run stops for it, and again by every start that does not fit any more: never E_STOPPED, which asks to be started
 * again. */
static enum status budget_spent(const struct loop *l)
{
    FAIL(E_BUDGET,
         "%.4g of %g rank-hours at step %lld of %lld, and what comes next would exceed them; the "
         "same command with a higher run.budget_hours goes on from there",
         (double)ledger_spent_ns(l->ledger) / 3.6e12, l->c->run_budget_hours, (long long)l->at.step,
         (long long)l->c->train_steps);
}

static enum status stop(struct loop *l)
{
    const bool is_budget = l->agreed[AGREE_STOP] == STOP_BUDGET;

    TRY(save(l));
    TRY(report_state(l, is_budget ? RUN_SPENT : RUN_STOPPED));
    if (is_budget) return l->ledger ? budget_spent(l) : E_BUDGET;
    log_root("stopped as asked at step %lld; the same command goes on from there",
             (long long)l->at.step);
    return E_STOPPED;
}

static enum status run(struct loop *l)
{
    /* asked for while it was set up: not behind a first step, which may be a long one */
    l->agreed[AGREE_STOP] = signals_stop_wanted() ? STOP_ASKED : STOP_NONE;
    TRY(l->comm->ops->all_reduce_max(l->comm, l->agreed, AGREE_COUNT));
    while (l->at.step < l->c->train_steps) {
        if (l->agreed[AGREE_STOP] != STOP_NONE) return stop(l);
        TRY(step(l));
    }
    TRY(save(l));
    return report_state(l, RUN_FINISHED);
}

/* ---- setting up ----------------------------------------------------------------------------- */
static enum status open_data(struct loop *l)
{
    const struct config *c = l->c;

    if (!*c->data_train)
        FAIL(E_CONFIG,
             "no data to train on: say data.train=FOLDER, a folder made by samforge pack");
    TRY(shard_set_open(&l->train_set, c->data_train));
    return *c->data_val ? shard_set_open(&l->val_set, c->data_val) : OK;
}

static enum status open_device(struct loop *l)
{
    const struct device_options device = { .choice = l->c->run_device,
                                           .share_gpu = l->c->run_share_gpu };

    TRY(device_open(&device, l->comm, &l->ops));
    model_resolve(&l->config, l->ops);
    TRY(device_named(l->ops->name, &l->config.run_device));
    TRY(learner_check(l->c, l->ops, l->comm->n_ranks)); /* before a folder is made for it */
    return cost_of(l->c, l->ops, &l->cost);
}

static enum status create_learner(struct loop *l)
{
    TRY(learner_create(&l->learner, l->c, l->ops, l->comm));
    l->losses = calloc((size_t)l->c->train_batch, sizeof *l->losses);
    l->counts = calloc((size_t)l->comm->n_ranks, sizeof *l->counts);
    if (!l->losses || !l->counts) FAIL(E_MEMORY, "the losses of a batch");
    for (int r = 0; r < l->comm->n_ranks; r++) {
        const struct plan_range part = plan_part(l->c->train_batch, l->comm->n_ranks, r);

        l->counts[r] = (part.end - part.begin) * (int64_t)sizeof *l->losses;
    }
    return OK;
}

/* The run goes on from its newest checkpoint, or begins with the weights asked for, or with initial ones. */
static enum status begin_or_resume(struct loop *l)
{
    const struct checkpoint_accept nothing_else = { .config = false, .data = false };
    struct checkpoint_state k;
    bool found = false;

    TRY(weights_layout(&l->learner.sam->params, &l->tensor));
    state_of(l, &k);
    if (!l->o->fresh)
        TRY(checkpoint_load(&k, l->comm, run_folder_path(l->folder), nothing_else, &found));
    if (found) {
        l->at = k.counters;
        l->saved_step = l->at.step;
        log_root("resumed at step %lld of %lld", (long long)l->at.step,
                 (long long)l->c->train_steps);
        if (l->o->weights && log_is_root())
            log_warn("--weights %s is not read: the run goes on from its own checkpoint; --fresh "
                     "begins anew",
                     l->o->weights);
        if (l->at.step >= l->c->train_steps)
            log_root("nothing to do: raise train.steps to train further");
    } else {
        l->at = (struct checkpoint_counters){ .seed = l->c->train_seed };
        l->saved_step = -1;
        TRY(first_weights_give(&l->first, &l->learner.sam->params, l->c->train_seed,
                               l->learner.host[0]));
    }
    return learner_from_host(&l->learner);
}

/* Before the steps that would be lost, above all of a restart that a full disk has brought about. */
static enum status check_space(struct loop *l)
{
    struct checkpoint_state k;

    if (l->comm->rank != 0 || l->at.step >= l->c->train_steps) return OK;
    state_of(l, &k);
    return checkpoint_check_space(&k, run_folder_path(l->folder), l->comm->n_ranks);
}

static enum status create_batch(struct loop *l)
{
    const struct config *c = l->c;
    const struct batch_options o = { .learner = &l->learner,
                                     .set = l->train_set,
                                     .seed = (uint64_t)c->train_seed,
                                     .step_first = l->at.step,
                                     .blind = c->data_blind,
                                     .timeout_ms = c->run_timeout_s * 1000,
                                     .image_limit_ms = watchdog_ms(c) };

    return batch_create(&l->batch, &o);
}

static enum status create_eval(struct loop *l)
{
    const struct eval_options o = { .config = l->c,
                                    .ops = l->learner.sam->ops,
                                    .set = l->val_set,
                                    .max_masks = l->c->eval_max_masks,
                                    .max_clicks = 3 };

    return l->val_set ? eval_create(&l->eval, &o) : OK;
}

static int64_t budget_ns(double hours)
{
    const double ns = ceil(hours * 3.6e12);

    return ns < 9e18 ? (int64_t)ns : INT64_MAX;
}

/* Rank 0 alone keeps the ledger; time counts from here. */
static enum status open_ledger(struct loop *l)
{
    const struct ledger_options o = {
        .path = l->ledger_path,
        .n_ranks = l->comm->n_ranks,
        .budget_ns = budget_ns(l->c->run_budget_hours),
    };

    if (l->comm->rank != 0) return OK;
    return ledger_open(&l->ledger, &o);
}

/* A finished run needs none. */
static enum status check_budget(struct loop *l)
{
    if (!l->ledger || l->at.step >= l->c->train_steps || ledger_fits_start(l->ledger)) return OK;
    return budget_spent(l);
}

static enum status open_metrics(struct loop *l)
{
    struct metrics_row begun = { .step = l->at.step,
                                 .loss_total = NAN,
                                 .lr = schedule_lr(l->c, l->at.step),
                                 .images_per_second = NAN };

    if (l->comm->rank != 0) return OK;
    TRY(metrics_open(&l->metrics, run_folder_path(l->folder), l->at.step, l->c->train_steps));
    begun.rank_hours = (double)ledger_spent_ns(l->ledger) / 3.6e12;
    return run_folder_status(l->folder, RUN_RUNNING, &begun, l->saved_step);
}

/* The losses before a restart, as the metrics have them to the last digit. */
static enum status learn_divergence(struct loop *l)
{
    double loss[METRICS_RECENT];
    const int n = l->metrics ? metrics_recent(l->metrics, loss) : 0;

    l->divergence = divergence_of(l->c);
    for (int i = 0; i < n; i++) divergence_add(&l->divergence, loss[i]);
    return l->comm->ops->broadcast(l->comm, &l->divergence, sizeof l->divergence, 0);
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

static enum status enter_folder(struct loop *l)
{
    const struct run_folder_options folder = { .config = l->c,
                                               .config_path = l->o->config_path,
                                               .argv = l->o->argv,
                                               .argc = l->o->argc,
                                               .fresh = l->o->fresh };

    TRY(first_weights_take(&l->first, l->comm, l->c, l->o->weights, l->o->fresh));
    TRY(run_folder_create(&l->folder, l->comm, &folder));
    return l->o->fresh ? first_weights_find(&l->first, l->comm, run_folder_path(l->folder)) : OK;
}

static enum status create(struct loop *l)
{
    TRY(watchdog_start(l->comm, watchdog_ms(l->c)));
    watchdog_feed("setting up", 0, 0);
    TRY(open_data(l));
    TRY(open_device(l));
    TRY(enter_folder(l));
    snprintf(l->ledger_path, sizeof l->ledger_path, "%s/ledger.txt", run_folder_path(l->folder));
    TRY(agree_worst(l->comm, open_ledger(l)));
    TRY(dump_config(l));
    TRY(create_learner(l));
    l->save_ns = l->cost.checkpoint_bytes * NS_A_SAVED_BYTE;
    TRY(begin_or_resume(l));
    TRY(agree_worst(l->comm, check_budget(l)));
    TRY(agree_worst(l->comm, check_space(l)));
    TRY(agree_worst(l->comm, open_metrics(l)));
    TRY(learn_divergence(l));
    if (l->first.aside) TRY(save(l));
    TRY(create_batch(l));
    return create_eval(l);
}

static void destroy(struct loop *l)
{
    watchdog_feed("ending", l->at.step, 0);
    batch_destroy(&l->batch);
    eval_destroy(l->eval);
    metrics_close(l->metrics);
    ledger_close(l->ledger);
    learner_destroy(&l->learner);
    shard_set_close(l->train_set);
    shard_set_close(l->val_set);
    watchdog_stop();
    run_folder_destroy(l->folder);
    free(l->tensor);
    first_weights_destroy(&l->first);
    free(l->losses);
    free(l->counts);
    free(l->config_text);
}

static void say_what(const struct loop *l)
{
    log_root(
        "%s: %.2f M parameters, %lld images with %lld masks, %lld images a step on %d rank%s of "
        "%d thread%s, %.1f GFLOP a step, in %s",
        l->c->model_name, 1e-6 * (double)l->learner.sam->params.n_trained,
        (long long)shard_set_images(l->train_set), (long long)shard_set_masks(l->train_set),
        (long long)l->c->train_batch, l->comm->n_ranks, l->comm->n_ranks == 1 ? "" : "s",
        omp_get_max_threads(), omp_get_max_threads() == 1 ? "" : "s",
        1e-9 * l->cost.step_flops_reference,
        l->c->run_precision == PRECISION_BF16 ? "bf16" : "f32");
}

/* Whoever tries the published models without a GPU should learn now what a step of theirs costs there. */
static void warn_of_long_step(const struct loop *l)
{
    const double threads = (double)l->comm->n_ranks * omp_get_max_threads();
    const double hours = l->cost.step_flops / (threads * CPU_THREAD_FLOPS) / 3600;

    if (!l->ops->host_memory || hours * 60 < LONG_STEP_MINUTES || !log_is_root()) return;
    log_warn("on the CPU a step takes about %.1f hours, at %.0f GFLOP/s a thread: take a GPU "
             "(run.device=cuda), a lower train.batch or train.masks, or a smaller model, such as "
             "configs/tiny.yaml",
             hours, CPU_THREAD_FLOPS * 1e-9);
}

/* Decided by all ranks alike: all end in order. Any other failure may be one rank's own. */
static bool is_shared(enum status s)
{
    return s == OK || s == E_STOPPED || s == E_DIVERGED || s == E_BUDGET;
}

enum status loop_run(const struct loop_options *o)
{
    struct loop l = { .o = o, .config = *o->config, .comm = o->comm, .saved_step = -1 };
    enum status s;

    l.c = &l.config;
    if (o->comm->n_ranks > o->config->train_batch)
        FAIL(E_CONFIG, "%d ranks for a batch of %lld images: some would have nothing to do",
             o->comm->n_ranks, (long long)o->config->train_batch);
    if (o->config->run_threads > 0) omp_set_num_threads((int)o->config->run_threads);
    s = create(&l);
    if (s == OK) {
        say_what(&l);
        warn_of_long_step(&l);
        s = run(&l);
    }
    /* a start that was refused leaves the status of the run that is there */
    if (s != OK && s != E_STOPPED && s != E_BUDGET && l.metrics)
        KEEP_FIRST(s, run_folder_status(l.folder, s == E_DIVERGED ? RUN_DIVERGED : RUN_FAILED, NULL,
                                        l.saved_step));
    if (!is_shared(s) && o->comm->n_ranks > 1) {
        /* the others must not wait for this rank, nor their messages arrive in memory given back */
        ledger_close(l.ledger);
        o->comm->ops->abort(o->comm, status_exit_code(s));
    }
    destroy(&l);
    return s;
}

#include "trainer/loop_state.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/watchdog.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/agree.h"
#include "trainer/device.h"
#include "trainer/model.h"
#include "trainer/schedule.h"
#include "trainer/weights.h"

_Static_assert((int)METRICS_RECENT >= (int)DIVERGENCE_STEPS, "a restart must know what it judges");

/* The watchdog ends a rank only after every wait inside it has had its chance to name what it waited for. */
enum { WATCHDOG_MARGIN_MS = 30000 };
/* What the first save is taken to cost until it was measured: 100 MB/s. */
enum { NS_A_SAVED_BYTE = 10 };
/* What a thread of a CPU does, within a factor of two (docs/performance.md), and which steps are worth a warning. */
static const double CPU_THREAD_FLOPS = 50e9, LONG_STEP_MINUTES = 10;

/* The longest of a phase that names no limit of its own. */
static int64_t watchdog_ms(const struct config *c)
{
    return c->run_timeout_s * 1000 + WATCHDOG_MARGIN_MS;
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

enum status loop_save(struct loop *l)
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
    l->save_due = false;
    l->save_ns = clock_ns() - began;
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 1));
    return OK;
}

enum status loop_budget_spent(const struct loop *l)
{
    FAIL(E_BUDGET,
         "%.4g of %g rank-hours at step %lld of %lld, and what comes next would exceed them; the "
         "same command with a higher run.budget_hours goes on from there",
         (double)ledger_spent_ns(l->ledger) / 3.6e12, l->c->run_budget_hours, (long long)l->at.step,
         (long long)l->c->train_steps);
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
    return loop_budget_spent(l);
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

enum status loop_create(struct loop *l)
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
    if (l->first.aside) TRY(loop_save(l));
    TRY(create_batch(l));
    TRY(create_eval(l));
    say_what(l);
    warn_of_long_step(l);
    return OK;
}

void loop_destroy(struct loop *l)
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

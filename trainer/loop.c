#include "trainer/loop.h"

#include <math.h>
#include <omp.h>
#include <sys/resource.h>

#include "cluster/signals.h"
#include "cluster/watchdog.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "trainer/loop_state.h"
#include "trainer/schedule.h"

/* What the ranks agree on at the end of every step: integers, the greatest wins. */
enum request { STOP_NONE, STOP_ASKED, STOP_BUDGET };

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

static enum status no_masks(const struct loop *l)
{
    FAIL(E_CONFIG,
         "no image of %s that was seen has a mask that passes data.min_area, data.max_area and "
         "data.min_pixels: nothing was learnt",
         l->c->data_train);
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
        return no_masks(l);
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
    l->save_due = l->save_due || due(l->at.step, l->c->checkpoint_every);
    if (l->save_due && divergence_count(&l->divergence) == 0) TRY(loop_save(l));
    if (l->ledger) TRY(ledger_note(l->ledger, l->at.step, 0));
    return OK;
}

static enum status stop(struct loop *l)
{
    const bool is_budget = l->agreed[AGREE_STOP] == STOP_BUDGET;

    TRY(loop_save(l));
    TRY(report_state(l, is_budget ? RUN_SPENT : RUN_STOPPED));
    if (is_budget) return l->ledger ? loop_budget_spent(l) : E_BUDGET;
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
    TRY(loop_save(l));
    if (l->at.images > 0 && l->at.masks == 0) return no_masks(l);
    return report_state(l, RUN_FINISHED);
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
    s = loop_create(&l);
    if (s == OK) s = run(&l);
    /* a start that was refused leaves the status of the run that is there */
    if (s != OK && s != E_STOPPED && s != E_BUDGET && l.metrics)
        KEEP_FIRST(s, run_folder_status(l.folder, s == E_DIVERGED ? RUN_DIVERGED : RUN_FAILED, NULL,
                                        l.saved_step));
    if (!is_shared(s) && o->comm->n_ranks > 1) {
        /* the others must not wait for this rank, nor their messages arrive in memory given back */
        signals_silence();
        ledger_close(l.ledger);
        o->comm->ops->abort(o->comm, status_exit_code(s));
    }
    loop_destroy(&l);
    return s;
}

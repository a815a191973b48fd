/* What a step was like, in numbers: one JSON object a step in RUN/metrics.jsonl, and a line for
 * people. Rank 0.
 *
 * Keys under time/ and perf/ measure time; all others are the same on every run of the same
 * configuration, on any number of ranks and restarts: a resumed run cuts the file back to the step
 * it restored. NaN and infinities are null, and named under "nonfinite", but for a time that is not known. */
#ifndef TRAINER_METRICS_H
#define TRAINER_METRICS_H

#include <stdint.h>

#include "kernels/base/status.h"

/* INT or NUMBER(member, key) */
#define METRICS_ROW(INT, NUMBER)                                                                   \
    INT(step, "step")                                                                              \
    NUMBER(loss_total, "train/loss/total")                                                         \
    NUMBER(loss_focal, "train/loss/focal")                                                         \
    NUMBER(loss_dice, "train/loss/dice")                                                           \
    NUMBER(loss_iou, "train/loss/iou")                                                             \
    NUMBER(iou_first, "train/iou/first")                                                           \
    NUMBER(iou_last, "train/iou/last")                                                             \
    NUMBER(grad_norm, "train/grad_norm")                                                           \
    NUMBER(lr, "train/lr")                                                                         \
    INT(n_masks, "train/masks")                                                                    \
    INT(images, "train/images")                                                                    \
    INT(skipped, "train/skipped")                                                                  \
    NUMBER(step_seconds, "time/step")                                                              \
    NUMBER(data_wait_seconds, "time/data_wait")                                                    \
    NUMBER(comm_exposed_seconds, "time/comm_exposed")                                              \
    NUMBER(rank_hours, "time/rank_hours")                                                          \
    NUMBER(images_per_second, "perf/images_per_second")                                            \
    NUMBER(gflops, "perf/gflops")                                                                  \
    NUMBER(memory_gib, "perf/memory_gib")

#define METRICS_INT(member, key)    int64_t member;
#define METRICS_NUMBER(member, key) double member;
struct metrics_row {
    METRICS_ROW(METRICS_INT, METRICS_NUMBER)
};
#undef METRICS_INT
#undef METRICS_NUMBER

struct metrics;
struct eval_scores;

/* Opens RUN/metrics.jsonl and drops what lies behind step `restored` (0: all). Warns of steps up to there that have no line, and
 * of a run that begins again without a checkpoint. `steps`: of the whole run. */
enum status metrics_open(struct metrics **m, const char *run_folder, int64_t restored,
                         int64_t steps) MUST_CHECK;
void metrics_close(struct metrics *m); /* accepts NULL */

/* The losses of the last steps before the one restored, of those that have masks and a finite one: the oldest first, the same doubles
 * that were written. Returns how many there are. */
enum { METRICS_RECENT = 20 };
int metrics_recent(const struct metrics *m, double loss[METRICS_RECENT]);

/* One line in the file; for people a progress line on a terminal, a log line every tenth step
 * elsewhere. */
enum status metrics_step(struct metrics *m, const struct metrics_row *row) MUST_CHECK;

/* All lines so far are on disk: before a checkpoint that a resumed run trusts more than them. */
enum status metrics_sync(struct metrics *m) MUST_CHECK;

/* The scores after `step` steps, keys under eval/. */
enum status metrics_eval(struct metrics *m, int64_t step,
                         const struct eval_scores *scores) MUST_CHECK;

/* The line for people. */
enum { METRICS_LINE = 400 };
const char *metrics_text(const struct metrics_row *row, char line[METRICS_LINE]);

#endif

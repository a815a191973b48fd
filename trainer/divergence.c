#include "trainer/divergence.h"

#include <math.h>

#include "kernels/base/log.h"

struct divergence divergence_of(const struct config *c)
{
    const double alpha = fmax(c->loss_focal_alpha, 1 - c->loss_focal_alpha);
    const double focal = alpha * pow(0.5, c->loss_focal_gamma) * log(2); /* of p = 1/2 */
    const double round = c->loss_w_focal * focal + c->loss_w_dice + c->loss_w_iou;

    return (struct divergence){ .bound = DIVERGENCE_TIMES * round * (double)c->train_rounds };
}

void divergence_add(struct divergence *d, double loss)
{
    const uint32_t all = (1u << DIVERGENCE_STEPS) - 1;

    d->recent = ((d->recent << 1) | (loss > d->bound)) & all;
}

int divergence_count(const struct divergence *d)
{
    return __builtin_popcount(d->recent);
}

enum status divergence_judge(struct divergence *d, int64_t step, double loss, int64_t saved_step)
{
    const int before = divergence_count(d);
    int now;

    divergence_add(d, loss);
    now = divergence_count(d);
    if (before == 0 && now > 0 && log_is_root())
        log_warn("step %lld: its loss, %g, is above %g, %d times that of an answer that knows "
                 "nothing; no checkpoint is due until %d steps in a row are below, and when more "
                 "than half of as many are above, the run has diverged",
                 (long long)step, loss, d->bound, DIVERGENCE_TIMES, DIVERGENCE_STEPS);
    if (2 * now <= DIVERGENCE_STEPS) return OK;
    if (!log_is_root()) return E_DIVERGED;
    FAIL(E_DIVERGED,
         "%d of the last %d steps had a loss above %g, %d times that of an answer that knows "
         "nothing; step %lld's is %g (last checkpoint: step %lld, -1 for none): begin in another "
         "run.folder with a lower optim.lr or optim.clip, and --weights to take the last good "
         "weights along",
         now, DIVERGENCE_STEPS, d->bound, DIVERGENCE_TIMES, (long long)step, loss,
         (long long)saved_step);
}

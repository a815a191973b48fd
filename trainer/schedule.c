#include "trainer/schedule.h"

#include <math.h>

static double larger(double a, double b)
{
    return a > b ? a : b;
}

double schedule_lr(const struct config *c, int64_t t)
{
    const double n = (double)(t + 1), warmup = larger(1, (double)c->optim_warmup);
    const double ramp = n < warmup ? n / warmup : 1;
    double fall = 1;

    for (int i = 0; i < c->optim_milestones.n; i++)
        if (t + 1 >= c->optim_milestones.v[i]) fall *= 0.1;
    return c->optim_lr * larger(0.001, ramp) * fall;
}

double schedule_layer_factor(const struct config *c, int64_t layer)
{
    return pow(c->optim_layer_decay, (double)(c->model_depth + 1 - layer));
}

double schedule_drop_path(const struct config *c, int64_t block)
{
    if (c->model_depth < 2) return 0;
    return c->train_drop_path * (double)block / (double)(c->model_depth - 1);
}

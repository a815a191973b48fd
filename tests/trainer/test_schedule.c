#include "trainer/schedule.h"

#include <math.h>

#include "tests/check.h"

/* The learning rate of PyTorch's LambdaLR in the peer trainer, step by step. */
static void learning_rate(void)
{
    struct config c;

    config_defaults(&c);
    c.optim_lr = 2e-3;
    c.optim_warmup = 50;
    c.optim_milestones = (struct config_list){ .v = { 467, 675 }, .n = 2 };
    CHECK(fabs(schedule_lr(&c, 0) - 2e-3 / 50) <= 1e-18);
    CHECK(fabs(schedule_lr(&c, 24) - 1e-3) <= 1e-18);
    CHECK(schedule_lr(&c, 49) == 2e-3);
    CHECK(schedule_lr(&c, 465) == 2e-3);
    CHECK(fabs(schedule_lr(&c, 466) - 2e-4) <= 1e-18);
    CHECK(fabs(schedule_lr(&c, 673) - 2e-4) <= 1e-18);
    CHECK(fabs(schedule_lr(&c, 674) - 2e-5) <= 1e-18);
    for (int64_t t = 0; t < 700; t++) {
        const double s = (double)t, ramp = fmax(0.001, fmin(1, (s + 1) / 50));
        const double fall = pow(0.1, (s + 1 >= 2.0 / 3 * 700) + (s + 1 >= 0.963 * 700));

        CHECK(fabs(schedule_lr(&c, t) / (2e-3 * ramp * fall) - 1) <= 1e-15);
    }
    c.optim_warmup = 0;
    CHECK(schedule_lr(&c, 0) == 2e-3);
    c.optim_warmup = 100000;
    CHECK(fabs(schedule_lr(&c, 0) - 2e-6) <= 1e-18); /* never below a thousandth */
}

/* SAM_SPEC C.5 #13: ViT-H patch embedding 0.8^33 = 6.3e-4, its last block 0.8; ViT-B 0.6^13 =
 * 1.3e-3. */
static void layers(void)
{
    struct config c;

    config_defaults(&c);
    c.model_depth = 32;
    c.optim_layer_decay = 0.8;
    CHECK(fabs(schedule_layer_factor(&c, 0) - 6.338e-4) <= 1e-7);
    CHECK(fabs(schedule_layer_factor(&c, 32) - 0.8) <= 1e-15);
    CHECK(schedule_layer_factor(&c, 33) == 1);
    c.model_depth = 12;
    c.optim_layer_decay = 0.6;
    CHECK(fabs(schedule_layer_factor(&c, 0) - 1.306e-3) <= 1e-6);
    c.optim_layer_decay = 1;
    CHECK(schedule_layer_factor(&c, 0) == 1);
}

static void drop_path(void)
{
    struct config c;

    config_defaults(&c);
    c.model_depth = 12;
    c.train_drop_path = 0.6;
    CHECK(schedule_drop_path(&c, 0) == 0);
    CHECK(fabs(schedule_drop_path(&c, 5) - 0.6 * 5 / 11) <= 1e-15);
    CHECK(schedule_drop_path(&c, 11) == 0.6);
    c.model_depth = 1;
    CHECK(schedule_drop_path(&c, 0) == 0);
}

int main(void)
{
    learning_rate();
    layers();
    drop_path();
    return check_done("schedule");
}

/* The account of a step against numbers that were worked out apart from it. */
#include "trainer/account.h"

#include <math.h>
#include <string.h>

#include "tests/check.h"

static void load(struct config *c, const char *name)
{
    char path[256];
    char *paper[] = { "train.batch=1", "train.masks=64", "train.rounds=11", "train.recompute=false",
                      "train.drop_path=0" };
    static const char here[] = __FILE__;
    const char *tests = strstr(here, "tests/trainer/");

    CHECK(tests != NULL);
    snprintf(path, sizeof path, "%.*sconfigs/%s.yaml", (int)(tests - here), here, name);
    CHECK(config_load(c, path, paper, 5) == OK);
}

static const struct account_row *find(const struct account *a, enum bench_phase p, const char *op)
{
    for (int i = 0; i < a->n; i++)
        if (a->row[i].phase == p && strcmp(a->row[i].op, op) == 0) return a->row + i;
    return NULL;
}

/* 1024², 64 masks, 11 rounds: FLOPs of the published model, counted by hand from its shapes. */
static void reference(void)
{
    static const struct {
        const char *name;
        double encoder, image; /* TFLOP: encoder forward; all of training */
    } models[] = { { "vit_b", 0.972, 10.81 },
                   { "vit_l", 2.986, 16.85 },
                   { "vit_h", 5.961, 25.77 } };

    for (int i = 0; i < 3; i++) {
        struct config c;
        struct cost k;
        struct account a;

        load(&c, models[i].name);
        CHECK(cost_of(&c, &ops_cpu, &k) == OK && account_of(&c, &ops_cpu, &k, &a) == OK);
        CHECK(fabs(k.encoder.forward.flops_reference / 1e12 - models[i].encoder) < 1e-3);
        CHECK(fabs(k.step_flops_reference / 1e12 - models[i].image) < 3e-3 * models[i].image);
    }
}

/* Rows whose bytes are a line of arithmetic. */
static void bytes(void)
{
    struct config c;
    struct cost k;
    struct account a;
    const struct account_row *r;
    const double tokens = 4096, wide = 768;

    load(&c, "vit_b");
    CHECK(cost_of(&c, &ops_cpu, &k) == OK && account_of(&c, &ops_cpu, &k, &a) == OK);
    CHECK(k.compute == F32);
    r = find(&a, BENCH_OPTIMIZER, "adamw");
    CHECK(r && r->bytes == 28 * (double)k.weights_bytes / 4);
    CHECK(!find(&a, BENCH_SUMS, "accumulate") && k.n_gradients == 1);
    /* norms of 12 blocks, twice: x, y, gamma, beta, mean, rstd; two norms of the neck's 256 channels */
    r = find(&a, BENCH_ENCODER_FORWARD, "layernorm");
    CHECK(r && r->calls == 26 &&
          r->bytes == 4 * (24 * (2 * tokens * wide + 2 * wide + 2 * tokens) +
                           2 * (2 * tokens * 256 + 2 * 256 + 2 * tokens)));
    /* sums, fused with the norms behind them: the last one has none */
    CHECK(config_override(&c, "run.fuse_norms=on") == OK);
    CHECK(cost_of(&c, &ops_cpu, &k) == OK && account_of(&c, &ops_cpu, &k, &a) == OK);
    r = find(&a, BENCH_ENCODER_FORWARD, "residual");
    CHECK(r && r->calls == 24 &&
          r->bytes == 4 * (24 * 3 * tokens * wide + 23 * (tokens * wide + 2 * wide + 2 * tokens)));
    r = find(&a, BENCH_ENCODER_FORWARD, "layernorm");
    CHECK(r && r->calls == 3);
}

/* Images of a step beyond the first: one merge of gradients each, and a gradient more for each level of the tree. */
static void sums(void)
{
    static const struct {
        const char *batch;
        int images, gradients;
    } steps[] = { { "train.batch=2", 2, 2 },
                  { "train.batch=3", 3, 2 },
                  { "train.batch=4", 4, 3 },
                  { "train.batch=256", 256, 9 } };

    for (int i = 0; i < 4; i++) {
        struct config c;
        struct cost k;
        struct account a;
        const struct account_row *r;
        const double merges = steps[i].images - 1;

        load(&c, "vit_b");
        CHECK(config_override(&c, steps[i].batch) == OK);
        CHECK(cost_of(&c, &ops_cpu, &k) == OK && account_of(&c, &ops_cpu, &k, &a) == OK);
        CHECK(k.n_gradients == steps[i].gradients);
        r = find(&a, BENCH_SUMS, "accumulate");
        CHECK(r && r->calls == merges && r->bytes == merges * 12 * (double)k.weights_bytes / 4);
    }
}

/* The attention's square is said where it would be: 12 heads of 4096 × 4096. */
static void attention(void)
{
    struct config c;
    struct cost k;
    struct account a;

    load(&c, "vit_b");
    CHECK(cost_of(&c, &ops_cpu, &k) == OK && account_of(&c, &ops_cpu, &k, &a) == OK);
    CHECK(a.attention_scores == 4.0 * 12 * 4096 * 4096);
    CHECK(a.attention_tensor == 4.0 * 4096 * 3 * 768);
    CHECK(a.attention_scratch < a.attention_scores);
}

static void roofline(void)
{
    const struct machine m = { "round", 100, 10, 1 };
    const struct account_row product = { .flops = 1000, .bytes = 9, .tensor = true };
    const struct account_row plain = { .flops = 1000, .bytes = 9 };
    const struct account_row moved = { .flops = 10, .bytes = 5, .scratch = 6, .tensor = true };
    const struct account_row other = { .scalar = 100, .bytes = 9 };
    enum account_bound bound;

    CHECK(account_seconds(&product, &m, &bound) == 10 && bound == BOUND_TENSOR);
    CHECK(account_seconds(&plain, &m, &bound) == 100 && bound == BOUND_F32);
    CHECK(account_seconds(&moved, &m, &bound) == 11 && bound == BOUND_MEMORY);
    CHECK(account_seconds(&other, &m, &bound) == 20 && bound == BOUND_SCALAR);
}

int main(void)
{
    reference();
    bytes();
    sums();
    attention();
    roofline();
    return check_done("test_account");
}

/* Sums of gradients on emulated devices, by itself as one rank or under mpirun as many, whose exchanges MPI carries: the bits of
 * a serial sum over the tree (tests/cluster/tree_sum.h), for every number of slots, with ranks in one tier and in two, with
 * ranges ready in any order, queued as they come and recorded, whichever of the device's queues runs ahead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/cluster/tree_sum.h"
#include "trainer/device_sum.h"

enum { N = 997, BUCKET = 210, STEPS = 2, PIECES = 9 };

extern const struct ops ops_emu;

static struct comm *c;
static struct stream queue;

/* The slot's gradient, made in pieces that are ready as soon as they are queued: shuffled, and others in every slot of every rank. */
static void make(struct device_sum *d, float *gradient, const float *values, struct rng_key k)
{
    int order[PIECES];
    int64_t cut[PIECES + 1] = { 0 };

    for (int i = 0; i < PIECES; i++) {
        order[i] = i;
        cut[i + 1] = i + 1 == PIECES ? N : cut[i] + rng_below(k, (uint64_t)i, N / 6);
        if (cut[i + 1] > N) cut[i + 1] = N; /* some are empty */
    }
    for (int i = PIECES - 1; i > 0; i--) {
        const int j = (int)rng_below(k, (uint64_t)(100 + i), (uint64_t)i + 1), t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < PIECES; i++) {
        const int64_t begin = cut[order[i]], end = cut[order[i] + 1];

        CHECK(ops_emu.put(gradient + begin, values + begin, (end - begin) * 4, &queue) == OK);
        CHECK(device_sum_ready(d, begin, end) == OK);
    }
}

static void queue_step(struct device_sum *d, int64_t n_slots, int64_t step, double *of_rank,
                       float **total)
{
    const struct plan_range mine = plan_part(n_slots, c->n_ranks, c->rank);
    const double own = (double)(10 * step + c->rank);
    float *gradient, values[N];

    device_sum_begin(d);
    for (int64_t slot = mine.begin; slot < mine.end; slot++) {
        CHECK(device_sum_slot(d, &gradient) == OK);
        for (int64_t i = 0; i < N; i++) values[i] = value(step, slot, i, 0);
        make(d, gradient, values, rng_stream(5, RNG_TEST, (uint64_t)(100 * step + slot), 3));
        CHECK(device_sum_slot_end(d) == OK);
    }
    CHECK(ops_emu.put(of_rank + c->rank, &own, sizeof own, &queue) == OK);
    CHECK(device_sum_end(d, of_rank, total) == OK);
}

/* What is queued behind the end has it. */
static void check_step(int64_t step, int64_t n_slots, const double *of_rank, const float *copy)
{
    float back[N];
    double numbers[16];

    CHECK(ops_emu.get(back, copy, sizeof back, &queue) == OK);
    for (int64_t i = 0; i < N; i++) {
        const float expected = tree_sum(step, n_slots, i, 0);

        if (memcmp(back + i, &expected, sizeof expected) == 0) continue;
        fprintf(stderr, "%lld slots on %d ranks, step %lld: total[%lld] is %.9g, not %.9g\n",
                (long long)n_slots, c->n_ranks, (long long)step, (long long)i, (double)back[i],
                (double)expected);
        CHECK(false);
        return;
    }
    CHECK(ops_emu.get(numbers, of_rank, c->n_ranks * 8, &queue) == OK);
    for (int r = 0; r < c->n_ranks; r++) CHECK(numbers[r] == (double)(10 * step + r));
}

static void run(int64_t n_slots, int per_node, int64_t bucket, bool recorded)
{
    const struct device_sum_options o = { .ops = &ops_emu,
                                          .queue = &queue,
                                          .comm = c,
                                          .n = N,
                                          .bucket = bucket,
                                          .n_slots = n_slots,
                                          .ranks_per_node = per_node };
    struct device_sum *d = NULL;
    void *of_rank, *copy;
    float *total;

    CHECK(device_sum_create(&d, &o) == OK);
    CHECK(ops_emu.alloc(&of_rank, c->n_ranks * 8) == OK && ops_emu.alloc(&copy, N * 4) == OK);
    for (int64_t step = 0; step < STEPS; step++) {
        if (recorded) CHECK(ops_emu.record_begin(&queue) == OK);
        queue_step(d, n_slots, step, of_rank, &total);
        CHECK(ops_emu.copy(copy, total, N * 4, &queue) == OK);
        if (recorded) CHECK(ops_emu.record_end(true, &queue) == OK && ops_emu.replay(&queue) == OK);
        check_step(step, n_slots, of_rank, copy);
        if (check_fails && c->n_ranks > 1) c->ops->abort(c, 1); /* the others wait for this one */
    }
    ops_emu.free(of_rank);
    ops_emu.free(copy);
    device_sum_destroy(d);
}

/* orders: of the device's queues, when recorded. */
static void all_orders(int64_t n_slots, int per_node, int64_t bucket)
{
    static const char *const orders[] = { NULL, "first", "last" };

    run(n_slots, per_node, bucket, false);
    for (int i = 0; i < 3; i++) {
        if (orders[i]) setenv("EMU_SIDE", orders[i], 1);
        run(n_slots, per_node, bucket, true);
        unsetenv("EMU_SIDE");
    }
}

static void wrong_use_is_refused(void)
{
    struct device_sum_options o = {
        .ops = &ops_emu, .queue = &queue, .comm = c, .n = N, .bucket = 0, .n_slots = 4
    };
    struct device_sum *d = NULL;

    CHECK(device_sum_create(&d, &o) == E_SHAPE && !d);
    device_sum_destroy(NULL);
}

int main(void)
{
    static const int64_t slots[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 13 };

    CHECK(ops_emu.open() == OK && comm_create(&c, 30000) == OK);
    queue.queue = ops_emu.queue();
    wrong_use_is_refused();
    for (int i = 0; i < (int)(sizeof slots / sizeof *slots); i++) {
        for (int per_node = 1; per_node < c->n_ranks; per_node++)
            if (c->n_ranks % per_node == 0) all_orders(slots[i], per_node, BUCKET);
        if (c->n_ranks == 1) all_orders(slots[i], 1, BUCKET);
    }
    all_orders(5, 0, 1);     /* buckets of fewer elements than ranks */
    all_orders(7, 0, 2 * N); /* one bucket */
    comm_destroy(c);
    return check_done("emu_device_sum");
}

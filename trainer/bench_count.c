#include "trainer/bench_count.h"

#include "trainer/bench_device.h"
#include "trainer/bench_slots.h"
#include "trainer/learner.h"

enum { TIMEOUT_MS = 60000 };

static enum status step(struct learner *l, const struct bench_slots *slots)
{
    struct objective_losses losses;
    double exposed, norm;
    int64_t masks = 0;

    if (!l->sync) {
        TRY(learner_begin(l));
        for (int64_t i = 0; i < slots->n; i++) TRY(learner_add(l, slots->slot + i));
        for (int64_t i = 0; i < slots->n; i++) masks += slots->slot[i].n_masks;
        TRY(learner_end(l, 1, masks));
        return learner_norm(l, &norm);
    }
    for (int64_t i = 0; i < slots->n; i++) {
        TRY(learner_slot(l, slots->slot + i));
        TRY(learner_losses(l, &losses));
    }
    TRY(learner_sum(l, &exposed));
    TRY(learner_update(l, 1, 0, 1));
    return learner_norm(l, &norm);
}

/* Making the model launches too: of that the count is forgotten. */
static enum status count(struct bench_count *b, const struct ops *ops, struct learner *l,
                         const struct bench_slots *slots)
{
    learner_use_graph(l, false);
    TRY(learner_from_host(l));
    TRY(step(l, slots));
    TRY(ops->count(false));
    TRY(ops->count(true));
    TRY(step(l, slots));
    b->n_kernels = ops->launches(b->kernel, BENCH_KERNELS);
    if (b->n_kernels > BENCH_KERNELS)
        FAIL(E_USAGE, "%lld kinds of kernels, room for %d", (long long)b->n_kernels, BENCH_KERNELS);
    for (int64_t i = 0; i < b->n_kernels; i++) b->n_launches += b->kernel[i].n;
    b->memory = bench_device_bytes();
    return OK;
}

enum status bench_count_run(struct bench_count *b, const struct config *c, const struct ops *ops)
{
    struct comm *comm = NULL;
    struct learner l = { 0 };
    struct bench_slots slots = { 0 };
    enum status s;

    *b = (struct bench_count){ 0 };
    if (!ops->count)
        FAIL(E_NO_DEVICE, "device %s cannot count launches; emu in samforge_emu can", ops->name);
    TRY(ops->open());
    TRY(ops->count(true));
    s = comm_create(&comm, TIMEOUT_MS);
    if (s == OK) s = learner_create(&l, c, bench_device_counted(ops), comm);
    if (s == OK) s = bench_slots_create(&slots, c);
    if (s == OK) s = count(b, ops, &l, &slots);
    learner_destroy(&l);
    bench_slots_destroy(&slots);
    comm_destroy(comm);
    return s == OK ? ops->count(false) : s;
}

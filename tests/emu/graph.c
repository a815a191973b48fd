/* A step recorded and replayed against the same step not recorded, on the emulated device: the same
 * launches with the same arguments, puts, copies and zeros in the same order on each queue, and the
 * same bits, over steps of one slot and of several whose shape changes: branches dropped, silent
 * rounds, fewer masks and none; and before them a recorded step with more runs than there was room
 * for. The next step is recorded before the one before it is asked for its results. Then the same
 * bits with the side as early and as late as it may run, also where nobody asks between the steps. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/emu/device_memory.h"
#include "tests/trainer/tiny_sam.h"
#include "trainer/batch.h"

enum {
    STEPS = 6,
    SLOTS = 4 /* at most: so that a slot has the room of one before it */,
    ITEMS = 60000
};

extern const struct ops ops_emu;

/* What a run of steps did and came to. */
struct run {
    struct emu_item *item; /* (ITEMS) */
    int64_t n_items;
    struct objective_losses losses[STEPS][SLOTS];
    double norm[STEPS];
    float *state[LEARNER_ARRAYS]; /* (n) weights and moments */
};

static void *room(int64_t bytes)
{
    void *p = calloc(1, (size_t)bytes);

    if (!p) exit(1);
    return p;
}

static int64_t masks_of(const struct loader_slot *const *slot, int64_t n)
{
    int64_t masks = 0;

    for (int64_t i = 0; i < n; i++) masks += slot[i]->n_masks;
    return masks;
}

/* The last slot with more runs than there is room for, most of which belong to no mask. */
static void make_room(struct learner *l, const struct bench_slots *slots)
{
    enum { LENGTH = 1 << 19 };
    const struct loader_slot *list[SLOTS];
    struct loader_slot last = slots->slot[slots->n - 1];
    int32_t *runs = room(LENGTH * (int64_t)sizeof *runs);
    double norm;

    memcpy(runs, last.runs, (size_t)last.n_runs * sizeof *runs);
    last.runs = runs;
    last.n_runs = LENGTH;
    for (int64_t i = 0; i < slots->n; i++) list[i] = i + 1 < slots->n ? slots->slot + i : &last;
    CHECK(learner_prepare(l, list, 1, masks_of(list, slots->n)) == OK && learner_launch(l) == OK);
    CHECK(learner_norm(l, &norm) == OK && norm > 0 && isfinite(norm));
    free(runs);
}

static struct loader_slot slot_of(const struct bench_slots *slots, int64_t step, int64_t i)
{
    struct loader_slot s = slots->slot[i];

    s.step = step;
    if (step == 2 && i == 0) s.n_masks = 1;
    if (step == 3 || (step == 4 && i == 1)) s.n_masks = 0;
    return s;
}

static void queue(struct learner *l, const struct loader_slot *const *slot, int64_t n, int64_t t)
{
    CHECK(learner_begin(l) == OK);
    for (int64_t i = 0; i < n; i++) { /* of each only what add has copied is left */
        struct loader_slot copy = *slot[i];

        CHECK(learner_add(l, &copy) == OK);
        copy = (struct loader_slot){ 0 };
    }
    CHECK(learner_end(l, t, masks_of(slot, n)) == OK);
}

static void prepare(struct learner *l, const struct loader_slot *const *slot, int64_t n, int64_t t)
{
    CHECK(learner_prepare(l, slot, t, masks_of(slot, n)) == OK);
}

/* ask: for the results of every step, not of the last only. */
static void run(struct learner *l, const struct bench_slots *slots, bool graph, bool ask,
                struct run *r)
{
    const int64_t n = l->sam->params.n_floats;
    struct loader_slot slot[STEPS][SLOTS];
    const struct loader_slot *list[STEPS][SLOTS];
    const struct emu_item *item;

    for (int i = 0; i < STEPS; i++)
        for (int k = 0; k < slots->n; k++) {
            slot[i][k] = slot_of(slots, i, k);
            list[i][k] = slot[i] + k;
        }
    params_initialize(&l->sam->params, 7, l->host[0]);
    memset(l->host[1], 0, (size_t)n * 4);
    memset(l->host[2], 0, (size_t)n * 4);
    CHECK(learner_from_host(l) == OK);
    learner_use_graph(l, graph);
    CHECK(l->graph == graph);
    if (graph) /* replaced: it would be other slots, and another update */
        CHECK(learner_prepare(l, list[STEPS - 1], 7, 1) == OK);
    emu_trace(true);
    for (int i = 0; i < STEPS; i++) {
        if (graph) {
            if (i == 0) prepare(l, list[i], slots->n, i + 1);
            CHECK(learner_launch(l) == OK);
        } else {
            queue(l, list[i], slots->n, i + 1);
        }
        if (graph && i + 1 < STEPS) prepare(l, list[i + 1], slots->n, i + 2);
        if (!ask && i + 1 < STEPS) continue;
        CHECK(learner_losses(l, r->losses[i]) == OK && learner_norm(l, r->norm + i) == OK);
    }
    emu_trace(false);
    r->n_items = emu_traced(&item);
    CHECK(r->n_items <= ITEMS);
    for (int64_t i = 0; i < r->n_items && i < ITEMS; i++) r->item[i] = item[i];
    CHECK(learner_to_host(l, 0, n) == OK);
    for (int i = 0; i < LEARNER_ARRAYS; i++) memcpy(r->state[i], l->host[i], (size_t)n * 4);
}

/* What a queue did, in its order: the list without the other's. */
static int64_t items_of(struct emu_item *item, int64_t n, bool side)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < n; i++)
        if (item[i].side == side) item[kept++] = item[i];
    return kept;
}

static void same_items_of(const struct run *a, const struct run *b, bool side)
{
    static struct emu_item list[2][ITEMS];
    int64_t differ = 0, launches = 0, n[2];

    memcpy(list[0], a->item, (size_t)a->n_items * sizeof **list);
    memcpy(list[1], b->item, (size_t)b->n_items * sizeof **list);
    for (int i = 0; i < 2; i++) n[i] = items_of(list[i], i ? b->n_items : a->n_items, side);
    CHECK(n[0] == n[1]);
    for (int64_t i = 0; i < n[0] && i < n[1]; i++) {
        const struct emu_item *x = list[0] + i, *y = list[1] + i;

        launches += strstr(x->text, " of (") != NULL;
        if (strcmp(x->text, y->text) == 0 && x->bits == y->bits) continue;
        if (differ++ < 5)
            fprintf(stderr, "item %lld: \"%s\" %016llx, recorded \"%s\" %016llx\n", (long long)i,
                    x->text, (unsigned long long)x->bits, y->text, (unsigned long long)y->bits);
    }
    printf("%s: %lld items, of which %lld launches, in %d steps; %lld differ\n",
           side ? "side" : "queue", (long long)n[0], (long long)launches, STEPS, (long long)differ);
    CHECK(differ == 0 && launches > (side ? 20 : 1000));
}

static void same_items(const struct run *a, const struct run *b)
{
    same_items_of(a, b, false);
    same_items_of(a, b, true);
}

/* Of the losses, and of what the state came to. */
static void plausible(const struct run *r, int64_t n_slots, int64_t n)
{
    bool moved = false;

    for (int i = 0; i < STEPS; i++) {
        int64_t masks = 0;

        for (int64_t k = 0; k < n_slots; k++) {
            masks += r->losses[i][k].n_masks;
            CHECK((r->losses[i][k].focal > 0) == (r->losses[i][k].n_masks > 0));
        }
        CHECK(isfinite(r->norm[i]) && (r->norm[i] > 0) == (masks > 0));
    }
    for (int64_t k = 1; k < n_slots; k++) CHECK(r->losses[0][k].focal != r->losses[0][k - 1].focal);
    for (int64_t i = 0; i < n; i++) moved = moved || r->state[1][i] != 0;
    CHECK(moved && r->losses[0][0].focal != r->losses[1][0].focal);
}

/* How long a step may take is known by those before it, of which steps without masks say nothing. */
static void limits(struct learner *l, struct bench_slots *slots)
{
    enum { IMAGE_MS = 600000 };
    const struct batch_options o = {
        .learner = l, .made_up = slots->slot, .timeout_ms = 1000, .image_limit_ms = IMAGE_MS
    };
    struct objective_losses losses[SLOTS];
    struct batch b;
    double norm;

    CHECK(batch_create(&b, &o) == OK);
    for (int step = 0; step < 2; step++) {
        for (int64_t i = 0; i < slots->n; i++) slots->slot[i].n_masks = step; /* none, then one */
        CHECK(batch_run(&b, step, 1, false) == OK);
        CHECK(batch_wait(&b, step, losses, &norm) == OK);
        CHECK((b.longest_ns > 0) == (step > 0));
        if (slots->n > 1) CHECK((batch_limit_ms(&b) < slots->n * IMAGE_MS) == (step > 0));
        CHECK(batch_limit_ms(&b) >= IMAGE_MS);
    }
    batch_destroy(&b);
}

static void create_run(struct run *r, int64_t n)
{
    *r = (struct run){ .item = room(ITEMS * (int64_t)sizeof *r->item) };
    for (int k = 0; k < LEARNER_ARRAYS; k++) r->state[k] = room(n * 4);
}

static void destroy_run(struct run *r)
{
    for (int k = 0; k < LEARNER_ARRAYS; k++) free(r->state[k]);
    free(r->item);
}

/* asked: for the results of every step, by both. */
static void same_bits(const struct run *a, const struct run *b, int64_t n, bool asked)
{
    const int from = asked ? 0 : STEPS - 1;

    CHECK_SAME_BITS(a->losses[from], b->losses[from], (int64_t)sizeof *a->losses * (STEPS - from));
    CHECK_SAME_BITS(a->norm + from, b->norm + from, (int64_t)sizeof *a->norm * (STEPS - from));
    for (int i = 0; i < LEARNER_ARRAYS; i++) CHECK_SAME_BITS(a->state[i], b->state[i], n * 4);
}

/* n_orders: how many of those of the side. Steps take turns with their inputs, and every run has an even number of them: it begins where the others did. */
static void all_runs(struct learner *l, const struct bench_slots *slots, int n_orders)
{
    static const char *const orders[] = { NULL, "first", "last" };
    const int64_t n = l->sam->params.n_floats;
    struct run plain, other;

    create_run(&plain, n);
    create_run(&other, n);
    run(l, slots, false, true, &plain);
    plausible(&plain, slots->n, n);
    for (int i = 0; i < n_orders; i++) {
        if (orders[i]) setenv("EMU_SIDE", orders[i], 1);
        for (int graph = i == 0; graph < 2; graph++)
            for (int ask = i == 0; ask < 2; ask++) {
                run(l, slots, graph, ask, &other);
                same_bits(&plain, &other, n, ask);
                if (!orders[i]) same_items(&plain, &other);
            }
        unsetenv("EMU_SIDE");
    }
    destroy_run(&plain);
    destroy_run(&other);
}

static void check_precision(int precision, bool all_masks, int64_t n_slots)
{
    struct config c = tiny_config();
    struct comm *comm = NULL;
    struct learner l = { 0 };
    struct bench_slots slots = { 0 };

    c.train_batch = n_slots;
    c.train_rounds = 4;
    c.train_silent_rounds = 2;
    c.train_dropout = 0.1;
    c.train_drop_path = 0.5;
    c.optim_clip = 0.5;
    c.run_precision = precision;
    c.loss_iou_all = all_masks; /* then the host reads the slot's candidates too */
    c.train_box_multimask = !all_masks;
    CHECK(config_check(&c) == OK);
    CHECK(comm_create(&comm, 1000) == OK && learner_create(&l, &c, &ops_emu, comm) == OK &&
          bench_slots_create(&slots, &c) == OK);
    if (check_fails) exit(1);
    CHECK(l.graph);
    params_initialize(&l.sam->params, 7, l.host[0]);
    CHECK(learner_from_host(&l) == OK);
    make_room(&l, &slots);
    all_runs(&l, &slots, precision == PRECISION_F32 ? 3 : 1); /* orders know no precision */
    limits(&l, &slots);
    bench_slots_destroy(&slots);
    learner_destroy(&l);
    comm_destroy(comm);
}

int main(void)
{
    CHECK(ops_emu.open() == OK);
    for (int slots = 1; slots <= SLOTS; slots += SLOTS - 1) {
        check_precision(PRECISION_F32, true, slots);
        check_precision(PRECISION_BF16, false, slots);
    }
    return check_done("emu_graph");
}

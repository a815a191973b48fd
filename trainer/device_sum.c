/* A step's pieces on the device:
 *
 *   level    partial sums of this rank's slots, one full gradient each; level i of the finished stack is the i-th block of
 *            plan_blocks(own slots)
 *   blocks   of a bucket's slice: what this rank holds of it, each the sum of some slots. A tier of ranks shares out a slice:
 *            each member receives all members' blocks of its own part, in the order of slots, and merges them. Behind the
 *            last tier a rank has the blocks of all slots, of a small slice, and adds them up.
 *   total    finished slices go back through the tiers, the last one first, into level 0, whose slice nobody needs any more
 *
 * Buckets go from the last to the first, for backward meets the parameters in that order; one that is ready early waits for its
 * turn, so that exchanges have one order on all ranks. The side is one queue: a bucket's buffers are free when the next comes. */
#include "trainer/device_sum.h"

#include <stdlib.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "trainer/agree.h"

enum {
    TIERS = 2,
    UNIT = 64 /* floats: parts begin at multiples, for vectors of 16 bytes and more */
};

/* Ranks first, first + stride, …; each stands for `span` ranks, whose slots its blocks sum. */
struct tier {
    int n, me, first, stride, span;
    float *received;
};

struct partial {
    struct plan_range slots;
    float *sum; /* of the slice at hand */
};

struct device_sum {
    const struct ops *ops;
    struct stream *queue, side;
    struct comm *comm;
    int64_t n, bucket, n_buckets, n_slots;
    struct plan_range slots; /* this rank's */
    void *memory;            /* owned; behind levels and received */
    int64_t memory_bytes;
    float *level[PLAN_BLOCKS_MAX];
    float *numbers; /* (ranks) f64, of the meeting */
    struct tier tier[TIERS];
    int n_tiers;
    struct exchange_part *part; /* room for the longest list */
    int64_t n_parts;
    bool met;

    struct plan_range stack[PLAN_BLOCKS_MAX]; /* the slots of each level's sum */
    int depth, top, n_merges;                 /* with the current slot, whose level is top */
    int64_t n_begun;
    int64_t *n_ready;    /* (buckets) elements of the last slot that are */
    int64_t next_bucket; /* to be exchanged; -1: all are */

    struct partial block[PLAN_BLOCKS_MAX]; /* of the slice at hand */
    int n_blocks;
};

/* ---- who shares with whom ------------------------------------------------------------------- */
static int rank_of(const struct tier *t, int member)
{
    return t->first + member * t->stride;
}

/* The first of those that it stands for. */
static int first_rank(const struct tier *t, int member)
{
    return rank_of(t, member) / t->span * t->span;
}

static struct plan_range slots_of(const struct device_sum *d, const struct tier *t, int member)
{
    const int first = first_rank(t, member), n_ranks = d->comm->n_ranks;

    return (struct plan_range){ plan_part(d->n_slots, n_ranks, first).begin,
                                plan_part(d->n_slots, n_ranks, first + t->span - 1).end };
}

static int n_blocks_of(const struct device_sum *d, const struct tier *t, int member)
{
    struct plan_range block[PLAN_BLOCKS_MAX];

    return plan_blocks(slots_of(d, t, member), block);
}

static int n_others(const struct device_sum *d, const struct tier *t)
{
    int n = 0;

    for (int i = 0; i < t->n; i++) n += i == t->me ? 0 : n_blocks_of(d, t, i);
    return n;
}

/* Ranks of each node, when all have the same number and follow one another; else 0. The same on all ranks. */
static enum status ranks_per_node(struct comm *c, int *n)
{
    struct {
        int local_rank, n_local;
    } mine = { c->local_rank, c->n_local }, *all;
    enum status s;

    all = calloc((size_t)c->n_ranks, sizeof *all);
    if (!all) FAIL(E_MEMORY, "a list of %d ranks", c->n_ranks);
    s = c->ops->all_gather(c, all, &mine, sizeof mine);
    *n = all[0].n_local;
    for (int r = 0; s == OK && r < c->n_ranks; r++)
        if (all[r].n_local != all[0].n_local || all[r].local_rank != r % all[0].n_local) *n = 0;
    free(all);
    return s;
}

static void set_tiers(struct device_sum *d, int per_node)
{
    const int n = d->comm->n_ranks, me = d->comm->rank;

    if (n == 1) return;
    if (per_node > 1 && n > per_node && n % per_node == 0) {
        d->tier[0] = (struct tier){ .n = per_node,
                                    .me = me % per_node,
                                    .first = me / per_node * per_node,
                                    .stride = 1,
                                    .span = 1 };
        d->tier[1] = (struct tier){ .n = n / per_node,
                                    .me = me / per_node,
                                    .first = me % per_node,
                                    .stride = per_node,
                                    .span = per_node };
        d->n_tiers = 2;
        return;
    }
    d->tier[0] = (struct tier){ .n = n, .me = me, .stride = 1, .span = 1 };
    d->n_tiers = 1;
}

/* ---- create ---------------------------------------------------------------------------------- */
static int64_t units(int64_t floats)
{
    return (floats + UNIT - 1) / UNIT;
}

static void take(struct device_sum *d, float **p, int64_t floats)
{
    *p = d->memory ? (float *)((char *)d->memory + d->memory_bytes) : NULL;
    d->memory_bytes += arena_round(floats * (int64_t)sizeof(float));
}

/* Walked twice: to measure, then to take. */
static void carve(struct device_sum *d)
{
    int64_t slice = d->bucket < d->n ? d->bucket : d->n;

    d->memory_bytes = 0;
    for (int i = 0; i < plan_levels(d->slots); i++) take(d, &d->level[i], d->n);
    if (d->n_tiers > 0) take(d, &d->numbers, 2 * d->comm->n_ranks);
    for (int i = 0; i < d->n_tiers; i++) {
        struct tier *t = d->tier + i;

        slice = (units(slice) + t->n - 1) / t->n * UNIT; /* the greatest part */
        take(d, &t->received, n_others(d, t) * slice);
    }
}

static int64_t longest_list(const struct device_sum *d)
{
    int64_t most = 0;

    for (int i = 0; i < d->n_tiers; i++) {
        const struct tier *t = d->tier + i;
        const int64_t blocks = (t->n - 1) * n_blocks_of(d, t, t->me) + n_others(d, t);
        const int64_t n = blocks > 2 * (t->n - 1) ? blocks : 2 * (t->n - 1);

        if (n > most) most = n;
    }
    return most;
}

static enum status join(struct device_sum *d)
{
    struct comm *c = d->comm;
    unsigned char id[EXCHANGE_ID_BYTES] = { 0 };

    TRY(agree_worst(c, c->rank == 0 ? d->ops->exchange_id(id) : OK));
    TRY(c->ops->broadcast(c, id, sizeof id, 0));
    TRY(d->ops->exchange_join(id, c->rank, c->n_ranks));
    return OK;
}

static enum status share_numbers(struct device_sum *d, double *of_rank);

/* Devices meet with their first message: not in a step, which may be recorded, and by numbers, for of a small bucket some
 * ranks have no part. Who fails here must end the run: the others wait for its device. */
static enum status meet(struct device_sum *d)
{
    TRY(join(d));
    TRY(share_numbers(d, (double *)d->numbers));
    TRY(d->ops->sync(&d->side));
    d->met = true;
    return OK;
}

static enum status fill(struct device_sum *d, const struct device_sum_options *o)
{
    int per_node = o->ranks_per_node;

    if (d->n < 1 || d->bucket < 1 || d->n_slots < 1)
        FAIL(E_SHAPE, "gradients: %lld floats in buckets of %lld, %lld slots", (long long)d->n,
             (long long)d->bucket, (long long)d->n_slots);
    if (per_node == 0) TRY(ranks_per_node(d->comm, &per_node));
    set_tiers(d, per_node);
    d->n_buckets = (d->n + d->bucket - 1) / d->bucket;
    d->n_parts = longest_list(d);
    d->n_ready = calloc((size_t)d->n_buckets, sizeof *d->n_ready);
    d->part = calloc((size_t)d->n_parts + 1, sizeof *d->part);
    if (!d->n_ready || !d->part) FAIL(E_MEMORY, "%lld buckets", (long long)d->n_buckets);
    carve(d);
    TRY(d->ops->alloc(&d->memory, d->memory_bytes));
    carve(d);
    if (d->n_tiers == 0) return OK;
    d->side.queue = d->ops->side();
    return meet(d);
}

enum status device_sum_create(struct device_sum **d, const struct device_sum_options *o)
{
    struct device_sum *made = calloc(1, sizeof *made);
    enum status s;

    if (!made) FAIL(E_MEMORY, "%zu bytes for the gradient sums", sizeof *made);
    made->ops = o->ops;
    made->queue = o->queue;
    made->comm = o->comm;
    made->n = o->n;
    made->bucket = units(o->bucket) * UNIT;
    made->n_slots = o->n_slots;
    made->slots = plan_part(o->n_slots, o->comm->n_ranks, o->comm->rank);
    s = fill(made, o);
    if (s != OK) {
        device_sum_destroy(made);
        return s;
    }
    *d = made;
    return OK;
}

void device_sum_destroy(struct device_sum *d)
{
    if (!d) return;
    if (d->met) d->ops->exchange_leave(); /* else others may not be there to be left */
    if (d->memory) d->ops->free(d->memory);
    free(d->n_ready);
    free(d->part);
    free(d);
}

/* ---- a bucket, on the side ------------------------------------------------------------------- */
static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct plan_range part_of(struct plan_range slice, const struct tier *t, int member)
{
    const struct plan_range p = plan_part(units(slice.end - slice.begin), t->n, member);

    return (struct plan_range){ least(slice.begin + p.begin * UNIT, slice.end),
                                least(slice.begin + p.end * UNIT, slice.end) };
}

static void add_part(struct device_sum *d, int64_t *n, int rank, bool send, void *data,
                     int64_t bytes)
{
    ASSERT(*n < d->n_parts);
    d->part[(*n)++] =
        (struct exchange_part){ .data = data, .bytes = bytes, .rank = rank, .send = send };
}

/* One more block on top, and the merges that it brings about. */
static enum status push(struct device_sum *d, struct partial top, int64_t n)
{
    ASSERT(d->n_blocks < PLAN_BLOCKS_MAX);
    d->block[d->n_blocks++] = top;
    while (d->n_blocks > 1) {
        struct partial *below = d->block + d->n_blocks - 2;

        if (!plan_siblings(below[0].slots, below[1].slots)) break;
        TRY(d->ops->accumulate(below[0].sum, below[1].sum, n, &d->side));
        below[0].slots.end = below[1].slots.end;
        d->n_blocks--;
    }
    return OK;
}

/* The members' blocks of this rank's part, in the order of slots. held: this rank's, of the whole slice. */
static enum status merge_part(struct device_sum *d, const struct tier *t,
                              const struct partial *held, int64_t offset, int64_t n)
{
    struct plan_range slots[PLAN_BLOCKS_MAX];
    float *received = t->received;

    d->n_blocks = 0;
    for (int i = 0; i < t->n; i++) {
        const int n_blocks = plan_blocks(slots_of(d, t, i), slots);

        for (int k = 0; k < n_blocks; k++) {
            struct partial top = { slots[k], NULL };

            if (i == t->me) {
                top.sum = held[k].sum + offset;
            } else {
                top.sum = received;
                received += units(n) * UNIT;
            }
            TRY(push(d, top, n));
        }
    }
    return OK;
}

/* Shares out the slice whose blocks are at hand; those of this rank's part are, afterwards. */
static enum status share_out(struct device_sum *d, const struct tier *t, struct plan_range slice)
{
    const struct plan_range own = part_of(slice, t, t->me);
    const int64_t n = own.end - own.begin;
    struct partial held[PLAN_BLOCKS_MAX];
    float *received = t->received;
    int64_t n_parts = 0;

    for (int i = 0; i < t->n; i++) {
        const struct plan_range part = part_of(slice, t, i);

        if (i == t->me) continue;
        for (int k = 0; k < d->n_blocks; k++)
            add_part(d, &n_parts, rank_of(t, i), true, d->block[k].sum + part.begin - slice.begin,
                     (part.end - part.begin) * (int64_t)sizeof(float));
        for (int k = 0; k < n_blocks_of(d, t, i); k++, received += units(n) * UNIT)
            add_part(d, &n_parts, rank_of(t, i), false, received, n * (int64_t)sizeof(float));
    }
    TRY(d->ops->exchange(d->part, n_parts, &d->side));
    for (int k = 0; k < d->n_blocks; k++) held[k] = d->block[k];
    return merge_part(d, t, held, own.begin - slice.begin, n);
}

/* Each member's part of the slice, finished, to all of the tier. */
static enum status gather(struct device_sum *d, const struct tier *t, struct plan_range slice)
{
    int64_t n_parts = 0;

    for (int i = 0; i < 2 * t->n; i++) {
        const bool send = i % 2 == 0;
        const struct plan_range part = part_of(slice, t, send ? t->me : i / 2);

        if (i / 2 == t->me) continue;
        add_part(d, &n_parts, rank_of(t, i / 2), send, d->level[0] + part.begin,
                 (part.end - part.begin) * (int64_t)sizeof(float));
    }
    return d->ops->exchange(d->part, n_parts, &d->side);
}

/* All blocks of a slice into one, at its place in the total. */
static enum status finish(struct device_sum *d, struct plan_range slice)
{
    float *total = d->level[0] + slice.begin;
    const int64_t n = slice.end - slice.begin;

    ASSERT(d->n_blocks > 0);
    for (int k = 1; k < d->n_blocks; k++)
        TRY(d->ops->accumulate(d->block[0].sum, d->block[k].sum, n, &d->side));
    if (d->block[0].sum == total) return OK;
    return d->ops->copy(total, d->block[0].sum, n * (int64_t)sizeof(float), &d->side);
}

static enum status exchange_bucket(struct device_sum *d, struct plan_range bucket)
{
    struct plan_range slots[PLAN_BLOCKS_MAX], slice[TIERS + 1] = { bucket };

    d->n_blocks = plan_blocks(d->slots, slots);
    for (int k = 0; k < d->n_blocks; k++)
        d->block[k] = (struct partial){ slots[k], d->level[k] + bucket.begin };
    for (int i = 0; i < d->n_tiers; i++) {
        TRY(share_out(d, d->tier + i, slice[i]));
        slice[i + 1] = part_of(slice[i], d->tier + i, d->tier[i].me);
    }
    TRY(finish(d, slice[d->n_tiers]));
    for (int i = d->n_tiers - 1; i >= 0; i--) TRY(gather(d, d->tier + i, slice[i]));
    return OK;
}

static enum status merge(struct device_sum *d, struct plan_range range, struct stream *s)
{
    for (int i = 0, top = d->top; i < d->n_merges; i++, top--)
        TRY(d->ops->accumulate(d->level[top - 1] + range.begin, d->level[top] + range.begin,
                               range.end - range.begin, s));
    return OK;
}

static struct plan_range bucket_range(const struct device_sum *d, int64_t bucket)
{
    const int64_t end = (bucket + 1) * d->bucket;

    return (struct plan_range){ bucket * d->bucket, end < d->n ? end : d->n };
}

static enum status start_bucket(struct device_sum *d, int64_t bucket)
{
    const struct plan_range range = bucket_range(d, bucket);

    TRY(d->ops->after(&d->side, d->queue));
    TRY(merge(d, range, &d->side));
    return exchange_bucket(d, range);
}

/* ---- a step ---------------------------------------------------------------------------------- */
static bool in_last_slot(const struct device_sum *d)
{
    return d->n_begun == d->slots.end - d->slots.begin;
}

void device_sum_begin(struct device_sum *d)
{
    d->depth = 0;
    d->n_merges = 0;
    d->n_begun = 0;
    d->next_bucket = d->n_buckets - 1;
    for (int64_t i = 0; i < d->n_buckets; i++) d->n_ready[i] = 0;
}

enum status device_sum_slot(struct device_sum *d, float **gradient)
{
    ASSERT(!in_last_slot(d));
    d->top = d->depth;
    d->n_merges = plan_push(d->stack, &d->depth, d->slots.begin + d->n_begun++);
    *gradient = d->level[d->top];
    return d->ops->zero(*gradient, d->n * (int64_t)sizeof(float), d->queue);
}

/* Of a bucket that a range covers. */
static int64_t covered(struct plan_range bucket, int64_t begin, int64_t end)
{
    if (begin < bucket.begin) begin = bucket.begin;
    if (end > bucket.end) end = bucket.end;
    return end > begin ? end - begin : 0;
}

enum status device_sum_ready(struct device_sum *d, int64_t begin, int64_t end)
{
    ASSERT(d->n_begun > 0 && begin >= 0 && end <= d->n);
    if (d->n_tiers == 0 || !in_last_slot(d)) return OK;
    for (int64_t i = begin / d->bucket; i < d->n_buckets && i * d->bucket < end; i++)
        d->n_ready[i] += covered(bucket_range(d, i), begin, end);
    for (; d->next_bucket >= 0; d->next_bucket--) {
        const struct plan_range bucket = bucket_range(d, d->next_bucket);

        if (d->n_ready[d->next_bucket] < bucket.end - bucket.begin) break;
        TRY(start_bucket(d, d->next_bucket));
    }
    return OK;
}

enum status device_sum_slot_end(struct device_sum *d)
{
    if (d->n_tiers == 0 || !in_last_slot(d))
        return merge(d, (struct plan_range){ 0, d->n }, d->queue);
    ASSERT(d->next_bucket == -1); /* merged where they were exchanged */
    return OK;
}

/* Each rank's number to all, those of a tier's members together. */
static enum status share_numbers(struct device_sum *d, double *of_rank)
{
    for (int i = 0; i < d->n_tiers; i++) {
        const struct tier *t = d->tier + i;
        const int64_t bytes = t->span * (int64_t)sizeof(double);
        int64_t n_parts = 0;

        for (int k = 0; k < 2 * t->n; k++) {
            const bool send = k % 2 == 0;

            if (k / 2 == t->me) continue;
            add_part(d, &n_parts, rank_of(t, k / 2), send,
                     of_rank + first_rank(t, send ? t->me : k / 2), bytes);
        }
        TRY(d->ops->exchange(d->part, n_parts, &d->side));
    }
    return OK;
}

enum status device_sum_end(struct device_sum *d, double *of_rank, float **total)
{
    ASSERT(in_last_slot(d));
    *total = d->level[0];
    if (d->n_tiers == 0) {
        for (int i = 1; i < d->depth; i++)
            TRY(d->ops->accumulate(d->level[0], d->level[i], d->n, d->queue));
        return OK;
    }
    for (; d->next_bucket >= 0; d->next_bucket--) { /* without slots */
        ASSERT(d->n_begun == 0);
        TRY(start_bucket(d, d->next_bucket));
    }
    TRY(d->ops->after(&d->side, d->queue)); /* the numbers are there */
    TRY(share_numbers(d, of_rank));
    return d->ops->after(d->queue, &d->side);
}

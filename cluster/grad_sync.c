/* The pieces of a step, bucket by bucket:
 *
 *   stack    partial sums of this rank's slots, one full gradient a level; level i of the finished stack is the i-th
 *            block of plan_blocks(own slots). Complete buckets are merged at once, while they are still in the caches.
 *   blocks   exchange k sends level k: to each rank its slice. The owner of a slice then holds all blocks of all ranks,
 *            in slot order, finishes the tree on a stack of its own and folds the roots from left to right.
 *   total    the finished slices go to all. They land in level 0, whose bucket nobody needs any more.
 *
 * Buckets start from the last to the first, for backward meets the parameters in that order; one that is complete too early
 * waits for its turn, so that all ranks start the same exchanges in the same order. At most LANES are in flight: that bounds
 * the receive buffers. */
#include "cluster/grad_sync.h"

#include "cluster/wait.h"
#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 4, CHANNEL_BLOCKS = 0, CHANNEL_TOTAL = 1, PARALLEL_MIN = 1 << 16 /* floats */ };

/* What one exchange says to comm: n_ranks entries each. */
struct table {
    int64_t *send_bytes, *send_offset, *receive_bytes, *receive_offset;
};

enum phase { PHASE_BLOCKS, PHASE_TOTAL };

struct lane {
    int bucket;
    enum phase phase;
    struct comm_request *request; /* n_exchanges */
    struct table *table;          /* n_exchanges */
    float *received;              /* the other ranks' blocks of this rank's slice, in slot order */
};

struct partial {
    struct plan_range range; /* of slots */
    float *sum;
};

struct grad_sync {
    struct comm *comm; /* not owned */
    struct arena arena;
    int64_t n, n_slots;
    int n_buckets;
    int64_t *bucket_end;
    int64_t *n_ready; /* elements of each bucket complete in the current slot */

    struct plan_range slots; /* this rank's */
    int64_t n_begun;         /* of them, this step */
    int n_done;              /* buckets complete in the current slot */
    float **level;           /* n_levels full gradients */
    int n_levels;
    struct plan_range stack[PLAN_BLOCKS_MAX]; /* the slots of each level's sum */
    int depth;                                /* with the current slot merged */
    int top;                                  /* level of the current slot's gradient */
    int n_merges;                             /* that it brings about */

    int *n_blocks;   /* of each rank */
    int n_exchanges; /* the most blocks of any rank */
    struct lane lane[LANES];
    int n_lanes;
    int64_t head, tail; /* lanes in use: head … tail − 1, modulo n_lanes; the oldest is head */
    int next_bucket;    /* to be started; −1: all are */
};

static int64_t bucket_begin(const struct grad_sync *s, int b)
{
    return b ? s->bucket_end[b - 1] : 0;
}

static int64_t bucket_size(const struct grad_sync *s, int b)
{
    return s->bucket_end[b] - bucket_begin(s, b);
}

/* Element-wise, hence the same bits on any number of threads. */
static void add(float *restrict to, const float *restrict from, int64_t n)
{
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

static void zero(float *p, int64_t n)
{
#pragma omp parallel for simd schedule(static) if (n >= PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++) p[i] = 0;
}

/* ---- create ---------------------------------------------------------------------------------- */

static enum status check_options(struct comm *c, const struct grad_sync_options *o)
{
    uint64_t hash = rng_mix((uint64_t)o->n) ^ rng_mix(~(uint64_t)o->n_slots);
    int64_t v[2];

    if (o->n < 1 || o->n_slots < 1 || o->n_buckets < 1 || o->bucket_end[o->n_buckets - 1] != o->n)
        FAIL(E_SHAPE, "gradients: %lld floats, %d buckets, %lld slots", (long long)o->n,
             o->n_buckets, (long long)o->n_slots);
    for (int b = 0; b < o->n_buckets; b++) {
        if (o->bucket_end[b] <= (b ? o->bucket_end[b - 1] : 0))
            FAIL(E_SHAPE, "gradients: bucket %d ends at %lld, not after the one before", b,
                 (long long)o->bucket_end[b]);
        hash = rng_mix(hash ^ (uint64_t)o->bucket_end[b]);
    }
    v[0] = (int64_t)(hash >> 1);
    v[1] = -v[0];
    TRY(c->ops->all_reduce_max(c, v, 2));
    if (v[0] != -v[1])
        FAIL(E_CONFIG,
             "ranks disagree about parameters, buckets or batch: same binary and config?");
    return OK;
}

/* The greatest slice of any bucket this rank owns. */
static int64_t slice_most(const struct grad_sync *s)
{
    int64_t most = 0;

    for (int b = 0; b < s->n_buckets; b++) {
        const struct plan_range own = plan_part(bucket_size(s, b), s->comm->n_ranks, s->comm->rank);

        if (own.end - own.begin > most) most = own.end - own.begin;
    }
    return most;
}

/* Adds to *total when planning (arena NULL), else takes. */
static enum status piece(struct arena *a, int64_t *total, int64_t bytes, void *p)
{
    if (a) return arena_take(a, bytes, p);
    *total += arena_round(bytes);
    return OK;
}

/* All memory, in one list that is walked twice: with a NULL to add up, then to take. */
static enum status lay_out(struct grad_sync *s, struct arena *a, int64_t *bytes)
{
    const int64_t n_ranks = s->comm->n_ranks, list = n_ranks * (int64_t)sizeof(int64_t);
    int64_t others = 0;
    struct lane sink;

    for (int r = 0; r < s->comm->n_ranks; r++)
        if (r != s->comm->rank) others += s->n_blocks[r];
    TRY(piece(a, bytes, s->n_levels * (int64_t)sizeof *s->level, &s->level));
    for (int i = 0; i < s->n_levels; i++) {
        float *unused;

        TRY(piece(a, bytes, s->n * (int64_t)sizeof(float), a ? (void *)&s->level[i] : &unused));
    }
    if (n_ranks == 1) return OK;
    for (int i = 0; i < s->n_lanes; i++) {
        struct lane *l = a ? &s->lane[i] : &sink;
        const int64_t n = s->n_exchanges;

        TRY(piece(a, bytes, n * (int64_t)sizeof *l->request, &l->request));
        TRY(piece(a, bytes, n * (int64_t)sizeof *l->table, &l->table));
        TRY(piece(a, bytes, others * slice_most(s) * (int64_t)sizeof(float), &l->received));
        for (int64_t k = 0; k < n; k++) {
            struct table ignored, *t = a ? &l->table[k] : &ignored;

            TRY(piece(a, bytes, list, &t->send_bytes));
            TRY(piece(a, bytes, list, &t->send_offset));
            TRY(piece(a, bytes, list, &t->receive_bytes));
            TRY(piece(a, bytes, list, &t->receive_offset));
        }
    }
    return OK;
}

static void reset(struct grad_sync *s)
{
    s->n_begun = 0;
    s->depth = 0;
    s->n_merges = 0;
    s->next_bucket = s->n_buckets - 1;
    s->n_done = 0;
}

static enum status fill(struct grad_sync *s, const struct grad_sync_options *o)
{
    const int n_ranks = s->comm->n_ranks;
    struct plan_range block[PLAN_BLOCKS_MAX];
    int64_t bytes = 0;

    s->n = o->n;
    s->n_slots = o->n_slots;
    s->n_buckets = o->n_buckets;
    s->bucket_end = malloc((size_t)o->n_buckets * sizeof *s->bucket_end);
    s->n_ready = calloc((size_t)o->n_buckets, sizeof *s->n_ready);
    s->n_blocks = calloc((size_t)n_ranks, sizeof *s->n_blocks);
    if (!s->bucket_end || !s->n_ready || !s->n_blocks)
        FAIL(E_MEMORY, "gradients: %d buckets", o->n_buckets);
    memcpy(s->bucket_end, o->bucket_end, (size_t)o->n_buckets * sizeof *s->bucket_end);
    s->slots = plan_part(o->n_slots, n_ranks, s->comm->rank);
    s->n_levels = plan_levels(s->slots); /* the lowest one also holds the total */
    for (int r = 0; r < n_ranks; r++) {
        s->n_blocks[r] = plan_blocks(plan_part(o->n_slots, n_ranks, r), block);
        if (s->n_blocks[r] > s->n_exchanges) s->n_exchanges = s->n_blocks[r];
    }
    s->n_lanes = COMM_IN_FLIGHT / s->n_exchanges;
    if (s->n_lanes > LANES) s->n_lanes = LANES;
    if (s->n_lanes > s->n_buckets) s->n_lanes = s->n_buckets;
    reset(s);
    TRY(lay_out(s, NULL, &bytes));
    TRY(arena_create(&s->arena, bytes));
    return lay_out(s, &s->arena, &bytes);
}

enum status grad_sync_create(struct grad_sync **s, struct comm *c,
                             const struct grad_sync_options *o)
{
    struct grad_sync *made;
    enum status st;

    TRY(check_options(c, o));
    made = calloc(1, sizeof *made);
    if (!made) FAIL(E_MEMORY, "%zu bytes for the gradient sums", sizeof *made);
    made->comm = c;
    st = fill(made, o);
    if (st != OK) {
        grad_sync_destroy(made);
        return st;
    }
    *s = made;
    return OK;
}

void grad_sync_destroy(struct grad_sync *s)
{
    if (!s) return;
    arena_destroy(&s->arena);
    free(s->n_blocks);
    free(s->n_ready);
    free(s->bucket_end);
    free(s);
}

/* ---- the two exchanges of a bucket ----------------------------------------------------------- */

static struct plan_range own_slice(const struct grad_sync *s, int bucket)
{
    return plan_part(bucket_size(s, bucket), s->comm->n_ranks, s->comm->rank);
}

/* Level k of every rank's stack: slices to their owners. */
static enum status start_level(struct grad_sync *s, struct lane *l, int k)
{
    const struct table *t = &l->table[k];
    const int64_t first = bucket_begin(s, l->bucket), size = bucket_size(s, l->bucket);
    const struct plan_range own = own_slice(s, l->bucket);
    const int64_t own_bytes = (own.end - own.begin) * (int64_t)sizeof(float);
    const int me = s->comm->rank;
    int64_t before = 0; /* blocks of lower ranks, this one's not counted */

    for (int r = 0; r < s->comm->n_ranks; r++) {
        const struct plan_range slice = plan_part(size, s->comm->n_ranks, r);
        const int64_t bytes = (slice.end - slice.begin) * (int64_t)sizeof(float);

        t->send_bytes[r] = r != me && k < s->n_blocks[me] ? bytes : 0;
        t->send_offset[r] = (first + slice.begin) * (int64_t)sizeof(float);
        t->receive_bytes[r] = r != me && k < s->n_blocks[r] ? own_bytes : 0;
        t->receive_offset[r] = (before + k) * own_bytes;
        if (r != me) before += s->n_blocks[r];
    }
    return s->comm->ops->exchange_start(
        s->comm, &l->request[k], CHANNEL_BLOCKS, s->level[k < s->n_levels ? k : 0], t->send_bytes,
        t->send_offset, l->received, t->receive_bytes, t->receive_offset);
}

/* plan_push for whole blocks, with their sums: those of other ranks come in sizes of their own. */
static void push(struct partial *stack, int *depth, struct partial top, int64_t n)
{
    ASSERT(*depth < PLAN_BLOCKS_MAX);
    stack[(*depth)++] = top;
    while (*depth > 1 && plan_siblings(stack[*depth - 2].range, stack[*depth - 1].range)) {
        add(stack[*depth - 2].sum, stack[*depth - 1].sum, n);
        stack[*depth - 2].range.end = stack[*depth - 1].range.end;
        (*depth)--;
    }
}

/* Finishes the tree for this rank's slice of the lane's bucket; the result goes to its place in level 0. */
static void finish_slice(struct grad_sync *s, const struct lane *l)
{
    const struct plan_range own = own_slice(s, l->bucket);
    const int64_t n = own.end - own.begin, at = bucket_begin(s, l->bucket) + own.begin;
    struct partial stack[PLAN_BLOCKS_MAX];
    struct plan_range block[PLAN_BLOCKS_MAX];
    float *received = l->received;
    int depth = 0;

    for (int r = 0; r < s->comm->n_ranks; r++) {
        const int n_blocks = plan_blocks(plan_part(s->n_slots, s->comm->n_ranks, r), block);

        for (int k = 0; k < n_blocks; k++) {
            struct partial top = { .range = block[k], .sum = s->level[0] + at };

            if (r == s->comm->rank) {
                top.sum = s->level[k] + at;
            } else {
                top.sum = received;
                received += n;
            }
            push(stack, &depth, top, n);
        }
    }
    ASSERT(depth > 0);
    for (int i = 1; i < depth; i++) add(stack[0].sum, stack[i].sum, n);
    if (stack[0].sum != s->level[0] + at)
        memcpy(s->level[0] + at, stack[0].sum, (size_t)n * sizeof(float));
}

static enum status start_total(struct grad_sync *s, struct lane *l)
{
    const struct table *t = &l->table[0];
    const int64_t first = bucket_begin(s, l->bucket), size = bucket_size(s, l->bucket);
    const struct plan_range own = own_slice(s, l->bucket);

    for (int r = 0; r < s->comm->n_ranks; r++) {
        const struct plan_range slice = plan_part(size, s->comm->n_ranks, r);
        const bool other = r != s->comm->rank;

        t->send_bytes[r] = other ? (own.end - own.begin) * (int64_t)sizeof(float) : 0;
        t->send_offset[r] = (first + own.begin) * (int64_t)sizeof(float);
        t->receive_bytes[r] = other ? (slice.end - slice.begin) * (int64_t)sizeof(float) : 0;
        t->receive_offset[r] = (first + slice.begin) * (int64_t)sizeof(float);
    }
    l->phase = PHASE_TOTAL;
    return s->comm->ops->exchange_start(s->comm, &l->request[0], CHANNEL_TOTAL, s->level[0],
                                        t->send_bytes, t->send_offset, s->level[0],
                                        t->receive_bytes, t->receive_offset);
}

/* ---- moving along ---------------------------------------------------------------------------- */

static struct lane *lane_at(struct grad_sync *s, int64_t i)
{
    return &s->lane[i % s->n_lanes];
}

/* Is bucket b of the rank's whole step complete? */
static bool bucket_complete(const struct grad_sync *s, int b)
{
    const int64_t n_own = s->slots.end - s->slots.begin;

    return n_own == 0 || (s->n_begun == n_own && s->n_ready[b] == bucket_size(s, b));
}

static enum status start_buckets(struct grad_sync *s, bool *moved)
{
    while (s->next_bucket >= 0 && s->tail - s->head < s->n_lanes &&
           bucket_complete(s, s->next_bucket)) {
        struct lane *l = lane_at(s, s->tail);

        l->bucket = s->next_bucket;
        l->phase = PHASE_BLOCKS;
        for (int k = 0; k < s->n_exchanges; k++) TRY(start_level(s, l, k));
        s->next_bucket--;
        s->tail++;
        *moved = true;
    }
    return OK;
}

static enum status test_all(struct grad_sync *s, struct lane *l, bool *done)
{
    const int n = l->phase == PHASE_BLOCKS ? s->n_exchanges : 1;

    *done = true;
    for (int k = 0; k < n && *done; k++) TRY(s->comm->ops->test(s->comm, &l->request[k], done));
    return OK;
}

/* Local. Whatever can be done without waiting. The first lane still exchanging blocks may go on to its total; those behind
 * it wait, for the order of totals is fixed too. Testing one request moves all messages of the rank. */
static enum status progress(struct grad_sync *s, bool *moved)
{
    bool done = false;

    if (s->comm->n_ranks == 1) return OK;
    for (int64_t i = s->head; i < s->tail; i++) {
        struct lane *l = lane_at(s, i);

        if (l->phase == PHASE_TOTAL && i > s->head) continue;
        TRY(test_all(s, l, &done));
        if (l->phase == PHASE_BLOCKS) {
            if (!done) break;
            finish_slice(s, l);
            TRY(start_total(s, l));
            *moved = true;
        } else if (done) {
            s->head++;
            *moved = true;
        }
    }
    return start_buckets(s, moved);
}

/* ---- a step ---------------------------------------------------------------------------------- */

enum status grad_sync_slot_begin(struct grad_sync *s, float **grad)
{
    const int64_t slot = s->slots.begin + s->n_begun;

    if (s->n_begun > 0 && s->n_done < s->n_buckets)
        FAIL(E_SHAPE,
             "gradients: slot %lld begins while %d of %d buckets of the one before are open",
             (long long)slot, s->n_buckets - s->n_done, s->n_buckets);
    if (slot >= s->slots.end)
        FAIL(E_SHAPE, "gradients: this rank has %lld slots, one more begins",
             (long long)(s->slots.end - s->slots.begin));
    s->n_begun++;
    s->n_done = 0;
    memset(s->n_ready, 0, (size_t)s->n_buckets * sizeof *s->n_ready);

    s->top = s->depth;
    s->n_merges = plan_push(s->stack, &s->depth, slot);
    *grad = s->level[s->top];
    zero(*grad, s->n);
    return OK;
}

/* The merges of the current slot for one bucket; with one rank, also the rest of the tree. */
static void merge_bucket(struct grad_sync *s, int b)
{
    const int64_t first = bucket_begin(s, b), n = bucket_size(s, b);
    int top = s->top;

    for (int i = 0; i < s->n_merges; i++, top--)
        add(s->level[top - 1] + first, s->level[top] + first, n);
    if (s->comm->n_ranks > 1 || s->slots.begin + s->n_begun < s->slots.end) return;
    for (int i = 1; i <= top; i++) add(s->level[0] + first, s->level[i] + first, n);
}

/* The bucket that holds element i. */
static int bucket_of(const struct grad_sync *s, int64_t i)
{
    int low = 0, high = s->n_buckets - 1;

    while (low < high) {
        const int middle = low + (high - low) / 2;

        if (i < s->bucket_end[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

enum status grad_sync_ready(struct grad_sync *s, int64_t begin, int64_t end)
{
    bool moved = false;

    if (begin < 0 || end > s->n || begin > end || s->n_begun == 0)
        FAIL(E_SHAPE, "gradients: elements [%lld,%lld) of %lld ready in slot %lld",
             (long long)begin, (long long)end, (long long)s->n, (long long)(s->n_begun - 1));
    for (int b = bucket_of(s, begin); begin < end; b++) {
        const int64_t to = end < s->bucket_end[b] ? end : s->bucket_end[b];

        s->n_ready[b] += to - begin;
        if (s->n_ready[b] > bucket_size(s, b))
            FAIL(E_SHAPE, "gradients: elements [%lld,%lld) ready twice in a slot", (long long)begin,
                 (long long)to);
        if (s->n_ready[b] == bucket_size(s, b)) {
            merge_bucket(s, b);
            s->n_done++;
        }
        begin = to;
    }
    return progress(s, &moved);
}

enum status grad_sync_wait(struct grad_sync *s, float **total, double *exposed_seconds)
{
    const struct wait whole = wait_begin();
    const int64_t n_own = s->slots.end - s->slots.begin;
    struct wait w = whole;

    if (s->n_begun != n_own || (n_own > 0 && s->n_done < s->n_buckets))
        FAIL(E_SHAPE, "gradients: waited for after %lld of %lld slots, %d of %d buckets",
             (long long)s->n_begun, (long long)n_own, s->n_done, s->n_buckets);
    while (s->comm->n_ranks > 1 && (s->next_bucket >= 0 || s->head < s->tail)) {
        bool moved = false;

        TRY(progress(s, &moved));
        if (moved) {
            w = wait_begin();
        } else if (!wait_more(&w, s->comm->timeout_ms)) {
            const struct lane *l = lane_at(s, s->head);
            char what[64];

            snprintf(what, sizeof what, "gradient bucket %d (%s)", l->bucket,
                     l->phase == PHASE_BLOCKS ? "partial sums" : "the total");
            return comm_timed_out(s->comm, what, wait_seconds(&w));
        }
    }
    *exposed_seconds = wait_seconds(&whole);
    *total = s->level[0];
    reset(s);
    return OK;
}

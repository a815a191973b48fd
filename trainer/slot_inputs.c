/* Which set a slot has, and when it is free, by the order of queues alone:
 *
 *   first of a step     the sets 0 and 1 by turns, so its last reader is the step two before. Step N begins with join, after
 *                       its own first load: the side comes after all that had joined the queue, steps up to N−1. The first
 *                       load of step N+1 joins the side behind that, so its set's reader, N−1, is over; it does not wait for
 *                       step N. That holds without the host having waited for anything, and for a step that is prepared
 *                       again without a launch between: its load joins the side behind the one that it replaces.
 *   slot i ≥ 1          the sets 2 and 3 by turns. In front of the compute of each slot but the last the side comes after the
 *                       queue; so the load of slot i+1, queued behind the compute of slot i, waits for all up to slot i−1,
 *                       the last reader of its set, and runs beside slot i. The first to use a set in a step waits for all
 *                       in front of the step's first compute, and so for the step before.
 *
 * A recording begins to hold the side with the first such wait, and the last slot's load is followed by the queue's wait, not by
 * another of the side: it ends joined. Loads on the side follow one another, but a load ahead of a step may run beside those
 * of the graph before it: what they write, scratch included, is each set's own. */
#include "trainer/slot_inputs.h"

#include <stdlib.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"

enum { RUNS_ROOM = 1 << 18 }; /* first room for a slot's runs: 64 masks of 4096 */

/* ---- memory --------------------------------------------------------------------------------- */
static void take(struct slot_set *s, struct tensor *t, struct tensor shape)
{
    *t = shape;
    t->data = s->memory ? (char *)s->memory + s->memory_bytes : NULL;
    s->memory_bytes += arena_round(tensor_bytes(shape));
}

/* Masks of all chunks. */
static int64_t n_masks(const struct slot_inputs *in)
{
    return (in->o.config->train_masks + in->o.M - 1) / in->o.M * in->o.M;
}

static void carve(const struct slot_inputs *in, struct slot_set *s)
{
    const int64_t S = in->o.config->model_image_size, M = in->o.M, R = in->o.R, n = n_masks(in);

    s->memory_bytes = 0;
    take(s, &s->pixels_u8, tensor_4d(NULL, U8, 1, S, S, 3));
    take(s, &s->pixels, tensor_4d(NULL, F32, 1, S, S, 3));
    take(s, &s->rows_cols, tensor_2d(NULL, I32, 1, 2));
    take(s, &s->size, tensor_1d(NULL, F32, 2));
    take(s, &s->valid, tensor_2d(NULL, I32, M, 2));
    take(s, &s->truth, tensor_3d(NULL, U8, n, R, R));
    take(s, &s->box, tensor_2d(NULL, F32, n, 4));
    take(s, &s->weight, tensor_1d(NULL, F32, n));
    take(s, &s->first, tensor_1d(NULL, I64, n + 1));
}

static struct tensor rows(struct tensor t, int64_t from, int64_t n)
{
    t.data = (char *)t.data + from * (tensor_bytes(t) / t.dim[0]);
    t.dim[0] = n;
    return t;
}

struct slot_chunk slot_inputs_chunk(const struct slot_inputs *in, const struct slot_set *set,
                                    int64_t chunk)
{
    const int64_t M = in->o.M, m = chunk * M;

    ASSERT(m + M <= set->weight.dim[0]);
    return (struct slot_chunk){ .truth = rows(set->truth, m, M),
                                .box = rows(set->box, m, M),
                                .weight = rows(set->weight, m, M),
                                .first = rows(set->first, m, M + 1) };
}

static enum status rasterize(const struct slot_inputs *in, const struct slot_set *s,
                             const struct loader_slot *slot, int64_t chunk, struct stream *stream)
{
    const struct slot_chunk c = slot_inputs_chunk(in, s, chunk);
    int32_t geometry[5] = { slot->height, slot->width, slot->new_height, slot->new_width,
                            (int32_t)in->o.config->model_image_size };

    return in->o.ops->rasterize(c.truth, s->runs, c.first, tensor_1d(geometry, I32, 5), stream);
}

/* What rasterizing needs depends on the image and on the room for runs; it grows. */
static enum status reserve_scratch(const struct slot_inputs *in, struct slot_set *s,
                                   const struct loader_slot *slot)
{
    struct stream dry = { .planning = true };

    TRY(rasterize(in, s, slot, 0, &dry));
    TRY(in->o.ops->image_normalize(s->pixels, s->pixels_u8, s->rows_cols, &dry));
    if (dry.scratch_need <= s->stream.scratch_bytes) return OK;
    in->o.ops->free(s->stream.scratch);
    s->stream.scratch = NULL;
    s->stream.scratch_bytes = dry.scratch_need;
    return in->o.ops->alloc(&s->stream.scratch, dry.scratch_need);
}

static enum status reserve_runs(const struct slot_inputs *in, struct slot_set *s, int64_t n)
{
    if (n <= s->runs.dim[0]) return OK;
    in->o.ops->free(s->runs.data);
    s->runs = tensor_1d(NULL, I32, n);
    return in->o.ops->alloc(&s->runs.data, tensor_bytes(s->runs));
}

static enum status create_set(const struct slot_inputs *in, struct slot_set *s)
{
    const int32_t S = (int32_t)in->o.config->model_image_size;
    const struct loader_slot whole = { .height = S, .width = S, .new_height = S, .new_width = S };

    carve(in, s); /* measures */
    TRY(in->o.ops->alloc(&s->memory, s->memory_bytes));
    carve(in, s);
    s->stream.queue = in->beside ? in->o.ops->side() : in->o.queue->queue;
    TRY(reserve_runs(in, s, RUNS_ROOM));
    return reserve_scratch(in, s, &whole);
}

enum status slot_inputs_create(struct slot_inputs *in, const struct slot_inputs_options *o)
{
    const int later = o->n_slots > 3 ? 2 : (int)(o->n_slots > 1 ? o->n_slots - 1 : 0);

    *in = (struct slot_inputs){ .o = *o, .beside = o->beside && o->ops->side };
    in->n_sets = in->beside ? 2 + later : 1;
    in->host_valid = calloc((size_t)o->M, 2 * sizeof *in->host_valid);
    in->host_weight = calloc((size_t)n_masks(in), sizeof *in->host_weight);
    in->host_first = calloc((size_t)n_masks(in) + 1, sizeof *in->host_first);
    if (!in->host_valid || !in->host_weight || !in->host_first)
        FAIL(E_MEMORY, "lists of %lld masks", (long long)n_masks(in));
    for (int i = 0; i < in->n_sets; i++) TRY(create_set(in, in->set + i));
    return OK;
}

void slot_inputs_destroy(struct slot_inputs *in)
{
    for (int i = 0; i < in->n_sets; i++) {
        in->o.ops->free(in->set[i].memory);
        in->o.ops->free(in->set[i].runs.data);
        in->o.ops->free(in->set[i].stream.scratch);
    }
    free(in->host_valid);
    free(in->host_weight);
    free(in->host_first);
    *in = (struct slot_inputs){ 0 };
}

/* ---- loading -------------------------------------------------------------------------------- */
static struct slot_set *set_of(struct slot_inputs *in, int64_t i)
{
    if (!in->beside) return in->set;
    return in->set + (i == 0 ? in->turn : 2 + (i - 1) % 2);
}

enum status slot_inputs_reserve(struct slot_inputs *in, int64_t i, const struct loader_slot *slot)
{
    struct slot_set *s = set_of(in, i);

    if (slot->n_runs > s->runs.dim[0]) TRY(reserve_runs(in, s, 2 * slot->n_runs));
    return reserve_scratch(in, s, slot);
}

static enum status put(const struct slot_inputs *in, struct slot_set *s, struct tensor t,
                       const void *host)
{
    return in->o.ops->put(t.data, host, tensor_bytes(t), &s->stream);
}

static enum status put_masks(struct slot_inputs *in, struct slot_set *s,
                             const struct loader_slot *slot)
{
    const int64_t S = in->o.config->model_image_size, R = in->o.R, n = n_masks(in);
    const struct ops *ops = in->o.ops;

    for (int64_t m = 0; m < in->o.M; m++) {
        in->host_valid[2 * m] = (int32_t)((slot->new_height * R + S - 1) / S);
        in->host_valid[2 * m + 1] = (int32_t)((slot->new_width * R + S - 1) / S);
    }
    for (int64_t m = 0; m < n; m++) in->host_weight[m] = m < slot->n_masks ? 1 : 0;
    for (int64_t m = 0; m <= n; m++)
        in->host_first[m] = slot->first[m < slot->n_masks ? m : slot->n_masks];
    TRY(put(in, s, s->valid, in->host_valid));
    TRY(put(in, s, s->weight, in->host_weight));
    TRY(put(in, s, s->first, in->host_first));
    TRY(ops->zero(s->box.data, tensor_bytes(s->box), &s->stream));
    TRY(ops->put(s->box.data, slot->box, slot->n_masks * 16, &s->stream));
    return ops->put(s->runs.data, slot->runs, slot->n_runs * 4, &s->stream);
}

static enum status load(struct slot_inputs *in, int64_t i, const struct loader_slot *slot)
{
    const int32_t rows_cols[2] = { slot->new_height, slot->new_width };
    const float size[2] = { (float)slot->new_width, (float)slot->new_height };
    struct slot_set *s = set_of(in, i);

    TRY(slot_inputs_reserve(in, i, slot));
    TRY(put(in, s, s->pixels_u8, slot->pixels));
    TRY(put(in, s, s->rows_cols, rows_cols));
    TRY(put(in, s, s->size, size));
    TRY(put_masks(in, s, slot));
    TRY(in->o.ops->image_normalize(s->pixels, s->pixels_u8, s->rows_cols, &s->stream));
    for (int64_t c = 0; c * in->o.M < slot->n_masks; c++)
        TRY(rasterize(in, s, slot, c, &s->stream));
    return OK;
}

enum status slot_inputs_ahead(struct slot_inputs *in, const struct loader_slot *slot)
{
    if (!in->beside) return OK;
    in->ahead = true;
    return load(in, 0, slot);
}

enum status slot_inputs_join(struct slot_inputs *in)
{
    struct stream *side = &in->set[0].stream, *queue = in->o.queue;

    if (!in->beside) return OK;
    TRY(in->o.ops->after(queue, side));
    return in->o.ops->after(side, queue);
}

void slot_inputs_begin(struct slot_inputs *in)
{
    in->n_loaded = 0;
}

enum status slot_inputs_next(struct slot_inputs *in, const struct loader_slot *slot,
                             const struct slot_set **set)
{
    const int64_t i = in->n_loaded++;
    const bool more = in->n_loaded < in->o.n_slots, there = i == 0 && in->ahead;
    struct stream *side = &in->set[0].stream, *queue = in->o.queue;

    *set = set_of(in, i);
    if (!there) TRY(load(in, i, slot));
    if (!in->beside) return OK;
    if (i == 0 && !there) return slot_inputs_join(in);
    if (!there) TRY(in->o.ops->after(queue, side));
    return more ? in->o.ops->after(side, queue) : OK;
}

void slot_inputs_launched(struct slot_inputs *in)
{
    in->turn = !in->turn;
    in->ahead = false;
}

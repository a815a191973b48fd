#include "trainer/learner.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "trainer/schedule.h"
#include "trainer/staging.h"

/* whole: steps are launched as a whole. */
static enum status create_model(struct learner *l, const struct ops *ops, bool whole)
{
    const struct config *c = l->config;
    const int64_t chunk = c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;
    const int64_t points = config_points(c), slots = whole ? c->train_batch : 1;
    const struct params *p;
    int64_t scratch;

    TRY(objective_scratch(c, ops, slots, chunk, points, &scratch));
    TRY(sam_create(&l->sam, c, ops, chunk, points, scratch, true));
    TRY(objective_create(&l->objective, l->sam, slots));
    p = &l->sam->params;
    l->encoder_end =
        p->at[params_find(p, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")].offset;
    return OK;
}

static enum status create_state(struct learner *l, const struct ops *ops, bool whole)
{
    const int64_t n = l->sam->params.n_floats;
    const int64_t step = arena_round(n * (int64_t)sizeof(float)) / (int64_t)sizeof(float);
    const int n_grads = ops->host_memory ? 0 : whole ? plan_levels(l->slots) : 1;
    float *arrays[LEARNER_ARRAYS], *room;

    TRY(ops->alloc(&l->state, ARENA_ALIGN + (2 + n_grads) * step * (int64_t)sizeof(float)));
    l->squares = tensor_1d(l->state, F64, 2);
    l->m = (float *)((char *)l->state + ARENA_ALIGN);
    l->v = l->m + step;
    if (n_grads > 0) l->grads = l->v + step;
    l->level_floats = step;
    TRY(staging_room(ops, LEARNER_ARRAYS * n * (int64_t)sizeof(float), &l->host_room));
    room = l->host_room;
    arrays[0] = l->sam->weights;
    arrays[1] = l->m;
    arrays[2] = l->v;
    for (int i = 0; i < LEARNER_ARRAYS; i++) l->host[i] = room ? room + i * n : arrays[i];
    return OK;
}

static enum status create_segments(struct learner *l)
{
    const struct params *p = &l->sam->params;

    l->segment = calloc((size_t)p->n, sizeof *l->segment);
    if (!l->segment) FAIL(E_MEMORY, "the optimizer's groups");
    for (int i = 0; i < p->n; i++) {
        const struct param *q = p->at + i;

        l->segment[i] = (struct adamw_segment){
            .end = i + 1 < p->n ? p->at[i + 1].offset : p->n_floats,
            .lr_scale = (float)schedule_layer_factor(l->config, q->layer),
            .decay = q->decay ? (float)l->config->optim_weight_decay : 0,
            .frozen = q->buffer,
        };
    }
    return OK;
}

static enum status create_sync(struct learner *l, struct comm *c)
{
    const int64_t n = l->sam->params.n_floats;
    const int64_t each = l->config->run_bucket_bytes / (int64_t)sizeof(float);
    const int64_t n_buckets = (n + each - 1) / each;
    int64_t *end = calloc((size_t)n_buckets, sizeof *end);
    const struct grad_sync_options o = {
        .n = n, .bucket_end = end, .n_buckets = (int)n_buckets, .n_slots = l->config->train_batch
    };
    enum status s;

    if (!end) FAIL(E_MEMORY, "%lld buckets", (long long)n_buckets);
    for (int64_t i = 0; i < n_buckets; i++) end[i] = i + 1 < n_buckets ? (i + 1) * each : n;
    s = grad_sync_create(&l->sync, c, &o);
    free(end);
    TRY(s);
    l->slots = grad_sync_slots(l->sync);
    return OK;
}

/* Steps are launched as a whole: one rank has all slots, on a device. */
static bool is_whole(const struct ops *ops, int n_ranks)
{
    return !ops->host_memory && n_ranks == 1;
}

/* A step of one rank is small enough to be recorded. rounds: of all chunks of all its images. */
static bool fits_graph(const struct config *c, int64_t *rounds)
{
    const int64_t chunks = (c->train_masks + c->train_chunk - 1) / c->train_chunk;
    const int64_t pixels = 3 * c->model_image_size * c->model_image_size;

    *rounds = c->train_batch * chunks * c->train_rounds;
    return c->train_batch <= LEARNER_GRAPH_IMAGES && *rounds <= LEARNER_GRAPH_ROUNDS &&
           c->train_batch * pixels <= LEARNER_GRAPH_PIXELS;
}

enum status learner_check(const struct config *c, const struct ops *ops, int n_ranks)
{
    int64_t rounds;

    if (c->run_graph != SWITCH_ON) return OK;
    if (!ops->record_begin)
        FAIL(E_CONFIG,
             "run.graph=on: device %s has no graphs; run.graph=auto uses one where it can",
             ops->name);
    if (!fits_graph(c, &rounds) || !is_whole(ops, n_ranks))
        FAIL(E_CONFIG,
             "run.graph=on: device %s records steps of one rank, of up to %d images with %d rounds "
             "of all their chunks and %d MiB of pixels (ranks here: %d, images: %lld, rounds: "
             "%lld): start one rank, lower train.batch or raise train.chunk, or say "
             "run.graph=auto, which uses a graph where it can",
             ops->name, LEARNER_GRAPH_IMAGES, LEARNER_GRAPH_ROUNDS, LEARNER_GRAPH_PIXELS >> 20,
             n_ranks, (long long)c->train_batch, (long long)rounds);
    return OK;
}

static bool can_record(const struct learner *l)
{
    int64_t rounds;

    return !l->sync && l->sam->ops->record_begin && fits_graph(l->config, &rounds);
}

void learner_use_graph(struct learner *l, bool on)
{
    ASSERT(!l->slot);
    l->graph = on && can_record(l) && l->config->run_graph != SWITCH_OFF;
}

enum status learner_create(struct learner *l, const struct config *config, const struct ops *ops,
                           struct comm *c)
{
    const bool whole = is_whole(ops, c->n_ranks);

    *l = (struct learner){ .config = config, .slots = { 0, config->train_batch } };
    TRY(learner_check(config, ops, c->n_ranks));
    TRY(create_model(l, ops, whole));
    TRY(create_state(l, ops, whole));
    TRY(create_segments(l));
    if (!whole) TRY(create_sync(l, c));
    learner_use_graph(l, true);
    return OK;
}

void learner_destroy(struct learner *l)
{
    grad_sync_destroy(l->sync);
    objective_destroy(l->objective);
    if (l->state) l->sam->ops->free(l->state);
    sam_destroy(l->sam);
    free(l->host_room);
    free(l->segment);
    *l = (struct learner){ 0 };
}

enum status learner_to_host(struct learner *l, int64_t begin, int64_t end)
{
    const float *const from[LEARNER_ARRAYS] = { l->sam->weights, l->m, l->v };
    struct sam *s = l->sam;

    for (int i = 0; l->host_room && i < LEARNER_ARRAYS; i++)
        TRY(s->ops->get(l->host[i] + begin, from[i] + begin, (end - begin) * 4, &s->stream));
    return OK;
}

enum status learner_from_host(struct learner *l)
{
    float *const to[LEARNER_ARRAYS] = { l->sam->weights, l->m, l->v };
    struct sam *s = l->sam;

    for (int i = 0; l->host_room && i < LEARNER_ARRAYS; i++)
        TRY(s->ops->put(to[i], l->host[i], s->params.n_floats * 4, &s->stream));
    return sam_weights_changed(s);
}

static void decoder_done(void *context)
{
    struct learner *l = context;

    KEEP_FIRST(l->ready, grad_sync_ready(l->sync, l->encoder_end, l->sam->params.n_floats));
}

static void param_ready(void *context, int index)
{
    struct learner *l = context;
    const struct param *p = l->sam->params.at + index;

    KEEP_FIRST(l->ready, grad_sync_ready(l->sync, p[0].offset, p[1].offset));
}

/* The device's gradient of a slot to the host, bucket by bucket as sync exchanges them: the last first. */
static enum status hand_over(struct learner *l, float *grads)
{
    struct sam *s = l->sam;
    const int64_t n = s->params.n_floats, each = l->config->run_bucket_bytes / 4;

    for (int64_t begin = (n - 1) / each * each; begin >= 0; begin -= each) {
        const int64_t end = begin + each < n ? begin + each : n;

        TRY(s->ops->get(grads + begin, l->grads + begin, (end - begin) * 4, &s->stream));
        TRY(grad_sync_ready(l->sync, begin, end));
    }
    return OK;
}

static enum status slot_on_device(struct learner *l, const struct loader_slot *slot, float *grads)
{
    struct sam *s = l->sam;
    double since = clock_seconds();

    TRY(s->ops->zero(grads, s->params.n_floats * 4, &s->stream));
    TRY(objective_lap(l->objective, &since, &l->sum_seconds));
    return objective_slot(l->objective, slot, grads, NULL, NULL, NULL);
}

enum status learner_slot(struct learner *l, const struct loader_slot *slot)
{
    float *grads;

    TRY(objective_begin(l->objective));
    if (l->grads) { /* the device works while the host's buffer is zeroed */
        TRY(slot_on_device(l, slot, l->grads));
        objective_launched(l->objective);
        TRY(grad_sync_slot_begin(l->sync, &grads));
        return hand_over(l, grads);
    }
    TRY(grad_sync_slot_begin(l->sync, &grads));
    TRY(objective_slot(l->objective, slot, grads, decoder_done, param_ready, l));
    objective_launched(l->objective);
    return l->ready;
}

enum status learner_losses(struct learner *l, struct objective_losses *losses)
{
    return objective_losses(l->objective, losses);
}

static struct tensor square(const struct learner *l, int i)
{
    return tensor_1d((double *)l->squares.data + i, F64, 1);
}

/* Of total, on the device. */
static enum status queue_norm(struct learner *l)
{
    struct sam *s = l->sam;

    return s->ops->grad_norm(square(l, 0), tensor_1d(l->total, F32, s->params.n_floats),
                             &s->stream);
}

enum status learner_sum(struct learner *l, double *exposed_seconds)
{
    struct sam *s = l->sam;

    TRY(grad_sync_wait(l->sync, &l->total, exposed_seconds));
    if (l->grads) {
        TRY(s->ops->put(l->grads, l->total, s->params.n_floats * 4, &s->stream));
        l->total = l->grads;
    }
    return queue_norm(l);
}

enum status learner_norm(struct learner *l, double *norm)
{
    double squares[2] = { 0 };

    TRY(l->sam->ops->get(squares, l->squares.data, l->sync ? 8 : 16, &l->sam->stream));
    *norm = isfinite(squares[1]) ? sqrt(squares[0]) : squares[1];
    return OK;
}

enum status learner_update(struct learner *l, double masks, int64_t step, int64_t t)
{
    struct sam *s = l->sam;
    const int64_t n = s->params.n_floats;
    const struct adamw_options o = { .lr = (float)schedule_lr(l->config, step),
                                     .beta1 = (float)l->config->optim_beta1,
                                     .beta2 = (float)l->config->optim_beta2,
                                     .eps = (float)l->config->optim_eps,
                                     .grad_scale = (float)(1 / masks),
                                     .step = t,
                                     .clip = (float)l->config->optim_clip };
    struct tensor decide = l->squares;
    const struct tensor w16 = s->weights16 ? tensor_1d(s->weights16, BF16, n) : tensor_none();

    if (l->sync) decide.dim[0] = 1;
    return s->ops->adamw(tensor_1d(s->weights, F32, n), tensor_1d(l->m, F32, n),
                         tensor_1d(l->v, F32, n), w16, tensor_1d(l->total, F32, n), decide,
                         l->segment, s->params.n, &o, &s->stream);
}

/* ---- a step as a whole ---------------------------------------------------------------------- */
static float *level(const struct learner *l, int i)
{
    return l->grads + i * l->level_floats;
}

static enum status merge(struct learner *l, int below, int top)
{
    struct sam *s = l->sam;

    return s->ops->accumulate(level(l, below), level(l, top), s->params.n_floats, &s->stream);
}

static enum status queue_begin(struct learner *l)
{
    ASSERT(!l->sync);
    l->depth = 0;
    l->masks = 0;
    return objective_begin(l->objective);
}

/* Its gradient, and the sums that it completes: in the order of grad_sync. */
static enum status queue_slot(struct learner *l, const struct loader_slot *slot)
{
    int top = l->depth;
    double since;

    l->step = slot->step;
    l->masks += slot->n_masks;
    TRY(slot_on_device(l, slot, level(l, top)));
    since = clock_seconds();
    for (int merges = plan_push(l->stack, &l->depth, slot->slot); merges > 0; merges--, top--)
        TRY(merge(l, top - 1, top));
    return objective_lap(l->objective, &since, &l->sum_seconds);
}

static enum status queue_end(struct learner *l, int64_t t)
{
    double since = clock_seconds();

    for (int i = 1; i < l->depth; i++) TRY(merge(l, 0, i));
    l->total = level(l, 0);
    TRY(objective_lap(l->objective, &since, &l->sum_seconds));
    TRY(objective_squares(l->objective, square(l, 1)));
    TRY(queue_norm(l));
    if (l->masks == 0) return OK; /* nothing to learn from */
    return learner_update(l, (double)l->masks, l->step, t);
}

enum status learner_begin(struct learner *l)
{
    ASSERT(!l->graph);
    return queue_begin(l);
}

enum status learner_add(struct learner *l, const struct loader_slot *slot)
{
    return queue_slot(l, slot);
}

enum status learner_end(struct learner *l, int64_t t)
{
    TRY(queue_end(l, t));
    objective_launched(l->objective);
    return OK;
}

static enum status queue_prepared(struct learner *l)
{
    TRY(queue_begin(l));
    for (int64_t i = l->slots.begin; i < l->slots.end; i++) TRY(queue_slot(l, l->slot[i]));
    return queue_end(l, l->update);
}

enum status learner_prepare(struct learner *l, const struct loader_slot *const *slot, int64_t t)
{
    struct sam *s = l->sam;
    enum status queued;

    ASSERT(l->graph);
    l->slot = slot;
    l->update = t;
    for (int64_t i = l->slots.begin; i < l->slots.end; i++)
        TRY(objective_reserve(l->objective, slot[i]));
    TRY(s->ops->record_begin(&s->stream));
    queued = queue_prepared(l);
    KEEP_FIRST(queued, s->ops->record_end(queued == OK, &s->stream));
    return queued;
}

enum status learner_launch(struct learner *l)
{
    ASSERT(l->slot);
    TRY(l->sam->ops->replay(&l->sam->stream));
    l->slot = NULL;
    objective_launched(l->objective);
    return OK;
}

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
    const int64_t points = config_points(c), slots = whole ? l->slots.end - l->slots.begin : 1;
    const struct params *p;
    int64_t scratch;

    TRY(objective_scratch(c, ops, slots, chunk, points, &scratch));
    TRY(sam_create(&l->sam, c, ops, chunk, points, scratch, true));
    TRY(objective_create(&l->objective, l->sam, slots, whole));
    p = &l->sam->params;
    l->encoder_end =
        p->at[params_find(p, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")].offset;
    return OK;
}

static enum status create_state(struct learner *l, const struct ops *ops, bool whole)
{
    const int64_t n = l->sam->params.n_floats;
    const int64_t step = arena_round(n * (int64_t)sizeof(float)) / (int64_t)sizeof(float);
    const int n_arrays = ops->host_memory || whole ? 2 : 3;
    const struct tensor squares = tensor_1d(NULL, F64, 1 + l->comm->n_ranks);
    const int64_t first = arena_round(tensor_bytes(squares));
    float *arrays[LEARNER_ARRAYS], *room;

    l->host_squares = calloc((size_t)squares.dim[0], sizeof *l->host_squares);
    if (!l->host_squares) FAIL(E_MEMORY, "a number of each rank");
    TRY(ops->alloc(&l->state, first + n_arrays * step * (int64_t)sizeof(float)));
    l->squares = squares;
    l->squares.data = l->state;
    l->m = (float *)((char *)l->state + first);
    l->v = l->m + step;
    if (n_arrays > 2) l->grads = l->v + step;
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

static enum status create_sync(struct learner *l)
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
    s = grad_sync_create(&l->sync, l->comm, &o);
    free(end);
    return s;
}

static enum status create_device_sum(struct learner *l)
{
    const struct device_sum_options o = {
        .ops = l->sam->ops,
        .queue = &l->sam->stream,
        .comm = l->comm,
        .n = l->sam->params.n_floats,
        .bucket = l->config->run_bucket_bytes / (int64_t)sizeof(float),
        .n_slots = l->config->train_batch,
    };

    return device_sum_create(&l->device_sum, &o);
}

bool learner_sums_on_devices(const struct config *c, const struct ops *ops, int n_ranks)
{
    if (ops->host_memory) return false;
    return n_ranks == 1 || (ops->exchange && c->run_nccl != SWITCH_OFF && !c->run_share_gpu);
}

/* The same on all ranks: images of the rank that has the most. */
static int64_t most_images(const struct config *c, int n_ranks)
{
    return plan_part(c->train_batch, n_ranks, 0).end;
}

/* A rank's part of a step is small enough to be recorded. rounds: of all chunks of all its images. */
static bool fits_graph(const struct config *c, int n_ranks, int64_t *rounds)
{
    const int64_t chunks = (c->train_masks + c->train_chunk - 1) / c->train_chunk;
    const int64_t pixels = 3 * c->model_image_size * c->model_image_size;
    const int64_t images = most_images(c, n_ranks);

    *rounds = images * chunks * c->train_rounds;
    return images <= LEARNER_GRAPH_IMAGES && *rounds <= LEARNER_GRAPH_ROUNDS &&
           images * pixels <= LEARNER_GRAPH_PIXELS;
}

static enum status check_nccl(const struct config *c, const struct ops *ops)
{
    if (c->run_nccl != SWITCH_ON) return OK;
    if (c->run_share_gpu)
        FAIL(E_CONFIG, "run.nccl=on with run.share_gpu=true: NCCL takes one GPU for each rank; "
                       "run.nccl=auto sums on the hosts where ranks share one");
    if (!ops->exchange)
        FAIL(E_CONFIG,
             "run.nccl=on: device %s exchanges no messages%s; run.nccl=auto sums on the hosts "
             "where it must",
             ops->name, ops->host_memory ? "" : ", for it was built without NCCL");
    return OK;
}

enum status learner_check(const struct config *c, const struct ops *ops, int n_ranks)
{
    int64_t rounds;

    TRY(check_nccl(c, ops));
    if (c->run_graph != SWITCH_ON) return OK;
    if (!ops->record_begin)
        FAIL(E_CONFIG,
             "run.graph=on: device %s has no graphs; run.graph=auto uses one where it can",
             ops->name);
    if (!learner_sums_on_devices(c, ops, n_ranks))
        FAIL(E_CONFIG,
             "run.graph=on: %d ranks sum their gradients on the hosts, which no graph can hold "
             "(run.nccl, run.share_gpu); run.graph=auto uses one where it can",
             n_ranks);
    if (!fits_graph(c, n_ranks, &rounds))
        FAIL(E_CONFIG,
             "run.graph=on: device %s records steps of up to %d images a rank with %d rounds of "
             "all their chunks and %d MiB of pixels (images here: %lld, rounds: %lld): start more "
             "ranks, lower train.batch or raise train.chunk, or say run.graph=auto, which uses a "
             "graph where it can",
             ops->name, LEARNER_GRAPH_IMAGES, LEARNER_GRAPH_ROUNDS, LEARNER_GRAPH_PIXELS >> 20,
             (long long)most_images(c, n_ranks), (long long)rounds);
    return OK;
}

static bool can_record(const struct learner *l)
{
    int64_t rounds;

    return !l->sync && l->sam->ops->record_begin &&
           fits_graph(l->config, l->comm->n_ranks, &rounds);
}

void learner_use_graph(struct learner *l, bool on)
{
    ASSERT(!l->slot);
    l->graph = on && can_record(l) && l->config->run_graph != SWITCH_OFF;
}

enum status learner_create(struct learner *l, const struct config *config, const struct ops *ops,
                           struct comm *c)
{
    const bool whole = learner_sums_on_devices(config, ops, c->n_ranks);

    *l = (struct learner){ .config = config,
                           .comm = c,
                           .slots = plan_part(config->train_batch, c->n_ranks, c->rank) };
    TRY(learner_check(config, ops, c->n_ranks));
    TRY(create_model(l, ops, whole));
    TRY(create_state(l, ops, whole));
    TRY(create_segments(l));
    TRY(whole ? create_device_sum(l) : create_sync(l));
    learner_use_graph(l, true);
    return OK;
}

void learner_destroy(struct learner *l)
{
    grad_sync_destroy(l->sync);
    device_sum_destroy(l->device_sum);
    objective_destroy(l->objective);
    if (l->state) l->sam->ops->free(l->state);
    sam_destroy(l->sam);
    free(l->host_room);
    free(l->host_squares);
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

static void ready(struct learner *l, int64_t begin, int64_t end)
{
    KEEP_FIRST(l->ready, l->sync ? grad_sync_ready(l->sync, begin, end)
                                 : device_sum_ready(l->device_sum, begin, end));
}

static void decoder_done(void *context)
{
    struct learner *l = context;

    ready(l, l->encoder_end, l->sam->params.n_floats);
}

static void param_ready(void *context, int index)
{
    struct learner *l = context;
    const struct param *p = l->sam->params.at + index;

    ready(l, p[0].offset, p[1].offset);
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

enum status learner_slot(struct learner *l, const struct loader_slot *slot)
{
    struct sam *s = l->sam;
    float *grads;

    TRY(objective_begin(l->objective));
    if (l->grads) { /* the device works while the host's buffer is zeroed */
        TRY(s->ops->zero(l->grads, s->params.n_floats * 4, &s->stream));
        TRY(objective_slot(l->objective, slot, l->grads, NULL, NULL, NULL));
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
    const int64_t n = l->sync ? 1 : l->squares.dim[0];
    double *squares = l->host_squares;

    TRY(l->sam->ops->get(squares, l->squares.data, n * 8, &l->sam->stream));
    *norm = sqrt(squares[0]);
    for (int64_t i = 1; i < n; i++)
        if (!isfinite(squares[i])) *norm = squares[i];
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
static enum status queue_begin(struct learner *l)
{
    ASSERT(!l->sync);
    device_sum_begin(l->device_sum);
    return objective_begin(l->objective);
}

/* Its gradient, and the sums that it completes: in the order of grad_sync. */
static enum status queue_slot(struct learner *l, const struct loader_slot *slot)
{
    double since = clock_seconds();
    float *grads;

    l->step = slot->step;
    TRY(device_sum_slot(l->device_sum, &grads));
    TRY(objective_lap(l->objective, &since, &l->sum_seconds));
    TRY(objective_slot(l->objective, slot, grads, decoder_done, param_ready, l));
    TRY(l->ready);
    since = clock_seconds();
    TRY(device_sum_slot_end(l->device_sum));
    return objective_lap(l->objective, &since, &l->sum_seconds);
}

/* What the device decides by is the same on all ranks: the sum, and whether each rank's losses are finite. */
static enum status queue_end(struct learner *l, int64_t t, int64_t masks)
{
    double since = clock_seconds(), *of_rank = (double *)l->squares.data + 1;

    TRY(objective_squares(l->objective, square(l, 1 + l->comm->rank)));
    TRY(device_sum_end(l->device_sum, of_rank, &l->total));
    TRY(objective_lap(l->objective, &since, &l->sum_seconds));
    TRY(queue_norm(l));
    if (masks == 0) return OK; /* nothing to learn from */
    return learner_update(l, (double)masks, l->step, t);
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

enum status learner_end(struct learner *l, int64_t t, int64_t masks)
{
    TRY(queue_end(l, t, masks));
    objective_launched(l->objective);
    return OK;
}

static enum status queue_prepared(struct learner *l)
{
    TRY(queue_begin(l));
    for (int64_t i = 0; i < l->slots.end - l->slots.begin; i++) TRY(queue_slot(l, l->slot[i]));
    return queue_end(l, l->update, l->masks);
}

enum status learner_prepare(struct learner *l, const struct loader_slot *const *slot, int64_t t,
                            int64_t masks)
{
    const int64_t n = l->slots.end - l->slots.begin;
    struct sam *s = l->sam;
    enum status queued;

    ASSERT(l->graph);
    l->slot = slot;
    l->update = t;
    l->masks = masks;
    for (int64_t i = 0; i < n; i++) TRY(objective_reserve(l->objective, i, slot[i]));
    if (n > 0) TRY(objective_ahead(l->objective, slot[0]));
    TRY(s->ops->record_begin(&s->stream));
    queued = queue_prepared(l);
    KEEP_FIRST(queued, s->ops->record_end(queued == OK, &s->stream));
    return queued;
}

enum status learner_launch(struct learner *l)
{
    ASSERT(l->slot);
    TRY(objective_join(l->objective));
    TRY(l->sam->ops->replay(&l->sam->stream));
    l->slot = NULL;
    objective_launched(l->objective);
    return OK;
}

#include "trainer/learner.h"

#include <math.h>
#include <stdlib.h>

#include "trainer/schedule.h"

static enum status create_model(struct learner *l, const struct ops *ops)
{
    const struct config *c = l->config;
    const int64_t chunk = c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;
    const int64_t points = objective_points(c);
    const struct params *p;
    int64_t scratch;

    TRY(objective_scratch(c, ops, chunk, points, &scratch));
    TRY(sam_create(&l->sam, c, ops, chunk, points, scratch, true));
    TRY(objective_create(&l->objective, l->sam));
    p = &l->sam->params;
    l->encoder_end =
        p->at[params_find(p, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")].offset;
    return OK;
}

static enum status create_moments(struct learner *l)
{
    const struct params *p = &l->sam->params;
    const int64_t bytes = p->n_floats * (int64_t)sizeof(float);
    void *m, *v;

    TRY(arena_create(&l->state, 2 * arena_round(bytes)));
    TRY(arena_take(&l->state, bytes, &m));
    TRY(arena_take(&l->state, bytes, &v));
    l->m = m;
    l->v = v;
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

enum status learner_create(struct learner *l, const struct config *config, const struct ops *ops,
                           struct comm *c)
{
    *l = (struct learner){ .config = config };
    TRY(create_model(l, ops));
    TRY(create_moments(l));
    return create_sync(l, c);
}

void learner_destroy(struct learner *l)
{
    grad_sync_destroy(l->sync);
    objective_destroy(l->objective);
    sam_destroy(l->sam);
    arena_destroy(&l->state);
    free(l->segment);
    *l = (struct learner){ 0 };
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

enum status learner_slot(struct learner *l, const struct loader_slot *slot,
                         struct objective_losses *losses)
{
    float *grads;

    TRY(grad_sync_slot_begin(l->sync, &grads));
    TRY(objective_slot(l->objective, slot, grads, decoder_done, param_ready, l, losses));
    return l->ready;
}

enum status learner_sum(struct learner *l, double *norm, double *exposed_seconds)
{
    double squares;

    TRY(grad_sync_wait(l->sync, &l->total, exposed_seconds));
    TRY(l->sam->ops->grad_norm(&squares, tensor_1d(l->total, F32, l->sam->params.n_floats),
                               &l->sam->stream));
    *norm = sqrt(squares);
    return OK;
}

enum status learner_update(struct learner *l, double scale, int64_t step, int64_t t)
{
    struct sam *s = l->sam;
    const int64_t n = s->params.n_floats;
    const struct adamw_options o = { .lr = (float)schedule_lr(l->config, step),
                                     .beta1 = (float)l->config->optim_beta1,
                                     .beta2 = (float)l->config->optim_beta2,
                                     .eps = (float)l->config->optim_eps,
                                     .grad_scale = (float)scale,
                                     .step = t };

    const struct tensor w16 = s->weights16 ? tensor_1d(s->weights16, BF16, n) : tensor_none();

    return s->ops->adamw(tensor_1d(s->weights, F32, n), tensor_1d(l->m, F32, n),
                         tensor_1d(l->v, F32, n), w16, tensor_1d(l->total, F32, n), l->segment,
                         s->params.n, &o, &s->stream);
}

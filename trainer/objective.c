#include "trainer/objective.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/prompt_draw.h"
#include "trainer/schedule.h"
#include "trainer/slot_inputs.h"
#include "trainer/staging.h"

struct objective {
    struct sam *sam;
    int64_t n_slots; /* of a step */
    int64_t R;       /* side of the loss resolution */
    struct mask_loss_options loss;
    struct prompt_options prompt;
    struct tensor candidates, only_first; /* (M,2) i32 */
    struct tensor key;                    /* (2) i64: prompts */
    struct tensor d_mask; /* (M,4H,4W): gradient of the fed-back mask, when rounds are kept */
    void *memory;         /* owned; behind all of the above */
    int64_t memory_bytes;
    struct slot_inputs inputs;
    const struct slot_set *in; /* the slot's */
    struct slot_chunk chunk;   /* of in */
    struct history history;
    int32_t *host_ints;  /* (2·M) */
    void *trace_room;    /* staging: what is traced */
    XXH3_state_t *trace; /* NULL: not traced */
    bool timed;          /* laps wait for the device */
    struct objective_times times;
};

struct objective_plan objective_plan(const struct config *c, int64_t step)
{
    const struct rng_key key = rng_stream((uint64_t)c->train_seed, RNG_PLAN, (uint64_t)step, 0);
    const int silent = (int)c->train_silent_rounds, later = (int)c->train_rounds - 1;
    struct objective_plan p = { .n_rounds = (int)c->train_rounds };
    int n = later - silent > 0 ? later - silent : 0;

    for (int i = 0; i < n; i++) p.click[i] = true;
    for (int s = 0; s < silent - 1 && n < later;
         s++) { /* these fall anywhere among what is there */
        const int at = (int)rng_below(key, (uint64_t)s, (uint64_t)n + 1);

        memmove(p.click + at + 1, p.click + at, (size_t)(n - at) * sizeof *p.click);
        p.click[at] = false;
        n++;
    }
    return p; /* the last one is silent by what it is: false */
}

/* ---- memory --------------------------------------------------------------------------------- */
static void take(struct objective *o, struct tensor *t, struct tensor shape)
{
    *t = shape;
    t->data = o->memory ? (char *)o->memory + o->memory_bytes : NULL;
    o->memory_bytes += arena_round(tensor_bytes(shape));
}

static int64_t n_chunks(const struct objective *o)
{
    return (o->sam->config->train_masks + o->sam->M - 1) / o->sam->M;
}

static int64_t n_history(const struct objective *o)
{
    return o->n_slots * n_chunks(o) * o->sam->config->train_rounds;
}

static void carve(struct objective *o)
{
    const struct sam *s = o->sam;
    const int64_t M = s->M, L = 4 * s->H;

    o->memory_bytes = 0;
    take(o, &o->candidates, tensor_2d(NULL, I32, M, 2));
    take(o, &o->only_first, tensor_2d(NULL, I32, M, 2));
    take(o, &o->key, tensor_1d(NULL, I64, 2));
    take(o, &o->d_mask, tensor_3d(NULL, F32, M, L, L));
    take(o, &o->history.value,
         tensor_4d(NULL, F32, n_history(o), M, MASK_TOKENS, MASK_LOSS_VALUES));
    take(o, &o->history.selected, tensor_2d(NULL, I32, n_history(o), M));
}

/* A dry pass over every op outside the programs: shapes are right, and this much scratch is needed. */
static enum status plan(struct objective *o, struct stream *dry)
{
    const struct sam *s = o->sam;
    const int64_t M = s->M, L = 4 * s->H;
    const struct tensor coords = tensor_3d(NULL, F32, M, s->P, 2);
    const struct tensor labels = tensor_2d(NULL, I32, M, s->P);
    const struct tensor n_points = tensor_1d(NULL, I32, M), selected = n_points;
    const struct tensor mask = tensor_3d(NULL, F32, M, L, L);
    const struct tensor truth = tensor_3d(NULL, U8, M, o->R, o->R);
    const struct tensor box = tensor_2d(NULL, F32, M, 4), weight = tensor_1d(NULL, F32, M);
    const struct tensor valid = tensor_2d(NULL, I32, M, 2), size = tensor_1d(NULL, F32, 2);

    TRY(s->ops->prompt_first(coords, labels, n_points, truth, box, size, weight, o->key, 0,
                             &o->prompt, dry));
    for (int64_t K = 1; K <= MASK_TOKENS; K++) {
        const struct tensor logits = tensor_4d(NULL, F32, M, K, L, L);
        const struct tensor iou = tensor_2d(NULL, F32, M, K);
        const struct tensor value = tensor_3d(NULL, F32, M, K, MASK_LOSS_VALUES);

        TRY(s->ops->prompt_next(mask, coords, labels, n_points, logits, iou, truth, weight, o->key,
                                0, 0, true, &o->prompt, dry));
        TRY(s->ops->mask_loss_fwd(value, selected, logits, truth, iou, valid, &o->loss, dry));
        TRY(s->ops->mask_loss_bwd(logits, iou, value, selected, logits, truth, iou, valid, weight,
                                  1, &o->loss, dry));
        TRY(s->ops->prompt_next_bwd(logits, mask, iou, &o->prompt, dry));
    }
    return s->ops->grad_norm(tensor_1d(NULL, F64, 1),
                             tensor_1d(NULL, F32, n_history(o) * M * HISTORY_VALUES), dry);
}

static enum status create(struct objective *o, bool beside)
{
    struct sam *s = o->sam;
    const size_t M = (size_t)s->M;
    const struct slot_inputs_options inputs = { .config = s->config,
                                                .ops = s->ops,
                                                .queue = &s->stream,
                                                .M = s->M,
                                                .R = o->R,
                                                .n_slots = o->n_slots,
                                                .beside = beside };

    o->host_ints = calloc(2 * M, sizeof *o->host_ints);
    if (!o->host_ints) FAIL(E_MEMORY, "the objective's lists");
    TRY(history_create(&o->history, o->n_slots, n_chunks(o), s->config->train_rounds, s->M));
    carve(o); /* measures */
    TRY(s->ops->alloc(&o->memory, o->memory_bytes));
    carve(o);
    for (int64_t m = 0; m < s->M; m++) o->host_ints[2 * m + 1] = 1; /* from 0 to 1 */
    TRY(s->ops->put(o->only_first.data, o->host_ints, tensor_bytes(o->only_first), &s->stream));
    return slot_inputs_create(&o->inputs, &inputs);
}

static void configure(struct objective *o, const struct config *c)
{
    o->R = c->loss_resolution == 0 ? c->model_image_size : 4 * o->sam->H;
    o->loss = (struct mask_loss_options){ .alpha = (float)c->loss_focal_alpha,
                                          .gamma = (float)c->loss_focal_gamma,
                                          .w_focal = (float)c->loss_w_focal,
                                          .w_dice = (float)c->loss_w_dice,
                                          .w_iou = (float)c->loss_w_iou,
                                          .iou_l1 = c->loss_iou == 1,
                                          .iou_all = c->loss_iou_all,
                                          .valid_only = c->loss_area == 1 };
    o->prompt = (struct prompt_options){
        .box_share = (float)c->train_box_share,
        .box_noise = (float)c->train_box_noise,
        .box_noise_max = (float)(c->train_box_noise_max * (double)c->model_image_size / 1024),
        .law = c->train_box_noise_law == 0 ? BOX_NOISE_NORMAL : BOX_NOISE_UNIFORM,
        .frame = (int)c->model_image_size,
    };
}

enum status objective_scratch(const struct config *c, const struct ops *ops, int64_t n_slots,
                              int64_t masks, int64_t points, int64_t *bytes)
{
    struct sam shape = { .config = c,
                         .ops = ops,
                         .M = masks,
                         .P = points,
                         .H = c->model_image_size / c->model_patch_size };
    struct objective o = { .sam = &shape, .n_slots = n_slots };
    struct stream dry = { .planning = true };

    configure(&o, c);
    carve(&o);
    TRY(plan(&o, &dry));
    *bytes = dry.scratch_need;
    return OK;
}

enum status objective_create(struct objective **o, struct sam *s, int64_t n_slots, bool beside)
{
    struct objective *q = calloc(1, sizeof *q);
    enum status e;

    if (!q) FAIL(E_MEMORY, "the objective");
    q->sam = s;
    q->n_slots = n_slots;
    configure(q, s->config);
    e = create(q, beside);
    if (e != OK) {
        objective_destroy(q);
        return e;
    }
    *o = q;
    return OK;
}

void objective_destroy(struct objective *o)
{
    if (!o) return;
    if (o->memory) o->sam->ops->free(o->memory);
    slot_inputs_destroy(&o->inputs);
    XXH3_freeState(o->trace);
    history_destroy(&o->history);
    free(o->host_ints);
    free(o->trace_room);
    free(o);
}

enum status objective_lap(struct objective *o, double *since, double *sum)
{
    if (o->timed) TRY(o->sam->ops->sync(&o->sam->stream));
    *sum += clock_lap(since);
    return OK;
}

/* ---- one slot ------------------------------------------------------------------------------- */
enum status objective_reserve(struct objective *o, int64_t i, const struct loader_slot *slot)
{
    return slot_inputs_reserve(&o->inputs, i, slot);
}

enum status objective_ahead(struct objective *o, const struct loader_slot *slot)
{
    return slot_inputs_ahead(&o->inputs, slot);
}

enum status objective_join(struct objective *o)
{
    return slot_inputs_join(&o->inputs);
}

static enum status put_key(struct objective *o, struct tensor t, struct rng_key key)
{
    const uint64_t words[2] = { key.seed, key.stream };

    return o->sam->ops->put(t.data, words, sizeof words, &o->sam->stream);
}

static enum status trace_bytes(struct objective *o, const void *dev, int64_t bytes)
{
    const void *host;

    if (!o->trace) return OK;
    TRY(staging_read(o->sam->ops, &o->sam->stream, dev, bytes, o->trace_room, &host));
    XXH3_64bits_update(o->trace, host, (size_t)bytes);
    return OK;
}

/* All masks have the same number of points: tokens a mask are the decoder's five and these. */
static enum status put_n_tokens(struct objective *o, const struct sam_prompts *p, int n_points)
{
    for (int64_t m = 0; m < o->sam->M; m++)
        o->host_ints[m] = (int32_t)mask_decoder_tokens(n_points);
    return o->sam->ops->put(p->n_tokens.data, o->host_ints, o->sam->M * 4, &o->sam->stream);
}

/* Prompts in use; slots behind them hold what earlier rounds left. */
static enum status trace(struct objective *o, const struct sam_prompts *p, int n_points)
{
    const int64_t P = o->sam->P;

    for (int64_t m = 0; o->trace && m < o->sam->M; m++) {
        TRY(trace_bytes(o, (float *)p->coords.data + m * P * 2, n_points * 8));
        TRY(trace_bytes(o, (int32_t *)p->labels.data + m * P, n_points * 4));
    }
    return OK;
}

/* A lone box may be one prompt of several meanings or not (SAM_SPEC C.5 #3): then its only candidate is token 0. Which masks
 * have a box follows from their random numbers: prompt.h. */
static enum status put_candidates(struct objective *o, const struct loader_slot *slot,
                                  struct rng_key key, int64_t begin)
{
    struct sam *s = o->sam;
    int32_t *of = history_candidates(&o->history, begin / s->M);

    for (int64_t m = 0; m < s->M; m++) {
        const struct rng_key k = rng_sub(key, (uint64_t)(begin + m));
        const bool box =
            begin + m < slot->n_masks && rng_uniform(k, PROMPT_DRAW_KIND) < o->prompt.box_share;

        of[2 * m] = box ? 0 : 1;
        of[2 * m + 1] = box ? 1 : MASK_TOKENS;
    }
    return s->ops->put(o->candidates.data, of, s->M * 8, &s->stream);
}

/* What one round of a chunk is about. */
struct round {
    int index, kept; /* of the plan; which block holds its activations */
    enum sam_round kind;
    struct tensor logits, iou, value, selected;
    struct mask_loss_options loss;
    struct prompt_options prompt;
};

static enum sam_round kind_of(const struct objective *o, const struct objective_plan *plan, int i)
{
    const struct config *c = o->sam->config;

    if (i == 0) return c->train_box_multimask ? SAM_FIRST : SAM_FIRST_ALL;
    return i == 1 && !plan->click[0] && c->train_silent_multimask ? SAM_NEXT_THREE : SAM_NEXT;
}

enum status objective_begin(struct objective *o)
{
    slot_inputs_begin(&o->inputs);
    return history_begin(&o->history, o->sam->ops, &o->sam->stream);
}

void objective_launched(struct objective *o)
{
    slot_inputs_launched(&o->inputs);
    history_launched(&o->history);
}

enum status objective_losses(struct objective *o, struct objective_losses *losses)
{
    return history_losses(&o->history, o->loss.iou_all, losses, o->sam->ops, &o->sam->stream);
}

enum status objective_squares(struct objective *o, struct tensor squares)
{
    return history_squares(&o->history, squares, o->sam->ops, &o->sam->stream);
}

/* Its losses become the history's next entry. */
static enum status forward_round(struct objective *o, struct round *r, struct history_entry e)
{
    struct sam *s = o->sam;
    double since = clock_seconds();

    TRY(sam_decode(s, r->kind, r->kept, &r->logits, &r->iou));
    TRY(objective_lap(o, &since, &o->times.decoder_forward));
    r->loss = o->loss;
    r->prompt = o->prompt;
    if (r->kind == SAM_FIRST_ALL) r->loss.candidates = r->prompt.candidates = o->candidates;
    if (r->kind == SAM_NEXT && r->logits.dim[1] > 1)
        r->loss.candidates = r->prompt.candidates = o->only_first;
    e.K = r->logits.dim[1];
    e.among = r->kind == SAM_FIRST_ALL;
    e.only_first = r->kind == SAM_NEXT;
    history_add(&o->history, e, &r->value, &r->selected);
    TRY(s->ops->mask_loss_fwd(r->value, r->selected, r->logits, o->chunk.truth, r->iou,
                              o->in->valid, &r->loss, &s->stream));
    return objective_lap(o, &since, &o->times.loss);
}

/* through: d_mask holds what the next round's backward says of this round's fed-back mask, and gets the same for the round before. */
static enum status backward_round(struct objective *o, const struct round *r, float *grads,
                                  bool through)
{
    struct sam *s = o->sam;
    struct tensor d_logits, d_iou;
    double since = clock_seconds();

    sam_decode_grads(s, r->kind, r->kept, &d_logits, &d_iou);
    TRY(s->ops->mask_loss_bwd(d_logits, d_iou, r->value, r->selected, r->logits, o->chunk.truth,
                              r->iou, o->in->valid, o->chunk.weight, 1, &r->loss, &s->stream));
    TRY(objective_lap(o, &since, &o->times.loss));
    if (through) {
        TRY(s->ops->prompt_next_bwd(d_logits, o->d_mask, r->iou, &r->prompt, &s->stream));
        TRY(s->ops->zero(o->d_mask.data, tensor_bytes(o->d_mask), &s->stream));
    }
    TRY(sam_decode_backward(s, r->kind, r->kept, grads, o->d_mask.data));
    return objective_lap(o, &since, &o->times.decoder_backward);
}

/* The next round's prompts from this round's answer. */
static enum status next_prompts(struct objective *o, const struct round *r, struct rng_key dropout,
                                int64_t begin, bool click, int *n_points)
{
    struct sam *s = o->sam;
    const struct sam_prompts *from = s->prompts + r->kept;
    const struct sam_prompts *to = s->n_rounds_kept > 1 ? from + 1 : from;
    double since = clock_seconds();

    if (to != from) { /* backward still reads what this round saw */
        TRY(s->ops->copy(to->coords.data, from->coords.data, tensor_bytes(to->coords), &s->stream));
        TRY(s->ops->copy(to->labels.data, from->labels.data, tensor_bytes(to->labels), &s->stream));
        TRY(s->ops->copy(to->n_points.data, from->n_points.data, s->M * 4, &s->stream));
    }
    TRY(s->ops->prompt_next(to->mask, to->coords, to->labels, to->n_points, r->logits, r->iou,
                            o->chunk.truth, o->chunk.weight, o->key, begin, r->index, click,
                            &r->prompt, &s->stream));
    if (click) ++*n_points;
    TRY(put_n_tokens(o, to, *n_points));
    TRY(put_key(o, to->key, rng_sub(dropout, (uint64_t)r->index + 1)));
    TRY(trace(o, to, *n_points));
    return objective_lap(o, &since, &o->times.prompts);
}

static enum status run_chunk(struct objective *o, const struct loader_slot *slot, int64_t begin,
                             const struct objective_plan *plan, float *grads)
{
    struct sam *s = o->sam;
    const int64_t n_valid = slot->n_masks - begin < s->M ? slot->n_masks - begin : s->M;
    const uint64_t seed = (uint64_t)s->config->train_seed;
    const struct rng_key dropout = rng_sub(
        rng_stream(seed, RNG_DROPOUT, (uint64_t)slot->step, (uint64_t)slot->slot), (uint64_t)begin);
    const struct rng_key prompts =
        rng_stream(seed, RNG_PROMPT, (uint64_t)slot->step, (uint64_t)slot->slot);
    const bool through = s->n_rounds_kept > 1;
    struct round round[64];
    int n_points = 2;
    double since = clock_seconds();

    o->chunk = slot_inputs_chunk(&o->inputs, o->in, begin / s->M);
    TRY(trace_bytes(o, o->chunk.truth.data, tensor_bytes(o->chunk.truth)));
    TRY(s->ops->prompt_first(s->prompts->coords, s->prompts->labels, s->prompts->n_points,
                             o->chunk.truth, o->chunk.box, o->in->size, o->chunk.weight, o->key,
                             begin, &o->prompt, &s->stream));
    if (!s->config->train_box_multimask) TRY(put_candidates(o, slot, prompts, begin));
    TRY(put_n_tokens(o, s->prompts, n_points));
    TRY(put_key(o, s->prompts->key, dropout));
    TRY(trace(o, s->prompts, n_points));
    TRY(objective_lap(o, &since, &o->times.prompts));
    for (int i = 0; i < plan->n_rounds; i++) {
        struct round *r = round + i;

        *r = (struct round){ .index = i, .kept = through ? i : 0, .kind = kind_of(o, plan, i) };
        TRY(forward_round(o, r,
                          (struct history_entry){ .n_valid = n_valid,
                                                  .chunk = begin / s->M,
                                                  .first = i == 0,
                                                  .last = i == plan->n_rounds - 1 }));
        if (!through) TRY(backward_round(o, r, grads, false));
        if (i + 1 < plan->n_rounds)
            TRY(next_prompts(o, r, dropout, begin, plan->click[i], &n_points));
    }
    if (!through) return OK;
    TRY(s->ops->zero(o->d_mask.data, tensor_bytes(o->d_mask), &s->stream));
    for (int i = plan->n_rounds - 1; i >= 0; i--) TRY(backward_round(o, round + i, grads, true));
    return OK;
}

/* Which branches of the encoder this image goes without (stochastic depth). */
static enum status draw_drop_path(struct objective *o, const struct loader_slot *slot)
{
    struct sam *s = o->sam;
    const struct config *c = s->config;
    const struct rng_key key = rng_stream((uint64_t)c->train_seed, RNG_DROP_PATH,
                                          (uint64_t)slot->step, (uint64_t)slot->slot);
    float scale[2 * 256];

    for (int b = 0; b < 2 * (int)c->model_depth; b++) {
        const double rate = schedule_drop_path(c, b / 2);

        s->branch_off[b] = (double)rng_uniform(key, (uint64_t)b) < rate;
        scale[b] = (float)(1 / (1 - rate));
    }
    return s->ops->put(s->drop_scale.data, scale, tensor_bytes(s->drop_scale), &s->stream);
}

enum status objective_slot(struct objective *o, const struct loader_slot *slot, float *grads,
                           void (*decoder_done)(void *), void (*param_ready)(void *, int),
                           void *context)
{
    struct sam *s = o->sam;
    const struct objective_plan plan = objective_plan(s->config, slot->step);
    double since = clock_seconds();

    TRY(slot_inputs_next(&o->inputs, slot, &o->in));
    TRY(objective_lap(o, &since, &o->times.prompts));
    if (o->trace) XXH3_64bits_reset(o->trace);
    history_add_slot(&o->history, slot->n_masks);
    TRY(draw_drop_path(o, slot));
    TRY(put_key(o, o->key,
                rng_stream((uint64_t)s->config->train_seed, RNG_PROMPT, (uint64_t)slot->step,
                           (uint64_t)slot->slot)));
    TRY(sam_encode_normalized(s, o->in->pixels.data));
    TRY(s->ops->zero(s->d_embedding.data, tensor_bytes(s->d_embedding), &s->stream));
    TRY(objective_lap(o, &since, &o->times.encoder_forward));
    for (int64_t begin = 0; begin < slot->n_masks; begin += s->M)
        TRY(run_chunk(o, slot, begin, &plan, grads));
    if (decoder_done) decoder_done(context);
    since = clock_seconds();
    TRY(sam_encode_backward(s, grads, param_ready, context));
    return objective_lap(o, &since, &o->times.encoder_backward);
}

void objective_time(struct objective *o, bool timed)
{
    o->timed = timed;
}

struct objective_times objective_times(const struct objective *o)
{
    return o->times;
}

enum status objective_trace_begin(struct objective *o)
{
    const struct sam_prompts *p = o->sam->prompts;
    const int64_t prompts = tensor_bytes(p->coords) + tensor_bytes(p->labels);
    const int64_t truth = o->sam->M * o->R * o->R;

    TRY(staging_room(o->sam->ops, truth > prompts ? truth : prompts, &o->trace_room));
    o->trace = XXH3_createState();
    if (!o->trace) FAIL(E_MEMORY, "a trace");
    return OK;
}

uint64_t objective_trace(const struct objective *o)
{
    return XXH3_64bits_digest(o->trace);
}

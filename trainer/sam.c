#include "trainer/sam.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"

enum { SCRATCH_ALIGN = 256 }; /* of a library's workspace */

static const struct {
    bool mask_prompt;
    int first_mask, n_out;
} round_shapes[SAM_ROUNDS] = {
    [SAM_FIRST] = { false, 1, 3 },
    [SAM_NEXT] = { true, 0, 1 },
    [SAM_FIRST_ALL] = { false, 0, 4 },
    [SAM_NEXT_THREE] = { true, 1, 3 },
};

static bool round_is_needed(const struct config *c, bool train, int round)
{
    switch ((enum sam_round)round) {
    case SAM_FIRST:
        return !train || c->train_box_multimask;
    case SAM_NEXT:
        return !train || c->train_rounds > 1;
    case SAM_FIRST_ALL:
        return train && !c->train_box_multimask;
    case SAM_NEXT_THREE:
        return train && c->train_silent_multimask;
    case SAM_ROUNDS:
        break;
    }
    return false;
}

static enum status create_encoder(struct sam *s)
{
    struct model m;
    enum status e;

    TRY(program_create(&s->encoder, s->compute));
    TRY(model_create(&m, s->config, &s->params, s->encoder, s->ops, s->train));
    image_encoder_build(&m, 1, false, &s->encoder_at);
    e = program_plan(s->encoder, s->ops, s->train ? PROGRAM_TRAIN : PROGRAM_FORWARD,
                     s->config->train_recompute);
    model_destroy(&m);
    return e;
}

static enum status create_decoder(struct sam *s, int round)
{
    struct sam_decoder *d = s->decoder + round;
    struct model m;
    enum status e;

    d->shape = (struct mask_decoder_shape){
        .n_masks = s->M,
        .n_points = s->P,
        .mask_prompt = round_shapes[round].mask_prompt,
        .mask_prompt_grad = s->n_rounds_kept > 1,
        .first_mask = round_shapes[round].first_mask,
        .n_out = round_shapes[round].n_out,
    };
    if (round == SAM_NEXT && s->train && !s->config->run_one_mask) d->shape.n_out = MASK_TOKENS;
    TRY(program_create(&d->program, s->compute));
    TRY(model_create(&m, s->config, &s->params, d->program, s->ops, s->train));
    mask_decoder_build(&m, &d->shape, false, &d->at);
    e = program_plan(d->program, s->ops, s->train ? PROGRAM_TRAIN : PROGRAM_FORWARD, false);
    model_destroy(&m);
    if (program_bytes(d->program) > s->decoder_bytes) s->decoder_bytes = program_bytes(d->program);
    return e;
}

/* ---- memory: measured by a first pass with base NULL, taken, then carved by a second -------------- */
static void *piece(struct sam *s, int64_t bytes)
{
    void *p = s->memory ? (char *)s->memory + s->memory_bytes : NULL;

    s->memory_bytes += arena_round(bytes);
    return p;
}

static void take(struct sam *s, struct tensor *t)
{
    t->data = piece(s, tensor_bytes(*t));
}

static int64_t scratch_bytes(const struct sam *s)
{
    int64_t n = program_scratch(s->encoder);

    for (int i = 0; i < SAM_ROUNDS; i++)
        if (s->decoder[i].program && program_scratch(s->decoder[i].program) > n)
            n = program_scratch(s->decoder[i].program);
    return n > s->stream.scratch_need ? n : s->stream.scratch_need;
}

static void carve_prompts(struct sam *s, struct sam_prompts *p)
{
    p->coords = tensor_3d(NULL, F32, s->M, s->P, 2);
    p->labels = tensor_2d(NULL, I32, s->M, s->P);
    p->n_points = tensor_1d(NULL, I32, s->M);
    p->n_tokens = tensor_1d(NULL, I32, s->M);
    p->mask = tensor_3d(NULL, F32, s->M, 4 * s->H, 4 * s->H);
    p->key = tensor_1d(NULL, I64, 2);
    take(s, &p->coords);
    take(s, &p->labels);
    take(s, &p->n_points);
    take(s, &p->n_tokens);
    take(s, &p->mask);
    take(s, &p->key);
}

static void carve(struct sam *s)
{
    const int64_t S = s->config->model_image_size, C = s->config->model_prompt_dim, H = s->H;

    s->memory_bytes = 0;
    s->weights = piece(s, s->params.n_floats * (int64_t)sizeof(float));
    s->weights16 = s->compute == BF16 ? piece(s, s->params.n_floats * 2) : NULL;
    s->encoder_block = piece(s, program_bytes(s->encoder));
    s->decoder_block = piece(s, s->decoder_bytes * s->n_rounds_kept);
    s->stream.scratch_bytes = scratch_bytes(s);
    s->memory_bytes = (s->memory_bytes + SCRATCH_ALIGN - 1) / SCRATCH_ALIGN * SCRATCH_ALIGN;
    s->stream.scratch = piece(s, s->stream.scratch_bytes);
    s->pixels_u8 = tensor_4d(NULL, U8, 1, S, S, 3);
    s->pixels_f32 = tensor_4d(NULL, F32, 1, S, S, 3);
    s->pixels_size = tensor_2d(NULL, I32, 1, 2);
    s->embedding = tensor_4d(NULL, s->compute, 1, H, H, C);
    s->d_embedding = tensor_4d(NULL, F32, 1, H, H, C);
    s->image_pe_f32 = tensor_3d(NULL, F32, H, H, C);
    s->drop_scale = tensor_1d(NULL, F32, 2 * s->config->model_depth);
    if (!s->train) {
        take(s, &s->pixels_u8);
        take(s, &s->pixels_f32);
        take(s, &s->pixels_size);
    }
    take(s, &s->embedding);
    take(s, &s->d_embedding);
    take(s, &s->image_pe_f32);
    s->image_pe = s->image_pe_f32;
    if (s->compute != F32) {
        s->image_pe.dtype = s->compute;
        take(s, &s->image_pe);
    }
    take(s, &s->drop_scale);
    for (int i = 0; i < s->n_rounds_kept; i++) carve_prompts(s, s->prompts + i);
}

static void bind(struct sam *s)
{
    if (s->encoder_at.drop_scale != PROGRAM_NONE)
        program_bind(s->encoder, s->encoder_at.drop_scale, s->drop_scale.data);
    for (int i = 0; i < SAM_ROUNDS; i++) {
        struct sam_decoder *d = s->decoder + i;

        if (!d->program) continue;
        program_bind(d->program, d->at.embedding, s->embedding.data);
        program_bind_grad(d->program, d->at.embedding, s->d_embedding.data);
        program_bind(d->program, d->at.image_pe, s->image_pe.data);
    }
}

/* The ops outside the programs: their shapes and scratch. */
static enum status plan_others(struct sam *s)
{
    const int64_t S = s->config->model_image_size, C = s->config->model_prompt_dim;
    struct tensor pe = tensor_3d(NULL, F32, s->H, s->H, C);

    s->stream.planning = true;
    TRY(s->ops->posenc_grid(pe, tensor_2d(NULL, F32, 2, C / 2), &s->stream));
    TRY(s->ops->image_normalize(tensor_4d(NULL, F32, 1, S, S, 3), tensor_4d(NULL, U8, 1, S, S, 3),
                                tensor_2d(NULL, I32, 1, 2), &s->stream));
    s->stream.planning = false;
    return OK;
}

enum status sam_precision(const struct config *c, const struct ops *ops, enum dtype *compute)
{
    static const char *const names[] = { "auto", "f32", "bf16" };

    if (c->run_precision == PRECISION_BF16 && !ops->bf16)
        FAIL(E_CONFIG, "run.precision is %s, but device %s computes in f32 only; say f32 or auto",
             names[c->run_precision], ops->name);
    *compute = ops->bf16 && c->run_precision != PRECISION_F32 ? BF16 : F32;
    return OK;
}

static enum status create(struct sam *s)
{
    TRY(s->ops->open());
    s->stream.queue = s->ops->queue();
    s->stream.own_products = s->config->run_own_products;
    TRY(sam_precision(s->config, s->ops, &s->compute));
    TRY(params_create(&s->params, s->config));
    TRY(create_encoder(s));
    for (int i = 0; i < SAM_ROUNDS; i++)
        if (round_is_needed(s->config, s->train, i)) TRY(create_decoder(s, i));
    TRY(plan_others(s));
    carve(s); /* measures */
    TRY(s->ops->alloc(&s->memory, s->memory_bytes));
    carve(s);
    bind(s);
    return OK;
}

enum status sam_create(struct sam **s, const struct config *c, const struct ops *ops, int64_t masks,
                       int64_t points, int64_t scratch, bool train)
{
    struct sam *q = calloc(1, sizeof *q);
    enum status e;

    if (!q) FAIL(E_MEMORY, "a model");
    q->config = c;
    q->ops = ops;
    q->train = train;
    q->M = masks;
    q->P = points;
    q->stream.scratch_need = scratch;
    q->H = c->model_image_size / c->model_patch_size;
    q->n_rounds_kept = train && c->train_through_rounds ? (int)c->train_rounds : 1;
    q->prompts = calloc((size_t)q->n_rounds_kept, sizeof *q->prompts);
    if (!q->prompts) {
        free(q);
        FAIL(E_MEMORY, "a model's prompts");
    }
    e = create(q);
    if (e != OK) {
        sam_destroy(q);
        return e;
    }
    *s = q;
    return OK;
}

void sam_destroy(struct sam *s)
{
    if (!s) return;
    program_destroy(s->encoder);
    for (int i = 0; i < SAM_ROUNDS; i++) program_destroy(s->decoder[i].program);
    if (s->memory) s->ops->free(s->memory);
    params_destroy(&s->params);
    free(s->prompts);
    free(s);
}

/* ---- running -------------------------------------------------------------------------------- */
enum status sam_weights_changed(struct sam *s)
{
    const int i =
        params_find(&s->params, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    const struct param *g = s->params.at + i;

    TRY(s->ops->posenc_grid(
        s->image_pe_f32, tensor_2d(s->weights + g->offset, F32, g->dim[0], g->dim[1]), &s->stream));
    if (s->compute == F32) return OK;
    TRY(s->ops->cast(s->image_pe, s->image_pe_f32, &s->stream));
    return s->ops->cast(tensor_1d(s->weights16, BF16, s->params.n_floats),
                        tensor_1d(s->weights, F32, s->params.n_floats), &s->stream);
}

static struct program_run run_of(struct sam *s, void *block, float *grads, bool encoder)
{
    return (struct program_run){
        .ops = s->ops,
        .stream = &s->stream,
        .block = block,
        .params = s->weights,
        .params16 = s->weights16,
        .grads = grads,
        .branch_off = encoder && s->encoder_at.drop_scale != PROGRAM_NONE ? s->branch_off : NULL,
        .profile = !s->profiling ? NULL
                   : encoder     ? &s->encoder_profile
                                 : &s->decoder_profile,
    };
}

enum status sam_encode_normalized(struct sam *s, float *pixels)
{
    const struct program_run run = run_of(s, s->encoder_block, NULL, true);
    struct tensor out;

    program_bind(s->encoder, s->encoder_at.image, pixels);
    TRY(program_forward(s->encoder, &run));
    out = program_value(s->encoder, s->encoder_at.embedding, &run);
    return s->ops->copy(s->embedding.data, out.data, tensor_bytes(out), &s->stream);
}

enum status sam_encode(struct sam *s, const uint8_t *pixels, int32_t rows, int32_t cols)
{
    const int32_t size[2] = { rows, cols };

    ASSERT(!s->train);
    TRY(s->ops->put(s->pixels_u8.data, pixels, tensor_bytes(s->pixels_u8), &s->stream));
    TRY(s->ops->put(s->pixels_size.data, size, sizeof size, &s->stream));
    TRY(s->ops->image_normalize(s->pixels_f32, s->pixels_u8, s->pixels_size, &s->stream));
    return sam_encode_normalized(s, s->pixels_f32.data);
}

static void bind_prompts(struct sam_decoder *d, const struct sam_prompts *q)
{
    program_bind(d->program, d->at.coords, q->coords.data);
    program_bind(d->program, d->at.labels, q->labels.data);
    program_bind(d->program, d->at.n_points, q->n_points.data);
    program_bind(d->program, d->at.n_tokens, q->n_tokens.data);
    if (d->at.mask != PROGRAM_NONE) program_bind(d->program, d->at.mask, q->mask.data);
    if (d->at.key != PROGRAM_NONE) program_bind(d->program, d->at.key, q->key.data);
}

static struct program_run round_run(struct sam *s, int kept, float *grads)
{
    ASSERT(kept >= 0 && kept < s->n_rounds_kept);
    return run_of(s, (char *)s->decoder_block + kept * s->decoder_bytes, grads, false);
}

enum status sam_decode(struct sam *s, enum sam_round round, int kept, struct tensor *logits,
                       struct tensor *iou)
{
    struct sam_decoder *d = s->decoder + round;
    const struct program_run run = round_run(s, kept, NULL);

    ASSERT(d->program);
    bind_prompts(d, s->prompts + kept);
    TRY(program_forward(d->program, &run));
    *logits = program_value(d->program, d->at.logits, &run);
    *iou = program_value(d->program, d->at.iou, &run);
    return OK;
}

void sam_decode_grads(struct sam *s, enum sam_round round, int kept, struct tensor *d_logits,
                      struct tensor *d_iou)
{
    struct sam_decoder *d = s->decoder + round;
    const struct program_run run = round_run(s, kept, NULL);

    *d_logits = program_grad(d->program, d->at.logits, &run);
    *d_iou = program_grad(d->program, d->at.iou, &run);
}

enum status sam_decode_backward(struct sam *s, enum sam_round round, int kept, float *grads,
                                float *d_mask)
{
    struct sam_decoder *d = s->decoder + round;
    const struct program_run run = round_run(s, kept, grads);

    bind_prompts(d, s->prompts + kept);
    if (d->shape.mask_prompt_grad && d->at.mask != PROGRAM_NONE)
        program_bind_grad(d->program, d->at.mask, d_mask);
    return program_backward(d->program, &run);
}

enum status sam_encode_backward(struct sam *s, float *grads, void (*param_ready)(void *, int),
                                void *context)
{
    struct program_run run = run_of(s, s->encoder_block, grads, true);
    struct tensor out = program_grad(s->encoder, s->encoder_at.embedding, &run);

    run.param_ready = param_ready;
    run.context = context;
    if (s->compute == F32)
        TRY(s->ops->copy(out.data, s->d_embedding.data, tensor_bytes(out), &s->stream));
    else
        TRY(s->ops->cast(out, s->d_embedding, &s->stream));
    return program_backward(s->encoder, &run);
}

#include "tests/golden_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/bf16.h"
#include "trainer/image_encoder.h"
#include "trainer/mask_decoder.h"
#include "tests/golden_file.h"

/* A gradient this much below the whole one's norm is zero but for rounding. */
#define NOISE_FLOOR 1e-6

struct golden {
    const struct golden_options *o;
    const struct ops *ops; /* o's, as compute */
    enum dtype compute;
    struct golden_errors *errors;
    struct safetensors *file;
    struct config config;
    struct params params;
    struct stream stream;
    struct program *encoder, *decoder;
    struct image_encoder encoder_at;
    struct mask_decoder decoder_at;
    struct mask_decoder_shape shape;
    struct program_run run[2]; /* encoder, decoder */
    float *weights, *grads;
    uint16_t *weights16; /* NULL in f32 */
    struct tensor embedding, d_embedding, image_pe_f32, image_pe;
    int64_t M, H, C;
};

static void *device(struct golden *g, int64_t bytes)
{
    void *p = NULL;

    if (g->ops->alloc(&p, bytes > 0 ? bytes : 1) != OK) exit(1);
    return p;
}

static struct tensor on_device(struct golden *g, struct tensor t)
{
    t.data = device(g, tensor_bytes(t));
    return t;
}

static enum status to_device(struct golden *g, const void *host, int64_t bytes, void **p)
{
    *p = device(g, bytes);
    return g->ops->put(*p, host, bytes, &g->stream);
}

/* A tensor's numbers as floats on the host; the caller frees them. */
static enum status fetch(struct golden *g, struct tensor t, float **to)
{
    const int64_t n = tensor_count(t);
    void *raw = malloc((size_t)(tensor_bytes(t) + 1));
    float *wide = malloc((size_t)(n + 1) * sizeof *wide);

    if (!raw || !wide) FAIL(E_MEMORY, "a tensor from the device");
    TRY(g->ops->get(raw, t.data, tensor_bytes(t), &g->stream));
    TRY(g->ops->sync(&g->stream));
    for (int64_t i = 0; i < n; i++)
        wide[i] = t.dtype == BF16 ? bf16_to_float(((uint16_t *)raw)[i]) : ((float *)raw)[i];
    free(raw);
    *to = wide;
    return OK;
}

/* ---- comparison ----------------------------------------------------------------------------- */
static double norm(const float *a, const float *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (b ? (double)b[i] : 0);

        sum += d * d;
    }
    return sqrt(sum);
}

static void forward_error(struct golden *g, const char *group, const char *tensor,
                          enum golden_class class, double error)
{
    if (!g->o->judged) golden_errors_add(g->errors, group, tensor, class, error);
}

static enum golden_class class_of(const char *name)
{
    if (strcmp(name, "out.image_pe") == 0) return EXACT; /* compared before it is rounded */
    return strncmp(name, "loss.", 5) == 0 ? LOSS : FORWARD;
}

/* Compares with an output of the file; ours may lie as (outer, pixels, channels) where the file has (outer, channels,
 * pixels). */
static enum status compare(struct golden *g, const char *name, const float *ours, int64_t outer,
                           int64_t channels, int64_t pixels, bool channels_last)
{
    const int64_t n = outer * channels * pixels;
    float *want, *moved = malloc((size_t)(n ? n : 1) * sizeof *moved);

    if (!moved) FAIL(E_MEMORY, "tensor %s", name);
    TRY(golden_file_floats(g->file, name, n, &want));
    for (int64_t o = 0; o < outer; o++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < pixels; p++)
                moved[(o * channels + c) * pixels + p] =
                    ours[channels_last ? (o * pixels + p) * channels + c
                                       : (o * channels + c) * pixels + p];
    forward_error(g, strncmp(name, "out.blocks", 10) == 0 ? "out.blocks" : name, name,
                  class_of(name), n ? norm(moved, want, n) / norm(want, NULL, n) : 0);
    free(moved);
    free(want);
    return OK;
}

static enum status compare_tensor(struct golden *g, const char *name, struct tensor t,
                                  int64_t outer, int64_t channels, int64_t pixels,
                                  bool channels_last)
{
    float *ours;

    TRY(fetch(g, t, &ours));
    TRY(compare(g, name, ours, outer, channels, pixels, channels_last));
    free(ours);
    return OK;
}

static int64_t dims(struct golden *g, const char *name, int i)
{
    return golden_file_dim(g->file, name, i);
}

/* ---- the model the file describes ----------------------------------------------------------- */
static enum status read_weights(struct golden *g)
{
    const int64_t n = g->params.n_floats;
    float *host = calloc((size_t)n, sizeof *host);

    if (!host) FAIL(E_MEMORY, "weights");
    TRY(golden_file_weights(g->file, &g->params, g->o->draw, host));
    g->weights = device(g, n * 4);
    g->grads = device(g, n * 4);
    TRY(g->ops->put(g->weights, host, n * 4, &g->stream));
    free(host);
    if (g->compute == F32) return OK;
    g->weights16 = device(g, n * 2);
    return g->ops->cast(tensor_1d(g->weights16, BF16, n), tensor_1d(g->weights, F32, n),
                        &g->stream);
}

static enum status plan_programs(struct golden *g)
{
    const bool boxes = safetensors_has(g->file, "in.boxes");
    const int64_t clicks = dims(g, "in.point_coords", 1);
    struct model m;
    int64_t P = clicks + (boxes ? 2 : clicks > 0 ? 1 : 0);

    g->M = dims(g, "gt.masks", 0);
    g->shape =
        (struct mask_decoder_shape){ .n_masks = g->M,
                                     .n_points = P ? P : 1,
                                     .mask_prompt = safetensors_has(g->file, "in.mask_input"),
                                     .first_mask = 0,
                                     .n_out = MASK_TOKENS };
    TRY(program_create(&g->encoder, g->compute));
    TRY(model_create(&m, &g->config, &g->params, g->encoder, g->ops, true));
    image_encoder_build(&m, 1, true, &g->encoder_at);
    model_destroy(&m);
    TRY(program_plan(g->encoder, g->ops, PROGRAM_TRAIN, false));
    TRY(program_create(&g->decoder, g->compute));
    TRY(model_create(&m, &g->config, &g->params, g->decoder, g->ops, true));
    mask_decoder_build(&m, &g->shape, true, &g->decoder_at);
    model_destroy(&m);
    return program_plan(g->decoder, g->ops, PROGRAM_TRAIN, false);
}

static void take_memory(struct golden *g)
{
    struct program *p[2] = { g->encoder, g->decoder };

    g->stream.scratch_bytes = 1 << 26; /* the loss, outside the programs, needs some too */
    for (int i = 0; i < 2; i++)
        if (program_scratch(p[i]) > g->stream.scratch_bytes)
            g->stream.scratch_bytes = program_scratch(p[i]);
    g->stream.scratch = device(g, g->stream.scratch_bytes);
    for (int i = 0; i < 2; i++)
        g->run[i] = (struct program_run){ .ops = g->ops,
                                          .stream = &g->stream,
                                          .block = device(g, program_bytes(p[i])),
                                          .params = g->weights,
                                          .params16 = g->weights16,
                                          .grads = g->grads };
    g->embedding = on_device(g, tensor_4d(NULL, g->compute, 1, g->H, g->H, g->C));
    g->d_embedding = on_device(g, tensor_4d(NULL, F32, 1, g->H, g->H, g->C));
    g->image_pe_f32 = on_device(g, tensor_3d(NULL, F32, g->H, g->H, g->C));
    g->image_pe = on_device(g, tensor_3d(NULL, g->compute, g->H, g->H, g->C));
}

/* ---- forward -------------------------------------------------------------------------------- */
static enum status encode(struct golden *g)
{
    const int64_t S = g->config.model_image_size, d = g->config.model_embed_dim;
    const int64_t h = dims(g, "in.image", 1), w = dims(g, "in.image", 2), T = g->H * g->H;
    const int32_t size[2] = { (int32_t)h, (int32_t)w };
    struct tensor raw = tensor_4d(NULL, F32, 1, S, S, 3), x = raw;
    struct tensor sizes = on_device(g, tensor_2d(NULL, I32, 1, 2));
    float *image, *frame = calloc((size_t)(S * S * 3), sizeof *frame);

    if (!frame) FAIL(E_MEMORY, "an image");
    TRY(golden_file_floats(g->file, "in.image", 3 * h * w, &image));
    for (int64_t c = 0; c < 3; c++)
        for (int64_t i = 0; i < h; i++)
            for (int64_t j = 0; j < w; j++) frame[(i * S + j) * 3 + c] = image[(c * h + i) * w + j];
    TRY(to_device(g, frame, tensor_bytes(raw), &raw.data));
    free(frame);
    free(image);
    TRY(g->ops->put(sizes.data, size, sizeof size, &g->stream));
    x.data = device(g, S * S * 12);
    TRY(g->ops->image_normalize(x, raw, sizes, &g->stream));
    program_bind(g->encoder, g->encoder_at.image, x.data);
    TRY(program_forward(g->encoder, &g->run[0]));
    for (int i = 0; i < (int)g->config.model_depth; i++) {
        char name[64];

        snprintf(name, sizeof name, "out.blocks.%d", i);
        x = program_value(g->encoder, g->encoder_at.block[i], &g->run[0]);
        TRY(compare_tensor(g, name, x, 1, d, T,
                           false)); /* the file has blocks channels-last already */
    }
    x = program_value(g->encoder, g->encoder_at.embedding, &g->run[0]);
    TRY(g->ops->copy(g->embedding.data, x.data, tensor_bytes(x), &g->stream));
    return compare_tensor(g, "out.image_embeddings", g->embedding, 1, g->C, T, true);
}

/* The file's points and boxes in the decoder's slots: points, then corners, or padding when there is no box. */
static enum status bind_prompts(struct golden *g)
{
    const int64_t M = g->M, P = g->shape.n_points, n = dims(g, "in.point_coords", 1);
    const bool boxes = safetensors_has(g->file, "in.boxes");
    float *coords = calloc((size_t)(M * P * 2), sizeof *coords), *point = NULL, *box = NULL;
    int32_t *labels = calloc((size_t)(M * P + 2 * M), sizeof *labels);
    int32_t *n_points = labels + M * P, *n_tokens = n_points + M;
    struct safetensors_entry e;
    void *there;

    if (!coords || !labels) FAIL(E_MEMORY, "prompts");
    if (n) TRY(golden_file_floats(g->file, "in.point_coords", M * n * 2, &point));
    if (n) TRY(safetensors_find(g->file, "in.point_labels", &e));
    if (n && (e.dtype != SAFETENSORS_I32 || e.count != M * n)) FAIL(E_CORRUPT, "in.point_labels");
    if (boxes) TRY(golden_file_floats(g->file, "in.boxes", M * 4, &box));
    for (int64_t m = 0; m < M; m++) {
        int64_t k = 0;

        for (; k < n; k++) {
            memcpy(coords + (m * P + k) * 2, point + (m * n + k) * 2, 8);
            memcpy(labels + m * P + k, (const char *)e.data + (m * n + k) * 4, 4);
        }
        if (n && !boxes) labels[m * P + k++] = -1;
        for (int corner = 0; boxes && corner < 2; corner++, k++) {
            memcpy(coords + (m * P + k) * 2, box + m * 4 + 2 * corner, 8);
            labels[m * P + k] = 2 + corner;
        }
        n_points[m] = (int32_t)k;
        n_tokens[m] = (int32_t)mask_decoder_tokens(k);
    }
    free(point);
    free(box);
    TRY(to_device(g, coords, M * P * 8, &there));
    program_bind(g->decoder, g->decoder_at.coords, there);
    TRY(to_device(g, labels, M * P * 4, &there));
    program_bind(g->decoder, g->decoder_at.labels, there);
    TRY(to_device(g, n_points, M * 4, &there));
    program_bind(g->decoder, g->decoder_at.n_points, there);
    TRY(to_device(g, n_tokens, M * 4, &there));
    program_bind(g->decoder, g->decoder_at.n_tokens, there);
    free(coords);
    free(labels);
    return OK;
}

static enum status decode(struct golden *g)
{
    const int64_t M = g->M, T = g->H * g->H, C = g->C, P = g->shape.n_points, L = 16 * T;
    const int gaussian =
        params_find(&g->params, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    struct program *p = g->decoder;
    const struct program_run *run = &g->run[1];
    float *mask, *tokens, *sparse;

    TRY(g->ops->posenc_grid(g->image_pe_f32,
                            tensor_2d(g->weights + g->params.at[gaussian].offset, F32, 2, C / 2),
                            &g->stream));
    TRY(compare_tensor(g, "out.image_pe", g->image_pe_f32, 1, C, T, true));
    TRY(g->ops->cast(g->image_pe, g->image_pe_f32, &g->stream));
    program_bind(p, g->decoder_at.embedding, g->embedding.data);
    program_bind_grad(p, g->decoder_at.embedding, g->d_embedding.data);
    program_bind(p, g->decoder_at.image_pe, g->image_pe.data);
    TRY(bind_prompts(g));
    if (g->shape.mask_prompt) {
        void *there;

        TRY(golden_file_floats(g->file, "in.mask_input", M * L, &mask));
        TRY(to_device(g, mask, M * L * 4, &there));
        free(mask);
        program_bind(p, g->decoder_at.mask, there);
    }
    TRY(program_forward(p, run));
    TRY(fetch(g, program_value(p, g->decoder_at.sparse, run), &sparse));
    tokens = malloc((size_t)(M * P * C) * 4);
    if (!tokens) FAIL(E_MEMORY, "tokens");
    for (int64_t m = 0; m < M; m++)
        memcpy(tokens + m * P * C, sparse + (m * (1 + MASK_TOKENS + P) + 1 + MASK_TOKENS) * C,
               (size_t)(P * C) * 4);
    if (dims(g, "out.sparse", 1) == P) TRY(compare(g, "out.sparse", tokens, M, P * C, 1, false));
    free(tokens);
    free(sparse);
    if (g->shape.mask_prompt)
        TRY(compare_tensor(g, "out.dense", program_value(p, g->decoder_at.dense, run), M, C, T,
                           true));
    TRY(compare_tensor(g, "out.low_res_masks", program_value(p, g->decoder_at.logits, run), M,
                       MASK_TOKENS, L, false));
    return compare_tensor(g, "out.iou_predictions", program_value(p, g->decoder_at.iou, run), M,
                          MASK_TOKENS, 1, false);
}

/* ---- loss and backward ---------------------------------------------------------------------- */
/* The candidates the reference chose from are not in the file: one mask alone, the three, or all four. Ours must choose the
 * same among one of these sets. */
static bool choice_agrees(const float *value, const int32_t *selected, int64_t M)
{
    static const int sets[3][2] = { { 0, 1 }, { 1, 4 }, { 0, 4 } };

    for (int s = 0; s < 3; s++) {
        bool all = true;

        for (int64_t m = 0; m < M; m++) {
            int best = sets[s][0];

            for (int k = best; k < sets[s][1]; k++) {
                const float *v = value + (m * MASK_TOKENS + k) * MASK_LOSS_VALUES;
                const float *b = value + (m * MASK_TOKENS + best) * MASK_LOSS_VALUES;

                if (20 * v[MASK_LOSS_FOCAL] + v[MASK_LOSS_DICE] <
                    20 * b[MASK_LOSS_FOCAL] + b[MASK_LOSS_DICE])
                    best = k;
            }
            all = all && best == selected[m];
        }
        if (all) return true;
    }
    return false;
}

static enum status compare_losses(struct golden *g, const float *value, const int32_t *selected)
{
    static const char *const names[MASK_LOSS_VALUES] = { "loss.focal", "loss.dice",
                                                         "loss.iou_error", "loss.iou" };
    const int64_t n = g->M * MASK_TOKENS;
    float *column = malloc((size_t)n * 4), total = 0;

    if (!column) FAIL(E_MEMORY, "losses");
    for (int k = 0; k < MASK_LOSS_VALUES; k++) {
        for (int64_t i = 0; i < n; i++) column[i] = value[i * MASK_LOSS_VALUES + k];
        TRY(compare(g, names[k], column, g->M, MASK_TOKENS, 1, false));
    }
    free(column);
    for (int64_t m = 0; m < g->M; m++) {
        const float *v = value + (m * MASK_TOKENS + selected[m]) * MASK_LOSS_VALUES;

        total += (20 * v[MASK_LOSS_FOCAL] + v[MASK_LOSS_DICE] + v[MASK_LOSS_ERR]) / (float)g->M;
    }
    forward_error(g, "loss.selected", "loss.selected", LOSS,
                  choice_agrees(value, selected, g->M) ? 0 : 1);
    return compare(g, "loss.total", &total, 1, 1, 1, false);
}

static enum status backward(struct golden *g)
{
    const struct mask_loss_options o = {
        .alpha = 0.25f, .gamma = 2, .w_focal = 20, .w_dice = 1, .w_iou = 1
    };
    const int64_t M = g->M, R = dims(g, "gt.masks", 1);
    const struct program_run *run = &g->run[1];
    struct tensor logits = program_value(g->decoder, g->decoder_at.logits, run), x;
    struct tensor iou = program_value(g->decoder, g->decoder_at.iou, run);
    struct tensor value = tensor_3d(device(g, M * MASK_TOKENS * 16), F32, M, MASK_TOKENS, 4);
    struct tensor selected = tensor_1d(device(g, M * 4), I32, M);
    struct tensor gt = tensor_3d(device(g, M * R * R), U8, M, R, R);
    struct tensor weight = tensor_1d(device(g, M * 4), F32, M);
    struct safetensors_entry e;
    int32_t *chosen;
    float *ours;

    TRY(safetensors_find(g->file, "gt.masks", &e));
    if (e.dtype != SAFETENSORS_U8 || e.count != M * R * R) FAIL(E_CORRUPT, "gt.masks");
    TRY(g->ops->put(gt.data, e.data, e.bytes, &g->stream));
    for (int64_t m = 0; m < M; m++)
        TRY(g->ops->put((float *)weight.data + m, &(const float){ 1 }, 4, &g->stream));
    TRY(g->ops->mask_loss_fwd(value, selected, logits, gt, iou, tensor_none(), &o, &g->stream));
    TRY(safetensors_find(g->file, "loss.selected", &e));
    if (e.dtype != SAFETENSORS_I32 || e.count != M) FAIL(E_CORRUPT, "loss.selected");
    chosen = malloc((size_t)e.bytes);
    if (!chosen) FAIL(E_MEMORY, "chosen masks");
    memcpy(chosen, e.data, (size_t)e.bytes);
    for (int64_t m = 0; m < M; m++)
        if ((uint32_t)chosen[m] >= MASK_TOKENS)
            FAIL(E_CORRUPT, "loss.selected is beyond the four masks");
    TRY(g->ops->put(selected.data, chosen, e.bytes, &g->stream));
    TRY(fetch(g, value, &ours));
    TRY(compare_losses(g, ours, chosen));
    free(ours);
    free(chosen);
    TRY(g->ops->mask_loss_bwd(program_grad(g->decoder, g->decoder_at.logits, run),
                              program_grad(g->decoder, g->decoder_at.iou, run), value, selected,
                              logits, gt, iou, tensor_none(), weight, 1.0f / (float)M, &o,
                              &g->stream));
    x = program_grad(g->decoder, g->decoder_at.sparse,
                     run); /* kept outputs: no gradient of their own */
    TRY(g->ops->zero(x.data, tensor_bytes(x), &g->stream));
    if (g->shape.mask_prompt) {
        x = program_grad(g->decoder, g->decoder_at.dense, run);
        TRY(g->ops->zero(x.data, tensor_bytes(x), &g->stream));
    }
    TRY(program_backward(g->decoder, run));
    for (int i = 0; i < (int)g->config.model_depth; i++) {
        x = program_grad(g->encoder, g->encoder_at.block[i], &g->run[0]);
        TRY(g->ops->zero(x.data, tensor_bytes(x), &g->stream));
    }
    x = program_grad(g->encoder, g->encoder_at.embedding, &g->run[0]);
    TRY(g->ops->cast(x, g->d_embedding, &g->stream));
    return program_backward(g->encoder, &g->run[0]);
}

/* "image_encoder.blocks.3.attn.qkv.bias" is of the group "grad image_encoder.blocks". */
static void group_of(const char *name, char group[64])
{
    int dots = 0;

    snprintf(group, 64, "grad %.58s", name);
    for (char *c = group; *c; c++)
        if (*c == '.' && ++dots == 2) *c = 0;
}

/* A parameter's gradient as it should be, which the caller frees: the file's, or where another run is judged, this one's. */
static enum status expected(struct golden *g, const struct param *q, const char *name,
                            const float *mine, float **want)
{
    if (!g->o->judged) return golden_file_floats(g->file, name, q->count, want);
    *want = malloc((size_t)(q->count + 1) * sizeof **want);
    if (!*want) FAIL(E_MEMORY, "tensor %s", name);
    memcpy(*want, mine + q->offset, (size_t)q->count * sizeof **want);
    return OK;
}

static enum status compare_gradients(struct golden *g)
{
    double whole = 0, off = 0;
    float *mine;
    const float *grads;

    TRY(fetch(g, tensor_1d(g->grads, F32, g->params.n_floats), &mine));
    if (g->o->gradients) {
        *g->o->gradients = mine;
        return OK;
    }
    grads = g->o->judged ? g->o->judged : mine;
    for (int pass = 0; pass < 2; pass++) { /* the whole gradient's norm first */
        for (int i = 0; i < g->params.n; i++) {
            const struct param *q = g->params.at + i;
            char name[PARAM_NAME + 8], group[64];
            float *want;
            double own, error;

            snprintf(name, sizeof name, "grad.%s", q->name);
            if (q->buffer && !safetensors_has(g->file, name)) continue;
            TRY(expected(g, q, name, mine, &want));
            own = norm(want, NULL, q->count);
            error = norm(grads + q->offset, want, q->count);
            free(want);
            if (pass == 0) {
                whole += own * own;
                off += error * error;
                continue;
            }
            group_of(q->name, group);
            if (own < NOISE_FLOOR * sqrt(whole))
                golden_errors_add(g->errors, "grad below the noise floor", name, ZERO,
                                  error / sqrt(whole));
            else
                golden_errors_add(g->errors, group, name, GRADIENT, error / own);
        }
    }
    golden_errors_add(g->errors, "grad, the whole", "grad, the whole", WHOLE, sqrt(off / whole));
    free(mine);
    return OK;
}

static enum status run(struct golden *g, const char *path)
{
    TRY(safetensors_open(&g->file, path));
    TRY(golden_file_config(g->file, g->o->settings, g->o->n_settings, &g->config));
    TRY(params_create(&g->params, &g->config));
    g->H = g->config.model_image_size / g->config.model_patch_size;
    g->C = g->config.model_prompt_dim;
    TRY(read_weights(g));
    TRY(plan_programs(g));
    take_memory(g);
    TRY(encode(g));
    TRY(decode(g));
    TRY(backward(g));
    return compare_gradients(g);
}

enum status golden_run(const char *path, const struct golden_options *o,
                       struct golden_errors *errors)
{
    struct golden g = { .o = o, .ops = o->ops, .compute = o->compute, .errors = errors };
    const enum status s = run(&g, path);

    safetensors_close(g.file);
    program_destroy(g.encoder);
    program_destroy(g.decoder);
    params_destroy(&g.params);
    return s;
}

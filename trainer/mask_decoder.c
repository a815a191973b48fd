#include "trainer/mask_decoder.h"

#include <stdio.h>

/* Norms of tokens (PyTorch's default), and of channels (LayerNorm2d). */
static const float TRANSFORMER_EPS = 1e-5f, CHANNEL_EPS = 1e-6f;

/* While the decoder is recorded. */
struct state {
    struct model *m;
    struct mask_decoder *d;
    int64_t M, H, C;       /* H: side of the token grid */
    int image, image_pe;   /* (1,T,C) while shared by all masks, then (M,T,C); (T,C) */
    int tokens, tokens_pe; /* (M,t,C) */
    bool shared, absorb;
    int64_t salt; /* numbers the dropouts */
};

static float dropout(const struct state *s)
{
    return s->m->train ? (float)s->m->config->train_dropout : 0;
}

/* x + dropout(y); x may be PROGRAM_NONE. */
static int residual(struct state *s, int x, int y)
{
    const float rate = dropout(s);

    if (x == PROGRAM_NONE && rate == 0) return y;
    return program_residual(s->m->program, x, y, PROGRAM_NONE, rate > 0 ? s->d->key : PROGRAM_NONE,
                            rate, s->salt++);
}

/* Attention with its four projections. n_keys: counts, or PROGRAM_NONE for all keys. */
static int attend(struct state *s, const char *name, int q, int k, int v, int n_keys)
{
    struct model *m = s->m;
    int y;

    q = model_linear(m, q, ACT_NONE, "mask_decoder.transformer.%s.q_proj", name);
    k = model_linear(m, k, ACT_NONE, "mask_decoder.transformer.%s.k_proj", name);
    v = model_linear(m, v, ACT_NONE, "mask_decoder.transformer.%s.v_proj", name);
    y = program_cross_attention(m->program, q, k, v, n_keys, (int)m->config->model_decoder_heads);
    return model_linear(m, y, ACT_NONE, "mask_decoder.transformer.%s.out_proj", name);
}

static int norm(struct state *s, int x, const char *name)
{
    return model_layernorm(s->m, x, TRANSFORMER_EPS, ACT_NONE, "mask_decoder.transformer.%s", name);
}

static const char *in_layer(char text[PARAM_NAME], int layer, const char *name)
{
    snprintf(text, PARAM_NAME, "layers.%d.%s", layer, name);
    return text;
}

static int projection(struct state *s, const char *name, const char *which, const char *part)
{
    return model_param(s->m, "mask_decoder.transformer.%s.%s_proj.%s", name, which, part);
}

/* tokens attend to the image; image_at: the image with its positions, where not absorbed */
static void token_to_image(struct state *s, const char *name, int image_at)
{
    struct model *m = s->m;
    int q = program_add(m->program, s->tokens, s->tokens_pe), y;

    if (s->absorb) {
        const int w[TOKEN_TO_IMAGE_WEIGHTS] = { projection(s, name, "k", "weight"),
                                                projection(s, name, "k", "bias"),
                                                projection(s, name, "v", "weight"),
                                                projection(s, name, "v", "bias") };

        q = model_linear(m, q, ACT_NONE, "mask_decoder.transformer.%s.q_proj", name);
        y = program_token_to_image(m->program, q, s->image, s->image_pe, w,
                                   (int)m->config->model_decoder_heads);
        y = model_linear(m, y, ACT_NONE, "mask_decoder.transformer.%s.out_proj", name);
    } else {
        y = attend(s, name, q, image_at, s->image, PROGRAM_NONE);
    }
    s->tokens = residual(s, s->tokens, y);
}

/* The image attends to the tokens, and is normed. */
static void image_to_token(struct state *s, const char *name, const char *norm_name, int image_at)
{
    struct model *m = s->m;
    struct program *p = m->program;
    int k = program_add(p, s->tokens, s->tokens_pe), v, y;

    if (s->absorb) {
        const float rate = dropout(s);
        const int w[IMAGE_TO_TOKEN_WEIGHTS] = {
            projection(s, name, "q", "weight"),
            projection(s, name, "q", "bias"),
            projection(s, name, "out", "weight"),
            projection(s, name, "out", "bias"),
            model_param(m, "mask_decoder.transformer.%s.weight", norm_name),
            model_param(m, "mask_decoder.transformer.%s.bias", norm_name)
        };

        k = model_linear(m, k, ACT_NONE, "mask_decoder.transformer.%s.k_proj", name);
        v = model_linear(m, s->tokens, ACT_NONE, "mask_decoder.transformer.%s.v_proj", name);
        s->image = program_image_to_token(p, s->image, s->image_pe, k, v, s->d->n_tokens, w,
                                          (int)m->config->model_decoder_heads, TRANSFORMER_EPS,
                                          rate > 0 ? s->d->key : PROGRAM_NONE, rate, s->salt++);
    } else {
        y = attend(s, name, image_at, k, s->tokens, s->d->n_tokens);
        s->image = s->shared ? program_add(p, s->image, residual(s, PROGRAM_NONE, y))
                             : residual(s, s->image, y);
        s->image = norm(s, s->image, norm_name);
    }
    s->shared = false;
}

static void layer(struct state *s, int i)
{
    struct program *p = s->m->program;
    char t[PARAM_NAME], norm4[PARAM_NAME];
    int y, image_at;

    if (i == 0) { /* the output replaces the tokens, and no position is added */
        y = attend(s, in_layer(t, i, "self_attn"), s->tokens, s->tokens, s->tokens, s->d->n_tokens);
        s->tokens = residual(s, PROGRAM_NONE, y);
    } else {
        const int q = program_add(p, s->tokens, s->tokens_pe);

        y = attend(s, in_layer(t, i, "self_attn"), q, q, s->tokens, s->d->n_tokens);
        s->tokens = residual(s, s->tokens, y);
    }
    s->tokens = norm(s, s->tokens, in_layer(t, i, "norm1"));
    image_at = s->absorb ? PROGRAM_NONE : program_add(p, s->image, s->image_pe);
    token_to_image(s, in_layer(t, i, "cross_attn_token_to_image"), image_at);
    s->tokens = norm(s, s->tokens, in_layer(t, i, "norm2"));
    y = model_linear(s->m, s->tokens, ACT_RELU, "mask_decoder.transformer.layers.%d.mlp.lin1", i);
    y = model_linear(s->m, y, ACT_NONE, "mask_decoder.transformer.layers.%d.mlp.lin2", i);
    s->tokens = norm(s, residual(s, s->tokens, y), in_layer(t, i, "norm3"));
    image_to_token(s, in_layer(t, i, "cross_attn_image_to_token"), in_layer(norm4, i, "norm4"),
                   image_at);
}

/* One of the convolutions that bring the fed-back mask to the size of the embedding. */
static int downscale(struct model *m, int x, int index, int norm_index)
{
    x = program_patch_conv(
        m->program, x, model_param(m, "prompt_encoder.mask_downscaling.%d.weight", index),
        model_param(m, "prompt_encoder.mask_downscaling.%d.bias", index), ACT_NONE);
    if (norm_index < 0) return x;
    return model_layernorm(m, x, CHANNEL_EPS, ACT_GELU, "prompt_encoder.mask_downscaling.%d",
                           norm_index);
}

/* The embedding plus the mask prompt, or what stands for none. */
static void add_dense(struct state *s, const struct mask_decoder_shape *shape)
{
    struct model *m = s->m;
    struct program *p = m->program;
    struct mask_decoder *d = s->d;
    const int64_t H = s->H, T = H * H, C = s->C;
    int x;

    if (!shape->mask_prompt) {
        d->mask = PROGRAM_NONE;
        d->dense = model_param(m, "prompt_encoder.no_mask_embed.weight"); /* (1,C) */
        x = program_add(p, PROGRAM_VIEW(p, d->embedding, T, C), d->dense);
        s->image = PROGRAM_VIEW(p, x, 1, T, C);
        s->shared = true;
        return;
    }
    d->mask = PROGRAM_INPUT(p, F32, shape->mask_prompt_grad, s->M, 4 * H, 4 * H);
    x = PROGRAM_VIEW(p, d->mask, s->M, 4 * H, 4 * H, 1);
    x = downscale(m, x, 0, 1);
    x = downscale(m, x, 3, 4);
    d->dense = downscale(m, x, 6, -1); /* (M,H,H,C) */
    s->image = program_add(p, PROGRAM_VIEW(p, d->embedding, 1, T, C),
                           PROGRAM_VIEW(p, d->dense, s->M, T, C));
    s->shared = false;
}

static void add_tokens(struct state *s, const struct mask_decoder_shape *shape)
{
    struct model *m = s->m;
    struct program *p = m->program;
    struct mask_decoder *d = s->d;
    int table[POSENC_TABLE];

    d->coords = PROGRAM_INPUT(p, F32, false, s->M, shape->n_points, 2);
    d->labels = PROGRAM_INPUT(p, I32, false, s->M, shape->n_points);
    d->n_points = PROGRAM_INPUT(p, I32, false, s->M);
    d->n_tokens = PROGRAM_INPUT(p, I32, false, s->M);
    table[0] = model_param(m, "prompt_encoder.not_a_point_embed.weight");
    for (int i = 1; i < POSENC_TABLE; i++)
        table[i] = model_param(m, "prompt_encoder.point_embeddings.%d.weight", i - 1);
    d->sparse = program_prompt_tokens(
        p, d->coords, d->labels, d->n_points,
        model_param(m, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        model_param(m, "mask_decoder.iou_token.weight"),
        model_param(m, "mask_decoder.mask_tokens.weight"), table, (int)m->config->model_image_size);
    s->tokens = s->tokens_pe = d->sparse;
}

/* Three layers on one token of every mask: (M,t,C) to (M,out). */
static int head(struct state *s, int64_t token, const char *name)
{
    struct model *m = s->m;
    int x = program_slice(m->program, s->tokens, token, 1, program_compute(m->program));

    x = PROGRAM_VIEW(m->program, x, s->M, s->C);
    x = model_linear(m, x, ACT_RELU, "mask_decoder.%s.layers.0", name);
    x = model_linear(m, x, ACT_RELU, "mask_decoder.%s.layers.1", name);
    return model_linear(m, x, ACT_NONE, "mask_decoder.%s.layers.2", name);
}

static void add_outputs(struct state *s, const struct mask_decoder_shape *shape)
{
    struct model *m = s->m;
    struct program *p = m->program;
    const char *up = "mask_decoder.output_upscaling";
    int x = PROGRAM_VIEW(p, s->image, s->M, s->H, s->H, s->C), h[MASK_TOKENS], iou;
    const int w[UPSCALE_WEIGHTS] = {
        model_param(m, "%s.0.weight", up), model_param(m, "%s.0.bias", up),
        model_param(m, "%s.1.weight", up), model_param(m, "%s.1.bias", up),
        model_param(m, "%s.3.weight", up), model_param(m, "%s.3.bias", up)
    };
    char name[PARAM_NAME];

    for (int k = 0; k < shape->n_out; k++) {
        snprintf(name, sizeof name, "output_hypernetworks_mlps.%d", shape->first_mask + k);
        h[k] = head(s, 1 + shape->first_mask + k, name);
    }
    if (m->fuse_upscaling) {
        s->d->logits = program_upscale(p, x, w, h, shape->n_out, CHANNEL_EPS);
    } else {
        x = program_upconv(p, x, w[0], w[1], ACT_NONE);
        x = program_layernorm(p, x, w[2], w[3], CHANNEL_EPS, ACT_GELU);
        x = program_upconv(p, x, w[4], w[5], ACT_GELU); /* (M,4H,4H,C/8) */
        s->d->logits = program_mask_product(p, h, shape->n_out, x);
    }
    iou = PROGRAM_VIEW(p, head(s, 0, "iou_prediction_head"), s->M, MASK_TOKENS, 1);
    iou = program_slice(p, iou, shape->first_mask, shape->n_out, F32);
    s->d->iou = PROGRAM_VIEW(p, iou, s->M, shape->n_out);
    program_output(p, s->d->logits);
    program_output(p, s->d->iou);
}

_Static_assert(CONFIG_OUTPUT_TOKENS == 1 + MASK_TOKENS, "config_tokens counts them");

int64_t mask_decoder_tokens(int64_t n_points)
{
    return 1 + MASK_TOKENS + n_points;
}

void mask_decoder_build(struct model *m, const struct mask_decoder_shape *shape, bool keep,
                        struct mask_decoder *d)
{
    const struct config *c = m->config;
    struct program *p = m->program;
    const int64_t H = c->model_image_size / c->model_patch_size, C = c->model_prompt_dim;
    struct state s = { .m = m, .d = d, .M = shape->n_masks, .H = H, .C = C };
    const bool fits = mask_decoder_tokens(shape->n_points) <= DECODER_TOKENS_MAX;
    char name[PARAM_NAME];
    int image_at;

    d->embedding = PROGRAM_INPUT(p, program_compute(p), true, 1, H, H, C);
    d->image_pe = PROGRAM_INPUT(p, program_compute(p), false, H, H, C);
    d->key = m->train && c->train_dropout > 0 ? PROGRAM_INPUT(p, I64, false, 2) : PROGRAM_NONE;
    s.image_pe = PROGRAM_VIEW(p, d->image_pe, H * H, C);
    s.absorb = m->absorb && (fits || c->run_absorb == SWITCH_ON);
    add_tokens(&s, shape);
    add_dense(&s, shape);
    if (keep) program_output(p, d->sparse);
    if (keep && shape->mask_prompt) program_output(p, d->dense);
    for (int i = 0; i < (int)c->model_decoder_depth; i++) layer(&s, i);
    snprintf(name, sizeof name, "final_attn_token_to_image");
    image_at = s.absorb ? PROGRAM_NONE : program_add(p, s.image, s.image_pe);
    token_to_image(&s, name, image_at);
    s.tokens = norm(&s, s.tokens, "norm_final_attn");
    add_outputs(&s, shape);
}

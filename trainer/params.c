#include "trainer/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/rng.h"

/* While the list is made. */
struct builder {
    struct params *p;
    int room;
    int layer;
    bool truncated; /* weights of linear layers: ViTDet's law; else PyTorch's */
    bool failed;
};

static struct param *add(struct builder *b, enum param_init init, int n_dims, const int64_t *dim,
                         const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static struct param *add(struct builder *b, enum param_init init, int n_dims, const int64_t *dim,
                         const char *fmt, ...)
{
    static struct param nowhere; /* so that a failed list can be finished before it is reported */
    struct params *p = b->p;
    struct param *q;
    va_list ap;

    if (p->n == b->room) {
        const int room = b->room ? 2 * b->room : 256;

        q = realloc(p->at, (size_t)room * sizeof *q);
        if (!q) {
            b->failed = true;
            return &nowhere;
        }
        p->at = q;
        b->room = room;
    }
    q = p->at + p->n++;
    memset(q, 0, sizeof *q);
    va_start(ap, fmt);
    ASSERT(vsnprintf(q->name, sizeof q->name, fmt, ap) < (int)sizeof q->name);
    va_end(ap);
    q->n_dims = n_dims;
    q->count = 1;
    for (int i = 0; i < n_dims; i++) {
        q->dim[i] = dim[i];
        q->count *= dim[i];
    }
    q->init = init;
    q->layer = b->layer;
    q->decay = n_dims > 1;
    q->offset = p->n_floats;
    p->n_floats += (q->count + PARAMS_ALIGN - 1) / PARAMS_ALIGN * PARAMS_ALIGN;
    p->n_trained += q->count;
    return q;
}

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (int64_t[])                       \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void add_linear(struct builder *b, const char *name, int64_t out, int64_t in)
{
    add(b, b->truncated ? INIT_TRUNCATED : INIT_FAN_IN, DIMS(out, in), "%s.weight", name)->fan_in =
        in;
    add(b, b->truncated ? INIT_ZERO : INIT_FAN_IN, DIMS(out), "%s.bias", name)->fan_in = in;
}

static void add_norm(struct builder *b, const char *name, int64_t n)
{
    add(b, INIT_ONE, DIMS(n), "%s.weight", name);
    add(b, INIT_ZERO, DIMS(n), "%s.bias", name);
}

static void add_conv(struct builder *b, const char *name, int64_t out, int64_t in, int64_t side,
                     bool bias)
{
    const int64_t fan_in = in * side * side;

    add(b, INIT_FAN_IN, DIMS(out, in, side, side), "%s.weight", name)->fan_in = fan_in;
    if (bias) add(b, INIT_FAN_IN, DIMS(out), "%s.bias", name)->fan_in = fan_in;
}

/* A transposed convolution's weight is (in,out,…), and PyTorch takes its fan from the second. */
static void add_upconv(struct builder *b, const char *name, int64_t in, int64_t out)
{
    add(b, INIT_FAN_IN, DIMS(in, out, 2, 2), "%s.weight", name)->fan_in = out * 4;
    add(b, INIT_FAN_IN, DIMS(out), "%s.bias", name)->fan_in = out * 4;
}

static void add_embedding(struct builder *b, const char *name, int64_t n, int64_t width)
{
    add(b, INIT_NORMAL, DIMS(n, width), "%s.weight", name);
}

static const char *join(char text[PARAM_NAME], const char *prefix, const char *name)
{
    ASSERT(snprintf(text, PARAM_NAME, "%s.%s", prefix, name) < PARAM_NAME);
    return text;
}

bool params_block_is_global(const struct config *c, int block)
{
    for (int i = 0; i < c->model_global_blocks.n; i++)
        if (c->model_global_blocks.v[i] == block) return true;
    return c->model_window == 0;
}

static void add_block(struct builder *b, const struct config *c, int i)
{
    const int64_t d = c->model_embed_dim, head = d / c->model_n_heads;
    const int64_t side =
        params_block_is_global(c, i) ? c->model_image_size / c->model_patch_size : c->model_window;
    char prefix[PARAM_NAME / 2], t[PARAM_NAME];

    snprintf(prefix, sizeof prefix, "image_encoder.blocks.%d", i);
    b->layer = i + 1;
    b->truncated = c->model_init == 0;
    add_norm(b, join(t, prefix, "norm1"), d);
    add(b, INIT_ZERO, DIMS(2 * side - 1, head), "%s.attn.rel_pos_h", prefix)->decay = false;
    add(b, INIT_ZERO, DIMS(2 * side - 1, head), "%s.attn.rel_pos_w", prefix)->decay = false;
    add_linear(b, join(t, prefix, "attn.qkv"), 3 * d, d);
    add_linear(b, join(t, prefix, "attn.proj"), d, d);
    add_norm(b, join(t, prefix, "norm2"), d);
    add_linear(b, join(t, prefix, "mlp.lin1"), c->model_mlp_ratio * d, d);
    add_linear(b, join(t, prefix, "mlp.lin2"), d, c->model_mlp_ratio * d);
    b->truncated = false;
}

static void add_image_encoder(struct builder *b, const struct config *c)
{
    const int64_t d = c->model_embed_dim, grid = c->model_image_size / c->model_patch_size;
    const enum param_init pos = c->model_init == 0 ? INIT_TRUNCATED : INIT_ZERO;

    b->layer = 0;
    add(b, pos, DIMS(1, grid, grid, d), "image_encoder.pos_embed")->decay = false;
    add_conv(b, "image_encoder.patch_embed.proj", d, 3, c->model_patch_size, true);
    for (int i = 0; i < (int)c->model_depth; i++) add_block(b, c, i);
    b->layer = (int)c->model_depth + 1;
    add_conv(b, "image_encoder.neck.0", c->model_prompt_dim, d, 1, false);
    add_norm(b, "image_encoder.neck.1", c->model_prompt_dim);
    add_conv(b, "image_encoder.neck.2", c->model_prompt_dim, c->model_prompt_dim, 3, false);
    add_norm(b, "image_encoder.neck.3", c->model_prompt_dim);
}

static void add_prompt_encoder(struct builder *b, const struct config *c)
{
    const int64_t n = c->model_prompt_dim, m = c->model_mask_channels;
    struct param *gaussian;
    char name[PARAM_NAME];

    gaussian = add(b, INIT_NORMAL, DIMS(2, n / 2),
                   "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    gaussian->buffer = true;
    gaussian->decay = false;
    b->p->n_trained -= gaussian->count;
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "prompt_encoder.point_embeddings.%d", i);
        add_embedding(b, name, 1, n);
    }
    add_embedding(b, "prompt_encoder.not_a_point_embed", 1, n);
    add_conv(b, "prompt_encoder.mask_downscaling.0", m / 4, 1, 2, true);
    add_norm(b, "prompt_encoder.mask_downscaling.1", m / 4);
    add_conv(b, "prompt_encoder.mask_downscaling.3", m, m / 4, 2, true);
    add_norm(b, "prompt_encoder.mask_downscaling.4", m);
    add_conv(b, "prompt_encoder.mask_downscaling.6", n, m, 1, true);
    add_embedding(b, "prompt_encoder.no_mask_embed", 1, n);
}

/* width: of the tokens; inner: of queries, keys and values. */
static void add_attention(struct builder *b, const char *prefix, int64_t width, int64_t inner)
{
    char t[PARAM_NAME];

    add_linear(b, join(t, prefix, "q_proj"), inner, width);
    add_linear(b, join(t, prefix, "k_proj"), inner, width);
    add_linear(b, join(t, prefix, "v_proj"), inner, width);
    add_linear(b, join(t, prefix, "out_proj"), width, inner);
}

static void add_decoder_layer(struct builder *b, const struct config *c, int i)
{
    const int64_t n = c->model_prompt_dim;
    char prefix[PARAM_NAME / 2], t[PARAM_NAME];

    snprintf(prefix, sizeof prefix, "mask_decoder.transformer.layers.%d", i);
    add_attention(b, join(t, prefix, "self_attn"), n, n);
    add_norm(b, join(t, prefix, "norm1"), n);
    add_attention(b, join(t, prefix, "cross_attn_token_to_image"), n, n / 2);
    add_norm(b, join(t, prefix, "norm2"), n);
    add_linear(b, join(t, prefix, "mlp.lin1"), c->model_decoder_mlp, n);
    add_linear(b, join(t, prefix, "mlp.lin2"), n, c->model_decoder_mlp);
    add_norm(b, join(t, prefix, "norm3"), n);
    add_norm(b, join(t, prefix, "norm4"), n);
    add_attention(b, join(t, prefix, "cross_attn_image_to_token"), n, n / 2);
}

static void add_mlp3(struct builder *b, const char *prefix, int64_t in, int64_t hidden, int64_t out)
{
    char t[PARAM_NAME];

    add_linear(b, join(t, prefix, "layers.0"), hidden, in);
    add_linear(b, join(t, prefix, "layers.1"), hidden, hidden);
    add_linear(b, join(t, prefix, "layers.2"), out, hidden);
}

static void add_mask_decoder(struct builder *b, const struct config *c)
{
    const int64_t n = c->model_prompt_dim;
    char name[PARAM_NAME];

    for (int i = 0; i < (int)c->model_decoder_depth; i++) add_decoder_layer(b, c, i);
    add_attention(b, "mask_decoder.transformer.final_attn_token_to_image", n, n / 2);
    add_norm(b, "mask_decoder.transformer.norm_final_attn", n);
    add_embedding(b, "mask_decoder.iou_token", 1, n);
    add_embedding(b, "mask_decoder.mask_tokens", 4, n);
    add_upconv(b, "mask_decoder.output_upscaling.0", n, n / 4);
    add_norm(b, "mask_decoder.output_upscaling.1", n / 4);
    add_upconv(b, "mask_decoder.output_upscaling.3", n / 4, n / 8);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "mask_decoder.output_hypernetworks_mlps.%d", i);
        add_mlp3(b, name, n, n, n / 8);
    }
    add_mlp3(b, "mask_decoder.iou_prediction_head", n, c->model_iou_hidden, 4);
}

enum status params_create(struct params *p, const struct config *c)
{
    struct params q = { 0 };
    struct builder b = { .p = &q };

    add_image_encoder(&b, c);
    add_prompt_encoder(&b, c);
    add_mask_decoder(&b, c);
    if (b.failed) {
        params_destroy(&q);
        FAIL(E_MEMORY, "the list of parameters");
    }
    if (c->optim_decay_all)
        for (int i = 0; i < q.n; i++) q.at[i].decay = !q.at[i].buffer;
    *p = q;
    return OK;
}

void params_destroy(struct params *p)
{
    if (!p) return;
    free(p->at);
    *p = (struct params){ 0 };
}

static int lookup(const struct params *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->at[i].name, name) == 0) return i;
    return -1;
}

int params_find(const struct params *p, const char *fmt, ...)
{
    char name[PARAM_NAME];
    va_list ap;
    int i;

    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    i = lookup(p, name);
    ASSERT(i >= 0);
    return i;
}

/* A normal deviate within two deviations: the first of the index's own sequence that is. */
static double truncated_normal(struct rng_key key, uint64_t index)
{
    enum { TRIES = 64 }; /* each fails with probability 0.046 */

    for (uint64_t i = 0; i < TRIES; i++) {
        const double x = rng_normal(key, index * TRIES + i);

        if (fabs(x) <= 2) return x;
    }
    return 0;
}

static float initial(const struct param *q, struct rng_key key, int64_t i)
{
    switch (q->init) {
    case INIT_ZERO:
        return 0;
    case INIT_ONE:
        return 1;
    case INIT_NORMAL:
        return (float)rng_normal(key, (uint64_t)i);
    case INIT_TRUNCATED:
        return (float)(0.02 * truncated_normal(key, (uint64_t)i));
    case INIT_FAN_IN:
        return (float)((2.0 * (double)rng_uniform(key, (uint64_t)i) - 1.0) /
                       sqrt((double)q->fan_in));
    }
    return 0;
}

void params_initialize(const struct params *p, uint64_t seed, float *flat)
{
    memset(flat, 0, (size_t)p->n_floats * sizeof *flat);
    for (int k = 0; k < p->n; k++) {
        const struct param *q = p->at + k;
        uint64_t name = 0;
        struct rng_key key;

        for (const char *c = q->name; *c; c++) name = rng_mix(name ^ (uint64_t)(unsigned char)*c);
        key = rng_stream(seed, RNG_INIT, name, 0);
        for (int64_t i = 0; i < q->count; i++) flat[q->offset + i] = initial(q, key, i);
    }
}

#include "tests/golden_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/rng.h"

enum status golden_file_floats(const struct safetensors *file, const char *name, int64_t count,
                               float **data)
{
    struct safetensors_entry e;

    TRY(safetensors_find(file, name, &e));
    if (e.count != count)
        FAIL(E_CORRUPT, "%s has %lld elements, %lld expected", name, (long long)e.count,
             (long long)count);
    *data = malloc((size_t)(count ? count : 1) * sizeof **data);
    if (!*data) FAIL(E_MEMORY, "tensor %s", name);
    return safetensors_to_f32(&e, *data);
}

int64_t golden_file_dim(const struct safetensors *file, const char *name, int i)
{
    struct safetensors_entry e;

    if (!safetensors_has(file, name)) return 0;
    return safetensors_find(file, name, &e) == OK ? e.dim[i] : 0;
}

static enum status meta_int(const struct safetensors *file, const char *key, int64_t *value)
{
    const char *text = safetensors_meta(file, key);
    char *end;

    if (!text) FAIL(E_CORRUPT, "the file's metadata has no %s", key);
    *value = strtoll(text, &end, 10);
    if (end == text || *end) FAIL(E_CORRUPT, "metadata %s is \"%s\", not a number", key, text);
    return OK;
}

enum status golden_file_config(const struct safetensors *file, char *const *settings, int n,
                               struct config *c)
{
    const char *text = safetensors_meta(file, "global_attn_indexes");
    struct safetensors_entry e;

    config_defaults(c);
    TRY(meta_int(file, "image_size", &c->model_image_size));
    TRY(meta_int(file, "patch_size", &c->model_patch_size));
    TRY(meta_int(file, "window_size", &c->model_window));
    TRY(meta_int(file, "embed_dim", &c->model_embed_dim));
    TRY(meta_int(file, "depth", &c->model_depth));
    TRY(meta_int(file, "num_heads", &c->model_n_heads));
    TRY(meta_int(file, "prompt_embed_dim", &c->model_prompt_dim));
    TRY(meta_int(file, "decoder_mlp_dim", &c->model_decoder_mlp));
    TRY(meta_int(file, "decoder_heads", &c->model_decoder_heads));
    TRY(meta_int(file, "mask_in_chans", &c->model_mask_channels));
    TRY(meta_int(file, "iou_head_hidden_dim", &c->model_iou_hidden));
    c->model_global_blocks.n = 0;
    while (text && *text && c->model_global_blocks.n < CONFIG_LIST) {
        char *end;

        c->model_global_blocks.v[c->model_global_blocks.n++] = strtoll(text, &end, 10);
        if (end == text) FAIL(E_CORRUPT, "metadata global_attn_indexes is \"%s\"", text);
        text = *end == ',' ? end + 1 : end;
    }
    TRY(safetensors_find(file, "w.image_encoder.blocks.0.mlp.lin1.weight", &e));
    c->model_mlp_ratio = e.dim[0] / c->model_embed_dim;
    c->train_dropout = c->train_drop_path = 0;
    for (int i = 0; i < n; i++)
        if (strchr(settings[i], '=')) TRY(config_override(c, settings[i]));
    return config_check(c);
}

/* v changed by up to GOLDEN_NUDGE of itself. */
static float nudged(float v, int draw, uint64_t index)
{
    const struct rng_key key = { 1, (uint64_t)draw };
    const float unit = (float)rng_below(key, index, 1 << 16) / (1 << 15) - 1;

    return v * (1 + GOLDEN_NUDGE * unit);
}

enum status golden_file_weights(const struct safetensors *file, const struct params *params,
                                int draw, float *to)
{
    for (int i = 0; i < params->n; i++) {
        const struct param *q = params->at + i;
        char name[PARAM_NAME + 2];
        float *data;

        snprintf(name, sizeof name, "w.%s", q->name);
        TRY(golden_file_floats(file, name, q->count, &data));
        for (int64_t k = 0; k < q->count; k++)
            to[q->offset + k] =
                draw > 0 && !q->buffer ? nudged(data[k], draw, (uint64_t)(q->offset + k)) : data[k];
        free(data);
    }
    return OK;
}

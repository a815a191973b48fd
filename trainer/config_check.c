#include "trainer/config.h"

/* What one field demands of another. Ranges of single fields are in the table. */

#include <stdbool.h>

#include "kernels/token_to_image.h"

static enum status check_model(const struct config *c)
{
    const struct config_list *g = &c->model_global_blocks;

    if (c->model_image_size % c->model_patch_size)
        FAIL(E_CONFIG, "model.image_size %lld is not a multiple of model.patch_size %lld",
             (long long)c->model_image_size, (long long)c->model_patch_size);
    if (c->model_embed_dim % c->model_n_heads)
        FAIL(E_CONFIG, "model.embed_dim %lld is not a multiple of model.n_heads %lld",
             (long long)c->model_embed_dim, (long long)c->model_n_heads);
    if (c->model_prompt_dim % (2 * c->model_decoder_heads))
        FAIL(E_CONFIG,
             "model.prompt_dim %lld is not a multiple of twice model.decoder_heads %lld: "
             "cross-attention works on half its width",
             (long long)c->model_prompt_dim, (long long)c->model_decoder_heads);
    if (c->model_prompt_dim % 8)
        FAIL(E_CONFIG, "model.prompt_dim %lld is not a multiple of 8, as the mask upscaling needs",
             (long long)c->model_prompt_dim);
    if (c->model_mask_channels % 4)
        FAIL(E_CONFIG, "model.mask_channels %lld is not a multiple of 4",
             (long long)c->model_mask_channels);
    for (int i = 0; i < g->n; i++) {
        if (g->v[i] >= c->model_depth)
            FAIL(E_CONFIG, "model.global_blocks names block %lld; the last of %lld is %lld",
                 (long long)g->v[i], (long long)c->model_depth, (long long)c->model_depth - 1);
        if (i && g->v[i] <= g->v[i - 1])
            FAIL(E_CONFIG, "model.global_blocks does not ascend at %lld", (long long)g->v[i]);
    }
    return OK;
}

static enum status check_training(const struct config *c)
{
    const struct config_list *m = &c->optim_milestones;

    if (c->train_silent_rounds >= c->train_rounds)
        FAIL(E_CONFIG, "train.silent_rounds %lld must be fewer than train.rounds %lld",
             (long long)c->train_silent_rounds, (long long)c->train_rounds);
    if (c->data_min_area >= c->data_max_area)
        FAIL(E_CONFIG, "data.min_area %g must lie below data.max_area %g", c->data_min_area,
             c->data_max_area);
    for (int i = 0; i < m->n; i++)
        if (m->v[i] < 1 || (i && m->v[i] <= m->v[i - 1]))
            FAIL(E_CONFIG, "optim.milestones must be positive and ascend, but holds %lld",
                 (long long)m->v[i]);
    if (c->eval_every && !c->data_val[0])
        FAIL(E_CONFIG, "eval.every is %lld, but data.val names no shards to evaluate on",
             (long long)c->eval_every);
    return OK;
}

int64_t config_points(const struct config *c)
{
    const int64_t clicks = c->train_rounds - 1 - c->train_silent_rounds;

    return 2 + (clicks > 0 ? clicks : 0);
}

int64_t config_tokens(const struct config *c)
{
    return CONFIG_OUTPUT_TOKENS + config_points(c);
}

static enum status check_run(const struct config *c)
{
    const int64_t tokens = config_tokens(c);

    if (c->run_absorb == SWITCH_ON && tokens > DECODER_TOKENS_MAX)
        FAIL(
            E_CONFIG,
            "run.absorb=on takes at most %d tokens a mask, but train.rounds %lld come to %lld; say "
            "train.rounds=%lld or fewer, or run.absorb=auto, which absorbs where they fit",
            DECODER_TOKENS_MAX, (long long)c->train_rounds, (long long)tokens,
            (long long)c->train_rounds - (tokens - DECODER_TOKENS_MAX)); /* a round is a click */
    return OK;
}

enum status config_check(const struct config *c)
{
    TRY(check_model(c));
    TRY(check_training(c));
    return check_run(c);
}

#include "trainer/image_encoder.h"

/* x + branch, the branch scaled for drop path and left out when it is dropped. */
static int join(struct model *m, const struct image_encoder *e, int x, int y, int branch)
{
    struct program *p = m->program;
    int sum, scale = PROGRAM_NONE;

    program_branch(p, PROGRAM_NONE);
    if (e->drop_scale != PROGRAM_NONE)
        scale = program_view(p, e->drop_scale, branch, 1, (const int64_t[]){ 1 });
    sum = program_residual(p, x, y, scale, PROGRAM_NONE, 0, 0);
    if (scale != PROGRAM_NONE) program_node(p, sum)->join = branch;
    return sum;
}

static int block(struct model *m, const struct image_encoder *e, int x, int i, int64_t grid)
{
    const struct config *c = m->config;
    struct program *p = m->program;
    const bool global = params_block_is_global(c, i);
    const int64_t window = global ? 0 : c->model_window;
    const int64_t padded = global ? grid : (grid + window - 1) / window * window;
    const double reference_rows = (double)(padded * padded) / (double)(grid * grid);
    const char *name = "image_encoder.blocks";
    int y, bias;

    program_branch(p, e->drop_scale == PROGRAM_NONE ? PROGRAM_NONE : 2 * i);
    y = model_layernorm(m, x, 1e-6f, ACT_NONE, "%s.%d.norm1", name, i);
    y = model_linear(m, y, ACT_NONE, "%s.%d.attn.qkv", name, i);
    program_node(p, y)->reference_rows = reference_rows;
    bias = model_param(m, "%s.%d.attn.qkv.bias", name, i);
    y = program_attention(p, y, bias, model_param(m, "%s.%d.attn.rel_pos_h", name, i),
                          model_param(m, "%s.%d.attn.rel_pos_w", name, i), (int)c->model_n_heads,
                          (int)window);
    y = model_linear(m, y, ACT_NONE, "%s.%d.attn.proj", name, i);
    program_node(p, y)->reference_rows = reference_rows;
    x = join(m, e, x, y, 2 * i);

    program_branch(p, e->drop_scale == PROGRAM_NONE ? PROGRAM_NONE : 2 * i + 1);
    y = model_layernorm(m, x, 1e-6f, ACT_NONE, "%s.%d.norm2", name, i);
    y = model_linear(m, y, ACT_GELU, "%s.%d.mlp.lin1", name, i);
    y = model_linear(m, y, ACT_NONE, "%s.%d.mlp.lin2", name, i);
    return join(m, e, x, y, 2 * i + 1);
}

void image_encoder_build(struct model *m, int64_t n, bool keep_blocks, struct image_encoder *e)
{
    const struct config *c = m->config;
    struct program *p = m->program;
    const int64_t side = c->model_image_size, grid = side / c->model_patch_size;
    int x, pos;

    e->image = PROGRAM_INPUT(p, F32, false, n, side, side, 3);
    e->drop_scale = m->train && c->train_drop_path > 0
                        ? PROGRAM_INPUT(p, F32, false, 2 * c->model_depth)
                        : PROGRAM_NONE;
    x = program_patch_conv(p, e->image, model_param(m, "image_encoder.patch_embed.proj.weight"),
                           model_param(m, "image_encoder.patch_embed.proj.bias"), ACT_NONE);
    pos = model_param(m, "image_encoder.pos_embed"); /* (1,H,W,C) */
    program_stream(p, true);                         /* 2 depth + 1 sums: docs/numerics.md */
    x = program_add(p, x, pos);                      /* (N,H,W,C) */
    for (int i = 0; i < (int)c->model_depth; i++) {
        program_segment(p, i);
        x = block(m, e, x, i, grid);
        e->block[i] = x;
        if (keep_blocks) program_output(p, x);
    }
    program_segment(p, PROGRAM_NONE);
    program_stream(p, false);
    x = program_patch_conv(p, x, model_param(m, "image_encoder.neck.0.weight"), PROGRAM_NONE,
                           ACT_NONE);
    x = model_layernorm(m, x, 1e-6f, ACT_NONE, "image_encoder.neck.1");
    x = program_conv3x3(p, x, model_param(m, "image_encoder.neck.2.weight"));
    x = model_layernorm(m, x, 1e-6f, ACT_NONE, "image_encoder.neck.3"); /* (N,H,W,prompt_dim) */
    e->embedding = x;
    program_output(p, x);
}

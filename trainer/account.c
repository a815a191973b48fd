#include "trainer/account.h"

#include <string.h>

#include "trainer/objective.h"

/* Dense rates: NVIDIA A100 80GB datasheet (SXM: 312 TFLOP/s bf16, 19.5 f32) with the 1.7 TB/s that kernels see of its 2.0;
 * H200 as measured with an 8192³ product and a copy (788 TFLOP/s of 989, 4.3 TB/s of 4.8), f32 by its datasheet, cut alike. */
const struct machine account_machines[2] = { { "A100", 312e12, 19.5e12, 1.7e12 },
                                             { "H200", 788e12, 60e12, 4.3e12 } };

/* Scalar operations by the accounts above the kernels. */
enum {
    GELU_OPERATIONS = 30,     /* upscale.cu, an element */
    UPSCALE_GELUS = 768,      /* a pixel of x at 256 channels */
    UPSCALE_BACKWARD = 18000, /* upscale_bwd.cu: a warp and tile of 64 pixels, 8 warps */
    LOSS_OPERATIONS = 70,     /* mask_loss.cu: a pixel of a candidate, forward */
    LOSS_BACKWARD = 96,       /* 80 a pixel, 1.2 times over */
    CLICK_OPERATIONS = 60,    /* prompt.cu: a pixel, where logits are upsampled */
};

double account_seconds(const struct account_row *r, const struct machine *m,
                       enum account_bound *bound)
{
    const double seconds[] = { r->tensor ? r->flops / m->tensor_flops : 0,
                               r->tensor ? 0 : r->flops / m->f32_flops,
                               2 * r->scalar / m->f32_flops, (r->bytes + r->scratch) / m->bytes };
    int at = 0;

    for (int i = 1; i < 4; i++)
        if (seconds[i] > seconds[at]) at = i;
    if (bound) *bound = (enum account_bound)at;
    return seconds[at];
}

static struct account_row *add(struct account *a, enum bench_phase phase, const char *op,
                               double calls, double bytes)
{
    struct account_row *r = a->row + a->n++;

    ASSERT(a->n <= ACCOUNT_ROWS);
    *r = (struct account_row){ .phase = phase, .op = op, .calls = calls, .bytes = bytes };
    return r;
}

/* ---- rows of programs ----------------------------------------------------------------------- */
/* In BF16 on a device whose fused ops are the faster ones. cross_attention multiplies on the f32 units, and so does
 * mask_product. */
static bool on_tensor_cores(enum node_op op, const struct cost *k, const struct ops *ops)
{
    switch (op) {
    case NODE_LINEAR:
    case NODE_PATCH_CONV:
    case NODE_CONV3X3:
    case NODE_UPCONV:
    case NODE_ATTENTION:
    case NODE_UPSCALE:
    case NODE_TOKEN_TO_IMAGE:
    case NODE_IMAGE_TO_TOKEN:
        return k->compute == BF16 && ops->fused;
    default:
        return false;
    }
}

/* Sizes that rows outside the lists follow from: of a step. */
struct sizes {
    double images, masks, rounds; /* masks: with those that fill the last chunk */
    double tokens, channels;      /* of the embedding */
    double blocks, hidden;        /* of the encoder: its MLPs' elements */
    double logits, truth;         /* of a mask: pixels */
    double pixels, n_params, element;
    double first_candidates, later_candidates;
};

static struct sizes sizes_of(const struct config *c, const struct cost *k)
{
    const double H = (double)(c->model_image_size / c->model_patch_size);
    const double S = (double)c->model_image_size, images = (double)c->train_batch;
    const int64_t chunk = c->train_chunk < c->train_masks ? c->train_chunk : c->train_masks;

    return (struct sizes){
        .images = images,
        .masks = images * (double)(k->n_chunks * chunk),
        .rounds = (double)c->train_rounds,
        .tokens = H * H,
        .channels = (double)c->model_prompt_dim,
        .blocks = (double)c->model_depth,
        .hidden = H * H * (double)(c->model_embed_dim * c->model_mlp_ratio),
        .logits = 16 * H * H,
        .truth = c->loss_resolution == 0 ? S * S : 16 * H * H,
        .pixels = 3 * S * S,
        .n_params = (double)k->weights_bytes / sizeof(float),
        .element = k->compute == BF16 ? 2 : 4,
        .first_candidates = c->train_box_multimask ? 3 : 4,
        .later_candidates = c->run_one_mask ? 1 : 4,
    };
}

/* What kernels in BF16 write for themselves and read again. */
static double scratch_bytes(const struct sizes *z, enum node_op op, bool decoder, bool backward)
{
    const double of_mask = z->masks * z->rounds * z->tokens * 2;

    if (!backward) return 0;
    switch (op) {
    case NODE_LINEAR: /* the gradient in front of GELU: written, read for dx and for dw (linear.cu) */
        return decoder ? 0 : 3 * 2 * z->images * z->blocks * z->hidden;
    case NODE_IMAGE_TO_TOKEN: /* two layers; weights and slopes of 128 rows, dz: written and read (…_tiles.h) */
        return 2 * 2 * of_mask * (2 * 128 + z->channels);
    case NODE_UPSCALE: /* du1, as many elements as x: written, read for dx and for dw1; x again (upscale_bwd.cu) */
        return 4 * of_mask * z->channels;
    default:
        return 0;
    }
}

/* GELUs, mostly: outside products. The encoder's MLP in linear; the decoder's upscaling. */
static double scalar_of(const struct sizes *z, enum node_op op, bool decoder, bool backward)
{
    const double pixels = z->masks * z->rounds * z->tokens;
    const double gelus = pixels * UPSCALE_GELUS * z->channels / 256;

    if (op == NODE_LINEAR && !decoder) return z->images * z->blocks * z->hidden * GELU_OPERATIONS;
    if (op != NODE_UPSCALE) return 0;
    return backward ? pixels * UPSCALE_BACKWARD * 8 * 32 / 64 * z->channels / 256
                    : gelus * GELU_OPERATIONS;
}

static void add_program(struct account *a, const struct sizes *z, const struct cost *k,
                        const struct ops *ops, const struct cost_ops *of, bool decoder)
{
    static const enum bench_phase phases[2][2] = {
        { BENCH_ENCODER_FORWARD, BENCH_ENCODER_BACKWARD },
        { BENCH_DECODER_FORWARD, BENCH_DECODER_BACKWARD }
    };
    const bool kernels16 = k->compute == BF16 && ops->fused;

    for (int backward = 0; backward < 2; backward++)
        for (int op = 0; op < NODE_OP_COUNT; op++) {
            const struct program_cost *cost = of->op[backward] + op;
            struct account_row *r;

            if (cost->n_nodes == 0) continue;
            r = add(a, phases[decoder][backward], program_op_name((enum node_op)op),
                    z->images * (double)cost->n_nodes, z->images * cost->bytes);
            r->flops = z->images * cost->flops;
            r->tensor = on_tensor_cores((enum node_op)op, k, ops);
            r->scalar = scalar_of(z, (enum node_op)op, decoder, backward);
            if (kernels16) r->scratch = scratch_bytes(z, (enum node_op)op, decoder, backward);
        }
}

/* ---- rows outside --------------------------------------------------------------------------- */
static void add_image(struct account *a, const struct sizes *z)
{
    const double embedding = z->tokens * z->channels;

    add(a, BENCH_ENCODER_FORWARD, "image_normalize", z->images, z->images * 5 * z->pixels);
    add(a, BENCH_ENCODER_FORWARD, "copy", z->images, z->images * 2 * z->element * embedding);
}

/* Runs are a small part of what they become. */
static void add_prompts(struct account *a, const struct config *c, const struct cost *k,
                        const struct sizes *z)
{
    const double chunks = z->images * (double)k->n_chunks, clicks = (double)config_points(c) - 2;
    const double later = z->rounds - 1, silent = later - clicks;
    struct account_row *r;

    add(a, BENCH_PROMPTS, "rasterize", chunks, z->masks * z->truth);
    add(a, BENCH_PROMPTS, "prompt_first", chunks, z->masks * z->truth);
    r = add(a, BENCH_PROMPTS, "prompt_next", chunks * later,
            z->masks * ((clicks + silent) * 8 * z->logits + clicks * z->truth));
    if (z->truth > z->logits) r->scalar = z->masks * clicks * z->truth * CLICK_OPERATIONS;
}

static void add_loss(struct account *a, const struct cost *k, const struct sizes *z)
{
    const double chunks = z->images * (double)k->n_chunks * z->rounds;
    const double candidates = z->first_candidates + (z->rounds - 1) * z->later_candidates;
    struct account_row *r;

    r = add(a, BENCH_LOSS, "mask_loss_fwd", chunks,
            z->masks * (4 * candidates * z->logits + z->rounds * z->truth));
    r->scalar = z->masks * candidates * z->truth * LOSS_OPERATIONS;
    r = add(a, BENCH_LOSS, "mask_loss_bwd", chunks,
            z->masks * (4 * candidates * z->logits + z->rounds * (4 * z->logits + z->truth)));
    r->scalar = z->masks * z->rounds * z->truth * LOSS_BACKWARD;
}

static void add_update(struct account *a, const struct cost *k, const struct sizes *z)
{
    if (k->compute == BF16)
        add(a, BENCH_ENCODER_BACKWARD, "cast", z->images, z->images * 6 * z->tokens * z->channels);
    add(a, BENCH_SUMS, "zero", z->images, z->images * 4 * z->n_params);
    if (z->images > 1) /* a tree's merges; where one rank has all images */
        add(a, BENCH_SUMS, "accumulate", z->images - 1, (z->images - 1) * 12 * z->n_params);
    add(a, BENCH_SUMS, "grad_norm", 1, 4 * z->n_params);
    add(a, BENCH_OPTIMIZER, "adamw", 1, (k->compute == BF16 ? 30 : 28) * z->n_params);
}

/* ---- the encoder's attention ---------------------------------------------------------------- */
static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* One block's, by its operands and by the scratch it asks for. */
static enum status look_at_attention(const struct config *c, const struct ops *ops,
                                     const struct cost *k, int64_t window, struct account *a)
{
    const int64_t H = c->model_image_size / c->model_patch_size, C = c->model_embed_dim;
    const int64_t side = window > 0 ? window : H, D = C / c->model_n_heads;
    const int heads = (int)c->model_n_heads;
    const struct tensor qkv = tensor_4d(NULL, k->compute, 1, H, H, 3 * C);
    const struct tensor bias = tensor_1d(NULL, F32, 3 * C);
    const struct tensor rel = tensor_2d(NULL, F32, 2 * side - 1, D);
    const struct tensor y = tensor_4d(NULL, k->compute, 1, H, H, C);
    const struct tensor lse = tensor_4d(NULL, F32, 1, heads, H, H);
    struct stream dry = { .planning = true };
    const double scores = (double)dtype_bytes(k->compute) * heads * (double)(side * side) *
                          (double)((H + side - 1) / side * ((H + side - 1) / side) * side * side);

    TRY(ops->attention_fwd(y, lse, qkv, bias, rel, rel, heads, (int)window, &dry));
    TRY(ops->attention_bwd(qkv, bias, rel, rel, y, y, lse, qkv, bias, rel, rel, heads, (int)window,
                           &dry));
    a->attention_tensor =
        larger(a->attention_tensor, (double)tensor_bytes(qkv)); /* dqkv, the largest operand */
    a->attention_scratch = larger(a->attention_scratch, (double)dry.scratch_need);
    a->attention_scores = larger(a->attention_scores, scores);
    return OK;
}

enum status account_of(const struct config *c, const struct ops *ops, const struct cost *k,
                       struct account *a)
{
    const struct sizes z = sizes_of(c, k);
    const double masks = z.images * (double)c->train_masks, later = z.rounds - 1;

    memset(a, 0, sizeof *a);
    add_image(a, &z);
    add_program(a, &z, k, ops, &k->encoder_ops, false);
    add_prompts(a, c, k, &z);
    add_program(a, &z, k, ops, &k->decoder_ops, true);
    add_loss(a, k, &z);
    add_update(a, k, &z);
    a->flops_reference[BENCH_ENCODER_FORWARD] = z.images * k->encoder.forward.flops_reference;
    a->flops_reference[BENCH_ENCODER_BACKWARD] = z.images * k->encoder.backward.flops_reference;
    a->flops_reference[BENCH_DECODER_FORWARD] =
        masks * (k->decoder_first.forward.flops_reference +
                 later * k->decoder_next.forward.flops_reference);
    a->flops_reference[BENCH_DECODER_BACKWARD] = 2 * a->flops_reference[BENCH_DECODER_FORWARD];
    TRY(look_at_attention(c, ops, k, 0, a));
    return c->model_window > 0 ? look_at_attention(c, ops, k, c->model_window, a) : OK;
}

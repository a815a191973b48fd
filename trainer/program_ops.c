#include "trainer/program_ops.h"

/* ---- linear and convolutions: in x w b, out y pre ------------------------------------------- */
static enum status linear_forward(const struct node *n, const struct ops *ops,
                                  struct node_operands *o, struct stream *s)
{
    return ops->linear_fwd(o->out[0], o->out[1], o->in[0], o->in[1], o->in[2], n->act, s);
}

static enum status linear_backward(const struct node *n, const struct ops *ops,
                                   struct node_operands *o, struct stream *s)
{
    return ops->linear_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_out, o->in[0], o->in[1],
                           o->out[0], o->out[1], n->act, s);
}

/* Every output element of these is a sum over w's other dimensions. */
static void linear_macs(const struct node *n, const struct node_operands *o, double *here,
                        double *reference)
{
    const double rows = (double)tensor_rows(o->in[0]);

    *here = rows * (double)tensor_count(o->in[1]);
    *reference = *here * n->reference_rows;
}

static enum status patch_conv_forward(const struct node *n, const struct ops *ops,
                                      struct node_operands *o, struct stream *s)
{
    return ops->patch_conv_fwd(o->out[0], o->out[1], o->in[0], o->in[1], o->in[2], n->act, s);
}

static enum status patch_conv_backward(const struct node *n, const struct ops *ops,
                                       struct node_operands *o, struct stream *s)
{
    return ops->patch_conv_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_out, o->in[0], o->in[1],
                               o->out[0], o->out[1], n->act, s);
}

/* One product with all of w for every output pixel. */
static void conv_macs(const struct node *n, const struct node_operands *o, double *here,
                      double *reference)
{
    (void)n;
    *here = (double)tensor_rows(o->out[0]) * (double)tensor_count(o->in[1]);
    *reference = *here;
}

static enum status conv3x3_forward(const struct node *n, const struct ops *ops,
                                   struct node_operands *o, struct stream *s)
{
    (void)n;
    return ops->conv3x3_fwd(o->out[0], o->in[0], o->in[1], s);
}

static enum status conv3x3_backward(const struct node *n, const struct ops *ops,
                                    struct node_operands *o, struct stream *s)
{
    (void)n;
    return ops->conv3x3_bwd(o->g_in[0], o->g_in[1], o->g_out, o->in[0], o->in[1], s);
}

static enum status upconv_forward(const struct node *n, const struct ops *ops,
                                  struct node_operands *o, struct stream *s)
{
    return ops->upconv_fwd(o->out[0], o->out[1], o->in[0], o->in[1], o->in[2], n->act, s);
}

static enum status upconv_backward(const struct node *n, const struct ops *ops,
                                   struct node_operands *o, struct stream *s)
{
    return ops->upconv_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_out, o->in[0], o->in[1],
                           o->out[0], o->out[1], n->act, s);
}

/* ---- layernorm: in x gamma beta, out y mean rstd -------------------------------------------- */
static enum status layernorm_forward(const struct node *n, const struct ops *ops,
                                     struct node_operands *o, struct stream *s)
{
    return ops->layernorm_fwd(o->out[0], o->out[1], o->out[2], o->in[0], o->in[1], o->in[2], n->eps,
                              n->act, s);
}

static enum status layernorm_backward(const struct node *n, const struct ops *ops,
                                      struct node_operands *o, struct stream *s)
{
    return ops->layernorm_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_out, o->in[0], o->in[1],
                              o->in[2], o->out[1], o->out[2], n->act, s);
}

static void no_macs(const struct node *n, const struct node_operands *o, double *here,
                    double *reference)
{
    (void)n;
    (void)o;
    *here = *reference = 0; /* by the field's custom, norms and sums are not counted */
}

/* ---- attention: in qkv qkv_bias rel_h rel_w, out y lse -------------------------------------- */
static enum status attention_forward(const struct node *n, const struct ops *ops,
                                     struct node_operands *o, struct stream *s)
{
    return ops->attention_fwd(o->out[0], o->out[1], o->in[0], o->in[1], o->in[2], o->in[3],
                              n->n_heads, n->window, s);
}

static enum status attention_backward(const struct node *n, const struct ops *ops,
                                      struct node_operands *o, struct stream *s)
{
    return ops->attention_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_in[3], o->g_out, o->out[0],
                              o->out[1], o->in[0], o->in[1], o->in[2], o->in[3], n->n_heads,
                              n->window, s);
}

/* Scores, their product with v, and the two relative-position products. */
static void attention_macs(const struct node *n, const struct node_operands *o, double *here,
                           double *reference)
{
    const struct tensor y = o->out[0];
    const int64_t H = y.dim[1], W = y.dim[2], w = n->window;
    const int64_t ph = w > 0 ? (H + w - 1) / w * w : H, pw = w > 0 ? (W + w - 1) / w * w : W;
    const double keys = w > 0 ? (double)(w * w) : (double)(H * W);
    const double rel = tensor_is_none(o->in[2]) ? 0 : w > 0 ? (double)(2 * w) : (double)(H + W);
    const double per_query = (double)y.dim[3] * (2 * keys + rel);

    *here = (double)(y.dim[0] * H * W) * per_query;
    *reference = (double)(y.dim[0] * ph * pw) * per_query;
}

/* ---- cross attention: in q k v n_keys, out y lse -------------------------------------------- */
static enum status cross_attention_forward(const struct node *n, const struct ops *ops,
                                           struct node_operands *o, struct stream *s)
{
    return ops->cross_attention_fwd(o->out[0], o->out[1], o->in[0], o->in[1], o->in[2], o->in[3],
                                    n->n_heads, s);
}

static enum status cross_attention_backward(const struct node *n, const struct ops *ops,
                                            struct node_operands *o, struct stream *s)
{
    return ops->cross_attention_bwd(o->g_in[0], o->g_in[1], o->g_in[2], o->g_out, o->out[0],
                                    o->out[1], o->in[0], o->in[1], o->in[2], o->in[3], n->n_heads,
                                    s);
}

static void cross_attention_macs(const struct node *n, const struct node_operands *o, double *here,
                                 double *reference)
{
    (void)n;
    *here = 2.0 * (double)tensor_count(o->out[0]) * (double)o->in[1].dim[1];
    *reference = *here;
}

/* ---- prompt tokens: in coords labels n_points gaussian iou_token mask_tokens table[5], out y -- */
static enum status prompt_tokens_forward(const struct node *n, const struct ops *ops,
                                         struct node_operands *o, struct stream *s)
{
    return ops->prompt_tokens_fwd(o->out[0], o->in[0], o->in[1], o->in[2], o->in[3], o->in[4],
                                  o->in[5], o->in + 6, n->frame, s);
}

static enum status prompt_tokens_backward(const struct node *n, const struct ops *ops,
                                          struct node_operands *o, struct stream *s)
{
    (void)n;
    return ops->prompt_tokens_bwd(o->g_in[4], o->g_in[5], o->g_in + 6, o->g_out, o->in[1], o->in[2],
                                  s);
}

/* ---- sums: residual in x b scale key; add in a b; out y ------------------------------------- */
static enum status residual_forward(const struct node *n, const struct ops *ops,
                                    struct node_operands *o, struct stream *s)
{
    return ops->residual_fwd(o->out[0], o->in[0], o->in[1], o->in[2], o->in[3], n->dropout, n->salt,
                             s);
}

static enum status residual_backward(const struct node *n, const struct ops *ops,
                                     struct node_operands *o, struct stream *s)
{
    return ops->residual_bwd(o->g_in[0], o->g_in[1], o->g_out, o->in[2], o->in[3], n->dropout,
                             n->salt, s);
}

static enum status add_forward(const struct node *n, const struct ops *ops, struct node_operands *o,
                               struct stream *s)
{
    (void)n;
    return ops->add_fwd(o->out[0], o->in[0], o->in[1], s);
}

static enum status add_backward(const struct node *n, const struct ops *ops,
                                struct node_operands *o, struct stream *s)
{
    (void)n;
    return ops->add_bwd(o->g_in[0], o->g_in[1], o->g_out, s);
}

/* ---- slice in x; mask product in u h[…]; out y ---------------------------------------------- */
static enum status slice_forward(const struct node *n, const struct ops *ops,
                                 struct node_operands *o, struct stream *s)
{
    return ops->slice_fwd(o->out[0], o->in[0], n->first, s);
}

static enum status slice_backward(const struct node *n, const struct ops *ops,
                                  struct node_operands *o, struct stream *s)
{
    return ops->slice_bwd(o->g_in[0], o->g_out, n->first, s);
}

static enum status mask_product_forward(const struct node *n, const struct ops *ops,
                                        struct node_operands *o, struct stream *s)
{
    return ops->mask_product_fwd(o->out[0], o->in + 1, n->n_in - 1, o->in[0], s);
}

static enum status mask_product_backward(const struct node *n, const struct ops *ops,
                                         struct node_operands *o, struct stream *s)
{
    return ops->mask_product_bwd(o->g_in + 1, o->g_in[0], o->g_out, o->in + 1, n->n_in - 1,
                                 o->in[0], s);
}

static void mask_product_macs(const struct node *n, const struct node_operands *o, double *here,
                              double *reference)
{
    (void)n;
    *here = (double)tensor_count(o->out[0]) * (double)tensor_cols(o->in[0]);
    *reference = *here;
}

/* ---- upscale: in x w1 b1 gamma beta w2 b2 h[…], out y --------------------------------------- */
static struct upscale_weights upscale_of(const struct tensor *t)
{
    return (struct upscale_weights){ t[1], t[2], t[3], t[4], t[5], t[6] };
}

static enum status upscale_forward(const struct node *n, const struct ops *ops,
                                   struct node_operands *o, struct stream *s)
{
    const struct upscale_weights w = upscale_of(o->in);

    return ops->upscale_fwd(o->out[0], o->in[0], &w, o->in + 1 + UPSCALE_WEIGHTS,
                            n->n_in - 1 - UPSCALE_WEIGHTS, n->eps, s);
}

static enum status upscale_backward(const struct node *n, const struct ops *ops,
                                    struct node_operands *o, struct stream *s)
{
    const struct upscale_weights w = upscale_of(o->in), dw = upscale_of(o->g_in);
    const int first_h = 1 + UPSCALE_WEIGHTS;

    return ops->upscale_bwd(o->g_in[0], &dw, o->g_in + first_h, o->g_out, o->in[0], &w,
                            o->in + first_h, n->n_in - first_h, n->eps, s);
}

static void upscale_macs(const struct node *n, const struct node_operands *o, double *here,
                         double *reference)
{
    const double rows = (double)tensor_rows(o->in[0]), n_h = n->n_in - 1 - UPSCALE_WEIGHTS;

    *here = rows * (double)(tensor_count(o->in[1]) + 4 * tensor_count(o->in[5])) +
            16 * rows * n_h * (double)o->in[5].dim[1];
    *reference = *here;
}

/* ---- token to image: in q x pe wk bk wv bv, out y lse z ------------------------------------- */
static struct token_to_image_weights token_to_image_of(const struct tensor *t)
{
    return (struct token_to_image_weights){ t[3], t[4], t[5], t[6] };
}

static enum status token_to_image_forward(const struct node *n, const struct ops *ops,
                                          struct node_operands *o, struct stream *s)
{
    const struct token_to_image_weights w = token_to_image_of(o->in);

    return ops->token_to_image_fwd(o->out[0], o->out[1], o->out[2], o->in[0], o->in[1], o->in[2],
                                   &w, n->n_heads, s);
}

static enum status token_to_image_backward(const struct node *n, const struct ops *ops,
                                           struct node_operands *o, struct stream *s)
{
    const struct token_to_image_weights w = token_to_image_of(o->in);
    const struct token_to_image_weights dw = token_to_image_of(o->g_in);

    return ops->token_to_image_bwd(o->g_in[0], o->g_in[1], &dw, o->g_out, o->out[0], o->out[1],
                                   o->out[2], o->in[0], o->in[1], o->in[2], &w, n->n_heads, s);
}

/* Here, two products of every row of x with a mask's head-tokens. In the reference, two projections of
 * x, and attention. */
static void token_to_image_macs(const struct node *n, const struct node_operands *o, double *here,
                                double *reference)
{
    const double M = (double)o->in[0].dim[0], t = (double)o->in[0].dim[1];
    const double I = (double)o->in[0].dim[2], T = (double)o->in[1].dim[1];
    const double C = (double)o->in[1].dim[2];

    *here = 2 * M * T * C * t * n->n_heads;
    *reference = 2 * (double)o->in[1].dim[0] * T * C * I + 2 * M * t * T * I;
}

/* ---- image to token: in x pe k v n_tokens key wq bq wo bo gamma beta, out y mean rstd ------- */
static struct image_to_token_weights image_to_token_of(const struct tensor *t)
{
    return (struct image_to_token_weights){ t[6], t[7], t[8], t[9], t[10], t[11] };
}

static enum status image_to_token_forward(const struct node *n, const struct ops *ops,
                                          struct node_operands *o, struct stream *s)
{
    const struct image_to_token_weights w = image_to_token_of(o->in);

    return ops->image_to_token_fwd(o->out[0], o->out[1], o->out[2], o->in[0], o->in[1], o->in[2],
                                   o->in[3], o->in[4], &w, n->n_heads, n->eps, o->in[5], n->dropout,
                                   n->salt, s);
}

static enum status image_to_token_backward(const struct node *n, const struct ops *ops,
                                           struct node_operands *o, struct stream *s)
{
    const struct image_to_token_weights w = image_to_token_of(o->in);
    const struct image_to_token_weights dw = image_to_token_of(o->g_in);

    return ops->image_to_token_bwd(o->g_in[0], o->g_in[2], o->g_in[3], &dw, o->g_out, o->in[0],
                                   o->in[1], o->in[2], o->in[3], o->in[4], &w, o->out[1], o->out[2],
                                   n->n_heads, n->eps, o->in[5], n->dropout, n->salt, s);
}

static void image_to_token_macs(const struct node *n, const struct node_operands *o, double *here,
                                double *reference)
{
    const double M = (double)o->in[2].dim[0], t = (double)o->in[2].dim[1];
    const double I = (double)o->in[2].dim[2], T = (double)o->in[0].dim[1];
    const double C = (double)o->in[0].dim[2];

    *here = 2 * M * T * C * t * n->n_heads;
    *reference = ((double)o->in[0].dim[0] + M) * T * C * I + 2 * M * t * T * I;
}

enum { X0 = 1, X1 = 2, X2 = 4, X3 = 8, X5 = 32, X6 = 64, X8 = 256, ALL = 0xFFFF };

/* clang-format off */
const struct node_kind node_kinds[NODE_OP_COUNT] = {
    [NODE_LINEAR] =          { "linear", X1, X0 | X1, X0 | X1, linear_forward, linear_backward, linear_macs, 2 },
    [NODE_PATCH_CONV] =      { "patch_conv", X1, X0 | X1, X0 | X1, patch_conv_forward, patch_conv_backward, conv_macs, 2 },
    [NODE_CONV3X3] =         { "conv3x3", X1, X0 | X1, 0, conv3x3_forward, conv3x3_backward, conv_macs, 2 },
    [NODE_UPCONV] =          { "upconv", X1, X0 | X1, X0 | X1, upconv_forward, upconv_backward, linear_macs, 2 },
    [NODE_LAYERNORM] =       { "layernorm", 0, X0 | X1 | X2, X1 | X2, layernorm_forward, layernorm_backward, no_macs, 0 },
    [NODE_ATTENTION] =       { "attention", 0, X0 | X1 | X2 | X3, X0 | X1, attention_forward, attention_backward, attention_macs, 2.5 },
    [NODE_CROSS_ATTENTION] = { "cross_attention", 0, X0 | X1 | X2 | X3, X0 | X1, cross_attention_forward, cross_attention_backward, cross_attention_macs, 2.5 },
    [NODE_PROMPT_TOKENS] =   { "prompt_tokens", 0, X1 | X2, 0, prompt_tokens_forward, prompt_tokens_backward, no_macs, 0 },
    [NODE_RESIDUAL] =        { "residual", 0, X2 | X3, 0, residual_forward, residual_backward, no_macs, 0 },
    [NODE_ADD] =             { "add", 0, 0, 0, add_forward, add_backward, no_macs, 0 },
    [NODE_SLICE] =           { "slice", 0, 0, 0, slice_forward, slice_backward, no_macs, 0 },
    [NODE_MASK_PRODUCT] =    { "mask_product", 0, ALL, 0, mask_product_forward, mask_product_backward, mask_product_macs, 2 },
    [NODE_UPSCALE] =         { "upscale", X1 | X5, ALL, 0, upscale_forward, upscale_backward, upscale_macs, 3 },
    [NODE_TOKEN_TO_IMAGE] =  { "token_to_image", X3 | X5, ALL, X0 | X1 | X2, token_to_image_forward, token_to_image_backward, token_to_image_macs, 2.5 },
    [NODE_IMAGE_TO_TOKEN] =  { "image_to_token", X6 | X8, ALL, X1 | X2, image_to_token_forward, image_to_token_backward, image_to_token_macs, 3 },
};
/* clang-format on */

uint32_t node_reads_out(const struct node *n)
{
    switch (n->op) {
    case NODE_LINEAR:
    case NODE_PATCH_CONV:
    case NODE_UPCONV:
        return n->act == ACT_RELU ? X0 : n->act == ACT_GELU ? X1 : 0;
    default:
        return node_kinds[n->op].reads_out;
    }
}

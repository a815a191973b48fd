#include "tests/golden_rounded.h"

#include <stdlib.h>

#include "kernels/base/bf16.h"
#include "kernels/base/check.h"

/* The bf16 operands of the op being run, and what stands in for them. */
enum { OPERANDS = 32 };
static struct {
    uint16_t *narrow;
    float *wide;
    int64_t n;
} operand[OPERANDS];
static int n_operands;

/* The tensor in f32; the same memory twice is the same stand-in, so that an op may work in place. */
static struct tensor widened(struct tensor t)
{
    const int64_t n = tensor_count(t);
    float *wide;

    if (t.dtype != BF16) return t;
    t.dtype = F32;
    if (!t.data) return t;
    for (int i = 0; i < n_operands; i++)
        if (operand[i].narrow == t.data && operand[i].n == n) {
            t.data = operand[i].wide;
            return t;
        }
    wide = malloc((size_t)(n + 1) * sizeof *wide);
    ASSERT(wide && n_operands < OPERANDS);
    for (int64_t i = 0; i < n; i++) wide[i] = bf16_to_float(((uint16_t *)t.data)[i]);
    operand[n_operands].narrow = t.data;
    operand[n_operands].wide = wide;
    operand[n_operands++].n = n;
    t.data = wide;
    return t;
}

/* Results are rounded; what was only read comes back as it was, since a widened bf16 rounds to itself. */
static enum status narrowed(enum status s)
{
    for (int i = 0; i < n_operands; i++) {
        for (int64_t k = 0; k < operand[i].n; k++)
            operand[i].narrow[k] = bf16_from_float(operand[i].wide[k]);
        free(operand[i].wide);
    }
    n_operands = 0;
    return s;
}

static void widen_all(struct tensor *to, const struct tensor *from, int n)
{
    for (int i = 0; i < n; i++) to[i] = widened(from[i]);
}

#define W(t) widened(t)
/* A struct of tensors, such as a fused op's weights: x into x_. */
#define WIDEN_STRUCT(x)                                                                            \
    widen_all((struct tensor *)&x##_, (const struct tensor *)x,                                    \
              (int)(sizeof *x / sizeof(struct tensor)))
enum { HEADS = 8 };

/* Ops that have the operands of a dense layer. */
#define DENSE(op)                                                                                  \
    static enum status op##_fwd(struct tensor y, struct tensor pre, struct tensor x,               \
                                struct tensor w, struct tensor b, enum activation act,             \
                                struct stream *s)                                                  \
    {                                                                                              \
        return narrowed(ops_cpu.op##_fwd(W(y), W(pre), W(x), W(w), W(b), act, s));                 \
    }                                                                                              \
    static enum status op##_bwd(struct tensor dx, struct tensor dw, struct tensor db,              \
                                struct tensor dy, struct tensor x, struct tensor w,                \
                                struct tensor y, struct tensor pre, enum activation act,           \
                                struct stream *s)                                                  \
    {                                                                                              \
        return narrowed(                                                                           \
            ops_cpu.op##_bwd(W(dx), W(dw), W(db), W(dy), W(x), W(w), W(y), W(pre), act, s));       \
    }
DENSE(linear)
DENSE(patch_conv)
DENSE(upconv)

static enum status conv3x3_fwd(struct tensor y, struct tensor x, struct tensor w, struct stream *s)
{
    return narrowed(ops_cpu.conv3x3_fwd(W(y), W(x), W(w), s));
}

static enum status conv3x3_bwd(struct tensor dx, struct tensor dw, struct tensor dy,
                               struct tensor x, struct tensor w, struct stream *s)
{
    return narrowed(ops_cpu.conv3x3_bwd(W(dx), W(dw), W(dy), W(x), W(w), s));
}

static enum status layernorm_fwd(struct tensor y, struct tensor mean, struct tensor rstd,
                                 struct tensor x, struct tensor gamma, struct tensor beta,
                                 float eps, enum activation act, struct stream *s)
{
    return narrowed(
        ops_cpu.layernorm_fwd(W(y), W(mean), W(rstd), W(x), W(gamma), W(beta), eps, act, s));
}

static enum status layernorm_bwd(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                                 struct tensor dy, struct tensor x, struct tensor gamma,
                                 struct tensor beta, struct tensor mean, struct tensor rstd,
                                 enum activation act, struct stream *s)
{
    return narrowed(ops_cpu.layernorm_bwd(W(dx), W(dgamma), W(dbeta), W(dy), W(x), W(gamma),
                                          W(beta), W(mean), W(rstd), act, s));
}

static enum status attention_fwd(struct tensor y, struct tensor lse, struct tensor qkv,
                                 struct tensor qkv_bias, struct tensor rel_h, struct tensor rel_w,
                                 int n_heads, int window, struct stream *s)
{
    return narrowed(ops_cpu.attention_fwd(W(y), W(lse), W(qkv), W(qkv_bias), W(rel_h), W(rel_w),
                                          n_heads, window, s));
}

static enum status attention_bwd(struct tensor dqkv, struct tensor dqkv_bias, struct tensor drel_h,
                                 struct tensor drel_w, struct tensor dy, struct tensor y,
                                 struct tensor lse, struct tensor qkv, struct tensor qkv_bias,
                                 struct tensor rel_h, struct tensor rel_w, int n_heads, int window,
                                 struct stream *s)
{
    return narrowed(ops_cpu.attention_bwd(W(dqkv), W(dqkv_bias), W(drel_h), W(drel_w), W(dy), W(y),
                                          W(lse), W(qkv), W(qkv_bias), W(rel_h), W(rel_w), n_heads,
                                          window, s));
}

static enum status cross_attention_fwd(struct tensor y, struct tensor lse, struct tensor q,
                                       struct tensor k, struct tensor v, struct tensor n_keys,
                                       int n_heads, struct stream *s)
{
    return narrowed(
        ops_cpu.cross_attention_fwd(W(y), W(lse), W(q), W(k), W(v), W(n_keys), n_heads, s));
}

static enum status cross_attention_bwd(struct tensor dq, struct tensor dk, struct tensor dv,
                                       struct tensor dy, struct tensor y, struct tensor lse,
                                       struct tensor q, struct tensor k, struct tensor v,
                                       struct tensor n_keys, int n_heads, struct stream *s)
{
    return narrowed(ops_cpu.cross_attention_bwd(W(dq), W(dk), W(dv), W(dy), W(y), W(lse), W(q),
                                                W(k), W(v), W(n_keys), n_heads, s));
}

static enum status token_to_image_fwd(struct tensor y, struct tensor lse, struct tensor z,
                                      struct tensor q, struct tensor x, struct tensor pe,
                                      const struct token_to_image_weights *w, int n_heads,
                                      struct stream *s)
{
    struct token_to_image_weights w_;

    WIDEN_STRUCT(w);
    return narrowed(
        ops_cpu.token_to_image_fwd(W(y), W(lse), W(z), W(q), W(x), W(pe), &w_, n_heads, s));
}

static enum status token_to_image_bwd(struct tensor dq, struct tensor dx,
                                      const struct token_to_image_weights *dw, struct tensor dy,
                                      struct tensor y, struct tensor lse, struct tensor z,
                                      struct tensor q, struct tensor x, struct tensor pe,
                                      const struct token_to_image_weights *w, int n_heads,
                                      struct stream *s)
{
    struct token_to_image_weights dw_, w_;

    WIDEN_STRUCT(dw);
    WIDEN_STRUCT(w);
    return narrowed(ops_cpu.token_to_image_bwd(W(dq), W(dx), &dw_, W(dy), W(y), W(lse), W(z), W(q),
                                               W(x), W(pe), &w_, n_heads, s));
}

static enum status image_to_token_fwd(struct tensor y, struct tensor mean, struct tensor rstd,
                                      struct tensor x, struct tensor pe, struct tensor k,
                                      struct tensor v, struct tensor n_tokens,
                                      const struct image_to_token_weights *w, int n_heads,
                                      float eps, struct tensor key, float dropout, int64_t salt,
                                      struct stream *s)
{
    struct image_to_token_weights w_;

    WIDEN_STRUCT(w);
    return narrowed(ops_cpu.image_to_token_fwd(W(y), W(mean), W(rstd), W(x), W(pe), W(k), W(v),
                                               W(n_tokens), &w_, n_heads, eps, W(key), dropout,
                                               salt, s));
}

static enum status image_to_token_bwd(struct tensor dx, struct tensor dk, struct tensor dv,
                                      const struct image_to_token_weights *dw, struct tensor dy,
                                      struct tensor x, struct tensor pe, struct tensor k,
                                      struct tensor v, struct tensor n_tokens,
                                      const struct image_to_token_weights *w, struct tensor mean,
                                      struct tensor rstd, int n_heads, float eps, struct tensor key,
                                      float dropout, int64_t salt, struct stream *s)
{
    struct image_to_token_weights dw_, w_;

    WIDEN_STRUCT(dw);
    WIDEN_STRUCT(w);
    return narrowed(ops_cpu.image_to_token_bwd(W(dx), W(dk), W(dv), &dw_, W(dy), W(x), W(pe), W(k),
                                               W(v), W(n_tokens), &w_, W(mean), W(rstd), n_heads,
                                               eps, W(key), dropout, salt, s));
}

static enum status prompt_tokens_fwd(struct tensor tokens, struct tensor coords,
                                     struct tensor labels, struct tensor n_points,
                                     struct tensor gaussian, struct tensor iou_token,
                                     struct tensor mask_tokens,
                                     const struct tensor table[POSENC_TABLE], int frame,
                                     struct stream *s)
{
    struct tensor table_[POSENC_TABLE];

    widen_all(table_, table, POSENC_TABLE);
    return narrowed(ops_cpu.prompt_tokens_fwd(W(tokens), W(coords), W(labels), W(n_points),
                                              W(gaussian), W(iou_token), W(mask_tokens), table_,
                                              frame, s));
}

static enum status prompt_tokens_bwd(struct tensor diou_token, struct tensor dmask_tokens,
                                     const struct tensor dtable[POSENC_TABLE],
                                     struct tensor dtokens, struct tensor labels,
                                     struct tensor n_points, struct stream *s)
{
    struct tensor dtable_[POSENC_TABLE];

    widen_all(dtable_, dtable, POSENC_TABLE);
    return narrowed(ops_cpu.prompt_tokens_bwd(W(diou_token), W(dmask_tokens), dtable_, W(dtokens),
                                              W(labels), W(n_points), s));
}

static enum status residual_fwd(struct tensor y, struct tensor x, struct tensor b,
                                struct tensor scale, struct tensor key, float p, int64_t salt,
                                struct stream *s)
{
    return narrowed(ops_cpu.residual_fwd(W(y), W(x), W(b), W(scale), W(key), p, salt, s));
}

static enum status residual_bwd(struct tensor dx, struct tensor db, struct tensor dy,
                                struct tensor scale, struct tensor key, float p, int64_t salt,
                                struct stream *s)
{
    return narrowed(ops_cpu.residual_bwd(W(dx), W(db), W(dy), W(scale), W(key), p, salt, s));
}

static enum status residual_layernorm_fwd(struct tensor sum, struct tensor y, struct tensor mean,
                                          struct tensor rstd, struct tensor x, struct tensor b,
                                          struct tensor scale, struct tensor gamma,
                                          struct tensor beta, float eps, struct stream *s)
{
    return narrowed(ops_cpu.residual_layernorm_fwd(W(sum), W(y), W(mean), W(rstd), W(x), W(b),
                                                   W(scale), W(gamma), W(beta), eps, s));
}

static enum status residual_layernorm_bwd(struct tensor dx, struct tensor db, struct tensor dgamma,
                                          struct tensor dbeta, struct tensor dsum, struct tensor dy,
                                          struct tensor sum, struct tensor gamma,
                                          struct tensor mean, struct tensor rstd,
                                          struct tensor scale, struct stream *s)
{
    return narrowed(ops_cpu.residual_layernorm_bwd(W(dx), W(db), W(dgamma), W(dbeta), W(dsum),
                                                   W(dy), W(sum), W(gamma), W(mean), W(rstd),
                                                   W(scale), s));
}

static enum status add_fwd(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    return narrowed(ops_cpu.add_fwd(W(y), W(a), W(b), s));
}

static enum status add_bwd(struct tensor da, struct tensor db, struct tensor dy, struct stream *s)
{
    return narrowed(ops_cpu.add_bwd(W(da), W(db), W(dy), s));
}

static enum status slice_fwd(struct tensor y, struct tensor x, int64_t first, struct stream *s)
{
    return narrowed(ops_cpu.slice_fwd(W(y), W(x), first, s));
}

static enum status slice_bwd(struct tensor dx, struct tensor dy, int64_t first, struct stream *s)
{
    return narrowed(ops_cpu.slice_bwd(W(dx), W(dy), first, s));
}

static enum status mask_product_fwd(struct tensor y, const struct tensor *h, int n_h,
                                    struct tensor u, struct stream *s)
{
    struct tensor h_[HEADS];

    ASSERT(n_h <= HEADS);
    widen_all(h_, h, n_h);
    return narrowed(ops_cpu.mask_product_fwd(W(y), h_, n_h, W(u), s));
}

static enum status mask_product_bwd(const struct tensor *dh, struct tensor du, struct tensor dy,
                                    const struct tensor *h, int n_h, struct tensor u,
                                    struct stream *s)
{
    struct tensor dh_[HEADS], h_[HEADS];

    ASSERT(n_h <= HEADS);
    widen_all(dh_, dh, n_h);
    widen_all(h_, h, n_h);
    return narrowed(ops_cpu.mask_product_bwd(dh_, W(du), W(dy), h_, n_h, W(u), s));
}

static enum status upscale_fwd(struct tensor y, struct tensor x, const struct upscale_weights *w,
                               const struct tensor *h, int n_h, float eps, struct stream *s)
{
    struct upscale_weights w_;
    struct tensor h_[HEADS];

    WIDEN_STRUCT(w);
    ASSERT(n_h <= HEADS);
    widen_all(h_, h, n_h);
    return narrowed(ops_cpu.upscale_fwd(W(y), W(x), &w_, h_, n_h, eps, s));
}

static enum status upscale_bwd(struct tensor dx, const struct upscale_weights *dw,
                               const struct tensor *dh, struct tensor dy, struct tensor x,
                               const struct upscale_weights *w, const struct tensor *h, int n_h,
                               float eps, struct stream *s)
{
    struct upscale_weights dw_, w_;
    struct tensor dh_[HEADS], h_[HEADS];

    WIDEN_STRUCT(dw);
    ASSERT(n_h <= HEADS);
    widen_all(dh_, dh, n_h);
    WIDEN_STRUCT(w);
    widen_all(h_, h, n_h);
    return narrowed(ops_cpu.upscale_bwd(W(dx), &dw_, dh_, W(dy), W(x), &w_, h_, n_h, eps, s));
}

/* What takes bf16. */
#define ROUNDED_LIST(X)                                                                            \
    X(linear)                                                                                      \
    X(patch_conv)                                                                                  \
    X(conv3x3)                                                                                     \
    X(upconv)                                                                                      \
    X(layernorm)                                                                                   \
    X(attention)                                                                                   \
    X(cross_attention)                                                                             \
    X(token_to_image)                                                                              \
    X(image_to_token)                                                                              \
    X(prompt_tokens)                                                                               \
    X(residual)                                                                                    \
    X(residual_layernorm)                                                                          \
    X(add)                                                                                         \
    X(slice)                                                                                       \
    X(mask_product)                                                                                \
    X(upscale)
#define ROUNDED_SET(op) t.op##_fwd = op##_fwd, t.op##_bwd = op##_bwd;

const struct ops *golden_rounded_ops(void)
{
    static struct ops t;

    t = ops_cpu;
    t.name = "rounded";
    t.bf16 = true;
    ROUNDED_LIST(ROUNDED_SET)
    return &t;
}

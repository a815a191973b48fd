/* One backend is one filled table. The trainer only ever sees this.
 *
 * An op's name is its header's; its function type is declared there with the formula, and all
 * backends are declared by that one type, so they cannot drift. Every op: outputs, inputs,
 * attributes, stream — read it as the formula. Gradient outputs obey the rule in base/tensor.h.
 * Scratch and planning: base/stream.h.
 *
 * Precision: an op computes in F32, or, where the table says bf16, in BF16: then activations and their
 * gradients (x y pre dx dy qkv q k v h u …) are BF16, and so are the weights of products (w of
 * linear, patch_conv, conv3x3, upconv); biases, norms' gamma and beta, tables, statistics (mean rstd
 * lse) and gradients of parameters are F32. Sums are in f32 at least; a result is rounded once.
 * Mixed, each operand by its own dtype: add (a b da db: parameters and collected gradients are F32),
 * patch_conv's x and dx (images and fed-back masks are F32), slice (y dy may be F32: heads), and
 * mask_product's y and dy (logits are F32). A stream of residual sums may be F32 beside branches in
 * BF16: x y dx dy of residual, x dx of layernorm, x sum dx dsum of residual_layernorm. What follows
 * logits is F32.
 *
 * OPS_LIST is the only list of ops: the table, the gaps (ops_missing) and docs/kernels.md follow
 * from it. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/attention.h"
#include "kernels/cast.h"
#include "kernels/conv.h"
#include "kernels/cross_attention.h"
#include "kernels/image.h"
#include "kernels/image_to_token.h"
#include "kernels/layernorm.h"
#include "kernels/linear.h"
#include "kernels/mask_loss.h"
#include "kernels/mask_product.h"
#include "kernels/optimizer.h"
#include "kernels/posenc.h"
#include "kernels/prompt.h"
#include "kernels/rasterize.h"
#include "kernels/residual.h"
#include "kernels/residual_layernorm.h"
#include "kernels/resize.h"
#include "kernels/slice.h"
#include "kernels/token_to_image.h"
#include "kernels/upscale.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OPS_LIST(X)                                                                                \
    X(linear_fwd)                                                                                  \
    X(linear_bwd)                                                                                  \
    X(patch_conv_fwd)                                                                              \
    X(patch_conv_bwd)                                                                              \
    X(conv3x3_fwd)                                                                                 \
    X(conv3x3_bwd)                                                                                 \
    X(upconv_fwd)                                                                                  \
    X(upconv_bwd)                                                                                  \
    X(layernorm_fwd)                                                                               \
    X(layernorm_bwd)                                                                               \
    X(attention_fwd)                                                                               \
    X(attention_bwd)                                                                               \
    X(cross_attention_fwd)                                                                         \
    X(cross_attention_bwd)                                                                         \
    X(token_to_image_fwd)                                                                          \
    X(token_to_image_bwd)                                                                          \
    X(image_to_token_fwd)                                                                          \
    X(image_to_token_bwd)                                                                          \
    X(posenc_grid)                                                                                 \
    X(prompt_tokens_fwd)                                                                           \
    X(prompt_tokens_bwd)                                                                           \
    X(residual_fwd)                                                                                \
    X(residual_bwd)                                                                                \
    X(residual_layernorm_fwd)                                                                      \
    X(residual_layernorm_bwd)                                                                      \
    X(add_fwd)                                                                                     \
    X(add_bwd)                                                                                     \
    X(slice_fwd)                                                                                   \
    X(slice_bwd)                                                                                   \
    X(mask_product_fwd)                                                                            \
    X(mask_product_bwd)                                                                            \
    X(upscale_fwd)                                                                                 \
    X(upscale_bwd)                                                                                 \
    X(resize_fwd)                                                                                  \
    X(resize_bwd)                                                                                  \
    X(mask_loss_fwd)                                                                               \
    X(mask_loss_bwd)                                                                               \
    X(prompt_first)                                                                                \
    X(prompt_next)                                                                                 \
    X(prompt_next_bwd)                                                                             \
    X(rasterize)                                                                                   \
    X(image_normalize)                                                                             \
    X(cast)                                                                                        \
    X(grad_norm)                                                                                   \
    X(adamw)

/* A message of an exchange: bytes of the device's, to or from another process. */
struct exchange_part {
    void *data;
    int64_t bytes;
    int rank;  /* the other one */
    bool send; /* else: received */
};
enum { EXCHANGE_ID_BYTES = 128 };

/* What a device says of its memory and of recorded steps. */
struct device_usage {
    int64_t bytes; /* in use, of whatever process, what the driver took for itself with it */
    int64_t graphs_made, graphs_changed; /* of recorded steps: made anew, given new parameters */
};

/* How often a kernel was launched. The name is the kernel's in its source, template arguments as
 * written there; it lives as long as the program. */
struct launch_count {
    const char *kernel;
    int64_t n;
};

struct ops {
    const char *name;
    bool bf16;  /* ops take activations and weights of products in BF16; else all of it is F32 */
    bool fused; /* fused ops are faster here than the ops they stand for */
    bool host_memory; /* device memory is the host's: host code may touch it by pointer */

    /* memory and stream verbs, for one host thread. put: the host's bytes may change as soon as it
     * returns. get: complete on return. All others only join the queue; sync waits for it. */
    enum status (*open)(void); /* OK when usable here; local; may be repeated */
    void *(*queue)(void);      /* of struct stream: the open device's, or NULL */
    enum status (*alloc)(void **p, int64_t bytes); /* zero-filled, ARENA_ALIGN-aligned */
    void (*free)(void *p);                         /* NULL is allowed */
    enum status (*put)(void *dev, const void *host, int64_t bytes, struct stream *s);
    enum status (*get)(void *host, const void *dev, int64_t bytes, struct stream *s);
    enum status (*copy)(void *dst, const void *src, int64_t bytes, struct stream *s);
    enum status (*zero)(void *dev, int64_t bytes, struct stream *s);
    enum status (*accumulate)(float *dst, const float *src, int64_t n,
                              struct stream *s); /* dst += src */
    enum status (*sync)(struct stream *s);

    /* A second queue beside the first; NULL where a backend has only one. after: what joins s from
     * now on begins when all that has joined other until now is over. */
    void *(*side)(void); /* of struct stream */
    enum status (*after)(struct stream *s, struct stream *other);

    /* Messages between the devices of processes; NULL where a backend cannot. id: into
     * EXCHANGE_ID_BYTES, on one rank, which tells the others. join: collective, once a process, behind
     * open; its wait has no limit of its own, nor has one for an exchange: a watchdog must be on.
     * exchange: joins the queue. Whatever is sent has a receiver that does the same, the parts between
     * two ranks in the same order on both; all exchanges of a process join one queue. leave: collective;
     * what is recorded is dropped. */
    enum status (*exchange_id)(void *id);
    enum status (*exchange_join)(const void *id, int rank, int n_ranks);
    enum status (*exchange)(const struct exchange_part *part, int64_t n, struct stream *s);
    void (*exchange_leave)(void);

    /* A step recorded and run as one; NULL where a backend cannot. Between begin and end what would
     * join the queue is kept instead, with the bytes that put was given; get, sync and alloc fail. So is
     * what joins the side, from where it comes after the queue, which must come after it before end.
     * end: what was kept is the step to replay next; without keep it is dropped. replay: that step
     * joins the queue, once. A step may be recorded while the one before it still runs. */
    enum status (*record_begin)(struct stream *s);
    enum status (*record_end)(bool keep, struct stream *s);
    enum status (*replay)(struct stream *s);

    /* NULL where a backend has nothing to say. */
    enum status (*usage)(struct device_usage *u);

    /* Counting; NULL where a backend cannot. From count(true) on launches are checked and counted,
     * not run; alloc reserves addresses that are never touched, so ask before memory is taken;
     * put, copy and zero check their range, and get answers zeros. count(false) ends that; what was
     * reserved stays out of reach. launches: into list, sorted by name, at most room of them, what
     * was launched since count(true); returns how many kinds there are. */
    enum status (*count)(bool on);
    int64_t (*launches)(struct launch_count *list, int64_t room);

#define OPS_MEMBER(name) name##_fn *name;
    OPS_LIST(OPS_MEMBER)
#undef OPS_MEMBER
};

extern const struct ops ops_ref, ops_cpu;

/* The table of that name ("ref", "cpu"; "cuda" where kernels/plugin.h finds its module and a GPU),
 * or NULL. */
const struct ops *ops_find(const char *name);

/* How many members of the table are NULL; the first one's name into *first when not 0. */
int ops_missing(const struct ops *be, const char **first);

#ifdef __cplusplus
}
#endif
#endif

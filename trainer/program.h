/* A model as a list of nodes over ops, recorded once while the model files build it.
 *
 * From that one list come the forward pass, the backward pass in reverse, the memory plan (lifetimes to offsets in one
 * block), recomputation, the moment each parameter's gradient is complete, and the count of FLOPs and bytes. Nobody
 * writes a model's backward by hand.
 *
 * A program computes in F32 or in BF16 (the rule of precision: kernels/ops.h). In BF16, values that lie in its block and their
 * gradients are BF16 unless an op says otherwise or they are sums of a stream (program_stream), weights of products are read
 * from a BF16 copy of the parameter buffer, and gradients of parameters and externals stay F32.
 *
 * Values are ints: indices of what a program knows. A value is a parameter, an external (the caller's memory, bound
 * before a run), or lives in the program's block; a view shares another value's memory and gradient.
 * Builders cannot fail softly: a full table or a wrong value is a programmer error; shapes are checked by
 * the ops themselves in program_plan, before any memory is taken. */
#ifndef TRAINER_PROGRAM_H
#define TRAINER_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

enum { PROGRAM_INPUTS = 16, PROGRAM_OUTPUTS = 4, PROGRAM_NONE = -1 };

enum node_op {
    NODE_LINEAR,
    NODE_PATCH_CONV,
    NODE_CONV3X3,
    NODE_UPCONV,
    NODE_LAYERNORM,
    NODE_ATTENTION,
    NODE_CROSS_ATTENTION,
    NODE_PROMPT_TOKENS,
    NODE_RESIDUAL,
    NODE_ADD,
    NODE_SLICE,
    NODE_MASK_PRODUCT,
    NODE_UPSCALE,
    NODE_TOKEN_TO_IMAGE,
    NODE_IMAGE_TO_TOKEN,
    NODE_OP_COUNT
};

struct node {
    enum node_op op;
    int in[PROGRAM_INPUTS], out[PROGRAM_OUTPUTS]; /* PROGRAM_NONE: absent operand */
    int n_in, n_out;
    enum activation act;
    int n_heads, window, frame;
    float eps, dropout;
    int64_t first, salt;
    double reference_rows; /* rows the reference model computes over rows computed here; 1 mostly */
    int segment;           /* recomputed together; PROGRAM_NONE: kept */
    int branch;            /* computed only when this branch is on; PROGRAM_NONE: always */
    int join;              /* a residual that adds this branch; PROGRAM_NONE: none */
};

struct program;

/* compute: F32 or BF16. */
enum status program_create(struct program **p, enum dtype compute) MUST_CHECK;
void program_destroy(struct program *p);
enum dtype program_compute(const struct program *p);

/* ---- building ------------------------------------------------------------------------------- */
/* External memory. wants_grad: backward adds to the gradient bound for it. */
int program_input(struct program *p, enum dtype dtype, int n_dims, const int64_t *dim,
                  bool wants_grad);
#define PROGRAM_INPUT(p, dtype, wants_grad, ...)                                                   \
    program_input((p), (dtype), (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),       \
                  (int64_t[]){ __VA_ARGS__ }, (wants_grad))

/* A parameter: `offset` floats into the parameter buffer, its gradient at the same place in the
 * gradient buffer. index is the caller's own number for it, given back when its gradient is complete. */
int program_param(struct program *p, int index, int64_t offset, int n_dims, const int64_t *dim,
                  bool frozen);

/* The same memory from element `offset` on under another shape. */
int program_view(struct program *p, int value, int64_t offset, int n_dims, const int64_t *dim);
#define PROGRAM_VIEW(p, value, ...)                                                                \
    program_view((p), (value), 0, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),     \
                 (int64_t[]){ __VA_ARGS__ })

int program_linear(struct program *p, int x, int w, int b, enum activation act);
int program_patch_conv(struct program *p, int x, int w, int b, enum activation act);
int program_conv3x3(struct program *p, int x, int w);
int program_upconv(struct program *p, int x, int w, int b, enum activation act);
int program_layernorm(struct program *p, int x, int gamma, int beta, float eps,
                      enum activation act);
int program_attention(struct program *p, int qkv, int qkv_bias, int rel_h, int rel_w, int n_heads,
                      int window);
int program_cross_attention(struct program *p, int q, int k, int v, int n_keys, int n_heads);
int program_prompt_tokens(struct program *p, int coords, int labels, int n_points, int gaussian,
                          int iou_token, int mask_tokens, const int table[POSENC_TABLE], int frame);
int program_residual(struct program *p, int x, int b, int scale, int key, float dropout,
                     int64_t salt);
int program_add(struct program *p, int a, int b);
int program_slice(struct program *p, int x, int64_t first, int64_t n, enum dtype dtype);
int program_mask_product(struct program *p, const int *h, int n_h, int u);

/* Fused ops: operands in the order of their header; weights in the order of its struct. */
enum { UPSCALE_WEIGHTS = 6, TOKEN_TO_IMAGE_WEIGHTS = 4, IMAGE_TO_TOKEN_WEIGHTS = 6 };
int program_upscale(struct program *p, int x, const int w[UPSCALE_WEIGHTS], const int *h, int n_h,
                    float eps);
int program_token_to_image(struct program *p, int q, int x, int pe,
                           const int w[TOKEN_TO_IMAGE_WEIGHTS], int n_heads);
int program_image_to_token(struct program *p, int x, int pe, int k, int v, int n_tokens,
                           const int w[IMAGE_TO_TOKEN_WEIGHTS], int n_heads, float eps, int key,
                           float dropout, int64_t salt);

/* A result: kept until the next forward pass, its gradient given by the caller. */
void program_output(struct program *p, int value);

/* The node that made value, for attributes the builders do not take. */
struct node *program_node(struct program *p, int value);

/* A residual sum without dropout and the norm right behind it run as one op, residual_layernorm.h. */
void program_fuse_norms(struct program *p);

/* Planned for, and to be run on, streams with this flag. */
void program_own_products(struct program *p, bool own);

/* While on, sums that residual and add record are kept in F32, and so are their gradients: a stream of
 * sums is not rounded at every sum. A norm reads it, and what it makes is in what the program computes in. */
void program_stream(struct program *p, bool on);

/* Nodes recorded from now on belong to this segment / branch; PROGRAM_NONE ends it. */
void program_segment(struct program *p, int segment);
void program_branch(struct program *p, int branch);

/* ---- planning ------------------------------------------------------------------------------- */
enum program_mode { PROGRAM_FORWARD, PROGRAM_TRAIN };

/* Lays out memory, checks all shapes and finds the scratch need by a dry pass on `ops`. Once. */
enum status program_plan(struct program *p, const struct ops *ops, enum program_mode mode,
                         bool recompute) MUST_CHECK;
int64_t program_bytes(const struct program *p);   /* of the block */
int64_t program_scratch(const struct program *p); /* of an op's scratch at most */

/* ---- running -------------------------------------------------------------------------------- */
/* Where a run finds its memory. Nothing is kept beyond the call. */
struct program_run {
    const struct ops *ops;
    struct stream *stream;
    void *block;           /* program_bytes, ARENA_ALIGN-aligned */
    float *params, *grads; /* flat buffers; grads are added to */
    uint16_t *params16; /* what products read when computing in BF16: params, rounded; else NULL */
    const uint8_t *branch_off;                     /* by branch: not computed; NULL: all on */
    void (*param_ready)(void *context, int index); /* after its last contribution; may be NULL */
    void *context;
    struct program_profile *profile; /* NULL: none */
};

void program_bind(struct program *p, int input, void *data);
void program_bind_grad(struct program *p, int input, float *grad);

enum status program_forward(struct program *p, const struct program_run *run) MUST_CHECK;
enum status program_backward(struct program *p, const struct program_run *run) MUST_CHECK;

/* A value of the last run (outputs always; others may have been overwritten). */
struct tensor program_value(const struct program *p, int value, const struct program_run *run);
/* Where the caller writes the gradient of an output before program_backward; all of it. */
struct tensor program_grad(const struct program *p, int output, const struct program_run *run);

/* ---- accounts ------------------------------------------------------------------------------- */
struct program_cost {
    double flops;           /* done here; a multiply-add is two */
    double flops_reference; /* the reference model's, for MFU: windows with their padding */
    double bytes;           /* every operand read or written once */
    int64_t n_nodes;
};

/* Sums by op into cost[NODE_OP_COUNT]; backward, with what is computed again for it, or forward. A sum and its norm
 * that run as one op are one node, counted where a profile times them. Local, needs no memory. */
void program_cost(const struct program *p, bool backward, struct program_cost *cost);
struct program_cost program_cost_total(const struct program *p, bool backward);
const char *program_op_name(enum node_op op);

/* Seconds by op, added to by every run it is given to; [0] forward, [1] backward. */
struct program_profile {
    double seconds[2][NODE_OP_COUNT];
    int64_t calls[2][NODE_OP_COUNT];
};

#endif

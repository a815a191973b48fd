#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "trainer/program_list.h"

enum status program_create(struct program **p, enum dtype compute)
{
    struct program *q = calloc(1, sizeof *q);

    ASSERT(compute == F32 || compute == BF16);
    if (!q) FAIL(E_MEMORY, "a program's lists");
    q->compute = compute;
    q->segment = q->branch = PROGRAM_NONE;
    *p = q;
    return OK;
}

void program_destroy(struct program *p)
{
    if (!p) return;
    free(p->value);
    free(p->node);
    free(p->backward);
    free(p->step);
    free(p);
}

enum dtype program_compute(const struct program *p)
{
    return p->compute;
}

static void *grown(void *list, int n, int *room, size_t size)
{
    if (n < *room) return list;
    *room = *room ? 2 * *room : 256;
    list = realloc(list, (size_t)*room * size);
    ASSERT(list); /* a few hundred kilobytes while building */
    return list;
}

static int new_value(struct program *p, enum value_kind kind, struct tensor shape)
{
    struct value *v;

    ASSERT(!p->planned);
    p->value = grown(p->value, p->n_values, &p->room_values, sizeof *p->value);
    v = p->value + p->n_values;
    memset(v, 0, sizeof *v);
    v->kind = kind;
    v->shape = shape;
    v->root = p->n_values;
    v->node = PROGRAM_NONE;
    for (int i = 0; i < N_PLACEMENTS; i++) v->at[i] = (struct placement){ INT64_MAX, -1, 0 };
    return p->n_values++;
}

static struct tensor shape_of(enum dtype dtype, int n_dims, const int64_t *dim)
{
    struct tensor t = { .dtype = dtype, .n_dims = n_dims };

    ASSERT(n_dims >= 1 && n_dims <= TENSOR_DIMS);
    for (int i = 0; i < n_dims; i++) t.dim[i] = dim[i];
    return t;
}

int program_input(struct program *p, enum dtype dtype, int n_dims, const int64_t *dim,
                  bool wants_grad)
{
    const int id = new_value(p, VALUE_EXTERNAL, shape_of(dtype, n_dims, dim));

    p->value[id].needs_grad = wants_grad;
    return id;
}

int program_param(struct program *p, int index, int64_t offset, int n_dims, const int64_t *dim,
                  bool frozen)
{
    const int id = new_value(p, VALUE_PARAM, shape_of(F32, n_dims, dim));

    p->value[id].index = index;
    p->value[id].offset = offset;
    p->value[id].needs_grad = !frozen;
    return id;
}

int program_view(struct program *p, int value, int64_t offset, int n_dims, const int64_t *dim)
{
    const struct value of = p->value[value];
    const struct tensor shape = shape_of(of.shape.dtype, n_dims, dim);
    int id;

    ASSERT(offset >= 0 && offset + tensor_count(shape) <= tensor_count(of.shape));
    /* a view of part of a value with a gradient would need its gradient zeroed around it */
    ASSERT(!of.needs_grad || tensor_count(shape) == tensor_count(of.shape));
    id = new_value(p, of.kind, shape);
    p->value[id].root = of.root;
    p->value[id].offset = of.offset + offset;
    p->value[id].index = of.index;
    p->value[id].node = of.node;
    p->value[id].needs_grad = of.needs_grad;
    return id;
}

static struct node *new_node(struct program *p, enum node_op op, const int *in, int n_in)
{
    struct node *n;

    ASSERT(!p->planned && n_in <= PROGRAM_INPUTS);
    p->node = grown(p->node, p->n_nodes, &p->room_nodes, sizeof *p->node);
    n = p->node + p->n_nodes++;
    memset(n, 0, sizeof *n);
    n->op = op;
    n->n_in = n_in;
    for (int i = 0; i < n_in; i++) n->in[i] = in[i];
    n->segment = p->segment;
    n->branch = p->branch;
    n->join = PROGRAM_NONE;
    n->reference_rows = 1;
    return n;
}

/* The node's next output; only the first is differentiable. */
static int add_output(struct program *p, struct tensor shape)
{
    const int id = new_value(p, VALUE_BLOCK, shape);
    struct node *n = p->node + p->n_nodes - 1;

    p->value[id].node = p->n_nodes - 1;
    if (n->n_out == 0)
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] != PROGRAM_NONE && p->value[n->in[i]].needs_grad)
                p->value[id].needs_grad = true;
    n->out[n->n_out++] = id;
    return id;
}

/* A result shaped like that value, in what the program computes in. */
static struct tensor like(struct program *p, int value)
{
    struct tensor t = p->value[value].shape;

    t.dtype = p->compute;
    return t;
}

/* A sum shaped like that value: the stream's is F32. */
static struct tensor sum_like(struct program *p, int value)
{
    struct tensor t = like(p, value);

    if (p->stream) t.dtype = F32;
    return t;
}

/* y and, behind a GELU, what went into it. */
static int activated(struct program *p, struct node *n, struct tensor shape, enum activation act)
{
    int y;

    n->act = act;
    y = add_output(p, shape);
    if (act == ACT_GELU) {
        add_output(p, shape);
    } else {
        n = p->node + p->n_nodes - 1;
        n->out[n->n_out++] = PROGRAM_NONE;
    }
    return y;
}

int program_linear(struct program *p, int x, int w, int b, enum activation act)
{
    struct tensor shape = like(p, x);

    shape.dim[shape.n_dims - 1] = like(p, w).dim[0];
    return activated(p, new_node(p, NODE_LINEAR, (int[]){ x, w, b }, 3), shape, act);
}

int program_patch_conv(struct program *p, int x, int w, int b, enum activation act)
{
    struct tensor shape = like(p, x);
    const struct tensor kernel = like(p, w);

    shape.dim[1] /= kernel.dim[2];
    shape.dim[2] /= kernel.dim[3];
    shape.dim[3] = kernel.dim[0];
    return activated(p, new_node(p, NODE_PATCH_CONV, (int[]){ x, w, b }, 3), shape, act);
}

int program_conv3x3(struct program *p, int x, int w)
{
    struct tensor shape = like(p, x);

    shape.dim[3] = like(p, w).dim[0];
    new_node(p, NODE_CONV3X3, (int[]){ x, w }, 2);
    return add_output(p, shape);
}

int program_upconv(struct program *p, int x, int w, int b, enum activation act)
{
    struct tensor shape = like(p, x);

    shape.dim[1] *= 2;
    shape.dim[2] *= 2;
    shape.dim[3] = like(p, w).dim[1];
    return activated(p, new_node(p, NODE_UPCONV, (int[]){ x, w, b }, 3), shape, act);
}

int program_layernorm(struct program *p, int x, int gamma, int beta, float eps, enum activation act)
{
    struct node *n = new_node(p, NODE_LAYERNORM, (int[]){ x, gamma, beta }, 3);
    const int64_t rows = tensor_rows(like(p, x));
    int y;

    n->eps = eps;
    n->act = act;
    y = add_output(p, like(p, x));
    add_output(p, tensor_1d(NULL, F32, rows));
    add_output(p, tensor_1d(NULL, F32, rows));
    return y;
}

int program_attention(struct program *p, int qkv, int qkv_bias, int rel_h, int rel_w, int n_heads,
                      int window)
{
    struct node *n = new_node(p, NODE_ATTENTION, (int[]){ qkv, qkv_bias, rel_h, rel_w }, 4);
    struct tensor shape = like(p, qkv);
    int y;

    n->n_heads = n_heads;
    n->window = window;
    shape.dim[3] /= 3;
    y = add_output(p, shape);
    add_output(p, tensor_4d(NULL, F32, shape.dim[0], n_heads, shape.dim[1], shape.dim[2]));
    return y;
}

int program_cross_attention(struct program *p, int q, int k, int v, int n_keys, int n_heads)
{
    struct node *n = new_node(p, NODE_CROSS_ATTENTION, (int[]){ q, k, v, n_keys }, 4);
    struct tensor shape = like(p, q);
    const struct tensor keys = like(p, k);
    int y;

    n->n_heads = n_heads;
    if (keys.dim[0] > shape.dim[0]) shape.dim[0] = keys.dim[0];
    y = add_output(p, shape);
    add_output(p, tensor_3d(NULL, F32, shape.dim[0], n_heads, shape.dim[1]));
    return y;
}

int program_prompt_tokens(struct program *p, int coords, int labels, int n_points, int gaussian,
                          int iou_token, int mask_tokens, const int table[POSENC_TABLE], int frame)
{
    const struct tensor c = like(p, coords);
    int in[6 + POSENC_TABLE] = { coords, labels, n_points, gaussian, iou_token, mask_tokens };
    struct node *n;

    for (int i = 0; i < POSENC_TABLE; i++) in[6 + i] = table[i];
    n = new_node(p, NODE_PROMPT_TOKENS, in, 6 + POSENC_TABLE);
    n->frame = frame;
    return add_output(p, tensor_3d(NULL, p->compute, c.dim[0],
                                   1 + like(p, mask_tokens).dim[0] + c.dim[1],
                                   like(p, mask_tokens).dim[1]));
}

int program_residual(struct program *p, int x, int b, int scale, int key, float dropout,
                     int64_t salt)
{
    struct node *n = new_node(p, NODE_RESIDUAL, (int[]){ x, b, scale, key }, 4);

    n->dropout = dropout;
    n->salt = salt;
    return add_output(p, sum_like(p, b));
}

int program_add(struct program *p, int a, int b)
{
    new_node(p, NODE_ADD, (int[]){ a, b }, 2);
    return add_output(p, sum_like(p, tensor_count(like(p, a)) >= tensor_count(like(p, b)) ? a : b));
}

int program_slice(struct program *p, int x, int64_t first, int64_t n, enum dtype dtype)
{
    struct tensor shape = like(p, x);

    shape.dtype = dtype;

    new_node(p, NODE_SLICE, (int[]){ x }, 1)->first = first;
    shape.dim[1] = n;
    return add_output(p, shape);
}

int program_mask_product(struct program *p, const int *h, int n_h, int u)
{
    const struct tensor shape = like(p, u);
    int in[1 + MASK_PRODUCT_MAX] = { u };

    ASSERT(n_h >= 1 && n_h <= MASK_PRODUCT_MAX);
    for (int i = 0; i < n_h; i++) in[1 + i] = h[i];
    new_node(p, NODE_MASK_PRODUCT, in, 1 + n_h);
    return add_output(p, tensor_4d(NULL, F32, shape.dim[0], n_h, shape.dim[1], shape.dim[2]));
}

int program_upscale(struct program *p, int x, const int w[UPSCALE_WEIGHTS], const int *h, int n_h,
                    float eps)
{
    const struct tensor shape = like(p, x);
    int in[1 + UPSCALE_WEIGHTS + MASK_PRODUCT_MAX] = { x };
    struct node *n;

    ASSERT(n_h >= 1 && n_h <= MASK_PRODUCT_MAX);
    for (int i = 0; i < UPSCALE_WEIGHTS; i++) in[1 + i] = w[i];
    for (int i = 0; i < n_h; i++) in[1 + UPSCALE_WEIGHTS + i] = h[i];
    n = new_node(p, NODE_UPSCALE, in, 1 + UPSCALE_WEIGHTS + n_h);
    n->eps = eps;
    return add_output(p,
                      tensor_4d(NULL, F32, shape.dim[0], n_h, 4 * shape.dim[1], 4 * shape.dim[2]));
}

int program_token_to_image(struct program *p, int q, int x, int pe,
                           const int w[TOKEN_TO_IMAGE_WEIGHTS], int n_heads)
{
    const struct tensor shape = like(p, q);
    const int64_t M = shape.dim[0], t = shape.dim[1], C = like(p, x).dim[2];
    int in[3 + TOKEN_TO_IMAGE_WEIGHTS] = { q, x, pe }, y;

    for (int i = 0; i < TOKEN_TO_IMAGE_WEIGHTS; i++) in[3 + i] = w[i];
    new_node(p, NODE_TOKEN_TO_IMAGE, in, 3 + TOKEN_TO_IMAGE_WEIGHTS)->n_heads = n_heads;
    y = add_output(p, shape);
    add_output(p, tensor_3d(NULL, F32, M, n_heads, t));
    add_output(p, tensor_4d(NULL, p->compute, M, n_heads, t, C));
    return y;
}

int program_image_to_token(struct program *p, int x, int pe, int k, int v, int n_tokens,
                           const int w[IMAGE_TO_TOKEN_WEIGHTS], int n_heads, float eps, int key,
                           float dropout, int64_t salt)
{
    struct tensor shape = like(p, x);
    int in[6 + IMAGE_TO_TOKEN_WEIGHTS] = { x, pe, k, v, n_tokens, key }, y;
    struct node *n;

    for (int i = 0; i < IMAGE_TO_TOKEN_WEIGHTS; i++) in[6 + i] = w[i];
    n = new_node(p, NODE_IMAGE_TO_TOKEN, in, 6 + IMAGE_TO_TOKEN_WEIGHTS);
    n->n_heads = n_heads;
    n->eps = eps;
    n->dropout = dropout;
    n->salt = salt;
    shape.dim[0] = like(p, k).dim[0];
    y = add_output(p, shape);
    add_output(p, tensor_2d(NULL, F32, shape.dim[0], shape.dim[1]));
    add_output(p, tensor_2d(NULL, F32, shape.dim[0], shape.dim[1]));
    return y;
}

void program_fuse_norms(struct program *p)
{
    p->fuse_norms = true;
}

void program_own_products(struct program *p, bool own)
{
    p->own_products = own;
}

void program_output(struct program *p, int value)
{
    p->value[p->value[value].root].output = true;
}

struct node *program_node(struct program *p, int value)
{
    ASSERT(p->value[value].node != PROGRAM_NONE);
    return p->node + p->value[value].node;
}

void program_stream(struct program *p, bool on)
{
    p->stream = on;
}

void program_segment(struct program *p, int segment)
{
    p->segment = segment;
}

void program_branch(struct program *p, int branch)
{
    p->branch = branch;
}

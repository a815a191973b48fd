#include "trainer/program.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "trainer/program_ops.h"

enum value_kind { VALUE_EXTERNAL, VALUE_PARAM, VALUE_BLOCK };

/* When a piece of the block is in use, in steps, and where it lies. */
struct placement {
    int64_t first, last; /* first > last: never */
    int64_t offset;      /* bytes */
};

enum { KEPT, AGAIN, GRAD, N_PLACEMENTS };

struct value {
    enum value_kind kind;
    struct tensor shape; /* data NULL */
    int root;            /* whose memory this is: itself unless a view */
    int64_t offset;      /* parameter or view: elements from its start */
    int index;           /* parameter: the caller's number */
    int node;            /* that makes it; PROGRAM_NONE for externals and parameters */
    bool needs_grad, output;
    bool again;    /* recomputed before backward, in its own placement */
    bool has_grad; /* some later node or the caller gives it one */
    void *data;    /* external: bound by the caller */
    float *grad;
    struct placement at[N_PLACEMENTS];
};

enum step_kind { STEP_FORWARD, STEP_AGAIN, STEP_BACKWARD };

struct step {
    enum step_kind kind;
    int node;
};

/* What planning learns about a node's backward. */
struct backward {
    bool runs;
    bool add[PROGRAM_INPUTS];
    int ready[PROGRAM_INPUTS], n_ready; /* parameters complete behind it */
};

struct program {
    struct value *value;
    struct node *node;
    struct backward *backward;
    struct step *step;
    int n_values, room_values, n_nodes, room_nodes, n_steps, n_forward;
    enum dtype compute;
    int segment, branch; /* of nodes being recorded */
    bool planned;
    int64_t bytes, scratch;
};

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

/* ---- building ------------------------------------------------------------------------------- */
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
    return add_output(p, like(p, b));
}

int program_add(struct program *p, int a, int b)
{
    new_node(p, NODE_ADD, (int[]){ a, b }, 2);
    return add_output(p, tensor_count(like(p, a)) >= tensor_count(like(p, b)) ? like(p, a)
                                                                              : like(p, b));
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

void program_output(struct program *p, int value)
{
    p->value[p->value[value].root].output = true;
}

struct node *program_node(struct program *p, int value)
{
    ASSERT(p->value[value].node != PROGRAM_NONE);
    return p->node + p->value[value].node;
}

void program_segment(struct program *p, int segment)
{
    p->segment = segment;
}

void program_branch(struct program *p, int branch)
{
    p->branch = branch;
}

/* ---- planning ------------------------------------------------------------------------------- */
static struct value *root_of(const struct program *p, int value)
{
    return value == PROGRAM_NONE ? NULL : p->value + p->value[value].root;
}

/* Which nodes run backward, which gradients are first and which add. In the order of execution. */
static void plan_backward(struct program *p)
{
    for (int v = 0; v < p->n_values; v++)
        if (p->value[v].output && p->value[v].needs_grad) p->value[v].has_grad = true;
    for (int i = p->n_nodes - 1; i >= 0; i--) {
        const struct node *n = p->node + i;
        struct backward *b = p->backward + i;

        b->runs = root_of(p, n->out[0])->has_grad;
        for (int j = 0; b->runs && j < n->n_in; j++) {
            struct value *in = root_of(p, n->in[j]);

            if (!in || !in->needs_grad) continue;
            b->add[j] = in->kind != VALUE_BLOCK || in->has_grad;
            /* a branch left out must not leave a gradient without its first contribution */
            ASSERT(b->add[j] || n->branch == PROGRAM_NONE || p->node[in->node].branch == n->branch);
            in->has_grad = true;
        }
    }
    /* a parameter is complete behind the last node that contributes */
    for (int i = 0; i < p->n_nodes; i++)
        for (int j = 0; p->backward[i].runs && j < p->node[i].n_in; j++) {
            struct value *in = root_of(p, p->node[i].in[j]);

            if (!in || in->kind != VALUE_PARAM || !in->needs_grad || in->at[GRAD].last == 1)
                continue;
            in->at[GRAD].last = 1; /* parameters have no placement: used as a mark */
            p->backward[i].ready[p->backward[i].n_ready++] = in->index;
        }
}

static bool same_segment(const struct program *p, int node, int other)
{
    return p->node[node].segment != PROGRAM_NONE && p->node[node].segment == p->node[other].segment;
}

/* Values used only inside their own segment need not be kept: they are made again. */
static void plan_again(struct program *p)
{
    for (int v = 0; v < p->n_values; v++) {
        struct value *x = p->value + v;

        x->again = x->kind == VALUE_BLOCK && x->root == v && !x->output &&
                   p->node[x->node].segment != PROGRAM_NONE;
    }
    for (int i = 0; i < p->n_nodes; i++)
        for (int j = 0; j < p->node[i].n_in; j++) {
            struct value *x = root_of(p, p->node[i].in[j]);

            if (x && x->kind == VALUE_BLOCK && !same_segment(p, x->node, i)) x->again = false;
        }
}

static bool backward_reads(const struct node *n, bool output, int i)
{
    return (output ? node_reads_out(n) : node_kinds[n->op].reads_in) >> i & 1;
}

/* Marks which nodes of a segment [begin,end) must run again for its backward pass. */
static void mark_needed(const struct program *p, int begin, int end, bool *needed)
{
    for (int i = end - 1; i >= begin; i--) {
        for (int k = begin; k < end && !needed[i]; k++) {
            const struct node *n = p->node + k;

            for (int o = 0; o < p->node[i].n_out; o++) {
                const struct value *out = root_of(p, p->node[i].out[o]);

                if (!out || !out->again) continue;
                for (int j = 0; j < n->n_in; j++)
                    if (root_of(p, n->in[j]) == out &&
                        (needed[k] || (p->backward[k].runs && backward_reads(n, false, j))))
                        needed[i] = true;
                if (k == i && p->backward[i].runs && backward_reads(n, true, o)) needed[i] = true;
            }
        }
    }
}

static void add_step(struct program *p, enum step_kind kind, int node)
{
    p->step[p->n_steps++] = (struct step){ kind, node };
}

static enum status plan_steps(struct program *p, enum program_mode mode, bool recompute)
{
    bool *needed = calloc((size_t)p->n_nodes + 1, sizeof *needed);

    p->step = calloc(3 * (size_t)p->n_nodes + 1, sizeof *p->step);
    if (!p->step || !needed) {
        free(needed);
        FAIL(E_MEMORY, "a program's steps");
    }
    for (int i = 0; i < p->n_nodes; i++) add_step(p, STEP_FORWARD, i);
    p->n_forward = p->n_steps;
    for (int end = p->n_nodes, begin; mode == PROGRAM_TRAIN && end > 0; end = begin) {
        begin = end - 1;
        while (begin > 0 && same_segment(p, begin - 1, end - 1)) begin--;
        if (recompute && p->node[begin].segment != PROGRAM_NONE) {
            mark_needed(p, begin, end, needed);
            for (int i = begin; i < end; i++)
                if (needed[i]) add_step(p, STEP_AGAIN, i);
        }
        for (int i = end - 1; i >= begin; i--)
            if (p->backward[i].runs) add_step(p, STEP_BACKWARD, i);
    }
    free(needed);
    return OK;
}

static void use(struct placement *at, int64_t time)
{
    if (time < at->first) at->first = time;
    if (time > at->last) at->last = time;
}

static void use_value(struct program *p, int value, int64_t time, bool forward)
{
    struct value *x = root_of(p, value);

    if (x && x->kind == VALUE_BLOCK) use(x->at + (x->again && !forward ? AGAIN : KEPT), time);
}

static void use_grad(struct program *p, int value, int64_t time)
{
    struct value *x = root_of(p, value);

    if (x && x->kind == VALUE_BLOCK && x->needs_grad) use(x->at + GRAD, time);
}

/* Time runs over the steps, with one instant between forward and backward for the caller. */
static void plan_lifetimes(struct program *p, enum program_mode mode)
{
    for (int t = 0; t < p->n_steps; t++) {
        const struct node *n = p->node + p->step[t].node;
        const bool backward = p->step[t].kind == STEP_BACKWARD;
        const bool forward = p->step[t].kind == STEP_FORWARD;
        const int64_t time = t < p->n_forward ? t : t + 1;

        for (int j = 0; j < n->n_in; j++) {
            if (!backward || backward_reads(n, false, j)) use_value(p, n->in[j], time, forward);
            if (backward) use_grad(p, n->in[j], time);
        }
        for (int o = 0; o < n->n_out; o++)
            if (!backward || backward_reads(n, true, o)) use_value(p, n->out[o], time, forward);
        if (backward) use_grad(p, n->out[0], time);
    }
    for (int v = 0; v < p->n_values; v++)
        if (p->value[v].output && p->value[v].root == v) {
            use(p->value[v].at + KEPT, p->n_steps + 1); /* the caller may read it behind backward */
            if (mode == PROGRAM_TRAIN && p->value[v].needs_grad)
                use(p->value[v].at + GRAD, p->n_forward);
        }
}

struct piece {
    struct placement *at;
    int64_t bytes;
    int order;
};

static int larger_first(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->order - y->order;
}

/* The lowest offset at which a piece meets none of those placed that live at the same time. */
static int64_t lowest_offset(const struct piece *piece, int n_placed, const struct piece *new)
{
    int64_t offset = 0;

    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < n_placed; i++) {
            const struct placement *at = piece[i].at;

            if (at->last < new->at->first || at->first > new->at->last) continue;
            if (at->offset + piece[i].bytes <= offset || at->offset >= offset + new->bytes)
                continue;
            offset = at->offset + piece[i].bytes;
            moved = true;
        }
    }
    return offset;
}

static enum status plan_offsets(struct program *p)
{
    struct piece *piece = calloc(N_PLACEMENTS * (size_t)p->n_values + 1, sizeof *piece);
    int n = 0;

    if (!piece) FAIL(E_MEMORY, "a program's memory plan");
    for (int v = 0; v < p->n_values; v++) {
        struct value *x = p->value + v;

        for (int i = 0; x->kind == VALUE_BLOCK && x->root == v && i < N_PLACEMENTS; i++)
            if (x->at[i].first <= x->at[i].last) {
                piece[n] = (struct piece){ x->at + i, arena_round(tensor_bytes(x->shape)), n };
                n++;
            }
    }
    qsort(piece, (size_t)n, sizeof *piece, larger_first);
    for (int i = 0; i < n; i++) {
        piece[i].at->offset = lowest_offset(piece, i, piece + i);
        if (piece[i].at->offset + piece[i].bytes > p->bytes)
            p->bytes = piece[i].at->offset + piece[i].bytes;
    }
    free(piece);
    return OK;
}

/* ---- running -------------------------------------------------------------------------------- */
static void *at_offset(void *base, int64_t bytes)
{
    return base ? (char *)base + bytes : NULL;
}

static struct tensor resolve(const struct program *p, int value, const struct program_run *run,
                             bool forward)
{
    const struct value *x, *root;
    struct tensor t;

    if (value == PROGRAM_NONE) return tensor_none();
    x = p->value + value;
    root = root_of(p, value);
    t = x->shape;
    switch (root->kind) {
    case VALUE_EXTERNAL:
        t.data = at_offset(root->data, x->offset * dtype_bytes(t.dtype));
        break;
    case VALUE_PARAM:
        t.data = run->params ? run->params + x->offset : NULL;
        break;
    case VALUE_BLOCK:
        t.data = at_offset(run->block, root->at[root->again && !forward ? AGAIN : KEPT].offset +
                                           x->offset * dtype_bytes(t.dtype));
        break;
    }
    return t;
}

/* An operand of a node: a weight of a product is read in what the program computes in. */
static struct tensor resolve_in(const struct program *p, const struct node *n, int i,
                                const struct program_run *run, bool forward)
{
    struct tensor t = resolve(p, n->in[i], run, forward);

    if (p->compute == F32 || !(node_kinds[n->op].products >> i & 1)) return t;
    t.data = run->params16 ? run->params16 + p->value[n->in[i]].offset : NULL;
    t.dtype = p->compute;
    return t;
}

static struct tensor resolve_grad(const struct program *p, int value, const struct program_run *run,
                                  bool add)
{
    const struct value *x, *root;
    struct tensor t;

    if (value == PROGRAM_NONE) return tensor_none();
    x = p->value + value;
    root = root_of(p, value);
    t = x->shape;
    t.add = add;
    if (root->kind != VALUE_BLOCK) t.dtype = F32;
    if (!root->needs_grad) return t; /* data NULL: not wanted */
    switch (root->kind) {
    case VALUE_EXTERNAL:
        t.data = root->grad ? root->grad + x->offset : NULL;
        break;
    case VALUE_PARAM:
        t.data = run->grads ? run->grads + x->offset : NULL;
        break;
    case VALUE_BLOCK:
        t.data = root->has_grad ? at_offset(run->block, root->at[GRAD].offset) : NULL;
        break;
    }
    return t;
}

static bool off(const struct program_run *run, int branch)
{
    return branch != PROGRAM_NONE && run->branch_off && run->branch_off[branch];
}

static enum status run_forward(const struct program *p, int node, const struct program_run *run,
                               bool forward)
{
    const struct node *n = p->node + node;
    struct node_operands o = { 0 };

    if (off(run, n->branch)) return OK;
    for (int i = 0; i < n->n_in; i++) o.in[i] = resolve_in(p, n, i, run, forward);
    for (int i = 0; i < n->n_out; i++) o.out[i] = resolve(p, n->out[i], run, forward);
    if (off(run, n->join))
        return run->ops->copy(o.out[0].data, o.in[0].data, tensor_bytes(o.out[0]), run->stream);
    return node_kinds[n->op].forward(n, run->ops, &o, run->stream);
}

/* The branch of a residual was left out: its sum has one term. */
static enum status pass_gradient(const struct node_operands *o, const struct program_run *run)
{
    return run->ops->add_bwd(o->g_in[0], tensor_none(), o->g_out, run->stream);
}

static enum status run_backward(const struct program *p, int node, const struct program_run *run)
{
    const struct node *n = p->node + node;
    const struct backward *b = p->backward + node;
    struct node_operands o = { 0 };

    if (!off(run, n->branch)) {
        for (int i = 0; i < n->n_in; i++) {
            o.in[i] = resolve_in(p, n, i, run, false);
            o.g_in[i] = resolve_grad(p, n->in[i], run, b->add[i]);
        }
        for (int i = 0; i < n->n_out; i++) o.out[i] = resolve(p, n->out[i], run, false);
        o.g_out = resolve_grad(p, n->out[0], run, false);
        if (off(run, n->join))
            TRY(pass_gradient(&o, run));
        else
            TRY(node_kinds[n->op].backward(n, run->ops, &o, run->stream));
    }
    for (int i = 0; run->param_ready && i < b->n_ready; i++)
        run->param_ready(run->context, b->ready[i]);
    return OK;
}

static enum status run_steps(const struct program *p, int begin, int end,
                             const struct program_run *run)
{
    for (int t = begin; t < end; t++) {
        const struct step s = p->step[t];
        const int64_t start = run->profile ? clock_ns() : 0;

        if (s.kind == STEP_BACKWARD)
            TRY(run_backward(p, s.node, run));
        else
            TRY(run_forward(p, s.node, run, s.kind == STEP_FORWARD));
        if (run->profile) {
            const bool backward = s.kind != STEP_FORWARD;
            const enum node_op op = p->node[s.node].op;

            TRY(run->ops->sync(run->stream));
            run->profile->seconds[backward][op] += 1e-9 * (double)(clock_ns() - start);
            run->profile->calls[backward][op]++;
        }
    }
    return OK;
}

enum status program_plan(struct program *p, const struct ops *ops, enum program_mode mode,
                         bool recompute)
{
    struct stream s = { .planning = true };
    const struct program_run dry = { .ops = ops, .stream = &s };

    ASSERT(!p->planned);
    if (p->compute == BF16 && !ops->bf16)
        FAIL(E_CONFIG, "device %s computes in f32 only; say run.precision=f32 or auto", ops->name);
    p->backward = calloc((size_t)p->n_nodes + 1, sizeof *p->backward);
    if (!p->backward) FAIL(E_MEMORY, "a program's backward list");
    if (mode == PROGRAM_TRAIN) plan_backward(p);
    if (mode == PROGRAM_TRAIN && recompute) plan_again(p);
    TRY(plan_steps(p, mode, recompute));
    plan_lifetimes(p, mode);
    TRY(plan_offsets(p));
    p->planned = true;
    TRY(run_steps(p, 0, p->n_steps, &dry));
    p->scratch = s.scratch_need;
    return OK;
}

int64_t program_bytes(const struct program *p)
{
    return p->bytes;
}

int64_t program_scratch(const struct program *p)
{
    return p->scratch;
}

void program_bind(struct program *p, int input, void *data)
{
    ASSERT(p->value[input].kind == VALUE_EXTERNAL && p->value[input].root == input);
    p->value[input].data = data;
}

void program_bind_grad(struct program *p, int input, float *grad)
{
    ASSERT(p->value[input].kind == VALUE_EXTERNAL && p->value[input].root == input);
    p->value[input].grad = grad;
}

enum status program_forward(struct program *p, const struct program_run *run)
{
    ASSERT(p->planned);
    return run_steps(p, 0, p->n_forward, run);
}

enum status program_backward(struct program *p, const struct program_run *run)
{
    ASSERT(p->planned && p->n_steps > p->n_forward);
    return run_steps(p, p->n_forward, p->n_steps, run);
}

struct tensor program_value(const struct program *p, int value, const struct program_run *run)
{
    return resolve(p, value, run, true);
}

struct tensor program_grad(const struct program *p, int output, const struct program_run *run)
{
    ASSERT(root_of(p, output)->output);
    return resolve_grad(p, output, run, false);
}

/* ---- accounts ------------------------------------------------------------------------------- */
static void cost_of(const struct program *p, int node, bool backward, struct program_cost *c)
{
    const struct program_run none = { 0 };
    const struct node *n = p->node + node;
    const struct node_kind *kind = node_kinds + n->op;
    struct node_operands o = { 0 };
    double here, reference;

    for (int i = 0; i < n->n_in; i++) o.in[i] = resolve_in(p, n, i, &none, true);
    for (int i = 0; i < n->n_out; i++) o.out[i] = resolve(p, n->out[i], &none, true);
    kind->macs(n, &o, &here, &reference);
    /* the field counts a backward pass as two forward ones */
    c->flops += 2 * here * (backward ? kind->backward_factor : 1);
    c->flops_reference += 2 * reference * (backward ? 2 : 1);
    for (int i = 0; i < n->n_in; i++) {
        const double bytes = n->in[i] == PROGRAM_NONE ? 0 : (double)tensor_bytes(o.in[i]);
        const struct value *x = root_of(p, n->in[i]);

        if (!backward || backward_reads(n, false, i)) c->bytes += bytes;
        if (backward && x && x->needs_grad)
            c->bytes += p->backward[node].add[i] ? 2 * bytes : bytes;
    }
    for (int i = 0; i < n->n_out; i++) {
        const double bytes = n->out[i] == PROGRAM_NONE ? 0 : (double)tensor_bytes(o.out[i]);

        if (!backward || backward_reads(n, true, i)) c->bytes += bytes;
        if (backward && i == 0) c->bytes += bytes;
    }
    c->n_nodes++;
}

void program_cost(const struct program *p, bool backward, struct program_cost *cost)
{
    memset(cost, 0, NODE_OP_COUNT * sizeof *cost);
    for (int t = 0; t < p->n_steps; t++)
        if ((p->step[t].kind == STEP_BACKWARD) == backward &&
            (backward || p->step[t].kind == STEP_FORWARD))
            cost_of(p, p->step[t].node, backward, cost + p->node[p->step[t].node].op);
}

struct program_cost program_cost_total(const struct program *p, bool backward)
{
    struct program_cost by_op[NODE_OP_COUNT], sum = { 0 };

    program_cost(p, backward, by_op);
    for (int i = 0; i < NODE_OP_COUNT; i++) {
        sum.flops += by_op[i].flops;
        sum.flops_reference += by_op[i].flops_reference;
        sum.bytes += by_op[i].bytes;
        sum.n_nodes += by_op[i].n_nodes;
    }
    return sum;
}

const char *program_op_name(enum node_op op)
{
    return node_kinds[op].name;
}

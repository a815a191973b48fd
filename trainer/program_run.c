#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "trainer/program_list.h"

/* ---- running -------------------------------------------------------------------------------- */
static void *at_offset(void *base, int64_t bytes)
{
    return base ? (char *)base + bytes : NULL;
}

struct tensor program_resolve(const struct program *p, int value, const struct program_run *run,
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
struct tensor program_resolve_in(const struct program *p, const struct node *n, int i,
                                 const struct program_run *run, bool forward)
{
    struct tensor t = program_resolve(p, n->in[i], run, forward);

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
    for (int i = 0; i < n->n_in; i++) o.in[i] = program_resolve_in(p, n, i, run, forward);
    for (int i = 0; i < n->n_out; i++) o.out[i] = program_resolve(p, n->out[i], run, forward);
    if (off(run, n->join))
        return run->ops->copy(o.out[0].data, o.in[0].data, tensor_bytes(o.out[0]), run->stream);
    return node_kinds[n->op].forward(n, run->ops, &o, run->stream);
}

/* The branch of a residual was left out: its sum has one term. */
static enum status pass_gradient(const struct program *p, int node, const struct program_run *run)
{
    const struct node *n = p->node + node;

    return run->ops->add_bwd(resolve_grad(p, n->in[0], run, p->backward[node].add[0]),
                             tensor_none(), resolve_grad(p, n->out[0], run, false), run->stream);
}

static enum status run_backward(const struct program *p, int node, const struct program_run *run)
{
    const struct node *n = p->node + node;
    struct node_operands o = { 0 };

    if (off(run, n->branch)) return OK;
    if (off(run, n->join)) return pass_gradient(p, node, run);
    for (int i = 0; i < n->n_in; i++) {
        o.in[i] = program_resolve_in(p, n, i, run, false);
        o.g_in[i] = resolve_grad(p, n->in[i], run, p->backward[node].add[i]);
    }
    for (int i = 0; i < n->n_out; i++) o.out[i] = program_resolve(p, n->out[i], run, false);
    o.g_out = resolve_grad(p, n->out[0], run, false);
    return node_kinds[n->op].backward(n, run->ops, &o, run->stream);
}

static enum status run_one(const struct program *p, const struct step *s,
                           const struct program_run *run)
{
    if (s->kind == STEP_BACKWARD) return run_backward(p, s->node, run);
    return run_forward(p, s->node, run, s->kind == STEP_FORWARD);
}

/* sum and y, or all gradients of both, in one op; the branches of both are on. */
static enum status run_pair(const struct program *p, const struct step *s,
                            const struct program_run *run)
{
    const bool backward = s->kind == STEP_BACKWARD, forward = s->kind == STEP_FORWARD;
    const struct node *r = p->node + s[backward].node, *l = p->node + s[!backward].node;
    const struct tensor sum = program_resolve(p, r->out[0], run, forward);
    const struct tensor scale = program_resolve(p, r->in[2], run, forward);
    const struct tensor gamma = program_resolve(p, l->in[1], run, forward);
    const struct tensor mean = program_resolve(p, l->out[1], run, forward);
    const struct tensor rstd = program_resolve(p, l->out[2], run, forward);
    const bool *add_r = p->backward[s[backward].node].add;
    const bool *add_l = p->backward[s[!backward].node].add;
    struct tensor dsum;

    if (!backward)
        return run->ops->residual_layernorm_fwd(
            sum, program_resolve(p, l->out[0], run, forward), mean, rstd,
            program_resolve(p, r->in[0], run, forward), program_resolve(p, r->in[1], run, forward),
            scale, gamma, program_resolve(p, l->in[2], run, forward), l->eps, run->stream);
    dsum = add_l[0] ? resolve_grad(p, r->out[0], run, false) : tensor_none();
    return run->ops->residual_layernorm_bwd(
        resolve_grad(p, r->in[0], run, add_r[0]), resolve_grad(p, r->in[1], run, add_r[1]),
        resolve_grad(p, l->in[1], run, add_l[1]), resolve_grad(p, l->in[2], run, add_l[2]), dsum,
        resolve_grad(p, l->out[0], run, false), sum, gamma, mean, rstd, scale, run->stream);
}

/* Whether a step runs with the next: where the caller left out a branch, each goes its own way. */
static bool pair_is_on(const struct program *p, const struct step *s, const struct program_run *run)
{
    const struct node *a, *b;

    if (!s->pair) return false;
    a = p->node + s[0].node;
    b = p->node + s[1].node;
    return !off(run, a->branch) && !off(run, a->join) && !off(run, b->branch) && !off(run, b->join);
}

static void tell_ready(const struct program *p, int node, const struct program_run *run)
{
    const struct backward *b = p->backward + node;

    for (int i = 0; run->param_ready && i < b->n_ready; i++)
        run->param_ready(run->context, b->ready[i]);
}

static enum status run_steps(const struct program *p, int begin, int end,
                             const struct program_run *run)
{
    for (int t = begin; t < end; t++) {
        const struct step s = p->step[t];
        const int64_t start = run->profile ? clock_ns() : 0;
        const bool pair = pair_is_on(p, p->step + t, run);

        if (pair)
            TRY(run_pair(p, p->step + t++, run));
        else
            TRY(run_one(p, &s, run));
        if (s.kind == STEP_BACKWARD) tell_ready(p, s.node, run);
        if (s.kind == STEP_BACKWARD && pair) tell_ready(p, p->step[t].node, run);
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

/* Every op that a run may call, on a planning stream: a pair also one by one and a residual also without its branch, since
 * which branches are on is known only when it runs. */
static enum status run_dry(const struct program *p, const struct program_run *dry)
{
    for (int t = 0; t < p->n_steps; t++) {
        const struct step *s = p->step + t;

        if (s->pair) TRY(run_pair(p, s, dry));
        TRY(run_one(p, s, dry));
        if (s->kind == STEP_BACKWARD && p->node[s->node].join != PROGRAM_NONE)
            TRY(pass_gradient(p, s->node, dry));
    }
    return OK;
}

enum status program_plan(struct program *p, const struct ops *ops, enum program_mode mode,
                         bool recompute)
{
    struct stream s = { .planning = true, .own_products = p->own_products };
    const struct program_run dry = { .ops = ops, .stream = &s };

    ASSERT(!p->planned);
    if (p->compute == BF16 && !ops->bf16)
        FAIL(E_CONFIG, "device %s computes in f32 only; say run.precision=f32 or auto", ops->name);
    TRY(program_lay_out(p, mode, recompute));
    TRY(run_dry(p, &dry));
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
    return program_resolve(p, value, run, true);
}

struct tensor program_grad(const struct program *p, int output, const struct program_run *run)
{
    ASSERT(root_of(p, output)->output);
    return resolve_grad(p, output, run, false);
}

#include <string.h>

#include "trainer/program_list.h"

/* Gradients of what lies outside the block are F32, whatever is computed in. */
static double grad_bytes(const struct program *p, int value)
{
    const struct value *x = p->value + value;
    struct tensor t = x->shape;

    if (root_of(p, value)->kind != VALUE_BLOCK) t.dtype = F32;
    return (double)tensor_bytes(t);
}

static void cost_of(const struct program *p, int node, enum step_kind step, struct program_cost *c)
{
    const bool backward = step == STEP_BACKWARD;
    const struct program_run none = { 0 };
    const struct node *n = p->node + node;
    const struct node_kind *kind = node_kinds + n->op;
    struct node_operands o = { 0 };
    double here, reference;

    for (int i = 0; i < n->n_in; i++) o.in[i] = program_resolve_in(p, n, i, &none, true);
    for (int i = 0; i < n->n_out; i++) o.out[i] = program_resolve(p, n->out[i], &none, true);
    kind->macs(n, &o, &here, &reference);
    /* the field counts a backward pass as two forward ones, and nothing twice */
    c->flops += 2 * here * (backward ? kind->backward_factor : 1);
    if (step != STEP_AGAIN) c->flops_reference += 2 * reference * (backward ? 2 : 1);
    for (int i = 0; i < n->n_in; i++) {
        const double bytes = n->in[i] == PROGRAM_NONE ? 0 : (double)tensor_bytes(o.in[i]);
        const struct value *x = root_of(p, n->in[i]);

        if (!backward || backward_reads(n, false, i)) c->bytes += bytes;
        if (backward && x && x->needs_grad)
            c->bytes += grad_bytes(p, n->in[i]) * (p->backward[node].add[i] ? 2 : 1);
    }
    for (int i = 0; i < n->n_out; i++) {
        const double bytes = n->out[i] == PROGRAM_NONE ? 0 : (double)tensor_bytes(o.out[i]);

        if (!backward || backward_reads(n, true, i)) c->bytes += bytes;
        if (backward && i == 0) c->bytes += bytes;
    }
    c->n_nodes++;
}

/* What a sum and its norm in one op do not move, of the sum or of its gradient: residual_layernorm.h. */
static double saved_by_pair(const struct program *p, const struct step *s)
{
    const bool backward = s->kind == STEP_BACKWARD;
    const struct node *sum = p->node + s[backward].node;
    const double bytes = (double)tensor_bytes(p->value[sum->out[0]].shape);

    return backward ? 2 * bytes : bytes;
}

void program_cost(const struct program *p, bool backward, struct program_cost *cost)
{
    memset(cost, 0, NODE_OP_COUNT * sizeof *cost);
    for (int t = 0; t < p->n_steps; t++) {
        const struct step *s = p->step + t;
        struct program_cost *c = cost + p->node[s->node].op;

        if ((s->kind != STEP_FORWARD) != backward) continue;
        cost_of(p, s->node, s->kind, c);
        if (!s->pair) continue;
        cost_of(p, p->step[++t].node, s->kind, c); /* under the op that a profile times them by */
        c->bytes -= saved_by_pair(p, s);
        c->n_nodes--;
    }
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

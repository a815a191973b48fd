#include <stdlib.h>

#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "trainer/program_list.h"

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
    p->step[p->n_steps++] = (struct step){ .kind = kind, .node = node };
}

static bool is_pair(const struct program *p, int sum, int norm)
{
    const struct node *r = p->node + sum, *l = p->node + norm;

    return r->op == NODE_RESIDUAL && l->op == NODE_LAYERNORM && l->in[0] == r->out[0] &&
           r->in[0] != PROGRAM_NONE && r->dropout == 0 && l->act == ACT_NONE;
}

static void plan_pairs(struct program *p)
{
    for (int t = 0; p->fuse_norms && t + 1 < p->n_steps; t++) {
        struct step *s = p->step + t;

        if (s[0].kind != s[1].kind) continue;
        if (s->kind == STEP_BACKWARD)
            s->pair = is_pair(p, s[1].node, s[0].node);
        else
            s->pair = is_pair(p, s[0].node, s[1].node);
    }
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

static void use_operands(struct program *p, const struct step *s, int64_t time)
{
    const struct node *n = p->node + s->node;
    const bool backward = s->kind == STEP_BACKWARD, forward = s->kind == STEP_FORWARD;

    for (int j = 0; j < n->n_in; j++) {
        if (!backward || backward_reads(n, false, j)) use_value(p, n->in[j], time, forward);
        if (backward) use_grad(p, n->in[j], time);
    }
    for (int o = 0; o < n->n_out; o++)
        if (!backward || backward_reads(n, true, o)) use_value(p, n->out[o], time, forward);
    if (backward) use_grad(p, n->out[0], time);
}

/* Time runs over the steps, with one instant between forward and backward for the caller. What a pair
 * touches it may touch at both its times. */
static void plan_lifetimes(struct program *p, enum program_mode mode)
{
    for (int t = 0; t < p->n_steps; t++) {
        const int64_t time = t < p->n_forward ? t : t + 1;

        use_operands(p, p->step + t, time);
        if (!p->step[t].pair) continue;
        use_operands(p, p->step + t, time + 1);
        use_operands(p, p->step + t + 1, time);
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

enum status program_lay_out(struct program *p, enum program_mode mode, bool recompute)
{
    p->backward = calloc((size_t)p->n_nodes + 1, sizeof *p->backward);
    if (!p->backward) FAIL(E_MEMORY, "a program's backward list");
    if (mode == PROGRAM_TRAIN) plan_backward(p);
    if (mode == PROGRAM_TRAIN && recompute) plan_again(p);
    TRY(plan_steps(p, mode, recompute));
    plan_pairs(p);
    plan_lifetimes(p, mode);
    TRY(plan_offsets(p));
    p->planned = true;
    return OK;
}

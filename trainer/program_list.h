/* A program's lists while it is built, planned and run. For program*.c only. */
#ifndef TRAINER_PROGRAM_LIST_H
#define TRAINER_PROGRAM_LIST_H

#include <stddef.h>

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
    bool
        pair; /* runs with the next one: a residual sum and its norm, or backward the other way round */
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
    bool fuse_norms, own_products, stream, planned;
    int64_t bytes, scratch;
};

/* Whose memory a value is; NULL for PROGRAM_NONE. */
static inline struct value *root_of(const struct program *p, int value)
{
    return value == PROGRAM_NONE ? NULL : p->value + p->value[value].root;
}

static inline bool backward_reads(const struct node *n, bool output, int i)
{
    return (output ? node_reads_out(n) : node_kinds[n->op].reads_in) >> i & 1;
}

/* Steps, which gradients add, lifetimes, offsets in the block: program_plan without its dry pass. */
enum status program_lay_out(struct program *p, enum program_mode mode, bool recompute) MUST_CHECK;

/* Where a node's operand lies in a run. forward: not yet made again. */
struct tensor program_resolve(const struct program *p, int value, const struct program_run *run,
                              bool forward);
struct tensor program_resolve_in(const struct program *p, const struct node *n, int i,
                                 const struct program_run *run, bool forward);

#endif

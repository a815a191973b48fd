/* How each op of a program is called, and what its backward pass reads: the one place that knows both the node list and
 * the ops. For program.c only. */
#ifndef TRAINER_PROGRAM_OPS_H
#define TRAINER_PROGRAM_OPS_H

#include "trainer/program.h"

/* Operands resolved to tensors, in the node's order. g: their gradients. Absent operands are none. */
struct node_operands {
    struct tensor in[PROGRAM_INPUTS], out[PROGRAM_OUTPUTS];
    struct tensor g_in[PROGRAM_INPUTS], g_out; /* every op has one differentiable output, out[0] */
};

struct node_kind {
    const char *name;
    uint32_t products;            /* bit i: in[i] is a weight of a product */
    uint32_t reads_in, reads_out; /* bit i: backward reads in[i] / out[i]; see node_reads_out */
    enum status (*forward)(const struct node *n, const struct ops *ops, struct node_operands *o,
                           struct stream *s);
    enum status (*backward)(const struct node *n, const struct ops *ops, struct node_operands *o,
                            struct stream *s);
    /* Forward multiply-adds here and in the reference; backward_factor times that backward. */
    void (*macs)(const struct node *n, const struct node_operands *o, double *here,
                 double *reference);
    double backward_factor;
};

/* reads_out, less what this node's activation does without. */
uint32_t node_reads_out(const struct node *n);

extern const struct node_kind node_kinds[NODE_OP_COUNT];

#endif

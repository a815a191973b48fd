/* Who owns which slots and which slice of a buffer: pure arithmetic on sizes, tested without any rank.
 *
 * Sums over slots must not depend on how slots are dealt to ranks. So they follow one fixed binary tree: its leaves are the slots
 * 0 … n−1, its inner nodes the aligned dyadic blocks [a·2^k, (a+1)·2^k). A rank adds up the blocks that lie wholly
 * inside its slots; whoever owns a slice receives all ranks' blocks and finishes the tree. The result is the same to the bit
 * for every number of ranks. */
#ifndef CLUSTER_PLAN_H
#define CLUSTER_PLAN_H

#include <stdint.h>

struct plan_range {
    int64_t begin, end;
};

/* Rank r's part of n things: contiguous, in rank order, sizes differing by one at most. */
struct plan_range plan_part(int64_t n, int n_ranks, int rank);

enum { PLAN_BLOCKS_MAX = 128 }; /* 2·log2 of any int64 */

/* The maximal aligned dyadic blocks that tile r, ascending. Returns how many, ≤ PLAN_BLOCKS_MAX. */
int plan_blocks(struct plan_range r, struct plan_range block[PLAN_BLOCKS_MAX]);

/* What to do with the block on top of a stack of partial sums when the next lower one is `below`: 1 when they are
 * siblings and merge (below + top). */
int plan_siblings(struct plan_range below, struct plan_range top);

/* The sum of one more slot on top of the stack: how many merges that brings about, each of the block on top into the one below. */
int plan_push(struct plan_range stack[PLAN_BLOCKS_MAX], int *depth, int64_t slot);

/* The most blocks that lie on the stack while slots are pushed, in order; at least 1. */
int plan_levels(struct plan_range slots);

#endif

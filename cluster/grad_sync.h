/* Sums the gradients of all slots of all ranks, bucket by bucket, while the backward pass still runs.
 *
 * The sum follows the fixed tree of plan.h, so it is the same to the bit on any number of ranks. For each of its slots a rank
 * takes a zeroed gradient buffer, fills it, and says which parts are complete; in its last slot every complete bucket is sent at
 * once: each rank owns a slice of the bucket, receives all blocks of it, finishes the tree and gives the slice to all.
 *
 * All memory is taken at create. One step is: (slot_begin, ready…)* per slot, then wait. */
#ifndef CLUSTER_GRAD_SYNC_H
#define CLUSTER_GRAD_SYNC_H

#include <stdint.h>

#include "cluster/comm.h"
#include "cluster/plan.h"

struct grad_sync;

struct grad_sync_options {
    int64_t n; /* floats in a gradient buffer */
    const int64_t
        *bucket_end; /* ascending, the last is n: the buckets, in the order of the buffer; copied */
    int n_buckets;
    int64_t n_slots; /* global batch */
};

/* Collective. Keeps c. */
enum status grad_sync_create(struct grad_sync **s, struct comm *c,
                             const struct grad_sync_options *o) MUST_CHECK;
void grad_sync_destroy(struct grad_sync *s);

/* Local. A zeroed buffer of n floats for the rank's next slot. */
enum status grad_sync_slot_begin(struct grad_sync *s, float **grad) MUST_CHECK;

/* Local. Elements [begin,end) of the current slot's gradient are final. Ranges come in any order and cover [0,n) exactly once a
 * slot. Starts the exchange of every bucket completed by this in the rank's last slot, in a fixed bucket order on all
 * ranks, and moves earlier ones along. */
enum status grad_sync_ready(struct grad_sync *s, int64_t begin, int64_t end) MUST_CHECK;

/* Collective. Waits for all buckets; *total then holds the sum over all slots, n floats, the same bits on all ranks, until the
 * next slot_begin. A rank without slots calls only this. *exposed_seconds: how long it waited. */
enum status grad_sync_wait(struct grad_sync *s, float **total, double *exposed_seconds) MUST_CHECK;

#endif

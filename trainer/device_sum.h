/* Sums the gradients of all slots of all ranks on the devices they are made on: what cluster/grad_sync.h does on hosts, by the
 * same tree of cluster/plan.h, hence with the same bits. All of it is queued and can be recorded; nothing waits on the host.
 *
 * In the rank's last slot every complete bucket is merged and exchanged on the device's side, while the queue still makes the
 * others. Ranks of a node first share out the bucket among themselves, then those of equal place on all nodes share out each
 * part: what leaves a node leaves it once. All memory is taken at create. */
#ifndef TRAINER_DEVICE_SUM_H
#define TRAINER_DEVICE_SUM_H

#include "cluster/comm.h"
#include "cluster/plan.h"
#include "kernels/ops.h"

struct device_sum;

struct device_sum_options {
    const struct ops *ops; /* open; with exchanges, unless there is one rank */
    struct stream *queue;  /* where gradients are made; not owned */
    struct comm *comm;     /* not owned */
    int64_t n;             /* floats in a gradient */
    int64_t bucket;        /* floats in a bucket, rounded up to 64; the last may have fewer */
    int64_t n_slots;       /* of a step, on all ranks */
    int ranks_per_node;    /* the same on all ranks; 0: as comm finds them */
};

/* Collective; with several ranks once a process, behind it the devices have met. Where it fails on one rank the others may wait for
 * its device until the watchdog ends them: abort. */
enum status device_sum_create(struct device_sum **d, const struct device_sum_options *o) MUST_CHECK;
void device_sum_destroy(struct device_sum *d); /* collective when all is well; accepts NULL */

/* Local. The rank's next slot, the first one of a step behind begin: a zeroed gradient, for what is queued behind this. */
void device_sum_begin(struct device_sum *d);
enum status device_sum_slot(struct device_sum *d, float **gradient) MUST_CHECK;

/* Local. What makes elements [begin,end) of the slot's gradient final is queued. Ranges come in any order and cover [0,n) exactly
 * once a slot. */
enum status device_sum_ready(struct device_sum *d, int64_t begin, int64_t end) MUST_CHECK;

/* Local. All of the slot's gradient is queued, and has been said to be ready. */
enum status device_sum_slot_end(struct device_sum *d) MUST_CHECK;

/* Local, behind the last slot; a rank without slots calls only begin and end. For what is queued behind this, total holds the sum,
 * n floats, the same on all ranks, until the next step's first slot; and element r of `of_rank` (ranks) f64, device, what rank r
 * had there. */
enum status device_sum_end(struct device_sum *d, double *of_rank, float **total) MUST_CHECK;

#endif

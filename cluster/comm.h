/* The ranks of a run and what they say to each other. One table per transport: self (one rank, no MPI needed), mpi.
 *
 * Buffers are host memory. Only the thread that created a comm may use it. Every wait has a limit: past timeout_ms
 * the call logs rank, operation and the ranks that are silent, and returns E_TIMEOUT. A failure on one rank must end all: abort. */
#ifndef CLUSTER_COMM_H
#define CLUSTER_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum {
    COMM_IN_FLIGHT = 128, /* exchanges started and not complete, at most */
    COMM_CHANNELS = 4
};

struct comm;

/* A started exchange; owned by the caller, zero is "none in flight". */
struct comm_request {
    void *state; /* the transport's own */
};

struct comm_ops {
    const char *name;
    /* Collective. */
    enum status (*barrier)(struct comm *c) MUST_CHECK;
    enum status (*broadcast)(struct comm *c, void *p, int64_t bytes, int root) MUST_CHECK;
    /* Collective. Rank r's `bytes` land at all + r · bytes. */
    enum status (*all_gather)(struct comm *c, void *all, const void *mine,
                              int64_t bytes) MUST_CHECK;
    /* Collective. Rank r's counts[r] bytes land at all + Σ counts[<r]; counts are the same on every rank. */
    enum status (*all_gather_v)(struct comm *c, void *all, const void *mine,
                                const int64_t *counts) MUST_CHECK;
    /* Collective. In place; integers, hence exact. */
    enum status (*all_reduce_max)(struct comm *c, int64_t *p, int64_t n) MUST_CHECK;
    enum status (*all_reduce_sum)(struct comm *c, int64_t *p, int64_t n) MUST_CHECK;
    /* Collective; every rank starts the exchanges of one channel in the same order, channels do not mind each other. Returns
     * at once. Rank r is sent send_bytes[r] from send + send_offset[r]; what rank r sends here lands at receive +
     * receive_offset[r]. The buffers and arrays stay untouched until it is complete. Takes no memory. */
    enum status (*exchange_start)(struct comm *c, struct comm_request *q, int channel,
                                  const void *send, const int64_t *send_bytes,
                                  const int64_t *send_offset, void *receive,
                                  const int64_t *receive_bytes,
                                  const int64_t *receive_offset) MUST_CHECK;
    /* Local. Moves messages along; *done when complete (and q is zero again). */
    enum status (*test)(struct comm *c, struct comm_request *q, bool *done) MUST_CHECK;
    /* Local, after a wait ran out. Tells the others that this rank is alive, listens for two seconds, and writes the ranks
     * not heard of as "2, 5", or "none". */
    void (*roll_call)(struct comm *c, char *silent, int64_t room);
    /* Local, any thread. Ends the whole run, all ranks, with this exit code. Does not return. */
    void (*abort)(struct comm *c, int exit_code) __attribute__((noreturn));
    void (*destroy)(struct comm *c); /* collective when all is well */
};

struct comm {
    const struct comm_ops *ops;
    int rank, n_ranks;
    int local_rank, n_local; /* on this node */
    int64_t timeout_ms;
    void *state; /* the transport's own */
};

/* Collective. Under mpirun/srun (seen by its environment) the MPI transport, else one rank by itself. Without MPI in the build,
 * a launch on several ranks is E_NO_DEVICE with the cure. Also sets the log's rank and the ASSERT stop hook. */
enum status comm_create(struct comm **c, int64_t timeout_ms) MUST_CHECK;
void comm_destroy(struct comm *c); /* accepts NULL */

/* Local. Waits for a started exchange, moving messages along; E_TIMEOUT past the comm's limit. */
enum status comm_wait(struct comm *c, struct comm_request *q, const char *what) MUST_CHECK;

/* Local. For loops that wait on their own: says what was waited for, how long, and which ranks are silent; E_TIMEOUT. */
enum status comm_timed_out(struct comm *c, const char *what, double seconds) MUST_CHECK;

#endif

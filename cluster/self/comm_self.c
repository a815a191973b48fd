/* One rank: nothing to send, every exchange is complete when it is started. */
#include "cluster/transport.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum status barrier(struct comm *c)
{
    (void)c;
    return OK;
}

static enum status broadcast(struct comm *c, void *p, int64_t bytes, int root)
{
    (void)p;
    (void)bytes;
    if (root >= c->n_ranks || root < 0) FAIL(E_COMM, "broadcast from rank %d of 1", root);
    return OK;
}

static enum status all_gather(struct comm *c, void *all, const void *mine, int64_t bytes)
{
    (void)c;
    if (bytes > 0 && all != mine) memmove(all, mine, (size_t)bytes);
    return OK;
}

static enum status all_gather_v(struct comm *c, void *all, const void *mine, const int64_t *counts)
{
    return all_gather(c, all, mine, counts[0]);
}

static enum status all_reduce(struct comm *c, int64_t *p, int64_t n)
{
    (void)c;
    (void)p;
    (void)n;
    return OK;
}

static enum status exchange_start(struct comm *c, struct comm_request *q, int channel,
                                  const void *send, const int64_t *send_bytes,
                                  const int64_t *send_offset, void *receive,
                                  const int64_t *receive_bytes, const int64_t *receive_offset)
{
    (void)channel;
    if (send_bytes[0] != receive_bytes[0])
        FAIL(E_COMM, "exchange: %lld bytes sent to self, %lld expected", (long long)send_bytes[0],
             (long long)receive_bytes[0]);
    *q = (struct comm_request){ 0 };
    if (send_bytes[0] == 0) return OK;
    return all_gather(c, (char *)receive + receive_offset[0], (const char *)send + send_offset[0],
                      send_bytes[0]);
}

static enum status test(struct comm *c, struct comm_request *q, bool *done)
{
    (void)c;
    (void)q;
    *done = true;
    return OK;
}

static void roll_call(struct comm *c, char *silent, int64_t room)
{
    (void)c;
    snprintf(silent, (size_t)room, "none");
}

__attribute__((noreturn)) static void abort_run(struct comm *c, int exit_code)
{
    (void)c;
    _exit(exit_code);
}

static void destroy(struct comm *c)
{
    (void)c;
}

static const struct comm_ops ops = { .name = "self",
                                     .barrier = barrier,
                                     .broadcast = broadcast,
                                     .all_gather = all_gather,
                                     .all_gather_v = all_gather_v,
                                     .all_reduce_max = all_reduce,
                                     .all_reduce_sum = all_reduce,
                                     .exchange_start = exchange_start,
                                     .test = test,
                                     .roll_call = roll_call,
                                     .abort = abort_run,
                                     .destroy = destroy };

enum status comm_self_create(struct comm *c)
{
    *c = (struct comm){ .ops = &ops, .n_ranks = 1, .n_local = 1, .timeout_ms = c->timeout_ms };
    return OK;
}

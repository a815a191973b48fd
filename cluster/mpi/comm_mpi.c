/* Ranks over MPI. Only the thread that created the comm calls MPI (MPI_THREAD_FUNNELED); another thread that must end the run
 * leaves with _exit, which the launcher turns into the end of all.
 *
 * Every wait is a started operation and a test loop, since MPI itself never gives up on a stopped peer. Messages go as bytes,
 * and above INT_MAX bytes as so many blocks of 1 MiB and a rest. */
#include "cluster/transport.h"

#include "cluster/wait.h"
#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"

#include <limits.h>
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BLOCK = 1 << 20,     /* bytes of the block type */
    PIECE = 1 << 30,     /* bytes of one piece of a long broadcast or reduction */
    MESSAGES_A_PEER = 4, /* blocks and rest, sent and received */
    TAG_ROLL = COMM_CHANNELS
};

static const int64_t roll_ms = 2000;

struct flight {
    MPI_Request *request; /* MESSAGES_A_PEER · n_ranks */
    int n;
    bool busy;
};

struct mpi_state {
    MPI_Comm comm;
    MPI_Datatype block;
    pthread_t owner;
    struct arena arena; /* owns what follows */
    struct flight flight[COMM_IN_FLIGHT];
    MPI_Request *roll;                    /* 2 · n_ranks */
    int64_t *to, *from, *at_to, *at_from; /* n_ranks each: all_gather_v as an exchange */
    char roll_out, *roll_in;              /* one byte a rank */
};

static enum status check_mpi(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (code == MPI_SUCCESS) return OK;
    if (MPI_Error_string(code, text, &n) != MPI_SUCCESS)
        snprintf(text, sizeof text, "code %d", code);
    FAIL(E_COMM, "%s: %s", what, text);
}

#define CHECK_MPI(call) TRY(check_mpi((call), #call))

static enum status wait_for(struct comm *c, MPI_Request *q, const char *what)
{
    struct wait w = wait_begin();
    int done = 0;

    for (;;) {
        CHECK_MPI(MPI_Test(q, &done, MPI_STATUS_IGNORE));
        if (done) return OK;
        if (!wait_more(&w, c->timeout_ms)) return comm_timed_out(c, what, wait_seconds(&w));
    }
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static enum status start_message(struct mpi_state *m, struct flight *f, bool sending, char *p,
                                 int64_t bytes, int peer, int tag)
{
    const int64_t blocks = bytes > INT_MAX ? bytes / BLOCK : 0;
    const int64_t count[2] = { blocks, bytes - blocks * BLOCK };
    const MPI_Datatype type[2] = { m->block, MPI_BYTE };

    for (int i = 0; i < 2; i++) {
        if (count[i] == 0) continue;
        if (count[i] > INT_MAX) FAIL(E_COMM, "a message of %lld bytes", (long long)bytes);
        if (sending)
            CHECK_MPI(MPI_Isend(p, (int)count[i], type[i], peer, tag, m->comm, &f->request[f->n]));
        else
            CHECK_MPI(MPI_Irecv(p, (int)count[i], type[i], peer, tag, m->comm, &f->request[f->n]));
        f->n++;
        p += blocks * BLOCK;
    }
    return OK;
}

static enum status exchange_start(struct comm *c, struct comm_request *q, int channel,
                                  const void *send, const int64_t *send_bytes,
                                  const int64_t *send_offset, void *receive,
                                  const int64_t *receive_bytes, const int64_t *receive_offset)
{
    struct mpi_state *m = c->state;
    const int me = c->rank;
    struct flight *f = NULL;

    ASSERT(channel >= 0 && channel < COMM_CHANNELS);
    if (send_bytes[me] != receive_bytes[me])
        FAIL(E_COMM, "exchange: %lld bytes sent to self, %lld expected", (long long)send_bytes[me],
             (long long)receive_bytes[me]);
    for (int i = 0; i < COMM_IN_FLIGHT && !f; i++)
        if (!m->flight[i].busy) f = &m->flight[i];
    if (!f) FAIL(E_COMM, "more than %d exchanges in flight", COMM_IN_FLIGHT);
    f->n = 0;
    f->busy = true;
    q->state = f;
    /* each rank begins with its right neighbour, so that not all send to rank 0 first */
    for (int i = 1; i < c->n_ranks; i++) {
        const int r = (me - i + c->n_ranks) % c->n_ranks;

        TRY(start_message(m, f, false, (char *)receive + receive_offset[r], receive_bytes[r], r,
                          channel));
    }
    for (int i = 1; i < c->n_ranks; i++) {
        const int r = (me + i) % c->n_ranks;

        /* MPI_Isend does not write through it */
        TRY(start_message(m, f, true, (char *)(uintptr_t)send + send_offset[r], send_bytes[r], r,
                          channel));
    }
    if (send_bytes[me] > 0)
        memmove((char *)receive + receive_offset[me], (const char *)send + send_offset[me],
                (size_t)send_bytes[me]);
    return OK;
}

static enum status test(struct comm *c, struct comm_request *q, bool *done)
{
    struct flight *f = q->state;
    int all = 0;

    (void)c;
    *done = true;
    if (!f) return OK;
    CHECK_MPI(MPI_Testall(f->n, f->request, &all, MPI_STATUSES_IGNORE));
    *done = all;
    if (all) {
        f->busy = false;
        q->state = NULL;
    }
    return OK;
}

/* ---- collectives ----------------------------------------------------------------------------- */

static enum status barrier(struct comm *c)
{
    struct mpi_state *m = c->state;
    MPI_Request q;

    CHECK_MPI(MPI_Ibarrier(m->comm, &q));
    return wait_for(c, &q, "a barrier");
}

static enum status broadcast(struct comm *c, void *p, int64_t bytes, int root)
{
    struct mpi_state *m = c->state;

    for (int64_t at = 0; at < bytes; at += PIECE) {
        const int64_t piece = bytes - at < PIECE ? bytes - at : PIECE;
        MPI_Request q;

        CHECK_MPI(MPI_Ibcast((char *)p + at, (int)piece, MPI_BYTE, root, m->comm, &q));
        TRY(wait_for(c, &q, "a broadcast"));
    }
    return OK;
}

static enum status all_gather_v(struct comm *c, void *all, const void *mine, const int64_t *counts)
{
    struct mpi_state *m = c->state;
    struct comm_request q = { 0 };
    int64_t at = 0;

    for (int r = 0; r < c->n_ranks; r++) {
        m->to[r] = counts[c->rank];
        m->at_to[r] = 0;
        m->from[r] = counts[r];
        m->at_from[r] = at;
        at += counts[r];
    }
    TRY(exchange_start(c, &q, COMM_CHANNELS - 1, mine, m->to, m->at_to, all, m->from, m->at_from));
    return comm_wait(c, &q, "an all-gather");
}

static enum status all_gather(struct comm *c, void *all, const void *mine, int64_t bytes)
{
    struct mpi_state *m = c->state;
    MPI_Request q;

    if (bytes > INT_MAX / c->n_ranks) {
        int64_t *counts = m->from; /* all_gather_v writes the same there */

        for (int r = 0; r < c->n_ranks; r++) counts[r] = bytes;
        return all_gather_v(c, all, mine, counts);
    }
    CHECK_MPI(MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, m->comm, &q));
    return wait_for(c, &q, "an all-gather");
}

static enum status all_reduce(struct comm *c, int64_t *p, int64_t n, MPI_Op op, const char *what)
{
    const int64_t piece_max = PIECE / (int64_t)sizeof *p;
    struct mpi_state *m = c->state;

    for (int64_t at = 0; at < n; at += piece_max) {
        const int64_t piece = n - at < piece_max ? n - at : piece_max;
        MPI_Request q;

        CHECK_MPI(MPI_Iallreduce(MPI_IN_PLACE, p + at, (int)piece, MPI_INT64_T, op, m->comm, &q));
        TRY(wait_for(c, &q, what));
    }
    return OK;
}

static enum status all_reduce_max(struct comm *c, int64_t *p, int64_t n)
{
    return all_reduce(c, p, n, MPI_MAX, "an all-reduce (max)");
}

static enum status all_reduce_sum(struct comm *c, int64_t *p, int64_t n)
{
    return all_reduce(c, p, n, MPI_SUM, "an all-reduce (sum)");
}

/* ---- the end --------------------------------------------------------------------------------- */

/* Who waits also calls the roll, at about the same time, for all waits of a step have one limit. A stopped or dead rank does
 * not, nor does one that computes: it is the one the others wait for. */
static void roll_call(struct comm *c, char *silent, int64_t room)
{
    struct mpi_state *m = c->state;
    struct wait w = wait_begin();
    int64_t used = 0;
    int missing = 0;

    for (int r = 0; r < c->n_ranks; r++) {
        m->roll[2 * r] = m->roll[2 * r + 1] = MPI_REQUEST_NULL;
        if (r == c->rank) continue;
        if (MPI_Irecv(&m->roll_in[r], 1, MPI_BYTE, r, TAG_ROLL, m->comm, &m->roll[2 * r]) ||
            MPI_Isend(&m->roll_out, 1, MPI_BYTE, r, TAG_ROLL, m->comm, &m->roll[2 * r + 1]))
            log_warn("roll call: rank %d cannot be reached", r);
    }
    do {
        missing = 0;
        for (int r = 0; r < c->n_ranks; r++) {
            int here = 1;

            if (MPI_Test(&m->roll[2 * r], &here, MPI_STATUS_IGNORE) || !here) missing++;
        }
    } while (missing && wait_more(&w, roll_ms));
    snprintf(silent, (size_t)room, "none");
    for (int r = 0; r < c->n_ranks && used < room; r++) {
        if (m->roll[2 * r] == MPI_REQUEST_NULL) continue;
        used += snprintf(silent + used, (size_t)(room - used), "%s%d", used ? ", " : "", r);
    }
}

__attribute__((noreturn)) static void abort_run(struct comm *c, int exit_code)
{
    const struct mpi_state *m = c->state;

    if (pthread_equal(pthread_self(), m->owner)) MPI_Abort(m->comm, exit_code);
    _exit(exit_code);
}

static void destroy(struct comm *c)
{
    struct mpi_state *m = c->state;

    for (int i = 0; i < COMM_IN_FLIGHT; i++) {
        if (!m->flight[i].busy) continue;
        log_error("%s: an exchange was never waited for", status_text(E_COMM));
        abort_run(c, status_exit_code(E_COMM));
    }
    /* MPI_Finalize waits for all ranks and knows no limit: meet before it */
    if (barrier(c) != OK) abort_run(c, status_exit_code(E_TIMEOUT));
    MPI_Type_free(&m->block);
    MPI_Comm_free(&m->comm);
    MPI_Finalize();
    arena_destroy(&m->arena);
    free(m);
}

static const struct comm_ops ops = { .name = "mpi",
                                     .barrier = barrier,
                                     .broadcast = broadcast,
                                     .all_gather = all_gather,
                                     .all_gather_v = all_gather_v,
                                     .all_reduce_max = all_reduce_max,
                                     .all_reduce_sum = all_reduce_sum,
                                     .exchange_start = exchange_start,
                                     .test = test,
                                     .roll_call = roll_call,
                                     .abort = abort_run,
                                     .destroy = destroy };

/* ---- the beginning --------------------------------------------------------------------------- */

static enum status take_memory(struct mpi_state *m, int64_t n_ranks)
{
    const int64_t flight = MESSAGES_A_PEER * n_ranks * (int64_t)sizeof(MPI_Request);
    const int64_t roll = 2 * n_ranks * (int64_t)sizeof(MPI_Request);
    const int64_t list = n_ranks * (int64_t)sizeof(int64_t);
    int64_t **const lists[] = { &m->to, &m->from, &m->at_to, &m->at_from };

    TRY(arena_create(&m->arena, COMM_IN_FLIGHT * arena_round(flight) + arena_round(roll) +
                                    4 * arena_round(list) + arena_round(n_ranks)));
    for (int i = 0; i < COMM_IN_FLIGHT; i++)
        TRY(arena_take(&m->arena, flight, (void **)&m->flight[i].request));
    TRY(arena_take(&m->arena, roll, (void **)&m->roll));
    for (int i = 0; i < 4; i++) TRY(arena_take(&m->arena, list, (void **)lists[i]));
    return arena_take(&m->arena, n_ranks, (void **)&m->roll_in);
}

static enum status open_world(struct comm *c, struct mpi_state *m, int n_expected)
{
    MPI_Comm node;
    int provided = 0;

    /* ranks may share cores, and the launcher does not always know; yielding costs little when they do not */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    CHECK_MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    if (provided < MPI_THREAD_FUNNELED)
        FAIL(E_NO_DEVICE, "this MPI allows no threads at all in a program that uses it");
    CHECK_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &m->comm));
    CHECK_MPI(MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN));
    CHECK_MPI(MPI_Comm_rank(m->comm, &c->rank));
    CHECK_MPI(MPI_Comm_size(m->comm, &c->n_ranks));
    if (n_expected > 0 && c->n_ranks != n_expected)
        FAIL(E_NO_DEVICE,
             "the launcher started %d ranks, but MPI sees %d: it belongs to another MPI; use the "
             "mpirun of the MPI samforge was built with, or srun --mpi=pmix",
             n_expected, c->n_ranks);
    CHECK_MPI(MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &node));
    CHECK_MPI(MPI_Comm_rank(node, &c->local_rank));
    CHECK_MPI(MPI_Comm_size(node, &c->n_local));
    CHECK_MPI(MPI_Comm_free(&node));
    CHECK_MPI(MPI_Type_contiguous(BLOCK, MPI_BYTE, &m->block));
    CHECK_MPI(MPI_Type_commit(&m->block));
    return OK;
}

enum status comm_mpi_create(struct comm *c, int n_expected)
{
    struct mpi_state *m = calloc(1, sizeof *m);
    enum status s;

    if (!m) FAIL(E_MEMORY, "%zu bytes for the MPI communicator", sizeof *m);
    m->owner = pthread_self();
    s = open_world(c, m, n_expected);
    if (s == OK) s = take_memory(m, c->n_ranks);
    if (s != OK) { /* MPI stays as it is: the caller exits, and the launcher ends the others */
        arena_destroy(&m->arena);
        free(m);
        return s;
    }
    c->ops = &ops;
    c->state = m;
    return OK;
}

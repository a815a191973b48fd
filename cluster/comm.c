#include "cluster/comm.h"

#include "cluster/topology.h"
#include "cluster/transport.h"
#include "cluster/watchdog.h"
#include "cluster/wait.h"
#include "kernels/base/check.h"
#include "kernels/base/log.h"

#include <stdlib.h>

static struct comm *the_comm; /* for the ASSERT stop hook, which takes no argument */

static void stop_all(void)
{
    if (the_comm) the_comm->ops->abort(the_comm, 1);
}

static enum status create_transport(struct comm *c)
{
    const struct topology_job job = topology_job();

    if (job.stranded)
        FAIL(E_NO_DEVICE, "srun started several tasks that cannot find each other: "
                          "run srun --mpi=pmix, or mpirun inside the allocation");
    if (!job.launcher) return comm_self_create(c);
#ifdef WITH_MPI
    return comm_mpi_create(c, job.n_ranks);
#else
    if (job.n_ranks == 1) return comm_self_create(c);
    FAIL(E_NO_DEVICE,
         "%s started %d ranks, but this build has no MPI: install libopenmpi-dev and "
         "openmpi-bin and build again",
         job.launcher, job.n_ranks);
#endif
}

enum status comm_create(struct comm **c, int64_t timeout_ms)
{
    struct comm *made;
    enum status s;

    if (the_comm) FAIL(E_COMM, "a second communicator in one process");
    if (timeout_ms < 1) FAIL(E_CONFIG, "a limit of %lld ms for waits", (long long)timeout_ms);
    made = calloc(1, sizeof *made);
    if (!made) FAIL(E_MEMORY, "%zu bytes for the communicator", sizeof *made);
    made->timeout_ms = timeout_ms;
    /* MPI_Init knows no limit: a peer that dies in it would be waited for for ever */
    s = watchdog_start(NULL, timeout_ms);
    if (s == OK) {
        watchdog_feed("finding the other ranks", 0, 0);
        s = create_transport(made);
        watchdog_stop();
    }
    if (s != OK) {
        free(made);
        return s;
    }
    log_set_rank(made->rank, made->n_ranks);
    topology_report(made->n_local);
    the_comm = made;
    check_set_stop(stop_all);
    *c = made;
    return OK;
}

void comm_destroy(struct comm *c)
{
    if (!c) return;
    check_set_stop(NULL);
    the_comm = NULL;
    c->ops->destroy(c);
    free(c);
}

enum status comm_timed_out(struct comm *c, const char *what, double seconds)
{
    char silent[256];

    c->ops->roll_call(c, silent, sizeof silent);
    FAIL(E_TIMEOUT, "rank %d waited %.1f s for %s; silent ranks: %s", c->rank, seconds, what,
         silent);
}

enum status comm_wait(struct comm *c, struct comm_request *q, const char *what)
{
    struct wait w = wait_begin();
    bool done = false;

    for (;;) {
        TRY(c->ops->test(c, q, &done));
        if (done) return OK;
        if (!wait_more(&w, c->timeout_ms)) return comm_timed_out(c, what, wait_seconds(&w));
    }
}

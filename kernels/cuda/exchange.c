/* Every exchange is one group of sends and receives: NCCL makes one kernel of it, or a few. Connections are made by the first
 * message between two ranks; a step that is recorded should not be that. */
#include "kernels/cuda/exchange.h"

#include <nccl.h>
#include <string.h>

#include "kernels/base/log.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/runtime.h"

static ncclComm_t network; /* NULL: not joined */

static enum status failed(ncclResult_t e, const char *file, int line, const char *what)
{
    return status_fail(
        E_DEVICE, file, line,
        "%s: %s (%s); NCCL_DEBUG=WARN in the environment says more, and run.nccl=off "
        "sums on the hosts",
        what, ncclGetErrorString(e), ncclGetLastError(network));
}

#define NCCL(call, what)                                                                           \
    do {                                                                                           \
        const ncclResult_t nccl_e_ = (call);                                                       \
        if (nccl_e_ != ncclSuccess) return failed(nccl_e_, __FILE__, __LINE__, what);              \
    } while (0)

enum status exchange_id(void *id)
{
    ncclUniqueId made;

    _Static_assert(sizeof made == EXCHANGE_ID_BYTES, "NCCL's id");
    NCCL(ncclGetUniqueId(&made), "NCCL finds no network to begin on");
    memcpy(id, &made, sizeof made);
    return OK;
}

/* Of the network, while the device is waited for: what runs there would wait for ever. */
static enum status check(void)
{
    ncclResult_t e = ncclSuccess;

    NCCL(ncclCommGetAsyncError(network, &e), "asking NCCL how it is");
    NCCL(e, "an exchange between GPUs failed");
    return OK;
}

enum status exchange_join(const void *id, int rank, int n_ranks)
{
    ncclUniqueId of;

    if (network) FAIL(E_DEVICE, "this process has joined NCCL's ranks already");
    memcpy(&of, id, sizeof of);
    NCCL(ncclCommInitRank(&network, n_ranks, of, rank), "the ranks' GPUs do not find each other");
    runtime_watch(check);
    return OK;
}

static ncclResult_t start(const struct exchange_part *p, struct stream *s)
{
    const size_t n = (size_t)p->bytes;

    if (n == 0) return ncclSuccess;
    return p->send ? ncclSend(p->data, n, ncclUint8, p->rank, network, s->queue)
                   : ncclRecv(p->data, n, ncclUint8, p->rank, network, s->queue);
}

enum status exchange(const struct exchange_part *part, int64_t n, struct stream *s)
{
    ncclResult_t e = ncclSuccess, ended;

    if (!network) FAIL(E_DEVICE, "an exchange before this process has joined NCCL's ranks");
    if (graph_is_recording()) graph_make_anew();
    NCCL(ncclGroupStart(), "an exchange between GPUs");
    for (int64_t i = 0; i < n && e == ncclSuccess; i++) e = start(part + i, s);
    ended =
        ncclGroupEnd(); /* also behind a failure: a group left open would swallow what follows */
    NCCL(e, "an exchange between GPUs");
    NCCL(ended, "an exchange between GPUs");
    return OK;
}

void exchange_leave(void)
{
    ncclResult_t e;

    if (!network) return;
    runtime_watch(NULL);
    if (graph_forget() != OK) return; /* it would wait for them for ever */
    e = ncclCommDestroy(network);
    network = NULL;
    if (e != ncclSuccess) log_warn("NCCL was not left in order: %s", ncclGetErrorString(e));
}

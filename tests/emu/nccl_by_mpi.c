/* As much of NCCL as kernels/cuda/exchange.c asks for, between processes that each emulate a device: MPI carries the messages
 * when their turn in the queue comes. With what NCCL refuses, and what no GPU could do, refused. */
#include <mpi.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/graph.h"
#include "kernels/cuda/runtime.h"
#include "tests/emu/device_memory.h"

enum { MAX_PARTS = 4096, MAX_RANKS = 64, ID = 0x5a };

struct part {
    void *data;
    size_t bytes;
    int rank;
    bool send;
};

/* What is open between GroupStart and GroupEnd; all on one queue. */
static struct part part[MAX_PARTS];
static int n_parts;
static bool open_group;
static const void *queue;

static MPI_Comm network = MPI_COMM_NULL;
static int rank, n_ranks;

static void stop(const char *what)
{
    fprintf(stderr, "nccl_by_mpi: %s\n", what);
    fflush(NULL);
    _exit(1);
}

static bool met
    [MAX_RANKS]; /* ranks a message to or from was played, or is queued, outside of a recording */
static bool recorded; /* a recorded step holds exchanges, and was not dropped */

/* Of graph.c and runtime.c, which are not here. */
bool graph_is_recording(void)
{
    return emu_records();
}

void graph_make_anew(void)
{
    recorded = true;
}

enum status graph_forget(void)
{
    recorded = false;
    return OK;
}

void runtime_watch(enum status (*check)(void))
{
    if (check && check() != OK) stop("a network that has just been joined is said to have failed");
}

const char *ncclGetErrorString(ncclResult_t e)
{
    return e == ncclSuccess ? "no error" : "an error of the test's NCCL";
}

const char *ncclGetLastError(ncclComm_t c)
{
    (void)c;
    return "nccl_by_mpi";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, ID, sizeof *id);
    return ncclSuccess;
}

/* Every rank has the id that one rank made. */
ncclResult_t ncclCommInitRank(ncclComm_t *c, int n, ncclUniqueId id, int r)
{
    ncclUniqueId right;

    memset(&right, ID, sizeof right);
    if (memcmp(&id, &right, sizeof id) != 0) return ncclInvalidArgument;
    if (MPI_Comm_dup(MPI_COMM_WORLD, &network) != MPI_SUCCESS) return ncclSystemError;
    MPI_Comm_rank(network, &rank);
    MPI_Comm_size(network, &n_ranks);
    *c = (ncclComm_t)(void *)&network;
    memset(met, 0, sizeof met);
    return n_ranks <= MAX_RANKS && n == n_ranks && r == rank ? ncclSuccess : ncclInvalidArgument;
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    (void)c;
    if (recorded)
        stop("the ranks are left while a recorded step holds exchanges: NCCL would wait for ever");
    return MPI_Comm_free(&network) == MPI_SUCCESS ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e)
{
    (void)c;
    *e = ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    if (open_group) return ncclInvalidUsage;
    open_group = true;
    n_parts = 0;
    return ncclSuccess;
}

static ncclResult_t add(struct part p, const void *on)
{
    if (!open_group || p.rank < 0 || p.rank >= n_ranks || p.rank == rank) return ncclInvalidUsage;
    if (n_parts == MAX_PARTS || p.bytes == 0 || p.bytes > INT32_MAX) return ncclInvalidArgument;
    if (n_parts > 0 && on != queue) return ncclInvalidUsage;
    if (!emu_range(p.data, (int64_t)p.bytes, !p.send)) return ncclInvalidArgument;
    if (emu_records() && !met[p.rank]) stop("two ranks first meet in a recorded step");
    met[p.rank] = true;
    queue = on;
    part[n_parts++] = p;
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t type, int to, ncclComm_t c,
                      cudaStream_t s)
{
    (void)c;
    return type == ncclUint8 ? add((struct part){ (void *)(uintptr_t)data, n, to, true }, s)
                             : ncclInvalidArgument;
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t type, int from, ncclComm_t c,
                      cudaStream_t s)
{
    (void)c;
    return type == ncclUint8 ? add((struct part){ data, n, from, false }, s) : ncclInvalidArgument;
}

/* Parts are of one group, whose count stands before them. */
struct group {
    int n;
    struct part part[];
};

static bool carry(const void *argument)
{
    static MPI_Request request[MAX_PARTS];
    const struct group *g = argument;
    int e = MPI_SUCCESS;

    for (int i = 0; i < g->n && e == MPI_SUCCESS; i++) {
        const struct part *p = g->part + i;

        e = p->send ? MPI_Isend(p->data, (int)p->bytes, MPI_BYTE, p->rank, 0, network, request + i)
                    : MPI_Irecv(p->data, (int)p->bytes, MPI_BYTE, p->rank, 0, network, request + i);
    }
    return e == MPI_SUCCESS && MPI_Waitall(g->n, request, MPI_STATUSES_IGNORE) == MPI_SUCCESS;
}

ncclResult_t ncclGroupEnd(void)
{
    static struct {
        struct group g;
        struct part room[MAX_PARTS];
    } held;

    if (!open_group) return ncclInvalidUsage;
    open_group = false;
    if (n_parts == 0) return ncclSuccess;
    held.g.n = n_parts;
    memcpy(held.room, part, (size_t)n_parts * sizeof *part);
    return emu_call(carry, &held, (int64_t)(sizeof held.g + (size_t)n_parts * sizeof *part), queue)
               ? ncclSuccess
               : ncclSystemError;
}

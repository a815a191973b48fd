#include "tests/gpu/late_cudart.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct late_machine late = { .n_devices = 1, .major = 8, .memory = 1 << 30 };

enum { MAX_QUEUED = 4096, MAX_EVENTS = 64 };

struct graph;
static struct work {
    cudaStream_t stream;
    void *to;
    const void *from; /* NULL: zeros */
    size_t bytes;
    bool done;
    const struct graph *of; /* the executable it was launched by, or NULL */
    bool waits; /* does nothing but wait, for what was queued in stream `whom` before `behind` */
    cudaStream_t whom;
    int behind;
} work[MAX_QUEUED];
static int n_queued;
/* A graph is what was queued while its stream was captured. An executable holds the addresses it was made
 * with, and reads what is there when it runs. */
struct graph {
    struct work work[256];
    int n;
};
static struct graph *captured;                     /* NULL: nothing is being captured */
static cudaStream_t captured_stream, captured_too; /* and one that came after it, or NULL */
static bool joined;                                /* again since */
static struct event {
    cudaStream_t stream;
    int behind; /* what was queued by then must be done for it to be over */
} events[MAX_EVENTS];
static int n_events;
static char streams[8];
static int n_streams;

/* Of that stream, or of all; of the others nothing happens. */
static void work_until(int end, cudaStream_t stream, bool all)
{
    bool waited = false;

    for (int i = 0; i < end; i++) {
        struct work *w = work + i;

        if (w->done || (!all && w->stream != stream)) continue;
        w->done = waited = true;
        if (w->waits)
            work_until(w->behind, w->whom, false);
        else if (w->from)
            memcpy(w->to, w->from, w->bytes);
        else
            memset(w->to, 0, w->bytes);
    }
    late.n_waits += waited;
}

static cudaError_t queue(cudaStream_t stream, void *to, const void *from, size_t bytes)
{
    if (captured && (stream == captured_stream || stream == captured_too)) {
        if (stream == captured_too) joined = false;
        if (captured->n == (int)(sizeof captured->work / sizeof *captured->work)) exit(1);
        captured->work[captured->n++] =
            (struct work){ .stream = stream, .to = to, .from = from, .bytes = bytes };
        return cudaSuccess;
    }
    if (n_queued == MAX_QUEUED) {
        fprintf(stderr, "late_cudart: too much is queued\n");
        exit(1);
    }
    work[n_queued++] = (struct work){ .stream = stream, .to = to, .from = from, .bytes = bytes };
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = late.n_devices;
    return late.count_error;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "late GPU");
    p->major = late.major;
    p->uuid.bytes[0] = (char)(device + 1);
    p->totalGlobalMem = (size_t)late.memory;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess ? "no error" : "an error";
}

const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess ? "cudaSuccess" : "cudaErrorOfTheTest";
}

cudaError_t cudaSetDevice(int device)
{
    late.device = device;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *s = (cudaStream_t)(void *)&streams[n_streams++];
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most)
{
    *least = 0;
    *most = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority)
{
    if (priority != -5) return cudaErrorInvalidValue;
    return cudaStreamCreateWithFlags(s, flags);
}

/* Nothing gets done by asking; from the n_not_ready-th time on it is said to be done. */
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    (void)s;
    return late.n_not_ready-- > 0 ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    *p = malloc(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    (void)flags;
    if (n_events == MAX_EVENTS) return cudaErrorMemoryAllocation;
    *e = (cudaEvent_t)(void *)&events[n_events++];
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    *(struct event *)(void *)e = (struct event){ s, n_queued };
    return cudaSuccess;
}

/* While a stream is captured another may come after it, which is then captured too. */
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    const struct event *of = (const struct event *)(const void *)e;

    if (flags) return cudaErrorInvalidValue;
    if (captured && of->stream == captured_stream) captured_too = s;
    if (captured && s == captured_stream && of->stream == captured_too) joined = true;
    if (captured) return cudaSuccess;
    queue(s, NULL, NULL, 0);
    work[n_queued - 1].waits = true;
    work[n_queued - 1].whom = of->stream;
    work[n_queued - 1].behind = of->behind;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    const struct event *of = (const struct event *)(const void *)e;

    work_until(of->behind, of->stream, false);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    return kind == cudaMemcpyDefault ? queue(s, to, from, bytes) : cudaErrorInvalidValue;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    return value == 0 ? queue(s, to, NULL, bytes) : cudaErrorInvalidValue;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    if ((int64_t)bytes > late.memory) return cudaErrorMemoryAllocation;
    *p = malloc(bytes);
    if (*p) memset(*p, 0x5A, bytes); /* a GPU's memory holds what it held */
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMallocManaged(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    return cudaMalloc(p, bytes);
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    work_until(n_queued, NULL, true);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *all)
{
    *unused = (size_t)(late.memory - late.in_use);
    *all = (size_t)late.memory;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = late.last_error;

    late.last_error = cudaSuccess;
    return e;
}

cudaError_t cudaDeviceSynchronize(void)
{
    work_until(n_queued, NULL, true);
    return late.sync_error;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    if (captured || mode != cudaStreamCaptureModeRelaxed) return cudaErrorIllegalState;
    captured = calloc(1, sizeof *captured);
    captured_stream = s;
    captured_too = NULL;
    joined = true;
    return captured ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    if (!captured || s != captured_stream) return cudaErrorIllegalState;
    if (!joined) late.end_error = cudaErrorStreamCaptureUnjoined;
    *graph = late.end_error ? NULL : (cudaGraph_t)(void *)captured;
    if (late.end_error) free(captured);
    late.n_graphs += *graph != NULL;
    captured = NULL;
    return late.last_error = late.end_error;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags)
{
    struct graph *made;

    if (late.instantiate_error) return late.last_error = late.instantiate_error;
    made = malloc(sizeof *made);
    if (!made || flags) return cudaErrorMemoryAllocation;
    *made = *(struct graph *)(void *)graph;
    *executable = (cudaGraphExec_t)(void *)made;
    late.n_instantiated++;
    late.n_executables++;
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *why)
{
    struct graph *old = (struct graph *)(void *)executable;
    const struct graph *new = (struct graph *)(void *)graph;
    bool alike = old->n == new->n;

    memset(why, 0, sizeof *why);
    for (int i = 0; alike && i < new->n; i++)
        alike = !old->work[i].from == !new->work[i].from; /* copies and zeros are kinds of nodes */
    if (late.update_error) return late.last_error = late.update_error;
    if (!alike) return late.last_error = cudaErrorGraphExecUpdateFailure;
    *old = *new;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t s)
{
    const struct graph *g = (struct graph *)(void *)executable;

    if (captured && s == captured_stream) return cudaErrorIllegalState;
    for (int i = 0; i < g->n; i++) {
        queue(s, g->work[i].to, g->work[i].from, g->work[i].bytes);
        work[n_queued - 1].of = g;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    free(graph);
    late.n_graphs--;
    return cudaSuccess;
}

/* Not of one that has not run yet: it would have to be kept. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    for (int i = 0; i < n_queued; i++)
        if (!work[i].done && work[i].of == (const struct graph *)(void *)executable)
            return cudaErrorIllegalState;
    free(executable);
    late.n_executables--;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (captured && s == captured_stream) return cudaErrorStreamCaptureUnsupported;
    work_until(n_queued, s, false);
    return late.sync_error;
}

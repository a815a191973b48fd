#include "kernels/cuda/runtime.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/cuda/failure.h"
#include "kernels/cuda/graph.h"

/* A put copies the host's bytes into pinned pieces, from where the GPU fetches them when their turn
 * comes. A piece is used again once the event behind its last bytes is over: only a queue that lags
 * by all other pieces makes a put wait. */
enum { PIECES = 4, PIECE_ALIGN = 256 };
static const int64_t PIECE_BYTES = 8 << 20;

struct piece {
    char *host; /* pinned; lives until the process ends, as the stream does */
    int64_t used;
    cudaStream_t queue; /* where its bytes were put */
    cudaEvent_t over;
    bool in_flight;
};

static struct {
    int index; /* of the GPU; −1: none */
    bool chosen, open;
    char reason[PLUGIN_TEXT], text[PLUGIN_TEXT];
    uint64_t id;
    cudaStream_t queue, side;
    cudaEvent_t reached; /* by the stream that another is to come after */
    struct piece piece[PIECES];
    int now;                    /* the piece being filled */
    enum status (*check)(void); /* NULL: nobody watches */
} gpu = { .index = -1 };

static cudaStream_t queue_of(const struct stream *s)
{
    return s->queue;
}

/* ---- which GPU ------------------------------------------------------------------------------ */
static const char *refuse(const char *text)
{
    snprintf(gpu.reason, sizeof gpu.reason, "%s", text);
    return gpu.reason;
}

static const char *find_gpu(int local_rank)
{
    struct cudaDeviceProp p;
    char text[PLUGIN_TEXT];
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);

    if (e == cudaErrorInsufficientDriver)
        return refuse("no driver for an NVIDIA GPU answers, or it is older than the CUDA this "
                      "program was built with: nvidia-smi shows what is there");
    if (e == cudaSuccess && n == 0) e = cudaErrorNoDevice;
    if (e == cudaErrorNoDevice)
        return refuse("there is no NVIDIA GPU that this process may use (CUDA_VISIBLE_DEVICES may "
                      "hide it, or the job asked for none)");
    if (e == cudaSuccess) e = cudaGetDeviceProperties(&p, local_rank % n);
    if (e != cudaSuccess) {
        snprintf(text, sizeof text, "CUDA does not start: %s", cudaGetErrorString(e));
        return refuse(text);
    }
    if (p.major < 8) {
        snprintf(text, sizeof text,
                 "%s has compute capability %d.%d, and the kernels need 8.0 or more (A100, H100 "
                 "and later): run.device=cpu computes without it",
                 p.name, p.major, p.minor);
        return refuse(text);
    }
    gpu.index = local_rank % n;
    memcpy(&gpu.id, p.uuid.bytes, sizeof gpu.id);
    snprintf(gpu.text, sizeof gpu.text,
             "%s, number %d of %d, %.1f GiB, compute capability %d.%d, %d multiprocessors", p.name,
             gpu.index, n, (double)p.totalGlobalMem / (1024.0 * 1024 * 1024), p.major, p.minor,
             p.multiProcessorCount);
    return NULL;
}

const char *runtime_choose(int local_rank)
{
    if (!gpu.chosen) find_gpu(local_rank);
    gpu.chosen = true;
    return gpu.index < 0 ? gpu.reason : NULL;
}

const char *runtime_device(uint64_t *id)
{
    *id = gpu.id;
    return gpu.text;
}

/* ---- the stream and the ring ------------------------------------------------------------------ */
enum status runtime_open(void)
{
    int least = 0, most = 0;

    if (gpu.open) return OK;
    if (gpu.index < 0) FAIL(E_NO_DEVICE, "%s", *gpu.reason ? gpu.reason : "no GPU was chosen");
    CUDA(cudaSetDevice(gpu.index), "opening the GPU", 0);
    CUDA(cudaStreamCreateWithFlags(&gpu.queue, cudaStreamNonBlocking), "making a stream", 0);
    /* before blocks that wait for a place: what is beside is short, and others wait for it */
    CUDA(cudaDeviceGetStreamPriorityRange(&least, &most), "asking for priorities", 0);
    CUDA(cudaStreamCreateWithPriority(&gpu.side, cudaStreamNonBlocking, most), "making a stream",
         0);
    CUDA(cudaEventCreateWithFlags(&gpu.reached, cudaEventDisableTiming), "making an event", 0);
    for (int i = 0; i < PIECES; i++) {
        struct piece *p = gpu.piece + i;

        CUDA(cudaHostAlloc((void **)&p->host, (size_t)PIECE_BYTES, cudaHostAllocDefault),
             "pinned memory of the host", PIECE_BYTES);
        CUDA(cudaEventCreateWithFlags(&p->over, cudaEventDisableTiming), "making an event", 0);
    }
    gpu.open = true;
    return OK;
}

bool runtime_is_open(void)
{
    return gpu.open;
}

void *runtime_queue(void)
{
    return gpu.queue;
}

void *runtime_side(void)
{
    return gpu.side;
}

/* One event serves all: a stream waits for what the event stood for when it was told to. */
enum status runtime_after(struct stream *s, struct stream *other)
{
    CUDA(cudaEventRecord(gpu.reached, queue_of(other)), "an event for another stream", 0);
    CUDA(cudaStreamWaitEvent(queue_of(s), gpu.reached, 0), "a wait for another stream", 0);
    return OK;
}

/* Ends the current piece behind its last bytes, and waits until the next one is free. */
static enum status next_piece(void)
{
    struct piece *p = gpu.piece + gpu.now;

    if (p->used > 0) {
        CUDA(cudaEventRecord(p->over, p->queue), "an event behind a put", p->used);
        p->in_flight = true;
    }
    gpu.now = (gpu.now + 1) % PIECES;
    p = gpu.piece + gpu.now;
    if (p->in_flight) CUDA(cudaEventSynchronize(p->over), "waiting for earlier puts", p->used);
    p->in_flight = false;
    p->used = 0;
    return OK;
}

/* Of a step being recorded: its bytes lie still until that step is over. */
static enum status put_recorded(char *dev, const char *host, int64_t bytes, struct stream *s)
{
    for (int64_t done = 0, held; done < bytes; done += held) {
        const void *pinned;

        TRY(graph_hold(&pinned, host + done, bytes - done, &held));
        CUDA(cudaMemcpyAsync(dev + done, pinned, (size_t)held, cudaMemcpyDefault, queue_of(s)),
             "put", bytes);
    }
    return OK;
}

enum status runtime_put(void *dev, const void *host, int64_t bytes, struct stream *s)
{
    if (graph_is_recording()) return put_recorded(dev, host, bytes, s);
    for (int64_t done = 0; done < bytes;) {
        struct piece *p = gpu.piece + gpu.now;
        int64_t n = bytes - done;

        if (p->used == PIECE_BYTES || (p->used > 0 && p->queue != queue_of(s))) {
            TRY(next_piece());
            continue;
        }
        if (n > PIECE_BYTES - p->used) n = PIECE_BYTES - p->used;
        p->queue = queue_of(s);
        memcpy(p->host + p->used, (const char *)host + done, (size_t)n);
        CUDA(cudaMemcpyAsync((char *)dev + done, p->host + p->used, (size_t)n, cudaMemcpyDefault,
                             p->queue),
             "put", bytes);
        p->used += (n + PIECE_ALIGN - 1) / PIECE_ALIGN * PIECE_ALIGN;
        done += n;
    }
    return OK;
}

/* ---- the other verbs -------------------------------------------------------------------------- */
static enum status not_recording(const char *what)
{
    if (graph_is_recording()) FAIL(E_DEVICE, "%s while a step is being recorded", what);
    return OK;
}

enum status runtime_alloc(void **p, int64_t bytes)
{
    size_t unused = 0, all = 0;
    void *made = NULL;
    cudaError_t e;

    TRY(runtime_open());
    TRY(not_recording("memory is taken"));
    e = cudaMalloc(&made, (size_t)(bytes > 0 ? bytes : 1));
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* it is said here, not by the next launch */
        (void)cudaMemGetInfo(&unused, &all);
        FAIL(E_MEMORY,
             "%.3f GiB of GPU memory, of which %.3f of %.3f GiB are free: lower train.chunk, "
             "set train.recompute, or, where one rank's sums of many images do not fit, start "
             "more ranks (also on this GPU, with run.share_gpu=true): theirs lie on the host",
             (double)bytes / (1024.0 * 1024 * 1024), (double)unused / (1024.0 * 1024 * 1024),
             (double)all / (1024.0 * 1024 * 1024));
    }
    CUDA(e, "GPU memory", bytes);
    e = cudaMemset(made, 0, (size_t)(bytes > 0 ? bytes : 1));
    if (e == cudaSuccess) e = cudaDeviceSynchronize(); /* streams do not wait for the default one */
    if (e != cudaSuccess) cudaFree(made);
    CUDA(e, "zeroing GPU memory", bytes);
    *p = made;
    return OK;
}

void runtime_free(void *p)
{
    cudaError_t e;

    if (!p) return;
    ASSERT(!graph_is_recording()); /* what is being recorded may use it */
    e = cudaFree(p);               /* waits for what still uses it */
    if (e != cudaSuccess) log_warn("GPU memory was not given back: %s", cudaGetErrorString(e));
}

enum status runtime_get(void *host, const void *dev, int64_t bytes, struct stream *s)
{
    TRY(not_recording("the device is waited for"));
    if (bytes > 0)
        CUDA(cudaMemcpyAsync(host, dev, (size_t)bytes, cudaMemcpyDefault, queue_of(s)), "get",
             bytes);
    return runtime_sync(s);
}

enum status runtime_copy(void *dst, const void *src, int64_t bytes, struct stream *s)
{
    if (bytes > 0)
        CUDA(cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, queue_of(s)), "copy",
             bytes);
    return OK;
}

enum status runtime_zero(void *dev, int64_t bytes, struct stream *s)
{
    if (bytes > 0) CUDA(cudaMemsetAsync(dev, 0, (size_t)bytes, queue_of(s)), "zero", bytes);
    return OK;
}

void runtime_watch(enum status (*check)(void))
{
    gpu.check = check;
}

/* Until the stream is done, or who watches says that it never will be. Naps grow to a fifth of a millisecond. */
static enum status wait_watched(cudaStream_t queue)
{
    struct timespec nap = { .tv_nsec = 10000 };

    while (cudaStreamQuery(queue) == cudaErrorNotReady) {
        TRY(gpu.check());
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < 200000) nap.tv_nsec *= 2;
    }
    return OK; /* failures are told by what follows */
}

/* Where a kernel that failed while it ran comes to light. */
enum status runtime_sync(struct stream *s)
{
    cudaError_t e;

    TRY(not_recording("the device is waited for"));
    if (gpu.check) TRY(wait_watched(queue_of(s)));
    e = cudaStreamSynchronize(queue_of(s));
    if (e == cudaSuccess) e = cudaGetLastError();
    if (e != cudaSuccess)
        FAIL(E_DEVICE,
             "the GPU failed in what was queued before: %s, %s; a build of type Debug names the "
             "kernel",
             cudaGetErrorName(e), cudaGetErrorString(e));
    return OK;
}

/* ---- recorded steps --------------------------------------------------------------------------- */
enum status runtime_record_begin(struct stream *s)
{
    return graph_begin(s->queue);
}

enum status runtime_record_end(bool keep, struct stream *s)
{
    (void)s;
    return graph_end(keep);
}

enum status runtime_replay(struct stream *s)
{
    (void)s;
    return graph_replay();
}

enum status runtime_usage(struct device_usage *u)
{
    size_t unused, all;

    CUDA(cudaMemGetInfo(&unused, &all), "asking for the GPU's memory", 0);
    u->bytes = (int64_t)(all - unused);
    graph_counts(&u->graphs_made, &u->graphs_changed);
    return OK;
}

/* ---- memory for tests ------------------------------------------------------------------------- */
void *runtime_shared_alloc(int64_t bytes)
{
    void *p = NULL;

    if (runtime_open() != OK) return NULL;
    if (cudaMallocManaged(&p, (size_t)(bytes > 0 ? bytes : 1), cudaMemAttachGlobal) != cudaSuccess)
        return NULL;
    return p;
}

void runtime_shared_free(void *p)
{
    runtime_free(p);
}

#include "kernels/cuda/graph.h"

#include <string.h>

#include "kernels/cuda/failure.h"

enum { STEPS = 2, PIECES = 64, HOLD_ALIGN = 256 };
static const int64_t PIECE_BYTES = 8 << 20;

/* Pinned memory lives until the process ends, as the stream does. */
struct piece {
    char *host;
    int64_t bytes, used;
};

struct step {
    struct piece piece[PIECES];
    int now;
    cudaGraphExec_t executable; /* of the last step recorded here, or NULL */
    cudaEvent_t over;           /* behind its last launch */
    bool in_flight;
};

static struct {
    struct step step[STEPS];
    int turn; /* whose is recorded, or was last */
    bool recording, ready;
    cudaStream_t queue;
} graph;

static enum status wait_until_over(struct step *t)
{
    if (!t->over)
        CUDA(cudaEventCreateWithFlags(&t->over, cudaEventDisableTiming), "making an event", 0);
    if (t->in_flight)
        CUDA(cudaEventSynchronize(t->over), "waiting for the step before the last", 0);
    t->in_flight = false;
    for (int i = 0; i < PIECES; i++) t->piece[i].used = 0;
    t->now = 0;
    return OK;
}

enum status graph_begin(void *queue)
{
    const int turn = graph.ready ? graph.turn : (graph.turn + 1) % STEPS; /* not launched: anew */

    if (graph.recording) FAIL(E_DEVICE, "a step is being recorded already");
    graph.ready = false;
    graph.turn = turn;
    graph.queue = queue;
    TRY(wait_until_over(graph.step + turn));
    /* relaxed: other threads may take pinned memory meanwhile */
    CUDA(cudaStreamBeginCapture(graph.queue, cudaStreamCaptureModeRelaxed), "recording a step", 0);
    graph.recording = true;
    return OK;
}

/* The recorded graph becomes the step's executable: by new parameters where its shape is the old one's. */
static enum status make_executable(struct step *t, cudaGraph_t recorded)
{
    cudaGraphExecUpdateResultInfo why;

    if (t->executable) {
        if (cudaGraphExecUpdate(t->executable, recorded, &why) == cudaSuccess) return OK;
        (void)cudaGetLastError(); /* another shape is no failure */
        CUDA(cudaGraphExecDestroy(t->executable), "giving back a step's graph", 0);
        t->executable = NULL;
    }
    CUDA(cudaGraphInstantiate(&t->executable, recorded, 0),
         "making a step's graph; run.graph=off does without", 0);
    return OK;
}

enum status graph_end(bool keep)
{
    cudaGraph_t recorded = NULL;
    enum status s = OK;

    if (!graph.recording) FAIL(E_DEVICE, "no step is being recorded");
    graph.recording = false;
    CUDA(cudaStreamEndCapture(graph.queue, &recorded),
         "ending the recording of a step; run.graph=off does without", 0);
    if (keep) s = make_executable(graph.step + graph.turn, recorded);
    CUDA(cudaGraphDestroy(recorded), "giving back what was recorded", 0);
    graph.ready = keep && s == OK;
    return s;
}

enum status graph_replay(void)
{
    struct step *t = graph.step + graph.turn;

    if (!graph.ready) FAIL(E_DEVICE, "no recorded step is left to run");
    graph.ready = false;
    CUDA(cudaGraphLaunch(t->executable, graph.queue), "launching a step's graph", 0);
    CUDA(cudaEventRecord(t->over, graph.queue), "an event behind a step", 0);
    t->in_flight = true;
    return OK;
}

bool graph_is_recording(void)
{
    return graph.recording;
}

enum status graph_hold(const void **pinned, const void *host, int64_t bytes)
{
    struct step *t = graph.step + graph.turn;
    struct piece *p = t->piece + t->now;
    char *to;

    if (p->host && p->used + bytes > p->bytes) {
        if (t->now + 1 == PIECES)
            FAIL(E_MEMORY, "a step's inputs are over %lld bytes",
                 (long long)(PIECES * PIECE_BYTES));
        p = t->piece + ++t->now;
    }
    if (p->host && p->bytes < bytes) { /* of a step whose inputs were smaller */
        CUDA(cudaFreeHost(p->host), "giving back pinned memory", p->bytes);
        p->host = NULL;
    }
    if (!p->host) {
        p->bytes = bytes > PIECE_BYTES ? bytes : PIECE_BYTES;
        CUDA(cudaHostAlloc((void **)&p->host, (size_t)p->bytes, cudaHostAllocDefault),
             "pinned memory of the host", p->bytes);
    }
    to = p->host + p->used;
    memcpy(to, host, (size_t)bytes);
    p->used += (bytes + HOLD_ALIGN - 1) / HOLD_ALIGN * HOLD_ALIGN;
    *pinned = to;
    return OK;
}

#include "kernels/cuda/graph.h"

#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cuda/failure.h"

enum { STEPS = 2, PIECES = 64, HOLD_ALIGN = 256 };
static const int64_t PIECE_BYTES = 8 << 20; /* all pieces: trainer/learner.h counts on them */

struct step {
    /* pinned; NULL until needed; they live until the process ends, as the stream does */
    char *piece[PIECES];
    int now;                    /* the piece being filled */
    int64_t used;               /* of it */
    cudaGraphExec_t executable; /* of the last step recorded here, or NULL */
    cudaEvent_t over;           /* behind its last launch */
    bool in_flight;             /* launched, and not waited for */
};

static struct {
    struct step step[STEPS];
    int turn; /* whose is recorded, or was last */
    bool recording;
    bool anew;  /* what is recorded becomes an executable anew */
    bool ready; /* to be launched */
    cudaStream_t queue;
    int64_t n_made, n_changed; /* executables */
} graph;

static enum status take_piece(struct step *t)
{
    if (t->piece[t->now]) return OK;
    CUDA(cudaHostAlloc((void **)&t->piece[t->now], (size_t)PIECE_BYTES, cudaHostAllocDefault),
         "pinned memory of the host", PIECE_BYTES);
    return OK;
}

static enum status wait_until_over(struct step *t)
{
    if (!t->over)
        CUDA(cudaEventCreateWithFlags(&t->over, cudaEventDisableTiming), "making an event", 0);
    if (t->in_flight)
        CUDA(cudaEventSynchronize(t->over), "waiting for the step before the last", 0);
    t->in_flight = false;
    t->now = 0;
    t->used = 0;
    return take_piece(t);
}

enum status graph_begin(void *queue)
{
    if (graph.recording) FAIL(E_DEVICE, "a step is being recorded already");
    graph.ready = false;
    if (graph.step[graph.turn].in_flight) graph.turn = (graph.turn + 1) % STEPS;
    graph.queue = queue;
    TRY(wait_until_over(graph.step + graph.turn));
    /* relaxed: a step with larger inputs than any before takes pinned memory while it is recorded */
    CUDA(cudaStreamBeginCapture(graph.queue, cudaStreamCaptureModeRelaxed), "recording a step", 0);
    graph.recording = true;
    graph.anew = false;
    return OK;
}

static enum status update(cudaGraphExec_t executable, cudaGraph_t recorded, bool *updated)
{
    cudaGraphExecUpdateResultInfo why;
    const cudaError_t e = cudaGraphExecUpdate(executable, recorded, &why);

    *updated = e == cudaSuccess;
    graph.n_changed += *updated;
    if (e == cudaSuccess) return OK;
    (void)cudaGetLastError(); /* another shape is no failure, and not to be found by a launch */
    if (e != cudaErrorGraphExecUpdateFailure && e != cudaErrorNotSupported)
        FAIL(E_DEVICE,
             "a step's graph cannot be changed, or the GPU failed in the step before: %s, %s; "
             "a build of type Debug names the kernel",
             cudaGetErrorName(e), cudaGetErrorString(e));
    return OK;
}

/* The recorded graph becomes the step's executable: by new parameters where its shape is the old one's. */
static enum status make_executable(struct step *t, cudaGraph_t recorded)
{
    bool updated = false;

    if (t->executable) {
        if (!graph.anew) TRY(update(t->executable, recorded, &updated));
        if (updated) return OK;
        CUDA(cudaGraphExecDestroy(t->executable), "giving back a step's graph", 0);
        t->executable = NULL;
    }
    CUDA(cudaGraphInstantiate(&t->executable, recorded, 0),
         "making a step's graph; run.graph=off does without", 0);
    graph.n_made++;
    return OK;
}

enum status graph_end(bool keep)
{
    cudaGraph_t recorded = NULL;
    enum status s = OK;
    cudaError_t e;

    if (!graph.recording) FAIL(E_DEVICE, "no step is being recorded");
    graph.recording = false;
    e = cudaStreamEndCapture(graph.queue, &recorded);
    if (!keep) (void)cudaGetLastError(); /* what broke the recording has been said */
    if (keep) CUDA(e, "ending the recording of a step; run.graph=off does without", 0);
    if (keep) s = make_executable(graph.step + graph.turn, recorded);
    if (recorded) CUDA(cudaGraphDestroy(recorded), "giving back what was recorded", 0);
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

enum status graph_forget(void)
{
    ASSERT(!graph.recording);
    graph.ready = false;
    for (int i = 0; i < STEPS; i++) {
        struct step *t = graph.step + i;

        if (t->in_flight) CUDA(cudaEventSynchronize(t->over), "waiting for the last steps", 0);
        t->in_flight = false;
        if (t->executable)
            CUDA(cudaGraphExecDestroy(t->executable), "giving back a step's graph", 0);
        t->executable = NULL;
    }
    return OK;
}

void graph_counts(int64_t *made, int64_t *changed)
{
    *made = graph.n_made;
    *changed = graph.n_changed;
}

void graph_make_anew(void)
{
    graph.anew = true;
}

bool graph_is_recording(void)
{
    return graph.recording;
}

enum status graph_hold(const void **pinned, const void *host, int64_t bytes, int64_t *held)
{
    struct step *t = graph.step + graph.turn;

    if (t->used == PIECE_BYTES) {
        if (t->now + 1 == PIECES)
            FAIL(E_MEMORY, "a step's inputs are over %lld bytes: run.graph=off does without a copy",
                 (long long)(PIECES * PIECE_BYTES));
        t->now++;
        t->used = 0;
        TRY(take_piece(t));
    }
    *held = bytes < PIECE_BYTES - t->used ? bytes : PIECE_BYTES - t->used;
    *pinned = memcpy(t->piece[t->now] + t->used, host, (size_t)*held);
    t->used += (*held + HOLD_ALIGN - 1) / HOLD_ALIGN * HOLD_ALIGN;
    return OK;
}

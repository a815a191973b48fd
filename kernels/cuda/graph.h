/* A step recorded from a stream and launched as one CUDA graph, for one host thread.
 *
 * Two steps are held by turns: while one runs the next is recorded, and a graph of the same shape as
 * the one two steps before it becomes its executable's new parameters; another shape (other branches
 * dropped, other numbers of masks) makes an executable anew. What is put while recording lies in pinned memory of that
 * step until it is over. */
#ifndef KERNELS_CUDA_GRAPH_H
#define KERNELS_CUDA_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

/* queue: a cudaStream_t, always the same one. Waits for the step two before, which is over unless
 * nobody asked for its results. */
enum status graph_begin(void *queue) MUST_CHECK;
enum status graph_end(bool keep) MUST_CHECK;
enum status graph_replay(void) MUST_CHECK;

bool graph_is_recording(void);

/* Waits for the steps that run and drops all that are recorded: NCCL's ranks cannot be left while a graph still holds exchanges. */
enum status graph_forget(void) MUST_CHECK;

/* Executable graphs so far: made, and given new parameters. */
void graph_counts(int64_t *made, int64_t *changed);

/* The step being recorded becomes an executable anew: it holds NCCL's nodes, of which nobody promises that they can be given new
 * parameters. */
void graph_make_anew(void);

/* A copy of the first `held` of the host's bytes in pinned memory, at least one, for a put of the step being recorded. */
enum status graph_hold(const void **pinned, const void *host, int64_t bytes,
                       int64_t *held) MUST_CHECK;
#endif

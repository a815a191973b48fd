/* Messages between the GPUs of several processes, by NCCL: the verbs of that name in struct ops. Built where NCCL is found. */
#ifndef KERNELS_CUDA_EXCHANGE_H
#define KERNELS_CUDA_EXCHANGE_H

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status exchange_id(void *id) MUST_CHECK;
enum status exchange_join(const void *id, int rank, int n_ranks) MUST_CHECK;
enum status exchange(const struct exchange_part *part, int64_t n, struct stream *s) MUST_CHECK;
void exchange_leave(void);

#ifdef __cplusplus
}
#endif
#endif

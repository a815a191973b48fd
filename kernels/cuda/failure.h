/* A call of CUDA's runtime that must succeed: CUDA(call, "what", bytes) ends the function with a
 * status, and says what failed of how many bytes (0: of none). For C files. */
#ifndef KERNELS_CUDA_FAILURE_H
#define KERNELS_CUDA_FAILURE_H

#include <cuda_runtime_api.h>

#include "kernels/base/status.h"

static inline enum status cuda_failed(cudaError_t e, const char *file, int line, const char *what,
                                      int64_t bytes)
{
    const enum status s = e == cudaErrorMemoryAllocation ? E_MEMORY : E_DEVICE;

    return status_fail(s, file, line, "%s (%lld bytes): %s, %s", what, (long long)bytes,
                       cudaGetErrorName(e), cudaGetErrorString(e));
}

#define CUDA(call, ...)                                                                            \
    do {                                                                                           \
        const cudaError_t cuda_e_ = (call);                                                        \
        if (cuda_e_ != cudaSuccess) return cuda_failed(cuda_e_, __FILE__, __LINE__, __VA_ARGS__);  \
    } while (0)
#endif

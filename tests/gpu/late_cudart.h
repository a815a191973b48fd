/* As much of CUDA's runtime as kernels/cuda/{runtime,graph}.c ask for, on the host: what is queued happens as late as it may,
 * when somebody waits for it. For its test, where there is no GPU. */
#ifndef TESTS_GPU_LATE_CUDART_H
#define TESTS_GPU_LATE_CUDART_H

#include <cuda_runtime_api.h>
#include <stdint.h>

/* What the machine is like; the test sets it. */
struct late_machine {
    cudaError_t count_error; /* of cudaGetDeviceCount */
    int n_devices, major;
    int64_t memory, in_use; /* bytes that cudaMalloc has, and that are said to be taken */
    cudaError_t sync_error; /* what a failed kernel leaves behind */
    int64_t n_not_ready;    /* how often a stream that is asked is not */
    int64_t n_waits;        /* counted: events and streams waited for while something was queued */
    int device;             /* counted: the one that was set */
    int64_t n_instantiated; /* counted: graphs made executable anew, not by an update */
    int64_t n_graphs, n_executables;                        /* counted: that are not given back */
    cudaError_t update_error, end_error, instantiate_error; /* of the calls on graphs */
    cudaError_t last_error; /* told and forgotten by cudaGetLastError */
};
extern struct late_machine late;

#endif

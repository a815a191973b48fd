/* The only header a kernel includes beside its op's: launches, instructions C++ has no words for,
 * and a few helpers on top. Under nvcc the wrappers are PTX; under g++ they speak to the emulator.
 * No other file has inline assembly, <<<>>>, or an intrinsic that is not in tests/emu/emu.h.
 * Rules for kernels: docs/emulator.md. A new wrapper comes with a line in tests/emu/conform.cu. */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#include "kernels/base/status.h"
#include "kernels/base/stream.h"

/* LAUNCH(kernel, grid, block, shared_bytes, s, arguments…) in a function that returns a status.
 * A kernel with commas in its template arguments stands in parentheses. */

#ifdef __CUDACC__

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define DEVICE __device__ __forceinline__
/* Where a kernel that failed while it ran is found: at once in a debug build, else by the verb sync. */
#ifdef LAUNCH_CHECKED
#define LAUNCH_OVER(s) cudaStreamSynchronize((cudaStream_t)(s)->queue)
#else
#define LAUNCH_OVER(s) cudaSuccess
#endif
#define LAUNCH(kernel, grid, block, shared_bytes, s, ...)                                          \
    do {                                                                                           \
        kernel<<<(grid), (block), (shared_bytes), (cudaStream_t)(s)->queue>>>(__VA_ARGS__);        \
        cudaError_t launched_ = cudaGetLastError();                                                \
        if (launched_ == cudaSuccess) launched_ = LAUNCH_OVER(s);                                  \
        if (launched_ != cudaSuccess)                                                              \
            FAIL(E_DEVICE, "launch of %s: %s", #kernel, cudaGetErrorString(launched_));            \
    } while (0)

/* Host, before a launch of the kernel: shared_bytes above 48 KiB are asked for; 163 KiB on sm_80. */
template <class... P> static inline enum status allow_shared(void (*kernel)(P...), size_t bytes)
{
    const cudaError_t e = cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);

    if (e != cudaSuccess)
        FAIL(E_DEVICE, "%zu bytes of shared memory for a block: %s; this GPU has less", bytes,
             cudaGetErrorString(e));
    return OK;
}

/* unsigned char *name: the launch's shared_bytes, aligned for vectors */
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

/* Behind a counter that said "I am the last block": the others' writes may be read. */
DEVICE void acquire_blocks(void)
{
    __threadfence();
}

DEVICE uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, of which source_bytes are read and the rest is zero */
DEVICE void async_copy16(void *dst, const void *src, int source_bytes = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(dst)),
                 "l"(src), "r"(source_bytes)
                 : "memory");
}

DEVICE void async_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* until at most that many of this thread's latest groups are open */
template <int GROUPS_LEFT> DEVICE void async_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(GROUPS_LEFT) : "memory");
}

/* four 8×8 bf16 matrices; lane 8 i + k holds the address of row k of matrix i */
DEVICE void load_matrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* d (16,8) f32 += a (16,16) b (16,8), a by rows, b by columns */
DEVICE void multiply_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 2^x within 2^-22, 0 below 2^-126: one instruction; exp2f is four, for what is smaller */
DEVICE float exp2_approximate(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* barrier id 1 to 15, of n_threads: whole warps */
DEVICE void named_barrier(int id, int n_threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(n_threads) : "memory");
}

#else

#include "tests/emu/device_memory.h"
#include "tests/emu/emu.h"

#define DEVICE inline __attribute__((always_inline))
#define LAUNCH(kernel, grid, block, shared_bytes, s, ...)                                          \
    do {                                                                                           \
        if (!emu::start(#kernel, (s)->queue, kernel, (grid), (block), (shared_bytes),              \
                        __VA_ARGS__))                                                              \
            FAIL(E_DEVICE, "launch of %s: no GPU takes it", #kernel);                              \
    } while (0)
#define DYNAMIC_SHARED(name) unsigned char *name = (unsigned char *)emu::dynamic_shared()

/* The emulator holds every launch to sm_80's 163 KiB (machine.h), and needs no asking. */
template <class... P> static inline enum status allow_shared(void (*)(P...), size_t bytes)
{
    if (bytes > 163 << 10)
        FAIL(E_DEVICE, "%zu bytes of shared memory for a block: sm_80 has 163 KiB", bytes);
    return OK;
}

DEVICE void acquire_blocks(void)
{
    emu::acquire_blocks();
}

DEVICE void async_copy16(void *dst, const void *src, int source_bytes = 16, EMU_PLACE)
{
    emu::async_copy(dst, src, source_bytes, at);
}

DEVICE void async_commit(void)
{
    emu::async_commit();
}

template <int GROUPS_LEFT> DEVICE void async_wait(void)
{
    emu::async_wait(GROUPS_LEFT);
}

DEVICE void load_matrix_x4(uint32_t (&r)[4], const void *row, EMU_PLACE)
{
    emu::load_matrix(emu::LOAD_MATRIX, r, 4, row, at);
}

DEVICE void load_matrix_x4_transposed(uint32_t (&r)[4], const void *row, EMU_PLACE)
{
    emu::load_matrix(emu::LOAD_MATRIX_TRANSPOSED, r, 4, row, at);
}

DEVICE void multiply_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                EMU_PLACE)
{
    emu::multiply_bf16_16816(d, a, b, at);
}

DEVICE float exp2_approximate(float x)
{
    return x < -126 ? 0 : exp2f(x);
}

DEVICE void named_barrier(int id, int n_threads, EMU_PLACE)
{
    emu::named_barrier(id, n_threads, at);
}

#endif

typedef __nv_bfloat16 bf16;

DEVICE uint32_t pack_bf16(float low, float high)
{
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<const uint32_t *>(&v);
}

/* Σ over groups of `lanes` neighbouring lanes, a power of two; all lanes of the warp take part. */
DEVICE float warp_sum(float v, int lanes = 32)
{
    for (int turn = lanes / 2; turn > 0; turn /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, turn);
    return v;
}

#endif

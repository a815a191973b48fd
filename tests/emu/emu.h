/* CUDA C++ for g++: what a kernel sees when it is compiled for the emulator instead of a GPU.
 * Only kernels/cuda/device.h includes this. The types and bf16 arithmetic are CUDA's own headers.
 *
 * A __shared__ variable is thread_local: the executable's symbol table then gives its name, address
 * and size, in templates too. Built-in variables are const functions, so that compilers hoist them.
 * An intrinsic that is missing here is added with a line in selftest.cu or conform.cu. */
#ifndef TESTS_EMU_EMU_H
#define TESTS_EMU_EMU_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include <cuda_bf16.h>
#include <vector_functions.h>

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __shared__ static thread_local __attribute__((aligned(256))) /* for gaps between them */

extern "C" __attribute__((const)) uint3 emu_thread(void);
extern "C" __attribute__((const)) uint3 emu_block(void);
extern "C" __attribute__((const)) dim3 emu_block_dim(void);
extern "C" __attribute__((const)) dim3 emu_grid_dim(void);
#define threadIdx (emu_thread())
#define blockIdx  (emu_block())
#define blockDim  (emu_block_dim())
#define gridDim   (emu_grid_dim())
#define warpSize  32

namespace emu
{

struct place {
    const char *file;
    int line;
};
/* As the last parameter of a wrapper: where it was called. */
#define EMU_PLACE emu::place at = { __builtin_FILE(), __builtin_LINE() }

struct launch {
    const char *name;
    const void *queue;
    dim3 grid, block;
    size_t shared_bytes;
    void (*call)(void *packed);
    void *packed; /* the kernel's address, and behind it its arguments */
    size_t packed_bytes;
};

/* Runs all blocks, one after another. False when no GPU would take the launch. */
bool run(const launch &l);

template <class... P, class... A>
bool start(const char *name, const void *queue, void (*kernel)(P...), dim3 grid, dim3 block,
           size_t shared_bytes, A &&...arguments)
{
    struct pack {
        void (*kernel)(P...);
        std::tuple<P...> arguments;
    };
    /* as a GPU's launch copies them: bytes, which a recorded launch keeps */
    static_assert((std::is_trivially_copyable_v<P> && ...));
    pack p{ kernel, std::tuple<P...>{ static_cast<P>(arguments)... } };

    __builtin_clear_padding(&p); /* so that equal launches are equal bytes */
    return run({ name, queue, grid, block, shared_bytes,
                 [](void *v) {
                     pack *q = static_cast<pack *>(v);
                     std::apply(q->kernel, q->arguments);
                 },
                 &p, sizeof p });
}

/* barriers: all threads of the block, or the n_threads that use barrier id */
void block_barrier(place at);
int block_barrier_count(int predicate, place at);
void named_barrier(int id, int n_threads, place at);

/* warp collectives: the last lane of mask to arrive works for all */
enum collective {
    SHUFFLE_INDEX,
    SHUFFLE_UP,
    SHUFFLE_DOWN,
    SHUFFLE_XOR,
    BALLOT,
    LOAD_MATRIX,
    LOAD_MATRIX_TRANSPOSED,
    MULTIPLY,
    SYNC_WARP
};
void warp_barrier(unsigned mask, place at);
unsigned shuffle(collective kind, unsigned mask, unsigned value, int source, int width, place at);
unsigned ballot(unsigned mask, int predicate, place at);
void load_matrix(collective kind, uint32_t *r, int n_matrices, const void *row, place at);
void multiply_bf16_16816(float *d, const uint32_t *a, const uint32_t *b, place at);

/* cp.async of 16 bytes, the last 16 − source_bytes of them zero */
void async_copy(void *dst, const void *src, int source_bytes, place at);
void async_commit(void);
void async_wait(int groups_left);

enum access { READ, WRITE, ATOMIC };
void touch(const void *p, unsigned bytes, access kind);
uint32_t peek_word(const void *p); /* not looked at */
void poke_word(void *p, uint32_t word);
void *dynamic_shared(void);
void acquire_blocks(void); /* what earlier blocks of this launch wrote may be read from here on */

template <class T> T shuffle_any(collective kind, unsigned mask, T v, int source, int w, place at)
{
    static_assert(sizeof(T) == 4, "shuffles move 4 bytes");
    unsigned u;

    memcpy(&u, &v, 4);
    u = shuffle(kind, mask, u, source, w, at);
    memcpy(&v, &u, 4);
    return v;
}

template <class T> T peek(const T *p)
{
    static_assert(sizeof(T) == 4, "atomics are of 4 bytes");
    const uint32_t word = peek_word(p);
    T v;

    memcpy(&v, &word, 4);
    return v;
}

template <class T> void poke(T *p, T v)
{
    uint32_t word;

    memcpy(&word, &v, 4);
    poke_word(p, word);
}

} // namespace emu

#define __syncthreads()        emu::block_barrier({ __FILE__, __LINE__ })
#define __syncthreads_count(p) emu::block_barrier_count((p), { __FILE__, __LINE__ })
#define __threadfence()        ((void)0)
#define __threadfence_block()  ((void)0)

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMU_PLACE)
{
    emu::warp_barrier(mask, at);
}

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMU_PLACE)
{
    return emu::shuffle_any(emu::SHUFFLE_INDEX, mask, v, source, width, at);
}

template <class T> T __shfl_xor_sync(unsigned mask, T v, int turn, int width = 32, EMU_PLACE)
{
    return emu::shuffle_any(emu::SHUFFLE_XOR, mask, v, turn, width, at);
}

template <class T> T __shfl_up_sync(unsigned mask, T v, int by, int width = 32, EMU_PLACE)
{
    return emu::shuffle_any(emu::SHUFFLE_UP, mask, v, by, width, at);
}

template <class T> T __shfl_down_sync(unsigned mask, T v, int by, int width = 32, EMU_PLACE)
{
    return emu::shuffle_any(emu::SHUFFLE_DOWN, mask, v, by, width, at);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_PLACE)
{
    return emu::ballot(mask, predicate, at);
}

inline int __any_sync(unsigned mask, int predicate, EMU_PLACE)
{
    return emu::ballot(mask, predicate, at) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMU_PLACE)
{
    return emu::ballot(mask, predicate, at) == mask;
}

#define EMU_ATOMIC(name, T, new_value, ...)                                                        \
    inline __attribute__((always_inline)) T name(T *p, __VA_ARGS__)                                \
    {                                                                                              \
        emu::touch(p, sizeof *p, emu::ATOMIC);                                                     \
        const T old = emu::peek<T>(p);                                                             \
        emu::poke<T>(p, new_value);                                                                \
        return old;                                                                                \
    }
EMU_ATOMIC(atomicAdd, float, old + v, float v)
EMU_ATOMIC(atomicAdd, int, old + v, int v)
EMU_ATOMIC(atomicAdd, unsigned, old + v, unsigned v)
EMU_ATOMIC(atomicMax, int, v > old ? v : old, int v)
EMU_ATOMIC(atomicMax, unsigned, v > old ? v : old, unsigned v)
EMU_ATOMIC(atomicCAS, unsigned, old == was ? v : old, unsigned was, unsigned v)
#undef EMU_ATOMIC

template <class T> T __ldg(const T *p)
{
    return *p;
}

inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

inline float __uint_as_float(unsigned x)
{
    float f;

    __builtin_memcpy(&f, &x, sizeof f);
    return f;
}

inline unsigned __float_as_uint(float x)
{
    unsigned u;

    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

template <class T> T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> T max(T a, T b)
{
    return a < b ? b : a;
}

#endif

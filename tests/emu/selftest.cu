/* The emulator's own test, in a checked build: small kernels with one planted bug each, which must
 * be reported as what it is and with a line of this file, and good kernels, which must stay silent.
 * Every kind of report has a bug here; under several schedules. */
#include "kernels/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>

enum { FULL = 0xFFFFFFFF };

/* ---- good and bad by turns ---- */

__global__ void exchange_in_warp(float *o)
{
    __shared__ float s[64];
    const int t = (int)threadIdx.x;

    s[t] = (float)t;
    __syncwarp();
    o[t] = s[t ^ 1];
}

enum { EXCHANGE_WRITES = __LINE__ + 8 };
__global__ void exchange_without_syncwarp(float *o)
{
    __shared__ float s[64];
    const int t = (int)threadIdx.x;

    s[t] = 0;
    __syncthreads();
    s[t] = (float)t;
    o[t] = s[t ^ 1];
}

__global__ void two_barriers(float *o)
{
    const int t = (int)threadIdx.x;

    if (t < 32) {
        o[t] = 1;
        __syncthreads();
    } else {
        o[t] = 2;
        __syncthreads();
    }
}

__global__ void barrier_for_some(float *o)
{
    if (threadIdx.x < 40) __syncthreads();
    o[threadIdx.x] = 1;
}

__global__ void return_before_barrier(float *o, int n)
{
    if ((int)threadIdx.x >= n) return;
    o[threadIdx.x] = 1;
    __syncthreads();
    o[threadIdx.x] = 2;
}

__global__ void barrier_nobody_fills(float *o)
{
    if (threadIdx.x < 32) named_barrier(1, 64);
    o[threadIdx.x] = 1;
}

__global__ void shuffle_in_half(float *o)
{
    const int lane = (int)threadIdx.x & 31;
    float v = (float)lane;

    if (lane < 16) v = __shfl_xor_sync(0xFFFFu, v, 1, 16);
    o[threadIdx.x] = v;
}

__global__ void shuffle_not_in_mask(float *o)
{
    const int lane = (int)threadIdx.x & 31;
    float v = (float)lane;

    if (lane >= 16) v = __shfl_xor_sync(0xFFFFu, v, 1);
    o[threadIdx.x] = v;
}

__global__ void shuffle_on_two_lines(float *o)
{
    float v = 1;

    if (threadIdx.x & 1)
        v += __shfl_xor_sync((unsigned)FULL, v, 2);
    else
        v -= __shfl_xor_sync((unsigned)FULL, v, 2);
    o[threadIdx.x] = v;
}

__global__ void shuffle_from_outside(float *o)
{
    const int lane = (int)threadIdx.x & 31;
    float v = (float)lane;

    if (lane < 16) v = __shfl_sync(0xFFFFu, v, 20);
    o[threadIdx.x] = v;
}

__global__ void read_unwritten_shared(float *o)
{
    __shared__ float s[64];
    const int t = (int)threadIdx.x;

    if (t) s[t] = (float)t;
    __syncthreads();
    o[t] = s[63 - t];
}

__global__ void copy_strided(float *o, const float *x, int n)
{
    for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < n;
         i += (int)(gridDim.x * blockDim.x))
        o[i] = x[i];
}

__global__ void vector_off_by_one(float *o, const float *x)
{
    const float4 v = *reinterpret_cast<const float4 *>(x + 1 + 4 * threadIdx.x);

    o[threadIdx.x] = v.x + v.w;
}

__global__ void all_blocks_write(float *o)
{
    if (threadIdx.x == 0) o[0] = (float)blockIdx.x;
}

__global__ void all_blocks_add(float *o)
{
    atomicAdd(o, 1.0f);
}

__global__ void add_and_read(float *o)
{
    atomicAdd(o, 1.0f);
    o[1 + threadIdx.x] = o[0];
}

__global__ void neighbours_of_one_byte(unsigned char *o, int shared)
{
    o[threadIdx.x / (unsigned)shared] = 1;
}

__global__ void neighbours_of_two_bytes(bf16 *o)
{
    o[threadIdx.x] = __float2bfloat16(1.0f);
}

template <bool ACQUIRES> __global__ void last_block_sums(float *part, unsigned *n_done, float *o)
{
    __shared__ int last;

    if (threadIdx.x == 0) {
        part[blockIdx.x] = (float)(blockIdx.x + 1);
        __threadfence();
        last = atomicAdd(n_done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    if (ACQUIRES) acquire_blocks();
    if (threadIdx.x == 0) {
        float sum = 0;

        for (unsigned i = 0; i < gridDim.x; i++) sum += part[i];
        *o = sum;
    }
}

__global__ void index_past_shared_array(float *o)
{
    __shared__ float s[64];
    const int t = (int)threadIdx.x;

    s[t] = (float)t;
    __syncthreads();
    o[t] = s[t + 1];
}

struct span {
    int64_t begin, end;
    float share;
};

static span span_of(int t)
{
    return { t, t + 1, 0.5f * (float)t };
}

/* Where a struct is made in place, g++'s bounds let one behind the end pass, as an address. */
__global__ void struct_past_shared_array(float *o, int n)
{
    __shared__ span s[16], next[16];
    const int t = (int)threadIdx.x;

    if (t < n) s[t] = span_of(t);
    if (t < 16) next[t] = span_of(t);
    __syncthreads();
    if (t < 16) o[t] = s[t].share + next[t].share;
}

__global__ void leave_address(uint64_t *o)
{
    __shared__ float s[64];

    s[threadIdx.x] = 1;
    if (threadIdx.x == 0) *o = reinterpret_cast<uintptr_t>(s);
}

/* Where a GPU has other memory, or none, the emulator has the array of another kernel. */
__global__ void use_address(const uint64_t *o)
{
    reinterpret_cast<float *>(*o)[threadIdx.x] = 1;
}

__global__ void index_past_local_array(float *o, int k)
{
    const float a[4] = { 1, 2, 3, 4 };

    o[threadIdx.x] = a[((int)threadIdx.x + k) & 7];
}

/* g++'s bounds takes an array at a struct's end for one of any length, unless they are strict. */
struct tail {
    int64_t n;
    float a[4];
};

__global__ void index_past_last_array(float *o, int k)
{
    const tail t = { k, { 1, 2, 3, 4 } };

    o[threadIdx.x] = t.a[((int)threadIdx.x + k) & 7];
}

__global__ void dynamic_exchange(float *o)
{
    DYNAMIC_SHARED(bytes);
    float *s = (float *)bytes;
    const int t = (int)threadIdx.x;

    s[t] = (float)t;
    __syncthreads();
    o[t] = s[t ^ 33];
}

/* two groups of two warps, each with a barrier of its own */
template <bool ACROSS> __global__ void groups(float *o)
{
    __shared__ float s[128];
    const int t = (int)threadIdx.x;

    s[t] = (float)t;
    named_barrier(1 + t / 64, 64);
    o[t] = s[ACROSS ? t ^ 64 : t ^ 63];
}

/* one buffer, refilled while slow warps may still read it */
template <bool BARRIER> __global__ void refill(float *o, const float *x)
{
    DYNAMIC_SHARED(bytes);
    float *s = (float *)bytes, sum = 0;
    const int t = (int)threadIdx.x;

    for (int i = 0; i < 4; i++) {
        async_copy16(s + t * 4, x + i * 512 + t * 4);
        async_commit();
        async_wait<0>();
        __syncthreads();
        sum += s[(t * 4 + 36) & 511];
        if (BARRIER) __syncthreads();
    }
    o[t] = sum;
}

/* two buffers; groups left open 1: right, 2: one too many */
template <int LEFT_OPEN> __global__ void two_buffers(float *o, const float *x)
{
    DYNAMIC_SHARED(bytes);
    float *s = (float *)bytes, sum = 0;
    const int t = (int)threadIdx.x;

    async_copy16(s + t * 4, x + t * 4);
    async_commit();
    for (int i = 0; i < 4; i++) {
        if (i < 3) async_copy16(s + ((i + 1) & 1) * 512 + t * 4, x + (i + 1) * 512 + t * 4);
        async_commit();
        async_wait<LEFT_OPEN>();
        __syncthreads();
        sum += s[(i & 1) * 512 + ((t * 4 + 36) & 511)];
        __syncthreads();
    }
    o[t] = sum;
    async_wait<0>();
}

__global__ void copy_without_barrier(float *o, const float *x)
{
    DYNAMIC_SHARED(bytes);
    float *s = (float *)bytes;
    const int t = (int)threadIdx.x;

    async_copy16(s + t * 4, x + t * 4);
    async_commit();
    async_wait<0>();
    o[t] = s[(t * 4 + 4) & 511];
}

__global__ void copy_never_waited(const float *x)
{
    DYNAMIC_SHARED(bytes);

    async_copy16(bytes + threadIdx.x * 16, x + threadIdx.x * 4);
    async_commit();
}

template <int OFF> __global__ void matrix_rows(float *o)
{
    DYNAMIC_SHARED(bytes);
    bf16 *s = (bf16 *)bytes;
    uint32_t r[4];

    for (unsigned i = threadIdx.x; i < 1024; i += blockDim.x) s[i] = __float2bfloat16(0.0f);
    __syncthreads();
    load_matrix_x4(r, bytes + (threadIdx.x & 31) * 16 + OFF);
    o[threadIdx.x] = (float)r[0];
}

template <bool BARRIER> __global__ void scratch_used_again(float *o)
{
    __shared__ float part[4];
    const int t = (int)threadIdx.x;
    float sum = 0;

    for (int i = 0; i < 3; i++) {
        const float v = warp_sum((float)(t + i));

        if ((t & 31) == 0) part[t >> 5] = v;
        __syncthreads();
        sum += part[0] + part[1] + part[2] + part[3];
        if (BARRIER) __syncthreads();
    }
    o[t] = sum;
}

__global__ void ones(float *o)
{
    o[threadIdx.x] = 1;
}

__attribute__((noinline)) static float deep(int n)
{
    volatile float big[64];

    big[n & 63] = (float)n;
    return n ? deep(n - 1) + big[n & 63] : 0;
}

__global__ void endless(float *o, int n)
{
    o[threadIdx.x] = deep(n);
}

/* ---- what is expected ---- */

static int n_fails, n_asked;
static bool planted[EMU_REPORT_COUNT];

static void verdict(const char *name, bool good, const char *expected)
{
    n_asked++;
    if (good) return;
    n_fails++;
    printf("%s: expected %s, got %lld reports, the first: %s\n", name, expected,
           (long long)emu_reports(), emu_first_report());
}

/* the bug: that report, with a line of this file when it is in a kernel */
template <class F> static void must_report(const char *name, enum emu_report kind, F &&f)
{
    const bool of_host = kind == EMU_HOST_OOB || kind == EMU_BAD_FREE || kind == EMU_LAUNCH;
    const bool without_line = of_host || kind == EMU_NOT_WAITED;

    emu_forget_reports();
    f();
    planted[kind] = true;
    verdict(name,
            emu_reports_of(kind) > 0 &&
                (without_line || strstr(emu_first_report(), "selftest.cu:") != nullptr),
            emu_report_name(kind));
}

template <class F> static void must_be_silent(const char *name, F &&f)
{
    emu_forget_reports();
    f();
    verdict(name, emu_reports() == 0, "silence");
}

#define RUN(kernel, grid, block, shared_bytes, ...)                                                \
    (void)emu::start(#kernel, nullptr, kernel, (grid), (block), (shared_bytes), __VA_ARGS__)
#define BAD(kind, kernel, ...) must_report(#kernel, EMU_##kind, [&] { RUN(kernel, __VA_ARGS__); })
#define GOOD(kernel, ...)      must_be_silent(#kernel, [&] { RUN(kernel, __VA_ARGS__); })

struct buffers {
    float *o, *x, *unwritten, *given, *host;
    unsigned *n_done;
    bf16 *halves;
};

static void barriers(const buffers &b)
{
    GOOD(exchange_in_warp, 1, 64, 0, b.o);
    BAD(RACE, exchange_without_syncwarp, 1, 64, 0, b.o);
    BAD(DIVERGENT_BARRIER, two_barriers, 1, 64, 0, b.o);
    BAD(DIVERGENT_BARRIER, barrier_for_some, 1, 64, 0, b.o);
    BAD(DIVERGENT_BARRIER, return_before_barrier, 1, 64, 0, b.o, 50);
    BAD(DEADLOCK, barrier_nobody_fills, 1, 64, 0, b.o);
    GOOD(groups<false>, 1, 128, 0, b.o);
    BAD(RACE, groups<true>, 1, 128, 0, b.o);
    GOOD(scratch_used_again<true>, 1, 128, 0, b.o);
    BAD(RACE, scratch_used_again<false>, 1, 128, 0, b.o);
}

static void warps(const buffers &b)
{
    GOOD(shuffle_in_half, 1, 64, 0, b.o);
    BAD(WARP_MASK, shuffle_not_in_mask, 1, 64, 0, b.o);
    BAD(WARP_DIVERGENCE, shuffle_on_two_lines, 1, 64, 0, b.o);
    BAD(SHUFFLE, shuffle_from_outside, 1, 64, 0, b.o);
}

__attribute__((no_sanitize("thread"))) static void set_zero(unsigned *device)
{
    *device = 0;
}

static void blocks(const buffers &b)
{
    BAD(RACE, all_blocks_write, 3, 64, 0, b.o);
    GOOD(all_blocks_add, 3, 64, 0, b.o);
    BAD(RACE, add_and_read, 1, 64, 0, b.o);
    BAD(OOB, all_blocks_add, 3, 64, 0, b.o + 512);
    GOOD(copy_strided, 3, 64, 0, b.o, b.x, 500);
    set_zero(b.n_done);
    GOOD(last_block_sums<true>, 8, 64, 0, b.o, b.n_done, b.x);
    set_zero(b.n_done);
    BAD(RACE, last_block_sums<false>, 8, 64, 0, b.o, b.n_done, b.x);
}

static void memory(const buffers &b)
{
    GOOD(neighbours_of_two_bytes, 1, 128, 0, b.halves);
    GOOD(neighbours_of_one_byte, 1, 128, 0, (unsigned char *)b.halves + 1, 1);
    BAD(RACE, neighbours_of_one_byte, 1, 128, 0, (unsigned char *)b.halves + 1, 2);
    BAD(UNINIT, read_unwritten_shared, 1, 64, 0, b.o);
    BAD(UNINIT, copy_strided, 1, 64, 0, b.o, b.unwritten, 64);
    BAD(MISALIGNED, vector_off_by_one, 1, 64, 0, b.o, b.x);
    BAD(WILD, copy_strided, 1, 64, 0, b.o, b.host, 64);
    BAD(BAD_INDEX, index_past_shared_array, 1, 64, 0, b.o);
    BAD(BAD_INDEX, index_past_local_array, 1, 64, 0, b.o, 2);
    GOOD(leave_address, 1, 64, 0, (uint64_t *)b.o);
    BAD(OOB, use_address, 1, 64, 0, (uint64_t *)b.o);
    BAD(BAD_INDEX, index_past_last_array, 1, 64, 0, b.o, 2);
    GOOD(struct_past_shared_array, 1, 64, 0, b.o, 16);
    BAD(OOB, struct_past_shared_array, 1, 64, 0, b.o, 17);
    GOOD(dynamic_exchange, 1, 64, 256, b.o);
    BAD(OOB, dynamic_exchange, 1, 64, 128, b.o);
    BAD(OOB, copy_strided, 1, 64, 0, b.o, b.x, 513);
    BAD(OOB, ones, 1, 64, 0, b.given);
    BAD(FAULT, endless, 1, 64, 0, b.o, 100000);
}

static void copies(const buffers &b)
{
    GOOD(refill<true>, 1, 128, 2048, b.o, b.x);
    BAD(RACE, refill<false>, 1, 128, 2048, b.o, b.x);
    GOOD(two_buffers<1>, 1, 128, 4096, b.o, b.x);
    BAD(IN_FLIGHT, two_buffers<2>, 1, 128, 4096, b.o, b.x);
    BAD(RACE, copy_without_barrier, 1, 128, 2048, b.o, b.x);
    BAD(NOT_WAITED, copy_never_waited, 1, 32, 512, b.x);
    GOOD(matrix_rows<0>, 1, 128, 2048, b.o);
    BAD(MISALIGNED, matrix_rows<8>, 1, 128, 2048, b.o);
}

static void host_side(const buffers &b)
{
    float *const small = (float *)emu_take(100, "small", true);

    BAD(LAUNCH, ones, 1, 2048, 0, b.o);
    BAD(LAUNCH, ones, 1, 48, 0, b.o);
    must_report("host reads the device", EMU_HOST_DEREF, [&] {
        volatile float v = b.o[0];
        (void)v;
    });
    must_report("copy past the end", EMU_HOST_OOB, [&] { (void)emu_range(small, 101, true); });
    must_report("given back twice", EMU_BAD_FREE, [&] { emu_give(b.given); });
    /* what a fast build has: the pattern around a buffer */
    must_report("written past the end", EMU_OOB, [&] {
        small[25] = 0;
        emu_give(small);
    });
}

/* A race's report names both lines. */
static void both_lines(const buffers &b)
{
    char first[32], second[32];

    snprintf(first, sizeof first, "selftest.cu:%d", EXCHANGE_WRITES);
    snprintf(second, sizeof second, "selftest.cu:%d", EXCHANGE_WRITES + 1);
    emu_forget_reports();
    RUN(exchange_without_syncwarp, 1, 64, 0, b.o);
    verdict("both lines", strstr(emu_first_report(), first) && strstr(emu_first_report(), second),
            "both lines of the race");
}

static void ask_all(unsigned seed)
{
    const buffers b = { (float *)emu_take(512 * 4, "o", true),
                        (float *)emu_take(2048 * 4, "x", true),
                        (float *)emu_take(512, "unwritten", false),
                        (float *)emu_take(512, "given", true),
                        (float *)calloc(512, 4),
                        (unsigned *)emu_take(4, "n_done", true),
                        (bf16 *)emu_take(256, "halves", true) };

    emu_set_seed(seed);
    emu_give(b.given);
    barriers(b);
    warps(b);
    blocks(b);
    memory(b);
    copies(b);
    host_side(b);
    both_lines(b);
    free(b.host);
}

int main(void)
{
    enum { N_SEEDS = 4 };

    if (!emu_is_checked()) {
        printf("not a checked build\n");
        return 1;
    }
    for (unsigned seed = 0; seed < N_SEEDS; seed++) ask_all(seed);
    for (int kind = 0; kind < EMU_REPORT_COUNT; kind++)
        if (!planted[kind]) {
            printf("nothing is planted for %s\n", emu_report_name((enum emu_report)kind));
            n_fails++;
        }
    printf("selftest: %d asked, %d failed\n", n_asked, n_fails);
    return n_fails != 0;
}

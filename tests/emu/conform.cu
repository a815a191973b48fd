/* What every wrapper in kernels/cuda/device.h does: one warp, fixed inputs, all lanes' bits.
 * The same file is built by nvcc for a GPU, where it prints the truth, and for the emulator; both
 * must print conform.expected. Matrix products are of small integers: no rounding, no order.
 * Lines: operation, lane, four words. */
#include "kernels/cuda/device.h"

#include <cmath>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum operation {
    LOAD_PLAIN,
    LOAD_TURNED,
    PRODUCT,
    ASYNC_COPY,
    SHUFFLES,
    VOTES,
    BARRIERS,
    ATOMICS,
    EXPONENTIALS,
    N_OPERATIONS
};
enum { LANES = 32, WORDS = 4, OUT = N_OPERATIONS * LANES * WORDS, IN = 256 };
enum { COUNTER = OUT, OUT_ALL = OUT + 4, SHARED_BYTES = 2048 };

DEVICE uint32_t mixed(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

DEVICE float small_integer(uint32_t x)
{
    return (float)(int)(mixed(x) % 15u) - 7.0f;
}

DEVICE void put(uint32_t *out, operation op, const uint32_t (&r)[4])
{
    for (int i = 0; i < WORDS; i++) out[(op * LANES + (int)threadIdx.x) * WORDS + i] = r[i];
}

DEVICE void product(uint32_t *out)
{
    const uint32_t t = threadIdx.x;
    uint32_t a[4], b[2], r[4];
    float d[4];

    for (uint32_t i = 0; i < 4; i++) {
        a[i] = pack_bf16(small_integer(t * 64 + i * 2), small_integer(t * 64 + i * 2 + 1));
        d[i] = small_integer(t * 64 + 40 + i);
    }
    for (uint32_t i = 0; i < 2; i++)
        b[i] = pack_bf16(small_integer(t * 64 + 20 + i * 2), small_integer(t * 64 + 21 + i * 2));
    multiply_bf16_16816(d, a, b);
    for (int i = 0; i < 4; i++) r[i] = (uint32_t)(int)d[i];
    put(out, PRODUCT, r);
}

DEVICE void copies(uint32_t *out, const uint32_t *in, unsigned char *bytes)
{
    const int t = (int)threadIdx.x;
    uint32_t r[4];

    /* whole, half and zero */
    async_copy16(bytes + 1024 + t * 16, in + t * 4, t % 5 == 0 ? 0 : t % 3 == 0 ? 8 : 16);
    async_commit();
    async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) r[i] = ((uint32_t *)(bytes + 1024))[((t * 4 + i) * 9) & 127];
    put(out, ASYNC_COPY, r);
}

DEVICE void lanes(uint32_t *out)
{
    const unsigned t = threadIdx.x, all = 0xFFFFFFFFu;
    const uint32_t shuffles[4] = { __shfl_xor_sync(all, t * 3, 5), __shfl_up_sync(all, t * 3, 3, 8),
                                   __shfl_down_sync(all, t * 3, 6, 16),
                                   __shfl_sync(all, t * 3, (int)t * 11, 8) };
    const int odd = (int)(mixed(t) & 1);
    const uint32_t votes[4] = { __ballot_sync(all, odd), (uint32_t)__any_sync(all, t == 31),
                                (uint32_t)__all_sync(all, t < 31),
                                (uint32_t)(__clz((int)t) * 10000 + __popc(t) * 100 +
                                           __ffs((int)t)) };

    put(out, SHUFFLES, shuffles);
    put(out, VOTES, votes);
}

DEVICE void barriers(uint32_t *out, unsigned char *bytes)
{
    const unsigned t = threadIdx.x;
    uint32_t *s = (uint32_t *)bytes, r[4];

    r[0] = (uint32_t)__syncthreads_count(t % 3 == 0);
    s[t] = t * 7;
    named_barrier(1, 32);
    r[1] = s[t ^ 9];
    __syncwarp();
    s[t] = t * 5;
    __syncwarp();
    r[2] = s[31 - t];
    r[3] = pack_bf16(1.0f + (float)t / 512.0f, -3.1415926f * (float)t); /* nearest, ties to even */
    put(out, BARRIERS, r);
}

DEVICE void atomics(uint32_t *out)
{
    const unsigned t = threadIdx.x;
    const float sum = warp_sum((float)t, 8); /* of eight neighbours: exact */
    uint32_t r[4] = { (uint32_t)(int)sum, 0, 0, 0 };

    atomicAdd(&out[COUNTER], t);
    atomicMax(&out[COUNTER + 1], t * 11 % 31);
    __syncthreads();
    r[1] = atomicAdd(&out[COUNTER], 0u);
    r[2] = atomicMax(&out[COUNTER + 1], 0u);
    if (t == 7) r[3] = atomicCAS(&out[COUNTER + 2], 0u, 5u);
    put(out, ATOMICS, r);
}

/* Of integers: exact. */
DEVICE void exponentials(uint32_t *out)
{
    const float t = (float)threadIdx.x,
                x[4] = { t - 16, -126 + t, -127 - t, t < 16 ? -INFINITY : t };
    uint32_t r[4];

    for (int i = 0; i < 4; i++) r[i] = __float_as_uint(exp2_approximate(x[i]));
    put(out, EXPONENTIALS, r);
}

__global__ void conform(uint32_t *out, const uint32_t *in)
{
    DYNAMIC_SHARED(bytes);
    const int t = (int)threadIdx.x;
    uint32_t *s = (uint32_t *)bytes, r[4];

    for (int i = 0; i < 8; i++) s[t + 32 * i] = in[t + 32 * i];
    __syncthreads();
    load_matrix_x4(r, bytes + ((t * 7 + 3) & 31) * 16);
    put(out, LOAD_PLAIN, r);
    load_matrix_x4_transposed(r, bytes + ((t * 5 + 1) & 31) * 16);
    put(out, LOAD_TURNED, r);
    product(out);
    copies(out, in, bytes);
    lanes(out);
    __syncthreads();
    barriers(out, bytes);
    atomics(out);
    exponentials(out);
}

#ifdef __CUDACC__
static void *take(size_t bytes)
{
    void *p;

    if (cudaMalloc(&p, bytes) != cudaSuccess || cudaMemset(p, 0, bytes) != cudaSuccess) {
        printf("skipped: no GPU\n");
        exit(77);
    }
    return p;
}

static enum status put_all(void *dev, const void *host, size_t bytes)
{
    return cudaMemcpy(dev, host, bytes, cudaMemcpyDefault) == cudaSuccess ? OK : E_DEVICE;
}

static enum status get_all(void *host, const void *dev, size_t bytes)
{
    return cudaMemcpy(host, dev, bytes, cudaMemcpyDefault) == cudaSuccess ? OK : E_DEVICE;
}
#else
static void *take(size_t bytes)
{
    return emu_take((int64_t)bytes, "conform", true);
}

__attribute__((no_sanitize("thread"))) static enum status put_all(void *dev, const void *host,
                                                                  size_t bytes)
{
    memcpy(dev, host, bytes);
    return OK;
}

static enum status get_all(void *host, const void *dev, size_t bytes)
{
    return emu_read(host, dev, (int64_t)bytes) ? OK : E_DEVICE;
}
#endif

static enum status run(uint32_t *host)
{
    uint32_t *const out = (uint32_t *)take(OUT_ALL * 4), *const in = (uint32_t *)take(IN * 4);
    struct stream s = {};
    uint32_t words[IN];

    for (uint32_t i = 0; i < IN; i++) words[i] = i * 2654435761u + 12345u;
    TRY(put_all(in, words, sizeof words));
    LAUNCH(conform, 1, LANES, SHARED_BYTES, &s, out, in);
    return get_all(host, out, OUT * 4);
}

int main(void)
{
    static uint32_t out[OUT];

    if (run(out) != OK) return 1;
    for (int i = 0; i < OUT; i += WORDS)
        printf("%d %2d %08x %08x %08x %08x\n", i / WORDS / LANES, i / WORDS % LANES, out[i],
               out[i + 1], out[i + 2], out[i + 3]);
    return 0;
}

/* Counter-based random numbers: value = f(seed, stream, index). No hidden state, so the same
 * numbers come out on any rank, thread, restart and device. Philox 4x32-10 (Salmon et al., 2011).
 *
 * A key is (seed, stream); streams are built with rng_stream() from what the number is for and
 * where it is used, so that no two uses share numbers. Everything here is integer arithmetic or
 * exact in float, hence bit-equal on CPU and GPU, except rng_normal (host only, for initial
 * weights). */
#ifndef KERNELS_BASE_RNG_H
#define KERNELS_BASE_RNG_H

#include <stdint.h>

#ifdef __CUDACC__
#define RNG_FN static __host__ __device__ inline
#else
#define RNG_FN static inline
#endif

/* What a stream is for. Append only: the number is part of every recorded run. */
enum rng_use {
    RNG_INIT = 1, /* initial weights */
    RNG_ORDER,    /* which image a slot gets */
    RNG_MASKS,    /* which masks of an image */
    RNG_PROMPT,   /* first prompts and corrective clicks */
    RNG_DROP_PATH,
    RNG_DROPOUT,
    RNG_SYNTH,
    RNG_AUGMENT,
    RNG_PLAN, /* where the silent iteration falls */
    RNG_TEST
};

struct rng_key {
    uint64_t seed, stream;
};

struct rng_block {
    uint32_t v[4];
};

/* Mixes 64 bits (the splitmix64 finalizer); for building streams and hashing small keys. */
RNG_FN uint64_t rng_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

RNG_FN struct rng_key rng_stream(uint64_t seed, enum rng_use use, uint64_t a, uint64_t b)
{
    struct rng_key k;

    k.seed = seed;
    k.stream = rng_mix(rng_mix(rng_mix((uint64_t)use) ^ a) ^ b);
    return k;
}

/* A stream below a stream: one per mask of a slot, one per node of a program … */
RNG_FN struct rng_key rng_sub(struct rng_key key, uint64_t a)
{
    key.stream = rng_mix(key.stream ^ rng_mix(a));
    return key;
}

/* Four independent 32-bit values for one index. */
RNG_FN struct rng_block rng_philox(struct rng_key key, uint64_t index)
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)key.stream, c3 = (uint32_t)(key.stream >> 32);
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);
    struct rng_block out;

    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;

        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out.v[0] = c0;
    out.v[1] = c1;
    out.v[2] = c2;
    out.v[3] = c3;
    return out;
}

RNG_FN uint32_t rng_u32(struct rng_key key, uint64_t index)
{
    const struct rng_block b = rng_philox(key, index >> 2);
    const uint32_t low = index & 1 ? b.v[1] : b.v[0], high = index & 1 ? b.v[3] : b.v[2];

    return index & 2 ? high : low; /* no array index: a GPU would need memory for it */
}

/* Uniform integer in [0, n), n >= 1, n <= 2^32; bias below 2^-32 · n. */
RNG_FN uint32_t rng_below(struct rng_key key, uint64_t index, uint64_t n)
{
    return (uint32_t)(((uint64_t)rng_u32(key, index) * n) >> 32);
}

/* 32 random bits as a number in [0, 1): a multiple of 2^-24, exact in float. */
RNG_FN float rng_unit(uint32_t bits)
{
    return (float)(bits >> 8) * 5.9604644775390625e-8f;
}

/* Uniform in [0, 1). */
RNG_FN float rng_uniform(struct rng_key key, uint64_t index)
{
    return rng_unit(rng_u32(key, index));
}

/* Near-normal with mean 0 and standard deviation 1: the sum of twelve uniforms (Irwin-Hall),
 * |value| < 6, computed in integers so that every device agrees to the bit. */
RNG_FN float rng_near_normal(struct rng_key key, uint64_t index)
{
    int64_t sum = 0;

    for (uint64_t i = 0; i < 3; i++) {
        const struct rng_block b = rng_philox(key, 3 * index + i);

        for (int j = 0; j < 4; j++) sum += (int64_t)(b.v[j] >> 8);
    }
    /* the twelve 24-bit values, centred, sum to below 2^28: rounded once to float */
    return (float)(sum - 6 * 16777215) * 5.9604644775390625e-8f;
}

#ifdef __cplusplus
extern "C" {
#endif
double rng_normal(struct rng_key key, uint64_t index); /* host only: Box-Muller in double */
#ifdef __cplusplus
}
#endif
#endif

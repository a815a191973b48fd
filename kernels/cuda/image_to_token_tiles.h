/* image_to_token on tensor cores: bf16, channels a multiple of 8 up to 256, up to 8 heads.
 *
 * A warp owns 16 positions and all channels of them, so that softmax and norm stay within a quad of
 * lanes: element e of z[n] is channel 8 n + 2 (lane % 4) + e % 2 of row lane / 4 + 8 (e / 2), as
 * multiply_bf16_16816 has it. CP is the channels, rounded up; those behind are zero. */
#ifndef KERNELS_CUDA_IMAGE_TO_TOKEN_TILES_H
#define KERNELS_CUDA_IMAGE_TO_TOKEN_TILES_H

#include "kernels/cuda/image_to_token_problem.h"

enum { TILE_WARPS = 4, TILE_THREADS = TILE_WARPS * 32, OWN_ROWS = 16, PAD = 8 };
enum { TILES_MAX_C = 256, TILES_MAX_HEADS = 8 };

typedef problem<bf16> tile_problem;
typedef workspace<bf16> tile_workspace;

DEVICE float low_float(uint32_t v)
{
    return __uint_as_float(v << 16);
}

DEVICE float high_float(uint32_t v)
{
    return __uint_as_float(v & 0xFFFF0000u);
}

DEVICE uint32_t add_pair(uint32_t a, uint32_t b)
{
    return pack_bf16(low_float(a) + low_float(b), high_float(a) + high_float(b));
}

DEVICE uint32_t &pair_at(bf16 *p)
{
    return *reinterpret_cast<uint32_t *>(p);
}

DEVICE uint32_t pair_at(const bf16 *p)
{
    return *reinterpret_cast<const uint32_t *>(p);
}

/* What a block has in shared memory: its positions; two stages of a head's 16 rows of a and of b;
 * what dropout keeps; backward, each warp's sums of dgamma, dbeta and dc. Rows are padded: no bank conflicts. */
template <int CP> struct tile_memory {
    enum { PITCH = CP + PAD, STAGE = 2 * TOKENS * PITCH, OWN = OWN_ROWS * PITCH };
    enum { SUMS = 2 * CP + TILES_MAX_HEADS * TOKENS };
    enum { ROW_BYTES = (TILE_ROWS * PITCH + 2 * STAGE) * 2 };
    enum { FWD_BYTES = ROW_BYTES + CP / 64 * TILE_THREADS * 4 };
    enum { BWD_BYTES = FWD_BYTES + TILE_WARPS * SUMS * 4 };

    bf16 *own, *stages;
    uint32_t *kept; /* dropout: of this thread, in steps of a block's threads */
    float *sums;    /* of all warps */

    DEVICE explicit tile_memory(unsigned char *memory)
    {
        own = (bf16 *)memory + (int)threadIdx.x / 32 * OWN;
        stages = (bf16 *)memory + TILE_ROWS * PITCH;
        kept = (uint32_t *)(memory + ROW_BYTES) + (int)threadIdx.x;
        sums = (float *)(memory + FWD_BYTES);
    }
};

/* 16 rows of a (·,n_c) tensor from row on, of which `left` are there, on their way to the warp. */
template <int CP>
DEVICE void fetch_own(bf16 *own, const bf16 *p, int64_t row, int left, int n_c, int lane)
{
#pragma unroll 1
    for (int i = lane; i < OWN_ROWS * CP / 8; i += 32) {
        const int r = i / (CP / 8), c = i % (CP / 8) * 8;
        const bool is_there = r < left && c < n_c;

        async_copy16(own + r * (CP + PAD) + c, is_there ? p + (row + r) * n_c + c : p,
                     is_there ? 16 : 0);
    }
}

/* The same rows from the warp to the tensor. */
template <int CP>
DEVICE void put_own(bf16 *p, const bf16 *own, int64_t row, int left, int n_c, int lane)
{
#pragma unroll 2
    for (int i = lane; i < OWN_ROWS * CP / 8; i += 32) {
        const int r = i / (CP / 8), c = i % (CP / 8) * 8;

        if (r < left && c < n_c)
            *reinterpret_cast<uint4 *>(p + (row + r) * n_c + c) =
                *reinterpret_cast<const uint4 *>(own + r * (CP + PAD) + c);
    }
}

/* x to x + pe, in the pieces that this lane fetched. */
template <int CP>
DEVICE void add_own(bf16 *own, const bf16 *pe, int64_t row, int left, int n_c, int lane)
{
#pragma unroll 8
    for (int i = lane; i < OWN_ROWS * CP / 8; i += 32) {
        const int r = i / (CP / 8), c = i % (CP / 8) * 8;

        if (r >= left || c >= n_c) continue;
        uint4 &q = *reinterpret_cast<uint4 *>(own + r * (CP + PAD) + c);
        const uint4 x = q, e = *reinterpret_cast<const uint4 *>(pe + (row + r) * n_c + c);

        q = make_uint4(add_pair(x.x, e.x), add_pair(x.y, e.y), add_pair(x.z, e.z),
                       add_pair(x.w, e.w));
    }
}

/* A head's rows of a, and behind them of b, on their way to a stage, by the whole block. */
template <int CP>
DEVICE void fetch_stage(bf16 *stage, const tile_workspace &w, int64_t row, int n_c)
{
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < 2 * TOKENS * CP / 8; i += TILE_THREADS) {
        const int r = i / (CP / 8), c = i % (CP / 8) * 8;
        const bf16 *const p = r < TOKENS ? w.a : w.b;

        async_copy16(stage + r * (CP + PAD) + c, c < n_c ? p + (row + r % TOKENS) * n_c + c : p,
                     c < n_c ? 16 : 0);
    }
}

/* The stage of head h, which was on its way; the next head's is now. */
template <int CP>
DEVICE const bf16 *stage_of(bf16 *stages, const tile_workspace &w, const tile_problem &f, int64_t m,
                            int h)
{
    async_wait<0>();
    __syncthreads();
    if (h + 1 < f.heads) {
        fetch_stage<CP>(stages + (h + 1) % 2 * tile_memory<CP>::STAGE, w,
                        (m * f.heads + h + 1) * TOKENS, f.n_c);
        async_commit();
    }
    return stages + h % 2 * tile_memory<CP>::STAGE;
}

/* s (16 positions, 16 tokens) = own · tokensᵀ */
template <int CP>
DEVICE void token_products(float (&s)[2][4], const bf16 *own, const bf16 *tokens, int lane)
{
    const bf16 *const a = own + lane % 16 * (CP + PAD) + lane / 16 * 8;
    const bf16 *const b = tokens + (lane / 16 * 8 + lane % 8) * (CP + PAD) + lane / 8 % 2 * 8;

#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][e] = 0;
#pragma unroll 4
    for (int c = 0; c < CP; c += 16) {
        uint32_t fa[4], fb[4];

        load_matrix_x4(fa, a + c);
        load_matrix_x4(fb, b + c);
        const uint32_t left[2] = { fb[0], fb[1] }, right[2] = { fb[2], fb[3] };

        multiply_bf16_16816(s[0], fa, left);
        multiply_bf16_16816(s[1], fa, right);
    }
}

/* z += weights (16 positions, 16 tokens) · tokens */
template <int CP>
DEVICE void add_tokens(float (&z)[CP / 8][4], const uint32_t (&weights)[4], const bf16 *tokens,
                       int lane)
{
    const bf16 *const b = tokens + lane % 16 * (CP + PAD) + lane / 16 * 8;

#pragma unroll
    for (int n = 0; n < CP / 8; n += 2) {
        uint32_t fb[4];

        load_matrix_x4_transposed(fb, b + n * 8);
        const uint32_t left[2] = { fb[0], fb[1] }, right[2] = { fb[2], fb[3] };

        multiply_bf16_16816(z[n], weights, left);
        multiply_bf16_16816(z[n + 1], weights, right);
    }
}

DEVICE float quad_sum(float v)
{
    v += __shfl_xor_sync(0xFFFFFFFFu, v, 1);
    return v + __shfl_xor_sync(0xFFFFFFFFu, v, 2);
}

DEVICE float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xFFFFFFFFu, v, 2));
}

/* Over the 16 tokens of each of the two rows, whose c is added first. */
DEVICE void softmax(float (&s)[2][4], const float *c, int lane)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][e] += c[i * 8 + lane % 4 * 2 + e % 2];
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
        const float top = quad_max(fmaxf(fmaxf(s[0][r], s[0][r + 1]), fmaxf(s[1][r], s[1][r + 1])));
        float sum = 0;

#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[i][r + e] = expf(s[i][r + e] - top);
                sum += s[i][r + e];
            }
        sum = 1.0f / quad_sum(sum);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) s[i][r + e] *= sum;
    }
}

/* As left operand of a product over tokens. */
DEVICE void weights_of(uint32_t (&weights)[4], const float (&s)[2][4])
{
    weights[0] = pack_bf16(s[0][0], s[0][1]);
    weights[1] = pack_bf16(s[0][2], s[0][3]);
    weights[2] = pack_bf16(s[1][0], s[1][1]);
    weights[3] = pack_bf16(s[1][2], s[1][3]);
}

/* Where this lane's word i of weights lies in rows of n_rows tokens. */
DEVICE int weights_at(int i, int n_rows, int lane)
{
    return (lane / 4 + i % 2 * 8) * n_rows + lane % 4 * 2 + i / 2 * 8;
}

DEVICE void put_weights(bf16 *rows, const uint32_t (&weights)[4], int n_rows, int left, int lane)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (lane / 4 + i % 2 * 8 < left) pair_at(rows + weights_at(i, n_rows, lane)) = weights[i];
}

/* Which elements of z are kept, four bits an n, into the lane's words. A lane draws for one of its two
 * rows and for its neighbour: the four numbers of a counter are two lanes' channels. */
template <int CP>
DEVICE void draw_kept(uint32_t *kept, const dropout &drop, int64_t first_element, int n_c, int lane)
{
    const rng_key key = drop.p > 0 ? drop.key_here() : rng_key{ 0, 0 };
    const int row = lane / 4 + lane % 2 * 8, shift = lane % 2 * 2;
    const int64_t first = first_element + (int64_t)row * n_c + lane % 4 / 2 * 4;

#pragma unroll 1
    for (int i = 0; i < CP / 64; i++) {
        uint32_t word = drop.p > 0 ? 0 : 0xFFFFFFFFu;

#pragma unroll 2
        for (int n = i * 8; drop.p > 0 && n < i * 8 + 8 && n * 8 < n_c; n++) {
            const rng_block draw = rng_philox(key, (uint64_t)(first + n * 8) / 4);
            uint32_t mine = 0;

#pragma unroll
            for (int k = 0; k < 4; k++) mine |= (rng_unit(draw.v[k]) >= drop.p ? 1u : 0u) << k;
            const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, mine, 1);
            const uint32_t upper = lane % 2 ? other : mine, lower = lane % 2 ? mine : other;

            word |= ((upper >> shift & 3u) | (lower >> shift & 3u) << 2) << n % 8 * 4;
        }
        kept[i * TILE_THREADS] = word;
    }
}

DEVICE float kept_factor(const uint32_t *kept, int n, int e, const dropout &drop)
{
    return kept[n / 8 * TILE_THREADS] >> (n % 8 * 4 + e) & 1u ? drop.keep : 0;
}

/* z = r = x + dropout(Σ p b + bo) of the warp's positions from i on, `left` of which are there; p into
 * p_rows, or NULL. own has room for them; head 0 must not be on its way. */
template <int CP>
DEVICE void attend(float (&z)[CP / 8][4], const tile_memory<CP> &memory, const tile_problem &f,
                   const tile_workspace &w, bf16 *p_rows, int64_t m, int64_t i, int left, int lane)
{
    const int64_t x_row = f.x_row(m, i);

    fetch_own<CP>(memory.own, f.x, x_row, left, f.n_c, lane);
    fetch_stage<CP>(memory.stages, w, m * f.heads * TOKENS, f.n_c);
    async_commit();
    draw_kept<CP>(memory.kept, f.drop, (m * f.n_x + i) * f.n_c, f.n_c, lane);
    async_wait<0>();
    add_own<CP>(memory.own, f.pe, i, left, f.n_c, lane);
#pragma unroll
    for (int n = 0; n < CP / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            z[n][e] = n * 8 < f.n_c ? f.bo[n * 8 + lane % 4 * 2 + e % 2] : 0;
    for (int h = 0; h < f.heads; h++) {
        const bf16 *const a = stage_of<CP>(memory.stages, w, f, m, h);
        float s[2][4];
        uint32_t p[4];

        token_products<CP>(s, memory.own, a, lane);
        softmax(s, w.c + (m * f.heads + h) * TOKENS, lane);
        weights_of(p, s);
        if (p_rows) put_weights(p_rows + h * TOKENS, p, f.n_rows, left, lane);
        add_tokens<CP>(z, p, a + TOKENS * (CP + PAD), lane);
    }
    __syncwarp();
    fetch_own<CP>(memory.own, f.x, x_row, left, f.n_c, lane);
    async_commit();
    async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < CP / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const uint32_t x = pair_at((const bf16 *)memory.own +
                                       (lane / 4 + e / 2 * 8) * (CP + PAD) + n * 8 + lane % 4 * 2);

            z[n][e] = low_float(x) + z[n][e] * kept_factor(memory.kept, n, e, f.drop);
            z[n][e + 1] = high_float(x) + z[n][e + 1] * kept_factor(memory.kept, n, e + 1, f.drop);
        }
}

/* Forward. A block owns 64 positions of a mask, a warp 16.
 * x is read and y written once, 4.2 MB a mask of 4096 × 256: 2.7 µs of A100's memory; x is read again
 * from L2 behind the heads, in whose place it stood. a and b come from L2, 128 KB a block, 8 MB a mask;
 * 0.54 GFLOP is 1.7 µs of tensor cores, their operands 2.6 µs of shared memory (48 loads of 512 bytes
 * for 64 products, a head and warp), dropout's generator, where it draws, as much again.
 * Heads go by in two stages, so that 66 KB a block leave room for two of them in a multiprocessor:
 * one loads or draws while the other multiplies. 16 positions a warp, because their sums take half of
 * the registers. */
template <int CP>
__global__ static void __launch_bounds__(TILE_THREADS, 2)
    fwd_tiles(tile_problem f, tile_workspace w)
{
    DYNAMIC_SHARED(dynamic);
    const tile_memory<CP> memory(dynamic);
    const int lane = (int)threadIdx.x % 32;
    const int64_t m = blockIdx.y;
    const int64_t i = (int64_t)blockIdx.x * TILE_ROWS + (int)threadIdx.x / 32 * OWN_ROWS;
    const int left = f.n_x - i < OWN_ROWS ? (int)(f.n_x - i) : OWN_ROWS;
    float z[CP / 8][4];

    attend<CP>(z, memory, f, w, (bf16 *)NULL, m, i, left, lane);
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
        const int r = lane / 4 + e / 2 * 8;
        float sum = 0, squares = 0;

#pragma unroll
        for (int n = 0; n < CP / 8; n++) sum += z[n][e] + z[n][e + 1];
        const float mean = quad_sum(sum) / (float)f.n_c;

#pragma unroll
        for (int n = 0; n < CP / 8; n++) {
            if (n * 8 >= f.n_c) continue;
            squares += (z[n][e] - mean) * (z[n][e] - mean);
            squares += (z[n][e + 1] - mean) * (z[n][e + 1] - mean);
        }
        const float rstd = 1.0f / sqrtf(quad_sum(squares) / (float)f.n_c + f.eps);

#pragma unroll
        for (int n = 0; n < CP / 8; n++) {
            const int c = n * 8 + lane % 4 * 2;

            if (n * 8 >= f.n_c) continue;
            pair_at(memory.own + r * (CP + PAD) + c) =
                pack_bf16((z[n][e] - mean) * rstd * f.gamma[c] + f.beta[c],
                          (z[n][e + 1] - mean) * rstd * f.gamma[c + 1] + f.beta[c + 1]);
        }
        if (r < left && lane % 4 == 0) {
            f.mean[m * f.n_x + i + r] = mean;
            f.rstd[m * f.n_x + i + r] = rstd;
        }
    }
    __syncwarp();
    put_own<CP>(f.y, memory.own, m * f.n_x + i, left, f.n_c, lane);
}

/* v[0…7] summed over the 8 lanes of a column of quads; lane L has the sum of v[its bits 16, 8, 4]. */
DEVICE float scatter_sum8(float (&v)[8], int lane)
{
#pragma unroll
    for (int turn = 4; turn > 0; turn /= 2) {
        const bool upper = lane & turn * 4;

#pragma unroll
        for (int k = 0; k < turn; k++) {
            const float give = upper ? v[k] : v[k + turn], keep = upper ? v[k + turn] : v[k];

            v[k] = keep + __shfl_xor_sync(0xFFFFFFFFu, give, turn * 4);
        }
    }
    return v[0];
}

DEVICE int scattered(int lane)
{
    return lane / 16 * 4 + lane / 8 % 2 * 2 + lane / 4 % 2;
}

/* z from r to dr, own from dy to dropout's factor · dr; the warp's columns of dgamma and dbeta. */
template <int CP>
DEVICE void norm_gradient(float (&z)[CP / 8][4], const tile_memory<CP> &memory, float *sums,
                          const tile_problem &f, int64_t row, int left, int lane)
{
    float plain[2] = {}, weighted[2] = {}, mean[2] = {}, rstd[2] = {};

#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (lane / 4 + r * 8 >= left) continue;
        mean[r] = f.mean[row + lane / 4 + r * 8];
        rstd[r] = f.rstd[row + lane / 4 + r * 8];
    }
    bf16 *const own_dy = memory.own + lane / 4 * (CP + PAD) + lane % 4 * 2;

#pragma unroll
    for (int n0 = 0; n0 < CP / 8; n0 += 4) {
        float of_gamma[8] = {}, of_beta[8] = {};

#pragma unroll
        for (int n = n0; n < n0 + 4; n++) {
            if (n * 8 >= f.n_c) continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t pair = pair_at(own_dy + e / 2 * 8 * (CP + PAD) + n * 8);
                const float dy = e % 2 ? high_float(pair) : low_float(pair);
                const float xhat = (z[n][e] - mean[e / 2]) * rstd[e / 2];

                z[n][e] = xhat;
                const float g = dy * f.gamma[n * 8 + lane % 4 * 2 + e % 2];

                plain[e / 2] += g;
                weighted[e / 2] += g * xhat;
                of_gamma[(n - n0) * 2 + e % 2] += dy * xhat;
                of_beta[(n - n0) * 2 + e % 2] += dy;
            }
        }
        const int k = scattered(lane), c = (n0 + k / 2) * 8 + lane % 4 * 2 + k % 2;

        sums[c] = scatter_sum8(of_gamma, lane);
        sums[CP + c] = scatter_sum8(of_beta, lane);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        plain[r] = quad_sum(plain[r]) / (float)f.n_c;
        weighted[r] = quad_sum(weighted[r]) / (float)f.n_c;
    }
#pragma unroll
    for (int n = 0; n < CP / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const int r = e / 2;
            uint32_t &pair = pair_at(own_dy + r * 8 * (CP + PAD) + n * 8);
            const uint32_t dy = pair;

            if (n * 8 >= f.n_c) continue;
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const float g =
                    (k ? high_float(dy) : low_float(dy)) * f.gamma[n * 8 + lane % 4 * 2 + k];

                z[n][e + k] = rstd[r] * (g - plain[r] - z[n][e + k] * weighted[r]);
            }
            pair = pack_bf16(z[n][e] * kept_factor(memory.kept, n, e, f.drop),
                             z[n][e + 1] * kept_factor(memory.kept, n, e + 1, f.drop));
        }
}

/* s from dz·b to ds, with p as it was put; the warp's sums of the head's dc. */
DEVICE void score_gradient(float (&s)[2][4], float *dc, const bf16 *p_rows, int n_rows, int left,
                           int lane)
{
    float delta[2] = {}, column[4];
    float p[2][4] = {};

#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (lane / 4 + i % 2 * 8 >= left) continue;
        const uint32_t pair = pair_at(p_rows + weights_at(i, n_rows, lane));

        p[i / 2][i % 2 * 2] = low_float(pair);
        p[i / 2][i % 2 * 2 + 1] = high_float(pair);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) delta[e / 2] += p[i][e] * s[i][e];
    delta[0] = quad_sum(delta[0]);
    delta[1] = quad_sum(delta[1]);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[i][e] = p[i][e] * (s[i][e] - delta[e / 2]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        column[k] = s[k / 2][k % 2] + s[k / 2][k % 2 + 2];
#pragma unroll
        for (int turn = 4; turn < 32; turn *= 2)
            column[k] += __shfl_xor_sync(0xFFFFFFFFu, column[k], turn);
        if (lane < 4) dc[k / 2 * 8 + lane % 4 * 2 + k % 2] = column[k];
    }
}

/* dx of the warp's positions: of a mask's own x through own, which it overwrites; of a shared x added
 * to what the group's earlier masks gave. */
template <int CP>
DEVICE void put_dx(float (&z)[CP / 8][4], bf16 *own, const tile_problem &f, const tile_workspace &w,
                   int64_t m, int64_t i, bool is_first, int left, int lane)
{
    if (!f.dx && !w.dx_groups) return;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < CP / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const int r = lane / 4 + e / 2 * 8, c = n * 8 + lane % 4 * 2;

            if (r >= left || n * 8 >= f.n_c) continue;
            if (w.dx_groups) {
                float2 *const out = reinterpret_cast<float2 *>(
                    w.dx_groups + (blockIdx.y * f.n_x + i + r) * f.n_c + c);
                const float2 before = is_first ? make_float2(0, 0) : *out;

                *out = make_float2(before.x + z[n][e], before.y + z[n][e + 1]);
                continue;
            }
            if (f.add_x) {
                const uint32_t before =
                    pair_at((const bf16 *)f.dx + (m * f.n_x + i + r) * f.n_c + c);

                z[n][e] += low_float(before);
                z[n][e + 1] += high_float(before);
            }
            pair_at(own + r * (CP + PAD) + c) = pack_bf16(z[n][e], z[n][e + 1]);
        }
    if (w.dx_groups) return;
    __syncwarp();
    put_own<CP>(f.dx, own, m * f.n_x + i, left, f.n_c, lane);
}

/* The warps' sums of a tile into its parts. */
template <int CP>
DEVICE void put_sums(const float *sums, const tile_problem &f, const tile_workspace &w, int64_t m)
{
    const int64_t part = m * w.n_tiles + blockIdx.x;

    for (int i = (int)threadIdx.x; i < 2 * f.n_c + f.n_rows; i += TILE_THREADS) {
        const int at = i < f.n_c ? i : i < 2 * f.n_c ? CP + i - f.n_c : 2 * CP + i - 2 * f.n_c;
        float sum = 0;

        for (int k = 0; k < TILE_WARPS; k++) sum += sums[k * tile_memory<CP>::SUMS + at];
        if (i < 2 * f.n_c)
            w.norm_parts[part * 2 * f.n_c + i] = sum;
        else
            w.dc_parts[part * f.n_rows + i - 2 * f.n_c] = sum;
    }
}

/* Backward up to the sums over positions: p, ds and dz into scratch, dx, and the tile's parts of
 * dgamma, dbeta and dc. A block owns 64 positions, over the masks of a group, a warp 16.
 * Does forward again, then the heads once more: twice its products and operands. dy is read and dx
 * written once; with x, p, ds and dz 10.5 MB a mask of 4096 × 256: 6.7 µs of A100's memory, about what
 * shared memory takes. p, ds and dz go through memory because the sums over positions, 256 KB a mask,
 * have no room in a block beside the 128 registers of a row's channels. */
template <int CP>
__global__ static void __launch_bounds__(TILE_THREADS, 2)
    bwd_tiles(tile_problem f, tile_workspace w)
{
    DYNAMIC_SHARED(dynamic);
    const tile_memory<CP> memory(dynamic);
    const int lane = (int)threadIdx.x % 32;
    float *const sums = memory.sums + (int)threadIdx.x / 32 * tile_memory<CP>::SUMS;
    const int64_t i = (int64_t)blockIdx.x * TILE_ROWS + (int)threadIdx.x / 32 * OWN_ROWS;
    const int left = f.n_x - i < OWN_ROWS ? (int)(f.n_x - i) : OWN_ROWS;
    const int m_first = (int)blockIdx.y * (int)w.group; /* masks are fewer than 2^16 */

    for (int m = m_first; m < m_first + (int)w.group && m < (int)f.n_masks; m++) {
        const int64_t row = m * f.n_x + i;
        float z[CP / 8][4];

        attend<CP>(z, memory, f, w, w.p + row * f.n_rows, m, i, left, lane);
        __syncthreads(); /* the last head's stage, and own */
        fetch_own<CP>(memory.own, f.dy, row, left, f.n_c, lane);
        fetch_stage<CP>(memory.stages, w, m * f.heads * TOKENS, f.n_c);
        async_commit();
        async_wait<0>();
        __syncwarp();
        norm_gradient<CP>(z, memory, sums, f, row, left, lane);
        __syncwarp();
        put_own<CP>(w.dz, memory.own, row, left, f.n_c, lane);
        for (int h = 0; h < f.heads; h++) {
            const bf16 *const a = stage_of<CP>(memory.stages, w, f, m, h);
            float s[2][4];
            uint32_t ds[4];

            token_products<CP>(s, memory.own, a + TOKENS * (CP + PAD), lane);
            score_gradient(s, sums + 2 * CP + h * TOKENS, w.p + row * f.n_rows + h * TOKENS,
                           f.n_rows, left, lane);
            weights_of(ds, s);
            put_weights(w.ds + row * f.n_rows + h * TOKENS, ds, f.n_rows, left, lane);
            add_tokens<CP>(z, ds, a, lane);
        }
        put_dx<CP>(z, memory.own, f, w, m, i, m == m_first, left, lane);
        __syncthreads();
        put_sums<CP>(memory.sums, f, w, m); /* attend's barriers part it from the next mask's */
    }
}

enum {
    SUM_C = 128,
    SUM_DEPTH = 32,
    SUM_PITCH = 128 + PAD,
    SUM_TILE_THREADS = 256,
    SUM_STAGE = SUM_DEPTH * SUM_PITCH
};
enum { SUM_PIECES = SUM_DEPTH * 128 / 8 / SUM_TILE_THREADS }; /* of 8, of an operand, of a thread */

/* One step of positions: rows of p or ds, and of dz or x, on their way; pe into registers. */
DEVICE void fetch_step(bf16 *left, bf16 *right, uint4 (&pe)[SUM_PIECES], const tile_problem &f,
                       const tile_workspace &w, bool of_a, int64_t m, int64_t i0, int64_t end,
                       int c0)
{
    const bf16 *const weights = of_a ? w.ds : w.p, *const rows = of_a ? f.x : w.dz;

#pragma unroll
    for (int k = 0; k < SUM_PIECES; k++) {
        const int piece = (int)threadIdx.x + k * SUM_TILE_THREADS;
        const int r = piece / 16, c = piece % 16 * 8;
        const int64_t i = i0 + r, row = of_a ? f.x_row(m, i) : m * f.n_x + i;
        const bool has_j = i < end && c < f.n_rows, has_c = i < end && c0 + c < f.n_c;

        async_copy16(left + r * SUM_PITCH + c,
                     has_j ? weights + (m * f.n_x + i) * f.n_rows + c : weights, has_j ? 16 : 0);
        async_copy16(right + r * SUM_PITCH + c, has_c ? rows + row * f.n_c + c0 + c : rows,
                     has_c ? 16 : 0);
        pe[k] = make_uint4(0, 0, 0, 0);
        if (of_a && has_c) pe[k] = *reinterpret_cast<const uint4 *>(f.pe + i * f.n_c + c0 + c);
    }
    async_commit();
}

/* A chunk's part of da = Σ ds (x + pe) or of db = Σ p dz, over positions. A block owns all 128 rows and
 * 128 channels of one of them, a warp 64 × 32. p and ds are read once for every 128 channels, dz, x and
 * pe once: 8.4 MB a mask of 4096 × 256, 5.4 µs of A100's memory, against 1.7 µs of tensor cores.
 * Two stages of 32 positions, 34 KB a block, and 64 sums a thread: two blocks a multiprocessor. */
__global__ static void __launch_bounds__(SUM_TILE_THREADS, 2)
    position_sums_tiles(tile_problem f, tile_workspace w)
{
    __shared__ __align__(16) uint16_t memory[2][2][SUM_DEPTH * SUM_PITCH]; /* bf16, without a
                                                                               constructor */
    bf16 *const left = (bf16 *)memory[0][0], *const right = (bf16 *)memory[1][0];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const bool of_a = blockIdx.x % 2 == 0;
    const int c0 = (int)blockIdx.x / 2 * SUM_C, j_own = warp / 4 * 64, c_own = warp % 4 * 32;
    const int64_t m = blockIdx.y, first = blockIdx.z * w.chunk;
    const int64_t end = first + w.chunk < f.n_x ? first + w.chunk : f.n_x;
    const bool has_work = j_own < f.n_rows && c0 + c_own < f.n_c;
    float sum[4][4][4] = {};
    uint4 pe[SUM_PIECES];

    fetch_step(left, right, pe, f, w, of_a, m, first, end, c0);
    int turn = 0;

    for (int64_t i0 = first; i0 < end; i0 += SUM_DEPTH, turn ^= 1) {
        async_wait<0>();
#pragma unroll
        for (int k = 0; k < SUM_PIECES; k++) {
            const int piece = (int)threadIdx.x + k * SUM_TILE_THREADS;
            uint4 &q = *reinterpret_cast<uint4 *>(right + turn * SUM_STAGE +
                                                  piece / 16 * SUM_PITCH + piece % 16 * 8);

            if (of_a)
                q = make_uint4(add_pair(q.x, pe[k].x), add_pair(q.y, pe[k].y),
                               add_pair(q.z, pe[k].z), add_pair(q.w, pe[k].w));
        }
        __syncthreads();
        if (i0 + SUM_DEPTH < end)
            fetch_step(left + (turn ^ 1) * SUM_STAGE, right + (turn ^ 1) * SUM_STAGE, pe, f, w,
                       of_a, m, i0 + SUM_DEPTH, end, c0);
        if (!has_work) continue;
#pragma unroll
        for (int k = 0; k < SUM_DEPTH; k += 16) {
            uint32_t fb[2][4];

#pragma unroll
            for (int n = 0; n < 2; n++)
                load_matrix_x4_transposed(fb[n], right + turn * SUM_STAGE +
                                                     (k + lane % 16) * SUM_PITCH + c_own + n * 16 +
                                                     lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t fa[4];

                load_matrix_x4_transposed(fa, left + turn * SUM_STAGE +
                                                  (k + lane / 16 * 8 + lane % 8) * SUM_PITCH +
                                                  j_own + j * 16 + lane / 8 % 2 * 8);
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    const uint32_t b[2] = { fb[n / 2][n % 2 * 2], fb[n / 2][n % 2 * 2 + 1] };

                    multiply_bf16_16816(sum[j][n], fa, b);
                }
            }
        }
    }
    float *const out = w.sum_parts + ((blockIdx.z * f.n_masks + m) * 2 + (of_a ? 0 : 1)) *
                                         (int64_t)f.n_rows * f.n_c;

#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                const int row = j_own + j * 16 + lane / 4 + e / 2 * 8;
                const int c = c0 + c_own + n * 8 + lane % 4 * 2;

                if (row < f.n_rows && c < f.n_c)
                    *reinterpret_cast<float2 *>(out + (int64_t)row * f.n_c + c) =
                        make_float2(sum[j][n][e], sum[j][n][e + 1]);
            }
}

#endif

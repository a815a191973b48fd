/* Attention in BF16 on tensor cores: what its kernels share. Problem, slices, tiles, products.
 *
 * Products are m16n8k16, sums in f32. Of a 16 × 8 result, thread 4 g + t of a warp holds columns
 * 2 t and 2 t + 1 of rows g and g + 8, and two such results, packed, are the left operand of the
 * next product: probabilities never leave the registers.
 *
 * Tiles are rows of NK · 16 channels, zero behind D, 16 bytes apart from a multiple of 32: an odd
 * number of 16-byte units, so that the 8 rows of a matrix lie on all 32 banks, whatever D.
 *
 * Keys come in tiles of 64 slots. SMALL (Kh, Kw ≤ 16; windows): 64 keys in their order. Else: up to
 * 64 of one row of keys; rows run inside, columns outside: a query's term of the row is one number a
 * tile, and its terms of the columns are the same in every tile. Without tables all keys are a row. */
#ifndef KERNELS_CUDA_FLASH_TILES_H
#define KERNELS_CUDA_FLASH_TILES_H

#include "kernels/cuda/element.h"

enum { TILE_ROWS = 64, SMALL_SIDE = 16, SMALL_KEYS = SMALL_SIDE * SMALL_SIDE, WHOLE_CHANNELS = 8 };
static const float LOG2_E = 1.44269504f;

struct flash_problem {
    const bf16 *qkv, *dy;
    const bf16 *bias;   /* (3,A,D), rounded, as a linear layer writes it; NULL: no padding */
    const bf16 *tables; /* Rh, then Rw, rounded; NULL: none */
    const float *terms; /* (N,A,H,W,term_pitch): Kh terms × log2 e, from w_at on Kw; NULL: none */
    const float *lse, *delta;
    float *dterms; /* as terms, of the natural logarithm */
    float *lse_out;
    float *padding_sums; /* (windows, blocks of keys, 2, A, D): dk and dv of padding, or NULL */
    bf16 *y, *dqkv;
    int h, w, heads, d, kh, kw, n_down, n_wide;
    int grid_h, grid_w; /* of keys: Kh × Kw, or 1 × T without tables */
    int w_at, term_pitch;
    float scale;
    bool add;
};

/* A window and a head. Queries are the window's tokens that exist, counted row by row. */
struct flash_slice {
    const flash_problem &p;
    int image, head, y0, x0, n_down, n_wide, n_q, n_k;

    DEVICE flash_slice(const flash_problem &problem, int window, int head_of) : p(problem)
    {
        head = head_of;
        image = window / p.n_wide / p.n_down;
        y0 = window / p.n_wide % p.n_down * p.kh;
        x0 = window % p.n_wide * p.kw;
        n_down = p.h - y0 < p.kh ? p.h - y0 : p.kh;
        n_wide = p.w - x0 < p.kw ? p.w - x0 : p.kw;
        n_q = n_down * n_wide;
        n_k = p.kh * p.kw;
    }

    /* within the image; −1 behind the last */
    DEVICE int query_token(int i) const
    {
        if (i >= n_q) return -1;
        if (n_wide == p.w) return y0 * p.w + i;
        return (y0 + i / n_wide) * p.w + x0 + i % n_wide;
    }

    /* −1 for padding */
    DEVICE int key_token(int ky, int kx) const
    {
        const bool flat = p.grid_w != p.kw;
        const int y = y0 + (flat ? kx / p.kw : ky), x = x0 + (flat ? kx % p.kw : kx);

        return y < p.h && x < p.w ? y * p.w + x : -1;
    }

    DEVICE int64_t part_at(int tok, int part) const
    {
        return (((int64_t)image * p.h * p.w + tok) * 3 + part) * p.heads * p.d +
               (int64_t)head * p.d;
    }

    /* of k; v lies A·D behind it, padding's too */
    DEVICE const bf16 *key_row(int tok) const
    {
        return tok >= 0 ? p.qkv + part_at(tok, 1) : p.bias + (int64_t)(p.heads + head) * p.d;
    }

    /* NULL where there is no query */
    DEVICE const bf16 *query_row(int tok) const
    {
        return tok >= 0 ? p.qkv + part_at(tok, 0) : NULL;
    }

    DEVICE const bf16 *dy_row(int tok) const { return tok >= 0 ? p.dy + output_at(tok) : NULL; }

    DEVICE int64_t output_at(int tok) const
    {
        return (((int64_t)image * p.h * p.w + tok) * p.heads + head) * p.d;
    }

    DEVICE int64_t at(int tok) const { return ((int64_t)image * p.heads + head) * p.h * p.w + tok; }
};

struct key_tile {
    int ky, x0, n;
};

template <bool SMALL> DEVICE int key_tile_count(const flash_problem &p)
{
    if (SMALL) return (p.kh * p.kw + TILE_ROWS - 1) / TILE_ROWS;
    return (p.grid_w + TILE_ROWS - 1) / TILE_ROWS * p.grid_h;
}

template <bool SMALL> DEVICE key_tile key_tile_at(const flash_problem &p, int i)
{
    const int x0 = (SMALL ? i : i / p.grid_h) * TILE_ROWS;
    const int left = (SMALL ? p.kh * p.kw : p.grid_w) - x0;

    return key_tile{ SMALL ? 0 : i % p.grid_h, x0, left < TILE_ROWS ? left : TILE_ROWS };
}

/* Where key t < 256 of a small window is, without a division. */
DEVICE void small_key(const flash_problem &p, int t, int &ky, int &kx)
{
    const int reciprocal = (65535 + p.kw) / p.kw; /* ⌈2^16 / Kw⌉: exact while t · Kw < 2^16 */

    ky = t * reciprocal >> 16;
    kx = t - ky * p.kw;
}

template <int NK> struct flash_tile {
    enum { PITCH = NK * 16 + 8, ELEMENTS = TILE_ROWS * PITCH };
};

/* Rows of two tiles, on their way: rows(r, a, b) says where; NULL: zeros. */
template <int NK, int N_THREADS, class ROWS_AT>
DEVICE void copy_row_pairs(bf16 *a_tile, bf16 *b_tile, int n_rows, const flash_problem &p,
                           const ROWS_AT &rows)
{
    enum { UNITS = NK * 2, PITCH = flash_tile<NK>::PITCH };

    for (int i = (int)threadIdx.x; i < n_rows * UNITS; i += N_THREADS) {
        const int r = i / UNITS, c = i % UNITS * 8;
        const bf16 *a, *b;

        rows(r, a, b);
        const bool inside = c < p.d, has_a = inside && a, has_b = inside && b;

        async_copy16(a_tile + r * PITCH + c, has_a ? a + c : p.qkv, has_a ? 16 : 0);
        if (b_tile) async_copy16(b_tile + r * PITCH + c, has_b ? b + c : p.qkv, has_b ? 16 : 0);
    }
}

/* tokens: of a small window's keys */
template <int NK, int N_THREADS, bool SMALL>
DEVICE void copy_keys(bf16 *k_tile, bf16 *v_tile, const flash_slice &slice, const int *tokens,
                      int tile)
{
    const flash_problem &p = slice.p;
    const key_tile keys = key_tile_at<SMALL>(p, tile);

    copy_row_pairs<NK, N_THREADS>(
        k_tile, v_tile, TILE_ROWS, p, [&](int r, const bf16 *&k, const bf16 *&v) {
            k = NULL;
            if (r < keys.n)
                k = slice.key_row(SMALL ? tokens[keys.x0 + r]
                                        : slice.key_token(keys.ky, keys.x0 + r));
            v = k ? k + (int64_t)p.heads * p.d : NULL;
        });
}

/* The terms of a warp's N queries, to its own rows of a tile: of a small window all, else of the
 * 64 columns from x0 on. A barrier must stand behind the last use of those before. */
template <bool SMALL, int N, int PITCH>
DEVICE void load_terms(float *rows, const flash_slice &slice, int q0, int x0, int lane)
{
    const flash_problem &p = slice.p;
    const int first = SMALL ? 0 : p.w_at + x0, width = SMALL ? 2 * SMALL_SIDE : TILE_ROWS;

    for (int r = lane / 8; r < N; r += 4) {
        const int tok = slice.query_token(q0 + r);

        for (int c = lane % 8 * 4; c < width; c += 32) {
            float4 v = make_float4(0, 0, 0, 0);

            if (tok >= 0 && first + c < p.term_pitch)
                v = *reinterpret_cast<const float4 *>(p.terms + slice.at(tok) * p.term_pitch +
                                                      first + c);
            *reinterpret_cast<float4 *>(rows + r * PITCH + c) = v;
        }
    }
    __syncwarp();
}

/* 16 rows as the left operand of products over channels */
template <int NK> DEVICE void load_left(uint32_t (&a)[NK][4], const bf16 *rows, int lane)
{
#pragma unroll
    for (int k = 0; k < NK; k++)
        load_matrix_x4(a[k], rows + (lane & 15) * flash_tile<NK>::PITCH + k * 16 + (lane >> 4) * 8);
}

/* s[m] (16 × 16) += a[m] · 16 rowsᵀ. 32 · NK products of M 16 rows, each row read once. */
template <int NK, int M>
DEVICE void multiply_rows(float (&s)[M][2][4], const uint32_t (&a)[M][NK][4], const bf16 *rows,
                          int lane)
{
    const bf16 *const own =
        rows + ((lane & 7) + (lane >> 4) * 8) * flash_tile<NK>::PITCH + (lane >> 3 & 1) * 8;

#pragma unroll
    for (int k = 0; k < NK; k++) {
        uint32_t r[4];

        load_matrix_x4(r, own + k * 16);
        const uint32_t b0[2] = { r[0], r[1] }, b1[2] = { r[2], r[3] };

#pragma unroll
        for (int m = 0; m < M; m++) {
            multiply_bf16_16816(s[m][0], a[m][k], b0);
            multiply_bf16_16816(s[m][1], a[m][k], b1);
        }
    }
}

/* sum[m] (16 × channels) += a[m] (16 × 16) · 16 rows */
template <int NK, int M>
DEVICE void multiply_columns(float (&sum)[M][2 * NK][4], const uint32_t (&a)[M][4],
                             const bf16 *rows, int lane)
{
    const bf16 *const own = rows + (lane & 15) * flash_tile<NK>::PITCH + (lane >> 4) * 8;

#pragma unroll
    for (int j = 0; j < NK; j++) {
        uint32_t r[4];

        load_matrix_x4_transposed(r, own + j * 16);
        const uint32_t b0[2] = { r[0], r[1] }, b1[2] = { r[2], r[3] };

#pragma unroll
        for (int m = 0; m < M; m++) {
            multiply_bf16_16816(sum[m][2 * j], a[m], b0);
            multiply_bf16_16816(sum[m][2 * j + 1], a[m], b1);
        }
    }
}

/* Two results side by side, rounded, as a left operand */
DEVICE void pack_left(uint32_t (&a)[4], const float (&s)[2][4])
{
    a[0] = pack_bf16(s[0][0], s[0][1]);
    a[1] = pack_bf16(s[0][2], s[0][3]);
    a[2] = pack_bf16(s[1][0], s[1][1]);
    a[3] = pack_bf16(s[1][2], s[1][3]);
}

template <int M, int N> DEVICE void clear(float (&s)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0;
}

/* Two neighbouring channels, as one word */
DEVICE void put_pair(bf16 *p, bool add, float low, float high)
{
    if (add) {
        low += element_load(p);
        high += element_load(p + 1);
    }
    *reinterpret_cast<uint32_t *>(p) = pack_bf16(low, high);
}

/* A thread's channels of a row of D, each times factor */
template <int NK>
DEVICE void put_row(bf16 *row, bool add, const float (&sum)[2 * NK][4], int of_row, float factor,
                    int t, int d)
{
#pragma unroll
    for (int j = 0; j < 2 * NK; j++)
        if (j * 8 < d)
            put_pair(row + j * 8 + 2 * t, add, sum[j][2 * of_row] * factor,
                     sum[j][2 * of_row + 1] * factor);
}

#endif

#include "kernels/cuda/upscale_first.h"
#include "kernels/cuda/upscale_sums.h"

/* What a block of the backward tiles keeps in shared memory beside a tile's own. */
template <int C1, int C2> struct upscale_gradients {
    enum { PIECES = C1 / 16 * (C2 / 16) }; /* of 16 × 16 sums of dw2, one a warp */
    alignas(16) bf16 a1[ROWS][C1 + PAD];
    alignas(16) bf16 dv[ROWS][C2 + PAD];
    alignas(16) float u2[ROWS][C2 + 2];         /* dh is a sum of products with f32, rounded once */
    alignas(16) float dw2[4][PIECES][2][32][4]; /* by sub-sub-pixel, piece, half, lane */
    alignas(16) float dy[MASK_PRODUCT_MAX][ROWS];
    float columns[WARPS][3][C1]; /* a warp's sums over rows: db1, dgamma, dbeta */
    float db2[WARPS][C2], dh[THREADS];
};

/* The share of this thread in dh: one (k,c), and a part of the rows. */
struct dh_share {
    int k, c, part, n_parts;
};

template <int C2> DEVICE dh_share own_dh(int n_h)
{
    int n_k = 1;

    while (n_k < n_h) n_k *= 2;
    const int t = (int)threadIdx.x;

    return { t / C2 % n_k, t % C2, t / (C2 * n_k), THREADS / (C2 * n_k) };
}

enum { OWN_DY = MASK_PRODUCT_MAX * ROWS / THREADS };

/* This thread's share of dy for (a,q), on its way while the turn before is computed; zero behind the
 * mask's last pixel: all gradients of such rows are zero then. */
DEVICE void fetch_dy(float (&own)[OWN_DY], const float *dy, const upscale_problem &p, int64_t m,
                     int p0, int a, int q)
{
    const int row = (int)threadIdx.x % ROWS, pixel = p0 + row % PIXELS;
    const float *const from =
        dy + m * p.n_h * 16 * p.n_pixels + logit_place(p, pixel, a, row / PIXELS, q);

#pragma unroll
    for (int i = 0; i < OWN_DY; i++) {
        const int k = (int)threadIdx.x / ROWS + i * (THREADS / ROWS);

        own[i] = k < p.n_h && pixel < p.n_pixels ? from[(int64_t)k * 16 * p.n_pixels] : 0;
    }
}

template <int C1, int C2>
DEVICE void keep_dy(upscale_gradients<C1, C2> &g, const float (&own)[OWN_DY])
{
#pragma unroll
    for (int i = 0; i < OWN_DY; i++)
        g.dy[(int)threadIdx.x / ROWS + i * (THREADS / ROWS)][threadIdx.x % ROWS] = own[i];
}

/* a1 of the warp's rows into shared memory: there it waits for each q, and for dw2. */
template <int C1, int C2>
DEVICE void keep_activated(upscale_gradients<C1, C2> &g, const float (&xhat)[C1 / 8][4],
                           const upscale_tile<C1, C2> &t)
{
    const int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    uint32_t a1[C1 / 16][4];

    activate(a1, xhat, t);
#pragma unroll
    for (int s = 0; s < C1 / 16; s++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            *reinterpret_cast<uint32_t *>(
                &g.a1[row + i % 2 * 8][s * 16 + i / 2 * 8 + (int)threadIdx.x % 4 * 2]) = a1[s][i];
}

/* Of v = a1 w2 + b2: u2 and dv into shared memory, dv also as the a of the product that gives da1,
 * and its sums over rows. */
template <int C1, int C2>
DEVICE void logits_backward(uint32_t (&dv_rows)[C2 / 16][4], float (&db2)[C2 / 8][2],
                            const float (&v)[C2 / 8][4], upscale_gradients<C1, C2> &g,
                            const upscale_tile<C1, C2> &t, const upscale_problem &p)
{
    const int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    float d[C2 / 8][4] = {};

#pragma unroll 1
    for (int k = 0; k < p.n_h; k++) {
        const float dy[2] = { g.dy[k][row], g.dy[k][row + 8] };

#pragma unroll
        for (int j = 0; j < C2 / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) d[j][e] += dy[e / 2] * t.h[k][own_column(j, e)];
    }
#pragma unroll
    for (int j = 0; j < C2 / 8; j++) {
        const int c = own_column(j, 0);

        float u2[4];

#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float phi = gelu_share(v[j][e]);

            u2[e] = v[j][e] * phi;
            d[j][e] *= gelu_slope(v[j][e], phi);
            db2[j][e % 2] += d[j][e];
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            *reinterpret_cast<float2 *>(&g.u2[row + 8 * r][c]) =
                make_float2(u2[2 * r], u2[2 * r + 1]);
            *reinterpret_cast<uint32_t *>(&g.dv[row + 8 * r][c]) =
                pack_bf16(d[j][2 * r], d[j][2 * r + 1]);
        }
    }
#pragma unroll
    for (int s = 0; s < C2 / 16; s++) fragment_of_sums(dv_rows[s], d[2 * s], d[2 * s + 1]);
}

/* da1 += dv w2ᵀ of sub-sub-pixel q */
template <int C1, int C2>
DEVICE void second_backward(float (&da)[C1 / 8][4], const uint32_t (&dv_rows)[C2 / 16][4],
                            const upscale_tile<C1, C2> &t, int q)
{
#pragma unroll
    for (int s = 0; s < C2 / 16; s++)
#pragma unroll
        for (int j = 0; j < C1 / 16; j++) {
            uint32_t columns[4];

            fragment_b_turned(columns, &t.w2[q * C2 + s * 16][j * 16], C1 + PAD);
            multiply_pair(da[2 * j], da[2 * j + 1], dv_rows[s], columns);
        }
}

/* dw2 of sub-sub-pixel q += a1ᵀ dv over all rows: a warp owns 16 × 16 sums. */
template <int C1, int C2> DEVICE void add_dw2(upscale_gradients<C1, C2> &g, int q)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    float sum[2][4];

    if (warp >= upscale_gradients<C1, C2>::PIECES) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float4 v = *reinterpret_cast<const float4 *>(g.dw2[q][warp][i][lane]);

        sum[i][0] = v.x;
        sum[i][1] = v.y;
        sum[i][2] = v.z;
        sum[i][3] = v.w;
    }
#pragma unroll
    for (int row = 0; row < ROWS; row += 16) {
        uint32_t left[4], right[4];

        fragment_a_turned(left, &g.a1[row][warp % (C1 / 16) * 16], C1 + PAD);
        fragment_b_turned(right, &g.dv[row][warp / (C1 / 16) * 16], C2 + PAD);
        multiply_pair(sum[0], sum[1], left, right);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        *reinterpret_cast<float4 *>(g.dw2[q][warp][i][lane]) =
            make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
}

template <int C1, int C2>
DEVICE float add_dh(const upscale_gradients<C1, C2> &g, const dh_share &own, int n_h)
{
    const int n_rows = ROWS / own.n_parts, first = own.part * n_rows;
    float sum = 0;

    if (own.k >= n_h) return 0;
    for (int r = first; r < first + n_rows; r++) sum += g.dy[own.k][r] * g.u2[r][own.c];
    return sum;
}

/* v over the warp's 16 rows, added to its sums of that column */
DEVICE void add_column(float *sums, int j, int e, float v)
{
#pragma unroll
    for (int turn = 4; turn < 32; turn *= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, turn);
    if ((int)threadIdx.x % 32 < 4) sums[own_column(j, e)] += v;
}

/* da1 → du1 through GELU and norm, in place: g = da1 gelu'(…) gamma,
 * du1 = rstd (g − mean_c(g) − xhat mean_c(g xhat)); and the sums of db1, dgamma, dbeta. */
template <int C1, int C2>
DEVICE void norm_backward(float (&d)[C1 / 8][4], const float (&xhat)[C1 / 8][4],
                          const float (&rstd)[2], upscale_gradients<C1, C2> &g,
                          const upscale_tile<C1, C2> &t, const upscale_problem &p)
{
    float(*const sums)[C1] = g.columns[(int)threadIdx.x / 32];
    float plain[2] = {}, weighted[2] = {};

#pragma unroll
    for (int j = 0; j < C1 / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float gamma = t.gamma[own_column(j, e)];
            const float v = xhat[j][e] * gamma + t.beta[own_column(j, e)];

            d[j][e] *= gelu_slope(v, gelu_share(v));
            plain[e / 2] += d[j][e] * gamma;
            weighted[e / 2] += d[j][e] * gamma * xhat[j][e];
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            add_column(sums[1], j, e, d[j][e] * xhat[j][e] + d[j][e + 2] * xhat[j][e + 2]);
            add_column(sums[2], j, e, d[j][e] + d[j][e + 2]);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        plain[r] = warp_sum(plain[r], 4) / (float)p.n_1;
        weighted[r] = warp_sum(weighted[r], 4) / (float)p.n_1;
    }
#pragma unroll
    for (int j = 0; j < C1 / 8; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int c = own_column(j, e);
            const float v =
                rstd[e / 2] * (d[j][e] * t.gamma[c] - plain[e / 2] - xhat[j][e] * weighted[e / 2]);

            d[j][e] = c < p.n_1 ? v : 0;
        }
#pragma unroll
        for (int e = 0; e < 2; e++) add_column(sums[0], j, e, d[j][e] + d[j][e + 2]);
    }
}

template <int C1, int C2> DEVICE void clear_sums(upscale_gradients<C1, C2> &g)
{
    float *const dw2 = &g.dw2[0][0][0][0][0], *const columns = &g.columns[0][0][0];

    for (int i = (int)threadIdx.x; i < (int)(sizeof g.dw2 / sizeof *dw2); i += THREADS) dw2[i] = 0;
    for (int i = (int)threadIdx.x; i < WARPS * 3 * C1; i += THREADS) columns[i] = 0;
}

/* The block's sums, each of one owner and in order: warps by number, parts of rows by number. */
template <int C1, int C2>
DEVICE void leave_sums(float *out, upscale_gradients<C1, C2> &g, const float (&db2)[C2 / 8][2],
                       float dh, const dh_share &own, int n_h)
{
    typedef upscale_sums<C1, C2> at;
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;

    for (int c = lane; c < C2; c += 32) g.db2[warp][c] = 0;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < C2 / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) add_column(g.db2[warp], j, e, db2[j][e]);
    g.dh[thread] = dh;
    __syncthreads();
    for (int i = thread; i < 4 * C1 * C2; i += THREADS) {
        const int q = i / (C1 * C2), c1 = i / C2 % C1, c2 = i % C2;
        const int piece = c2 / 16 * (C1 / 16) + c1 / 16, e = c1 % 16 / 8 * 2 + c2 % 2;

        out[at::DW2 + i] = g.dw2[q][piece][c2 % 16 / 8][c1 % 8 * 4 + c2 % 8 / 2][e];
    }
    for (int i = thread; i < 3 * C1 + C2; i += THREADS) {
        float sum = 0;

        for (int k = 0; k < WARPS; k++)
            sum += i < C2 ? g.db2[k][i] : g.columns[k][(i - C2) / C1][(i - C2) % C1];
        out[at::DB2 + i] = sum;
    }
    if (own.part == 0 && own.k < n_h) {
        float sum = 0;

        for (int k = 0; k < own.n_parts; k++) sum += g.dh[thread + k * (THREADS / own.n_parts)];
        out[at::DH + own.k * C2 + own.c] = sum;
    }
}

/* A block owns a few tiles of a mask, in turn, and goes forward again as upscale_tiles does, with
 * the logits' gradients in the place of logits: dv and da1 are two more products a warp makes of its
 * own rows, dw2 one that the block makes of all rows, through shared memory. du1 is written, in bf16,
 * for the two plain products behind (upscale_first.h); sums over pixels stay in the block: 35 KB of
 * them are written once for all of its tiles.
 * Read: x once, dy once, and a tile's 147 KB of weights from L2; written: du1. 4.2 + 0.26 n_h MB a
 * mask of SAM's size.
 * Bound by arithmetic outside the tensor cores: about 18 000 instructions a warp and tile, for 768
 * GELUs and as many slopes a pixel of x before all else, are 10 µs a mask on an H100 at one a
 * scheduler and cycle; the products, 1.6 GFLOP, are 3.2 µs, the bytes 1.3 µs. 166 KB and up to 255
 * registers: one block a multiprocessor. dw2's sums lie in shared memory, because in registers they
 * would cost 32 of them and four copies of the loop; loops that nvcc would unroll are kept as they
 * are, because what it gains is less than the registers it takes. */
template <int C1, int C2>
__global__ static void __launch_bounds__(THREADS, 1)
    upscale_tiles_backward(bf16 *du1, float *sums, const float *dy, upscale_problem p,
                           int tiles_each, int blocks_each)
{
    DYNAMIC_SHARED(bytes);
    upscale_tile<C1, C2> &t = *reinterpret_cast<upscale_tile<C1, C2> *>(bytes);
    upscale_gradients<C1, C2> &g = *reinterpret_cast<upscale_gradients<C1, C2> *>(bytes + sizeof t);
    bf16 *const x_tile = reinterpret_cast<bf16 *>(bytes + sizeof t + sizeof g);
    const int64_t m = (int)blockIdx.x / blocks_each;
    const int first = (int)blockIdx.x % blocks_each * tiles_each * PIXELS;
    const int end = min(first + tiles_each * PIXELS, p.n_pixels);
    const int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    const dh_share own = own_dh<C2>(p.n_h);
    float db2[C2 / 8][2] = {}, dh = 0;

    load_constants(t, p, m);
    clear_sums(g);
    for (int p0 = first; p0 < end; p0 += PIXELS) {
        /* The tile before has been read: all reads of it and of its slices lie before the barriers of
         * its last q. */
        load_pixels(x_tile, p, m, p0);
        load_slice(t, p, 0);
        async_commit();
#pragma unroll 1
        for (int a = 0; a < 2; a++) {
            float xhat[C1 / 8][4], d[C1 / 8][4] = {}, rstd[2], own_dy[OWN_DY];

            fetch_dy(own_dy, dy, p, m, p0, a, 0);
            first_product(xhat, t, x_tile, p, a);
            normalize(xhat, rstd, t, p);
            keep_activated(g, xhat, t);
#pragma unroll 1
            for (int q = 0; q < 4; q++) {
                float v[C2 / 8][4];
                uint32_t a1[C1 / 16][4], dv_rows[C2 / 16][4];

                __syncthreads(); /* dy, u2 and dv of the turn before have been read */
                keep_dy(g, own_dy);
                if (q < 3) fetch_dy(own_dy, dy, p, m, p0, a, q + 1);
#pragma unroll
                for (int s = 0; s < C1 / 16; s++)
                    fragment_a(a1[s], &g.a1[row / 16 * 16][s * 16], C1 + PAD);
                second_product(v, a1, t, q);
                __syncthreads();
                logits_backward(dv_rows, db2, v, g, t, p);
                second_backward(d, dv_rows, t, q);
                __syncthreads();
                add_dw2(g, q);
                dh += add_dh(g, own, p.n_h);
            }
            norm_backward(d, xhat, rstd, g, t, p);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int pixel = p0 + (row + 8 * r) % PIXELS;
                bf16 *const out =
                    du1 + (m * p.n_pixels + pixel) * 4 * C1 + (2 * a + row / PIXELS) * C1;

#pragma unroll
                for (int j = 0; j < C1 / 8; j++)
                    if (pixel < p.n_pixels)
                        *reinterpret_cast<uint32_t *>(out + own_column(j, 0)) =
                            pack_bf16(d[j][2 * r], d[j][2 * r + 1]);
            }
        }
    }
    leave_sums(sums + (int64_t)blockIdx.x * upscale_sums<C1, C2>::COUNT, g, db2, dh, own, p.n_h);
}

/* Where all lies in scratch, in bytes. */
struct places {
    int64_t w1, w2, du1, sums, dw1_sums, end;
};

template <int C1, int C2> static places lay_out(struct tensor x)
{
    const int64_t n_c = x.dim[3], n_rows = x.dim[0] * x.dim[1] * x.dim[2];
    places at = {};

    at.w2 = 4 * C1 * padded_channels((int)n_c) * (int64_t)sizeof(bf16);
    at.du1 = at.w2 + 4 * C2 * C1 * (int64_t)sizeof(bf16);
    at.sums = at.du1 + n_rows * 4 * C1 * (int64_t)sizeof(bf16);
    at.dw1_sums =
        at.sums + deal_tiles(x).n_blocks * upscale_sums<C1, C2>::COUNT * (int64_t)sizeof(float);
    at.end = at.dw1_sums + first_dw_chunks(n_rows) * 4 * C1 * n_c * (int64_t)sizeof(float);
    return at;
}

template <int C1, int C2>
static enum status bwd_in_tiles(struct tensor dx, const struct upscale_weights *dw,
                                const struct tensor *dh, struct tensor dy, struct tensor x,
                                const struct upscale_weights *w, const struct tensor *h, int n_h,
                                float eps, struct stream *s)
{
    const int64_t n_m = x.dim[0], n_rows = n_m * x.dim[1] * x.dim[2];
    const places at = lay_out<C1, C2>(x);
    const deal d = deal_tiles(x);
    const size_t shared = sizeof(upscale_tile<C1, C2>) + sizeof(upscale_gradients<C1, C2>) +
                          PIXELS * sizeof(bf16) * (size_t)pixel_pitch((int)x.dim[3]);
    void *scratch;

    TRY(upscale_fits("upscale_bwd", x));
    STREAM_SCRATCH(s, scratch, at.end);
    char *const base = (char *)scratch;
    bf16 *const w1 = (bf16 *)base, *const w2 = (bf16 *)(base + at.w2);
    bf16 *const du1 = (bf16 *)(base + at.du1);
    float *const sums = (float *)(base + at.sums);
    const upscale_problem p = upscale_problem_of(x, w, h, n_h, eps, w1, w2);

    if (n_rows > 0) {
        TRY((pack_all<C1, C2>(w1, w2, w, s)));
        TRY(allow_shared(upscale_tiles_backward<C1, C2>, shared));
        LAUNCH((upscale_tiles_backward<C1, C2>), (unsigned)d.n_blocks, THREADS, shared, s, du1,
               sums, (const float *)dy.data, p, d.tiles_each, d.blocks_each);
    }
    TRY((finish<C1, C2>(dw, dh, n_h, sums, d, n_m, p.n_1, p.n_2, s)));
    if (dx.data && n_rows > 0) TRY(first_dx(dx, du1, w1, 4 * C1, s));
    if (!dw->w1.data) return OK;
    return first_dw(dw->w1, du1, x, C1, (float *)(base + at.dw1_sums), s);
}

static const struct upscale_plain plain = {
    upconv_fwd_cuda,    upconv_bwd_cuda,       layernorm_fwd_cuda,
    layernorm_bwd_cuda, mask_product_fwd_cuda, mask_product_bwd_cuda,
};

extern "C" enum status upscale_bwd_cuda(struct tensor dx, const struct upscale_weights *dw,
                                        const struct tensor *dh, struct tensor dy, struct tensor x,
                                        const struct upscale_weights *w, const struct tensor *h,
                                        int n_h, float eps, struct stream *s)
{
    TRY(upscale_bwd_check(dx, dw, dh, dy, x, w, h, n_h));
    if (!upscale_in_tiles(x, w))
        return upscale_plain_bwd(&plain, dx, dw, dh, dy, x, w, h, n_h, eps, s);
    if (upscale_is_small(w)) return bwd_in_tiles<16, 16>(dx, dw, dh, dy, x, w, h, n_h, eps, s);
    return bwd_in_tiles<MAX_C1, MAX_C2>(dx, dw, dh, dy, x, w, h, n_h, eps, s);
}

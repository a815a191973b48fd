#include "kernels/mask_product_check.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/turn.h"

/* Pixels of one piece of work; pixels side by side in a vector. */
enum { PIXELS = 1024, LANES = TURN_LANES };

/* The mask tokens of mask m as one matrix (n_h, C). */
static void tokens_gather(float *to, const struct tensor *h, int n_h, int64_t m, int64_t n_c)
{
    for (int k = 0; k < n_h; k++)
        for (int64_t c = 0; c < n_c; c++) to[k * n_c + c] = ((const float *)h[k].data)[m * n_c + c];
}

/* Some pixels of one mask: y (n_h, ld_y) and u (size, C) begin at the first of them. */
static void piece_any(float *y, int64_t ld_y, const float *tokens, const float *u, int n_h,
                      int64_t size, int64_t n_c)
{
    gemm_serial(false, true, n_h, size, n_c, 1, tokens, n_c, u, n_c, 0, y, ld_y);
}

/* The same for a C of one or more widths, a constant once inlined, of at most a vector: LANES
 * pixels are turned so that they lie side by side. A general routine does not pay for so few
 * rows. */
static inline __attribute__((always_inline)) void piece_turned(float *y, int64_t ld_y,
                                                               const float *tokens, const float *u,
                                                               int n_h, int64_t size, int64_t n_c,
                                                               int width)
{
    int64_t p = 0;

    for (; p + LANES <= size; p += LANES) {
        for (int64_t first = 0; first < n_c; first += width) {
            turn_vector t[LANES];

            for (int i = 0; i < width; i++)
                t[i] = TURN_AT(u + (width < LANES ? p * n_c + i * LANES : (p + i) * n_c + first));
            turn_rows(t, width);
            for (int k = 0; k < n_h; k++) {
                float *to = y + k * ld_y + p;
                turn_vector sum = { 0 };

                for (int c = 0; c < width; c++) sum += tokens[k * n_c + first + c] * t[c];
                if (first > 0) sum += TURN_AT(to);
                TURN_AT(to) = sum;
            }
        }
    }
    piece_any(y + p, ld_y, tokens, u + p * n_c, n_h, size - p, n_c);
}

static void piece_fwd(float *y, int64_t ld_y, const float *tokens, const float *u, int n_h,
                      int64_t size, int64_t n_c)
{
    if (n_c == 8)
        piece_turned(y, ld_y, tokens, u, n_h, size, 8, 8);
    else if (n_c == 16)
        piece_turned(y, ld_y, tokens, u, n_h, size, 16, 16);
    else if (n_c > 0 && n_c % LANES == 0)
        piece_turned(y, ld_y, tokens, u, n_h, size, n_c, LANES);
    else
        piece_any(y, ld_y, tokens, u, n_h, size, n_c);
}

enum status mask_product_fwd_cpu(struct tensor y, const struct tensor *h, int n_h, struct tensor u,
                                 struct stream *s)
{
    TRY(mask_product_fwd_check(y, h, n_h, u));
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const int64_t n_pieces = (n_pixels + PIXELS - 1) / PIXELS;
    float *tokens;

    STREAM_SCRATCH(s, tokens, n_m * n_h * n_c * (int64_t)sizeof *tokens);
    for (int64_t m = 0; m < n_m; m++) tokens_gather(tokens + m * n_h * n_c, h, n_h, m, n_c);
#pragma omp parallel for schedule(static)
    for (int64_t piece = 0; piece < n_m * n_pieces; piece++) {
        const int64_t m = piece / n_pieces, first = piece % n_pieces * PIXELS;
        const int64_t size = first + PIXELS < n_pixels ? PIXELS : n_pixels - first;

        piece_fwd((float *)y.data + m * n_h * n_pixels + first, n_pixels, tokens + m * n_h * n_c,
                  (const float *)u.data + (m * n_pixels + first) * n_c, n_h, size, n_c);
    }
    return OK;
}

/* du[p,c] = Σk dy[k,p] h[k,c] of one mask */
static void du_of_mask(float *du, bool add, const float *dy, const float *tokens, int n_h,
                       int64_t n_pixels, int64_t n_c)
{
    gemm_serial(true, false, n_pixels, n_c, n_h, 1, dy, n_pixels, tokens, n_c, add ? 1 : 0, du,
                n_c);
}

enum status mask_product_bwd_cpu(const struct tensor *dh, struct tensor du, struct tensor dy,
                                 const struct tensor *h, int n_h, struct tensor u, struct stream *s)
{
    TRY(mask_product_bwd_check(dh, du, dy, h, n_h, u));
    const int64_t n_m = u.dim[0], n_pixels = u.dim[1] * u.dim[2], n_c = u.dim[3];
    const int64_t n_tokens = n_m * n_h * n_c;
    float *tokens;

    STREAM_SCRATCH(s, tokens, 2 * n_tokens * (int64_t)sizeof *tokens);

    float *sums = tokens + n_tokens;
    bool wanted = false;

    for (int64_t m = 0; m < n_m; m++) tokens_gather(tokens + m * n_h * n_c, h, n_h, m, n_c);
    for (int k = 0; k < n_h; k++) wanted |= dh[k].data != 0;
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < n_m; m++) {
        const float *dy_m = (const float *)dy.data + m * n_h * n_pixels;
        const float *u_m = (const float *)u.data + m * n_pixels * n_c;

        if (wanted)
            gemm_serial(false, false, n_h, n_c, n_pixels, 1, dy_m, n_pixels, u_m, n_c, 0,
                        sums + m * n_h * n_c, n_c);
        if (du.data)
            du_of_mask((float *)du.data + m * n_pixels * n_c, du.add, dy_m, tokens + m * n_h * n_c,
                       n_h, n_pixels, n_c);
    }
    for (int k = 0; k < n_h; k++)
        for (int64_t i = 0; dh[k].data && i < n_m * n_c; i++) {
            const float sum = sums[(i / n_c * n_h + k) * n_c + i % n_c];
            float *to = (float *)dh[k].data + i;

            *to = dh[k].add ? *to + sum : sum;
        }
    return OK;
}

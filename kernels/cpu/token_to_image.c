/* Keys and values are made as layers are: here products of many rows are what is fast. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/exp.h"
#include "kernels/token_to_image_plain.h"

/* Sums over positions are made per SUM_POSITIONS and then over those, as cross_attention's. */
enum { SUM_POSITIONS = 128 };

/* weight[i] = exp(q·k/√D − lse) of the n positions whose keys begin at k; returns their sum. */
static float weights(float *weight, const float *q, const float *k, int64_t row, int64_t d,
                     int64_t n, float scale, float lse)
{
    for (int64_t i = 0; i < n; i++) {
        float score = 0;

        for (int64_t c = 0; c < d; c++) score += q[c] * k[i * row + c];
        weight[i] = score * scale - lse;
    }
    for (int64_t i = 0; i < n; i++) weight[i] = exp_f32(weight[i]);
    float sum = 0;

    for (int64_t i = 0; i < n; i++) sum += weight[i];
    return sum;
}

/* One row of z, of n_x positions from x and k on; part (C) is room. Divided by the weights' own sum,
 * which is 1 but for the rounding of lse. */
static void features_row(float *restrict z, float *restrict part,
                         const struct token_to_image_shape *g, const float *q, const float *k,
                         const float *restrict x, float lse)
{
    const float scale = (float)(1 / sqrt((double)g->d));
    float weight[SUM_POSITIONS], sum = 0;

    memset(z, 0, (size_t)g->c * sizeof *z);
    for (int64_t first = 0; first < g->n_x; first += SUM_POSITIONS) {
        const int64_t left = g->n_x - first, n = left < SUM_POSITIONS ? left : SUM_POSITIONS;

        sum += weights(weight, q, k + first * g->inner, g->inner, g->d, n, scale, lse);
        memset(part, 0, (size_t)g->c * sizeof *part);
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < g->c; c++) part[c] += weight[i] * x[(first + i) * g->c + c];
        for (int64_t c = 0; c < g->c; c++) z[c] += part[c];
    }
    for (int64_t c = 0; c < g->c; c++) z[c] /= sum;
}

static void features(struct tensor z, const struct token_to_image_shape *g, struct tensor q,
                     struct tensor k, struct tensor x, struct tensor lse, void *room)
{
    const float *q_data = q.data, *k_data = k.data, *x_data = x.data, *lse_data = lse.data;
    float *z_data = z.data, *parts = room; /* (threads,C) */
    const int64_t n_rows = g->m * g->heads * g->t;

#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < n_rows; row++) {
        const int64_t m = row / (g->heads * g->t), head = row / g->t % g->heads, t = row % g->t;
        const int64_t first = g->mx == 1 ? 0 : m * g->n_x;

        features_row(z_data + row * g->c, parts + omp_get_thread_num() * g->c, g,
                     q_data + (m * g->t + t) * g->inner + head * g->d,
                     k_data + first * g->inner + head * g->d, x_data + first * g->c, lse_data[row]);
    }
}

enum status token_to_image_fwd_cpu(struct tensor y, struct tensor lse, struct tensor z,
                                   struct tensor q, struct tensor x, struct tensor pe,
                                   const struct token_to_image_weights *w, int n_heads,
                                   struct stream *s)
{
    const int64_t room = omp_get_max_threads() * tensor_cols(x) * (int64_t)sizeof(float);

    return token_to_image_plain_fwd(&ops_cpu, features, room, y, lse, z, q, x, pe, w, n_heads, s);
}

enum status token_to_image_bwd_cpu(struct tensor dq, struct tensor dx,
                                   const struct token_to_image_weights *dw, struct tensor dy,
                                   struct tensor y, struct tensor lse, struct tensor z,
                                   struct tensor q, struct tensor x, struct tensor pe,
                                   const struct token_to_image_weights *w, int n_heads,
                                   struct stream *s)
{
    return token_to_image_plain_bwd(&ops_cpu, dq, dx, dw, dy, y, lse, z, q, x, pe, w, n_heads, s);
}

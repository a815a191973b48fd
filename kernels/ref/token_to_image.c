#include <math.h>

#include "kernels/token_to_image_plain.h"

static void features(struct tensor z, const struct token_to_image_shape *g, struct tensor q,
                     struct tensor k, struct tensor x, struct tensor lse, void *room)
{
    const float *q_data = q.data, *k_data = k.data, *x_data = x.data, *lse_data = lse.data;
    float *z_data = z.data;
    double *sums = room; /* (C) */

    for (int64_t row = 0; row < g->m * g->heads * g->t; row++) {
        const int64_t m = row / (g->heads * g->t), head = row / g->t % g->heads, t = row % g->t;
        const int64_t first = g->mx == 1 ? 0 : m * g->n_x;
        const float *q_row = q_data + (m * g->t + t) * g->inner + head * g->d;

        double sum = 0; /* 1, but for the rounding of lse */

        for (int64_t c = 0; c < g->c; c++) sums[c] = 0;
        for (int64_t i = first; i < first + g->n_x; i++) {
            const float *k_row = k_data + i * g->inner + head * g->d;
            double score = 0;

            for (int64_t c = 0; c < g->d; c++) score += (double)q_row[c] * k_row[c];
            const double weight = exp(score / sqrt((double)g->d) - lse_data[row]);

            sum += weight;
            for (int64_t c = 0; c < g->c; c++) sums[c] += weight * x_data[i * g->c + c];
        }
        for (int64_t c = 0; c < g->c; c++) z_data[row * g->c + c] = (float)(sums[c] / sum);
    }
}

enum status token_to_image_fwd_ref(struct tensor y, struct tensor lse, struct tensor z,
                                   struct tensor q, struct tensor x, struct tensor pe,
                                   const struct token_to_image_weights *w, int n_heads,
                                   struct stream *s)
{
    const int64_t room = tensor_cols(x) * (int64_t)sizeof(double);

    return token_to_image_plain_fwd(&ops_ref, features, room, y, lse, z, q, x, pe, w, n_heads, s);
}

enum status token_to_image_bwd_ref(struct tensor dq, struct tensor dx,
                                   const struct token_to_image_weights *dw, struct tensor dy,
                                   struct tensor y, struct tensor lse, struct tensor z,
                                   struct tensor q, struct tensor x, struct tensor pe,
                                   const struct token_to_image_weights *w, int n_heads,
                                   struct stream *s)
{
    return token_to_image_plain_bwd(&ops_ref, dq, dx, dw, dy, y, lse, z, q, x, pe, w, n_heads, s);
}

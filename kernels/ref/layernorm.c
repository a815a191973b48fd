#include "kernels/layernorm_check.h"
#include "kernels/ref/activation.h"

enum status layernorm_fwd_ref(struct tensor y, struct tensor mean, struct tensor rstd,
                              struct tensor x, struct tensor gamma, struct tensor beta, float eps,
                              enum activation act, struct stream *s)
{
    TRY(layernorm_fwd_check(y, mean, rstd, x, gamma, beta, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x);
    const float *gamma_data = gamma.data, *beta_data = beta.data;
    float *mean_data = mean.data, *rstd_data = rstd.data;

    for (int64_t n = 0; n < n_rows; n++) {
        const float *row = (const float *)x.data + n * n_c;
        float *out = (float *)y.data + n * n_c;
        double sum = 0, squares = 0;

        for (int64_t c = 0; c < n_c; c++) sum += row[c];
        const double m = sum / (double)n_c;

        for (int64_t c = 0; c < n_c; c++) squares += (row[c] - m) * (row[c] - m);
        const double r = 1 / sqrt(squares / (double)n_c + eps);

        for (int64_t c = 0; c < n_c; c++)
            out[c] = (float)activation_value(act, (row[c] - m) * r * gamma_data[c] + beta_data[c]);
        mean_data[n] = (float)m;
        rstd_data[n] = (float)r;
    }
    return OK;
}

/* With xhat = (x − mean) rstd and g = dy act'(xhat gamma + beta):
 * dx = rstd (g gamma − mean_c(g gamma) − xhat mean_c(g gamma xhat)), dgamma = Σn g xhat,
 * dbeta = Σn g */
enum status layernorm_bwd_ref(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                              struct tensor dy, struct tensor x, struct tensor gamma,
                              struct tensor beta, struct tensor mean, struct tensor rstd,
                              enum activation act, struct stream *s)
{
    TRY(layernorm_bwd_check(dx, dgamma, dbeta, dy, x, gamma, beta, mean, rstd, act));
    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x);
    double *sums; /* of dgamma, then of dbeta, then g of the row at hand */

    STREAM_SCRATCH(s, sums, 3 * n_c * (int64_t)sizeof *sums);

    const float *gamma_data = gamma.data, *beta_data = beta.data;
    double *g = sums + 2 * n_c;

    for (int64_t c = 0; c < 2 * n_c; c++) sums[c] = 0;
    for (int64_t n = 0; n < n_rows; n++) {
        const float *x_row = (const float *)x.data + n * n_c;
        const float *dy_row = (const float *)dy.data + n * n_c;
        const double m = ((const float *)mean.data)[n], r = ((const float *)rstd.data)[n];
        double plain = 0, weighted = 0;

        for (int64_t c = 0; c < n_c; c++) {
            const double xhat = (x_row[c] - m) * r, v = xhat * gamma_data[c] + beta_data[c];

            g[c] = dy_row[c] * (act == ACT_GELU ? activation_gelu_slope(v) : 1);
            sums[c] += g[c] * xhat;
            sums[n_c + c] += g[c];
            plain += g[c] * gamma_data[c];
            weighted += g[c] * gamma_data[c] * xhat;
        }
        for (int64_t c = 0; dx.data && c < n_c; c++)
            gradient_put(dx, n * n_c + c,
                         r * (g[c] * gamma_data[c] - plain / (double)n_c -
                              (x_row[c] - m) * r * weighted / (double)n_c));
    }
    for (int64_t c = 0; dgamma.data && c < n_c; c++) gradient_put(dgamma, c, sums[c]);
    for (int64_t c = 0; dbeta.data && c < n_c; c++) gradient_put(dbeta, c, sums[n_c + c]);
    return OK;
}

#include "kernels/layernorm_check.h"

#include "kernels/cpu/activation.h"
#include "kernels/cpu/column_sum.h"
#include "kernels/cpu/turn.h"

/* Rows of one piece of work: fixed by the shape, so that the sums of the parameters' gradients do
 * not depend on the number of threads. Within a block they are added in runs of RUN_ROWS. */
enum {
    N_BLOCKS = 16,
    MIN_ROWS = 32,
    MAX_ROWS = 1024,
    RUN_ROWS = 32,
    PARALLEL_FROM = 16384,
    LANES = 16
};

static int64_t rows_of_block(int64_t n_rows)
{
    const int64_t even = ((n_rows + N_BLOCKS - 1) / N_BLOCKS + 15) / 16 * 16;

    if (even < MIN_ROWS) return MIN_ROWS;
    return even > MAX_ROWS ? MAX_ROWS : even;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

struct fwd {
    float *y, *mean, *rstd;
    const float *x, *gamma, *beta;
    float eps;
    enum activation act;
};

/* Inlined once for each width that has a loop of its own: the count is then a constant. */
static inline __attribute__((always_inline)) void fwd_rows(const struct fwd *f, int64_t first,
                                                           int64_t end, int64_t n_c, bool gelu)
{
    const float *gamma = f->gamma, *beta = f->beta;

    for (int64_t n = first; n < end; n++) {
        const float *x = f->x + n * n_c;
        float *y = f->y + n * n_c;
        float sum = 0, squares = 0, rest = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < n_c; c++) sum += x[c];
        const float near = sum / (float)n_c;

        /* what is left around a mean that rounding has moved corrects it, and the variance */
#pragma omp simd reduction(+ : squares, rest)
        for (int64_t c = 0; c < n_c; c++) {
            squares += (x[c] - near) * (x[c] - near);
            rest += x[c] - near;
        }
        rest /= (float)n_c;
        const float mean = near + rest, variance = squares / (float)n_c - rest * rest;
        const float rstd = 1.0f / sqrtf(variance + f->eps);

        f->mean[n] = mean;
        f->rstd[n] = rstd;
        if (gelu) {
#pragma omp simd
            for (int64_t c = 0; c < n_c; c++)
                y[c] = activation_gelu((x[c] - mean) * rstd * gamma[c] + beta[c]);
        } else {
#pragma omp simd
            for (int64_t c = 0; c < n_c; c++) y[c] = (x[c] - mean) * rstd * gamma[c] + beta[c];
        }
    }
}

/* The same for so few channels that a row is a vector or less: the vector runs over rows. */
static inline __attribute__((always_inline)) void fwd_few(const struct fwd *f, int64_t first,
                                                          int64_t end, int n_c, bool gelu)
{
    int64_t n = first;

    for (; n + LANES <= end; n += LANES) {
        turn_vector t[LANES], mean = { 0 }, square = { 0 };
        float root[LANES], v[LANES];

        for (int c = 0; c < n_c; c++) t[c] = TURN_AT(f->x + n * n_c + c * LANES);
        turn_rows(t, n_c);
        for (int c = 0; c < n_c; c++) mean += t[c];
        mean /= (float)n_c;
        for (int c = 0; c < n_c; c++) {
            t[c] -= mean;
            square += t[c] * t[c];
        }
        TURN_AT(v) = square / (float)n_c;
        for (int r = 0; r < LANES; r++) root[r] = 1.0f / sqrtf(v[r] + f->eps);
        const turn_vector rstd = TURN_AT(root);

        for (int c = 0; c < n_c; c++) {
            t[c] = t[c] * rstd * f->gamma[c] + f->beta[c];
            if (!gelu) continue;
            TURN_AT(v) = t[c];
            for (int r = 0; r < LANES; r++) v[r] = activation_gelu(v[r]);
            t[c] = TURN_AT(v);
        }
        turn_back(t, n_c);
        for (int c = 0; c < n_c; c++) TURN_AT(f->y + n * n_c + c * LANES) = t[c];
        TURN_AT(f->mean + n) = mean;
        TURN_AT(f->rstd + n) = rstd;
    }
    fwd_rows(f, n, end, n_c, gelu);
}

/* out[r] = 1/n_c Σl part[r][l] */
static inline __attribute__((always_inline)) void lane_means(float out[LANES],
                                                             turn_vector part[LANES], int64_t n_c)
{
    turn_vector sum = { 0 };

    turn_rows(part, LANES);
    for (int l = 0; l < LANES; l++) sum += part[l];
    TURN_AT(out) = sum / (float)n_c;
}

/* The same for a width of whole vectors: LANES rows share the sums across their vectors. */
static inline __attribute__((always_inline)) void fwd_whole(const struct fwd *f, int64_t first,
                                                            int64_t end, int64_t n_c, bool gelu)
{
    const float *gamma = f->gamma, *beta = f->beta;
    int64_t n = first;

    for (; n + LANES <= end; n += LANES) {
        const float *x = f->x + n * n_c;
        float *y = f->y + n * n_c, mean[LANES], rstd[LANES];
        turn_vector part[LANES];

        for (int64_t r = 0; r < LANES; r++) {
            part[r] = TURN_AT(x + r * n_c);
            for (int64_t c = LANES; c < n_c; c += LANES) part[r] += TURN_AT(x + r * n_c + c);
        }
        lane_means(mean, part, n_c);
        for (int64_t r = 0; r < LANES; r++) {
            part[r] = (turn_vector){ 0 };
            for (int64_t c = 0; c < n_c; c += LANES) {
                const turn_vector d = TURN_AT(x + r * n_c + c) - mean[r];

                part[r] += d * d;
            }
        }
        lane_means(rstd, part, n_c);
        for (int64_t r = 0; r < LANES; r++) {
            rstd[r] = 1.0f / sqrtf(rstd[r] + f->eps);
            f->mean[n + r] = mean[r];
            f->rstd[n + r] = rstd[r];
        }
        for (int64_t r = 0; r < LANES; r++) {
#pragma omp simd
            for (int64_t c = 0; c < n_c; c++) {
                const float v = (x[r * n_c + c] - mean[r]) * rstd[r] * gamma[c] + beta[c];

                y[r * n_c + c] = gelu ? activation_gelu(v) : v;
            }
        }
    }
    fwd_rows(f, n, end, n_c, gelu);
}

static inline __attribute__((always_inline)) void fwd_width(const struct fwd *f, int64_t first,
                                                            int64_t end, int64_t n_c, bool gelu)
{
    if (n_c == 4)
        fwd_few(f, first, end, 4, gelu);
    else if (n_c == 8)
        fwd_few(f, first, end, 8, gelu);
    else if (n_c == 16)
        fwd_few(f, first, end, 16, gelu);
    else if (n_c == 32)
        fwd_whole(f, first, end, 32, gelu);
    else if (n_c % LANES == 0)
        fwd_whole(f, first, end, n_c, gelu);
    else
        fwd_rows(f, first, end, n_c, gelu);
}

static void fwd_block(const struct fwd *f, int64_t first, int64_t end, int64_t n_c)
{
    if (f->act == ACT_GELU)
        fwd_width(f, first, end, n_c, true);
    else
        fwd_width(f, first, end, n_c, false);
}

enum status layernorm_fwd_cpu(struct tensor y, struct tensor mean, struct tensor rstd,
                              struct tensor x, struct tensor gamma, struct tensor beta, float eps,
                              enum activation act, struct stream *s)
{
    TRY(layernorm_fwd_check(y, mean, rstd, x, gamma, beta, act));
    STREAM_NO_SCRATCH(s);

    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x), step = rows_of_block(n_rows);
    const struct fwd f = { y.data, mean.data, rstd.data, x.data, gamma.data, beta.data, eps, act };

#pragma omp parallel for schedule(static) if (n_rows * n_c > PARALLEL_FROM)
    for (int64_t first = 0; first < n_rows; first += step)
        fwd_block(&f, first, min64(first + step, n_rows), n_c);
    return OK;
}

struct bwd {
    struct tensor dx;
    const float *dy, *x, *gamma, *beta, *mean, *rstd;
    enum activation act;
};

/* sums: dgamma then dbeta, zeroed here; work: 3 n_c floats. */
static inline __attribute__((always_inline)) void bwd_rows(const struct bwd *p,
                                                           float *restrict sums,
                                                           float *restrict work, int64_t first,
                                                           int64_t end, int64_t n_c, bool gelu)
{
    const float *gamma = p->gamma, *beta = p->beta;
    float *dx_all = p->dx.data, *restrict run = work, *restrict g = work + 2 * n_c;
    const bool add = p->dx.add;

    for (int64_t c = 0; c < 2 * n_c; c++) sums[c] = run[c] = 0;
    for (int64_t n = first; n < end; n++) {
        const float *x = p->x + n * n_c, *dy = p->dy + n * n_c;
        const float mean = p->mean[n], rstd = p->rstd[n];
        float plain = 0, weighted = 0;

#pragma omp simd reduction(+ : plain, weighted)
        for (int64_t c = 0; c < n_c; c++) {
            const float xhat = (x[c] - mean) * rstd;
            const float slope = gelu ? activation_gelu_slope(xhat * gamma[c] + beta[c]) : 1.0f;
            const float gc = dy[c] * slope;

            run[c] += gc * xhat;
            run[n_c + c] += gc;
            g[c] = gc * gamma[c];
            plain += g[c];
            weighted += g[c] * xhat;
        }
        plain /= (float)n_c;
        weighted /= (float)n_c;
        if (dx_all) {
            float *dx = dx_all + n * n_c;

            if (add) {
#pragma omp simd
                for (int64_t c = 0; c < n_c; c++)
                    dx[c] += rstd * (g[c] - plain - (x[c] - mean) * rstd * weighted);
            } else {
#pragma omp simd
                for (int64_t c = 0; c < n_c; c++)
                    dx[c] = rstd * (g[c] - plain - (x[c] - mean) * rstd * weighted);
            }
        }
        if ((n - first) % RUN_ROWS == RUN_ROWS - 1 || n == end - 1)
            for (int64_t c = 0; c < 2 * n_c; c++) {
                sums[c] += run[c];
                run[c] = 0;
            }
    }
}

static inline __attribute__((always_inline)) void bwd_width(const struct bwd *p, float *sums,
                                                            float *work, int64_t first, int64_t end,
                                                            int64_t n_c, bool gelu)
{
    if (n_c == 4)
        bwd_rows(p, sums, work, first, end, 4, gelu);
    else if (n_c == 16)
        bwd_rows(p, sums, work, first, end, 16, gelu);
    else if (n_c == 32)
        bwd_rows(p, sums, work, first, end, 32, gelu);
    else
        bwd_rows(p, sums, work, first, end, n_c, gelu);
}

static void bwd_block(const struct bwd *p, float *sums, float *work, int64_t first, int64_t end,
                      int64_t n_c)
{
    if (p->act == ACT_GELU)
        bwd_width(p, sums, work, first, end, n_c, true);
    else
        bwd_width(p, sums, work, first, end, n_c, false);
}

enum status layernorm_bwd_cpu(struct tensor dx, struct tensor dgamma, struct tensor dbeta,
                              struct tensor dy, struct tensor x, struct tensor gamma,
                              struct tensor beta, struct tensor mean, struct tensor rstd,
                              enum activation act, struct stream *s)
{
    TRY(layernorm_bwd_check(dx, dgamma, dbeta, dy, x, gamma, beta, mean, rstd, act));
    const int64_t n_rows = tensor_rows(x), n_c = tensor_cols(x), step = rows_of_block(n_rows);
    const int64_t n_blocks = (n_rows + step - 1) / step;
    float *sums; /* (n_blocks, 2, n_c), then the work space of each block */

    STREAM_SCRATCH(s, sums, n_blocks * 5 * n_c * (int64_t)sizeof *sums);

    const struct bwd p = { dx, dy.data, x.data, gamma.data, beta.data, mean.data, rstd.data, act };
    float *work = sums + n_blocks * 2 * n_c;

#pragma omp parallel for schedule(static) if (n_rows * n_c > PARALLEL_FROM)
    for (int64_t block = 0; block < n_blocks; block++)
        bwd_block(&p, sums + block * 2 * n_c, work + block * 3 * n_c, block * step,
                  min64((block + 1) * step, n_rows), n_c);
    if (dgamma.data) column_sum_finish(dgamma.data, dgamma.add, sums, 2 * n_c, n_blocks, n_c);
    if (dbeta.data) column_sum_finish(dbeta.data, dbeta.add, sums + n_c, 2 * n_c, n_blocks, n_c);
    return OK;
}

#include "kernels/base/rng.h"
#include "kernels/ref/activation.h"
#include "kernels/residual_check.h"

/* scale · dropout as one factor of element i */
struct factor {
    double scale, keep;
    float p;
    struct rng_key key;
};

static struct factor factor_of(struct tensor scale, struct tensor key, float p, int64_t salt)
{
    const int64_t *k = key.data;
    struct factor f = { .scale = scale.data ? *(const float *)scale.data : 1,
                        .keep = 1 / (1 - (double)p),
                        .p = p };

    if (p != 0) f.key = rng_sub((struct rng_key){ (uint64_t)k[0], (uint64_t)k[1] }, (uint64_t)salt);
    return f;
}

static double factor_at(const struct factor *f, int64_t i)
{
    if (f->p == 0) return f->scale;
    return rng_uniform(f->key, (uint64_t)i) >= f->p ? f->scale * f->keep : 0;
}

enum status residual_fwd_ref(struct tensor y, struct tensor x, struct tensor b, struct tensor scale,
                             struct tensor key, float p, int64_t salt, struct stream *s)
{
    TRY(residual_fwd_check(y, x, b, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const struct factor f = factor_of(scale, key, p, salt);
    const int64_t count = tensor_count(y);
    const float *x_data = x.data, *b_data = b.data;
    float *y_data = y.data;

    for (int64_t i = 0; i < count; i++)
        y_data[i] = (float)((x_data ? x_data[i] : 0) + factor_at(&f, i) * b_data[i]);
    return OK;
}

enum status residual_bwd_ref(struct tensor dx, struct tensor db, struct tensor dy,
                             struct tensor scale, struct tensor key, float p, int64_t salt,
                             struct stream *s)
{
    TRY(residual_bwd_check(dx, db, dy, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const struct factor f = factor_of(scale, key, p, salt);
    const int64_t count = tensor_count(dy);
    const float *dy_data = dy.data;

    for (int64_t i = 0; i < count; i++) {
        if (dx.data) gradient_put(dx, i, dy_data[i]);
        if (db.data) gradient_put(db, i, factor_at(&f, i) * dy_data[i]);
    }
    return OK;
}

enum status add_fwd_ref(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    TRY(add_fwd_check(y, a, b));
    STREAM_NO_SCRATCH(s);

    const int64_t count = tensor_count(y), n_lead = y.n_dims ? y.dim[0] : 1;
    const int64_t each = n_lead ? count / n_lead : 0;
    const bool a_shared = add_is_shared(a, y), b_shared = add_is_shared(b, y);
    const float *a_data = a.data, *b_data = b.data;
    float *y_data = y.data;

    for (int64_t i = 0; i < count; i++)
        y_data[i] = a_data[a_shared ? i % each : i] + b_data[b_shared ? i % each : i];
    return OK;
}

static void operand_bwd(struct tensor d, struct tensor dy)
{
    const float *dy_data = dy.data;
    const int64_t each = tensor_count(d), n_lead = add_is_shared(d, dy) ? dy.dim[0] : 1;

    for (int64_t i = 0; d.data && i < each; i++) {
        double sum = 0;

        for (int64_t n = 0; n < n_lead; n++) sum += dy_data[n * each + i];
        gradient_put(d, i, sum);
    }
}

enum status add_bwd_ref(struct tensor da, struct tensor db, struct tensor dy, struct stream *s)
{
    TRY(add_bwd_check(da, db, dy));
    STREAM_NO_SCRATCH(s);

    operand_bwd(da, dy);
    operand_bwd(db, dy);
    return OK;
}

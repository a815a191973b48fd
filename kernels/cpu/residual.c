#include "kernels/residual_check.h"

#include <stddef.h>

#include "kernels/base/rng.h"

enum { BLOCK = 8192, LANES = 16, RUN = 4 * LANES, PARALLEL_FROM = 32768 };

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* scale · dropout as one factor of element i */
struct factor {
    float scale, kept; /* of every element; of one that dropout keeps */
    float p;
    struct rng_key key;
};

static struct factor factor_of(struct tensor scale, struct tensor key, float p, int64_t salt)
{
    const int64_t *k = key.data;
    const float of_all = scale.data ? *(const float *)scale.data : 1.0f;
    struct factor f = { .scale = of_all, .kept = (float)(of_all / (1 - (double)p)), .p = p };

    if (p != 0) f.key = rng_sub((struct rng_key){ (uint64_t)k[0], (uint64_t)k[1] }, (uint64_t)salt);
    return f;
}

/* The factors of elements first … first + RUN − 1: rng_philox of LANES indices side by side, each
 * of which gives four elements. first is a multiple of RUN. */
static void dropped_factors(float out[RUN], const struct factor *f, int64_t first)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    uint32_t k0 = (uint32_t)f->key.seed, k1 = (uint32_t)(f->key.seed >> 32);

    for (int lane = 0; lane < LANES; lane++) {
        const uint64_t index = (uint64_t)first / 4 + (uint64_t)lane;

        c0[lane] = (uint32_t)index;
        c1[lane] = (uint32_t)(index >> 32);
        c2[lane] = (uint32_t)f->key.stream;
        c3[lane] = (uint32_t)(f->key.stream >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int lane = 0; lane < LANES; lane++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[lane];
            const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2[lane];

            c0[lane] = (uint32_t)(p1 >> 32) ^ c1[lane] ^ k0;
            c2[lane] = (uint32_t)(p0 >> 32) ^ c3[lane] ^ k1;
            c1[lane] = (uint32_t)p1;
            c3[lane] = (uint32_t)p0;
        }
    for (int lane = 0; lane < LANES; lane++) {
        const uint32_t v[4] = { c0[lane], c1[lane], c2[lane], c3[lane] };

        for (int j = 0; j < 4; j++)
            out[lane * 4 + j] = (float)(v[j] >> 8) * 0x1p-24f >= f->p ? f->kept : 0;
    }
}

/* y = x + factor · b for the elements of one block; x may be NULL. */
static void block_fwd(float *y, const float *x, const float *b, const struct factor *f,
                      int64_t first, int64_t end)
{
    float factors[RUN];

    if (f->p == 0) {
        for (int64_t i = first; x && i < end; i++) y[i] = x[i] + f->scale * b[i];
        for (int64_t i = first; !x && i < end; i++) y[i] = f->scale * b[i];
        return;
    }
    for (int64_t i = first; i < end; i += RUN) {
        const int64_t n = min64(RUN, end - i);

        dropped_factors(factors, f, i);
        for (int64_t j = 0; x && j < n; j++) y[i + j] = x[i + j] + factors[j] * b[i + j];
        for (int64_t j = 0; !x && j < n; j++) y[i + j] = factors[j] * b[i + j];
    }
}

enum status residual_fwd_cpu(struct tensor y, struct tensor x, struct tensor b, struct tensor scale,
                             struct tensor key, float p, int64_t salt, struct stream *s)
{
    TRY(residual_fwd_check(y, x, b, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const struct factor f = factor_of(scale, key, p, salt);
    const int64_t count = tensor_count(y);

#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t i = 0; i < count; i += BLOCK)
        block_fwd(y.data, x.data, b.data, &f, i, min64(i + BLOCK, count));
    return OK;
}

/* One operand's gradient: d = factor · dy, added or not. */
static void operand_bwd(struct tensor d, const float *dy, const struct factor *f, int64_t first,
                        int64_t end)
{
    if (d.data) block_fwd(d.data, d.add ? d.data : NULL, dy, f, first, end);
}

enum status residual_bwd_cpu(struct tensor dx, struct tensor db, struct tensor dy,
                             struct tensor scale, struct tensor key, float p, int64_t salt,
                             struct stream *s)
{
    TRY(residual_bwd_check(dx, db, dy, scale, key, p));
    STREAM_NO_SCRATCH(s);

    const struct factor one = { .scale = 1 }, f = factor_of(scale, key, p, salt);
    const int64_t count = tensor_count(dy);

#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t i = 0; i < count; i += BLOCK) {
        operand_bwd(dx, dy.data, &one, i, min64(i + BLOCK, count));
        operand_bwd(db, dy.data, &f, i, min64(i + BLOCK, count));
    }
    return OK;
}

/* Elements of the part of y that a shared operand covers. */
static int64_t elements_each(struct tensor y)
{
    int64_t n = 1;

    for (int i = 1; i < y.n_dims; i++) n *= y.dim[i];
    return n;
}

enum status add_fwd_cpu(struct tensor y, struct tensor a, struct tensor b, struct stream *s)
{
    TRY(add_fwd_check(y, a, b));
    STREAM_NO_SCRATCH(s);

    const int64_t count = tensor_count(y), each = elements_each(y);
    const int64_t n_blocks = (each + BLOCK - 1) / BLOCK;
    const int64_t n_lead = each > 0 ? count / each : 0;
    const int64_t a_step = add_is_shared(a, y) ? 0 : each, b_step = add_is_shared(b, y) ? 0 : each;

#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t block = 0; block < n_lead * n_blocks; block++) {
        const int64_t n = block / n_blocks, first = block % n_blocks * BLOCK;
        const int64_t size = min64(BLOCK, each - first);
        const float *a_data = (const float *)a.data + n * a_step + first;
        const float *b_data = (const float *)b.data + n * b_step + first;
        float *y_data = (float *)y.data + n * each + first;

        for (int64_t i = 0; i < size; i++) y_data[i] = a_data[i] + b_data[i];
    }
    return OK;
}

/* d = Σ over the leading dimension of dy, in order, in double; a block of elements at a time. */
static void shared_bwd(struct tensor d, struct tensor dy)
{
    enum { SHARED_BLOCK = 256 };
    const int64_t each = tensor_count(d), n_lead = dy.dim[0];
    const float *dy_data = dy.data;
    float *d_data = d.data;

#pragma omp parallel for schedule(static) if (each * n_lead > PARALLEL_FROM)
    for (int64_t first = 0; first < each; first += SHARED_BLOCK) {
        const int64_t size = min64(SHARED_BLOCK, each - first);
        double sum[SHARED_BLOCK] = { 0 };

        for (int64_t n = 0; n < n_lead; n++)
            for (int64_t i = 0; i < size; i++) sum[i] += dy_data[n * each + first + i];
        for (int64_t i = 0; i < size; i++)
            d_data[first + i] = (float)(d.add ? d_data[first + i] + sum[i] : sum[i]);
    }
}

enum status add_bwd_cpu(struct tensor da, struct tensor db, struct tensor dy, struct stream *s)
{
    TRY(add_bwd_check(da, db, dy));
    STREAM_NO_SCRATCH(s);

    const struct factor one = { .scale = 1 };
    const int64_t count = tensor_count(dy);
    const bool a_shared = add_is_shared(da, dy), b_shared = add_is_shared(db, dy);

    if (da.data && a_shared) shared_bwd(da, dy);
    if (db.data && b_shared) shared_bwd(db, dy);
    if ((!da.data || a_shared) && (!db.data || b_shared)) return OK;
#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t i = 0; i < count; i += BLOCK) {
        if (!a_shared) operand_bwd(da, dy.data, &one, i, min64(i + BLOCK, count));
        if (!b_shared) operand_bwd(db, dy.data, &one, i, min64(i + BLOCK, count));
    }
    return OK;
}

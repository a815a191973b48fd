#include "trainer/bench_device.h"

#include <stdlib.h>

#include "kernels/base/clock.h"
#include "kernels/base/rng.h"

static struct {
    const struct ops *of;
    struct ops table;
    int64_t bytes;
} counted;

static enum status counted_alloc(void **p, int64_t bytes)
{
    counted.bytes += bytes;
    return counted.of->alloc(p, bytes);
}

const struct ops *bench_device_counted(const struct ops *ops)
{
    counted.of = ops;
    counted.table = *ops;
    counted.table.alloc = counted_alloc;
    counted.bytes = 0;
    return &counted.table;
}

int64_t bench_device_bytes(void)
{
    return counted.bytes;
}

/* ---- limits --------------------------------------------------------------------------------- */
enum { ROUNDS = 3, PRODUCTS = 10, COPIES = 10 };

struct room {
    const struct ops *ops;
    struct stream stream;
    void *x, *w, *y, *from, *to;
    int64_t side, copy_bytes;
    enum dtype dtype;
};

static enum status multiply(struct room *r)
{
    const int64_t n = r->side;

    return r->ops->linear_fwd(tensor_2d(r->y, r->dtype, n, n), tensor_none(),
                              tensor_2d(r->x, r->dtype, n, n), tensor_2d(r->w, r->dtype, n, n),
                              tensor_none(), ACT_NONE, &r->stream);
}

/* Numbers between −1 and 1: a device is faster on zeros. */
static enum status fill(struct room *r, void *dev, uint64_t which)
{
    const int64_t n = r->side * r->side, bytes = n * dtype_bytes(r->dtype);
    const struct rng_key key = rng_stream(1, RNG_TEST, which, 0);
    float *host = malloc((size_t)n * sizeof *host);
    enum status s;

    if (!host) FAIL(E_MEMORY, "%lld random numbers", (long long)n);
    for (int64_t i = 0; i < n; i++) host[i] = 2 * rng_uniform(key, (uint64_t)i) - 1;
    if (r->dtype == F32) {
        s = r->ops->put(dev, host, bytes, &r->stream);
    } else { /* through room that is large enough for both */
        s = r->ops->put(r->from, host, n * 4, &r->stream);
        if (s == OK)
            s = r->ops->cast(tensor_1d(dev, BF16, n), tensor_1d(r->from, F32, n), &r->stream);
    }
    if (s == OK) s = r->ops->sync(&r->stream);
    free(host);
    return s;
}

static enum status take(struct room *r)
{
    const int64_t bytes = r->side * r->side * dtype_bytes(r->dtype);

    r->stream.planning = true;
    TRY(multiply(r));
    r->stream.planning = false;
    r->stream.scratch_bytes = r->stream.scratch_need;
    TRY(r->ops->alloc(&r->stream.scratch, r->stream.scratch_need));
    TRY(r->ops->alloc(&r->x, bytes));
    TRY(r->ops->alloc(&r->w, bytes));
    TRY(r->ops->alloc(&r->y, bytes));
    TRY(r->ops->alloc(&r->from, r->copy_bytes));
    TRY(r->ops->alloc(&r->to, r->copy_bytes));
    TRY(fill(r, r->x, 0));
    return fill(r, r->w, 1);
}

/* Seconds of n calls; the best of ROUNDS behind one of warm-up. */
static enum status time_calls(struct room *r, bool product, int n, double *best)
{
    for (int round = 0; round <= ROUNDS; round++) {
        double began;

        TRY(r->ops->sync(&r->stream));
        began = clock_seconds();
        for (int i = 0; i < n; i++)
            TRY(product ? multiply(r) : r->ops->copy(r->to, r->from, r->copy_bytes, &r->stream));
        TRY(r->ops->sync(&r->stream));
        began = clock_seconds() - began;
        if (round == 1 || (round > 1 && began < *best)) *best = began;
    }
    return OK;
}

static enum status measure(struct room *r, struct bench_limits *l)
{
    const double n = (double)r->side;
    double seconds;

    TRY(take(r));
    TRY(time_calls(r, true, PRODUCTS, &seconds));
    l->product = PRODUCTS * 2 * n * n * n / seconds;
    TRY(time_calls(r, false, COPIES, &seconds));
    l->copy = COPIES * 2 * (double)r->copy_bytes / seconds;
    return OK;
}

enum status bench_device_limits(const struct ops *ops, enum dtype dtype, int64_t side,
                                struct bench_limits *limits)
{
    struct room r = { .ops = ops, .side = side, .copy_bytes = 16 * side * side, .dtype = dtype };
    enum status s = ops->open();

    r.stream.queue = ops->queue();
    if (s == OK) s = measure(&r, limits);
    ops->free(r.x);
    ops->free(r.w);
    ops->free(r.y);
    ops->free(r.from);
    ops->free(r.to);
    ops->free(r.stream.scratch);
    return s;
}

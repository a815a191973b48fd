#include "tests/golden_relu.h"

#include <float.h>
#include <stdlib.h>

#include "kernels/base/bf16.h"
#include "kernels/base/check.h"

static struct {
    struct ops table;
    const struct ops *base;
    struct golden_relu *relu;
    bool hold;
} current;

void golden_relu_free(struct golden_relu *r)
{
    free(r->on);
    *r = (struct golden_relu){ 0 };
}

static void append(struct golden_relu *r, bool on)
{
    if (r->n == r->room) {
        r->room = r->room ? 2 * r->room : 1 << 14;
        r->on = realloc(r->on, (size_t)r->room);
        ASSERT(r->on);
    }
    r->on[r->n++] = on;
}

static enum status record(struct golden_relu *r, struct tensor y, struct stream *s)
{
    const int64_t n = tensor_count(y);
    uint16_t *raw = malloc((size_t)(tensor_bytes(y) + 1));

    if (!raw) FAIL(E_MEMORY, "units of a ReLU");
    TRY(current.base->get(raw, y.data, tensor_bytes(y), s));
    for (int64_t i = 0; i < n; i++)
        append(r, y.dtype == BF16 ? bf16_to_float(raw[i]) > 0 : ((const float *)raw)[i] > 0);
    free(raw);
    return OK;
}

static enum status hold(struct golden_relu *r, struct tensor y, struct stream *s)
{
    const int64_t n = tensor_count(y);
    float *host = malloc((size_t)(n + 1) * sizeof *host);

    if (!host) FAIL(E_MEMORY, "units of a ReLU");
    ASSERT(y.dtype == F32);
    if (r->at + n > r->n)
        FAIL(E_CORRUPT, "%lld units of ReLUs were recorded, and there are more", (long long)r->n);
    TRY(current.base->get(host, y.data, tensor_bytes(y), s));
    for (int64_t i = 0; i < n; i++) {
        const bool on = r->on[r->at++];

        if (on != (host[i] > 0)) host[i] = on ? FLT_MIN : 0;
    }
    TRY(current.base->put(y.data, host, tensor_bytes(y), s));
    TRY(current.base->sync(s));
    free(host);
    return OK;
}

static enum status linear_fwd(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                              struct tensor b, enum activation act, struct stream *s)
{
    TRY(current.base->linear_fwd(y, pre, x, w, b, act, s));
    if (act != ACT_RELU || s->planning) return OK;
    return current.hold ? hold(current.relu, y, s) : record(current.relu, y, s);
}

const struct ops *golden_relu_ops(const struct ops *base, struct golden_relu *r, bool held)
{
    current.table = *base;
    current.table.linear_fwd = linear_fwd;
    current.base = base;
    current.relu = r;
    current.hold = held;
    r->at = 0;
    return &current.table;
}

double golden_relu_turned(const struct golden_relu *a, const struct golden_relu *b)
{
    int64_t n = 0;

    if (a->n != b->n || a->n == 0) return 1;
    for (int64_t i = 0; i < a->n; i++) n += a->on[i] != b->on[i];
    return (double)n / (double)a->n;
}

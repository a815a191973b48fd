#include "kernels/base/tensor.h"

#include <stdio.h>

#include "kernels/base/check.h"

struct row {
    const char *name;
    int64_t bytes;
};

#define DTYPE_ROW(name, bytes) [name] = { #name, bytes },
static const struct row rows[DTYPE_COUNT] = { DTYPE_LIST(DTYPE_ROW) };
#undef DTYPE_ROW

const char *dtype_name(enum dtype t)
{
    return t < DTYPE_COUNT ? rows[t].name : "?";
}

int64_t dtype_bytes(enum dtype t)
{
    ASSERT(t < DTYPE_COUNT);
    return rows[t].bytes;
}

int64_t tensor_count(struct tensor t)
{
    int64_t n = 1;

    for (int i = 0; i < t.n_dims; i++) n *= t.dim[i];
    return n;
}

int64_t tensor_bytes(struct tensor t)
{
    return tensor_count(t) * dtype_bytes(t.dtype);
}

int64_t tensor_cols(struct tensor t)
{
    return t.n_dims > 0 ? t.dim[t.n_dims - 1] : 1;
}

int64_t tensor_rows(struct tensor t)
{
    int64_t n = 1;

    for (int i = 0; i < t.n_dims - 1; i++) n *= t.dim[i];
    return n;
}

static struct tensor make(void *data, enum dtype dtype, int n_dims, const int64_t *dim)
{
    struct tensor t = { .data = data, .dtype = dtype, .n_dims = n_dims };

    for (int i = 0; i < n_dims; i++) t.dim[i] = dim[i];
    return t;
}

struct tensor tensor_1d(void *data, enum dtype dtype, int64_t a)
{
    return make(data, dtype, 1, (const int64_t[]){ a });
}

struct tensor tensor_2d(void *data, enum dtype dtype, int64_t a, int64_t b)
{
    return make(data, dtype, 2, (const int64_t[]){ a, b });
}

struct tensor tensor_3d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c)
{
    return make(data, dtype, 3, (const int64_t[]){ a, b, c });
}

struct tensor tensor_4d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return make(data, dtype, 4, (const int64_t[]){ a, b, c, d });
}

struct tensor tensor_none(void)
{
    return (struct tensor){ 0 };
}

bool tensor_same_shape(struct tensor a, struct tensor b)
{
    if (a.n_dims != b.n_dims) return false;
    for (int i = 0; i < a.n_dims; i++)
        if (a.dim[i] != b.dim[i]) return false;
    return true;
}

const char *tensor_text(struct tensor t, char buf[TENSOR_TEXT])
{
    int n = snprintf(buf, TENSOR_TEXT, "(");

    for (int i = 0; i < t.n_dims && n < TENSOR_TEXT - 24; i++)
        n +=
            snprintf(buf + n, (size_t)(TENSOR_TEXT - n), i ? ",%lld" : "%lld", (long long)t.dim[i]);
    snprintf(buf + n, (size_t)(TENSOR_TEXT - n), ") %s", dtype_name(t.dtype));
    return buf;
}

enum status tensor_expect(const char *op, const char *operand, struct tensor t, enum dtype dtype,
                          int n_dims, const int64_t *dim)
{
    char got[TENSOR_TEXT], want[TENSOR_TEXT];
    bool ok = t.dtype == dtype && t.n_dims == n_dims;

    for (int i = 0; ok && i < n_dims; i++) ok = dim[i] == -1 || t.dim[i] == dim[i];
    if (!ok)
        FAIL(E_SHAPE, "%s: %s is %s, expected %s", op, operand, tensor_text(t, got),
             tensor_text(make(NULL, dtype, n_dims, dim), want));
    return OK;
}

enum status tensor_expect_real(const char *op, const char *operand, struct tensor t)
{
    char got[TENSOR_TEXT];

    if (t.dtype != F32 && t.dtype != BF16)
        FAIL(E_SHAPE, "%s: %s is %s, expected F32 or BF16", op, operand, tensor_text(t, got));
    return OK;
}

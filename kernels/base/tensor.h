/* A tensor is a borrowed, dense, row-major view. It never owns its memory.
 *
 * As a *gradient output* of an op (dx, dw, db …) a tensor says by itself what the op must do:
 *   data == NULL   this gradient is not wanted: skip it
 *   add == false   overwrite
 *   add == true    add to what is there
 * That is the one gradient rule of all ops; nothing else is ever zeroed or accumulated. */
#ifndef KERNELS_BASE_TENSOR_H
#define KERNELS_BASE_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DTYPE_LIST(X)                                                                              \
    X(F32, 4)                                                                                      \
    X(F64, 8)                                                                                      \
    X(BF16, 2)                                                                                     \
    X(U8, 1)                                                                                       \
    X(I32, 4)                                                                                      \
    X(I64, 8)

#define DTYPE_ENUM(name, bytes) name,
enum dtype { DTYPE_LIST(DTYPE_ENUM) DTYPE_COUNT };
#undef DTYPE_ENUM

enum { TENSOR_DIMS = 5 };

struct tensor {
    void *data; /* not owned */
    enum dtype dtype;
    int n_dims;
    bool add;                 /* see above; ignored for inputs and forward outputs */
    int64_t dim[TENSOR_DIMS]; /* outermost first */
};

const char *dtype_name(enum dtype t);
int64_t dtype_bytes(enum dtype t);

int64_t tensor_count(struct tensor t); /* product of dims; 1 for a scalar (n_dims 0) */
int64_t tensor_bytes(struct tensor t);

/* All leading dimensions folded: rows × last dimension. A scalar is 1 × 1. */
int64_t tensor_rows(struct tensor t);
int64_t tensor_cols(struct tensor t);

struct tensor tensor_1d(void *data, enum dtype dtype, int64_t a);
struct tensor tensor_2d(void *data, enum dtype dtype, int64_t a, int64_t b);
struct tensor tensor_3d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c);
struct tensor tensor_4d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c, int64_t d);

/* An absent operand: no data, no dims. */
struct tensor tensor_none(void);
static inline bool tensor_is_none(struct tensor t)
{
    return t.data == 0 && t.n_dims == 0;
}

bool tensor_same_shape(struct tensor a, struct tensor b);

/* OK when t is F32 or BF16: what activations are kept in. Otherwise E_SHAPE naming op and operand. */
enum status tensor_expect_real(const char *op, const char *operand, struct tensor t) MUST_CHECK;

/* "(3,4,5) F32" into buf; returns buf. */
enum { TENSOR_TEXT = 96 };
const char *tensor_text(struct tensor t, char buf[TENSOR_TEXT]);

/* OK when t has exactly these dims; -1 matches anything. Otherwise E_SHAPE naming op and operand.
 */
enum status tensor_expect(const char *op, const char *operand, struct tensor t, enum dtype dtype,
                          int n_dims, const int64_t *dim) MUST_CHECK;
#define TENSOR_EXPECT(op, t, dtype, ...)                                                           \
    TRY(tensor_expect((op), #t, (t), (dtype),                                                      \
                      (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),                 \
                      (int64_t[]){ __VA_ARGS__ }))

#ifdef __cplusplus
}
#endif
#endif

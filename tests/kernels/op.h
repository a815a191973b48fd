/* Runs one op the way the trainer does: planned first, then with the scratch it asked for.
 *
 *   OP_RUN(be->add_fwd(y, a, b, s));    s is the stream, set up by the macro
 *
 * The scratch has guard words and is filled with NaN, so that reading it unwritten shows. */
#ifndef TESTS_KERNELS_OP_H
#define TESTS_KERNELS_OP_H

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/bf16.h"
#include "kernels/base/log.h"
#include "kernels/ops.h"
#include "kernels/plugin.h"
#include "tests/check_shared.h"
#ifdef TESTS_ON_EMU
#include "tests/emu/device_memory.h"
#endif

static inline struct stream op_stream(int64_t scratch_need)
{
    return (struct stream){ .scratch_bytes = scratch_need, .scratch = check_scratch(scratch_need) };
}

#define OP_RUN(call)                                                                               \
    do {                                                                                           \
        struct stream op_plan_ = { .planning = true };                                             \
        struct stream *s = &op_plan_;                                                              \
        CHECK((call) == OK);                                                                       \
        struct stream op_real_ = op_stream(op_plan_.scratch_need);                                 \
        s = &op_real_;                                                                             \
        CHECK((call) == OK);                                                                       \
        check_settle();                                                                            \
    } while (0)

/* The call must say E_SHAPE, planning and not; nothing may be touched. */
#define OP_SHAPE_ERROR(call)                                                                       \
    do {                                                                                           \
        struct stream op_plan_ = { .planning = true };                                             \
        struct stream *s = &op_plan_;                                                              \
        CHECK((call) == E_SHAPE);                                                                  \
        struct stream op_real_ = { 0 };                                                            \
        s = &op_real_;                                                                             \
        CHECK((call) == E_SHAPE);                                                                  \
    } while (0)

/* Only plans: use it with tensors whose data is NULL. */
#define OP_PLAN(call)                                                                              \
    do {                                                                                           \
        struct stream op_plan_ = { .planning = true };                                             \
        struct stream *s = &op_plan_;                                                              \
        CHECK((call) == OK);                                                                       \
    } while (0)

/* A guarded tensor of zeros. */
static inline struct tensor op_tensor(enum dtype dtype, int n_dims, const int64_t *dim)
{
    struct tensor t = { .dtype = dtype, .n_dims = n_dims };

    for (int i = 0; i < n_dims; i++) t.dim[i] = dim[i];
    t.data = check_alloc(tensor_bytes(t));
    return t;
}
#define OP_DIMS(...)                                                                               \
    (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[])                 \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define OP_ZEROS(dtype, ...) op_tensor((dtype), OP_DIMS(__VA_ARGS__))

/* Uniform in [offset − scale, offset + scale). */
#define OP_FILLED(seed, scale, offset, ...)                                                        \
    op_filled(op_tensor(F32, OP_DIMS(__VA_ARGS__)), (seed), (scale), (offset))
static inline void op_narrow(struct tensor to, const float *from)
{
    for (int64_t i = 0; i < tensor_count(to); i++)
        ((uint16_t *)to.data)[i] = bf16_from_float(from[i]);
}

static inline struct tensor op_filled(struct tensor t, uint64_t seed, float scale, float offset)
{
    const int64_t n = tensor_count(t);
    float *wide = t.dtype == BF16 ? check_alloc(n * (int64_t)sizeof(float)) : t.data;

    check_fill(wide, n, seed, 0, scale, offset);
    if (t.dtype == BF16) op_narrow(t, wide);
    return t;
}

static inline struct tensor op_like(struct tensor t)
{
    return op_tensor(t.dtype, t.n_dims, t.dim);
}

static inline struct tensor op_copy(struct tensor t)
{
    struct tensor c = op_like(t);

    if (tensor_bytes(t) > 0) memcpy(c.data, t.data, (size_t)tensor_bytes(t));
    return c;
}

/* The same numbers in BF16, rounded, or in F32. */
static inline struct tensor op_cast(struct tensor t, enum dtype dtype)
{
    struct tensor c = { .dtype = dtype, .n_dims = t.n_dims };

    if (t.dtype == dtype) return op_copy(t);
    c = op_tensor(dtype, t.n_dims, t.dim);
    if (dtype == BF16) op_narrow(c, t.data);
    for (int64_t i = 0; dtype == F32 && i < tensor_count(t); i++)
        ((float *)c.data)[i] = bf16_to_float(((uint16_t *)t.data)[i]);
    return c;
}

/* In place, of F32: offset + factor · t. */
static inline void op_scale(struct tensor t, float factor, float offset)
{
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((float *)t.data)[i] = offset + factor * ((float *)t.data)[i];
}

static inline bool op_finite(struct tensor t)
{
    const float *v = op_cast(t, F32).data;

    for (int64_t i = 0; i < tensor_count(t); i++)
        if (!isfinite(v[i])) return false;
    return true;
}

static inline struct tensor op_no_data(struct tensor t)
{
    t.data = NULL;
    return t;
}

static inline struct tensor op_adding(struct tensor t)
{
    t.add = true;
    return t;
}

/* The backend named on the command line; the test ends here when there is none. On the emulator and
 * on a GPU, tensors are made in memory that the device has too: kernels see nothing else. */
static inline const struct ops *op_backend(int argc, char **argv)
{
    const struct ops *be = argc == 2 ? ops_find(argv[1]) : NULL;

    if (!be && argc == 2 && strcmp(argv[1], "cuda") == 0) {
        printf("skipped: %s\n", plugin_reason());
        exit(CHECK_SKIP);
    }
    if (!be) {
        fprintf(stderr, "usage: %s <backend>, ref, cpu, cuda or emu\n", argv[0]);
        exit(2);
    }
    if (be->open() != OK) {
        printf("skipped: backend %s does not open here\n", be->name);
        exit(CHECK_SKIP);
    }
#ifdef TESTS_ON_EMU
    static const struct check_memory memory = { emu_take, emu_give, emu_reports, NULL };

    check_set_memory(&memory);
#else
    if (!be->host_memory) check_set_memory(check_shared_memory(be));
#endif
    return be;
}

#endif

/* What cmocka lacks: numeric comparison that NaN cannot pass, and buffers with guard words.
 * Every comparison is written in the pass form, CHECK(err <= tol), so that NaN fails it. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdint.h>

#include "kernels/base/rng.h"
#include "kernels/base/tensor.h"

#ifdef __FAST_MATH__
#error "tests must not be built with fast-math: it makes NaN compare as a number"
#endif

enum { CHECK_SKIP = 77 };

extern int check_fails; /* the exit code of a test that uses CHECK is check_fails != 0 */

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) check_report(__FILE__, __LINE__, #cond);                                      \
    } while (0)
void check_report(const char *file, int line, const char *cond);

/* ‖a−b‖/‖b‖ (‖a‖ where b is 0); NaN or Inf anywhere makes it NaN. */
double check_rel_err(const float *a, const float *b, int64_t n);

/* check_rel_err ≤ tol, or a report with the worst element, both values and its index. */
#define CHECK_CLOSE(a, b, n, tol) check_close(__FILE__, __LINE__, #a " ~ " #b, (a), (b), (n), (tol))
void check_close(const char *file, int line, const char *what, const float *a, const float *b,
                 int64_t n, double tol);

#define CHECK_SAME_BITS(a, b, bytes)                                                               \
    check_same_bits(__FILE__, __LINE__, #a " == " #b, (a), (b), (bytes))
void check_same_bits(const char *file, int line, const char *what, const void *a, const void *b,
                     int64_t bytes);

/* A zero-filled buffer between guard words; check_guards reports any that changed. Freed by check_done. */
void *check_alloc(int64_t bytes);
void check_guards(void);

/* NaN, with guard words right behind; until the next call. */
void *check_scratch(int64_t bytes);

/* Memory of a device that host code may touch too. It guards its buffers itself: what it has to say
 * by the end is n_faults. Scratch that is read before it is written is one. */
struct check_memory {
    void *(*take)(int64_t bytes, const char *name, bool zeros);
    void (*give)(void *p); /* NULL is allowed */
    int64_t (*n_faults)(void);
    void (*settle)(void); /* waits until the device is done with it; NULL: it always is */
};

/* Where buffers come from henceforth. Keeps m. */
void check_set_memory(const struct check_memory *m);

/* Before host code looks at what a device was told to do. */
void check_settle(void);

/* Checks all guards, frees all buffers, prints the verdict; returns the exit code. */
int check_done(const char *test);

/* n floats uniform in [-1,1) · scale + offset, from stream `stream` of seed. */
void check_fill(float *p, int64_t n, uint64_t seed, uint64_t stream, float scale, float offset);

double check_dot(const float *a, const float *b, int64_t n);

#endif

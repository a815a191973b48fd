/* The shape checks every backend of linear runs first. They touch no data. */
#ifndef KERNELS_LINEAR_CHECK_H
#define KERNELS_LINEAR_CHECK_H

#include "kernels/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status linear_fwd_check(struct tensor y, struct tensor pre, struct tensor x, struct tensor w,
                             struct tensor b, enum activation act) MUST_CHECK;
enum status linear_bwd_check(struct tensor dx, struct tensor dw, struct tensor db, struct tensor dy,
                             struct tensor x, struct tensor w, struct tensor y, struct tensor pre,
                             enum activation act) MUST_CHECK;

/* OK when t is of that dtype and its leading dimensions fold into rows × cols; none passes when
 * allowed. */
enum status linear_rows_check(const char *op, const char *operand, struct tensor t,
                              enum dtype dtype, int64_t rows, int64_t cols,
                              bool none_allowed) MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif

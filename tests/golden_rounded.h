/* The CPU's ops as a device in bf16 has them: every operand widened, the CPU's f32 op on it, every result rounded once. What a
 * run on this table is off by is the nature of bf16, whatever a kernel does. */
#ifndef TESTS_GOLDEN_ROUNDED_H
#define TESTS_GOLDEN_ROUNDED_H

#include "kernels/ops.h"

/* Only the ops of a model and its gradients take bf16. One thread; the table lives as long as the program. */
const struct ops *golden_rounded_ops(void);

#endif

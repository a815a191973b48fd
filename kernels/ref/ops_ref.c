/* The reference backend: the formulas in loops, double sums. It is the specification. */
#include "kernels/cpu/host.h"
#include "kernels/ops.h"

#define OPS_REF(name) .name = name##_ref,
const struct ops ops_ref = { .name = "ref", HOST_VERBS, OPS_LIST(OPS_REF) };

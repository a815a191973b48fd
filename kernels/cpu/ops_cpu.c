/* The CPU backend. Where speed is of no use, an op points at its reference. */
#include "kernels/cpu/host.h"
#include "kernels/ops.h"

#define OPS_CPU(name) .name = name##_cpu,
const struct ops ops_cpu = { .name = "cpu", HOST_VERBS, OPS_LIST(OPS_CPU) };

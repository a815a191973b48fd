/* The CPU backend: OpenMP, vectorised loops, OpenBLAS for the large products. */
#include "kernels/cpu/host.h"
#include "kernels/ops.h"

#define OPS_CPU(name) .name = name##_cpu,
const struct ops ops_cpu = { .name = "cpu", HOST_VERBS, OPS_LIST(OPS_CPU) };

/* Buffers for tests on a GPU: memory that host and device touch by turns, between guard words. */
#ifndef TESTS_CHECK_SHARED_H
#define TESTS_CHECK_SHARED_H

#include "kernels/ops.h"
#include "tests/check.h"

/* For check_set_memory. be: the plugin's backend, open. */
const struct check_memory *check_shared_memory(const struct ops *be);

#endif

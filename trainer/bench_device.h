/* What a benchmark asks of a device beside its ops: how much memory was taken, and what it can do at most. */
#ifndef TRAINER_BENCH_DEVICE_H
#define TRAINER_BENCH_DEVICE_H

#include "kernels/ops.h"

/* The same table, its allocations added up from now on. One at a time. */
const struct ops *bench_device_counted(const struct ops *ops);
/* Bytes taken so far: nothing but rasterize's room, when it grows, is given back before the end. */
int64_t bench_device_bytes(void);

struct bench_limits {
    double product; /* FLOP/s of a side×side×side product of random numbers, by the op linear */
    double copy;    /* bytes/s, read and written, of 16·side² bytes, by the verb copy */
};

/* For devices whose memory is not the host's: the best of some rounds of calls, timed between two waits. dtype: F32 or BF16. */
enum status bench_device_limits(const struct ops *ops, enum dtype dtype, int64_t side,
                                struct bench_limits *limits) MUST_CHECK;

#endif

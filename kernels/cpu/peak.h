/* What this machine can do at most, measured here and now: the denominators of every share a
 * benchmark prints. */
#ifndef KERNELS_CPU_PEAK_H
#define KERNELS_CPU_PEAK_H

/* f32 fused multiply-adds on all OpenMP threads, FLOP/s (two a multiply-add): the best of a few
 * short runs. */
double peak_flops(void);

/* Memory read and written by a[i] = b[i] + s·c[i] over arrays far larger than a core's caches,
 * bytes/s. 0 when out of memory. */
double peak_bandwidth(void);

#endif

/* The middle of a list of numbers. */
#ifndef TRAINER_MEDIAN_H
#define TRAINER_MEDIAN_H

#include <stdint.h>

/* Of x[0..n), n ≥ 1, which it sorts: the least first. Two middle ones are averaged. */
double median(double *x, int64_t n);

#endif

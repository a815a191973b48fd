/* What the benchmarks of a step say, for people and as JSON. */
#ifndef TRAINER_BENCH_REPORT_H
#define TRAINER_BENCH_REPORT_H

#include <jansson.h>

#include "trainer/account.h"
#include "trainer/bench_count.h"

/* The account of one step: by phase, by op, by the roofline, and the checks. count: launches, or NULL. */
void report_account(const struct config *c, const struct cost *k, const struct account *a,
                    const struct bench_count *count);
json_t *report_account_json(const struct config *c, const struct ops *ops, const struct cost *k,
                            const struct account *a,
                            const struct bench_count *count); /* NULL: out of memory */

/* What was measured on a device with memory of its own, against what it can do. */
void report_device(const struct bench_step *b, const struct account *a);
json_t *report_device_json(const struct bench_step *b, const struct account *a);

#endif

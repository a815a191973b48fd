/* Monotonic time for decisions and measurements, wall time for people. */
#ifndef KERNELS_BASE_CLOCK_H
#define KERNELS_BASE_CLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int64_t clock_ns(void);      /* CLOCK_MONOTONIC */
double clock_seconds(void);  /* the same, in seconds */
int64_t clock_wall_ns(void); /* CLOCK_REALTIME, since the epoch */

/* Seconds since *since, which becomes now: laps of one watch. */
double clock_lap(double *since);

enum { CLOCK_TEXT = 32 };
/* "2026-01-31T23:59:59.123Z" into buf; returns buf. */
const char *clock_text(int64_t wall_ns, char buf[CLOCK_TEXT]);

#ifdef __cplusplus
}
#endif
#endif

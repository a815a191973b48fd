#include "kernels/base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t now(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t clock_ns(void)
{
    return now(CLOCK_MONOTONIC);
}

double clock_seconds(void)
{
    return (double)clock_ns() * 1e-9;
}

double clock_lap(double *since)
{
    const double now_s = clock_seconds(), lap = now_s - *since;

    *since = now_s;
    return lap;
}

int64_t clock_wall_ns(void)
{
    return now(CLOCK_REALTIME);
}

const char *clock_text(int64_t wall_ns, char buf[CLOCK_TEXT])
{
    const time_t seconds = (time_t)(wall_ns / 1000000000);
    struct tm t;
    size_t n;

    gmtime_r(&seconds, &t);
    n = strftime(buf, CLOCK_TEXT, "%Y-%m-%dT%H:%M:%S", &t);
    snprintf(buf + n, CLOCK_TEXT - n, ".%03dZ", (int)(wall_ns / 1000000 % 1000));
    return buf;
}

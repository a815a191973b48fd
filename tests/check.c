#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int check_fails;

enum { GUARD_BYTES = 64, MAX_BUFFERS = 16384 };
static const unsigned char guard = 0xA5;

static const struct check_memory *device; /* NULL: the host's memory */

static struct {
    unsigned char *base;
    int64_t bytes;
    bool on_device; /* no guard words */
} buffers[MAX_BUFFERS];
static int n_buffers;

void check_report(const char *file, int line, const char *cond)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, cond);
    check_fails++;
}

double check_rel_err(const float *a, const float *b, int64_t n)
{
    double num = 0, den = 0, own = 0;

    for (int64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];

        if (!isfinite(a[i]) || !isfinite(b[i])) return NAN;
        num += d * d;
        den += (double)b[i] * b[i];
        own += (double)a[i] * a[i];
    }
    return den > 0 ? sqrt(num / den) : sqrt(own);
}

void check_close(const char *file, int line, const char *what, const float *a, const float *b,
                 int64_t n, double tol)
{
    const double err = check_rel_err(a, b, n);
    int64_t worst = 0;

    if (err <= tol) return;
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - b[i]) <= fabs((double)a[worst] - b[worst]))) worst = i;
        if (isnan(a[i])) break;
    }
    fprintf(stderr,
            "%s:%d: %s: relative error %.3g > %.3g; worst at %lld of %lld: %.9g, expected %.9g\n",
            file, line, what, err, tol, (long long)worst, (long long)n, n ? (double)a[worst] : 0,
            n ? (double)b[worst] : 0);
    check_fails++;
}

void check_same_bits(const char *file, int line, const char *what, const void *a, const void *b,
                     int64_t bytes)
{
    const unsigned char *p = a, *q = b;

    for (int64_t i = 0; i < bytes; i++) {
        if (p[i] == q[i]) continue;
        fprintf(stderr, "%s:%d: %s: byte %lld of %lld is %02x, expected %02x\n", file, line, what,
                (long long)i, (long long)bytes, p[i], q[i]);
        check_fails++;
        return;
    }
}

void check_set_memory(const struct check_memory *m)
{
    device = m;
}

void check_settle(void)
{
    if (device && device->settle) device->settle();
}

static void *device_alloc(int64_t bytes)
{
    if (n_buffers == MAX_BUFFERS) {
        fprintf(stderr, "check_alloc: out of buffers\n");
        exit(1);
    }
    buffers[n_buffers].base = device->take(bytes, "tensor", true);
    buffers[n_buffers].on_device = true;
    return buffers[n_buffers++].base;
}

void *check_alloc(int64_t bytes)
{
    if (device) return device_alloc(bytes);

    const int64_t whole = bytes + 2 * GUARD_BYTES;
    unsigned char *base = aligned_alloc(64, (size_t)((whole + 63) / 64 * 64));

    if (!base || n_buffers == MAX_BUFFERS) {
        fprintf(stderr, "check_alloc: out of memory or of buffers\n");
        exit(1);
    }
    memset(base, guard, (size_t)whole);
    memset(base + GUARD_BYTES, 0, (size_t)bytes);
    buffers[n_buffers].base = base;
    buffers[n_buffers].on_device = false;
    buffers[n_buffers++].bytes = bytes;
    return base + GUARD_BYTES;
}

static void *scratch; /* a block of scratch_bytes, grown when needed; or the device's last one */
static int64_t scratch_bytes;

void *check_scratch(int64_t bytes)
{
    unsigned char *p;

    if (device) {
        device->give(scratch);
        return scratch = device->take(bytes, "scratch", false);
    }
    if (bytes > scratch_bytes) {
        scratch = check_alloc(bytes);
        scratch_bytes = bytes;
    }
    if (!scratch) return NULL;
    /* ends at the block's end, so that the guard words stand right behind what was asked for */
    p = (unsigned char *)scratch + (scratch_bytes - bytes) / 64 * 64;
    memset(p, 0xFF, (size_t)bytes);
    return p;
}

void check_guards(void)
{
    for (int b = 0; b < n_buffers; b++) {
        if (buffers[b].on_device) continue;
        const unsigned char *front = buffers[b].base;
        const unsigned char *back = front + GUARD_BYTES + buffers[b].bytes;

        for (int i = 0; i < GUARD_BYTES; i++) {
            if (front[i] == guard && back[i] == guard) continue;
            fprintf(stderr, "buffer %d of %lld bytes: written %s its end\n", b,
                    (long long)buffers[b].bytes, front[i] != guard ? "before" : "behind");
            check_fails++;
            break;
        }
    }
}

int check_done(const char *test)
{
    check_guards();
    for (int b = 0; b < n_buffers; b++) {
        if (buffers[b].on_device)
            device->give(buffers[b].base);
        else
            free(buffers[b].base);
    }
    n_buffers = 0;
    if (device) {
        device->give(scratch);
        if (device->n_faults() > 0) check_fails++;
    }
    scratch = NULL;
    scratch_bytes = 0;
    printf("%s: %s\n", test, check_fails ? "FAILED" : "ok");
    return check_fails != 0;
}

void check_fill(float *p, int64_t n, uint64_t seed, uint64_t stream, float scale, float offset)
{
    const struct rng_key key = rng_stream(seed, RNG_TEST, stream, 0);

    for (int64_t i = 0; i < n; i++)
        p[i] = (2.0f * rng_uniform(key, (uint64_t)i) - 1.0f) * scale + offset;
}

double check_dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

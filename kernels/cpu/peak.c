#include "kernels/cpu/peak.h"

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/base/clock.h"

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
typedef float lanes __attribute__((vector_size(LANES * 4)));

/* Enough independent chains to fill two units of latency four or five. */
enum { CHAINS = 12, RUNS = 5, STEPS = 4000000 };

static double one_run(void)
{
    const double began = clock_seconds();
    int threads = 1;
    volatile float sink = 0;

#pragma omp parallel
    {
        lanes x[CHAINS], a, b;
        float sum = 0;

        for (int i = 0; i < LANES; i++) {
            a[i] = 0.999999f;
            b[i] = 1e-6f;
        }
        for (int c = 0; c < CHAINS; c++) x[c] = a + (float)c;
        for (int64_t i = 0; i < STEPS; i++)
            for (int c = 0; c < CHAINS; c++) x[c] = x[c] * a + b;
        for (int c = 0; c < CHAINS; c++)
            for (int i = 0; i < LANES; i++) sum += x[c][i];
#pragma omp critical
        {
            sink += sum; /* so that the work is not removed */
            threads = omp_get_num_threads();
        }
    }
    return 2.0 * LANES * CHAINS * (double)STEPS * threads / (clock_seconds() - began);
}

double peak_flops(void)
{
    double best = 0;

    for (int i = 0; i < RUNS; i++) {
        const double rate = one_run();

        if (rate > best) best = rate;
    }
    return best;
}

double peak_bandwidth(void)
{
    const int64_t n = 16 << 20; /* three arrays of 64 MiB */
    float *a = malloc((size_t)n * 4), *b = malloc((size_t)n * 4), *c = malloc((size_t)n * 4);
    double best = 0;

    for (int run = 0; a && b && c && run <= RUNS; run++) {
        const double began = clock_seconds();
        double rate;

#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            if (run == 0) b[i] = c[i] = (float)i; /* the first run touches the pages */
            a[i] = b[i] + 3.0f * c[i];
        }
        rate = 12.0 * (double)n / (clock_seconds() - began);
        if (run > 0 && rate > best) best = rate;
    }
    free(a);
    free(b);
    free(c);
    return best;
}

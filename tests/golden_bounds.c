#include "tests/golden_bounds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

/* In f32 ten times what PyTorch reaches on the files. In bf16 what a tensor may be off where the measurement says less: a few
 * roundings of 2^-9 each, one behind another. What is computed in f32 anyway keeps that bound. */
static const double least[][N_CLASSES] = {
    [F32] = { 1e-5, 1e-5, 1e-5, 5e-5, 5e-5, 1e-6 }, [BF16] = { 1e-5, 2e-2, 2e-2, 5e-2, 5e-2, 1e-3 }
};
/* A run is one more draw of the same law, but for what a kernel rounds between two stores, and an error seldom comes near twice the worst
 * of four: at most 0.88 of the bound in eighteen draws of all files (docs/numerics.md). */
#define GOLDEN_SHARE 2

void golden_errors_free(struct golden_errors *e)
{
    free(e->at);
    *e = (struct golden_errors){ 0 };
}

void golden_errors_add(struct golden_errors *e, const char *group, const char *tensor,
                       enum golden_class class, double error)
{
    struct golden_error *x;

    if (e->n == e->room) {
        e->room = e->room ? 2 * e->room : 256;
        e->at = realloc(e->at, (size_t)e->room * sizeof *e->at);
        ASSERT(e->at);
    }
    x = e->at + e->n++;
    *x = (struct golden_error){ .class = class, .error = error };
    snprintf(x->tensor, sizeof x->tensor, "%s", tensor);
    snprintf(x->group, sizeof x->group, "%s", group);
}

static bool is_measured(enum golden_class class)
{
    return class != EXACT && class != ZERO;
}

enum status golden_bounds_set(struct golden_errors *e, enum dtype compute,
                              const struct golden_errors *draws, int n)
{
    for (int i = 0; i < e->n; i++) {
        struct golden_error *x = e->at + i;

        x->bound = least[compute][x->class];
        for (int d = 0; d < n && compute == BF16 && is_measured(x->class); d++) {
            const struct golden_error *y = draws[d].at + i; /* the same file: the same order */

            if (i >= draws[d].n || strcmp(x->tensor, y->tensor) != 0)
                FAIL(E_CORRUPT, "draw %d of the roundings has no %s as tensor %d", d, x->tensor, i);
            if (x->bound < GOLDEN_SHARE * y->error) x->bound = GOLDEN_SHARE * y->error;
        }
    }
    return OK;
}

static void line(const char *name, int n, const struct golden_error *x)
{
    printf("  %-44s %3d, nearest its bound: %.2e of %.2e  %s\n", name, n, x->error, x->bound,
           x->tensor);
}

static bool is_first(const struct golden_errors *e, int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(e->at[k].group, e->at[i].group) == 0) return false;
    return true;
}

bool golden_errors_report(const struct golden_errors *e, bool every)
{
    bool good = e->n > 0;

    for (int i = 0; i < e->n; i++) {
        const struct golden_error *worst = e->at + i;
        int n = 0;

        if (every) printf("  %-72s %.3e of %.3e\n", worst->tensor, worst->error, worst->bound);
        if (every || !is_first(e, i)) continue;
        for (int k = i; k < e->n; k++) {
            const struct golden_error *x = e->at + k;

            if (strcmp(x->group, worst->group) != 0) continue;
            n++;
            if (!(x->error / x->bound <= worst->error / worst->bound)) worst = x;
        }
        line(worst->group, n, worst);
    }
    for (int i = 0; i < e->n; i++) {
        const struct golden_error *x = e->at + i;

        if (x->error <= x->bound) continue;
        good = false;
        printf("  FAILED %-60s relative error %.3g > %.3g\n", x->tensor, x->error, x->bound);
    }
    return good;
}

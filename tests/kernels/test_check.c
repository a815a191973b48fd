/* The comparators themselves: what is wrong must not pass. Their complaints are expected here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"

enum { N = 5 };
static const float right[N] = { 1, -2, 3, -4, 5 };

/* How often the comparator complains about `got`; forgotten again. */
static int complaints(const float *got, const float *want, int64_t n, double tol)
{
    const int before = check_fails;
    int n_complaints;

    check_close(__FILE__, __LINE__, "expected", got, want, n, tol);
    n_complaints = check_fails - before;
    check_fails = before;
    return n_complaints;
}

static void closeness(void)
{
    static const float zero[N] = { 0 };

    CHECK(complaints(right, right, N, 0) == 0);
    CHECK(complaints(zero, zero, N, 0) == 0);
    CHECK(complaints(right, zero, N, 1) == 1);
    CHECK(complaints(right, right, 0, 0) == 0);
    for (int i = 0; i < N; i++) {
        const float wrong[] = { -right[i], NAN, INFINITY, -INFINITY, right[i] * 1.00001f };
        float got[N];

        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            memcpy(got, right, sizeof got);
            got[i] = wrong[k];
            CHECK(complaints(got, right, N, 1e-7) == 1);
            CHECK(complaints(right, got, N, 1e-7) == 1);
            if (!isfinite(wrong[k])) CHECK(complaints(got, got, N, INFINITY) == 1);
        }
    }
    CHECK(fabs(check_rel_err(right, zero, N) - sqrt(55)) <= 1e-12);
}

static void bits(void)
{
    const float zeros[2] = { 0, 0 }, signs[2] = { 0, -0.0f };
    const int before = check_fails;

    CHECK_SAME_BITS(zeros, signs, sizeof zeros);
    CHECK_SAME_BITS(zeros, zeros, sizeof zeros);
    const int n_complaints = check_fails - before;

    check_fails = before;
    CHECK(n_complaints == 1);
}

/* A byte before and a byte behind a buffer, and a buffer of none. */
static void guards(void)
{
    const int before = check_fails;
    char *p = check_alloc(3), *empty = check_alloc(0);
    int n_complaints;

    check_guards();
    CHECK(check_fails == before);
    p[-1] ^= 1;
    empty[0] ^= 1;
    check_guards();
    n_complaints = check_fails - before;
    check_fails = before;
    p[-1] ^= 1;
    empty[0] ^= 1;
    p[3] ^= 1;
    check_guards();
    n_complaints += check_fails - before;
    check_fails = before;
    p[3] ^= 1;
    CHECK(n_complaints == 3);
}

int main(int argc, char **argv)
{
    (void)argc; /* the same on every backend */
    (void)argv;
    closeness();
    bits();
    guards();
    return check_done("check");
}

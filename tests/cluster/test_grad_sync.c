/* Gradient sums, by itself as one rank or under mpirun as many: the bits of a serial sum over the tree (tree_sum.h), for every
 * number of slots, with ranges complete in any order; and no memory taken after create. */
#include "cluster/grad_sync.h"
#include "kernels/base/arena.h"
#include "tests/cluster/tree_sum.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct comm *c;

/* ---- every malloc of the program's own code (not MPI's, not OpenMP's) is counted -------------- */

#if !defined(__SANITIZE_ADDRESS__) && defined(__GLIBC__)
#define COUNTS_MALLOC 1
static atomic_llong n_mallocs;
extern char __executable_start, etext;
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

#define COUNT()                                                                                    \
    do {                                                                                           \
        const char *from = __builtin_return_address(0);                                            \
        if (from >= &__executable_start && from < &etext) atomic_fetch_add(&n_mallocs, 1);         \
    } while (0)

__attribute__((noinline)) void *malloc(size_t n)
{
    COUNT();
    return __libc_malloc(n);
}

__attribute__((noinline)) void *calloc(size_t n, size_t size)
{
    COUNT();
    return __libc_calloc(n, size);
}

__attribute__((noinline)) void *realloc(void *p, size_t n)
{
    COUNT();
    return __libc_realloc(p, n);
}

__attribute__((noinline)) void *aligned_alloc(size_t align, size_t n)
{
    COUNT();
    return __libc_memalign(align, n);
}

static int64_t mallocs(void)
{
    return atomic_load(&n_mallocs);
}
#else
static int64_t mallocs(void)
{
    return 0;
}
#endif

/* ---- a step ------------------------------------------------------------------------------------ */

enum { N_RANGES_MAX = 40 };

/* Says [0,n) is complete, in pieces cut and shuffled by the numbers of k. Pieces differ from rank to rank and slot to slot. */
static void all_ready(struct grad_sync *s, int64_t n, struct rng_key k)
{
    int64_t cut[N_RANGES_MAX + 1] = { 0 };
    int order[N_RANGES_MAX], n_cuts = 1;

    while (n_cuts < N_RANGES_MAX && cut[n_cuts - 1] < n) {
        const int64_t step = rng_below(k, (uint64_t)n_cuts, (uint64_t)n / 6 + 1);

        cut[n_cuts] = n_cuts == N_RANGES_MAX - 1 || cut[n_cuts - 1] + step > n
                          ? n
                          : cut[n_cuts - 1] + step; /* some are empty */
        n_cuts++;
    }
    for (int i = 0; i < n_cuts - 1; i++) order[i] = i;
    for (int i = n_cuts - 2; i > 0; i--) {
        const int j = (int)rng_below(k, (uint64_t)(1000 + i), (uint64_t)i + 1), t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (int i = 0; i < n_cuts - 1; i++)
        assert_int_equal(grad_sync_ready(s, cut[order[i]], cut[order[i] + 1]), OK);
}

static void run(int64_t n, const int64_t *ends, int n_buckets, int64_t n_slots, int64_t n_steps,
                int integers)
{
    const struct grad_sync_options o = {
        .n = n, .bucket_end = ends, .n_buckets = n_buckets, .n_slots = n_slots
    };
    struct grad_sync *s = NULL;
    struct plan_range mine;
    int64_t takes, asked;

    assert_int_equal(grad_sync_create(&s, c, &o), OK);
    mine = plan_part(n_slots, c->n_ranks, c->rank);
    takes = arena_n_takes();
    asked = mallocs();
    for (int64_t step = 0; step < n_steps; step++) {
        float *grad = NULL, *total = NULL;
        double exposed = -1;

        for (int64_t slot = mine.begin; slot < mine.end; slot++) {
            assert_int_equal(grad_sync_slot_begin(s, &grad), OK);
            for (int64_t i = 0; i < n; i++) {
                if (grad[i] != 0) fail_msg("slot %d: gradient %d is not zero", (int)slot, (int)i);
                grad[i] = value(step, slot, i, integers);
            }
            all_ready(s, n, rng_stream(5, RNG_TEST, (uint64_t)(100 * step + slot), 3));
        }
        assert_int_equal(grad_sync_wait(s, &total, &exposed), OK);
        assert_true(exposed >= 0);
        for (int64_t i = 0; i < n; i++) {
            const float expected = tree_sum(step, n_slots, i, integers);

            if (memcmp(&total[i], &expected, sizeof expected) != 0)
                fail_msg("%d slots on %d ranks, step %d: total[%d] is %.9g, not %.9g", (int)n_slots,
                         c->n_ranks, (int)step, (int)i, (double)total[i], (double)expected);
        }
    }
    assert_int_equal(arena_n_takes(), takes);
    assert_int_equal(mallocs(), asked);
    grad_sync_destroy(s);
}

static const int64_t slots[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 13 };
enum { N_SLOTS = sizeof slots / sizeof *slots };

/* Buckets of many sizes: of one element, smaller than the ranks are many, one large. */
static void random_numbers(void **state)
{
    static const int64_t ends[] = { 1, 4, 7, 500, 501, 640, 997 };

    (void)state;
    for (int i = 0; i < N_SLOTS; i++) run(997, ends, 7, slots[i], 3, 0);
}

static void exact_numbers(void **state)
{
    static const int64_t ends[] = { 200, 401 };

    (void)state;
    for (int i = 0; i < N_SLOTS; i++) run(401, ends, 2, slots[i], 2, 1);
}

static void one_bucket_and_one_element(void **state)
{
    static const int64_t end[] = { 1 }, whole[] = { 300 };

    (void)state;
    run(1, end, 1, 3, 2, 0);
    run(300, whole, 1, 5, 2, 0);
}

/* Large enough for several threads and for MPI's protocol of long messages. */
static void long_buckets(void **state)
{
    static const int64_t ends[] = { 70000, 210001 };

    (void)state;
    run(210001, ends, 2, 3, 1, 1);
}

static void wrong_use_is_refused(void **state)
{
    static const int64_t ends[] = { 4, 10 }, backward[] = { 6, 4, 10 };
    const struct grad_sync_options good = {
        .n = 10, .bucket_end = ends, .n_buckets = 2, .n_slots = 2 * (int64_t)c->n_ranks
    };
    struct grad_sync_options bad = good;
    struct grad_sync *s = NULL;
    float *p = NULL;
    double exposed;

    (void)state;
    bad.bucket_end = backward;
    bad.n_buckets = 3;
    assert_int_equal(grad_sync_create(&s, c, &bad), E_SHAPE);
    bad = good;
    bad.n = 11;
    assert_int_equal(grad_sync_create(&s, c, &bad), E_SHAPE);
    assert_null(s);
    assert_int_equal(grad_sync_create(&s, c, &good), OK);
    assert_int_equal(grad_sync_ready(s, 0, 1), E_SHAPE);
    assert_int_equal(grad_sync_slot_begin(s, &p), OK);
    assert_int_equal(grad_sync_ready(s, 0, 11), E_SHAPE);
    assert_int_equal(grad_sync_ready(s, 0, 3), OK);
    assert_int_equal(grad_sync_ready(s, 2, 4), E_SHAPE);
    assert_int_equal(grad_sync_slot_begin(s, &p), E_SHAPE);
    assert_int_equal(grad_sync_wait(s, &p, &exposed), E_SHAPE);
    grad_sync_destroy(s);
    grad_sync_destroy(NULL);
}

static void ranks_that_disagree_are_told(void **state)
{
    static const int64_t ends[] = { 4, 10 };
    struct grad_sync_options o = { .n = 10, .bucket_end = ends, .n_buckets = 2, .n_slots = 4 };
    struct grad_sync *s = NULL;

    (void)state;
    if (c->n_ranks == 1) skip();
    o.n_slots += c->rank == c->n_ranks - 1;
    assert_int_equal(grad_sync_create(&s, c, &o), E_CONFIG);
}

static void the_count_of_mallocs_counts(void **state)
{
#ifdef COUNTS_MALLOC
    const int64_t before = mallocs();
    void *volatile p = malloc(10);

    (void)state;
    free(p);
    assert_int_equal(mallocs(), before + 1);
#else
    (void)state;
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_count_of_mallocs_counts),
        cmocka_unit_test(random_numbers),
        cmocka_unit_test(exact_numbers),
        cmocka_unit_test(one_bucket_and_one_element),
        cmocka_unit_test(long_buckets),
        cmocka_unit_test(wrong_use_is_refused),
        cmocka_unit_test(ranks_that_disagree_are_told),
    };
    int fails;

    if (comm_create(&c, 30000) != OK) return 1;
    fails = cmocka_run_group_tests(tests, NULL, NULL);
    if (fails) c->ops->abort(c, 1);
    comm_destroy(c);
    return 0;
}

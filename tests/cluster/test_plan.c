/* Plan arithmetic, exhaustively: parts tile and differ by one at most, blocks are the tree's, and merging blocks on a stack
 * meets the tree's inner nodes and nothing else, for every dealing of slots to ranks. */
#include "cluster/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { N_MAX = 300, RANKS_MAX = 17 };

static void parts_tile(void **state)
{
    (void)state;
    for (int n_ranks = 1; n_ranks <= RANKS_MAX; n_ranks++) {
        for (int64_t n = 0; n <= N_MAX; n++) {
            int64_t at = 0;

            for (int r = 0; r < n_ranks; r++) {
                const struct plan_range p = plan_part(n, n_ranks, r);
                const int64_t size = p.end - p.begin;

                assert_int_equal(p.begin, at);
                assert_true(size == n / n_ranks || size == n / n_ranks + 1);
                at = p.end;
            }
            assert_int_equal(at, n);
        }
    }
}

static void large_parts_do_not_overflow(void **state)
{
    const int64_t n = INT64_MAX - 5;
    int64_t at = 0;

    (void)state;
    for (int r = 0; r < 4096; r++) {
        const struct plan_range p = plan_part(n, 4096, r);

        assert_true(p.begin == at && p.end > p.begin);
        at = p.end;
    }
    assert_true(at == n);
}

static int is_dyadic(struct plan_range b)
{
    const int64_t size = b.end - b.begin;

    return size > 0 && (size & (size - 1)) == 0 && b.begin % size == 0;
}

static void blocks_are_maximal(void **state)
{
    (void)state;
    for (int64_t begin = 0; begin <= 70; begin++) {
        for (int64_t end = begin; end <= N_MAX / 2; end++) {
            struct plan_range b[PLAN_BLOCKS_MAX];
            const int n = plan_blocks((struct plan_range){ begin, end }, b);
            int64_t at = begin;

            for (int i = 0; i < n; i++) {
                assert_int_equal(b[i].begin, at);
                assert_true(is_dyadic(b[i]));
                at = b[i].end;
                /* the aligned block twice as large would stick out of the range */
                const int64_t twice = 2 * (b[i].end - b[i].begin);
                const int64_t first = b[i].begin / twice * twice;

                assert_true(first < begin || first + twice > end);
            }
            assert_int_equal(at, end);
        }
    }
}

static void the_widest_range_fits(void **state)
{
    struct plan_range b[PLAN_BLOCKS_MAX];

    (void)state;
    assert_int_equal(plan_blocks((struct plan_range){ 1, INT64_MAX }, b), 124);
    assert_int_equal(plan_blocks((struct plan_range){ 0, INT64_MAX }, b), 63);
    assert_int_equal(plan_blocks((struct plan_range){ 5, 5 }, b), 0);
}

static void siblings(void **state)
{
    (void)state;
    assert_true(plan_siblings((struct plan_range){ 0, 1 }, (struct plan_range){ 1, 2 }));
    assert_false(plan_siblings((struct plan_range){ 1, 2 }, (struct plan_range){ 2, 3 }));
    assert_true(plan_siblings((struct plan_range){ 8, 12 }, (struct plan_range){ 12, 16 }));
    assert_false(plan_siblings((struct plan_range){ 4, 8 }, (struct plan_range){ 8, 12 }));
    assert_false(plan_siblings((struct plan_range){ 0, 2 }, (struct plan_range){ 2, 3 }));
    assert_false(plan_siblings((struct plan_range){ 0, 1 }, (struct plan_range){ 2, 3 }));
}

/* Every merge of the global stack makes a dyadic block, and what is left are the blocks of [0,n): the same tree however the
 * slots are dealt. */
static void every_dealing_meets_one_tree(void **state)
{
    (void)state;
    for (int n_ranks = 1; n_ranks <= RANKS_MAX; n_ranks++) {
        for (int64_t n = 1; n <= N_MAX; n++) {
            struct plan_range stack[PLAN_BLOCKS_MAX], root[PLAN_BLOCKS_MAX];
            const int n_roots = plan_blocks((struct plan_range){ 0, n }, root);
            int depth = 0;

            for (int r = 0; r < n_ranks; r++) {
                struct plan_range b[PLAN_BLOCKS_MAX];
                const int n_blocks = plan_blocks(plan_part(n, n_ranks, r), b);

                for (int i = 0; i < n_blocks; i++) {
                    stack[depth++] = b[i];
                    while (depth > 1 && plan_siblings(stack[depth - 2], stack[depth - 1])) {
                        stack[depth - 2].end = stack[depth - 1].end;
                        depth--;
                        assert_true(is_dyadic(stack[depth - 1]));
                    }
                }
            }
            assert_int_equal(depth, n_roots);
            assert_memory_equal(stack, root, (size_t)depth * sizeof *stack);
        }
    }
}

/* Slot by slot a rank's stack comes to its blocks, and is never higher than told: the blocks of what was pushed, and one. */
static void pushed_slots_become_blocks(void **state)
{
    (void)state;
    for (int64_t begin = 0; begin <= 70; begin++) {
        struct plan_range stack[PLAN_BLOCKS_MAX], b[PLAN_BLOCKS_MAX];
        int depth = 0, most = 1, merges = 0;

        for (int64_t end = begin + 1; end <= N_MAX / 2; end++) {
            const int before = plan_blocks((struct plan_range){ begin, end - 1 }, b);

            if (before + 1 > most) most = before + 1;
            merges += plan_push(stack, &depth, end - 1);
            assert_int_equal(depth, plan_blocks((struct plan_range){ begin, end }, b));
            assert_memory_equal(stack, b, (size_t)depth * sizeof *stack);
            assert_int_equal(merges + depth, end - begin);
            assert_int_equal(plan_levels((struct plan_range){ begin, end }), most);
        }
        assert_int_equal(plan_levels((struct plan_range){ begin, begin }), 1);
    }
    assert_int_equal(plan_levels((struct plan_range){ 0, 3 }), 2);
    assert_int_equal(plan_levels((struct plan_range){ 0, 256 }), 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_tile),
        cmocka_unit_test(large_parts_do_not_overflow),
        cmocka_unit_test(blocks_are_maximal),
        cmocka_unit_test(the_widest_range_fits),
        cmocka_unit_test(siblings),
        cmocka_unit_test(every_dealing_meets_one_tree),
        cmocka_unit_test(pushed_slots_become_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

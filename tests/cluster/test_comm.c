/* The verbs of a communicator, by itself as one rank or under mpirun as many; small integers, so every result is exact.
 * Called as "test_comm stopped": rank 1 stops itself, and the others must time out by themselves and name it. */
#include "cluster/comm.h"
#include "cluster/topology.h"
#include "kernels/base/arena.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static struct comm *c;

static void says_who_and_where(void **state)
{
    (void)state;
    assert_true(c->rank >= 0 && c->rank < c->n_ranks);
    assert_true(c->local_rank >= 0 && c->local_rank < c->n_local && c->n_local <= c->n_ranks);
    assert_string_equal(c->ops->name, topology_job().launcher ? "mpi" : "self");
    if (topology_job().n_ranks) assert_int_equal(topology_job().n_ranks, c->n_ranks);
}

static void broadcasts(void **state)
{
    (void)state;
    for (int root = 0; root < c->n_ranks; root++) {
        int64_t v[5];

        for (int i = 0; i < 5; i++) v[i] = c->rank * 100 + i;
        assert_int_equal(c->ops->broadcast(c, v, sizeof v, root), OK);
        for (int i = 0; i < 5; i++) assert_int_equal(v[i], root * 100 + i);
    }
    assert_int_equal(c->ops->broadcast(c, NULL, 0, 0), OK);
}

static void gathers(void **state)
{
    int64_t mine[3] = { c->rank, 7, -c->rank }, *all = calloc((size_t)c->n_ranks, sizeof mine);

    (void)state;
    assert_int_equal(c->ops->all_gather(c, all, mine, sizeof mine), OK);
    for (int r = 0; r < c->n_ranks; r++) {
        assert_int_equal(all[3 * r], r);
        assert_int_equal(all[3 * r + 1], 7);
        assert_int_equal(all[3 * r + 2], -r);
    }
    free(all);
}

/* Rank r brings (r·3) mod 5 bytes: some bring none. */
static void gathers_uneven_parts(void **state)
{
    int64_t *counts = calloc((size_t)c->n_ranks, sizeof *counts), total = 0;
    char mine[8], *all, *at;

    (void)state;
    for (int r = 0; r < c->n_ranks; r++) total += counts[r] = r * 3 % 5;
    memset(mine, 'a' + c->rank, sizeof mine);
    all = calloc((size_t)total + 1, 1);
    assert_int_equal(c->ops->all_gather_v(c, all, mine, counts), OK);
    at = all;
    for (int r = 0; r < c->n_ranks; r++)
        for (int64_t i = 0; i < counts[r]; i++) assert_int_equal(*at++, 'a' + r);
    assert_int_equal(*at, 0);
    free(all);
    free(counts);
}

static void reduces(void **state)
{
    int64_t most[3] = { c->rank, -c->rank, 5 }, sum[3] = { c->rank, 1, INT64_C(1) << 40 };
    const int64_t n = c->n_ranks;

    (void)state;
    assert_int_equal(c->ops->all_reduce_max(c, most, 3), OK);
    assert_int_equal(most[0], n - 1);
    assert_int_equal(most[1], 0);
    assert_int_equal(most[2], 5);
    assert_int_equal(c->ops->all_reduce_sum(c, sum, 3), OK);
    assert_int_equal(sum[0], n * (n - 1) / 2);
    assert_int_equal(sum[1], n);
    assert_int_equal(sum[2], n << 40);
}

struct lists {
    int64_t send_bytes[64], send_offset[64], receive_bytes[64], receive_offset[64];
};

/* Rank a sends rank b (a + 2 b) mod 4 words "a·1000 + b"; several exchanges at once, on two channels, completed in reverse. */
static void exchanges(void **state)
{
    enum { N = 6, WORDS = 4 };
    static struct lists l[N];
    static int64_t out[N][64 * WORDS], in[N][64 * WORDS];
    struct comm_request q[N] = { { 0 } };
    const int me = c->rank;
    const int64_t takes = arena_n_takes();

    (void)state;
    assert_true(c->n_ranks <= 64);
    memset(in, 0, sizeof in);
    for (int k = 0; k < N; k++) {
        for (int r = 0; r < c->n_ranks; r++) {
            l[k].send_bytes[r] = (me + 2 * r) % 4 * 8;
            l[k].receive_bytes[r] = (r + 2 * me) % 4 * 8;
            l[k].send_offset[r] = l[k].receive_offset[r] = r * WORDS * 8;
            for (int i = 0; i < WORDS; i++) out[k][r * WORDS + i] = k * 1000000 + me * 1000 + r;
        }
        assert_int_equal(c->ops->exchange_start(c, &q[k], k % 2, out[k], l[k].send_bytes,
                                                l[k].send_offset, in[k], l[k].receive_bytes,
                                                l[k].receive_offset),
                         OK);
    }
    for (int k = N - 1; k >= 0; k--) {
        assert_int_equal(comm_wait(c, &q[k], "an exchange of the test"), OK);
        assert_null(q[k].state);
        for (int r = 0; r < c->n_ranks; r++)
            for (int i = 0; i < WORDS; i++)
                assert_int_equal(in[k][r * WORDS + i],
                                 i < (r + 2 * me) % 4 ? k * 1000000 + r * 1000 + me : 0);
    }
    assert_int_equal(arena_n_takes(), takes);
}

static void counts_that_do_not_agree_with_oneself_are_refused(void **state)
{
    static struct lists l;
    struct comm_request q = { 0 };
    char byte = 0;

    (void)state;
    memset(&l, 0, sizeof l);
    l.send_bytes[c->rank] = 1;
    assert_int_equal(c->ops->exchange_start(c, &q, 0, &byte, l.send_bytes, l.send_offset, &byte,
                                            l.receive_bytes, l.receive_offset),
                     E_COMM);
}

static void barriers(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) assert_int_equal(c->ops->barrier(c), OK);
}

static void one_communicator_a_process(void **state)
{
    struct comm *second = NULL;

    (void)state;
    assert_int_equal(comm_create(&second, 1000), E_COMM);
    assert_null(second);
}

/* Rank 1 stops; the others wait for it in a barrier. Exit code 42 when the wait ended as it should. */
__attribute__((noreturn)) static void stopped_peer(void)
{
    char silent[64];
    int bad = 0;

    if (c->rank == 1) {
        raise(SIGSTOP);
        _exit(1); /* mpirun wakes it before it ends it */
    }
    if (c->ops->barrier(c) != E_TIMEOUT) bad = 1;
    c->ops->roll_call(c, silent, sizeof silent);
    if (strcmp(silent, "1") != 0) bad = 1;
    fprintf(stderr, "rank %d: silent %s: %s\n", c->rank, silent, bad ? "WRONG" : "as it should be");
    c->ops->abort(c, bad ? 1 : 42);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_who_and_where),
        cmocka_unit_test(broadcasts),
        cmocka_unit_test(gathers),
        cmocka_unit_test(gathers_uneven_parts),
        cmocka_unit_test(reduces),
        cmocka_unit_test(exchanges),
        cmocka_unit_test(counts_that_do_not_agree_with_oneself_are_refused),
        cmocka_unit_test(barriers),
        cmocka_unit_test(one_communicator_a_process),
    };
    const int stopped = argc > 1 && strcmp(argv[1], "stopped") == 0;
    int fails;

    /* stopped: a busy machine must still find its ranks within it, and the test waits for as long */
    if (comm_create(&c, stopped ? 8000 : 30000) != OK) return 1;
    if (stopped) stopped_peer();
    fails = cmocka_run_group_tests(tests, NULL, NULL);
    if (fails) c->ops->abort(c, 1);
    comm_destroy(c);
    return 0;
}

/* USR1, TERM and INT set the flag and nothing else; a second INT ends the process; a blocked USR1 is delivered when caught. */
#include "cluster/signals.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* Sends itself these signals; exits 0 when the flag came with the first. */
static int end_of(const int *signals, int n, int block_first)
{
    const pid_t child = fork();
    int how = 0;

    if (child == 0) {
        sigset_t set;

        alarm(30);
        if (block_first) {
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            sigprocmask(SIG_BLOCK, &set, NULL);
            raise(SIGUSR1);
        }
        if (signals_catch() != OK) _exit(9);
        if (signals_stop_wanted() != (block_first != 0)) _exit(8);
        for (int i = 0; i < n; i++) {
            raise(signals[i]);
            if (!signals_stop_wanted()) _exit(7);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void one_is_a_request(void **state)
{
    static const int each[] = { SIGUSR1, SIGTERM, SIGINT };

    (void)state;
    for (int i = 0; i < 3; i++) assert_int_equal(end_of(&each[i], 1, 0), 0);
}

static void many_are_no_more(void **state)
{
    static const int many[] = { SIGUSR1, SIGTERM, SIGTERM, SIGUSR1, SIGINT, SIGTERM, SIGUSR1 };

    (void)state;
    assert_int_equal(end_of(many, 7, 0), 0);
}

static void a_second_int_ends_it(void **state)
{
    static const int twice[] = { SIGINT, SIGTERM, SIGINT };
    const int how = end_of(twice, 3, 0);

    (void)state;
    assert_true(WIFSIGNALED(how)); /* by the signal itself: 130 in a shell */
    assert_int_equal(WTERMSIG(how), SIGINT);
}

static void an_early_request_is_kept(void **state)
{
    (void)state;
    assert_int_equal(end_of(NULL, 0, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_a_request),
        cmocka_unit_test(many_are_no_more),
        cmocka_unit_test(a_second_int_ends_it),
        cmocka_unit_test(an_early_request_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

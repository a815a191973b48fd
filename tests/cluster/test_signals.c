/* USR1, TERM, INT and HUP set the flag and say so once; a second INT ends the process; a blocked USR1 is delivered when caught; a
 * HUP that was ignored stays so. */
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
    static const int each[] = { SIGUSR1, SIGTERM, SIGINT, SIGHUP };

    (void)state;
    for (int i = 0; i < 4; i++) assert_int_equal(end_of(&each[i], 1, 0), 0);
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

static void a_hangup_under_nohup_is_nothing(void **state)
{
    const pid_t child = fork();
    int how = 0;

    (void)state;
    if (child == 0) {
        alarm(30);
        signal(SIGHUP, SIG_IGN);
        if (signals_catch() != OK) _exit(9);
        raise(SIGHUP);
        _exit(signals_stop_wanted() ? 8 : 0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
}

/* What a child says on stderr, that is asked to stop by TERM, before its notice is known (early) or after, and then by USR1. */
static const char *said_by(int early, bool at_term, char text[512])
{
    int ends[2], how = 0;
    size_t n = 0;
    ssize_t got;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        alarm(30);
        dup2(ends[1], STDERR_FILENO);
        if (signals_catch() != OK) _exit(9);
        if (early) raise(SIGTERM);
        signals_notice("noted", at_term);
        raise(SIGTERM);
        if (write(STDERR_FILENO, "|", 1) != 1) _exit(8);
        raise(SIGUSR1);
        _exit(0);
    }
    close(ends[1]);
    while (n < 511 && (got = read(ends[0], text + n, 511 - n)) > 0) n += (size_t)got;
    close(ends[0]);
    text[n] = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
    return text;
}

static void a_request_is_acknowledged_once(void **state)
{
    char text[512];

    (void)state;
    assert_string_equal(said_by(0, true, text), "noted\n|");
    assert_string_equal(said_by(1, true, text), "noted\n|");
    assert_string_equal(said_by(0, false, text), "|noted\n"); /* of TERM nothing is said */
}

static void a_reader_that_goes_ends_nothing(void **state)
{
    const pid_t child = fork();
    int how = 0, ends[2];

    (void)state;
    if (child == 0) {
        alarm(30);
        if (pipe(ends) != 0 || signals_catch() != OK) _exit(9);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        signals_notice("noted", true);
        raise(SIGINT);
        _exit(signals_stop_wanted() ? 0 : 8);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_int_equal(how, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_a_request),
        cmocka_unit_test(many_are_no_more),
        cmocka_unit_test(a_second_int_ends_it),
        cmocka_unit_test(an_early_request_is_kept),
        cmocka_unit_test(a_hangup_under_nohup_is_nothing),
        cmocka_unit_test(a_request_is_acknowledged_once),
        cmocka_unit_test(a_reader_that_goes_ends_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

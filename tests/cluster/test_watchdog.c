/* The watchdog ends a process that stands still, even one that is busy in a loop, and spares one that is fed, one that was
 * stopped from outside and goes on, and one whose phase has a longer limit. Each case is a child process. */
#include "cluster/watchdog.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static void nap_ms(int ms)
{
    usleep((useconds_t)ms * 1000);
}

static char said[8192];

/* Runs body in a child, with its stderr in said; returns how it ended. meanwhile may disturb it. */
static int in_child(void (*body)(void), void (*meanwhile)(pid_t child))
{
    int ends[2], how;
    ssize_t n, total = 0;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        alarm(30); /* a watchdog that does not bite must not hang the test */
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        body();
        _exit(0);
    }
    close(ends[1]);
    if (meanwhile) meanwhile(child);
    while ((n = read(ends[0], said + total, sizeof said - 1 - (size_t)total)) > 0) total += n;
    said[total] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void spin(void)
{
    if (watchdog_start(NULL, 10000) != OK) _exit(9);
    watchdog_feed("a busy loop", 41, 200);
    for (volatile int i = 0;; i++) {
    }
}

static void a_busy_loop_is_ended(void **state)
{
    const int how = in_child(spin, NULL);

    (void)state;
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 1);
    assert_non_null(strstr(said, "warn: "));
    assert_non_null(strstr(said, "error: "));
    assert_non_null(strstr(said, "a busy loop of step 41"));
    assert_null(strstr(strstr(said, "warn: ") + 1, "warn: ")); /* once */
}

static void never_fed(void)
{
    if (watchdog_start(NULL, 100) != OK) _exit(9);
    pause();
}

static void one_never_fed_is_ended(void **state)
{
    const int how = in_child(never_fed, NULL);

    (void)state;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 1);
    assert_non_null(strstr(said, "start of step 0"));
}

static void fed(void)
{
    if (watchdog_start(NULL, 1000) != OK) _exit(9);
    for (int i = 0; i < 60; i++) {
        watchdog_feed("work", i, 0);
        nap_ms(25);
    }
    watchdog_feed("a long save", 60, 20000);
    nap_ms(1500);
    watchdog_stop();
    watchdog_stop();
    nap_ms(1200); /* stopped: nothing bites */
    if (watchdog_start(NULL, 1000) != OK) _exit(9);
    watchdog_stop();
}

static void one_fed_is_spared(void **state)
{
    const int how = in_child(fed, NULL);

    (void)state;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_string_equal(said, "");
}

static void waiting(void)
{
    if (watchdog_start(NULL, 1500) != OK) _exit(9);
    watchdog_feed("waiting", 1, 0);
    for (int i = 0; i < 25; i++) nap_ms(20); /* most of them after the stop */
    watchdog_stop();
}

static void stop_and_go_on(pid_t child)
{
    nap_ms(150);
    kill(child, SIGSTOP);
    nap_ms(2500);
    kill(child, SIGCONT);
}

static void one_stopped_from_outside_goes_on(void **state)
{
    const int how = in_child(waiting, stop_and_go_on);

    (void)state;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

static void wrong_use_is_refused(void **state)
{
    (void)state;
    assert_int_equal(watchdog_start(NULL, 0), E_FAILED);
    assert_int_equal(watchdog_start(NULL, 60000), OK);
    assert_int_equal(watchdog_start(NULL, 60000), E_FAILED);
    watchdog_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_busy_loop_is_ended), cmocka_unit_test(one_never_fed_is_ended),
        cmocka_unit_test(one_fed_is_spared),    cmocka_unit_test(one_stopped_from_outside_goes_on),
        cmocka_unit_test(wrong_use_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The launcher, on children that are this program itself: exit codes, restarts while there is progress, requests to stop,
 * grace, orphans; with mpirun where there is one. */
#include "cluster/launch.h"
#include "cluster/topology.h"
#include "kernels/base/clock.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "cluster/signals.h"

static char folder[] = "/tmp/test_launch.XXXXXX", note[64], self[4000];

/* ---- the children: test_launch child WHAT NOTE [CODE]; each appends a line to NOTE ------------- */

static int64_t lines_of(const char *path)
{
    FILE *f = fopen(path, "r");
    int64_t n = 0;
    int byte;

    if (!f) return 0;
    while ((byte = getc(f)) != EOF) n += byte == '\n';
    fclose(f);
    return n;
}

static int say(const char *path, const char *word)
{
    FILE *f = fopen(path, "a");

    if (!f) return 9;
    fprintf(f, "%s %d\n", word, (int)getpid());
    return fclose(f) ? 9 : 0;
}

static void sleep_while(int (*go_on)(void))
{
    for (int i = 0; i < 3000 && (!go_on || go_on()); i++) usleep(10000); /* half a minute at most */
}

static int not_stopped(void)
{
    return !signals_stop_wanted();
}

static int child(int argc, char **argv)
{
    const char *what = argv[2], *path = argv[3];
    const int code = argc > 4 ? atoi(argv[4]) : 0;

    if (strcmp(what, "exits") == 0) return say(path, what) ? 9 : code;
    if (strcmp(what, "dies") == 0) {
        say(path, what);
        raise(SIGKILL);
    }
    if (strcmp(what, "fails_twice") == 0) { /* and then succeeds */
        say(path, what);
        return lines_of(path) > 2 ? 0 : 1;
    }
    if (strcmp(what, "obeys") == 0) {
        if (signals_catch() != OK) return 9;
        say(path, "ready");
        sleep_while(not_stopped);
        return say(path, "asked") ? 9 : 85;
    }
    if (strcmp(what, "ignores") == 0) { /* neither USR1 nor TERM moves it */
        signal(SIGUSR1, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        say(path, "ready");
        sleep_while(NULL);
    }
    if (strcmp(what, "leaves") == 0) { /* an orphan that would live on */
        if (fork() == 0) {
            setsid();
            say(path, "orphan");
            sleep_while(NULL);
            _exit(0);
        }
        while (lines_of(path) < 1) usleep(1000);
        return 0;
    }
    return 9;
}

/* ---- one launch -------------------------------------------------------------------------------- */

static int64_t lines_are_steps(void *path)
{
    return lines_of(path);
}

static struct launch_options options(char **words)
{
    return (struct launch_options){
        .n_ranks = 1, .argv = words, .grace_ms = 20000, .restarts = 3, .pause_ms = 1
    };
}

static int run(const char *what, const char *code, int64_t restarts, int counts)
{
    char *words[] = { self, "child", (char *)(uintptr_t)what, note, (char *)(uintptr_t)code, NULL };
    struct launch_options o = options(words);
    int exit_code = -1;

    unlink(note);
    o.restarts = restarts;
    if (counts) {
        o.progress = lines_are_steps;
        o.arg = note;
    }
    assert_int_equal(launch_run(&o, &exit_code), OK);
    return exit_code;
}

static void final_codes_pass_and_end_it(void **state)
{
    static const char *const codes[] = { "0", "2", "3", "4", "5", "85" };

    (void)state;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(run("exits", codes[i], 3, 0), atoi(codes[i]));
        assert_int_equal(lines_of(note), 1);
    }
}

static void failures_are_tried_again(void **state)
{
    (void)state;
    assert_int_equal(run("exits", "1", 0, 0), 1);
    assert_int_equal(lines_of(note), 1);
    assert_int_equal(run("exits", "1", 3, 0), 1);
    assert_int_equal(lines_of(note), 4);
    assert_int_equal(run("dies", NULL, 2, 0), 137);
    assert_int_equal(lines_of(note), 3);
    assert_int_equal(run("fails_twice", NULL, 1, 1),
                     0); /* each made progress: one in a row is enough */
    assert_int_equal(lines_of(note), 3);
}

static void restarts_may_have_words_of_their_own(void **state)
{
    char *words[] = { self, "child", "exits", note, "1", NULL };
    char *other[] = { self, "child", "exits", note, "5", NULL };
    struct launch_options o = options(words);
    int exit_code = -1;

    (void)state;
    o.again = other;
    assert_int_equal(launch_run(&o, &exit_code), OK);
    assert_int_equal(exit_code, 5);
}

static void a_program_that_is_not_there(void **state)
{
    char *words[] = { "/no/such/program", NULL };
    const struct launch_options o = options(words);
    int exit_code = -1;

    (void)state;
    assert_int_equal(launch_run(&o, &exit_code), OK);
    assert_int_equal(exit_code, 3);
}

static int
    ignored; /* a signal that the launcher is started with ignored, as by nohup, and gets first; 0: none */

/* Runs the launch in a process of its own, sends it a signal once n children are ready, and returns how it ended. */
static int disturbed(const char *what, int n_ranks, int64_t grace_ms, int signal_number, int times,
                     int n_ready)
{
    pid_t launcher;
    int how = 0;

    unlink(note);
    launcher = fork();
    if (launcher == 0) {
        char *words[] = { self, "child", (char *)(uintptr_t)what, note, NULL };
        struct launch_options o = options(words);
        int exit_code = -1;

        alarm(60);
        if (ignored) signal(ignored, SIG_IGN);
        o.n_ranks = n_ranks;
        o.grace_ms = grace_ms;
        o.progress = lines_are_steps; /* so that a restart would follow a failure */
        o.arg = note;
        _exit(launch_run(&o, &exit_code) == OK ? exit_code : 99);
    }
    for (int i = 0; i < 2000 && lines_of(note) < n_ready; i++) usleep(10000);
    assert_int_equal(lines_of(note), n_ready);
    if (ignored) {
        kill(launcher, ignored);
        usleep(700000); /* three looks of the launcher */
        assert_int_equal(lines_of(note), n_ready);
        assert_int_equal(waitpid(launcher, &how, WNOHANG), 0);
    }
    for (int i = 0; i < times; i++) {
        kill(launcher, signal_number);
        usleep(300000);
    }
    assert_int_equal(waitpid(launcher, &how, 0), launcher);
    return how;
}

static int none_alive(void)
{
    char word[32];
    int pid, alive = 0;
    FILE *f = fopen(note, "r");

    if (!f) return 0;
    while (fscanf(f, "%31s %d", word, &pid) == 2) {
        char path[64];
        char letter = 'X';
        FILE *stat;

        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        stat = fopen(path, "r");
        if (!stat) continue;
        if (fscanf(stat, "%*d (%*[^)]) %c", &letter) == 1 && letter != 'Z' && letter != 'X')
            alive++;
        fclose(stat);
    }
    fclose(f);
    return alive == 0;
}

static void a_request_reaches_the_child(void **state)
{
    static const int each[] = { SIGTERM, SIGINT, SIGUSR1, SIGHUP };

    (void)state;
    for (int i = 0; i < 4; i++) {
        const int how = disturbed("obeys", 1, 20000, each[i], 1, 1);

        assert_true(WIFEXITED(how));
        assert_int_equal(WEXITSTATUS(how), 85);
        assert_int_equal(lines_of(note), 2);
    }
}

static void a_hangup_under_nohup_is_nothing(void **state)
{
    int how;

    (void)state;
    ignored = SIGHUP;
    how = disturbed("obeys", 1, 20000, SIGTERM, 1, 1);
    ignored = 0;
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 85);
}

static void a_second_interrupt_hurries(void **state)
{
    const int how = disturbed("obeys", 1, 60000, SIGINT, 2, 1);

    (void)state;
    assert_true(WIFEXITED(how)); /* it obeyed the first already */
    assert_int_equal(WEXITSTATUS(how), 85);
}

static void what_does_not_obey_is_killed(void **state)
{
    const int how = disturbed("ignores", 1, 100, SIGTERM, 1, 1);

    (void)state;
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 137);
    assert_true(none_alive());
}

static void no_orphan_is_left(void **state)
{
    (void)state;
    assert_int_equal(run("leaves", NULL, 0, 0), 0);
    assert_int_equal(lines_of(note), 1);
    assert_true(none_alive());
}

static void a_killed_launcher_takes_the_child_along(void **state)
{
    const int how = disturbed("obeys", 1, 20000, SIGKILL, 1, 1);

    (void)state;
    assert_true(WIFSIGNALED(how));
    for (int i = 0; i < 500 && !none_alive(); i++) usleep(10000);
    assert_true(none_alive());
}

static void wrong_use_is_refused(void **state)
{
    char *words[] = { self, NULL };
    struct launch_options o = options(words);
    char *path = strdup(getenv("PATH"));
    int exit_code = -1;

    (void)state;
    o.n_ranks = 0;
    assert_int_equal(launch_run(&o, &exit_code), E_USAGE);
    o.n_ranks = 2;
    setenv("PATH", "/nowhere", 1);
    assert_int_equal(launch_run(&o, &exit_code), E_NO_DEVICE);
    setenv("PATH", path, 1);
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    assert_int_equal(launch_run(&o, &exit_code), E_USAGE);
    unsetenv("OMPI_COMM_WORLD_SIZE");
    free(path);
}

static int mpirun_is_there(void)
{
#ifdef WITH_MPI
    return system("command -v mpirun >/dev/null 2>&1") == 0;
#else
    return 0;
#endif
}

static void ranks_get_the_request_too(void **state)
{
    int how;

    (void)state;
    if (!mpirun_is_there()) skip();
    how = disturbed("obeys", 3, 20000, SIGTERM, 1, 3);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 85);
    assert_true(none_alive());
}

static void a_killed_launcher_takes_the_ranks_along(void **state)
{
    (void)state;
    if (!mpirun_is_there()) skip();
    disturbed("ignores", 2, 20000, SIGKILL, 1, 2);
    for (int i = 0; i < 1500 && !none_alive(); i++) usleep(10000);
    assert_true(none_alive());
}

static int setup(void **state)
{
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    (void)state;
    if (n < 0 || !mkdtemp(folder)) return 1;
    self[n] = 0;
    snprintf(note, sizeof note, "%s/note", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(note);
    return rmdir(folder);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(final_codes_pass_and_end_it),
        cmocka_unit_test(failures_are_tried_again),
        cmocka_unit_test(restarts_may_have_words_of_their_own),
        cmocka_unit_test(a_program_that_is_not_there),
        cmocka_unit_test(a_request_reaches_the_child),
        cmocka_unit_test(a_hangup_under_nohup_is_nothing),
        cmocka_unit_test(a_second_interrupt_hurries),
        cmocka_unit_test(what_does_not_obey_is_killed),
        cmocka_unit_test(no_orphan_is_left),
        cmocka_unit_test(a_killed_launcher_takes_the_child_along),
        cmocka_unit_test(wrong_use_is_refused),
        cmocka_unit_test(ranks_get_the_request_too),
        cmocka_unit_test(a_killed_launcher_takes_the_ranks_along),
    };

    if (argc > 3 && strcmp(argv[1], "child") == 0) return child(argc, argv);
    return cmocka_run_group_tests(tests, setup, teardown);
}

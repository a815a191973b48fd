/* verdict SECONDS PROGRAM [ARGUMENT]…: what a test on the emulator makes of a mutant, in one word, and the seconds of a processor
 * it took. The first complaint ends it: report (the emulator's), fault, numbers (the test's own), time (none within that many
 * seconds); or survived. tests/emu/mutate.sh asks. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "verdict: %s: %s\n", what, why);
    exit(2);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What a line of a test's output says against it; NULL: nothing. */
static const char *verdict_of(const char *line)
{
    if (strncmp(line, "emu: FAULT", 10) == 0) return "fault";
    if (strncmp(line, "emu: HOST-OOB", 13) == 0)
        return NULL; /* no kernel's; planted, and counted */
    if (strncmp(line, "emu: ", 5) == 0) return "report";
    if (strstr(line, "/tests/") || strstr(line, "Assertion")) return "numbers";
    return NULL;
}

enum { PATIENCE = 20 }; /* of the clock for the processor's time: the machine may be busy */

/* Reads until there is a verdict, the end, or no time left. */
static const char *watch(int fd, double until)
{
    char line[1024];
    size_t n = 0;

    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        const double left = until - now_s();
        const char *verdict;
        char c;

        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) == 0) return "time";
        if (read(fd, &c, 1) != 1) return NULL;
        if (c != '\n' && n + 1 < sizeof line) {
            line[n++] = c;
            continue;
        }
        line[n] = 0;
        n = 0;
        if ((verdict = verdict_of(line))) return verdict;
    }
}

/* Prints the verdict, and the seconds. */
static void run(int seconds, char **command)
{
    const struct rlimit limit = { (rlim_t)seconds, (rlim_t)seconds + 1 };
    const char *verdict;
    struct rusage used;
    int ends[2], status = 0;

    if (pipe(ends) != 0) fail("run", "no pipe");
    const pid_t pid = fork();

    if (pid < 0) fail("run", "no process");
    if (pid == 0) {
        setpgid(0, 0);
        setrlimit(RLIMIT_CPU, &limit);
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        execv(command[0], command);
        _exit(127);
    }
    setpgid(pid, pid);
    close(ends[1]);
    verdict = watch(ends[0], now_s() + PATIENCE * (double)seconds);
    if (verdict) kill(-pid, SIGKILL);
    if (waitpid(pid, &status, 0) != pid) fail("run", "lost the test");
    if (!verdict && WIFEXITED(status) && WEXITSTATUS(status) == 127)
        fail(command[0], "did not run");
    if (!verdict && WIFSIGNALED(status)) verdict = WTERMSIG(status) == SIGXCPU ? "time" : "fault";
    if (!verdict) verdict = status ? "numbers" : "survived";
    getrusage(RUSAGE_CHILDREN, &used);
    printf("%s %ld\n", verdict, (long)used.ru_utime.tv_sec + (long)used.ru_stime.tv_sec + 1);
}

int main(int argc, char **argv)
{
    if (argc < 3) fail("usage", "SECONDS PROGRAM [ARGUMENT]…");
    run(atoi(argv[1]), argv + 2);
    return 0;
}

#include "cluster/launch.h"

#include "cluster/signals.h"
#include "cluster/topology.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATH_ROOM = 4096, ARGUMENTS_MAX = 4096 };

static const int64_t second_ns = 1000000000;
static const int64_t tick_ns = 200000000; /* between looks at the clock */
/* between requests to stop: a rank may have missed one while it started */
static const int64_t repeat_ns = 2000000000;
static const int64_t term_ns =
    5000000000; /* from TERM until KILL; mpirun needs about two seconds */
static const int64_t pause_most_ms = 30000;
static const int64_t alone_ns =
    15000000000; /* mpirun without ranks: starting and ending take a second or two */

struct launch {
    const struct launch_options *o;
    char mpirun[PATH_ROOM]; /* empty: one rank, directly */
    char *const *argv;      /* of the next start */
    sigset_t caught, before;
    struct sigaction
        pipe; /* of SIGPIPE, before: the words of this process may have lost their reader, as tee at the same INT */
    pid_t child;
    int64_t stop_ns;  /* when the first request to stop came; 0: none */
    int64_t asked_ns; /* when the ranks were told last */
    int64_t term_ns;  /* when TERM was sent; 0: not yet */
    int64_t alone_ns; /* since when mpirun has had no living rank; 0: it has */
    bool hurry;       /* a second INT */
};

/* ---- what to run ----------------------------------------------------------------------------- */

#ifdef WITH_MPI
static bool find_program(const char *name, char path[PATH_ROOM])
{
    const char *at = getenv("PATH");

    while (at && *at) {
        const size_t n = strcspn(at, ":");

        if (n > 0 && snprintf(path, PATH_ROOM, "%.*s/%s", (int)n, at, name) < PATH_ROOM &&
            access(path, X_OK) == 0)
            return true;
        at += n + (at[n] == ':');
    }
    return false;
}
#endif

static enum status choose(struct launch *l)
{
    if (l->o->n_ranks < 1) FAIL(E_USAGE, "launch on %d ranks", l->o->n_ranks);
    if (topology_job().launcher)
        FAIL(E_USAGE, "launch inside %s: start the command itself there", topology_job().launcher);
    if (l->o->n_ranks == 1) return OK;
#ifdef WITH_MPI
    if (find_program("mpirun", l->mpirun) || find_program("orterun", l->mpirun)) return OK;
    FAIL(E_NO_DEVICE, "no mpirun in PATH, which %d ranks need: apt-get install openmpi-bin",
         l->o->n_ranks);
#else
    FAIL(E_NO_DEVICE,
         "this build has no MPI, which %d ranks need: apt-get install libopenmpi-dev openmpi-bin, "
         "and build again",
         l->o->n_ranks);
#endif
}

/* What Open MPI needs for many ranks on one node, unless the user has said otherwise. */
static void set_environment(void)
{
    const char *nodes = getenv("SLURM_JOB_NUM_NODES");

    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    }
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
    if (nodes && strcmp(nodes, "1") != 0) return; /* mpirun may spread over the allocation */
    setenv("OMPI_MCA_btl_tcp_if_include", "lo", 0);
    setenv("OMPI_MCA_oob_tcp_if_include", "lo", 0);
}

/* In the child. Never returns. */
static void become_program(const struct launch *l, pid_t parent)
{
    const bool direct = !l->mpirun[0];
    static char quiet[] = "--quiet", np[] = "-np", number[16];
    char *argv[ARGUMENTS_MAX + 8];
    sigset_t mask = l->before;
    int n = 0, null;

    setpgid(0, 0); /* a terminal's INT is for the launcher alone */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1); /* it died before that took hold */
    null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    /* mpirun sets its own handler; until then USR1 must not kill it. A rank has it wait until signals_catch. */
    if (direct)
        sigaddset(&mask, SIGUSR1);
    else
        signal(SIGUSR1, SIG_IGN);
    sigaction(SIGPIPE, &l->pipe, NULL);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    if (!direct) {
        set_environment();
        snprintf(number, sizeof number, "%d", l->o->n_ranks);
        argv[n++] = (char *)(uintptr_t)l->mpirun;
        argv[n++] = quiet;
        argv[n++] = np;
        argv[n++] = number;
    }
    for (int i = 0; l->argv[i] && i < ARGUMENTS_MAX; i++) argv[n++] = l->argv[i];
    argv[n] = NULL;
    execv(argv[0], argv);
    log_error("cannot start %s: %s", argv[0], strerror(errno));
    _exit(status_exit_code(E_NO_DEVICE));
}

static enum status start(struct launch *l)
{
    const pid_t parent = getpid(), child = fork();

    if (child < 0) FAIL(E_FAILED, "cannot start a process: %s", strerror(errno));
    if (child == 0) become_program(l, parent);
    setpgid(child, child); /* whoever of the two is first */
    l->child = child;
    return OK;
}

/* ---- until it ends --------------------------------------------------------------------------- */

static void note_signal(struct launch *l, int signal_number)
{
    if (l->stop_ns && signal_number == SIGINT) l->hurry = true;
    if (l->stop_ns) return;
    l->stop_ns = clock_ns();
    log_info("stop requested: the ranks save and end; in %.0f s at most",
             (double)l->o->grace_ms * 1e-3);
}

/* Asks, then insists, then ends it. */
static void press(struct launch *l)
{
    const int64_t now = clock_ns();

    if (!l->stop_ns) return;
    if (l->term_ns) {
        if (now - l->term_ns > term_ns) kill(-l->child, SIGKILL);
    } else if (l->hurry || (now - l->stop_ns) / 1000000 >= l->o->grace_ms) {
        log_warn("%s: ending the ranks", l->hurry ? "second interrupt" : "the grace is over");
        l->term_ns = now;
        kill(l->child, SIGTERM);
    } else if (!l->asked_ns || now - l->asked_ns > repeat_ns) {
        l->asked_ns = now;
        kill(l->child, SIGUSR1);
    }
}

/* Waits for a caught signal until a tick has passed; 0 when none came. */
static int next_signal(const struct launch *l)
{
    const struct timespec tick = { .tv_nsec = tick_ns };
    const int got = sigtimedwait(&l->caught, NULL, &tick);

    return got < 0 ? 0 : got;
}

/* This process adopts what its children leave behind (PR_SET_CHILD_SUBREAPER); so it knows them, and ends them. */
static void end_orphans(void)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    for (int round = 0; round < 50; round++) {
        const struct timespec nap = { .tv_nsec = 20000000 };
        FILE *f;
        int pid, n = 0;

        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
        f = fopen(path, "re");
        if (!f) return; /* a kernel without it: PDEATHSIG and mpirun must do */
        while (fscanf(f, "%d", &pid) == 1 && ++n) kill(pid, SIGKILL);
        fclose(f);
        if (!n) return;
        nanosleep(&nap, NULL);
    }
    log_warn("a process of the run cannot be ended");
}

/* Whether the process is there and not a zombie. */
static bool is_alive(int pid)
{
    char path[64], state = 'Z';
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (!f) return false;
    if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1) state = 'R'; /* unknown: no reason to act */
    fclose(f);
    return state != 'Z' && state != 'X';
}

/* Whether mpirun has a living child; true where the kernel does not say. */
static bool has_ranks(const struct launch *l)
{
    char path[64];
    bool alive = false;
    FILE *f;
    int pid;

    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)l->child, (int)l->child);
    f = fopen(path, "re");
    if (!f) return true;
    while (!alive && fscanf(f, "%d", &pid) == 1) alive = is_alive(pid);
    fclose(f);
    return alive;
}

/* A rank killed while it still greets mpirun can leave Open MPI 4.1 waiting for ever, with all ranks dead. */
static void end_without_ranks(struct launch *l)
{
    const int64_t now = clock_ns();

    if (!*l->mpirun || has_ranks(l)) {
        l->alone_ns = 0;
    } else if (!l->alone_ns) {
        l->alone_ns = now;
    } else if (now - l->alone_ns > alone_ns) {
        log_warn("mpirun has no living rank and does not end: ending it");
        kill(-l->child, SIGKILL);
    }
}

static int wait_for_end(struct launch *l)
{
    l->alone_ns = 0;
    for (;;) {
        const int got = next_signal(l);
        int how = 0;

        if (got && got != SIGCHLD) note_signal(l, got);
        press(l);
        end_without_ranks(l);
        for (pid_t p; (p = waitpid(-1, &how, WNOHANG)) > 0;) {
            if (p != l->child) continue; /* an adopted one */
            end_orphans();
            return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
        }
    }
}

/* ---- again ----------------------------------------------------------------------------------- */

static bool is_final(int code)
{
    static const enum status final[] = {
        OK, E_USAGE, E_NO_DEVICE, E_CORRUPT, E_DIVERGED, E_STOPPED
    };

    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (code == status_exit_code(final[i])) return true;
    return false;
}

/* Sleeps before restart number n in a row; a request to stop ends it. */
static void pause_before(struct launch *l, int64_t n)
{
    int64_t ms = l->o->pause_ms;
    const int64_t begin = clock_ns();

    for (int64_t i = 1; i < n && ms < pause_most_ms; i++) ms *= 2;
    if (ms > pause_most_ms) ms = pause_most_ms;
    while (!l->stop_ns && clock_ns() - begin < ms * (second_ns / 1000)) {
        const int got = next_signal(l);

        if (got && got != SIGCHLD) note_signal(l, got);
    }
}

static enum status run_until_final(struct launch *l, int *exit_code)
{
    const struct launch_options *o = l->o;
    int64_t best = o->progress ? o->progress(o->arg) : 0, in_a_row = 0;

    for (;;) {
        int64_t now;

        TRY(start(l));
        *exit_code = wait_for_end(l);
        if (is_final(*exit_code) || l->stop_ns) return OK;
        now = o->progress ? o->progress(o->arg) : 0;
        in_a_row = now > best ? 0 : in_a_row;
        best = now > best ? now : best;
        if (in_a_row >= o->restarts) {
            log_error("the run ended with code %d, %lld restarts in a row brought no progress: "
                      "giving up at step %lld",
                      *exit_code, (long long)in_a_row, (long long)best);
            return OK;
        }
        in_a_row++;
        log_warn("the run ended with code %d at step %lld: starting it again (%lld of %lld without "
                 "progress)",
                 *exit_code, (long long)best, (long long)in_a_row, (long long)o->restarts);
        if (o->again) l->argv = o->again;
        pause_before(l, in_a_row);
        if (l->stop_ns) return OK;
    }
}

enum status launch_run(const struct launch_options *o, int *exit_code)
{
    static const int caught[] = { SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGCHLD };
    const struct sigaction ignore = { .sa_handler = SIG_IGN };
    struct launch l = { .o = o, .argv = o->argv };
    enum status s;

    TRY(choose(&l));
    for (int n = 0; o->argv[n]; n++)
        if (n >= ARGUMENTS_MAX) FAIL(E_USAGE, "more than %d arguments", ARGUMENTS_MAX);
    sigemptyset(&l.caught);
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) sigaddset(&l.caught, caught[i]);
    if (signals_is_ignored(SIGHUP)) sigdelset(&l.caught, SIGHUP); /* under nohup */
    if (sigprocmask(SIG_BLOCK, &l.caught, &l.before) != 0 ||
        sigaction(SIGPIPE, &ignore, &l.pipe) != 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        FAIL(E_FAILED, "launch: %s", strerror(errno));
    s = run_until_final(&l, exit_code);
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    sigaction(SIGPIPE, &l.pipe, NULL);
    sigprocmask(SIG_SETMASK, &l.before, NULL);
    return s;
}

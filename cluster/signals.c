#include "cluster/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NOTICE_ROOM = 256 };

static volatile sig_atomic_t wanted, interrupts, silent_term;
static char notice[NOTICE_ROOM];
static atomic_int notice_bytes; /* 0: nothing to say; whoever takes them says it */

/* By calls alone that a handler may make. */
static void say_notice(void)
{
    const int n = atomic_exchange(&notice_bytes, 0);
    const ssize_t ignored = n > 0 ? write(STDERR_FILENO, notice, (size_t)n) : 0;

    (void)ignored;
}

static void handle(int signal_number)
{
    const int kept = errno;

    wanted = 1;
    if (signal_number == SIGINT && ++interrupts > 1) {
        /* dies of the signal itself, once the handler has returned: 130 in a shell */
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    if (signal_number != SIGTERM || !silent_term) say_notice();
    errno = kept;
}

void signals_notice(const char *line, bool at_term)
{
    /* below a terminal's ^C and line of progress */
    const char *begin = isatty(STDERR_FILENO) == 1 ? "\n" : "";
    const int n = snprintf(notice, sizeof notice, "%s%s\n", begin, line);

    silent_term = !at_term;
    atomic_store(&notice_bytes, n < NOTICE_ROOM ? n : NOTICE_ROOM - 1);
    if (wanted) say_notice();
}

void signals_silence(void)
{
    atomic_store(&notice_bytes, 0);
}

bool signals_is_ignored(int signal_number)
{
    struct sigaction before;

    return sigaction(signal_number, NULL, &before) == 0 && before.sa_handler == SIG_IGN;
}

enum status signals_catch(void)
{
    static const int caught[] = { SIGUSR1, SIGTERM, SIGINT, SIGHUP };
    struct sigaction a = { .sa_handler = handle, .sa_flags = SA_RESTART };
    sigset_t set;

    sigemptyset(&a.sa_mask);
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        if (caught[i] == SIGHUP && signals_is_ignored(SIGHUP)) continue;
        if (sigaction(caught[i], &a, NULL) != 0)
            FAIL(E_FAILED, "cannot catch signal %d: %s", caught[i], strerror(errno));
        sigaddset(&set, caught[i]);
    }
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_UNBLOCK, &set, NULL) != 0)
        FAIL(E_FAILED, "cannot unblock signals: %s", strerror(errno));
    return OK;
}

enum status signals_release(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    if (sigprocmask(SIG_UNBLOCK, &set, NULL) != 0)
        FAIL(E_FAILED, "cannot unblock signals: %s", strerror(errno));
    return OK;
}

bool signals_stop_wanted(void)
{
    return wanted;
}

#include "cluster/signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static volatile sig_atomic_t wanted, interrupts;

static void handle(int signal_number)
{
    wanted = 1;
    if (signal_number == SIGINT && ++interrupts > 1) {
        /* dies of the signal itself, once the handler has returned: 130 in a shell */
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
}

enum status signals_catch(void)
{
    static const int caught[] = { SIGUSR1, SIGTERM, SIGINT };
    struct sigaction a = { .sa_handler = handle, .sa_flags = SA_RESTART };
    sigset_t set;

    sigemptyset(&a.sa_mask);
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        if (sigaction(caught[i], &a, NULL) != 0)
            FAIL(E_FAILED, "cannot catch signal %d: %s", caught[i], strerror(errno));
        sigaddset(&set, caught[i]);
    }
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

/* emu_set_strict: host code that touches device memory ends the program and is named; the ways in that
 * are meant for it stay open. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/emu/device_memory.h"

enum { BYTES = 5000 };

/* What a process says that takes a buffer, unlocks and locks n times, and then touches it or not. */
static void run(int n_unlocks, bool touch, const char *wanted)
{
    static char text[4096];
    int end[2], status = 0;
    pid_t child;
    ssize_t n;

    fflush(NULL);
    if (pipe(end) != 0) exit(1);
    child = fork();
    if (child < 0) exit(1);
    if (child == 0) {
        char host[BYTES];
        volatile char *p;

        dup2(end[1], STDERR_FILENO);
        emu_set_strict();
        p = emu_take(BYTES, "secret", true);
        for (int i = 0; i < n_unlocks; i++) emu_unlock();
        if (n_unlocks > 0) p[BYTES - 1] = 1;
        for (int i = 0; i < n_unlocks; i++) emu_lock();
        if (!emu_read(host, (const void *)(uintptr_t)p, BYTES)) _exit(2);
        if (host[BYTES - 1] != (n_unlocks > 0)) _exit(3);
        if (touch) p[0] = 1;
        emu_give((void *)(uintptr_t)p);
        _exit(emu_reports() > 0 ? 4 : 0);
    }
    close(end[1]);
    n = read(end[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(end[0]);
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (touch ? 1 : 0));
    CHECK(strstr(text, wanted) != NULL);
}

int main(void)
{
    run(0, false, "");
    run(1, false, "");
    run(2, false, "");
    run(0, true, "host code touches device buffer 'secret' byte 0 of 5000 at strict.c:");
    run(2, true, "host code touches device buffer 'secret'");
    return check_done("emu_strict");
}

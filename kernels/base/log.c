#include "kernels/base/log.h"

#include "kernels/base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    enum log_level level;
    int rank, n_ranks;
    int fd;
} log_state = { .level = LOG_INFO, .rank = 0, .n_ranks = 1, .fd = -1 };

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_set_level(enum log_level level)
{
    log_state.level = level;
}

void log_set_rank(int rank, int n_ranks)
{
    log_state.rank = rank;
    log_state.n_ranks = n_ranks;
}

void log_set_file(int fd)
{
    log_state.fd = fd;
}

bool log_is_root(void)
{
    return log_state.rank == 0;
}

/* A log line that cannot be written has nowhere to be reported. */
static void put(int fd, const char *p, size_t n)
{
    const ssize_t ignored = write(fd, p, n);

    (void)ignored;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char line[1400], time[CLOCK_TEXT];
    const size_t room = sizeof line - 1; /* one for the newline */
    int n;
    va_list ap;

    if (level > log_state.level) return;
    n = snprintf(line, room, "%s ", clock_text(clock_wall_ns(), time));
    if (log_state.n_ranks > 1) n += snprintf(line + n, room - (size_t)n, "[%d] ", log_state.rank);
    if (level != LOG_INFO) n += snprintf(line + n, room - (size_t)n, "%s: ", level_names[level]);
    va_start(ap, fmt);
    vsnprintf(line + n, room - (size_t)n, fmt, ap);
    va_end(ap);
    for (char *c = line; *c; c++) /* names from outside must not forge lines or drive a terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    strcat(line, "\n");
    put(STDERR_FILENO, line, strlen(line));
    if (log_state.fd >= 0) put(log_state.fd, line, strlen(line));
}

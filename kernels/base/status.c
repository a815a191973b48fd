#include "kernels/base/status.h"

#include "kernels/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct row {
    const char *text;
    int exit_code;
};

#define STATUS_ROW(name, text, exit_code) [name] = { text, exit_code },
static const struct row rows[STATUS_COUNT] = { STATUS_LIST(STATUS_ROW) };
#undef STATUS_ROW

const char *status_text(enum status s)
{
    return s < STATUS_COUNT ? rows[s].text : "unknown status";
}

int status_exit_code(enum status s)
{
    return s < STATUS_COUNT ? rows[s].exit_code : 1;
}

static _Thread_local char *held; /* not owned; NULL: failures are logged */

void status_hold(char text[STATUS_TEXT])
{
    held = text;
    if (text) text[0] = 0;
}

static void tell(const char *line)
{
    if (!held)
        log_error("%s", line);
    else if (!held[0])
        snprintf(held, STATUS_TEXT, "%s", line);
}

void status_release(char text[STATUS_TEXT])
{
    if (text[0]) tell(text);
    text[0] = 0;
}

enum status status_fail(enum status s, const char *file, int line, const char *fmt, ...)
{
    char text[STATUS_TEXT];
    const int n = snprintf(text, sizeof text, "%s: ", status_text(s));
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    tell(text);
    log_debug("decided at %s:%d", file, line);
    return s;
}

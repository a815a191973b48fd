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

enum status status_fail(enum status s, const char *file, int line, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    log_error("%s: %s", status_text(s), text);
    log_debug("decided at %s:%d", file, line);
    return s;
}

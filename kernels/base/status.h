/* What a function that can fail returns, and how a failure travels.
 *
 * The function that decides a failure says so once, with FAIL(); everyone above it only passes
 * the code on with TRY(). One failure, one log line, on the rank where it happened.
 * The third column is the exit code of the program when the status reaches main(). */
#ifndef KERNELS_BASE_STATUS_H
#define KERNELS_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#define STATUS_LIST(X)                                                                             \
    X(OK, "ok", 0)                                                                                 \
    X(E_SHAPE, "shapes do not agree", 1)                                                           \
    X(E_MEMORY, "out of memory", 1)                                                                \
    X(E_IO, "input or output failed", 1)                                                           \
    X(E_COMM, "communication failed", 1)                                                           \
    X(E_TIMEOUT, "waited too long", 1)                                                             \
    X(E_FAILED, "failed", 1)                                                                       \
    X(E_USAGE, "wrong usage", 2)                                                                   \
    X(E_CONFIG, "wrong configuration", 2)                                                          \
    X(E_MISSING, "not there", 2)                                                                   \
    X(E_DEVICE, "device call failed", 3)                                                           \
    X(E_NO_DEVICE, "device or dependency not available", 3)                                        \
    X(E_CORRUPT, "data or checkpoint corrupt", 4)                                                  \
    X(E_DIVERGED, "training diverged", 5)                                                          \
    X(E_BUDGET, "budget spent", 2)                                                                 \
    X(E_STOPPED, "stopped on request; resumable", 85)

#define STATUS_ENUM(name, text, exit_code) name,
enum status { STATUS_LIST(STATUS_ENUM) STATUS_COUNT };
#undef STATUS_ENUM

#define MUST_CHECK __attribute__((warn_unused_result))

const char *status_text(enum status s);
int status_exit_code(enum status s);

/* Logs "<text>: <formatted>" at level error with the place, and returns s. */
enum status status_fail(enum status s, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* From now on this thread's failures are not logged: the first is kept in text, as the line would have read. For work done ahead,
 * whose failure may never matter: who comes to need it releases the text. NULL: they are logged again. */
enum { STATUS_TEXT = 1024 };
void status_hold(char text[STATUS_TEXT]);

/* What was kept is said, once: logged, or kept by this thread's own hold. */
void status_release(char text[STATUS_TEXT]);

#define FAIL(s, ...) return status_fail((s), __FILE__, __LINE__, __VA_ARGS__)

#define TRY(call)                                                                                  \
    do {                                                                                           \
        const enum status try_s_ = (call);                                                         \
        if (try_s_ != OK) return try_s_;                                                           \
    } while (0)

/* For constructors and clean-up: remembers the first failure in s and goes on. */
#define KEEP_FIRST(s, call)                                                                        \
    do {                                                                                           \
        const enum status keep_s_ = (call);                                                        \
        if ((s) == OK) (s) = keep_s_;                                                              \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif

/* Log lines for people: level, UTC time, rank, lowercase sentence. One write() a line, to stderr
 * and, when set, to the rank's log file. Numbers for machines never travel through the log.
 *
 * error: cannot go on. warn: went on, a person should look. info: a few lines a phase, none a step.
 * debug: proportional to objects. */
#ifndef KERNELS_BASE_LOG_H
#define KERNELS_BASE_LOG_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); /* default LOG_INFO */
void log_set_rank(int rank, int n_ranks); /* prefix "[rank]" when n_ranks > 1 */

/* Keeps fd as the rank's log file, beside stderr; -1 for none. Not owned. */
void log_set_file(int fd);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* The same, on rank 0 only. */
#define log_root(...)                                                                              \
    do {                                                                                           \
        if (log_is_root()) log_info(__VA_ARGS__);                                                  \
    } while (0)
bool log_is_root(void);

#ifdef __cplusplus
}
#endif
#endif

/* ASSERT: for programmer errors only, always on. World failures travel as enum status.
 * A failed assertion logs both place and condition, calls the stop hook (which ends all ranks),
 * then aborts. */
#ifndef KERNELS_BASE_CHECK_H
#define KERNELS_BASE_CHECK_H

#ifdef __cplusplus
extern "C" {
#endif

void check_failed(const char *file, int line, const char *cond) __attribute__((noreturn));

/* Called once before abort(); set by cluster to stop all ranks. NULL for none. */
void check_set_stop(void (*stop)(void));

#define ASSERT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) check_failed(__FILE__, __LINE__, #cond);                                      \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif

/* Memory that grows with the largest request, for what has no bound known beforehand. */
#ifndef TRAINER_ROOM_H
#define TRAINER_ROOM_H

#include <stdint.h>

#include "kernels/base/status.h"

/* list: the address of a pointer to *have elements of `size` bytes, aligned as an arena's pieces and owned by the caller.
 * Room for n of them; when it grows, what was there is lost. */
enum status room_reserve(void *list, int64_t *have, int64_t n, int64_t size) MUST_CHECK;

#endif

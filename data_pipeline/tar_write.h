/* Writes a plain ustar archive: regular files only, no owner, no time, so that the same members
 * give the same bytes. The archive has a temporary name until it is committed. */
#ifndef DATA_PIPELINE_TAR_WRITE_H
#define DATA_PIPELINE_TAR_WRITE_H

#include <stdint.h>

#include "kernels/base/status.h"

struct tar_writer;

/* folder must exist; name: "sa_000000.tar". */
enum status tar_writer_create(struct tar_writer **w, const char *folder,
                              const char *name) MUST_CHECK;

/* A member of at most 8 GiB; name: 1 to 99 bytes. */
enum status tar_writer_add(struct tar_writer *w, const char *name, const void *bytes,
                           int64_t n) MUST_CHECK;

/* Ends the archive, fsyncs it, gives it its name (replacing what had it), fsyncs the folder. */
enum status tar_writer_commit(struct tar_writer *w) MUST_CHECK;

void tar_writer_destroy(struct tar_writer *w); /* an uncommitted archive is removed */

#endif

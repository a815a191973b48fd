/* A file that appears under its name whole and on disk, or not at all: temporary name in the same
 * folder, every return code checked, fsync, rename, fsync of the folder. Local. */
#ifndef TRAINER_DURABLE_FILE_H
#define TRAINER_DURABLE_FILE_H

#include <stdint.h>

#include "kernels/base/status.h"

enum { DURABLE_PATH = 1200 };

struct durable_file {
    int fd; /* owned while temporary[0] */
    char path[DURABLE_PATH], temporary[DURABLE_PATH];
};

/* Creates the temporary file; E_IO naming path and cause. */
enum status durable_file_create(struct durable_file *f, const char *path) MUST_CHECK;
enum status durable_file_write(struct durable_file *f, const void *p, int64_t n) MUST_CHECK;

/* Makes it durable and gives it its name. On failure nothing of it stays. */
enum status durable_file_commit(struct durable_file *f) MUST_CHECK;

/* Removes the temporary file; nothing after a commit or on zero. */
void durable_file_abandon(struct durable_file *f);

/* The four in one. */
enum status durable_write(const char *path, const void *p, int64_t n) MUST_CHECK;

/* Makes names created, renamed or removed in folder durable. */
enum status durable_sync_folder(const char *folder) MUST_CHECK;

/* What to do about an errno when writing: "; free some space …" or "". */
const char *durable_cure(int error);

#endif

/* Folders and files from outside: names sorted, so that their order is the same everywhere, and
 * whole files read within a cap. And folders of our own: made, and brought to the disk. */
#ifndef DATA_PIPELINE_FOLDER_H
#define DATA_PIPELINE_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { FOLDER_PATH = 4096, FOLDER_NAMES_MAX = 1 << 25 };

struct folder {
    char **names; /* (n), sorted by bytes; owned, as are they */
    int64_t n, room;
};

/* All names in path but "." and "..". E_IO when it cannot be read (logged). */
enum status folder_list(struct folder *f, const char *path) MUST_CHECK;
void folder_destroy(struct folder *f);

bool folder_has(const struct folder *f, const char *name);
bool folder_ends_with(const char *name, const char *suffix);

/* Makes path and what is missing above it. E_IO, E_USAGE (logged). */
enum status folder_make(const char *path) MUST_CHECK;

/* Makes lasting what was created, renamed or removed in path. E_IO (logged). */
enum status folder_sync(const char *path) MUST_CHECK;

/* "folder/name" into path; E_USAGE (logged) when it is too long. */
enum status folder_join(char path[FOLDER_PATH], const char *folder, const char *name) MUST_CHECK;

/* Bytes of a file, read whole; zero is a valid empty one, used again and again. */
struct folder_file {
    uint8_t *bytes; /* owned */
    int64_t n, room;
};
void folder_file_destroy(struct folder_file *f);

/* E_CORRUPT with the reason in *why (static, nothing logged) when there is no such regular file
 * or it is larger than max; E_IO (logged) when it is there and cannot be read. */
enum status folder_read(struct folder_file *f, const char *path, int64_t max,
                        const char **why) MUST_CHECK;

#endif

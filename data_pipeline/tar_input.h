/* The bytes of a file, gunzipped when its first two bytes say gzip. What tar.h's reader stands
 * on. */
#ifndef DATA_PIPELINE_TAR_INPUT_H
#define DATA_PIPELINE_TAR_INPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <zlib.h>

#include "kernels/base/status.h"

enum { TAR_INPUT_PULL = 1 << 18, TAR_INPUT_WHY = 256 }; /* bytes; characters */

/* Not to be moved while open: zlib points back into it. */
struct tar_input {
    int fd;             /* owned, or -1 */
    int64_t file_bytes; /* of a regular file, else 0: no seeking then */
    const uint8_t *memory;
    int64_t memory_left;
    uint8_t *buffer;  /* owned; TAR_INPUT_PULL bytes of the file */
    int64_t at, end;  /* within it */
    int64_t bytes_in; /* taken from the file */
    bool gzip, gzip_inside, ended;
    z_stream z;
    char why[TAR_INPUT_WHY]; /* of E_CORRUPT */
};

/* A file, or n bytes of memory that outlive x. E_IO, E_MEMORY: logged. */
enum status tar_input_open(struct tar_input *x, const char *path) MUST_CHECK;
enum status tar_input_open_memory(struct tar_input *x, const uint8_t *bytes, int64_t n) MUST_CHECK;
void tar_input_close(struct tar_input *x);

/* Up to n ≤ TAR_INPUT_PULL unpacked bytes; *got is less only at the end. E_CORRUPT: see x->why. */
enum status tar_input_pull(struct tar_input *x, uint8_t *bytes, int64_t n, int64_t *got) MUST_CHECK;

/* Skips up to n bytes without reading them, as far as that can be done; *skipped says how far. */
enum status tar_input_skip(struct tar_input *x, int64_t n, int64_t *skipped) MUST_CHECK;

#endif

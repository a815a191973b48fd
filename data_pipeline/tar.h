/* A tar, plain or gzip (its first bytes say which, not its name), read as a stream. Nothing is
 * ever extracted: regular members are handed out one after the other, everything else is passed
 * over with a reason. Header checksums are verified, sizes and counts capped, and damage is
 * reported with its byte offset after all that came before it.
 *
 * Names: a leading "./" is dropped; what is left must be one plain file name, without folders. */
#ifndef DATA_PIPELINE_TAR_H
#define DATA_PIPELINE_TAR_H

#include <stdint.h>

#include "kernels/base/status.h"

enum { TAR_NAME = 256, TAR_WHY = 256 };

struct tar_limits {
    int64_t member_bytes; /* a greater member is refused, the stream goes on */
    int64_t n_members;    /* more of them, refused ones included: the stream ends as corrupt */
    int64_t total_bytes;  /* unpacked; likewise */
};

/* What SA-1B's tars (10 GB, 22,000 members) fit in ten times over. */
extern const struct tar_limits tar_limits_default;

enum tar_kind { TAR_FILE, TAR_REFUSED, TAR_END };

struct tar_member {
    enum tar_kind kind;
    const char *refused; /* TAR_REFUSED: why (static) */
    int64_t bytes;
    int64_t offset;      /* of its header, in the unpacked stream */
    char name[TAR_NAME]; /* printable; of a refused member a truncated, cleaned copy */
};

struct tar;

/* E_IO when the file cannot be opened (logged). limits: copied. */
enum status tar_open(struct tar **t, const char *path, const struct tar_limits *limits) MUST_CHECK;

/* The same from memory, not owned, which must outlive t. */
enum status tar_open_memory(struct tar **t, const uint8_t *bytes, int64_t n,
                            const struct tar_limits *limits) MUST_CHECK;
void tar_close(struct tar *t);

/* The next member; TAR_END at the archive's end mark, with nothing but zeros behind it. E_CORRUPT:
 * damaged or truncated here, tar_why() says where and how; nothing is logged and no further call
 * is allowed. E_IO: the file could not be read (logged). */
enum status tar_next(struct tar *t, struct tar_member *m) MUST_CHECK;

/* All m.bytes bytes of the member tar_next handed out, at most once each. As tar_next fails. */
enum status tar_read(struct tar *t, uint8_t *bytes) MUST_CHECK;

const char *tar_why(const struct tar *t);

/* Bytes taken from the file so far, for progress. */
int64_t tar_bytes_in(const struct tar *t);

#endif

/* The inside of one shard file, shared by the shard's reader and writer; nobody else includes it.
 *
 * Five bulk datasets, each contiguous, are covered record by record by the hashes in the index
 * datasets; all other bytes of the file (the head: superblock, object headers, index, gaps) are
 * covered by one hash in the manifest. HDF5 is used while a file is opened and when it is made,
 * never by the threads that read records. */
#ifndef DATA_PIPELINE_SHARD_FILE_H
#define DATA_PIPELINE_SHARD_FILE_H

#include <stddef.h>
#include <stdint.h>

#include <xxhash.h>

#include "data_pipeline/shard.h"
#include "kernels/base/status.h"

#define SHARD_FORMAT          "samforge-shard"
#define SHARD_MANIFEST_FORMAT "samforge-shards"
enum { SHARD_VERSION = 1, SHARD_ROW = 12 };

/* What to do about a damaged shard. pack does not look into what it keeps, only whether it is there. */
#define SHARD_CURE ": fetch it again, or remove it and give the pack command again"

enum shard_type { SHARD_U8, SHARD_I32, SHARD_I64, SHARD_U64, SHARD_F32 };
int64_t shard_type_bytes(enum shard_type t);

/* The bulk datasets. columns > 1: (rows, columns). */
enum shard_bulk { BULK_IMAGE, BULK_TEXT, BULK_END, BULK_AREA, BULK_BOX };
struct shard_bulk_row {
    const char *name;
    enum shard_type type;
    int64_t columns;
};
extern const struct shard_bulk_row shard_bulks[SHARD_BULKS];

/* The index, one entry an image, except first_mask (n + 1). */
struct shard_index {
    int64_t *offset, *length;           /* of the encoded image in /image/bytes */
    int64_t *text_offset, *text_length; /* of its mask texts in /mask/text */
    int64_t *first_mask;
    uint64_t *hash;
    int64_t *id;
    int32_t *height, *width, *stored_height, *stored_width, *codec;
};
enum { SHARD_INDEXES = 12 };
struct shard_index_row {
    const char *name;
    enum shard_type type;
    int64_t extra;   /* entries beyond one an image */
    size_t position; /* of the pointer in struct shard_index */
};
extern const struct shard_index_row shard_indexes[SHARD_INDEXES];

void **shard_index_column(struct shard_index *x, int column);
enum status shard_index_create(struct shard_index *x, int64_t n_images) MUST_CHECK;
void shard_index_destroy(struct shard_index *x);

/* An open shard. */
struct shard_file {
    int fd; /* owned; −1 when closed */
    struct shard_summary summary;
    struct shard_index index; /* owned */
};

/* Checks size, head hash, structure and index against the summary. path is what messages name. */
enum status shard_file_open(struct shard_file *f, const char *path,
                            const struct shard_summary *summary) MUST_CHECK;
void shard_file_close(struct shard_file *f);

/* Record i into b, verified. path is what messages name. */
enum status shard_file_read(const struct shard_file *f, const char *path, int64_t i,
                            struct shard_buffer *b, struct shard_record *r) MUST_CHECK;

/* Every byte: the head again, every record, and the bulk hash. */
enum status shard_file_verify(const struct shard_file *f, const char *path) MUST_CHECK;

/* The bulk datasets by their place in the file (HDF5 chooses it); 0 when they overlap or leave it. */
int shard_bulk_order(const struct shard_summary *s, int order[SHARD_BULKS]);

/* The hash of all bytes outside the bulk ranges. */
enum status shard_head_hash(int fd, const char *path, const struct shard_summary *s,
                            uint64_t *hash) MUST_CHECK;

/* The hash of the bulk: one running hash a dataset, fed in record order. */
struct shard_bulk_hash {
    XXH3_state_t *state[SHARD_BULKS]; /* owned */
};
enum status shard_bulk_hash_create(struct shard_bulk_hash *h) MUST_CHECK;
void shard_bulk_hash_destroy(struct shard_bulk_hash *h);
void shard_bulk_hash_add(struct shard_bulk_hash *h, const struct shard_record *r);
uint64_t shard_bulk_hash_value(const struct shard_bulk_hash *h);

/* The twelve numbers that open a record's hash, from the index. */
void shard_row(const struct shard_index *x, int64_t i, int64_t row[SHARD_ROW]);

int64_t shard_text_bytes(const struct shard_record *r);

/* E_CORRUPT and a reason when a record breaks the format's bounds; nothing is logged. */
enum status shard_record_check(const struct shard_record *r, const char **why) MUST_CHECK;

/* All n bytes at `at`, or why not; a file that ends early is E_CORRUPT. */
enum status shard_pread(int fd, const char *path, void *p, int64_t n, int64_t at) MUST_CHECK;

enum status shard_pwrite(int fd, const char *path, const void *p, int64_t n, int64_t at) MUST_CHECK;

/* A shard's name: 1 to 255 of A-Z a-z 0-9 . _ -, not beginning with a dot. */
int shard_name_valid(const char *name);

/* ---- shard_h5.c: the only file that calls HDF5 ----------------------------------------------- */

/* Checks the structure of the file against the summary and reads the index, which is created. */
enum status shard_h5_read(const char *path, const struct shard_summary *s,
                          struct shard_index *x) MUST_CHECK;

/* Makes a file with this index and room for the bulk (bulk_bytes of s); sets bulk_at of s. */
enum status shard_h5_write(const char *path, struct shard_summary *s,
                           struct shard_index *x) MUST_CHECK;

#endif

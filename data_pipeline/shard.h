/* One HDF5 shard: images and their masks, immutable once committed. docs/data.md is the format.
 *
 * Bulk bytes (encoded images, mask texts, the table of masks) lie in contiguous datasets, read with
 * pread at the dataset's offset; index datasets hold offset, length and an XXH3 of every record.
 * Everything that is not bulk is checked against the manifest's hash before HDF5 parses it; every
 * record is verified when read. So a flipped bit anywhere is found, and no unverified byte reaches
 * a parser. A folder of shards has a manifest.json: for each shard its name, bytes, counts and
 * hashes. */
#ifndef DATA_PIPELINE_SHARD_H
#define DATA_PIPELINE_SHARD_H

#include <stdint.h>

#include "kernels/base/status.h"

enum { SHARD_NAME = 256, SHARD_BULKS = 5, SHARD_WHERE = 384 };

/* Caps: what is beyond them is refused when written and when read. */
enum {
    SHARD_SHARDS_MAX = 1 << 16,
    SHARD_IMAGES_MAX = 1 << 24,      /* of one shard */
    SHARD_MASKS_MAX = 1 << 16,       /* of one record */
    SHARD_IMAGE_BYTES_MAX = 1 << 28, /* of one record; the same for its mask texts */
    SHARD_MANIFEST_MAX = 1 << 26     /* bytes */
};

enum shard_codec { SHARD_JPEG, SHARD_PNG };

/* One image with its masks, as it lies in a shard. Pointers into the reader's buffer; not owned. */
struct shard_record {
    int64_t image_id;
    int32_t height, width;               /* the original image: the frame of the masks */
    int32_t stored_height, stored_width; /* the stored pixels; smaller when packed with a resize */
    enum shard_codec codec;
    const uint8_t *image; /* encoded */
    int64_t image_bytes;
    int64_t n_masks;
    const char *mask_text;    /* all masks' RLE texts, one behind the other */
    const int64_t *mask_end;  /* (n_masks) end of each within mask_text */
    const int64_t *mask_area; /* (n_masks) pixels */
    const float *mask_box;    /* (n_masks,4) x0 y0 x1 y1, exclusive, original pixels */
};

/* What the manifest says of one shard. */
struct shard_summary {
    char name[SHARD_NAME];
    int64_t bytes, n_images, n_masks;
    int64_t bulk_at[SHARD_BULKS], bulk_bytes[SHARD_BULKS]; /* where the bulk lies in the file */
    uint64_t head_hash;                                    /* everything but the bulk bytes */
    uint64_t bulk_hash;                                    /* the bulk bytes */
};

/* A folder of shards, opened for reading. Thread-safe once open: any thread may read with its own
 * buffer. */
struct shard_set;

/* Opens every shard that manifest.json lists, checking size and hash of all but the bulk bytes.
 * path: the folder, or one .h5 file beside its manifest. */
enum status shard_set_open(struct shard_set **set, const char *path) MUST_CHECK;
void shard_set_close(struct shard_set *set);

int64_t shard_set_images(const struct shard_set *set);
int64_t shard_set_masks(const struct shard_set *set);
int64_t shard_set_shards(const struct shard_set *set);
const struct shard_summary *shard_set_summary(const struct shard_set *set, int64_t shard);
int64_t shard_set_resized_to(const struct shard_set *set); /* stored long side; 0: as it came */

/* A hash of the manifest: which data this is. */
uint64_t shard_set_hash(const struct shard_set *set);

/* "shards/shard-00003.h5, record 17 (image id 42)" into buf, for messages; returns buf. */
const char *shard_set_where(const struct shard_set *set, int64_t image, char buf[SHARD_WHERE]);

/* Grows as needed; zero is a valid empty one. Owned by the caller. */
struct shard_buffer {
    uint8_t *data;
    int64_t bytes;
};
void shard_buffer_destroy(struct shard_buffer *b);

/* Reads and verifies record `image` (0 … images−1); E_CORRUPT names shard, record and what differs.
 * The record points into b until its next use. Local, thread-safe. */
enum status shard_set_read(const struct shard_set *set, int64_t image, struct shard_buffer *b,
                           struct shard_record *r) MUST_CHECK;

/* How many masks record `image` has, from the index alone. */
int64_t shard_set_record_masks(const struct shard_set *set, int64_t image);

/* Reads and checks every byte of every shard, in parallel; reports the first damage of each shard
 * in the log. */
enum status shard_set_verify(const struct shard_set *set) MUST_CHECK;

/* Writing: add records, then commit once. Records are spooled to nameless files in the folder;
 * commit writes the shard under a temporary name, checks every return code, fsyncs, reads back and
 * verifies every byte, and only then renames and fsyncs the folder. */
struct shard_writer;
struct shard_writer_options {
    const char *folder, *name; /* name: "shard-00000.h5" */
};

enum status shard_writer_create(struct shard_writer **w,
                                const struct shard_writer_options *o) MUST_CHECK;
enum status shard_writer_add(struct shard_writer *w, const struct shard_record *r) MUST_CHECK;
int64_t shard_writer_bytes(const struct shard_writer *w); /* so far, near enough */
enum status shard_writer_commit(struct shard_writer *w, struct shard_summary *summary) MUST_CHECK;
void shard_writer_destroy(struct shard_writer *w); /* an uncommitted shard is removed */

/* Writes manifest.json atomically (temporary name, fsync, rename, fsync of the folder). */
enum status shard_manifest_write(const char *folder, const struct shard_summary *shards,
                                 int64_t n_shards, int64_t resized_to) MUST_CHECK;

/* Reads and verifies manifest.json. *shards: malloc'd, owned by the caller. hash may be NULL. */
enum status shard_manifest_read(const char *folder, struct shard_summary **shards,
                                int64_t *n_shards, int64_t *resized_to, uint64_t *hash) MUST_CHECK;

#endif

/* Outside bytes into shards: SA-1B tars, folders of loose SA-1B files, COCO JSON, images with a
 * PNG an object → a folder of shards, manifest.json, and quarantine.jsonl with one line for
 * every thing that was refused. Nothing is skipped silently: each image and mask is stored,
 * counted or quarantined.
 *
 * A source is packed by one thread into shards of its own; folders and COCO files are cut into
 * parts of a fixed number of images first. So the result is the same for any number of threads.
 * A part whose shards are committed is not done again, unless its source, or an option, has
 * changed. */
#ifndef DATA_PIPELINE_PACK_H
#define DATA_PIPELINE_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

enum { PACK_PART_IMAGES = 2048 };

/* What became of the images and masks. */
struct pack_tally {
    int64_t n_images, n_masks;
    int64_t n_bare;           /* images stored without any mask */
    int64_t n_empty, n_large; /* masks left out: without pixels; over max_area */
    int64_t n_crowd;          /* COCO crowd annotations left out */
    int64_t n_bad_masks;      /* quarantined masks */
    int64_t n_bad_items;      /* other quarantined things: pairs, members, sources */
    int64_t bytes_out;        /* of the shards */
};

struct pack_progress {
    struct pack_tally tally;
    int64_t n_parts, n_parts_done;
    int64_t n_parts_kept;        /* of these, done by an earlier run */
    int64_t n_shards;            /* known at the end */
    int64_t bytes_in, bytes_all; /* of tars; bytes_all 0: unknown */
};

struct pack_options {
    const char *const *sources; /* tars, folders, COCO JSON files */
    int n_sources;
    const char *out;    /* folder; made when missing */
    const char *images; /* COCO: folder of the images; NULL: the JSON's */
    int32_t resize; /* images with a longer long side are stored with this one; 0: as they come */
    bool verify_pixels;    /* decode every image in full */
    double max_area;       /* masks over this share of the image are left out */
    int64_t shard_bytes;   /* a shard that reaches this many is committed */
    int64_t pending_bytes; /* a thread holds this much of pairs whose other half has not come yet */
    int n_threads;

    /* Called after every image, by one thread at a time; may be NULL. Returning false stops:
     * what is committed stays, the call returns E_STOPPED, and the next one goes on. */
    bool (*progress)(void *user, const struct pack_progress *p);
    void *user;
};

/* The usual values; sources and out are the caller's to set. */
struct pack_options pack_options_default(void);

/* *p is set in any case. Quarantine is no failure; E_CORRUPT when not one image could be used. */
enum status pack_run(const struct pack_options *o, struct pack_progress *p) MUST_CHECK;

#endif

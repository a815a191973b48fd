/* What inspect shows of shards: what is in them, how large images and masks are, and one record
 * drawn. Records are looked into, not just listed: sizes, run lengths and areas must agree. */
#ifndef TRAINER_INSPECT_SHARDS_H
#define TRAINER_INSPECT_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct inspect_shards_options {
    bool verify;      /* read and check every byte first */
    bool json;        /* one JSON object instead of the table */
    int64_t n_sample; /* look into so many records, evenly spaced; 0: all */
    int64_t draw;     /* record to draw into png; −1: none */
    const char *png;
};

/* path: a folder with a manifest of shards, or one shard in it. */
enum status inspect_shards(const char *path, const struct inspect_shards_options *o) MUST_CHECK;

#endif

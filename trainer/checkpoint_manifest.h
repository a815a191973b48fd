/* manifest.json of a checkpoint: what its files hold and their hashes, in text any tool can read.
 * Its last member is the XXH3 of all bytes before it, so a flipped bit in the manifest shows as
 * well. */
#ifndef TRAINER_CHECKPOINT_MANIFEST_H
#define TRAINER_CHECKPOINT_MANIFEST_H

#include <stdint.h>

#include "trainer/checkpoint.h"

enum {
    CHECKPOINT_HASH = 33, /* 32 hex digits of an XXH3-128 and NUL */
    CHECKPOINT_RUN_ID = 64,
    CHECKPOINT_MANIFEST_MAX = 64 << 20, /* bytes */
    CHECKPOINT_RANKS_MAX = 65536
};

struct checkpoint_slice {
    int64_t offset; /* in the file, bytes */
    char hash[CHECKPOINT_HASH];
};

/* rank-NNNN.h5: elements plan_part(n, n_ranks, rank) of every array. */
struct checkpoint_file {
    int64_t bytes;
    char hash[CHECKPOINT_HASH];
    struct checkpoint_slice slice[CHECKPOINT_ARRAYS];
};

struct checkpoint_manifest {
    char run[CHECKPOINT_RUN_ID], written[32];
    int64_t sequence; /* of commits, ascending: the newest is the last one, not the greatest step */
    int64_t n;        /* elements of an array */
    int n_ranks, n_arrays;
    char array_name[CHECKPOINT_ARRAYS][CHECKPOINT_NAME];
    uint64_t config_hash, data_hash;
    struct checkpoint_counters counters;
    struct checkpoint_file *file;     /* (n_ranks) owned */
    struct checkpoint_tensor *tensor; /* (n_tensors) owned */
    int64_t n_tensors;
    char *config; /* owned */
};

/* name stands for the file in messages. E_CORRUPT says what is wrong. */
enum status checkpoint_manifest_parse(struct checkpoint_manifest *m, const char *text, int64_t n,
                                      const char *name) MUST_CHECK;
void checkpoint_manifest_destroy(struct checkpoint_manifest *m);

/* *text is the caller's to free. */
enum status checkpoint_manifest_print(const struct checkpoint_manifest *m, char **text,
                                      int64_t *n) MUST_CHECK;

int64_t checkpoint_tensor_count(const struct checkpoint_tensor *t);

#endif

/* Checkpoints: everything a run needs to go on to the bit, or a model's weights.
 *
 * RUN/checkpoints/step-00001000/ holds one HDF5 file a rank, each with the rank's slice of every
 * array, and manifest.json with a hash of every file, of every slice and of itself. A folder gets
 * its name only when all of it is on disk and was read back; then it never changes. It loads on any
 * number of ranks. What does not verify is never loaded: the next older one is. */
#ifndef TRAINER_CHECKPOINT_H
#define TRAINER_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cluster/comm.h"
#include "kernels/base/status.h"

enum { CHECKPOINT_ARRAYS = 8, CHECKPOINT_DIMS = 8, CHECKPOINT_NAME = 128 };

/* All integers of a run that steps change; order(…) and rng are functions of these. */
#define CHECKPOINT_COUNTERS(X)                                                                     \
    X(step)           /* steps done, skipped ones included */                                      \
    X(updates)        /* optimizer updates done: AdamW's t */                                      \
    X(skipped)        /* steps skipped as non-finite */                                            \
    X(skipped_in_row) /* of these, in a row just now */                                            \
    X(images)         /* trained on, over all ranks and restarts */                                \
    X(masks)                                                                                       \
    X(seed)                                                                                        \
    X(rank_ns) /* rank-nanoseconds spent, for people */

#define CHECKPOINT_COUNTER(name) int64_t name;
struct checkpoint_counters {
    CHECKPOINT_COUNTERS(CHECKPOINT_COUNTER)
};
#undef CHECKPOINT_COUNTER

/* One tensor of the flat arrays. */
struct checkpoint_tensor {
    char name[CHECKPOINT_NAME];
    int n_dims;
    int64_t dim[CHECKPOINT_DIMS];
    int64_t offset; /* elements */
};

/* What is saved, and where it is loaded to. Nothing here is owned. */
struct checkpoint_state {
    int n_arrays;
    const char *array_name[CHECKPOINT_ARRAYS]; /* "param", "m", "v" */
    float *array[CHECKPOINT_ARRAYS];           /* (n) each, the same on every rank */
    int64_t n;
    const struct checkpoint_tensor *tensor; /* (n_tensors) the arrays' layout */
    int64_t n_tensors;
    struct checkpoint_counters counters; /* load sets them */
    uint64_t config_hash, data_hash;
    const char *config_text; /* config_dump's */
    const char *run_id;      /* run_folder's */
};

struct checkpoint_keep {
    int64_t newest; /* that many newest, at least 1 */
    int64_t every;  /* and all at multiples of this step; 0: none */
};

/* Collective. Writes, verifies, commits, then retires what keep does not name. E_DIVERGED when a
 * value is not finite, E_IO with path, cause and cure; older checkpoints are then untouched. */
enum status checkpoint_save(const struct checkpoint_state *s, struct comm *c,
                            const char *run_folder, struct checkpoint_keep keep) MUST_CHECK;

/* Local. E_IO when the run's disk has no room for one more checkpoint of s by n_ranks; a warning when for few. */
enum status checkpoint_check_space(const struct checkpoint_state *s, const char *run_folder,
                                   int n_ranks) MUST_CHECK;

struct checkpoint_accept {
    bool config, data; /* go on although the hash differs */
};

/* Collective. The newest checkpoint that verifies, into s's arrays and counters, the same on all
 * ranks; warns of those that do not and of the steps lost. *found is false when there is none at
 * all. E_CONFIG when another configuration, model or data made it; E_CORRUPT when there are some
 * but none verifies. Sweeps away what killed saves left: the caller holds the run's lease. */
enum status checkpoint_load(struct checkpoint_state *s, struct comm *c, const char *run_folder,
                            struct checkpoint_accept accept, bool *found) MUST_CHECK;

/* Local. A whole checkpoint, verified, for reading: path is its folder, or a run's folder (then the
 * newest that verifies). */
struct checkpoint;
enum status checkpoint_open(struct checkpoint **k, const char *path) MUST_CHECK;
void checkpoint_close(struct checkpoint *k); /* accepts NULL */

/* Of a run's folder: how many checkpoints do not verify that were committed after this one; and how many of later steps have no
 * manifest that says when they were committed: they may be newer. */
struct checkpoint_damage {
    int newer, unreadable;
};
struct checkpoint_damage checkpoint_damage(const struct checkpoint *k);

struct checkpoint_manifest;
const struct checkpoint_manifest *checkpoint_manifest(const struct checkpoint *k);

/* Elements [begin,end) of the array of that name. */
enum status checkpoint_read(const struct checkpoint *k, const char *array, int64_t begin,
                            int64_t end, float *out) MUST_CHECK;

/* Every tensor of s from the array "param", by name, into s->array[0]; E_CONFIG when one is missing
 * or of another shape. */
enum status checkpoint_read_weights(const struct checkpoint *k,
                                    const struct checkpoint_state *s) MUST_CHECK;

/* What is in it, for people or as one JSON object. */
enum status checkpoint_describe(const struct checkpoint *k, FILE *f, bool json) MUST_CHECK;

#endif

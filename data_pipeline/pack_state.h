/* What a pack has done, part by part, in OUT/.pack: one file a part, which appears whole when
 * its shards are committed. It is how a pack that was killed goes on, and where the final
 * quarantine.jsonl and manifest.json come from. The files are for the same build of the program:
 * one that does not fit is as good as none, and its part is done again. */
#ifndef DATA_PIPELINE_PACK_STATE_H
#define DATA_PIPELINE_PACK_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "data_pipeline/folder.h"
#include "data_pipeline/id_map.h"
#include "data_pipeline/pack.h"
#include "data_pipeline/pack_plan.h"
#include "data_pipeline/shard.h"
#include "kernels/base/status.h"

/* One finished part. All arrays owned; zero is a valid empty one. */
struct pack_done {
    uint64_t key;
    char source[PACK_NAME]; /* as pack_plan_name() */
    struct pack_tally tally;
    struct shard_summary *shards;
    int64_t n_shards, shards_room;
    int64_t *ids; /* of the images stored */
    int64_t n_ids, ids_room;
    int64_t *excluded; /* image ids left to earlier parts that have them too */
    int64_t n_excluded, excluded_room;
};
void pack_done_destroy(struct pack_done *d);

/* OUT, with the lock that keeps a second pack away. */
struct pack_state {
    char out[FOLDER_PATH];
    int lock; /* owned, or −1 */
};

/* Makes OUT and OUT/.pack; E_USAGE when OUT holds something else than a pack's result, or another
 * pack is at work in it. */
enum status pack_state_open(struct pack_state *s, const char *out) MUST_CHECK;
void pack_state_close(struct pack_state *s);

/* *found: whether part's file is there, whole, and all its shards too. */
enum status pack_state_load(const struct pack_state *s, int64_t part, struct pack_done *d,
                            bool *found) MUST_CHECK;

/* Commits a part: fsyncs its quarantine, then its file appears. */
enum status pack_state_save(const struct pack_state *s, int64_t part, const struct pack_done *d,
                            FILE *quarantine) MUST_CHECK;

/* A part's quarantine, empty, for writing; the caller closes it. */
enum status pack_state_quarantine(const struct pack_state *s, int64_t part, FILE **f) MUST_CHECK;

/* Removes a part's file, and every shard of it; also what a kill left. */
enum status pack_state_forget(const struct pack_state *s, int64_t part) MUST_CHECK;

/* Removes shards that parts from n_parts on left when they were killed. */
enum status pack_state_sweep(const struct pack_state *s, int64_t n_parts) MUST_CHECK;

/* Removes manifest.json and quarantine.jsonl, before anything they speak of changes. */
enum status pack_state_unseal(const struct pack_state *s) MUST_CHECK;

/* Writes quarantine.jsonl from the parts' ones; atomically. */
enum status pack_state_gather(const struct pack_state *s, int64_t n_parts) MUST_CHECK;

/* "shard-00012-003.h5" */
void pack_state_shard_name(char name[SHARD_NAME], int64_t part, int64_t shard);

/* How many parts have a file, counted from the highest. */
enum status pack_state_parts(const struct pack_state *s, int64_t *n) MUST_CHECK;

#endif

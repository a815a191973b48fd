/* What a run was started with, written into its folder at every start. Local, rank 0. */
#ifndef TRAINER_RUN_RECORD_H
#define TRAINER_RUN_RECORD_H

#include "trainer/checkpoint_manifest.h"
#include "trainer/run_folder.h"

/* The run's id and its configuration's hash, as run.json has them; false when it is not there, or says nothing of use. */
bool run_record_read(const char *folder, char id[CHECKPOINT_RUN_ID], uint64_t *hash);

/* The same, or, where run.json is missing or damaged, what the manifests of all checkpoints agree on, with a warning; *found is
 * false when there is neither. E_CORRUPT when they do not agree, or do not tell. */
enum status run_record_find(const char *folder, char id[CHECKPOINT_RUN_ID], uint64_t *hash,
                            bool *found) MUST_CHECK;

/* "20260131-235959-1a2b3c4d": the time, and chance for two in one second. */
void run_record_new_id(char id[CHECKPOINT_RUN_ID]);

/* run.json, config.yaml, config.resolved.yaml, env.json, git.txt; a line in cmd.txt. */
enum status run_record_write(const char *folder, const char *id, const struct run_folder_options *o,
                             int n_ranks) MUST_CHECK;

#endif

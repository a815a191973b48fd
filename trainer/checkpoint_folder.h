/* The folders of a run's checkpoints: their names, which there are, the commit by rename, and their
 * end. Local, rank 0. */
#ifndef TRAINER_CHECKPOINT_FOLDER_H
#define TRAINER_CHECKPOINT_FOLDER_H

#include "trainer/checkpoint_manifest.h"
#include "trainer/durable_file.h"

/* A folder step-NNNNNNNN and its manifest's text; text is NULL when there is none that can be read.
 */
struct checkpoint_folder {
    char path[DURABLE_PATH];
    int64_t step, sequence; /* sequence −1: the manifest does not parse */
    char *text;             /* owned */
    int64_t bytes;
    bool unread;
};

struct checkpoint_folders {
    struct checkpoint_folder *at; /* owned; newest commit first, unreadable ones last */
    int n;
};

/* All of RUN/checkpoints; none when there is no such folder. `quiet`: no line about those that are not used, since who loads one
 * has said it; and one whose manifest cannot be read for now is unread, where else that is the list's E_IO. */
enum status checkpoint_folders_list(struct checkpoint_folders *l, const char *run_folder,
                                    bool quiet) MUST_CHECK;
void checkpoint_folders_destroy(struct checkpoint_folders *l);

/* RUN/checkpoints, RUN/checkpoints/step-NNNNNNNN, RUN/checkpoints/.tmp-step-NNNNNNNN,
 * FOLDER/rank-NNNN.h5, FOLDER/manifest.json into buf; E_IO when too long. */
enum status checkpoint_folder_path(char buf[DURABLE_PATH], const char *fmt, ...) MUST_CHECK
    __attribute__((format(printf, 2, 3)));

bool checkpoint_folder_holds(const char *folder, const char *name);

/* Why a file could not be opened or read (errno): E_CORRUPT when it is not there, else E_IO, which gives up no checkpoint. */
enum status checkpoint_folder_unread(const char *path, int problem) MUST_CHECK;

/* A whole file of at most CHECKPOINT_MANIFEST_MAX bytes; *text is the caller's to free. */
enum status checkpoint_folder_read(const char *path, char **text, int64_t *n) MUST_CHECK;

/* Gives the finished temporary folder its name; one of that name, from a future that was rolled
 * back, goes. */
enum status checkpoint_folder_commit(const char *run_folder, int64_t step) MUST_CHECK;

/* Points latest.txt and the symbolic link `latest` at step. */
enum status checkpoint_folder_set_latest(const char *run_folder, int64_t step) MUST_CHECK;

/* Removes what keep does not name; never the newest commit, nor what has a damaged manifest. Failures are warnings. */
void checkpoint_folder_retire(const char *run_folder, struct checkpoint_keep keep);

/* Removes what killed saves left. */
void checkpoint_folder_sweep(const char *run_folder);

/* Makes RUN/checkpoints and an empty temporary folder for step. */
enum status checkpoint_folder_begin(const char *run_folder, int64_t step) MUST_CHECK;

#endif

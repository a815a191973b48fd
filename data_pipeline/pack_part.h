/* Packs one part: reads its images and annotations, checks them, writes its shards and its
 * quarantine. One worker a thread; a worker packs parts one after the other and keeps its
 * memory. */
#ifndef DATA_PIPELINE_PACK_PART_H
#define DATA_PIPELINE_PACK_PART_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "data_pipeline/coco.h"
#include "data_pipeline/folder.h"
#include "data_pipeline/id_map.h"
#include "data_pipeline/masks.h"
#include "data_pipeline/pack.h"
#include "data_pipeline/pack_plan.h"
#include "data_pipeline/pack_state.h"
#include "data_pipeline/picture.h"
#include "data_pipeline/png_masks.h"
#include "data_pipeline/shard.h"

/* What all workers share. */
struct pack_shared {
    const struct pack_options *options;
    const struct pack_state *state;
    pthread_mutex_t lock;          /* over progress and its callback */
    struct pack_progress progress; /* tallies of all parts so far */
    atomic_bool stop;              /* a failure, or a request: everyone ends at the next image */
    bool stop_wanted;              /* it was a request */
};

struct pack_worker {
    struct pack_shared *shared; /* not owned */
    struct masks masks;
    struct picture picture, small;
    struct coco_scratch coco;
    struct png_masks_scratch png;
    struct folder_file image, json;

    /* of the part at work */
    const struct pack_part *part; /* not owned */
    int64_t part_index;
    const struct id_map *earlier; /* ids that earlier parts have; may be NULL; not owned */
    struct id_map own;            /* ids stored; owned until the part is done */
    struct pack_done done;        /* grows; owned until the part is saved */
    struct shard_writer *writer;  /* owned; NULL: none begun */
    FILE *quarantine;             /* owned */
    int64_t bytes_in;             /* of the tar, already in the shared progress */
    struct pack_tally told;       /* likewise */
};
void pack_worker_destroy(struct pack_worker *w);

/* Packs part `index` and saves its state; *done receives what was saved. E_STOPPED when stop was
 * set. */
enum status pack_part_run(struct pack_worker *w, const struct pack_part *part, int64_t index,
                          const struct id_map *earlier, struct pack_done *done) MUST_CHECK;

/* to += sign · t */
void pack_tally_add(struct pack_tally *to, const struct pack_tally *t, int64_t sign);

/* ---- for the readers of the several forms ---------------------------------------------------- */

/* One line of quarantine; member may be NULL (the source itself), mask −1 (not a mask). */
enum status pack_reject(struct pack_worker *w, const char *member, int64_t mask, const char *fmt,
                        ...) __attribute__((format(printf, 4, 5))) MUST_CHECK;

/* One SA-1B pair, both members' bytes; member: the image's name, whose number image_id is. */
enum status pack_pair(struct pack_worker *w, int64_t image_id, const char *member,
                      const uint8_t *image, int64_t n_image, const uint8_t *json,
                      int64_t n_json) MUST_CHECK;

/* Tells the progress; E_STOPPED when it is time to stop. bytes_in: of this part so far. */
enum status pack_step(struct pack_worker *w, int64_t bytes_in) MUST_CHECK;

/* pack_tar.c: all members of the part's tar. */
enum status pack_tar(struct pack_worker *w) MUST_CHECK;

#endif

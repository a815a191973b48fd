/* The bytes HDF5 would write for a file whose datasets are laid out but not filled, caught in
 * memory.
 *
 * HDF5 never sees a disk: one that is full in the middle of the library's own write leaves it
 * (1.10.8) in a state that crashes the program later, and its file handles are closed to fsync and
 * errno. So a driver of our own collects its writes; whoever has the frame writes it and the data
 * behind it, and can fail in peace. */
#ifndef TRAINER_CHECKPOINT_FRAME_H
#define TRAINER_CHECKPOINT_FRAME_H

#include <stdint.h>

#include "cluster/plan.h"
#include "trainer/checkpoint_manifest.h"

enum { CHECKPOINT_FRAME_PATCHES = 1024 };

/* bytes[n] belong at offset; later patches lie over earlier ones. */
struct checkpoint_patch {
    int64_t offset, n;
    char *bytes; /* owned */
};

struct checkpoint_frame {
    struct checkpoint_patch patch[CHECKPOINT_FRAME_PATCHES];
    int n;
    int64_t bytes; /* of the whole file */
};

/* Local. The frame of a file with elements `part` of every array of s; sets the offsets in f->slice
 * and f->bytes. */
enum status checkpoint_frame_create(struct checkpoint_frame *frame,
                                    const struct checkpoint_state *s, struct plan_range part,
                                    struct checkpoint_file *f) MUST_CHECK;
void checkpoint_frame_destroy(struct checkpoint_frame *frame);

#endif

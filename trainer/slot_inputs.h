/* What slots give the device: pixels, normalized, and the truth of all masks, expanded from runs. In sets, one for each slot that
 * may be at hand: a slot is loaded into its set on the device's side, beside the compute of the slot or step before.
 *
 * A step's slots are loaded by slot_inputs_next, each as soon as its set is free. The first slot of a step that will be recorded is
 * loaded before that, by slot_inputs_ahead, while the step before still runs; slot_inputs_join then comes right before the launch.
 * Without a side, or where nobody works ahead, there is one set, and it is loaded on the main queue. */
#ifndef TRAINER_SLOT_INPUTS_H
#define TRAINER_SLOT_INPUTS_H

#include "data_pipeline/loader.h"
#include "kernels/ops.h"
#include "trainer/config.h"

struct slot_inputs_options {
    const struct config *config; /* not owned, as is all here */
    const struct ops *ops;
    struct stream *queue; /* of the compute */
    int64_t M, R;         /* masks of a chunk; side of the truth */
    int64_t n_slots;      /* of every step */
    bool beside;          /* on the side, where the device has one */
};

/* A slot's, on the device. Chunks reach beyond the slot's last mask: what lies there is empty and weighs nothing. */
struct slot_set {
    struct tensor pixels_u8, pixels; /* (1,S,S,3) u8, and normalized f32 */
    struct tensor rows_cols,
        size;            /* (1,2) i32, and (2) f32 width, height: the image in the frame */
    struct tensor valid; /* (M,2) i32: rows and columns of the truth that are the image */
    struct tensor truth, box, weight, first; /* (C·M,R,R) u8 (C·M,4) (C·M) (C·M+1) i64, into runs */
    struct tensor runs;   /* grows when a slot has more than ever before; its memory is owned */
    struct stream stream; /* where it is loaded; rasterize's scratch, its own, grows too; owned */
    void *memory;         /* owned; behind all but the last two */
    int64_t memory_bytes;
};

/* Of a chunk of masks, inside a set. */
struct slot_chunk {
    struct tensor truth, box, weight, first; /* (M,R,R) (M,4) (M) (M+1) */
};

enum { SLOT_SETS = 4 };

struct slot_inputs {
    struct slot_inputs_options o;
    bool beside;
    struct slot_set set[SLOT_SETS];
    int n_sets;
    int64_t
        n_loaded; /* slots of the step being queued that have been loaded in it, or ahead of it */
    int turn;     /* whose set the step's first slot has; changes with every launch */
    bool ahead;   /* the step's first slot was loaded ahead of it */
    int32_t *host_valid; /* as in the sets; owned */
    float *host_weight;
    int64_t *host_first;
};

enum status slot_inputs_create(struct slot_inputs *in,
                               const struct slot_inputs_options *o) MUST_CHECK;
void slot_inputs_destroy(struct slot_inputs *in); /* accepts half-built ones */

/* Room for slot i of the step to come: next and ahead see to it too, but may take none while a step is recorded. */
enum status slot_inputs_reserve(struct slot_inputs *in, int64_t i,
                                const struct loader_slot *slot) MUST_CHECK;

/* The step's first slot, and what was loaded ahead is there for all that joins the queue after join. Neither is recorded. */
enum status slot_inputs_ahead(struct slot_inputs *in, const struct loader_slot *slot) MUST_CHECK;
enum status slot_inputs_join(struct slot_inputs *in) MUST_CHECK;

/* A step is queued or recorded; its next slot, whose set is there for what joins the queue from now on, until the slot's compute has
 * joined it; the step is on its way. */
void slot_inputs_begin(struct slot_inputs *in);
enum status slot_inputs_next(struct slot_inputs *in, const struct loader_slot *slot,
                             const struct slot_set **set) MUST_CHECK;
void slot_inputs_launched(struct slot_inputs *in);

struct slot_chunk slot_inputs_chunk(const struct slot_inputs *in, const struct slot_set *set,
                                    int64_t chunk);

#endif

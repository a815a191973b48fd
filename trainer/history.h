/* What a step's slots came to: the values and choices of the mask loss for every chunk and round, which stay on the device until
 * they are asked for, and what the host must know to read them. The device holds one step's; the host's part is kept for the step
 * being queued, or recorded, and for the one last launched. Who asks slot by slot makes a step of each. */
#ifndef TRAINER_HISTORY_H
#define TRAINER_HISTORY_H

#include "kernels/ops.h"
#include "trainer/mask_decoder.h"

/* Values of a mask, of a round. */
enum { HISTORY_VALUES = MASK_TOKENS * MASK_LOSS_VALUES };

/* Sums over the masks (and rounds) of one slot, before any normalization. What ranks tell each other of a step. */
struct objective_losses {
    int64_t n_masks;
    double focal, dice, iou_error; /* summed over rounds too */
    double iou_first, iou_last;    /* of the selected mask, in the first and the last round */
};

/* A round of a chunk. */
struct history_entry {
    int64_t K, n_valid, chunk; /* masks predicted; masks that count */
    bool first, last;          /* round of the chunk */
    bool among, only_first;    /* chosen among the chunk's candidates; not chosen */
};

struct history_slot {
    int64_t n_masks, end; /* its last entry's number, and one */
};

struct history_step {
    struct history_entry *entry; /* (S·E), of which n are there: of one slot after the other */
    struct history_slot *slot;   /* (S), of which n_slots are there */
    int64_t n, n_slots;
    int32_t *candidates; /* (S,chunks,M,2), what the device's candidates held */
};

struct history {
    int64_t M, slots, chunks; /* masks in a chunk; slots of a step, chunks of a slot, at most */
    struct tensor value,
        selected; /* device, the caller's: (S·E,M,4,4) f32, a round's (M,K,4) at its start; (S·E,M) i32 */
    struct history_step step[2];
    int queued;             /* which is being queued; the other one is launched */
    float *host_value;      /* as value */
    int32_t *host_selected; /* as selected */
};

/* For steps of S slots, each of E = chunks · rounds entries. value and selected are set by the caller. */
enum status history_create(struct history *h, int64_t slots, int64_t chunks, int64_t rounds,
                           int64_t M) MUST_CHECK;
void history_destroy(struct history *h); /* accepts half-built ones */

/* A step is queued: on the device all values become 0. */
enum status history_begin(struct history *h, const struct ops *ops, struct stream *s) MUST_CHECK;

/* Its next slot; what is added belongs to the slot added last. */
void history_add_slot(struct history *h, int64_t n_masks);

/* (M,2) of a chunk; the caller fills it. */
int32_t *history_candidates(struct history *h, int64_t chunk);

/* The next round's place: value (M,K,4) and selected (M) for mask_loss_fwd. */
void history_add(struct history *h, struct history_entry e, struct tensor *value,
                 struct tensor *selected);

/* The queued step is on its way. */
void history_launched(struct history *h);

/* Of each slot of the launched step; waits for the device. iou_all: the IoU head's error is of all candidates, not of the selected
 * one. */
enum status history_losses(struct history *h, bool iou_all, struct objective_losses *losses,
                           const struct ops *ops, struct stream *s) MUST_CHECK;

/* All values of the queued step, squared and summed into squares (1) f64: finite if and only if all of them are. Queued. */
enum status history_squares(struct history *h, struct tensor squares, const struct ops *ops,
                            struct stream *s) MUST_CHECK;

#endif

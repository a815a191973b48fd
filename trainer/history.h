/* What a slot came to: the values and choices of the mask loss for every chunk and round, which stay on the device until they
 * are asked for, and what the host must know to read them. The device holds one slot's; the host's part is kept for the slot
 * being queued, or recorded, and for the one last launched. */
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
    bool first, last;          /* round of the slot */
    bool among, only_first;    /* chosen among the chunk's candidates; not chosen */
};

struct history_slot {
    struct history_entry *entry; /* (E), of which n are there */
    int64_t n, n_masks;
    int32_t *candidates; /* (chunks,M,2), what the device's candidates held; the caller fills it */
};

struct history {
    int64_t M; /* masks in a chunk */
    struct tensor value,
        selected; /* device, the caller's: (E,M,4,4) f32, a round's (M,K,4) at its start; (E,M) i32 */
    struct history_slot slot[2];
    int queued;             /* which is being queued; the other one is launched */
    float *host_value;      /* as value */
    int32_t *host_selected; /* as selected */
};

/* For E = chunks · rounds entries. value and selected are set by the caller. */
enum status history_create(struct history *h, int64_t chunks, int64_t rounds, int64_t M) MUST_CHECK;
void history_destroy(struct history *h); /* accepts half-built ones */

/* A slot is queued: on the device all values become 0. */
enum status history_begin(struct history *h, int64_t n_masks, const struct ops *ops,
                          struct stream *s) MUST_CHECK;
struct history_slot *history_queued(struct history *h);

/* The next round's place: value (M,K,4) and selected (M) for mask_loss_fwd. */
void history_add(struct history *h, struct history_entry e, struct tensor *value,
                 struct tensor *selected);

/* The queued slot is on its way. */
void history_launched(struct history *h);

/* Of the launched slot; waits for the device. iou_all: the IoU head's error is of all candidates, not of the selected one. */
enum status history_losses(struct history *h, bool iou_all, struct objective_losses *losses,
                           const struct ops *ops, struct stream *s) MUST_CHECK;

/* All values of the queued slot, squared and summed into squares (1) f64: finite if and only if all of them are. Queued. */
enum status history_squares(struct history *h, struct tensor squares, const struct ops *ops,
                            struct stream *s) MUST_CHECK;

#endif

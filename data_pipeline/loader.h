/* Turns shards into slots ready for a step: threads read, verify, decode, resize and decode runs
 * ahead of the trainer, in bounded memory. What slot comes is order.h's business alone; the loader
 * only makes it arrive early.
 *
 * A slot is one image of the global batch with up to max_masks of its masks. */
#ifndef DATA_PIPELINE_LOADER_H
#define DATA_PIPELINE_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/order.h"
#include "data_pipeline/shard.h"

struct loader_options {
    const struct shard_set *set; /* not owned, outlives the loader */
    uint64_t seed;
    int32_t frame;             /* S: the long side becomes this */
    int64_t max_masks;         /* M */
    double min_area, max_area; /* of the image, 0…1: masks outside are left out (0, 0.9 usual) */
    int64_t min_pixels;        /* masks of fewer original pixels are left out; empty ones always */
    int64_t batch;             /* global batch, slots */
    int64_t slot_begin, slot_end; /* this rank's slots of every step, at least one */
    int64_t step_first;           /* resume: the first step wanted */
    int n_threads;                /* 1 … LOADER_THREADS_MAX */
    int64_t ahead; /* slots in memory, ready or held by the caller; more than it holds at once */
    bool blind; /* the image becomes (124,116,104), the rounded mean colour: about 0 normalised */
};

enum { LOADER_THREADS_MAX = 256 };

/* One slot. All pointers belong to the loader and stay valid until loader_done(). */
struct loader_slot {
    int64_t step, slot; /* slot: within the global batch */
    struct order_place place;
    int64_t image_id;
    int32_t height, width;         /* original */
    int32_t new_height, new_width; /* inside the frame */
    const uint8_t *pixels;         /* (S,S,3) u8, zero beyond new_height × new_width */
    int64_t n_masks;               /* ≤ max_masks; 0 is possible: the slot then trains nothing */
    const int32_t *mask_index;     /* (n_masks) which masks of the record, ascending */
    const int32_t *runs;           /* all masks' runs, column-major, original size */
    const int64_t *first; /* (max_masks + 1) offsets into runs; masks beyond n_masks are empty */
    int64_t n_runs;
    const float *box; /* (max_masks,4) boxes in frame coordinates, exclusive; 0 beyond n_masks */
};

struct loader_stats {
    double wait_seconds;      /* how long loader_next has made its caller wait, in all */
    int64_t n_slots, n_waits; /* slots handed out; how many of them were not ready */
    int64_t n_bad;            /* records that failed verification or decoding */
    int64_t n_grown;          /* how often a slot's room for runs had to grow */
    int64_t queue_depth;      /* slots ready now */
};

struct loader;

enum status loader_create(struct loader **l, const struct loader_options *o) MUST_CHECK;
void loader_destroy(struct loader *l); /* stops and joins the threads; ends all slots */

/* The rank's next slot, in order: step_first's slots ascending, then the next step's. Waits at most
 * timeout_ms (E_TIMEOUT names what the threads were doing). A record that fails verification is
 * E_CORRUPT, now and at every later call: never silently skipped. What failed is said here, when the slot is needed; of a slot
 * that was read ahead and never asked for, loader_destroy warns. One caller at a time. */
enum status loader_next(struct loader *l, const struct loader_slot **slot,
                        int64_t timeout_ms) MUST_CHECK;

/* Gives the slot's memory back. */
void loader_done(struct loader *l, const struct loader_slot *slot);

struct loader_stats loader_stats(struct loader *l);

#endif

#include "data_pipeline/loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"
#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"

enum { RUNS_FIRST = 1024, FRAME_MAX = 4096, AHEAD_MAX = 1 << 16, NAMED_MAX = 4, NAMES = 2048 };

static const uint8_t mean_colour[3] = { 124, 116, 104 };

enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_FAILED, SLOT_HELD };

struct slot {
    struct loader_slot out; /* first, so that a caller's pointer leads back here */
    enum slot_state state;  /* under the lock */
    enum status status;
    char why[STATUS_TEXT];  /* of a failed one, until it is said */
    struct picture picture; /* pixels from the arena: (S,S,3) of room */
    int32_t n_rows;         /* of these, rows that may hold other than zeros */
    int32_t *mask_index, *runs;
    int64_t *first;
    float *box;
    int64_t runs_room;
};

#define STAGES(X)                                                                                  \
    X(IDLE, "waiting for room")                                                                    \
    X(READING, "reading")                                                                          \
    X(DECODING, "decoding the image of")                                                           \
    X(RUNS, "decoding the masks of")
#define STAGE_ENUM(name, text) STAGE_##name,
enum stage { STAGES(STAGE_ENUM) N_STAGES };
#undef STAGE_ENUM
#define STAGE_TEXT(name, text) text,
static const char *const stage_texts[N_STAGES] = { STAGES(STAGE_TEXT) };
#undef STAGE_TEXT

struct worker {
    struct loader *loader;
    pthread_t thread;
    struct shard_buffer buffer;
    struct picture picture;       /* decoded, before the resize */
    int32_t *eligible;            /* (SHARD_MASKS_MAX) from the arena */
    atomic_int stage;             /* what it is doing, for messages: enum stage, … */
    _Atomic int64_t image, since; /* … with which image, since when */
};

struct loader {
    struct loader_options o;
    struct arena arena; /* all that has a bound beforehand; runs grow */
    struct slot *slots; /* (ahead) owned; sequence number q lies in slot q mod ahead */
    struct worker *workers;
    int n_started;
    pthread_mutex_t lock;
    pthread_cond_t freed, filled;
    bool has_lock, stop, failed;  /* failed: and the caller was told */
    int64_t next_claim, next_out; /* sequence numbers of this rank's slots */
    struct loader_stats stats;
    atomic_llong n_grown;
};

static void set_stage(struct worker *w, enum stage stage)
{
    atomic_store_explicit(&w->since, clock_ns(), memory_order_relaxed);
    atomic_store_explicit(&w->stage, (int)stage, memory_order_relaxed);
}

/* ---- filling a slot -------------------------------------------------------------------------- */

static enum status bad_record(const struct worker *w, int64_t image, const char *what,
                              const char *why)
{
    char where[SHARD_WHERE];

    FAIL(E_CORRUPT, "loader: %s: %s: %s", shard_set_where(w->loader->o.set, image, where), what,
         why);
}

/* The picture lies in rows of new_w pixels; spread them to rows of S, zero behind and below. */
static void spread_rows(struct slot *s, int32_t frame)
{
    const int32_t new_h = s->out.new_height;
    const size_t row = (size_t)frame * 3, used = (size_t)s->out.new_width * 3;
    uint8_t *rgb = s->picture.rgb;

    if (used < row)
        for (int32_t y = new_h - 1; y >= 0; y--) {
            memmove(rgb + (size_t)y * row, rgb + (size_t)y * used, used);
            memset(rgb + (size_t)y * row + used, 0, row - used);
        }
    if (new_h < s->n_rows) memset(rgb + (size_t)new_h * row, 0, (size_t)(s->n_rows - new_h) * row);
    s->n_rows = new_h;
}

static void fill_mean(uint8_t *rgb, int64_t n_pixels)
{
    for (int64_t i = 0; i < n_pixels; i++) memcpy(rgb + 3 * i, mean_colour, sizeof mean_colour);
}

static enum status decode_picture(struct worker *w, struct slot *s, const struct shard_record *r)
{
    const int32_t new_h = s->out.new_height, new_w = s->out.new_width;
    const bool fits = r->stored_height == new_h && r->stored_width == new_w;
    struct picture *to = fits ? &s->picture : &w->picture;
    const char *why = NULL;
    int32_t height, width;
    enum status status = picture_size(r->image, r->image_bytes, &height, &width, &why);

    if (status == OK && (height != r->stored_height || width != r->stored_width)) {
        status = E_CORRUPT;
        why = "its size is not what the index says";
    }
    if (status == OK)
        status = picture_decode(r->image, r->image_bytes, fits ? 0 : w->loader->o.frame, to, &why);
    if (why) return bad_record(w, s->out.place.image, "the image", why);
    TRY(status);
    return fits ? OK : picture_resize(&s->picture, &w->picture, new_h, new_w);
}

static enum status fill_pixels(struct worker *w, struct slot *s, const struct shard_record *r)
{
    const struct loader_options *o = &w->loader->o;
    const uint8_t *room = s->picture.rgb;

    if (o->blind)
        fill_mean(s->picture.rgb, (int64_t)s->out.new_height * s->out.new_width);
    else
        TRY(decode_picture(w, s, r));
    ASSERT(s->picture.rgb == room); /* a frame's pixels always fit */
    spread_rows(s, o->frame);
    return OK;
}

/* Which masks of the record: order_masks() among those that the filters leave. */
static void choose_masks(struct worker *w, struct slot *s, const struct shard_record *r)
{
    const struct loader_options *o = &w->loader->o;
    const double n_pixels = (double)r->height * r->width;
    int64_t n = 0;

    for (int64_t m = 0; m < r->n_masks; m++) {
        const int64_t area = r->mask_area[m];
        const double share = (double)area / n_pixels;

        if (area > 0 && area >= o->min_pixels && share >= o->min_area && share <= o->max_area)
            w->eligible[n++] = (int32_t)m;
    }
    s->out.n_masks = order_masks(o->seed, s->out.place, n, o->max_masks, s->mask_index);
    for (int64_t i = 0; i < s->out.n_masks; i++) s->mask_index[i] = w->eligible[s->mask_index[i]];
}

static enum status grow_runs(struct worker *w, struct slot *s, int64_t used, int64_t wanted)
{
    const int64_t room = wanted + wanted / 2;
    int32_t *runs;

    if (wanted <= s->runs_room) return OK;
    runs = malloc((size_t)room * sizeof *runs);
    if (!runs) FAIL(E_MEMORY, "loader: no memory for %" PRId64 " runs", room);
    if (s->runs) memcpy(runs, s->runs, (size_t)used * sizeof *runs);
    free(s->runs);
    s->runs = runs;
    s->runs_room = room;
    atomic_fetch_add_explicit(&w->loader->n_grown, 1, memory_order_relaxed);
    return OK;
}

static enum status fill_masks(struct worker *w, struct slot *s, const struct shard_record *r)
{
    const struct loader_options *o = &w->loader->o;
    const float scale_x = (float)s->out.new_width / (float)r->width;
    const float scale_y = (float)s->out.new_height / (float)r->height;
    int64_t at = 0;

    choose_masks(w, s, r);
    memset(s->box, 0, (size_t)o->max_masks * 4 * sizeof *s->box);
    for (int64_t i = 0; i < s->out.n_masks; i++) {
        const int64_t m = s->mask_index[i], begin = m > 0 ? r->mask_end[m - 1] : 0;
        const int64_t n_text = r->mask_end[m] - begin;
        const char *why = NULL;
        int64_t n_runs = 0;
        enum status status;

        TRY(grow_runs(w, s, at, at + rle_max_runs(n_text)));
        status = rle_decode(r->mask_text + begin, n_text, r->height, r->width, s->runs + at,
                            s->runs_room - at, &n_runs, &why);
        if (why) return bad_record(w, s->out.place.image, "a mask", why);
        TRY(status);
        s->first[i] = at;
        at += n_runs;
        for (int j = 0; j < 4; j++)
            s->box[4 * i + j] = r->mask_box[4 * m + j] * (j % 2 ? scale_y : scale_x);
    }
    for (int64_t i = s->out.n_masks; i <= o->max_masks; i++) s->first[i] = at;
    s->out.n_runs = at;
    return OK;
}

static enum status fill_slot(struct worker *w, struct slot *s, int64_t q)
{
    const struct loader_options *o = &w->loader->o;
    const int64_t per_step = o->slot_end - o->slot_begin;
    struct loader_slot *out = &s->out;
    struct shard_record r;

    out->step = o->step_first + q / per_step;
    out->slot = o->slot_begin + q % per_step;
    out->place = order_at(o->seed, shard_set_images(o->set), out->step * o->batch + out->slot);
    atomic_store_explicit(&w->image, out->place.image, memory_order_relaxed);
    set_stage(w, STAGE_READING);
    TRY(shard_set_read(o->set, out->place.image, &w->buffer, &r));
    out->image_id = r.image_id;
    out->height = r.height;
    out->width = r.width;
    picture_fit(r.height, r.width, o->frame, &out->new_height, &out->new_width);
    set_stage(w, STAGE_DECODING);
    TRY(fill_pixels(w, s, &r));
    set_stage(w, STAGE_RUNS);
    TRY(fill_masks(w, s, &r));
    out->pixels = s->picture.rgb;
    out->mask_index = s->mask_index;
    out->runs = s->runs;
    out->first = s->first;
    out->box = s->box;
    return OK;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct loader *l = w->loader;

    set_stage(w, STAGE_IDLE);
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        struct slot *s = &l->slots[l->next_claim % l->o.ahead];
        int64_t q;

        if (s->state != SLOT_FREE) {
            set_stage(w, STAGE_IDLE);
            pthread_cond_wait(&l->freed, &l->lock); /* ended by loader_destroy() at the latest */
            continue;
        }
        q = l->next_claim++;
        s->state = SLOT_FILLING;
        pthread_mutex_unlock(&l->lock);
        status_hold(s->why); /* it may never be needed */
        s->status = fill_slot(w, s, q);
        pthread_mutex_lock(&l->lock);
        s->state = s->status == OK ? SLOT_READY : SLOT_FAILED;
        if (s->status == OK)
            l->stats.queue_depth++;
        else
            l->stats.n_bad++;
        pthread_cond_signal(&l->filled);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- creating -------------------------------------------------------------------------------- */

static enum status check_options(const struct loader_options *o)
{
    if (o->frame < 1 || o->frame > FRAME_MAX)
        FAIL(E_USAGE, "loader: a frame of %d; 1 to %d are possible", (int)o->frame, FRAME_MAX);
    if (o->max_masks < 1 || o->max_masks > SHARD_MASKS_MAX)
        FAIL(E_USAGE, "loader: %" PRId64 " masks a slot; 1 to %d are possible", o->max_masks,
             (int)SHARD_MASKS_MAX);
    if (!(o->min_area >= 0 && o->min_area <= o->max_area && o->max_area <= 1))
        FAIL(E_USAGE, "loader: mask areas from %g to %g of the image; they lie in 0 to 1",
             o->min_area, o->max_area);
    if (o->slot_begin < 0 || o->slot_begin >= o->slot_end || o->slot_end > o->batch)
        FAIL(E_USAGE,
             "loader: slots %" PRId64 " to %" PRId64 " of a batch of %" PRId64
             ": a rank needs one at least; raise the batch or use fewer ranks",
             o->slot_begin, o->slot_end, o->batch);
    if (o->step_first < 0) FAIL(E_USAGE, "loader: the first step is %" PRId64, o->step_first);
    if (o->n_threads < 1 || o->n_threads > LOADER_THREADS_MAX)
        FAIL(E_USAGE, "loader: %d threads; 1 to %d are possible", o->n_threads, LOADER_THREADS_MAX);
    if (o->ahead < 1 || o->ahead > AHEAD_MAX)
        FAIL(E_USAGE, "loader: %" PRId64 " slots ahead; 1 to %d are possible", o->ahead, AHEAD_MAX);
    return OK;
}

static enum status take_slot(struct loader *l, struct slot *s)
{
    const int64_t m = l->o.max_masks, pixels = (int64_t)l->o.frame * l->o.frame * 3;
    void *p;

    TRY(arena_take(&l->arena, pixels, &p));
    s->picture = (struct picture){ .rgb = p, .room = pixels };
    TRY(arena_take(&l->arena, m * (int64_t)sizeof *s->mask_index, &p));
    s->mask_index = p;
    TRY(arena_take(&l->arena, (m + 1) * (int64_t)sizeof *s->first, &p));
    s->first = p;
    TRY(arena_take(&l->arena, m * 4 * (int64_t)sizeof *s->box, &p));
    s->box = p;
    s->runs_room = m * RUNS_FIRST;
    s->runs = malloc((size_t)s->runs_room * sizeof *s->runs);
    if (!s->runs) FAIL(E_MEMORY, "loader: no memory for %" PRId64 " runs", s->runs_room);
    return OK;
}

static enum status take_memory(struct loader *l)
{
    const struct loader_options *o = &l->o;
    const int64_t m = o->max_masks;
    const int64_t slot_bytes = arena_round((int64_t)o->frame * o->frame * 3) +
                               arena_round(m * (int64_t)sizeof(int32_t)) +
                               arena_round((m + 1) * (int64_t)sizeof(int64_t)) +
                               arena_round(m * 4 * (int64_t)sizeof(float));
    const int64_t eligible_bytes = SHARD_MASKS_MAX * (int64_t)sizeof(int32_t);

    l->slots = calloc((size_t)o->ahead, sizeof *l->slots);
    l->workers = calloc((size_t)o->n_threads, sizeof *l->workers);
    if (!l->slots || !l->workers)
        FAIL(E_MEMORY, "loader: no memory for %" PRId64 " slots", o->ahead);
    TRY(arena_create(&l->arena,
                     o->ahead * slot_bytes + o->n_threads * arena_round(eligible_bytes)));
    for (int64_t i = 0; i < o->ahead; i++) TRY(take_slot(l, &l->slots[i]));
    for (int i = 0; i < o->n_threads; i++) {
        void *p;

        TRY(arena_take(&l->arena, eligible_bytes, &p));
        l->workers[i].eligible = p;
        l->workers[i].loader = l;
    }
    return OK;
}

static enum status take_lock(struct loader *l)
{
    pthread_condattr_t attr;

    if (pthread_condattr_init(&attr) != 0) FAIL(E_MEMORY, "loader: no condition variable");
    /* the wall clock may jump; waits must not */
    if (pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) != 0 ||
        pthread_mutex_init(&l->lock, NULL) != 0 || pthread_cond_init(&l->freed, &attr) != 0 ||
        pthread_cond_init(&l->filled, &attr) != 0)
        FAIL(E_MEMORY, "loader: no lock");
    pthread_condattr_destroy(&attr);
    l->has_lock = true;
    return OK;
}

/* Signals belong to the trainer's thread: the workers block them all. */
static enum status start_threads(struct loader *l)
{
    sigset_t all, before;
    int error = 0;

    sigfillset(&all);
    error = pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; l->n_started < l->o.n_threads && error == 0; l->n_started++) {
        struct worker *w = &l->workers[l->n_started];

        error = pthread_create(&w->thread, NULL, work, w);
        if (error != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        FAIL(E_MEMORY, "loader: thread %d of %d does not start: %s", l->n_started + 1,
             l->o.n_threads, strerror(error));
    return OK;
}

enum status loader_create(struct loader **l, const struct loader_options *o)
{
    struct loader *x;
    enum status s;

    TRY(check_options(o));
    x = calloc(1, sizeof *x);
    if (!x) FAIL(E_MEMORY, "loader: no memory");
    x->o = *o;
    s = take_lock(x);
    if (s == OK) s = take_memory(x);
    if (s == OK) s = start_threads(x);
    if (s != OK) {
        loader_destroy(x);
        return s;
    }
    *l = x;
    return OK;
}

/* What failed ahead of its need does not end the run that did not come to it, but will end the one that does. */
static void warn_of_failed(const struct loader *l)
{
    const struct slot *first = NULL;
    int64_t n = 0;

    for (int64_t q = l->next_out; q < l->next_claim && !l->failed; q++) {
        const struct slot *s = &l->slots[q % l->o.ahead];

        if (s->state != SLOT_FAILED) continue;
        if (!first) first = s;
        n++;
    }
    if (first)
        log_warn("of the slots that were read ahead, and not needed so far, %" PRId64
                 " failed, the first of them in step %" PRId64 ": %s",
                 n, first->out.step + 1, first->why);
}

void loader_destroy(struct loader *l)
{
    if (!l) return;
    if (l->has_lock) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->freed);
        pthread_mutex_unlock(&l->lock);
    }
    for (int i = 0; i < l->n_started; i++) {
        pthread_join(l->workers[i].thread, NULL);
        shard_buffer_destroy(&l->workers[i].buffer);
        picture_destroy(&l->workers[i].picture);
    }
    if (l->slots) warn_of_failed(l);
    for (int64_t i = 0; l->slots && i < l->o.ahead; i++) free(l->slots[i].runs);
    if (l->has_lock) {
        pthread_cond_destroy(&l->freed);
        pthread_cond_destroy(&l->filled);
        pthread_mutex_destroy(&l->lock);
    }
    arena_destroy(&l->arena);
    free(l->slots);
    free(l->workers);
    free(l);
}

/* ---- the caller's side ----------------------------------------------------------------------- */

static void name_workers(const struct loader *l, char names[NAMES])
{
    int n = 0;

    names[0] = 0;
    for (int i = 0; i < l->o.n_threads && i < NAMED_MAX && n < NAMES; i++) {
        struct worker *w = &l->workers[i];
        const int stage = atomic_load_explicit(&w->stage, memory_order_relaxed);
        const int64_t image = atomic_load_explicit(&w->image, memory_order_relaxed);
        const int64_t since = atomic_load_explicit(&w->since, memory_order_relaxed);
        char where[SHARD_WHERE] = "";

        if (stage != STAGE_IDLE) shard_set_where(l->o.set, image, where);
        n += snprintf(names + n, (size_t)(NAMES - n), "%sthread %d %s %s for %.1f s", i ? "; " : "",
                      i, stage_texts[stage], where, (double)(clock_ns() - since) * 1e-9);
    }
}

static enum status wait_filled(struct loader *l, const struct slot *s, int64_t timeout_ms)
{
    const int64_t begin = clock_ns(), end = begin + timeout_ms * 1000000;
    const struct timespec until = { .tv_sec = end / 1000000000, .tv_nsec = end % 1000000000 };
    int error = 0;

    while (s->state != SLOT_READY && s->state != SLOT_FAILED && error == 0)
        error = pthread_cond_timedwait(&l->filled, &l->lock, &until);
    l->stats.n_waits++;
    l->stats.wait_seconds += (double)(clock_ns() - begin) * 1e-9;
    return s->state == SLOT_READY || s->state == SLOT_FAILED ? OK : E_TIMEOUT;
}

static enum status next_locked(struct loader *l, struct slot *s, int64_t timeout_ms)
{
    if (s->state == SLOT_HELD)
        FAIL(E_USAGE,
             "loader: its caller holds all %" PRId64
             " slots: ahead must be more than a step's %" PRId64,
             l->o.ahead, l->o.slot_end - l->o.slot_begin);
    if (s->state != SLOT_READY && s->state != SLOT_FAILED && wait_filled(l, s, timeout_ms) != OK) {
        char names[NAMES];

        name_workers(l, names);
        FAIL(E_TIMEOUT, "loader: no slot within %" PRId64 " ms: %s", timeout_ms, names);
    }
    if (s->state == SLOT_FAILED) {
        status_release(s->why);
        l->failed = true;
        return s->status;
    }
    s->state = SLOT_HELD;
    l->next_out++;
    l->stats.queue_depth--;
    l->stats.n_slots++;
    return OK;
}

enum status loader_next(struct loader *l, const struct loader_slot **slot, int64_t timeout_ms)
{
    struct slot *s;
    enum status status;

    pthread_mutex_lock(&l->lock);
    s = &l->slots[l->next_out % l->o.ahead];
    status = next_locked(l, s, timeout_ms);
    pthread_mutex_unlock(&l->lock);
    if (status == OK) *slot = &s->out;
    return status;
}

void loader_done(struct loader *l, const struct loader_slot *slot)
{
    struct slot *s = &l->slots[(const struct slot *)(const void *)slot - l->slots];

    pthread_mutex_lock(&l->lock);
    ASSERT(s->state == SLOT_HELD);
    s->state = SLOT_FREE;
    pthread_cond_broadcast(&l->freed);
    pthread_mutex_unlock(&l->lock);
}

struct loader_stats loader_stats(struct loader *l)
{
    struct loader_stats s;

    pthread_mutex_lock(&l->lock);
    s = l->stats;
    pthread_mutex_unlock(&l->lock);
    s.n_grown = atomic_load_explicit(&l->n_grown, memory_order_relaxed);
    return s;
}

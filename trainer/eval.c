#include "trainer/eval.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cluster/plan.h"
#include "cluster/watchdog.h"
#include "data_pipeline/distance.h"
#include "data_pipeline/order.h"
#include "data_pipeline/picture.h"
#include "data_pipeline/rle.h"
#include "kernels/base/arena.h"
#include "kernels/base/check.h"
#include "trainer/eval_trivial.h"
#include "trainer/median.h"
#include "trainer/overlay.h"
#include "trainer/staging.h"

#define EVAL_KEY(member, text) #member,
static const char *const keys[EVAL_N_SCORES] = { EVAL_SCORES(EVAL_KEY) };
#undef EVAL_KEY
#define EVAL_TEXT(member, text) text,
static const char *const texts[EVAL_N_SCORES] = { EVAL_SCORES(EVAL_TEXT) };
#undef EVAL_TEXT

/* A thread's own: where one mask's logits become pixels. */
struct worker {
    struct stream stream;
    float *frame, *full; /* (S,S), (h,w); owned */
    uint8_t *guess;      /* (h,w); owned */
    struct distance distance;
    int64_t n_full, n_scratch;
};

enum { CHUNK_ROOMS = 5 };

/* A chunk's prompts and answers, for the host: the model's own memory, or copies of it. */
struct chunk_memory {
    float *coords;                         /* (M,P,2) */
    int32_t *labels, *n_points, *n_tokens; /* (M,P) (M) (M) */
    float *mask;                           /* (M,L,L), fed back */
    void *logits_room, *iou_room;          /* (M,K,L,L) (M,K) f32 */
    void *room[CHUNK_ROOMS];               /* of the copies; owned */
};

/* One mask of the image at hand. */
struct target {
    uint8_t *truth, *guess; /* (h,w); in eval.pixels */
    int32_t index;          /* in the record */
    struct rle_extent extent;
    struct eval_row row;
    struct distance_click click[EVAL_CLICKS];
};

struct eval {
    struct eval_options o;
    struct sam *sam;
    const struct ops *host_ops; /* turn logits into pixels, mask by mask on all threads */
    struct chunk_memory chunk;
    struct worker *worker;
    int n_workers;
    struct shard_buffer record_bytes;
    struct picture decoded, fitted;
    uint8_t *frame;  /* (S,S,3) u8 */
    uint8_t *pixels; /* truth and guess of every target; owned, grows */
    int64_t n_pixels;
    int32_t *runs; /* of one mask; grows */
    int64_t n_runs;
    struct target *target; /* grows */
    int64_t room_targets, n_targets;
    int32_t *eligible; /* grows with the masks of an image */
    int64_t room_eligible;
    int32_t h, w, new_h, new_w;
    struct eval_row *row; /* this rank's; grows */
    int64_t n_rows, room_rows;
};

const char *eval_key(enum eval_score s)
{
    return keys[s];
}

const char *eval_text(enum eval_score s)
{
    return texts[s];
}

const struct params *eval_params(const struct eval *e)
{
    return &e->sam->params;
}

/* Room for n elements; the contents are lost when it grows. */
static enum status room(void *list, int64_t *have, int64_t n, int64_t size)
{
    void *p;

    if (n <= *have) return OK;
    memcpy(&p, list, sizeof p); /* list is the address of some pointer, of whatever type */
    free(p);
    *have = 0;
    p = aligned_alloc(ARENA_ALIGN, (size_t)arena_round(n * size));
    memcpy(list, &p, sizeof p);
    if (!p) FAIL(E_MEMORY, "%lld bytes to evaluate an image", (long long)(n * size));
    *have = n;
    return OK;
}

/* The host's side of tensor t: t itself, or room for a copy. */
static enum status host_side(struct eval *e, struct tensor t, int room, void *of)
{
    void *p;

    TRY(staging_room(e->o.ops, tensor_bytes(t), &e->chunk.room[room]));
    p = e->chunk.room[room] ? e->chunk.room[room] : t.data;
    memcpy(of, &p, sizeof p); /* of is the address of some pointer, of whatever type */
    return OK;
}

static enum status create_chunk(struct eval *e)
{
    const struct sam *s = e->sam;
    const struct sam_prompts *p = s->prompts;
    const int64_t logits = tensor_bytes(p->mask) * MASK_TOKENS, iou = s->M * MASK_TOKENS * 4;

    TRY(host_side(e, p->coords, 0, &e->chunk.coords));
    TRY(host_side(e, p->labels, 1, &e->chunk.labels));
    TRY(host_side(e, p->n_points, 2, &e->chunk.n_points));
    TRY(host_side(e, p->n_tokens, 3, &e->chunk.n_tokens));
    TRY(host_side(e, p->mask, 4, &e->chunk.mask));
    TRY(staging_room(e->o.ops, logits, &e->chunk.logits_room));
    return staging_room(e->o.ops, iou, &e->chunk.iou_room);
}

static enum status create(struct eval *e)
{
    const struct config *c = e->o.config;
    const int64_t S = c->model_image_size, most = e->o.max_masks;
    const int64_t chunk = most > 0 && most < c->train_chunk ? most : c->train_chunk;

    TRY(sam_create(&e->sam, c, e->o.ops, chunk, 1 + EVAL_CLICKS, 0, false));
    e->host_ops = e->o.ops->host_memory ? e->o.ops : &ops_cpu;
    TRY(create_chunk(e));
    e->n_workers = omp_get_max_threads();
    e->worker = calloc((size_t)e->n_workers, sizeof *e->worker);
    e->frame = calloc((size_t)(S * S), 3);
    if (!e->worker || !e->frame) FAIL(E_MEMORY, "the evaluation's buffers");
    for (int i = 0; i < e->n_workers; i++) {
        e->worker[i].frame = calloc((size_t)(S * S), sizeof(float));
        if (!e->worker[i].frame) FAIL(E_MEMORY, "the evaluation's buffers");
    }
    return OK;
}

enum status eval_create(struct eval **e, const struct eval_options *o)
{
    struct eval *q = calloc(1, sizeof *q);
    enum status s;

    if (!q) FAIL(E_MEMORY, "an evaluation");
    q->o = *o;
    s = create(q);
    if (s != OK) {
        eval_destroy(q);
        return s;
    }
    *e = q;
    return OK;
}

void eval_destroy(struct eval *e)
{
    if (!e) return;
    for (int i = 0; e->worker && i < e->n_workers; i++) {
        free(e->worker[i].frame);
        free(e->worker[i].full);
        free(e->worker[i].guess);
        free(e->worker[i].stream.scratch);
        distance_destroy(&e->worker[i].distance);
    }
    free(e->worker);
    for (int i = 0; i < CHUNK_ROOMS; i++) free(e->chunk.room[i]);
    free(e->chunk.logits_room);
    free(e->chunk.iou_room);
    sam_destroy(e->sam);
    shard_buffer_destroy(&e->record_bytes);
    picture_destroy(&e->decoded);
    picture_destroy(&e->fitted);
    free(e->frame);
    free(e->pixels);
    free(e->runs);
    free(e->target);
    free(e->eligible);
    free(e->row);
    free(e);
}

enum status eval_weights(struct eval *e, const float *weights)
{
    struct sam *s = e->sam;

    TRY(s->ops->put(s->weights, weights, s->params.n_floats * 4, &s->stream));
    return sam_weights_changed(s);
}

enum status eval_weights_of(struct eval *e, const struct sam *from)
{
    struct sam *s = e->sam;

    ASSERT(from->ops == s->ops);
    TRY(s->ops->copy(s->weights, from->weights, s->params.n_floats * 4, &s->stream));
    return sam_weights_changed(s);
}

/* ---- one image: pixels and masks ------------------------------------------------------------ */
static bool passes(const struct config *c, int64_t area, const struct shard_record *r)
{
    const double share = (double)area / ((double)r->height * r->width);

    return area >= c->data_min_pixels && share >= c->data_min_area && share <= c->data_max_area;
}

static enum status load_pixels(struct eval *e, const struct shard_record *r)
{
    const int32_t S = (int32_t)e->o.config->model_image_size;
    const char *why;

    if (picture_decode(r->image, r->image_bytes, S, &e->decoded, &why) != OK)
        FAIL(E_CORRUPT, "image %lld: %s", (long long)r->image_id, why);
    e->h = r->height;
    e->w = r->width;
    picture_fit(r->height, r->width, S, &e->new_h, &e->new_w);
    TRY(picture_resize(&e->fitted, &e->decoded, e->new_h, e->new_w));
    memset(e->frame, 0, (size_t)S * (size_t)S * 3);
    for (int32_t y = 0; y < e->new_h; y++)
        memcpy(e->frame + (int64_t)y * S * 3, e->fitted.rgb + (int64_t)y * e->new_w * 3,
               (size_t)e->new_w * 3);
    if (e->o.config->data_blind) { /* the rounded mean colour, as the loader has it */
        static const uint8_t mean[3] = { 124, 116, 104 };

        for (int64_t i = 0; i < (int64_t)S * S; i++) memcpy(e->frame + 3 * i, mean, 3);
    }
    return OK;
}

static enum status load_target(struct eval *e, const struct shard_record *r, int32_t index,
                               int64_t slot)
{
    const int64_t begin = index ? r->mask_end[index - 1] : 0, n = r->mask_end[index] - begin;
    const int64_t area = (int64_t)e->h * e->w;
    struct target *t = e->target + slot;
    int64_t n_runs;
    const char *why;

    TRY(room(&e->runs, &e->n_runs, rle_max_runs(n), sizeof *e->runs));
    if (rle_decode(r->mask_text + begin, n, e->h, e->w, e->runs, e->n_runs, &n_runs, &why) != OK)
        FAIL(E_CORRUPT, "image %lld mask %d: %s", (long long)r->image_id, index, why);
    *t = (struct target){ .truth = e->pixels + 2 * slot * area,
                          .guess = e->pixels + (2 * slot + 1) * area,
                          .index = index,
                          .extent = rle_extent(e->runs, n_runs, e->h) };
    rle_to_pixels(e->runs, n_runs, e->h, e->w, t->truth);
    t->row = (struct eval_row){ .image_id = r->image_id, .area = t->extent.area, .mask = index };
    for (int i = 0; i < EVAL_N_SCORES; i++) t->row.score[i] = NAN;
    return OK;
}

static enum status load(struct eval *e, int64_t image)
{
    const struct config *c = e->o.config;
    struct shard_record r;
    int64_t n = 0, wanted;
    int32_t *chosen;

    TRY(shard_set_read(e->o.set, image, &e->record_bytes, &r));
    TRY(load_pixels(e, &r));
    TRY(room(&e->eligible, &e->room_eligible, 2 * r.n_masks, sizeof *e->eligible));
    chosen = e->eligible + r.n_masks;
    for (int64_t i = 0; i < r.n_masks; i++)
        if (passes(c, r.mask_area[i], &r)) e->eligible[n++] = (int32_t)i;
    wanted = e->o.max_masks > 0 && e->o.max_masks < n ? e->o.max_masks : n;
    e->n_targets =
        order_masks((uint64_t)c->train_seed, (struct order_place){ 0, image }, n, wanted, chosen);
    TRY(room(&e->target, &e->room_targets, e->n_targets, sizeof *e->target));
    TRY(room(&e->pixels, &e->n_pixels, 2 * e->n_targets * e->h * e->w, 1));
    for (int64_t i = 0; i < e->n_targets; i++) TRY(load_target(e, &r, e->eligible[chosen[i]], i));
    return OK;
}

static enum status prepare_workers(struct eval *e)
{
    const int64_t area = (int64_t)e->h * e->w, S = e->o.config->model_image_size;

    for (int i = 0; i < e->n_workers; i++) {
        struct worker *k = e->worker + i;
        struct stream dry = { .planning = true };
        int64_t n_guess = k->n_full;

        TRY(room(&k->full, &k->n_full, area, sizeof *k->full));
        TRY(room(&k->guess, &n_guess, area, 1));
        TRY(distance_reserve(&k->distance, e->h, e->w));
        TRY(e->host_ops->resize_fwd(tensor_3d(NULL, F32, 1, S, S),
                                    tensor_3d(NULL, F32, 1, 4 * e->sam->H, 4 * e->sam->H),
                                    4 * e->sam->H, 4 * e->sam->H, &dry));
        TRY(e->host_ops->resize_fwd(tensor_3d(NULL, F32, 1, e->h, e->w),
                                    tensor_3d(NULL, F32, 1, S, S), e->new_h, e->new_w, &dry));
        TRY(room(&k->stream.scratch, &k->n_scratch, dry.scratch_need + 1, 1));
        k->stream.scratch_bytes = k->n_scratch;
    }
    return OK;
}

/* ---- predictions ---------------------------------------------------------------------------- */
/* One mask's logits at the original size, above 0. Post-processing as the reference: up to the frame, crop, up or down. */
static enum status to_pixels(struct eval *e, struct worker *k, const float *logits)
{
    const int64_t S = e->o.config->model_image_size, L = 4 * e->sam->H, area = (int64_t)e->h * e->w;

    TRY(e->host_ops->resize_fwd(tensor_3d(k->frame, F32, 1, S, S),
                                tensor_3d((void *)(uintptr_t)logits, F32, 1, L, L), L, L,
                                &k->stream));
    TRY(e->host_ops->resize_fwd(tensor_3d(k->full, F32, 1, e->h, e->w),
                                tensor_3d(k->frame, F32, 1, S, S), e->new_h, e->new_w, &k->stream));
    for (int64_t i = 0; i < area; i++) k->guess[i] = k->full[i] > 0;
    return OK;
}

static float iou(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t both = 0, any = 0;

    for (int64_t i = 0; i < n; i++) {
        both += a[i] & b[i];
        any += a[i] | b[i];
    }
    return any ? (float)((double)both / (double)any) : 1;
}

/* Scores the K masks of chunk entry m against its target; keeps the one of highest predicted IoU as the guess when keep.
 * mean: that one's IoU, best: the highest. */
static enum status score(struct eval *e, struct worker *k, struct target *t, struct tensor logits,
                         struct tensor predicted, int64_t m, bool keep, float *own, float *best)
{
    const int64_t K = logits.dim[1], L2 = logits.dim[2] * logits.dim[3];
    const float *p = (const float *)predicted.data + m * K;
    int64_t chosen = 0;

    *best = 0;
    for (int64_t i = 1; i < K; i++)
        if (p[i] > p[chosen]) chosen = i;
    for (int64_t i = 0; i < K; i++) {
        float value;

        TRY(to_pixels(e, k, (const float *)logits.data + (m * K + i) * L2));
        value = iou(k->guess, t->truth, (int64_t)e->h * e->w);
        if (value > *best) *best = value;
        if (i != chosen) continue;
        *own = value;
        if (keep) memcpy(t->guess, k->guess, (size_t)e->h * (size_t)e->w);
    }
    if (keep)
        memcpy(e->chunk.mask + m * L2, (const float *)logits.data + (m * K + chosen) * L2,
               (size_t)L2 * 4);
    return OK;
}

/* ---- prompts, on the host's side --------------------------------------------------------------- */
static void put_point(struct eval *e, int64_t m, int slot, double x, double y, int32_t label)
{
    const int64_t P = e->sam->P;

    e->chunk.coords[(m * P + slot) * 2] = (float)x;
    e->chunk.coords[(m * P + slot) * 2 + 1] = (float)y;
    e->chunk.labels[m * P + slot] = label;
}

/* A click on pixel (x,y) of the original image, in the frame. */
static void put_click(struct eval *e, int64_t m, int slot, const struct distance_click *c)
{
    put_point(e, m, slot, (c->x + 0.5) * e->new_w / e->w - 0.5,
              (c->y + 0.5) * e->new_h / e->h - 0.5, c->found ? c->positive : -1);
}

static void put_counts(struct eval *e, int n_points)
{
    for (int64_t m = 0; m < e->sam->M; m++) {
        e->chunk.n_points[m] = n_points;
        e->chunk.n_tokens[m] = 1 + MASK_TOKENS + n_points;
    }
}

/* The first click and its padding, or the corners of the true box, for a chunk; entries beyond it are padding only. */
static void first_prompts(struct eval *e, int64_t begin, int64_t n, bool box)
{
    for (int64_t m = 0; m < e->sam->M; m++) {
        const struct target *t = e->target + begin + m;

        put_point(e, m, 0, 0, 0, -1);
        put_point(e, m, 1, 0, 0, -1);
        if (m >= n) continue;
        if (box) {
            put_point(e, m, 0, (double)t->extent.x0 * e->new_w / e->w - 0.5,
                      (double)t->extent.y0 * e->new_h / e->h - 0.5, 2);
            put_point(e, m, 1, (double)t->extent.x1 * e->new_w / e->w - 0.5,
                      (double)t->extent.y1 * e->new_h / e->h - 0.5, 3);
        } else {
            put_click(e, m, 0, t->click);
        }
    }
    put_counts(e, 2);
}

enum pass { PASS_FIRST, PASS_NEXT, PASS_BOX };

/* Where the score after n clicks goes, or none. */
static int slot_of_clicks(int n)
{
    switch (n) {
    case 1:
        return EVAL_click_1;
    case 2:
        return EVAL_click_2;
    case 3:
        return EVAL_click_3;
    case 5:
        return EVAL_click_5;
    case 9:
        return EVAL_click_9;
    default:
        return -1;
    }
}

static enum status score_one(struct eval *e, struct worker *k, int64_t begin, int64_t m,
                             enum pass pass, int n_clicks, struct tensor logits,
                             struct tensor predicted)
{
    struct target *t = e->target + begin + m;
    float own = 0, best;

    TRY(score(e, k, t, logits, predicted, m, pass != PASS_BOX, &own, &best));
    if (pass == PASS_BOX) {
        t->row.score[EVAL_box] = own;
        t->row.score[EVAL_box_oracle] = best;
        return OK;
    }
    if (pass == PASS_FIRST) t->row.score[EVAL_oracle] = best;
    if (slot_of_clicks(n_clicks) >= 0) t->row.score[slot_of_clicks(n_clicks)] = own;
    t->row.n_clicks = n_clicks;
    if (n_clicks < e->o.max_clicks)
        t->click[n_clicks] = distance_click(&k->distance, t->truth, t->guess, e->h, e->w);
    return OK;
}

/* What the host's side holds to the device, where they are not one. */
static enum status put_prompts(struct eval *e, bool fed_back)
{
    const struct sam_prompts *p = e->sam->prompts;
    const struct tensor to[CHUNK_ROOMS] = { p->coords, p->labels, p->n_points, p->n_tokens,
                                            p->mask };

    for (int i = 0; i < (fed_back ? CHUNK_ROOMS : CHUNK_ROOMS - 1); i++)
        if (e->chunk.room[i])
            TRY(e->o.ops->put(to[i].data, e->chunk.room[i], tensor_bytes(to[i]), &e->sam->stream));
    return OK;
}

/* The answer, where the host can read it. */
static enum status decode(struct eval *e, enum pass pass, struct tensor *logits,
                          struct tensor *predicted)
{
    const void *l, *p;
    struct sam *s = e->sam;

    TRY(put_prompts(e, pass == PASS_NEXT));
    TRY(sam_decode(s, pass == PASS_NEXT ? SAM_NEXT : SAM_FIRST, 0, logits, predicted));
    TRY(staging_read(s->ops, &s->stream, logits->data, tensor_bytes(*logits), e->chunk.logits_room,
                     &l));
    TRY(staging_read(s->ops, &s->stream, predicted->data, tensor_bytes(*predicted),
                     e->chunk.iou_room, &p));
    logits->data = (void *)(uintptr_t)l;
    predicted->data = (void *)(uintptr_t)p;
    return OK;
}

static enum status decode_and_score(struct eval *e, int64_t begin, int64_t n, enum pass pass,
                                    int n_clicks)
{
    struct tensor logits, predicted;
    enum status worst = OK;

    TRY(decode(e, pass, &logits, &predicted));
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t m = 0; m < n; m++) {
        const enum status s = score_one(e, e->worker + omp_get_thread_num(), begin, m, pass,
                                        n_clicks, logits, predicted);

        if (s != OK) {
#pragma omp critical
            worst = s;
        }
    }
    return worst;
}

static enum status run_chunk(struct eval *e, int64_t begin, int64_t n)
{
    first_prompts(e, begin, n, false);
    TRY(decode_and_score(e, begin, n, PASS_FIRST, 1));
    for (int clicks = 2; clicks <= e->o.max_clicks; clicks++) {
        for (int64_t m = 0; m < e->sam->M; m++) {
            static const struct distance_click none = { 0 };

            put_click(e, m, clicks, m < n ? e->target[begin + m].click + clicks - 1 : &none);
        }
        put_counts(e, clicks + 1);
        TRY(decode_and_score(e, begin, n, PASS_NEXT, clicks));
    }
    first_prompts(e, begin, n, true);
    return decode_and_score(e, begin, n, PASS_BOX, 0);
}

/* First clicks, and the answers that need no model. */
static void prepare_targets(struct eval *e)
{
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < e->n_targets; i++) {
        struct target *t = e->target + i;
        struct worker *k = e->worker + omp_get_thread_num();
        const struct distance_peak p = distance_peak(&k->distance, t->truth, e->h, e->w);
        const struct eval_trivial x = { .truth = t->truth,
                                        .h = e->h,
                                        .w = e->w,
                                        .extent = t->extent,
                                        .click_x = p.x,
                                        .click_y = p.y,
                                        .median_area = e->o.median_area };

        t->click[0] = (struct distance_click){ p.x, p.y, true, p.squared > 0 };
        eval_trivial(&x, t->row.score);
    }
}

/* ---- pictures ------------------------------------------------------------------------------- */
/* Photograph, answers after the last click with all clicks, truth; the largest masks, so that they can be seen. */
static enum status draw(struct eval *e, int64_t image)
{
    enum { DRAWN = 6 };
    struct picture part[3] = { 0 }, out = { 0 };
    const struct picture *const parts[3] = { part, part + 1, part + 2 };
    char path[CONFIG_TEXT + 64];
    enum status s = OK;

    for (int i = 0; s == OK && i < 3; i++) s = picture_resize(part + i, &e->decoded, e->h, e->w);
    for (int64_t i = 0; s == OK && i < e->n_targets && i < DRAWN; i++) {
        const struct target *t = e->target + i;

        overlay_mask(part + 1, t->guess, (int)i, 0.45f);
        overlay_mask(part + 2, t->truth, (int)i, 0.45f);
    }
    for (int64_t i = 0; s == OK && i < e->n_targets && i < DRAWN; i++)
        for (int k = 0; k < e->o.max_clicks; k++)
            if (e->target[i].click[k].found)
                overlay_point(part + 1, e->target[i].click[k].x, e->target[i].click[k].y,
                              e->target[i].click[k].positive);
    if (s == OK) s = overlay_beside(&out, parts, 3, 4);
    if (snprintf(path, sizeof path, "%s/image-%05lld.png", e->o.overlays, (long long)image) >=
        (int)sizeof path)
        KEEP_FIRST(s, status_fail(E_USAGE, __FILE__, __LINE__,
                                  "the path of the folder of overlays is too long"));
    if (s == OK) s = picture_write_png(path, &out);
    for (int i = 0; i < 3; i++) picture_destroy(part + i);
    picture_destroy(&out);
    return s;
}

/* ---- all images ----------------------------------------------------------------------------- */
static enum status keep_rows(struct eval *e)
{
    if (e->n_rows + e->n_targets > e->room_rows) {
        const int64_t wanted = 2 * (e->n_rows + e->n_targets);
        struct eval_row *row = realloc(e->row, (size_t)wanted * sizeof *row);

        if (!row) FAIL(E_MEMORY, "scores of %lld masks", (long long)wanted);
        e->row = row;
        e->room_rows = wanted;
    }
    for (int64_t i = 0; i < e->n_targets; i++) e->row[e->n_rows++] = e->target[i].row;
    return OK;
}

static enum status run_image(struct eval *e, int64_t image)
{
    TRY(load(e, image));
    if (e->n_targets == 0) return OK;
    TRY(prepare_workers(e));
    prepare_targets(e);
    TRY(sam_encode(e->sam, e->frame, e->new_h, e->new_w));
    for (int64_t begin = 0; begin < e->n_targets; begin += e->sam->M)
        TRY(run_chunk(e, begin,
                      e->n_targets - begin < e->sam->M ? e->n_targets - begin : e->sam->M));
    if (e->o.overlays && image < e->o.n_overlays) TRY(draw(e, image));
    return keep_rows(e);
}

static enum status write_csv(const struct eval *e, const struct eval_row *row, int64_t n)
{
    FILE *f = fopen(e->o.csv, "w");
    bool bad;

    if (!f) FAIL(E_IO, "cannot write %s: %s", e->o.csv, strerror(errno));
    fprintf(f, "image_id,mask,area");
    for (int k = 0; k < EVAL_N_SCORES; k++) fprintf(f, ",%s", keys[k]);
    fputc('\n', f);
    for (int64_t i = 0; i < n; i++) {
        fprintf(f, "%lld,%d,%lld", (long long)row[i].image_id, row[i].mask, (long long)row[i].area);
        for (int k = 0; k < EVAL_N_SCORES; k++)
            fprintf(f, isnan(row[i].score[k]) ? "," : ",%.6f", (double)row[i].score[k]);
        fputc('\n', f);
    }
    bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad) FAIL(E_IO, "cannot write %s: %s", e->o.csv, strerror(errno));
    return OK;
}

/* In the order of images and masks, in double: the same bits on any number of ranks. */
static void average(const struct eval_row *row, int64_t n, struct eval_scores *s)
{
    s->n_masks = n;
    for (int k = 0; k < EVAL_N_SCORES; k++) {
        double sum = 0;

        for (int64_t i = 0; i < n; i++) sum += (double)row[i].score[k];
        s->mean[k] = n ? sum / (double)n : NAN;
    }
}

static enum status gather(struct eval *e, struct comm *c, struct eval_scores *s)
{
    int64_t *counts = calloc((size_t)c->n_ranks, sizeof *counts), n = 0;
    struct eval_row *all = NULL;
    enum status r = OK;

    if (!counts) FAIL(E_MEMORY, "counts of %d ranks", c->n_ranks);
    counts[c->rank] = e->n_rows * (int64_t)sizeof *all;
    r = c->ops->all_reduce_sum(c, counts, c->n_ranks);
    for (int i = 0; i < c->n_ranks; i++) n += counts[i] / (int64_t)sizeof *all;
    if (r == OK) {
        all = malloc((size_t)(n ? n : 1) * sizeof *all);
        if (!all)
            r = status_fail(E_MEMORY, __FILE__, __LINE__, "scores of %lld masks", (long long)n);
    }
    if (r == OK) r = c->ops->all_gather_v(c, all, e->row, counts);
    if (r == OK) average(all, n, s);
    if (r == OK && e->o.csv && c->rank == 0) r = write_csv(e, all, n);
    free(all);
    free(counts);
    return r;
}

enum status eval_run(struct eval *e, struct comm *c, struct eval_scores *scores)
{
    const int64_t set = shard_set_images(e->o.set);
    const int64_t n = e->o.max_images > 0 && e->o.max_images < set ? e->o.max_images : set;
    const struct plan_range mine = plan_part(n, c->n_ranks, c->rank);

    *scores = (struct eval_scores){ .n_images = n };
    e->n_rows = 0;
    if (e->o.median_area <= 0) TRY(eval_median_area(e->o.set, e->o.config, &e->o.median_area));
    if (e->o.overlays && mkdir(e->o.overlays, 0777) != 0 && errno != EEXIST)
        FAIL(E_IO, "cannot make %s: %s", e->o.overlays, strerror(errno));
    for (int64_t i = mine.begin; i < mine.end; i++) {
        watchdog_feed("evaluating", i, 0);
        TRY(run_image(e, i));
        if (e->o.progress) e->o.progress(e->o.arg, i + 1 - mine.begin, mine.end - mine.begin);
    }
    return gather(e, c, scores);
}

enum status eval_median_area(const struct shard_set *set, const struct config *c, double *share)
{
    enum { IMAGES = 1000 };
    const int64_t n_images = shard_set_images(set) < IMAGES ? shard_set_images(set) : IMAGES;
    struct shard_buffer b = { 0 };
    double *all = NULL;
    int64_t n = 0, have = 0;
    enum status s = OK;

    for (int64_t i = 0; s == OK && i < n_images; i++) {
        struct shard_record r;
        double *more;

        s = shard_set_read(set, i, &b, &r);
        if (s != OK) break;
        more =
            n + r.n_masks > have ? realloc(all, (size_t)(2 * (n + r.n_masks)) * sizeof *all) : all;
        if (!more && n + r.n_masks > 0) {
            s = status_fail(E_MEMORY, __FILE__, __LINE__, "areas of %lld masks", (long long)n);
            break;
        }
        if (more != all) have = 2 * (n + r.n_masks);
        all = more;
        for (int64_t m = 0; m < r.n_masks; m++)
            if (passes(c, r.mask_area[m], &r))
                all[n++] = (double)r.mask_area[m] / ((double)r.height * r.width);
    }
    if (s == OK && n == 0)
        s = status_fail(E_CONFIG, __FILE__, __LINE__,
                        "no mask passes data.min_area, data.max_area and data.min_pixels");
    if (s == OK) *share = median(all, n);
    free(all);
    shard_buffer_destroy(&b);
    return s;
}

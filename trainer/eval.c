#include "trainer/eval.h"

#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cluster/plan.h"
#include "cluster/watchdog.h"
#include "kernels/base/check.h"
#include "trainer/eval_chunk.h"
#include "trainer/eval_trivial.h"
#include "trainer/eval_worker.h"
#include "trainer/median.h"

struct eval {
    struct eval_options o;
    struct sam *sam;
    struct eval_image image;
    struct eval_chunk chunk;
    struct eval_worker *worker; /* turn logits into pixels, mask by mask on all threads */
    int n_workers;
    struct eval_row *row; /* this rank's; grows */
    int64_t n_rows, room_rows;
};

const struct params *eval_params(const struct eval *e)
{
    return &e->sam->params;
}

static enum status create(struct eval *e)
{
    const struct config *c = e->o.config;
    const int64_t most = e->o.max_masks;
    const int64_t chunk = most > 0 && most < c->train_chunk ? most : c->train_chunk;

    TRY(sam_create(&e->sam, c, e->o.ops, chunk, 1 + EVAL_CLICKS, 0, false));
    TRY(eval_chunk_create(&e->chunk, e->sam));
    e->n_workers = omp_get_max_threads();
    e->worker = calloc((size_t)e->n_workers, sizeof *e->worker);
    if (!e->worker) FAIL(E_MEMORY, "%d threads of an evaluation", e->n_workers);
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
    for (int i = 0; e->worker && i < e->n_workers; i++) eval_worker_destroy(e->worker + i);
    free(e->worker);
    eval_chunk_destroy(&e->chunk);
    eval_image_destroy(&e->image);
    sam_destroy(e->sam);
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

/* ---- a mask's scores ------------------------------------------------------------------------ */
static float iou(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t both = 0, any = 0;

    for (int64_t i = 0; i < n; i++) {
        both += a[i] & b[i];
        any += a[i] | b[i];
    }
    return any ? (float)((double)both / (double)any) : 1;
}

/* What the decoder made of a chunk: logits (M,K,L,L), predicted IoU (M,K). */
struct answer {
    struct tensor logits, predicted;
};

/* Scores the K masks of chunk entry m against its target; keeps the one of highest predicted IoU as the guess, and to be
 * fed back, when keep. own: that one's IoU; best: the highest. */
static enum status score(struct eval *e, struct eval_worker *w, const struct answer *a, int64_t m,
                         bool keep, float *own, float *best)
{
    const struct eval_image *image = &e->image;
    const struct eval_target *t = image->target + e->chunk.begin + m;
    const int64_t K = a->logits.dim[1], L2 = a->logits.dim[2] * a->logits.dim[3];
    const int64_t area = (int64_t)image->h * image->w;
    const float *p = (const float *)a->predicted.data + m * K;
    const float *logits = (const float *)a->logits.data + m * K * L2;
    int64_t chosen = 0;

    *best = 0;
    for (int64_t i = 1; i < K; i++)
        if (p[i] > p[chosen]) chosen = i;
    for (int64_t i = 0; i < K; i++) {
        float value;

        TRY(eval_worker_guess(w, image, logits + i * L2));
        value = iou(w->guess, t->truth, area);
        if (value > *best) *best = value;
        if (i != chosen) continue;
        *own = value;
        if (keep) memcpy(t->guess, w->guess, (size_t)area);
    }
    if (keep) memcpy(e->chunk.mask + m * L2, logits + chosen * L2, (size_t)L2 * 4);
    return OK;
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

static enum status score_one(struct eval *e, struct eval_worker *w, const struct answer *a,
                             int64_t m, enum pass pass, int n_clicks)
{
    struct eval_target *t = e->image.target + e->chunk.begin + m;
    float own = 0, best;

    TRY(score(e, w, a, m, pass != PASS_BOX, &own, &best));
    if (pass == PASS_BOX) {
        t->row.score[EVAL_box] = own;
        t->row.score[EVAL_box_oracle] = best;
        return OK;
    }
    if (pass == PASS_FIRST) t->row.score[EVAL_oracle] = best;
    if (slot_of_clicks(n_clicks) >= 0) t->row.score[slot_of_clicks(n_clicks)] = own;
    t->row.n_clicks = n_clicks;
    if (n_clicks < e->o.max_clicks)
        t->click[n_clicks] =
            distance_click(&w->distance, t->truth, t->guess, e->image.h, e->image.w);
    return OK;
}

/* ---- an image ------------------------------------------------------------------------------- */
static enum status decode_and_score(struct eval *e, enum pass pass, int n_clicks)
{
    struct answer a;
    enum status worst = OK;

    TRY(eval_chunk_decode(&e->chunk, pass == PASS_NEXT ? SAM_NEXT : SAM_FIRST, &a.logits,
                          &a.predicted));
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t m = 0; m < e->chunk.n; m++) {
        const enum status s = score_one(e, e->worker + omp_get_thread_num(), &a, m, pass, n_clicks);

        if (s != OK) {
#pragma omp critical
            worst = s;
        }
    }
    return worst;
}

static enum status run_chunk(struct eval *e)
{
    eval_chunk_prompt_click(&e->chunk);
    TRY(decode_and_score(e, PASS_FIRST, 1));
    for (int clicks = 2; clicks <= e->o.max_clicks; clicks++) {
        eval_chunk_prompt_next(&e->chunk, clicks);
        TRY(decode_and_score(e, PASS_NEXT, clicks));
    }
    eval_chunk_prompt_box(&e->chunk);
    return decode_and_score(e, PASS_BOX, 0);
}

/* First clicks, and the answers that need no model. */
static void prepare_targets(struct eval *e)
{
    const struct eval_image *image = &e->image;

#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < image->n_targets; i++) {
        struct eval_target *t = image->target + i;
        struct eval_worker *w = e->worker + omp_get_thread_num();
        const struct distance_peak p = distance_peak(&w->distance, t->truth, image->h, image->w);
        const struct eval_trivial x = { .truth = t->truth,
                                        .h = image->h,
                                        .w = image->w,
                                        .extent = t->extent,
                                        .click_x = p.x,
                                        .click_y = p.y,
                                        .median_area = e->o.median_area };

        t->click[0] = (struct distance_click){ p.x, p.y, true, p.squared > 0 };
        eval_trivial(&x, t->row.score);
    }
}

static enum status keep_rows(struct eval *e)
{
    const struct eval_image *image = &e->image;

    if (e->n_rows + image->n_targets > e->room_rows) {
        const int64_t wanted = 2 * (e->n_rows + image->n_targets);
        struct eval_row *row = realloc(e->row, (size_t)wanted * sizeof *row);

        if (!row) FAIL(E_MEMORY, "scores of %lld masks", (long long)wanted);
        e->row = row;
        e->room_rows = wanted;
    }
    for (int64_t i = 0; i < image->n_targets; i++) e->row[e->n_rows++] = image->target[i].row;
    return OK;
}

static enum status draw(const struct eval *e, int64_t index)
{
    char path[CONFIG_TEXT + 64];

    if (snprintf(path, sizeof path, "%s/image-%05lld.png", e->o.overlays, (long long)index) >=
        (int)sizeof path)
        FAIL(E_USAGE, "the path of the folder of overlays is too long");
    return eval_image_draw(&e->image, path);
}

static enum status run_image(struct eval *e, int64_t index)
{
    struct eval_image *image = &e->image;
    const struct ops *ops = e->o.ops->host_memory ? e->o.ops : &ops_cpu;

    TRY(eval_image_load(image, e->o.config, e->o.set, index, e->o.max_masks));
    if (image->n_targets == 0) return OK;
    for (int i = 0; i < e->n_workers; i++)
        TRY(eval_worker_reserve(e->worker + i, ops, e->o.config->model_image_size, 4 * e->sam->H,
                                image));
    prepare_targets(e);
    TRY(sam_encode(e->sam, image->frame, image->new_h, image->new_w));
    for (int64_t begin = 0; begin < image->n_targets; begin += e->sam->M) {
        const int64_t left = image->n_targets - begin;

        eval_chunk_take(&e->chunk, image, begin, left < e->sam->M ? left : e->sam->M);
        TRY(run_chunk(e));
    }
    if (e->o.overlays && index < e->o.n_overlays) TRY(draw(e, index));
    return keep_rows(e);
}

/* ---- all images ----------------------------------------------------------------------------- */
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
    return eval_score_gather(c, e->row, e->n_rows, e->o.csv, scores);
}

enum status eval_median_area(const struct shard_set *set, const struct config *c, double *share)
{
    enum { IMAGES = 1000 };
    const int64_t n_images = shard_set_images(set) < IMAGES ? shard_set_images(set) : IMAGES;
    struct shard_buffer b = { 0 };
    double *all;
    int64_t n = 0, most = 0;
    enum status s = OK;

    for (int64_t i = 0; i < n_images; i++) most += shard_set_record_masks(set, i);
    all = malloc((size_t)(most + 1) * sizeof *all);
    if (!all) FAIL(E_MEMORY, "areas of %lld masks", (long long)most);
    for (int64_t i = 0; s == OK && i < n_images; i++) {
        struct shard_record r;

        s = shard_set_read(set, i, &b, &r);
        for (int64_t m = 0; s == OK && m < r.n_masks; m++)
            if (eval_image_takes(c, &r, m))
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

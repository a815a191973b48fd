#include "trainer/eval_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data_pipeline/order.h"
#include "trainer/overlay.h"
#include "trainer/room.h"

void eval_image_destroy(struct eval_image *e)
{
    if (!e) return;
    shard_buffer_destroy(&e->record);
    picture_destroy(&e->decoded);
    picture_destroy(&e->fitted);
    free(e->frame);
    free(e->target);
    free(e->pixels);
    free(e->runs);
    free(e->chosen);
    *e = (struct eval_image){ 0 };
}

bool eval_image_takes(const struct config *c, const struct shard_record *r, int64_t i)
{
    const int64_t area = r->mask_area[i];
    const double share = (double)area / ((double)r->height * r->width);

    return area >= c->data_min_pixels && share >= c->data_min_area && share <= c->data_max_area;
}

static enum status load_pixels(struct eval_image *e, const struct config *c,
                               const struct shard_record *r)
{
    static const uint8_t mean[3] = { 124, 116, 104 }; /* rounded, as the loader has it */
    const int32_t S = (int32_t)c->model_image_size;
    const int64_t n = (int64_t)S * S * 3;
    const char *why;

    if (picture_decode(r->image, r->image_bytes, S, &e->decoded, &why) != OK)
        FAIL(E_CORRUPT, "image %lld: %s", (long long)r->image_id, why);
    e->h = r->height;
    e->w = r->width;
    picture_fit(r->height, r->width, S, &e->new_h, &e->new_w);
    TRY(picture_resize(&e->fitted, &e->decoded, e->new_h, e->new_w));
    TRY(room_reserve(&e->frame, &e->frame_room, n, 1));
    memset(e->frame, 0, (size_t)n);
    for (int32_t y = 0; y < e->new_h; y++)
        memcpy(e->frame + (int64_t)y * S * 3, e->fitted.rgb + (int64_t)y * e->new_w * 3,
               (size_t)e->new_w * 3);
    for (int64_t i = 0; c->data_blind && i < n; i += 3) memcpy(e->frame + i, mean, 3);
    return OK;
}

static enum status load_target(struct eval_image *e, const struct shard_record *r, int32_t mask,
                               struct eval_target *t)
{
    const int64_t begin = mask ? r->mask_end[mask - 1] : 0, n = r->mask_end[mask] - begin;
    int64_t n_runs;
    const char *why;

    TRY(room_reserve(&e->runs, &e->runs_room, rle_max_runs(n), sizeof *e->runs));
    if (rle_decode(r->mask_text + begin, n, e->h, e->w, e->runs, e->runs_room, &n_runs, &why) != OK)
        FAIL(E_CORRUPT, "image %lld mask %d: %s", (long long)r->image_id, mask, why);
    rle_to_pixels(e->runs, n_runs, e->h, e->w, t->truth);
    t->extent = rle_extent(e->runs, n_runs, e->h);
    t->row = (struct eval_row){ .image_id = r->image_id, .area = t->extent.area, .mask = mask };
    for (int i = 0; i < EVAL_N_SCORES; i++) t->row.score[i] = NAN;
    return OK;
}

enum status eval_image_load(struct eval_image *e, const struct config *c,
                            const struct shard_set *set, int64_t index, int64_t max_masks)
{
    struct shard_record r;
    int64_t n = 0, area;
    int32_t *taken;

    TRY(shard_set_read(set, index, &e->record, &r));
    TRY(load_pixels(e, c, &r));
    TRY(room_reserve(&e->chosen, &e->chosen_room, 2 * r.n_masks, sizeof *e->chosen));
    taken = e->chosen + r.n_masks;
    for (int64_t i = 0; i < r.n_masks; i++)
        if (eval_image_takes(c, &r, i)) e->chosen[n++] = (int32_t)i;
    e->n_targets = order_masks((uint64_t)c->train_seed, (struct order_place){ 0, index }, n,
                               max_masks > 0 && max_masks < n ? max_masks : n, taken);
    area = (int64_t)e->h * e->w;
    TRY(room_reserve(&e->target, &e->target_room, e->n_targets, sizeof *e->target));
    TRY(room_reserve(&e->pixels, &e->pixels_room, 2 * e->n_targets * area, 1));
    for (int64_t i = 0; i < e->n_targets; i++) {
        e->target[i] = (struct eval_target){ .truth = e->pixels + 2 * i * area,
                                             .guess = e->pixels + (2 * i + 1) * area };
        TRY(load_target(e, &r, e->chosen[taken[i]], e->target + i));
    }
    return OK;
}

enum status eval_image_draw(const struct eval_image *e, const char *path)
{
    enum { DRAWN = 6 };
    struct picture part[3] = { 0 }, out = { 0 };
    const struct picture *const parts[3] = { part, part + 1, part + 2 };
    const int64_t n = e->n_targets < DRAWN ? e->n_targets : DRAWN;
    enum status s = OK;

    for (int i = 0; s == OK && i < 3; i++) s = picture_resize(part + i, &e->decoded, e->h, e->w);
    for (int64_t i = 0; s == OK && i < n; i++) {
        overlay_mask(part + 1, e->target[i].guess, (int)i, 0.45f);
        overlay_mask(part + 2, e->target[i].truth, (int)i, 0.45f);
    }
    for (int64_t i = 0; s == OK && i < n; i++)
        for (int k = 0; k < EVAL_CLICKS; k++) {
            const struct distance_click *c = e->target[i].click + k;

            if (c->found) overlay_point(part + 1, c->x, c->y, c->positive);
        }
    if (s == OK) s = overlay_beside(&out, parts, 3, 4);
    if (s == OK) s = picture_write_png(path, &out);
    for (int i = 0; i < 3; i++) picture_destroy(part + i);
    picture_destroy(&out);
    return s;
}

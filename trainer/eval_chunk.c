#include "trainer/eval_chunk.h"

#include <stdlib.h>
#include <string.h>

#include "trainer/staging.h"

/* The host's side of tensor t: t itself, or room for a copy. */
static enum status host_side(struct eval_chunk *c, struct tensor t, int room, void *of)
{
    void *p;

    TRY(staging_room(c->sam->ops, tensor_bytes(t), &c->room[room]));
    p = c->room[room] ? c->room[room] : t.data;
    memcpy(of, &p, sizeof p); /* of is the address of some pointer, of whatever type */
    return OK;
}

enum status eval_chunk_create(struct eval_chunk *c, struct sam *s)
{
    const struct sam_prompts *p = s->prompts;

    c->sam = s;
    TRY(host_side(c, p->coords, 0, &c->coords));
    TRY(host_side(c, p->labels, 1, &c->labels));
    TRY(host_side(c, p->n_points, 2, &c->n_points));
    TRY(host_side(c, p->n_tokens, 3, &c->n_tokens));
    TRY(host_side(c, p->mask, 4, &c->mask));
    TRY(staging_room(s->ops, tensor_bytes(p->mask) * MASK_TOKENS, &c->logits_room));
    return staging_room(s->ops, s->M * MASK_TOKENS * 4, &c->iou_room);
}

void eval_chunk_destroy(struct eval_chunk *c)
{
    if (!c) return;
    for (int i = 0; i < EVAL_CHUNK_ROOMS; i++) free(c->room[i]);
    free(c->logits_room);
    free(c->iou_room);
    *c = (struct eval_chunk){ 0 };
}

void eval_chunk_take(struct eval_chunk *c, const struct eval_image *image, int64_t begin, int64_t n)
{
    c->image = image;
    c->begin = begin;
    c->n = n;
}

/* ---- prompts ---------------------------------------------------------------------------------- */
/* Point (x,y) of the original image, in pixels whose centres are halves, in the frame, whose are whole. */
static void put_point(struct eval_chunk *c, int64_t m, int slot, double x, double y, int32_t label)
{
    const struct eval_image *e = c->image;
    const int64_t i = m * c->sam->P + slot;

    c->coords[2 * i] = (float)(x * e->new_w / e->w - 0.5);
    c->coords[2 * i + 1] = (float)(y * e->new_h / e->h - 0.5);
    c->labels[i] = label;
}

static void put_padding(struct eval_chunk *c, int64_t m, int slot)
{
    const int64_t i = m * c->sam->P + slot;

    c->coords[2 * i] = c->coords[2 * i + 1] = 0;
    c->labels[i] = -1;
}

static void put_click(struct eval_chunk *c, int64_t m, int slot, const struct distance_click *k)
{
    if (k->found)
        put_point(c, m, slot, k->x + 0.5, k->y + 0.5, k->positive);
    else
        put_padding(c, m, slot);
}

static void put_counts(struct eval_chunk *c, int n_points)
{
    for (int64_t m = 0; m < c->sam->M; m++) {
        c->n_points[m] = n_points;
        c->n_tokens[m] = (int32_t)mask_decoder_tokens(n_points);
    }
}

/* Padding for every entry, then what is there for those that are a target. */
static void put_first(struct eval_chunk *c, bool box)
{
    for (int64_t m = 0; m < c->sam->M; m++)
        for (int slot = 0; slot < 2; slot++) put_padding(c, m, slot);
    for (int64_t m = 0; m < c->n; m++) {
        const struct eval_target *t = c->image->target + c->begin + m;

        if (box) {
            put_point(c, m, 0, t->extent.x0, t->extent.y0, 2);
            put_point(c, m, 1, t->extent.x1, t->extent.y1, 3);
        } else {
            put_click(c, m, 0, t->click);
        }
    }
    put_counts(c, 2);
}

void eval_chunk_prompt_click(struct eval_chunk *c)
{
    put_first(c, false);
}

void eval_chunk_prompt_box(struct eval_chunk *c)
{
    put_first(c, true);
}

void eval_chunk_prompt_next(struct eval_chunk *c, int clicks)
{
    for (int64_t m = 0; m < c->sam->M; m++)
        if (m < c->n)
            put_click(c, m, clicks, c->image->target[c->begin + m].click + clicks - 1);
        else
            put_padding(c, m, clicks);
    put_counts(c, clicks + 1);
}

/* ---- the decoder ------------------------------------------------------------------------------ */
/* What the host's side holds to the device, where they are not one. */
static enum status put_prompts(struct eval_chunk *c, bool fed_back)
{
    struct sam *s = c->sam;
    const struct sam_prompts *p = s->prompts;
    const struct tensor to[EVAL_CHUNK_ROOMS] = { p->coords, p->labels, p->n_points, p->n_tokens,
                                                 p->mask };

    for (int i = 0; i < (fed_back ? EVAL_CHUNK_ROOMS : EVAL_CHUNK_ROOMS - 1); i++)
        if (c->room[i]) TRY(s->ops->put(to[i].data, c->room[i], tensor_bytes(to[i]), &s->stream));
    return OK;
}

static enum status read_back(struct sam *s, struct tensor *t, void *room)
{
    const void *host;

    TRY(staging_read(s->ops, &s->stream, t->data, tensor_bytes(*t), room, &host));
    t->data = (void *)(uintptr_t)host;
    return OK;
}

enum status eval_chunk_decode(struct eval_chunk *c, enum sam_round round, struct tensor *logits,
                              struct tensor *iou)
{
    TRY(put_prompts(c, round == SAM_NEXT));
    TRY(sam_decode(c->sam, round, 0, logits, iou));
    TRY(read_back(c->sam, logits, c->logits_room));
    return read_back(c->sam, iou, c->iou_room);
}

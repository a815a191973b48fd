#include "trainer/history.h"

#include <stdlib.h>

#include "kernels/base/check.h"

enum status history_create(struct history *h, int64_t slots, int64_t chunks, int64_t rounds,
                           int64_t M)
{
    const size_t S = (size_t)slots, E = S * (size_t)(chunks * rounds), m = (size_t)M;

    h->M = M;
    h->slots = slots;
    h->chunks = chunks;
    h->host_value = calloc(E * m * HISTORY_VALUES, sizeof *h->host_value);
    h->host_selected = calloc(E * m, sizeof *h->host_selected);
    if (!h->host_value || !h->host_selected) FAIL(E_MEMORY, "the losses of a step");
    for (int i = 0; i < 2; i++) {
        struct history_step *step = h->step + i;

        step->entry = calloc(E, sizeof *step->entry);
        step->slot = calloc(S, sizeof *step->slot);
        step->candidates = calloc(S * (size_t)chunks * 2 * m, sizeof *step->candidates);
        if (!step->entry || !step->slot || !step->candidates)
            FAIL(E_MEMORY, "the losses of a step");
    }
    return OK;
}

void history_destroy(struct history *h)
{
    for (int i = 0; i < 2; i++) {
        free(h->step[i].entry);
        free(h->step[i].slot);
        free(h->step[i].candidates);
    }
    free(h->host_value);
    free(h->host_selected);
}

enum status history_begin(struct history *h, const struct ops *ops, struct stream *s)
{
    struct history_step *step = h->step + h->queued;

    step->n = 0;
    step->n_slots = 0;
    return ops->zero(h->value.data, tensor_bytes(h->value), s);
}

void history_add_slot(struct history *h, int64_t n_masks)
{
    struct history_step *step = h->step + h->queued;

    ASSERT(step->n_slots < h->slots);
    step->slot[step->n_slots++] = (struct history_slot){ .n_masks = n_masks, .end = step->n };
}

static int32_t *candidates_at(const struct history *h, const struct history_step *step,
                              int64_t slot, int64_t chunk)
{
    return step->candidates + (slot * h->chunks + chunk) * 2 * h->M;
}

int32_t *history_candidates(struct history *h, int64_t chunk)
{
    const struct history_step *step = h->step + h->queued;

    return candidates_at(h, step, step->n_slots - 1, chunk);
}

void history_add(struct history *h, struct history_entry e, struct tensor *value,
                 struct tensor *selected)
{
    struct history_step *step = h->step + h->queued;
    const int64_t at = step->n++;

    step->entry[at] = e;
    step->slot[step->n_slots - 1].end = step->n;
    *value = tensor_3d((float *)h->value.data + at * h->M * HISTORY_VALUES, F32, h->M, e.K,
                       MASK_LOSS_VALUES);
    *selected = tensor_1d((int32_t *)h->selected.data + at * h->M, I32, h->M);
}

void history_launched(struct history *h)
{
    h->queued = !h->queued;
}

/* Of the IoU head over mask m's candidates, those of its chunk. value: the mask's (K,4). */
static double mean_error(const int32_t *candidates, const struct history_entry *e, int64_t m,
                         const float *value)
{
    const struct candidates c =
        candidates_of(e->among ? candidates : NULL, m, e->only_first ? 1 : e->K);
    double sum = 0;

    for (int64_t k = c.begin; k < c.end; k++)
        sum += (double)value[k * MASK_LOSS_VALUES + MASK_LOSS_ERR];
    return sum / (double)(c.end - c.begin);
}

/* Of the step's entry `at`, one of the slot's. */
static void add_losses(const struct history *h, const struct history_step *step, int64_t slot,
                       int64_t at, bool iou_all, struct objective_losses *sum)
{
    const struct history_entry *e = step->entry + at;
    const int32_t *candidates = candidates_at(h, step, slot, e->chunk);

    for (int64_t m = 0; m < e->n_valid; m++) {
        const float *of_mask =
            h->host_value + at * h->M * HISTORY_VALUES + m * e->K * MASK_LOSS_VALUES;
        const float *v = of_mask + h->host_selected[at * h->M + m] * MASK_LOSS_VALUES;

        sum->focal += v[MASK_LOSS_FOCAL];
        sum->dice += v[MASK_LOSS_DICE];
        sum->iou_error +=
            iou_all ? mean_error(candidates, e, m, of_mask) : (double)v[MASK_LOSS_ERR];
        if (e->first) sum->iou_first += v[MASK_LOSS_IOU];
        if (e->last) sum->iou_last += v[MASK_LOSS_IOU];
    }
}

enum status history_losses(struct history *h, bool iou_all, struct objective_losses *losses,
                           const struct ops *ops, struct stream *s)
{
    const struct history_step *step = h->step + !h->queued;
    int64_t at = 0;

    if (step->n > 0) {
        TRY(ops->get(h->host_value, h->value.data, step->n * h->M * HISTORY_VALUES * 4, s));
        TRY(ops->get(h->host_selected, h->selected.data, step->n * h->M * 4, s));
    }
    for (int64_t i = 0; i < step->n_slots; i++) {
        losses[i] = (struct objective_losses){ .n_masks = step->slot[i].n_masks };
        for (; at < step->slot[i].end; at++) add_losses(h, step, i, at, iou_all, losses + i);
    }
    return OK;
}

enum status history_squares(struct history *h, struct tensor squares, const struct ops *ops,
                            struct stream *s)
{
    const int64_t n = h->step[h->queued].n * h->M * HISTORY_VALUES;

    return ops->grad_norm(squares, tensor_1d(h->value.data, F32, n), s);
}
